"""
Reload and restart are not noticed, stop and start keep the cursor, and the options
are those of C{/etc/default/pexservice}.

C{python3 -m tests.system.restarts}, as root where the package is installed.
"""

from __future__ import annotations

from pathlib import Path

from tests.functional.daemon import patiently
from tests.system.installed import (
    SERVICE,
    ask,
    assert_none_cut_off,
    cursor,
    load,
    run,
    said,
    serving,
    shown,
    supervisor,
)

OPTIONS = Path("/etc/default/pexservice")


def reload() -> None:
    """
    The workers are others, the supervisor is the same, and nobody notices.
    """
    chief, worker = supervisor(), serving()
    with load() as clients:
        run("systemctl", "reload", SERVICE)
        for _ in patiently():
            if "the workers are replaced" in said():
                break
    assert_none_cut_off(clients)
    assert supervisor() == chief
    assert serving() != worker


def restart() -> None:
    """
    All are others, and nobody notices but for a pause.
    """
    chief = supervisor()
    with load() as clients:
        run("systemctl", "restart", SERVICE)
    assert_none_cut_off(clients)
    assert supervisor() != chief


def stop() -> None:
    """
    It stops, and starts where it was, at the latest when somebody comes.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE)
    assert shown("Result") == "success"
    assert supervisor() == 0
    assert cursor() == before
    assert supervisor() != 0


def options() -> None:
    """
    They are read when it starts.
    """
    kept = OPTIONS.read_text()
    OPTIONS.write_text('PEXSERVICE_OPTIONS="--journal 3 --standby 0"\n')
    try:
        run("systemctl", "restart", SERVICE)
        for _ in range(5):
            ask("/next", "POST")
        assert len(ask("/history")[1].splitlines()) == 3
    finally:
        OPTIONS.write_text(kept)
    run("systemctl", "restart", SERVICE)


def main() -> None:
    """
    The test.
    """
    for each in (reload, restart, stop, options):
        print(each.__name__, flush=True)
        each()


if __name__ == "__main__":
    main()
