"""
Mistakes of an operator, and how the service reports each one.

The report is in the output of C{systemctl status} and in the journal.  When the mistake is
corrected, the service must serve again.

C{python3 -m tests.packaging.system.wrong}, as root where the package is installed.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.packaging.system.installed import (
    CONFIG,
    DEFAULTS,
    PORT,
    SERVICE,
    SOCKET,
    Cursor,
    append_to_config,
    ask,
    cursor,
    original_config,
    run,
    run_as,
    run_scenarios,
    service_log,
    serving,
    supervisor,
    undisturbed_load,
    unit_property,
)
from tests.support.daemon import TIMEOUT_SECONDS, wait_until

STORE = Path("/var/lib/pexservice/data.mdb")


#: Mistakes in the files of the configuration, and a part of the status line for each one.
MISTAKES: tuple[tuple[Callable[[], object], str], ...] = (
    (
        lambda: DEFAULTS.write_text('PEXSERVICE_OPTIONS="--rate-limt 100"\n'),
        "there is no option --rate-limt (did you mean --rate-limit?)",
    ),
    (
        partial(append_to_config, "jurnal = 5\n"),
        f"the configuration file {CONFIG}: there is no jurnal (did you mean journal?)",
    ),
    (CONFIG.unlink, f"{CONFIG}: No such file or directory"),
    (
        # The unit may not write to this directory.
        partial(append_to_config, 'access-log = "/var/lib/access.log"\n'),
        "the access log /var/lib/access.log: Read-only file system",
    ),
)


def status_text(unit: str = SERVICE) -> str:
    """
    Return the output of C{systemctl status}, whose exit status is 3 for a failed unit.
    """
    status = 3 if unit_property("ActiveState", unit) == "failed" else 0
    command = ("systemctl", "status", "--no-pager", "--full", "--lines=0", unit)
    return run(*command, status=status)


def connection_outcome() -> str:
    """
    Return what a client that connects gets.
    """
    try:
        with socket.create_connection(("127.0.0.1", PORT), TIMEOUT_SECONDS):
            return "a connection"
    except OSError as error:
        return error.strerror or str(error)


def expect_failed_start(reason: str, exit_status: int) -> None:
    """
    Restart the service, which must fail once, with a report of C{reason}.
    """
    output = run("systemctl", "restart", SERVICE, status=1)
    assert output.startswith("Job for pexservice.service failed because"), output
    wait_until(lambda: unit_property("ActiveState") == "failed", "the unit has failed")
    wait_until(
        lambda: connection_outcome() == "Connection refused", "connections are refused"
    )
    status = status_text()
    (line,) = [line.strip() for line in status.splitlines() if "Status: " in line]
    assert reason in line, status
    assert unit_property("ExecMainStatus") == str(exit_status)
    assert unit_property("NRestarts") == "0"
    assert unit_property("ActiveState", SOCKET) == "inactive"
    assert run("systemctl", "is-system-running", status=1) == "degraded\n"
    errors = run("journalctl", "--output=cat", "--priority=err", f"--unit={SERVICE}")
    assert reason in errors


def start_again(before: Cursor) -> None:
    """
    Start the service whose start has failed, now that the cause is gone.
    """
    run("systemctl", "reset-failed", SERVICE, SOCKET)
    run("systemctl", "start", SERVICE)
    assert cursor() == before


def mistakes_in_the_configuration() -> None:
    before = cursor()
    for make_mistake, reason in MISTAKES:
        print(reason, flush=True)
        with original_config():
            make_mistake()
            expect_failed_start(reason, 64)
        DEFAULTS.unlink(missing_ok=True)
        start_again(before)


def damaged_store() -> None:
    """
    Start with a damaged store, which must stay as it is.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE)
    whole = STORE.read_bytes()
    damaged = b"\0" * 4096 * 4 + whole[4096 * 4 :]
    STORE.write_bytes(damaged)
    expect_failed_start("the store /var/lib/pexservice is damaged", 78)
    assert STORE.read_bytes() == damaged
    STORE.write_bytes(whole)
    start_again(before)


def reload_that_fails() -> None:
    """
    Reload with mistakes.

    The reload must fail, C{systemctl status} must have the reason, and the old workers must
    stay.  No connection may be refused.  The log must have one error for each reload that
    fails.  After a later reload, the status must name an option that requires a restart.
    """
    worker, supervisor_pid = serving(), supervisor()
    with undisturbed_load():
        for line, reason in (
            ("jurnal = 5\n", "jurnal"),
            (
                'tls-certificate = "none.pem"\ntls-key = "none.pem"\n',
                "none.pem: No such file",
            ),
        ):
            with original_config():
                append_to_config(line)
                run("systemctl", "reload", SERVICE, status=1)
                assert reason in status_text()
        assert unit_property("ActiveState") == "active"
    assert (serving(), supervisor()) == (worker, supervisor_pid)
    errors = service_log("--priority=err")
    failures = errors.count("supervisor error: reload failed: ")
    assert (len(errors.splitlines()), failures) == (2, 2), errors
    assert "reload 2 failed: " in ask("/livez?verbose")[1]
    with undisturbed_load():
        run("systemctl", "reload", SERVICE)
    assert (serving() != worker, supervisor()) == (True, supervisor_pid)
    assert "reload 3 succeeded" in ask("/livez?verbose")[1]
    note = "; changing --log-format requires a restart"
    with original_config():
        append_to_config('log-format = "json"\n')
        run("systemctl", "reload", SERVICE)
        assert note in status_text()
    run("systemctl", "reload", SERVICE)
    assert note not in status_text()


def store_that_is_not_there() -> None:
    """
    Start without the store, as if its disk were not mounted.

    The unit is active, its status has the reason, and clients get 503.  When the store is
    there, the service must use it.
    """
    directory = Path("/var/lib/pexservice/disk")
    with original_config() as config:
        CONFIG.write_text(config.replace("lmdb:/var/lib/pexservice", f"lmdb:{directory}"))
        run("systemctl", "restart", SERVICE)
        response, body = ask("/next", "POST")
        assert response.status == 503
        assert f"there is no store in {directory}" in body
        assert ask("/readyz")[0].status == 503
        assert f"there is no store in {directory}" in status_text()
        check_command = ("pexctl", "check", "--config", str(CONFIG))
        output = run_as("pexservice", *check_command, status=1)
        assert f"there is no store in {directory}" in output
        run_as("pexservice", "pexctl", "create", "--config", str(CONFIG))
        wait_until(
            lambda: all(ask("/readyz")[0].status == 200 for _ in range(20)),
            "the store is served",
        )
        assert (cursor().revision, unit_property("NRestarts")) == (0, "0")
    run("systemctl", "restart", SERVICE)
    shutil.rmtree(directory)


def check() -> None:
    """
    Check that C{pexctl check} reports the same mistakes before a start.

    It runs as the user of the service, with the configuration file of the service.
    """
    command = ("pexctl", "check", "--config", str(CONFIG))
    assert run_as("pexservice", *command).startswith("well; in use now: ")
    for line, reason in (
        ("jurnal = 5\n", "did you mean journal?"),
        # The user may write here, but the unit may not.
        (
            'access-log = "/var/backups/pexservice/access.log"\n',
            "outside the sandbox of pexservice.service",
        ),
    ):
        with original_config():
            append_to_config(line)
            assert reason in run_as("pexservice", *command, status=64)


def main() -> None:
    run_scenarios(
        mistakes_in_the_configuration,
        damaged_store,
        reload_that_fails,
        store_that_is_not_there,
        check,
    )


if __name__ == "__main__":
    main()
