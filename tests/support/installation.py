"""
Install a version of this package in an environment of its own, beside the tests' one.

The environment has every dependency that the tests' environment has, as links to the
same files, so nothing is downloaded and both versions run on the same libraries.  What
it has of this package, its plugin included, is what was put there.
"""

from __future__ import annotations

import shutil
import sys
import venv
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

#: The version before the rooms were rebuilt; see C{README.md} there.
NETS = Path(__file__).parents[1] / "nets"
FROZEN_WHEEL = NETS / "pexservice-0.1.0-py3-none-any.whl"
FROZEN_STORE = NETS / "store-0.1.0"

_PLUGIN = Path("twisted", "plugins", "pexservice_plugin.py")

#: Entries of a C{site-packages} that are not linked: this package, and what belongs to
#: one environment.
_OURS = ("pexservice", "__editable__", "__pycache__")


class Installation:
    """
    A virtual environment without pip.

    @ivar python: the path of its interpreter.
    @ivar site: the path of its C{site-packages}.
    """

    def __init__(self, path: Path) -> None:
        """
        Make the environment in the directory C{path}, without this package.
        """
        venv.EnvBuilder(symlinks=True, with_pip=False).create(path)
        self.python = str(path / "bin" / "python")
        (self.site,) = (path / "lib").glob("python3*/site-packages")
        for each in map(Path, sys.path):
            if each.name in ("site-packages", "dist-packages") and each.is_dir():
                _link(each, self.site)
        plugins = self.site / _PLUGIN.parent
        # These two are directories, so that a plugin can be put beside Twisted's own.
        for inner in (plugins.parent, plugins):
            original = inner.resolve()
            inner.unlink()
            inner.mkdir()
            _link(original, inner)

    def remove(self) -> None:
        """
        Remove this package, and what Twisted remembers of its plugin.
        """
        shutil.rmtree(self.site / "pexservice", ignore_errors=True)
        for each in self.site.glob("pexservice-*.dist-info"):
            shutil.rmtree(each)
        for name in (_PLUGIN.name, "dropin.cache"):
            (self.site / _PLUGIN.parent / name).unlink(missing_ok=True)
        shutil.rmtree(self.site / _PLUGIN.parent / "__pycache__", ignore_errors=True)

    def put_frozen(self) -> None:
        """
        Install the frozen version.
        """
        with ZipFile(FROZEN_WHEEL) as wheel:
            wheel.extractall(self.site)

    def put_current(self) -> None:
        """
        Install the version under test: the files that the tests import.
        """
        package, plugin = (
            find_spec("pexservice"),
            find_spec(".".join(_PLUGIN.with_suffix("").parts)),
        )
        assert package is not None
        assert package.origin is not None
        assert plugin is not None
        assert plugin.origin is not None
        shutil.copytree(
            Path(package.origin).parent,
            self.site / "pexservice",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copy(plugin.origin, self.site / _PLUGIN)


def frozen(path: Path) -> Installation:
    """
    @return: an installation of the frozen version, made in the directory C{path}.
    """
    installation = Installation(path)
    installation.put_frozen()
    return installation


def _link(original: Path, to: Path) -> None:
    """
    Link all that is in one directory into another, but for this package.
    """
    for each in original.iterdir():
        link = to / each.name
        if each.name.startswith(_OURS) or each.name == "dropin.cache":
            continue
        if each.suffix != ".pth" and not link.exists():
            link.symlink_to(each)
