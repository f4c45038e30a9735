"""
Where a running service can be asked: as its own command line, and the configuration file
that this names, tell it.
"""

from __future__ import annotations

import re
from pathlib import Path

from twisted.python.usage import Options, UsageError

from pexservice.cli.outcome import VerbFailed
from pexservice.cli.twistd import ServiceOptions

_COMMAND = "pexservice"

#: What stands for every address of the machine, and one of them.
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 compared with


def url_of_process(pid: int) -> str:
    """
    Return the URL of the first address that the service with the process id C{pid} was
    told to listen on, and that has one.

    @raise VerbFailed: there is none.
    """
    place = Path(f"/proc/{pid}")
    try:
        words = (place / "cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError as error:
        raise VerbFailed(f"process {pid}: {error.strerror}") from error
    options = ServiceOptions()
    try:
        # Our own form of it ends the process.
        Options.parseOptions(options, _options(words, place / "cwd"))
    except (UsageError, ValueError) as error:
        raise VerbFailed(f"process {pid} is no pexservice: {error}") from error
    settings = options.settings()
    scheme = "http" if settings.tls is None else "https"
    for each in settings.listen:
        kind, *parts = [part.replace("\\:", ":") for part in re.split(r"(?<!\\):", each)]
        named = dict(part.partition("=")[::2] for part in parts if "=" in part)
        plain = [part for part in parts if "=" not in part]
        if kind in ("tcp", "tcp6"):
            interface = named.get("interface", "::" if kind == "tcp6" else "")
            host = str(_ANY.get(interface, interface))
            port = named.get("port") or plain[0]
            return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        if kind == "unix" and scheme == "http":
            path = named.get("address") or plain[0]
            return f"unix:{place / 'cwd' / path}"
    raise VerbFailed(f"process {pid} was not told of an address that can be asked")


def _options(words: list[str], directory: Path) -> list[str]:
    """
    Return what stands behind the command's name.

    @raise ValueError: it is not there.
    """
    # Behind python's -m it is the module's name.
    begin = words.index("-m") + 2 if "-m" in words else 0
    found = words[words.index(_COMMAND, begin) + 1 :]
    if "--config" in found[:-1]:
        at = found.index("--config") + 1
        found[at] = str(directory / found[at])
    return found
