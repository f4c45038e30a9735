"""
Each way to misuse the service, with the report of the mistake.

The report is the input, the output of C{systemctl status}, and the answer to a caller.
Each time the mistake is mended, the service serves again.

C{python3 -m tests.packaging.system.wrong}, as root where the package is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from tests.packaging.system.installed import (
    PORT,
    SERVICE,
    SOCKET,
    ask,
    assert_none_cut_off,
    cursor,
    load,
    run,
    serving,
    shown,
    supervisor,
)
from tests.support.daemon import TIMEOUT_SECONDS, wait_until

CONFIG = Path("/etc/pexservice/pexservice.toml")
DEFAULTS = Path("/etc/default/pexservice")
TOKENS = Path("/etc/pexservice/tokens")
STORE = Path("/var/lib/pexservice/data.mdb")


@frozen
class Wrong:
    """
    One way to misuse the service.

    @ivar typed: what somebody did, in words.
    @ivar do: does it.
    @ivar status: the exit status of the service.
    @ivar reason: what the status line has to say.
    """

    typed: str
    do: Callable[[], object]
    status: int
    reason: str


def more(text: str) -> Callable[[], object]:
    """
    Return a function that adds lines to the configuration file.
    """
    return lambda: CONFIG.write_text(CONFIG.read_text() + text)


def damage() -> None:
    """
    Overwrite pages of the store, which no service uses by then.
    """
    run("systemctl", "stop", SERVICE)
    whole = STORE.read_bytes()
    STORE.write_bytes(b"\0" * 4096 * 4 + whole[4096 * 4 :])


def tokens() -> None:
    """
    Name a token file that has no token.
    """
    TOKENS.write_text("# none\n")
    TOKENS.chmod(0o644)
    more('token-file = "tokens"\n')()


WRONGS = (
    Wrong(
        'PEXSERVICE_OPTIONS="--rate-limt 100"',
        lambda: DEFAULTS.write_text('PEXSERVICE_OPTIONS="--rate-limt 100"\n'),
        64,
        "there is no option --rate-limt (did you mean --rate-limit?)",
    ),
    Wrong(
        "jurnal = 5",
        more("jurnal = 5\n"),
        64,
        f"the configuration file {CONFIG}: there is no jurnal (did you mean journal?)",
    ),
    Wrong('journal = "5"', more('journal = "5"\n'), 64, "journal: must be a whole number"),
    Wrong(
        "no configuration file", CONFIG.unlink, 64, f"{CONFIG}: No such file or directory"
    ),
    Wrong(
        "a certificate that is not there",
        more('tls-certificate = "tls/none.pem"\ntls-key = "tls/none.pem"\n'),
        64,
        "/etc/pexservice/tls/none.pem: No such file or directory",
    ),
    Wrong("a token file without a token", tokens, 64, "tokens has no token"),
    Wrong(
        "an access log in a directory that the unit may not write to",
        more('access-log = "/var/lib/access.log"\n'),
        64,
        "the access log /var/lib/access.log: Read-only file system",
    ),
    Wrong("a damaged store", damage, 78, "the store /var/lib/pexservice is damaged"),
)


def status_text(unit: str = SERVICE) -> str:
    """
    Return what C{systemctl status} shows; its exit status is 3 for a unit that is down.
    """
    status = 3 if shown("ActiveState", unit) == "failed" else 0
    command = ("systemctl", "status", "--no-pager", "--full", "--lines=0", unit)
    return run(*command, status=status)


def caller_gets() -> str:
    """
    Return what a client that connects receives.
    """
    try:
        with socket.create_connection(("127.0.0.1", PORT), TIMEOUT_SECONDS):
            return "a connection"
    except OSError as error:
        return error.strerror or str(error)


def tried(wrong: Wrong) -> dict[str, str]:
    """
    Make a mistake, look, and mend it.

    @return: the row of the table.
    """
    kept = {
        path: path.read_bytes() if path.exists() else None
        for path in (CONFIG, DEFAULTS, TOKENS, STORE)
    }
    before = cursor()
    wrong.do()
    answer = run("systemctl", "restart", SERVICE, status=1)
    assert answer.startswith("Job for pexservice.service failed because"), answer
    wait_until(lambda: shown("ActiveState") == "failed", "the unit has failed")
    wait_until(lambda: caller_gets() == "Connection refused", "callers are refused")
    status = status_text()
    (line,) = [line.strip() for line in status.splitlines() if "Status: " in line]
    assert wrong.reason in line, status
    assert shown("ExecMainStatus") == str(wrong.status)
    assert shown("NRestarts") == "0"
    assert SERVICE in run("systemctl", "--failed", "--no-legend")
    assert shown("ActiveState", SOCKET) == "inactive"
    assert run("systemctl", "is-system-running", status=1) == "degraded\n"
    errors = run("journalctl", "--output=cat", "--priority=err", f"--unit={SERVICE}")
    assert wrong.reason in errors
    row = {
        "typed": wrong.typed,
        "status shows": line,
        "a caller gets": caller_gets(),
        "exit status": shown("ExecMainStatus"),
    }
    for path, text in kept.items():
        if text is None:
            path.unlink(missing_ok=True)
        elif path != STORE or wrong.do is damage:
            path.write_bytes(text)
    run("systemctl", "reset-failed", SERVICE, SOCKET)
    run("systemctl", "start", SERVICE)
    assert cursor() == before
    return row


def reload_that_fails() -> None:
    """
    Reload with mistakes.

    The reload ends with 1, and the reason is where an operator looks for it.  The old
    workers serve on, and nobody is refused.
    """
    kept = CONFIG.read_text()
    worker, chief = serving(), supervisor()
    with load() as clients:
        more("jurnal = 5\n")()
        run("systemctl", "reload", SERVICE, status=1)
        assert "jurnal" in status_text()
        CONFIG.write_text(kept)
        more('tls-certificate = "none.pem"\ntls-key = "none.pem"\n')()
        run("systemctl", "reload", SERVICE, status=1)
        assert "none.pem: No such file" in status_text()
        assert shown("ActiveState") == "active"
    assert_none_cut_off(clients)
    assert (serving(), supervisor()) == (worker, chief)
    assert "reload 2 failed: " in ask("/livez?verbose")[1]
    CONFIG.write_text(kept)
    with load() as clients:
        run("systemctl", "reload", SERVICE)
    assert_none_cut_off(clients)
    assert serving() != worker
    assert "reload 3 succeeded" in ask("/livez?verbose")[1]


def store_that_is_not_there() -> None:
    """
    Start without the store, as when its disk is not mounted: clients are told so by 503.

    The unit is active and its status has the reason.  When the store comes, it is served,
    soon by the worker alone that owns it.
    """
    kept = CONFIG.read_text()
    place = Path("/var/lib/pexservice/disk")
    CONFIG.write_text(kept.replace("lmdb:/var/lib/pexservice", f"lmdb:{place}"))
    try:
        run("systemctl", "restart", SERVICE)
        response, body = ask("/next", "POST")
        assert response.status == 503
        assert f"there is no store in {place}" in body
        assert ask("/readyz")[0].status == 503
        assert "\npexservice_ready 0" in ask("/metrics")[1]
        assert f"there is no store in {place}" in status_text()
        user = ("runuser", "-u", "pexservice", "--")
        run(*user, "pexctl", "create", "--config", str(CONFIG))
        wait_until(
            lambda: all(ask("/readyz")[0].status == 200 for _ in range(20)),
            "the store is served",
        )
        assert (cursor().revision, shown("NRestarts")) == (0, "0")
    finally:
        CONFIG.write_text(kept)
        run("systemctl", "restart", SERVICE)
        shutil.rmtree(place, ignore_errors=True)


def store_that_was_removed() -> None:
    """
    Remove the store's files under the running service: nothing says that it is ready.

    Workers that start later create no store.  When the files are back, the cursor is where
    it was.
    """
    directory, kept = STORE.parent, Path("/var/lib/pexservice.kept")
    before = cursor()
    run("systemctl", "stop", SERVICE)
    shutil.copytree(directory, kept)
    run("systemctl", "start", SERVICE)
    worker = serving()
    try:
        for path in directory.iterdir():
            path.unlink()
        wait_until(lambda: ask("/readyz")[0].status == 503, "the service is not ready")
        expect_no_store("was moved away")
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: "is gone; put it back" in status_text(), "the status has the reason"
        )
        expect_no_store("is gone; put it back")
        run("systemctl", "reload", SERVICE, status=1)
        expect_no_store("is gone; put it back")
        assert [*directory.iterdir()] == []
    finally:
        run("systemctl", "stop", SERVICE)
        for path in kept.iterdir():
            run("cp", "--archive", str(path), str(directory))
            shutil.chown(directory / path.name, "pexservice", "pexservice")
        shutil.rmtree(kept)
        run("systemctl", "start", SERVICE)
    assert cursor() == before


def expect_no_store(reason: str) -> None:
    """
    Check that a step is refused, and that everything that tells of readiness says why not.
    """
    response, body = ask("/next", "POST")
    assert (response.status, reason in body) == (503, True), body
    response, body = ask("/readyz?verbose")
    assert (response.status, reason in body) == (503, True), body
    assert "\npexservice_ready 0.0\n" in ask("/metrics")[1]
    output = run("pexctl", "status", status=1)
    assert ("is not ready: " in output, reason in output) == (True, True), output


def reload_that_waits_for_a_restart() -> None:
    """
    Change what only a restart changes: a wrong value is refused, and a right one is shown.

    The status line and a metric name the option until the service is restarted.
    """
    kept = CONFIG.read_text()
    other = Path("/var/lib/pexservice/other")
    user = ("runuser", "-u", "pexservice", "--")
    listen = 'listen = ["systemd:all"'
    changes = {
        # The option, its present text, a wrong one with the reason, and a right one.
        "store": (
            "lmdb:/var/lib/pexservice",
            ("lmdb:/var/lib/pexservice/none", "there is no store in"),
            f"lmdb:{other}",
        ),
        "listen": (
            listen,
            # The unit has no network of its own.
            (f'{listen}, "tcp:80:interface=127.0.0.1"', "cannot listen on tcp:80:"),
            f'{listen}, "unix:/run/pexservice/second.sock"',
        ),
        "log-format": (
            "no-create = true",
            ('no-create = true\nlog-format = "xml"', "log-format: "),
            'no-create = true\nlog-format = "json"',
        ),
    }
    before = cursor()
    run(*user, "pexctl", "create", "--store", f"lmdb:{other}")
    try:
        for option, (present, (wrong, reason), right) in changes.items():
            assert kept.count(present) == 1
            CONFIG.write_text(kept.replace(present, wrong))
            run("systemctl", "reload", SERVICE, status=1)
            assert reason in status_text(), status_text()
            CONFIG.write_text(kept.replace(present, right))
            run("systemctl", "reload", SERVICE)
            assert f"; changing --{option} requires a restart" in status_text()
            pending = f'\npexservice_restart_pending{{option="--{option}"}} 1.0\n'
            assert pending in ask("/metrics")[1]
            assert cursor() == before
    finally:
        CONFIG.write_text(kept)
        shutil.rmtree(other)
    run("systemctl", "reload", SERVICE)
    assert "requires a restart" not in status_text()
    assert "\npexservice_restart_pending{" not in ask("/metrics")[1]


def check() -> None:
    """
    Check that C{pexctl check} says the same beforehand.

    It runs as the service's user and with the service's file.
    """
    command = ("runuser", "-u", "pexservice", "--", "pexctl", "check")
    assert run(*command, "--config", str(CONFIG)).startswith("well; in use now: ")
    kept = CONFIG.read_text()
    more("jurnal = 5\n")()
    assert "did you mean journal?" in run(*command, "--config", str(CONFIG), status=64)
    CONFIG.write_text(kept)
    # The user may write there, but not the unit.
    more('access-log = "/var/backups/pexservice/access.log"\n')()
    answer = run(*command, "--config", str(CONFIG), status=64)
    assert "outside the sandbox of pexservice.service" in answer
    CONFIG.write_text(kept)


def main() -> None:
    """
    Run the test.
    """
    for wrong in WRONGS:
        print(json.dumps(tried(wrong)), flush=True)
    for action in (
        *(reload_that_fails, reload_that_waits_for_a_restart),
        *(store_that_is_not_there, store_that_was_removed, check),
    ):
        print(action.__name__, flush=True)
        action()


if __name__ == "__main__":
    main()
