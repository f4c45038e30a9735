"""
Install a version of this package in an environment next to that of the tests.

The new environment links to the dependencies of the tests' environment.  So nothing is
downloaded, and both versions run with the same libraries.  Only this package and its
Twisted plugin are the environment's own files.
"""

from __future__ import annotations

import compileall
import sys
import venv
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

#: The last release.  An upgrade from it is promised; see C{tests/nets/README.md}.
RELEASE = "1.0.0"
NETS = Path(__file__).parents[1] / "nets"
RELEASE_WHEEL = NETS / f"pexservice-{RELEASE}-py3-none-any.whl"
RELEASE_DEB = NETS / f"pexservice_{RELEASE}_all.deb"
RELEASE_STORE = NETS / f"store-{RELEASE}"

_PLUGIN = Path("twisted", "plugins", "pexservice_plugin.py")

#: Entries of C{site-packages} that are not linked: this package, and files that belong to
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
        Create the environment in the directory C{path}, without this package.
        """
        venv.EnvBuilder(symlinks=True, with_pip=False).create(path)
        self.python = str(path / "bin" / "python")
        (self.site,) = (path / "lib").glob("python3*/site-packages")
        # This link comes first, for an environment on top of the system's has a folder of
        # that name too, with nothing in it but our plugin.
        (self.site / "twisted").symlink_to(_origin("twisted").parent)
        for site_path in map(Path, sys.path):
            if site_path.name in ("site-packages", "dist-packages") and site_path.is_dir():
                _link(site_path, self.site)
        self._package = self.site / "pexservice"
        plugins = self.site / _PLUGIN.parent
        # These two are directories, so that a plugin can be put next to Twisted's own.
        for inner in (plugins.parent, plugins):
            original = inner.resolve()
            inner.unlink()
            inner.mkdir()
            _link(original, inner)

    def install_release(self) -> None:
        with ZipFile(RELEASE_WHEEL) as wheel:
            wheel.extractall(self.site)
        self._compile()

    def upgrade(self, first_line: str = "") -> None:
        """
        Replace the installed version by the version under test.

        The files of the version under test are those that the tests import.

        As dpkg does it, each file is replaced at once, and files that are not there any
        more go last.  A process that starts meanwhile finds one version of every module
        that it needs, or the other.

        @param first_line: the line that the package's C{__init__.py} begins with.
        """
        before = {file for file in self._package.rglob("*") if file.is_file()}
        origin = _origin("pexservice").parent
        files = {
            self._package / file.relative_to(origin): file.read_bytes()
            for file in origin.rglob("*")
            if file.is_file() and file.parent.name != "__pycache__"
        }
        files[self.site / _PLUGIN] = _origin(
            "twisted.plugins.pexservice_plugin"
        ).read_bytes()
        files[self._package / "__init__.py"] = (
            first_line.encode() + b"\n" + files[self._package / "__init__.py"]
        )
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
        for file in before - files.keys():
            file.unlink()
        self._compile()

    def _compile(self) -> None:
        """
        Compile the package, as pip and dpkg do.

        On a busy machine, a worker that compiles it could miss the 15 seconds that it has
        to start.
        """
        compileall.compile_dir(self._package, quiet=1)


def _origin(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _link(original: Path, to: Path) -> None:
    """
    Link all entries of one directory into another, except this package.
    """
    for path in original.iterdir():
        link = to / path.name
        if path.name.startswith(_OURS) or path.name == "dropin.cache":
            continue
        if path.suffix != ".pth" and not link.exists():
            link.symlink_to(path)
