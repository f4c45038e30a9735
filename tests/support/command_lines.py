"""
Command lines that end by themselves: wrong starts, C{--version} and C{--help}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.daemon import run
from tests.support.differences import Answer, Outcome

LOOPBACK = ("--listen", "tcp:0:interface=127.0.0.1")

COMMANDS = ("pexservice", "pexservice-worker")


class CommandLine:
    """
    A command line that ends by itself.

    @ivar options: the options behind the command.
    @ivar files: the files that are in the directory before, by path.
    """

    def __init__(self, *options: str, files: Mapping[str, str] | None = None) -> None:
        self.options = options
        self.files = files or {}

    def run(self, path: Path, command: str, python: str) -> Outcome:
        """
        Run the command line in the new directory C{path}.

        @return: how it ends: its exit status, its output, and which files are there
            behind it.
        """
        path.mkdir(parents=True)
        for name, text in self.files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        ended = run(path, "-n", "--pidfile=", command, *self.options, python=python)
        # When nothing is wrong, the command speaks on standard output.
        output = ended.stderr or ended.stdout
        files = [file for file in path.rglob("*") if file.is_file()]
        same = {
            name: self.files.get(name) == file.read_text("latin-1")
            for file in sorted(files)
            for name in [str(file.relative_to(path))]
        }
        output = output.replace(str(path), "DIRECTORY")
        return (
            Answer(f"exit status {ended.returncode}", body=output.encode()),
            Answer(f"files, and whether they are as before: {same}"),
        )


#: Wrong starts of both commands.
WRONG_STARTS: Mapping[str, CommandLine] = {
    "an address without a kind": CommandLine("--listen", "8081"),
    "an address without a port": CommandLine("--listen", "tcp"),
    "an address of another kind": CommandLine("--listen", "ssl:8081"),
    "an address of nobody here": CommandLine("--listen", "tcp:0:interface=192.0.2.1"),
    "a store of no kind": CommandLine(*LOOPBACK, "--store", "elsewhere"),
    "a store without a place": CommandLine(*LOOPBACK, "--store", "lmdb:"),
    "an etcd without a scheme": CommandLine(*LOOPBACK, "--store", "etcd:127.0.0.1:2379"),
    "not on and not off": CommandLine(*LOOPBACK, "--synchronous-commit", "maybe"),
    "no journal": CommandLine(*LOOPBACK, "--journal", "0"),
    "many in the journal": CommandLine(*LOOPBACK, "--journal", "many"),
    "no connections": CommandLine(*LOOPBACK, "--max-connections", "0"),
    "no requests": CommandLine(*LOOPBACK, "--rate-limit", "0"),
    "any origin": CommandLine(*LOOPBACK, "--cors-origin", "*"),
    "an origin with a path": CommandLine(*LOOPBACK, "--cors-origin", "https://a.example/"),
    "a proxy by name": CommandLine(*LOOPBACK, "--trusted-proxy", "proxy"),
    "a key without its certificate": CommandLine(*LOOPBACK, "--tls-key", "key.pem"),
    "no certificate": CommandLine(
        *LOOPBACK, "--tls-key", "key.pem", "--tls-certificate", "none.pem"
    ),
    "no token file": CommandLine(*LOOPBACK, "--token-file", "none"),
    "a token file without one": CommandLine(
        *LOOPBACK, "--token-file", "t", files={"t": "# none\n"}
    ),
    "a token that is none": CommandLine(
        *LOOPBACK, "--token-file", "t", files={"t": "a b\n"}
    ),
    "no place for a log": CommandLine(*LOOPBACK, "--access-log", "none/log"),
    "an option that is none": CommandLine(*LOOPBACK, "--colour", "red"),
    "an option without a value": CommandLine(*LOOPBACK, "--store"),
    "an argument": CommandLine(*LOOPBACK, "now"),
    "off, and etcd": CommandLine(
        *LOOPBACK, "--synchronous-commit", "off", "--store", "etcd:http://127.0.0.1:1"
    ),
    "a directory of another": CommandLine(
        *LOOPBACK, "--store", "lmdb:letters", files={"letters/a.txt": "hello"}
    ),
    "a damaged store": CommandLine(
        *LOOPBACK, "--store", "lmdb:s", files={"s/data.mdb": "x" * 8192}
    ),
    "a file for a store": CommandLine(*LOOPBACK, "--store", "lmdb:s", files={"s": ""}),
}

#: Wrong starts of the supervisor only.
WRONG_SUPERVISIONS: Mapping[str, CommandLine] = {
    "many standbys": CommandLine(*LOOPBACK, "--standby", "2"),
    "a short watchdog": CommandLine(*LOOPBACK, "--watchdog", "0.1"),
}


def command_lines() -> Iterator[tuple[str, str, CommandLine]]:
    """
    Yield all command lines, each with the name of its case and its command.
    """
    for command in COMMANDS:
        yield f"help/{command} version", command, CommandLine("--version")
        for name, line in WRONG_STARTS.items():
            yield f"start/{command} {name}", command, line
    for name, line in WRONG_SUPERVISIONS.items():
        yield f"start/{name}", "pexservice", line


def help_of(path: Path, command: str, python: str) -> dict[str, Outcome]:
    """
    Return by case each option that C{--help} shows, and its description.
    """
    ended = run(path, command, "--help", python=python)
    assert (ended.returncode, ended.stderr) == (0, "")
    section = name = "beginning"
    texts: dict[str, str] = {}
    for line in ended.stdout.splitlines():
        option = re.match(r"  (-\S*(?: \S+)*?)(?:  +(.*))?$", line)
        if option:
            name = option[1]
            texts[name] = f"{section} {option[2] or ''}"
        elif line.startswith("   "):
            texts[name] += f" {line.strip()}"
        elif line:
            section = line
            texts[f"line: {line}"] = line
    return {
        f"help/{command} {name}": (Answer("", body=" ".join(text.split()).encode()),)
        for name, text in texts.items()
    }
