"""
An upgrade keeps the cursor and the options, and clients notice only a pause.

C{python3 -m tests.packaging.system.upgrade}, as root where the package is installed.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.packaging.system.installed import (
    SOCKET,
    append_to_config,
    original_config,
    run,
    supervisor,
    undisturbed_load,
    unit_property,
)


def higher(path: Path) -> tuple[str, Path]:
    """
    Build the installed package again with a higher version.

    @return: the version, and the path of the package.
    """
    run("env", "-C", str(path), "dpkg-repack", "--tag=none", "pexservice")
    (package,) = path.glob("*.deb")
    tree = path / "tree"
    run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN" / "control"
    text = control.read_text()
    (version,) = re.findall(r"(?m)^Version: (.*)$", text)
    control.write_text(text.replace(f"Version: {version}\n", f"Version: {version}+1\n"))
    run("dpkg-deb", "--build", str(tree), str(package))
    return f"{version}+1", package


def with_a_mistake_in_the_configuration(package: Path) -> None:
    """
    Upgrade with a mistake in the configuration: the output names it.

    The old processes keep running.
    """
    with original_config():
        append_to_config("jurnal = 5\n")
        with undisturbed_load():
            output = run("dpkg", "--install", "--force-confold", str(package))
    assert "there is no jurnal (did you mean journal?)" in output
    assert "the version before keeps running" in output


def main() -> None:
    supervisor_pid = supervisor()
    socket_opened_at = unit_property("ActiveEnterTimestampMonotonic", SOCKET)
    with tempfile.TemporaryDirectory() as path:
        version, package = higher(Path(path))
        with_a_mistake_in_the_configuration(package)
        assert supervisor() == supervisor_pid
        with undisturbed_load():
            run("dpkg", "--install", str(package))
    assert run("dpkg-query", "--show", "-f", "${Version}", "pexservice") == version
    assert supervisor() != supervisor_pid
    # The socket was open all the time.
    assert unit_property("ActiveEnterTimestampMonotonic", SOCKET) == socket_opened_at


if __name__ == "__main__":
    main()
