"""
The URL of a running service, found in its command line and its configuration file.

The command line names the configuration file.
"""

from __future__ import annotations

import re
from pathlib import Path

from twisted.python.usage import Options, UsageError

from pexservice.cli.outcome import VerbFailed
from pexservice.cli.twistd import ServiceOptions

_COMMAND = "pexservice"

#: The interfaces that stand for every address of the machine, each with one to ask at.
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 compared with


def url_of_process(pid: int) -> str:
    """
    Return the URL of the service with the process id C{pid}.

    Of the addresses that the service was told to listen on, the first that has a URL is
    taken.

    @raise VerbFailed: there is no such address, or the process is no pexservice.
    """
    place = Path(f"/proc/{pid}")
    try:
        words = (place / "cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError as error:
        raise VerbFailed(f"process {pid}: {error.strerror}") from error
    options = ServiceOptions()
    try:
        # ServiceOptions' own parseOptions ends the process where an option is wrong.
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
    Return the options that stand behind the command's name.

    @raise ValueError: the command's name is not in C{words}.
    """
    # The word behind python's -m is the name of the module.
    begin = words.index("-m") + 2 if "-m" in words else 0
    found = words[words.index(_COMMAND, begin) + 1 :]
    if "--config" in found[:-1]:
        at = found.index("--config") + 1
        found[at] = str(directory / found[at])
    return found
