"""
The installed service runs as the user and in the place that it should, and answers.

C{python3 -m tests.packaging.system.smoke}, as root where the package is installed.
"""

from __future__ import annotations

import stat
from pathlib import Path

from tests.packaging.system.installed import SERVICE, SOCKET, ask, run, shown, supervisor


def main() -> None:
    """
    Run the test.
    """
    for unit in (SERVICE, SOCKET):
        assert shown("ActiveState", unit) == "active"
    # The service requires its socket, which closes with it.
    assert shown("UnitFileState") == "enabled"
    assert shown("UnitFileState", SOCKET) == "static"
    assert "127.0.0.1:8081" in shown("Listen", SOCKET)

    process = Path(f"/proc/{supervisor()}")
    assert process.owner() == "pexservice"
    store = Path("/var/lib/pexservice")
    assert (store.owner(), store.group()) == ("pexservice", "pexservice")
    assert stat.filemode(store.stat().st_mode) == "drwx------"

    for method, path, text in (
        ("POST", "/reset", "0\n"),
        ("POST", "/next", "1\n"),
        ("POST", "/next", "1\n"),
        ("POST", "/next", "2\n"),
        ("GET", "/current", "2\n"),
        ("POST", "/previous", "1\n"),
        ("GET", "/livez", "ok\n"),
        ("GET", "/readyz", "ok\n"),
    ):
        response, answer = ask(path, method)
        assert (response.status, answer) == (200, text), (method, path)
    for path in ("/", "/history"):
        response, answer = ask(path)
        assert response.status == 200, answer

    # twistd finds the service by the plugin cache that the package's trigger has renewed.
    plugins = Path("/usr/lib/python3/dist-packages/twisted/plugins/dropin.cache")
    assert b"pexservice" in plugins.read_bytes()
    assert "--listen" in run("twistd3", "pexservice", "--help")
    assert "--listen" in run("pexservice", "pexservice", "--help")
    # The help is the service's own, and not twistd's.
    assert "--rate-limit" in run("pexservice", "--help")
    assert run("pexservice", "--version").startswith("pexservice ")


if __name__ == "__main__":
    main()
