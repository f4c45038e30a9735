"""
An upgrade keeps the cursor and the options, and clients notice no more than a pause.

C{python3 -m tests.packaging.system.upgrade}, as root where the package is installed.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.packaging.system.installed import (
    SOCKET,
    assert_none_cut_off,
    load,
    run,
    shown,
    supervisor,
)
from tests.packaging.system.wrong import CONFIG, more


def higher(path: Path) -> tuple[str, Path]:
    """
    Make the installed package again, with a higher version.

    @return: the version, and the package.
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
    Install the package: its output says what is wrong, and the old processes keep running.
    """
    kept = CONFIG.read_text()
    more("jurnal = 5\n")()
    with load() as clients:
        output = run("dpkg", "--install", "--force-confold", str(package))
    assert_none_cut_off(clients)
    assert "there is no jurnal (did you mean journal?)" in output
    assert "the version before keeps running" in output
    CONFIG.write_text(kept)


def main() -> None:
    """
    Run the test.
    """
    chief, since = supervisor(), shown("ActiveEnterTimestampMonotonic", SOCKET)
    with tempfile.TemporaryDirectory() as path:
        version, package = higher(Path(path))
        with_a_mistake_in_the_configuration(package)
        assert supervisor() == chief
        with load() as clients:
            run("dpkg", "--install", str(package))
    assert_none_cut_off(clients)
    assert run("dpkg-query", "--show", "-f", "${Version}", "pexservice") == version
    assert supervisor() != chief
    # The socket is the same all the time.
    assert shown("ActiveEnterTimestampMonotonic", SOCKET) == since


if __name__ == "__main__":
    main()
