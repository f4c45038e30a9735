"""
The tasks of an administrator: logs, rotation, sockets, certificates, backups.

C{python3 -m tests.packaging.system.upkeep}, as root where the package is installed.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import ssl
import subprocess
import time
from pathlib import Path

from tests.packaging.system.installed import (
    CONFIG,
    PORT,
    SERVICE,
    SOCKET,
    append_to_config,
    ask,
    cursor,
    drop_in,
    moved_socket,
    original_config,
    run,
    run_as,
    run_scenarios,
    undisturbed_load,
    unit_property,
)
from tests.packaging.system.wrong import connection_outcome
from tests.support.daemon import TIMEOUT_SECONDS, wait_until
from tests.support.stores import make_long_store

LOG = Path("/var/log/pexservice/access.log")
BACKUPS = Path("/var/backups/pexservice")
METRICS = Path("/var/lib/pexservice-backup/pexservice_backup.prom")
SECOND_PORT = 8082
TLS = Path("/etc/pexservice/tls")

#: The rows of a store whose verification takes longer than the timeout of a start, and this
#: timeout in seconds.
ROWS = 4_000_000
START_TIMEOUT_SECONDS = 4


def journal(*options: str) -> str:
    """
    Return the journal of the service since the machine booted.
    """
    return run("journalctl", "--output=cat", f"--unit={SERVICE}", *options)


def lines() -> None:
    """
    Check the prefix and the priority of log lines, and a first start without a warning.
    """
    log = journal()
    assert re.search(r"(?m)^worker-\d+ info: the cursor is at revision", log)
    assert re.search(r"(?m)^supervisor info: worker-1 serves$", log)
    assert "plugin cache" not in log
    # systemd warns about an unset variable that a unit uses.
    assert "PEXSERVICE_OPTIONS" not in log
    assert "[pexservice." not in log
    entry = json.loads(
        run("journalctl", "--output=json", "--lines=1", "--identifier=pexservice")
    )
    assert entry["_SYSTEMD_UNIT"] == SERVICE
    assert entry["PRIORITY"] == "6"


def access_log() -> None:
    """
    Rotate the access log ten times under load, each time with a reload.

    All files together must have one line for each response.
    """
    with original_config():
        append_to_config(f'access-log = "{LOG}"\n')
        run("systemctl", "reload", SERVICE)
        before = sum(map(count, LOG.parent.glob("access.log*")))
        with undisturbed_load() as clients:
            for _ in range(10):
                # logrotate does not rotate an empty file, and the service writes lines once
                # per second.
                wait_until(lambda: LOG.exists() and LOG.stat().st_size > 0, "lines")
                run("logrotate", "--force", "/etc/logrotate.d/pexservice")
    answers = sum(len(client.acknowledged) for client in clients)
    # A reload makes the old workers write their last lines.
    run("systemctl", "reload", SERVICE)
    files = list(LOG.parent.glob("access.log*"))
    assert len(files) == 11
    assert sum(map(count, files)) - before == answers
    assert (LOG.owner(), LOG.stat().st_mode & 0o777) == ("pexservice", 0o640)


def access_log_in_the_journal() -> None:
    """
    Write the access log to the journal: a line has no prefix, and its level as priority.
    """
    with original_config():
        append_to_config('access-log = "-"\n')
        run("systemctl", "reload", SERVICE)
    agent = "an-agent-that-is-looked-for"
    url = f"http://127.0.0.1:{PORT}/next"
    run("curl", "--silent", "--user-agent", agent, "--request", "POST", url)
    wait_until(lambda: agent in journal(), "the journal has the line")
    # This search from docs/operations.md must find it.
    output = journal("--output=json", "-g", '" [0-9]{3} [0-9]+ ')
    entries = map(json.loads, output.splitlines())
    (entry,) = [entry for entry in entries if agent in entry["MESSAGE"]]
    line = rf'127\.0\.0\.1 - - \[.+\] "POST /next HTTP/1\.1" 200 \d+ "-" "{agent}"'
    assert re.fullmatch(line, entry["MESSAGE"]), entry
    assert (entry["PRIORITY"], entry["_SYSTEMD_UNIT"]) == ("6", SERVICE)
    run("systemctl", "reload", SERVICE)


def count(path: Path) -> int:
    """
    Return the number of steps in one file of the access log.
    """
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return len(re.findall(rb'"POST /\w+ HTTP/1\.1" 200 ', data))


def two_sockets() -> None:
    """
    Give the socket unit two addresses, which must both respond.
    """
    with moved_socket(f"[Socket]\nListenStream=127.0.0.1:{SECOND_PORT}\n"):
        # More often than systemd's default limit of starts.
        for _ in range(6):
            run("systemctl", "restart", SOCKET)
        for port in (PORT, SECOND_PORT):
            url = f"http://127.0.0.1:{port}/livez"
            assert run("curl", "--silent", "--max-time", "20", url) == "ok\n"


def stays_stopped() -> None:
    """
    Stop the service while clients connect: they must be refused, and must not start it.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE)
    assert unit_property("Result") == "success"
    # This must not be the text of the running service.
    assert unit_property("StatusText") == "stopped"
    wait_until(lambda: unit_property("ActiveState", SOCKET) == "inactive", "it is closed")
    for _ in range(20):
        assert connection_outcome() == "Connection refused"
    for unit in (SERVICE, SOCKET):
        assert unit_property("ActiveState", unit) == "inactive"
    run("systemctl", "disable", "--now", SERVICE)
    run("systemctl", "enable", "--now", SERVICE)
    assert cursor() == before


def certificate(directory: Path) -> str:
    """
    Make a certificate and its key in C{directory}, and return the certificate.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chain = directory / "fullchain.pem"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec"),
        *("-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=pex.example.org"),
        *("-keyout", str(directory / "privkey.pem"), "-out", str(chain)),
    )
    return chain.read_text()


def served_certificate() -> str:
    """
    Return the certificate that a client gets.
    """
    return ssl.get_server_certificate(("127.0.0.1", PORT), timeout=TIMEOUT_SECONDS)


def tls() -> None:
    """
    Renew a certificate with a hook of certbot.

    The service must present the new certificate, and refuse and report a broken one.
    """
    lineage = Path("/etc/letsencrypt/live/pex.example.org")
    hook = Path("/etc/letsencrypt/renewal-hooks/deploy/pexservice")
    hook.parent.mkdir(parents=True)
    examples = Path("/usr/share/doc/pexservice/examples")
    shutil.copy(examples / "certbot" / "pexservice", hook)
    hook.chmod(0o755)
    renewed = ("env", f"RENEWED_LINEAGE={lineage}", str(hook))
    with original_config():
        first = certificate(lineage)
        run(*renewed)
        append_to_config(
            'tls-certificate = "tls/fullchain.pem"\ntls-key = "tls/privkey.pem"\n'
        )
        run("systemctl", "reload", SERVICE)
        assert served_certificate() == first
        assert (TLS.group(), (TLS / "privkey.pem").group()) == ("pexservice", "pexservice")
        assert (TLS / "privkey.pem").stat().st_mode & 0o777 == 0o640
        second = certificate(lineage)
        run(*renewed)
        assert served_certificate() == second
        (lineage / "fullchain.pem").write_text("nonsense\n")
        run(*renewed, status=1)
        assert served_certificate() == second
    run("systemctl", "restart", SERVICE)
    for directory in (lineage, hook.parent, TLS):
        shutil.rmtree(directory)


def credentials() -> None:
    """
    Use a certificate and tokens as systemd credentials.

    The user of the service may not read the original files, so the service would not start.
    """
    directory, tokens = Path("/root/tls"), Path("/root/tokens")
    given_certificate = certificate(directory)
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    given = "/run/credentials/pexservice.service"
    unit = (
        "[Service]\n"
        f"LoadCredential=fullchain.pem:{directory}/fullchain.pem\n"
        f"LoadCredential=privkey.pem:{directory}/privkey.pem\n"
        f"LoadCredential=tokens:{tokens}\n"
    )
    with original_config(), drop_in(unit):
        append_to_config(
            f'tls-certificate = "{given}/fullchain.pem"\ntls-key = "{given}/privkey.pem"\n'
            f'token-file = "{given}/tokens"\n'
        )
        run("systemctl", "restart", SERVICE)
        assert served_certificate() == given_certificate
    run("systemctl", "restart", SERVICE)


def backups() -> None:
    """
    Enable the backup timer, which is disabled by default.

    Its service must make verified backups of the running service, and report the outcome.
    Then restore one backup.
    """
    assert unit_property("UnitFileState", "pexservice-backup.timer") == "disabled"
    run("systemctl", "enable", "--now", "pexservice-backup.timer")
    with undisturbed_load():
        run("systemctl", "start", "pexservice-backup.service")
    succeeded = 'pexservice_backup_failed{store="/var/lib/pexservice"} 0.0\n'
    assert succeeded in METRICS.read_text()
    assert METRICS.stat().st_mode & 0o777 == 0o644
    (backup,) = BACKUPS.iterdir()
    run_as("pexservice", "pexctl", "verify", str(backup))
    ask("/reset", "POST")
    seen = cursor().revision

    refused = ("pexctl", "restore", str(backup), "--to", "/var/lib/pexservice")
    assert "stop the service first" in run(*refused, status=1)
    run("systemctl", "stop", SERVICE)
    print(run(*refused, "--beyond", str(seen)), end="", flush=True)
    run("systemctl", "start", SERVICE)
    assert cursor().revision > seen
    store = Path("/var/lib/pexservice")
    assert {(path.owner(), path.group()) for path in (store, *store.iterdir())} == {
        ("pexservice", "pexservice")
    }
    assert cursor().position > 0

    run("systemctl", "disable", "--now", "pexservice-backup.timer")
    for backup in BACKUPS.iterdir():
        shutil.rmtree(backup)
    # Only a purge removes these.
    assert [*store.parent.glob("pexservice.before-*")] != []


def moved_store() -> None:
    """
    Move the store to another disk, as docs/operations.md describes it.

    One line of the configuration file must be enough for the service and its backups.
    """
    before = cursor()
    directory = Path("/srv/pexservice")
    unit = f"[Unit]\nRequiresMountsFor={directory}\n[Service]\nReadWritePaths={directory}\n"
    run("systemctl", "stop", SERVICE)
    with (
        original_config() as config,
        drop_in(unit),
        drop_in(unit, "pexservice-backup.service"),
    ):
        run("pexctl", "backup", "/var/lib/pexservice", str(directory))
        run("chown", "-R", "pexservice:pexservice", str(directory))
        CONFIG.write_text(config.replace("lmdb:/var/lib/pexservice", f"lmdb:{directory}"))
        run("systemctl", "start", SERVICE)
        assert cursor() == before
        ask("/next", "POST")
        run("systemctl", "start", "pexservice-backup.service")
        newest = max(BACKUPS.iterdir())
        assert f"revision {before.revision + 1}," in run("pexctl", "verify", str(newest))
        shutil.rmtree(newest)
        run("systemctl", "stop", SERVICE)
    shutil.rmtree(directory)
    run("systemctl", "start", SERVICE)


def behind_nginx() -> None:
    """
    Listen on a Unix socket for nginx's user only, with the drop-in file of the package.
    """
    examples = Path("/usr/share/doc/pexservice/examples")
    there = "/run/pexservice/http.sock"
    request = ("curl", "--silent", "--unix-socket", there, "http://localhost/livez")
    with moved_socket((examples / "nginx" / "pexservice.socket.conf").read_text()):
        assert run_as("www-data", *request) == "ok\n"
        # curl's exit status for a failed connection.
        run_as("nobody", *request, status=7)
        assert connection_outcome() == "Connection refused"
    assert ask("/livez")[0].status == 200


def long_verification() -> None:
    """
    Start with a verification that takes longer than the timeout of a start.

    Reports of progress must extend the timeout, and the status must show the progress.
    """
    store, kept_store = Path("/var/lib/pexservice"), Path("/var/lib/pexservice.kept")
    run("systemctl", "stop", SERVICE)
    store.rename(kept_store)
    with drop_in(f"[Service]\nTimeoutStartSec={START_TIMEOUT_SECONDS}\n"):
        make_long_store(store, ROWS)
        run("chown", "-R", "pexservice:pexservice", str(store))
        began, statuses = time.monotonic(), set()
        with subprocess.Popen(["/usr/bin/systemctl", "start", SERVICE]) as starting:
            while starting.poll() is None:
                statuses.add(unit_property("StatusText"))
                time.sleep(0.1)
        took = time.monotonic() - began
        progress = [s for s in statuses if re.fullmatch(r"verifying.*\d+ %", s)]
        assert starting.returncode == 0
        assert took > START_TIMEOUT_SECONDS
        assert len(progress) > 1
        assert (cursor().revision, unit_property("NRestarts")) == (ROWS, "0")
        run("systemctl", "stop", SERVICE)
    shutil.rmtree(store)
    kept_store.rename(store)
    run("systemctl", "start", SERVICE)


def main() -> None:
    run_scenarios(
        *(lines, access_log, access_log_in_the_journal, two_sockets, stays_stopped),
        *(tls, credentials, backups, moved_store, behind_nginx, long_verification),
    )


if __name__ == "__main__":
    main()
