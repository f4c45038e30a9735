"""
Reloads and restarts, which no client notices, and stops, which keep the cursor.

The options of C{/etc/default/pexservice} still work.

C{python3 -m tests.packaging.system.restarts}, as root where the package is installed.
"""

from __future__ import annotations

from pathlib import Path

from tests.packaging.system.installed import (
    SERVICE,
    ask,
    cursor,
    run,
    run_scenarios,
    service_log,
    serving,
    supervisor,
    undisturbed_load,
    unit_property,
)

OPTIONS = Path("/etc/default/pexservice")


def reload() -> None:
    """
    Reload the service: the workers are replaced, and no client notices.
    """
    supervisor_pid, worker = supervisor(), serving()
    with undisturbed_load():
        run("systemctl", "reload", SERVICE)
        assert "the workers are replaced" in service_log()
    assert supervisor() == supervisor_pid
    assert serving() != worker


def restart() -> None:
    """
    Restart the service: clients notice only a pause.
    """
    supervisor_pid = supervisor()
    with undisturbed_load():
        run("systemctl", "restart", SERVICE)
    assert supervisor() != supervisor_pid


def stop() -> None:
    """
    Stop the service and start it again: the cursor stays.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE)
    assert unit_property("Result") == "success"
    # This must not be the text of the running service.
    assert unit_property("StatusText") == "stopped"
    assert supervisor() == 0
    run("systemctl", "start", SERVICE)
    assert cursor() == before
    assert supervisor() != 0


def options() -> None:
    """
    Set options in the file that was used before there was a configuration file.

    The service must read them at its start, and they must override the configuration file.
    """
    OPTIONS.write_text('PEXSERVICE_OPTIONS="--journal 3 --standby 0"\n')
    try:
        run("systemctl", "restart", SERVICE)
        for _ in range(5):
            ask("/next", "POST")
        assert len(ask("/history")[1].splitlines()) == 3
    finally:
        OPTIONS.unlink()
    run("systemctl", "restart", SERVICE)


def main() -> None:
    run_scenarios(reload, restart, stop, options)


if __name__ == "__main__":
    main()
