"""
Mistakes of an operator, and how the service reports each one.

The report is in the output of C{systemctl status} and in the journal.  When the mistake is
corrected, the service must serve again.

C{python3 -m tests.packaging.system.wrong}, as root where the package is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
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
    drop_in,
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
    assert SERVICE in run("systemctl", "--failed", "--no-legend")
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


def limit_of_open_files_that_is_too_low() -> None:
    before = cursor()
    with drop_in("[Service]\nLimitNOFILE=40\n"):
        expect_failed_start("the limit of open files is 40", 64)
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
    fails.
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
        metrics = ask("/metrics")[1]
        assert "\npexservice_ready 0" in metrics
        assert f'\npexservice_problem{{reason="there is no store in {directory}' in metrics
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


def store_that_was_removed() -> None:
    """
    Remove the store's files while the service runs: it must report that it is not ready.

    Later workers must create no store.  When the files are back, the cursor must be
    unchanged.
    """
    directory, kept_store = STORE.parent, Path("/var/lib/pexservice.kept")
    before = cursor()
    run("systemctl", "stop", SERVICE)
    shutil.copytree(directory, kept_store)
    run("systemctl", "start", SERVICE)
    worker = serving()
    for path in directory.iterdir():
        path.unlink()
    wait_until(lambda: ask("/readyz")[0].status == 503, "the service is not ready")
    expect_no_store("was moved away")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "is gone; put it back" in status_text(), "the status has the reason")
    expect_no_store("is gone; put it back")
    run("systemctl", "reload", SERVICE, status=1)
    expect_no_store("is gone; put it back")
    assert [*directory.iterdir()] == []
    run("systemctl", "stop", SERVICE)
    for path in kept_store.iterdir():
        run("cp", "--archive", str(path), str(directory))
        shutil.chown(directory / path.name, "pexservice", "pexservice")
    shutil.rmtree(kept_store)
    run("systemctl", "start", SERVICE)
    assert cursor() == before


def expect_no_store(reason: str) -> None:
    """
    Check that a step is refused, and that every readiness check has the reason.
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
    Change options that require a restart.

    A wrong value must make the reload fail.  After a reload with a right value, the status
    line and a metric must name the option until a restart.
    """
    other = Path("/var/lib/pexservice/other")
    listen = 'listen = ["systemd:all"'
    changes = {
        # The option, its present text, a wrong value with the reason, and a right value.
        "store": (
            "lmdb:/var/lib/pexservice",
            ("lmdb:/var/lib/pexservice/none", "there is no store in"),
            f"lmdb:{other}",
        ),
        "listen": (
            listen,
            # The unit may not bind privileged ports.
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
    run_as("pexservice", "pexctl", "create", "--store", f"lmdb:{other}")
    with original_config() as config:
        for option, (present, (wrong_value, reason), right) in changes.items():
            assert config.count(present) == 1
            CONFIG.write_text(config.replace(present, wrong_value))
            run("systemctl", "reload", SERVICE, status=1)
            assert reason in status_text(), status_text()
            CONFIG.write_text(config.replace(present, right))
            run("systemctl", "reload", SERVICE)
            assert f"; changing --{option} requires a restart" in status_text()
            pending = f'\npexservice_restart_pending{{option="--{option}"}} 1.0\n'
            assert pending in ask("/metrics")[1]
            assert cursor() == before
    shutil.rmtree(other)
    run("systemctl", "reload", SERVICE)
    assert "requires a restart" not in status_text()
    assert "\npexservice_restart_pending{" not in ask("/metrics")[1]


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
        *(mistakes_in_the_configuration, limit_of_open_files_that_is_too_low),
        *(damaged_store, reload_that_fails, reload_that_waits_for_a_restart),
        *(store_that_is_not_there, store_that_was_removed, check),
    )


if __name__ == "__main__":
    main()
