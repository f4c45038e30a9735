"""
The tasks of an administrator's day: logs, rotation, sockets, certificates, backups.

C{python3 -m tests.packaging.system.upkeep}, as root where the package is installed.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from tests.packaging.system.installed import (
    PORT,
    SERVICE,
    SOCKET,
    ask,
    assert_none_cut_off,
    cursor,
    load,
    move_socket,
    run,
    serving,
    shown,
    until_another_serves,
)
from tests.packaging.system.wrong import CONFIG, caller_gets, more
from tests.support.daemon import TIMEOUT_SECONDS, wait_until
from tests.support.stores import make_long_store

LOG = Path("/var/log/pexservice/access.log")
BACKUPS = Path("/var/backups/pexservice")
METRICS = Path("/var/lib/pexservice-backup/pexservice_backup.prom")
SECOND = 8082
TLS = Path("/etc/pexservice/tls")

#: The rows of a store whose verification takes longer than systemd is told to wait for a
#: start, and how long that is.  Seconds.
ROWS = 4_000_000
PATIENCE_OF_SYSTEMD = 4


def journal(*options: str) -> str:
    """
    Return what the service has written to the journal, since the machine booted.
    """
    return run("journalctl", "--output=cat", f"--unit={SERVICE}", *options)


def lines() -> None:
    """
    Check that a line has one prefix, its priority and the package's name.

    Check also that the first start after the installation complained of nothing.
    """
    log = journal()
    assert re.search(r"(?m)^worker-\d+ info: the cursor is at revision", log)
    assert re.search(r"(?m)^supervisor info: worker-1 serves$", log)
    assert "plugin cache" not in log
    # systemd warns of a variable that a unit uses and nobody has set.
    assert "PEXSERVICE_OPTIONS" not in log
    assert "[pexservice." not in log
    entry = json.loads(
        run("journalctl", "--output=json", "--lines=1", "--identifier=pexservice")
    )
    assert entry["_SYSTEMD_UNIT"] == SERVICE
    assert entry["PRIORITY"] == "6"


def access_log() -> None:
    """
    Rotate the log ten times under load, each time with a reload.

    There are as many lines in all files as there were answers.
    """
    kept = CONFIG.read_text()
    more(f'access-log = "{LOG}"\n')()
    run("systemctl", "reload", SERVICE)
    before = sum(count(log_file) for log_file in LOG.parent.glob("access.log*"))
    with load() as clients:
        for _ in range(10):
            # An empty file would not be moved, and lines are written once a second.
            wait_until(lambda: LOG.exists() and LOG.stat().st_size > 0, "lines are there")
            run("logrotate", "--force", "/etc/logrotate.d/pexservice")
    assert_none_cut_off(clients)
    answers = sum(len(client.acknowledged) for client in clients)
    # A worker writes at the end of a second; a reload ends the workers that have lines.
    run("systemctl", "reload", SERVICE)
    files = list(LOG.parent.glob("access.log*"))
    assert len(files) == 11
    written = sum(count(file) for file in files) - before
    print(
        f"{written} lines of steps for {answers} answers, in {len(files)} files", flush=True
    )
    assert written == answers
    owner = LOG.stat()
    assert (LOG.owner(), owner.st_mode & 0o777) == ("pexservice", 0o640)
    CONFIG.write_text(kept)
    run("systemctl", "reload", SERVICE)


def access_log_in_the_journal() -> None:
    """
    Write the access log to the journal: a line has its level as priority and no prefix.
    """
    kept = CONFIG.read_text()
    more('access-log = "-"\n')()
    run("systemctl", "reload", SERVICE)
    agent = "an-agent-that-is-looked-for"
    url = f"http://127.0.0.1:{PORT}/next"
    run("curl", "--silent", "--user-agent", agent, "--request", "POST", url)
    wait_until(lambda: agent in journal(), "the journal has the line")
    # The search of docs/operations.md finds it.
    output = journal("--output=json", "-g", '" [0-9]{3} [0-9]+ ')
    entries = map(json.loads, output.splitlines())
    (entry,) = [entry for entry in entries if agent in entry["MESSAGE"]]
    line = rf'"127\.0\.0\.1" - - \[.+\] "POST /next HTTP/1\.1" 200 \d+ "-" "{agent}"'
    assert re.fullmatch(line, entry["MESSAGE"]), entry
    assert (entry["PRIORITY"], entry["_SYSTEMD_UNIT"]) == ("6", SERVICE)
    CONFIG.write_text(kept)
    run("systemctl", "reload", SERVICE)


def count(path: Path) -> int:
    """
    Count the steps in one file of the access log.
    """
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return len(re.findall(rb'"POST /\w+ HTTP/1\.1" 200 ', data))


def two_sockets() -> None:
    """
    Give the socket unit two addresses, which both answer.

    A datagram socket is refused with a reason.
    """
    dropin = Path("/run/systemd/system/pexservice.socket.d/second.conf")
    dropin.parent.mkdir(parents=True)
    try:
        dropin.write_text(f"[Socket]\nListenStream=127.0.0.1:{SECOND}\n")
        # More often than systemd allows by default.
        for _ in range(7):
            move_socket()
        for port in (PORT, SECOND):
            url = f"http://127.0.0.1:{port}/livez"
            assert run("curl", "--silent", "--max-time", "20", url) == "ok\n"
        dropin.write_text(f"[Socket]\nListenDatagram=127.0.0.1:{SECOND}\n")
        run("systemctl", "daemon-reload")
        run("systemctl", "stop", SERVICE)
        # The socket closes when the service has ended, and has to be opened anew.
        wait_until(lambda: shown("ActiveState", SOCKET) == "inactive", "it is closed")
        run("systemctl", "start", SERVICE, status=1)
        assert "ListenStream= only" in shown("StatusText")
    finally:
        shutil.rmtree(dropin.parent)
        run("systemctl", "daemon-reload")
        run("systemctl", "reset-failed", SERVICE, SOCKET)
        run("systemctl", "start", SERVICE)
    assert ask("/livez")[0].status == 200


def stays_stopped() -> None:
    """
    Stop the service under traffic.

    It stays stopped.  A client that calls is refused, and starts nothing.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE)
    wait_until(lambda: shown("ActiveState", SOCKET) == "inactive", "the socket is closed")
    for _ in range(20):
        assert caller_gets() == "Connection refused"
    assert (shown("ActiveState"), shown("ActiveState", SOCKET)) == ("inactive", "inactive")
    run("systemctl", "disable", "--now", SERVICE)
    run("systemctl", "enable", "--now", SERVICE)
    assert cursor() == before


def a_worker_of_the_kernel() -> None:
    """
    Kill one worker, which takes no other with it.
    """
    assert shown("OOMPolicy") == "continue"
    restarts = shown("NRestarts")
    worker = serving()
    os.kill(worker, signal.SIGKILL)
    until_another_serves(worker)
    assert shown("NRestarts") == restarts


def certificate(name: str, place: Path) -> None:
    """
    Make a certificate for C{name} and its key.
    """
    place.mkdir(parents=True, exist_ok=True)
    run(
        *(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ),
        *(
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
        ),
        *("-keyout", str(place / "privkey.pem"), "-out", str(place / "fullchain.pem")),
    )


def served_certificate() -> str:
    """
    Return the subject of the certificate that a caller is shown.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", PORT), TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain) as secure,
    ):
        shown_to_us = secure.getpeercert(binary_form=True)
    assert shown_to_us is not None
    Path("/run/served.pem").write_text(ssl.DER_cert_to_PEM_cert(shown_to_us))
    return run("openssl", "x509", "-noout", "-subject", "-in", "/run/served.pem").strip()


def tls() -> None:
    """
    Renew a certificate by a hook of certbot's, which hands it over.

    The service shows the new certificate, with no failed request.  A broken certificate is
    refused, reported, and not served.
    """
    kept = CONFIG.read_text()
    lineage = Path("/etc/letsencrypt/live/pex.example.org")
    hook = Path("/etc/letsencrypt/renewal-hooks/deploy/pexservice")
    hook.parent.mkdir(parents=True)
    examples = Path("/usr/share/doc/pexservice/examples")
    shutil.copy(examples / "certbot" / "pexservice", hook)
    hook.chmod(0o755)
    renewed = ("env", f"RENEWED_LINEAGE={lineage}", str(hook))
    try:
        certificate("first", lineage)
        run(*renewed)
        more('tls-certificate = "tls/fullchain.pem"\ntls-key = "tls/privkey.pem"\n')()
        run("systemctl", "reload", SERVICE)
        assert served_certificate() == "subject=CN=first"
        assert (TLS.group(), (TLS / "privkey.pem").group()) == ("pexservice", "pexservice")
        assert (TLS / "privkey.pem").stat().st_mode & 0o777 == 0o640
        certificate("second", lineage)
        run(*renewed)
        assert served_certificate() == "subject=CN=second"
        (lineage / "fullchain.pem").write_text("nonsense\n")
        run(*renewed, status=1)
        assert served_certificate() == "subject=CN=second"
    finally:
        CONFIG.write_text(kept)
        run("systemctl", "restart", SERVICE)
        for directory in (lineage, hook.parent, TLS):
            shutil.rmtree(directory)


def credentials() -> None:
    """
    Have systemd hand over files that the service's user may not read.

    They are a certificate and tokens.
    """
    kept = CONFIG.read_text()
    place, tokens = Path("/root/tls"), Path("/root/tokens")
    certificate("credential", place)
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    given = "/run/credentials/pexservice.service"
    dropin = Path("/run/systemd/system/pexservice.service.d/credentials.conf")
    dropin.parent.mkdir(parents=True)
    dropin.write_text(
        "[Service]\n"
        f"LoadCredential=fullchain.pem:{place}/fullchain.pem\n"
        f"LoadCredential=privkey.pem:{place}/privkey.pem\n"
        f"LoadCredential=tokens:{tokens}\n"
    )
    more(
        f'tls-certificate = "{given}/fullchain.pem"\ntls-key = "{given}/privkey.pem"\n'
        f'token-file = "{given}/tokens"\n'
    )()
    try:
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", SERVICE)
        assert served_certificate() == "subject=CN=credential"
        url = f"https://127.0.0.1:{PORT}/next"
        step = (
            "curl",
            "--silent",
            "--insecure",
            "--request",
            "POST",
            "--output",
            "/dev/null",
        )
        wanted = ("--write-out", "%{http_code}", url)
        assert run(*step, *wanted) == "401"
        assert run(*step, *wanted, "--header", "Authorization: Bearer secret") == "200"
    finally:
        CONFIG.write_text(kept)
        shutil.rmtree(dropin.parent)
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", SERVICE)


def backups() -> None:
    """
    Enable the backup timer, which is off until then.

    Its service makes verified backups beside the service that runs, and reports the
    outcome.  One backup is restored with its time.
    """
    assert shown("UnitFileState", "pexservice-backup.timer") == "disabled"
    run("systemctl", "enable", "--now", "pexservice-backup.timer")
    assert shown("ActiveState", "pexservice-backup.timer") == "active"
    with load() as clients:
        run("systemctl", "start", "pexservice-backup.service")
    assert_none_cut_off(clients)
    assert (
        'pexservice_backup_failed{store="/var/lib/pexservice"} 0.0\n' in METRICS.read_text()
    )
    assert METRICS.stat().st_mode & 0o777 == 0o644
    (backup,) = BACKUPS.iterdir()
    run("runuser", "-u", "pexservice", "--", "pexctl", "verify", str(backup))
    ask("/reset", "POST")
    seen = cursor().revision

    refused = ("pexctl", "restore", str(backup), "--to", "/var/lib/pexservice")
    assert "stop the service first" in run(*refused, status=1)
    began = time.monotonic()
    run("systemctl", "stop", SERVICE)
    stopped = time.monotonic()
    print(run(*refused, "--beyond", str(seen)), end="", flush=True)
    restored = time.monotonic()
    run("systemctl", "start", SERVICE)
    assert cursor().revision > seen
    ends = time.monotonic()
    print(
        f"restored in {ends - began:.2f} s: stop {stopped - began:.2f}, pexctl restore"
        f" {restored - stopped:.2f}, start and first answer {ends - restored:.2f}",
        flush=True,
    )
    store = Path("/var/lib/pexservice")
    assert {(path.owner(), path.group()) for path in (store, *store.iterdir())} == {
        ("pexservice", "pexservice")
    }
    assert cursor().position > 0

    # A lost machine: all of the store is gone.
    run("systemctl", "stop", SERVICE)
    for file in store.iterdir():
        file.unlink()
    run("pexctl", "restore", str(backup), "--to", str(store), "--beyond", str(seen + 10))
    run("systemctl", "start", SERVICE)
    assert cursor().revision > seen + 10
    run("systemctl", "disable", "--now", "pexservice-backup.timer")
    for backup in BACKUPS.iterdir():
        shutil.rmtree(backup)
    # These stay: a purge removes them.
    assert [*store.parent.glob("pexservice.before-*")] != []


def moved_store() -> None:
    """
    Move the store to another disk, as docs/operations.md has it.

    One line of the configuration file moves the service and its backups.
    """
    kept = CONFIG.read_text()
    before = cursor()
    place = Path("/srv/pexservice")
    dropins = [
        Path(f"/run/systemd/system/{unit}.service.d/store.conf")
        for unit in ("pexservice", "pexservice-backup")
    ]
    for dropin in dropins:
        dropin.parent.mkdir(parents=True)
        dropin.write_text(
            f"[Unit]\nRequiresMountsFor={place}\n[Service]\nReadWritePaths={place}\n"
        )
    run("systemctl", "stop", SERVICE)
    try:
        run("pexctl", "backup", "/var/lib/pexservice", str(place))
        run("chown", "-R", "pexservice:pexservice", str(place))
        CONFIG.write_text(kept.replace("lmdb:/var/lib/pexservice", f"lmdb:{place}"))
        run("systemctl", "daemon-reload")
        run("systemctl", "start", SERVICE)
        assert cursor() == before
        ask("/next", "POST")
        run("systemctl", "start", "pexservice-backup.service")
        newest = max(BACKUPS.iterdir())
        assert f"revision {before.revision + 1}," in run("pexctl", "verify", str(newest))
        shutil.rmtree(newest)
    finally:
        run("systemctl", "stop", SERVICE)
        CONFIG.write_text(kept)
        shutil.rmtree(place, ignore_errors=True)
        for dropin in dropins:
            shutil.rmtree(dropin.parent)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", SERVICE)


def behind_nginx() -> None:
    """
    Listen on a Unix socket for nginx's user alone, by the drop-in that is shipped.
    """
    dropin = Path("/run/systemd/system/pexservice.socket.d/nginx.conf")
    dropin.parent.mkdir(parents=True)
    shutil.copy("/usr/share/doc/pexservice/examples/nginx/pexservice.socket.conf", dropin)
    there = "/run/pexservice/http.sock"
    request = ("curl", "--silent", "--unix-socket", there, "http://localhost/livez")
    try:
        move_socket()
        assert run("runuser", "-u", "www-data", "--", *request) == "ok\n"
        # curl's status for a connection that is refused.
        run("runuser", "-u", "nobody", "--", *request, status=7)
        assert caller_gets() == "Connection refused"
    finally:
        shutil.rmtree(dropin.parent)
        move_socket()
    assert ask("/livez")[0].status == 200


def long_verification() -> None:
    """
    Start with a verification that takes longer than systemd waits for a start.

    The start is not given up, progress puts the end off, and the status tells the progress.
    """
    store, kept = Path("/var/lib/pexservice"), Path("/var/lib/pexservice.kept")
    dropin = Path("/run/systemd/system/pexservice.service.d/patience.conf")
    dropin.parent.mkdir(parents=True)
    dropin.write_text(f"[Service]\nTimeoutStartSec={PATIENCE_OF_SYSTEMD}\n")
    run("systemctl", "stop", SERVICE)
    store.rename(kept)
    try:
        make_long_store(store, ROWS)
        run("chown", "-R", "pexservice:pexservice", str(store))
        run("systemctl", "daemon-reload")
        began, statuses = time.monotonic(), set()
        with subprocess.Popen(["/usr/bin/systemctl", "start", SERVICE]) as starting:
            while starting.poll() is None:
                statuses.add(shown("StatusText"))
                time.sleep(0.1)
        took = time.monotonic() - began
        progress = [
            status for status in statuses if re.fullmatch(r"verifying.*\d+ %", status)
        ]
        print(
            f"verified and started in {took:.1f} s, told {len(progress)} times", flush=True
        )
        assert starting.returncode == 0
        assert took > PATIENCE_OF_SYSTEMD
        assert len(progress) > 1
        assert (cursor().revision, shown("NRestarts")) == (ROWS, "0")
    finally:
        run("systemctl", "stop", SERVICE)
        shutil.rmtree(store)
        kept.rename(store)
        shutil.rmtree(dropin.parent)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", SERVICE)


def main() -> None:
    """
    Run the test.
    """
    for scenario in (
        *(
            lines,
            access_log,
            access_log_in_the_journal,
            two_sockets,
            stays_stopped,
            a_worker_of_the_kernel,
        ),
        *(tls, credentials, backups, moved_store, behind_nginx, long_verification),
    ):
        print(scenario.__name__, flush=True)
        scenario()


if __name__ == "__main__":
    main()
