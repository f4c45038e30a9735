"""
Run the commands of the tutorial in a new Debian system, and compare their output.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Self, cast

from attrs import frozen

from tests.support.commands import run_command

ROOT = Path(__file__).parents[2]

PAGE = ROOT / "docs" / "tutorial.md"

#: From this heading on, the commands need no network.  They run without one, because
#: another service on this machine may use the port.
OFFLINE = "## Run"

#: Matches any text in the output; on its own line, any number of lines.
ANYTHING = "…"

#: Creating the system must not take longer.
BOOTSTRAP_TIMEOUT_SECONDS = 900

USER = "newcomer"

#: A prompt with a command, and the lines that follow until the next prompt.
_COMMAND = re.compile(r"(?m)^([$#]) (.*)\n((?:(?![$#] ).*\n)*)")


@frozen
class Command:
    """
    A command of the page.

    @ivar root: root runs the command.
    @ivar prints: the lines that it must print.
    """

    root: bool
    line: str
    prints: tuple[str, ...]

    def matches(self, printed: str) -> bool:
        """
        Return whether C{printed} matches the output on the page.

        JSON from the service has no newline at its end.
        """
        if printed and not printed.endswith("\n"):
            printed += "\n"
        parts = []
        for line in self.prints:
            if line == ANYTHING:
                parts.append("(?:.*\n)*")
            else:
                parts.append(re.escape(line).replace(re.escape(ANYTHING), ".+") + "\n")
        return re.fullmatch("".join(parts), printed) is not None


def commands(page: str) -> list[Command]:
    """
    Return the commands in the page's C{console} blocks.
    """
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```$", page)
    return [
        Command(prompt == "#", line, tuple(prints.splitlines()))
        for block in blocks
        for prompt, line, prints in _COMMAND.findall(block)
    ]


class Shell:
    """
    A shell of one user in the new system.
    """

    def __init__(self, tree: Path, user: str, *, online: bool) -> None:
        # The shell's processes end with it.
        spaces = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={tree}/proc"]
        begin = (
            f"cd ~{user} && exec setpriv --reuid={user} --regid={user} --init-groups bash"
        )
        if not online:
            # The shell reaches nothing but this machine itself.
            spaces.append("--net")
            begin = f"ip link set lo up && {begin}"
        self._process = subprocess.Popen(
            [*spaces, "chroot", str(tree), "bash", "-c", begin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root" if user == "root" else f"/home/{user}",
                "LANG": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive",
                **{name: value for name, value in os.environ.items() if "PROXY" in name},
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """
        End the shell and all its processes.
        """
        self._process.kill()
        self._process.communicate()

    def run(self, line: str) -> tuple[str, int]:
        """
        Run a line, and return its output and its exit status.
        """
        tell, hear = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        mark = "the command has ended with"
        tell.write(f"{line}\nprintf '%s %d\\n' '{mark}' $?\n")
        tell.flush()
        printed: list[str] = []
        for output in hear:
            before, mark_seen, status = output.partition(mark)
            printed.append(before)
            if mark_seen:
                return "".join(printed), int(status)
        raise AssertionError(f"the shell is gone: {line}: {''.join(printed)}")


_run = partial(run_command, timeout=BOOTSTRAP_TIMEOUT_SECONDS)


@contextmanager
def empty_system() -> Iterator[Path]:
    """
    Create a Debian system with common programs, and with this source in a user's home.
    """
    with tempfile.TemporaryDirectory(prefix="tutorial-") as path:
        tree = Path(path) / "tree"
        _run(
            *("mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt/lists"),
            *("--include=ca-certificates,iproute2,util-linux", "trixie", str(tree)),
        )
        # The system trusts the authorities that this machine trusts.
        shutil.copy(
            "/etc/ssl/certs/ca-certificates.crt", tree / "etc/ssl/certs/ca-certificates.crt"
        )
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", tree / "etc" / name)
        _run("chroot", str(tree), "useradd", "--create-home", USER)
        home = tree / "home" / USER
        # The output of curl goes into a pipe here, and curl would draw its progress there.
        (home / ".curlrc").write_text("no-progress-meter\n")
        for name in _run("git", "-C", str(ROOT), "ls-files", "-z").split("\0")[:-1]:
            to = home / "pexservice" / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to)
        _run("chroot", str(tree), "chown", "-R", f"{USER}:", f"/home/{USER}")
        yield tree


def transcript() -> Iterator[tuple[Command, str, int]]:
    """
    Run the page, and return each command with its output and its exit status.
    """
    before, _, after = PAGE.read_text().partition(f"{OFFLINE}\n")
    with empty_system() as tree:
        for part, online in ((before, True), (after, False)):
            with (
                Shell(tree, "root", online=online) as root,
                Shell(tree, USER, online=online) as user,
            ):
                for command in commands(part):
                    yield (command, *(root if command.root else user).run(command.line))
