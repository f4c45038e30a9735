"""
The installed service has the right user and the right store, and responds.

C{python3 -m tests.packaging.system.smoke}, as root where the package is installed.
"""

from __future__ import annotations

import stat
from pathlib import Path

from tests.packaging.system.installed import (
    SERVICE,
    SOCKET,
    ask,
    run,
    supervisor,
    unit_property,
)


def main() -> None:
    for unit in (SERVICE, SOCKET):
        assert unit_property("ActiveState", unit) == "active"
    # The service requires its socket, and the socket is closed with it.
    assert unit_property("UnitFileState") == "enabled"
    assert unit_property("UnitFileState", SOCKET) == "static"
    assert "127.0.0.1:8081" in unit_property("Listen", SOCKET)

    process = Path(f"/proc/{supervisor()}")
    assert process.owner() == "pexservice"
    store = Path("/var/lib/pexservice")
    assert (store.owner(), store.group()) == ("pexservice", "pexservice")
    assert stat.filemode(store.stat().st_mode) == "drwx------"

    for method, path, text in (
        ("POST", "/reset", "0\n"),
        ("POST", "/next", "1\n"),
        ("GET", "/readyz", "ok\n"),
    ):
        response, body = ask(path, method)
        assert (response.status, body) == (200, text), (method, path)
    output = run("pexctl", "status", "--process", str(supervisor()))
    assert output.startswith("ready: revision ")

    # twistd finds the service in the plugin cache, which a trigger of the package has
    # renewed.
    plugins = Path("/usr/lib/python3/dist-packages/twisted/plugins/dropin.cache")
    assert b"pexservice" in plugins.read_bytes()
    assert "--listen" in run("twistd3", "pexservice", "--help")
    assert "--listen" in run("pexservice", "pexservice", "--help")
    # This is the help of the service, not of twistd.
    assert "--rate-limit" in run("pexservice", "--help")
    assert run("pexservice", "--version").startswith("pexservice ")


if __name__ == "__main__":
    main()
