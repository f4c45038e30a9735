"""
A Debian package of version 0.1.0, made from the frozen wheel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

from tests.support.installation import FROZEN_WHEEL

#: A version lower than that of every package made from this tree.
VERSION = "0.1.0~before"

#: How a supervisor is started and reloaded, as version 0.1.0 has it.
_UNIT = (
    (
        r"ExecStart=.*",
        "ExecStart=/usr/bin/python3 -m pexservice --nodaemon --pidfile="
        " --logger=pexservice.supervised.observer pexservice"
        " --listen systemd:domain=INET:index=0 --store lmdb:/var/lib/pexservice",
    ),
    (r"ExecReload=.*", "ExecReload=kill -HUP $MAINPID"),
)
_COMMAND = ("pexservice.cli.pexctl", "pexservice.ctl")


def frozen_package(today: Path, path: Path) -> Path:
    """
    Make a package with the frozen code in the place of today's.

    @param today: a package made from this tree; all but the code is taken from it.
    @param path: an empty directory.
    @return: the package.
    """
    tree = path / "tree"
    _run("dpkg-deb", "--raw-extract", str(today), str(tree))
    modules = tree / "usr" / "lib" / "python3" / "dist-packages"
    shutil.rmtree(modules)
    with ZipFile(FROZEN_WHEEL) as wheel:
        wheel.extractall(modules)
    unit = tree / "usr/lib/systemd/system/pexservice.service"
    for pattern, line in _UNIT:
        found = re.findall(rf"(?m)^{pattern}$", unit.read_text())
        _edit(unit, found[0], line)
    _edit(tree / "usr/bin/pexctl", *_COMMAND)
    control = tree / "DEBIAN" / "control"
    (version,) = re.findall(r"(?m)^Version: .*$", control.read_text())
    _edit(control, version, f"Version: {VERSION}")
    for each in tree.rglob("*"):
        # Whatever the umask is here, the service's user has to read the files there.
        each.chmod(0o755 if each.is_dir() or os.access(each, os.X_OK) else 0o644)
    package = path / f"pexservice_{VERSION}_all.deb"
    _run("dpkg-deb", "--root-owner-group", "--build", str(tree), str(package))
    return package


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
