"""
Parsers of the options' values; those of numbers and words are in C{option.py}.

If a text is wrong, a parser raises C{ValueError}, whose message says what the text must be.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path

from twisted.internet import endpoints

from pexservice.process.listening import ALL_OF_SYSTEMD
from pexservice.settings.option import did_you_mean
from pexservice.stores.registry import store_factory

#: The kinds of endpoints that a worker can listen on, and their forms.  C{fd:} is a socket
#: that a supervisor passes to its workers.
ENDPOINT_FORMS = {
    "tcp": ("tcp:PORT", "tcp:PORT:interface=ADDRESS"),
    "tcp6": ("tcp6:PORT", "tcp6:PORT:interface=ADDRESS with a \\ before each : of it"),
    "unix": ("unix:PATH", "unix:PATH:mode=660"),
    "systemd": (ALL_OF_SYSTEMD, "systemd:domain=INET:index=0"),
    "fd": ("fd:NUMBER",),
}

_KINDS = "tcp:PORT, tcp6:PORT, unix:PATH or systemd:all"

_NO_SYSTEMD_SOCKET = (
    f"systemd has passed no such socket; {ALL_OF_SYSTEMD} takes all, systemd:domain=INET:"
    "index=0 the first, in a service that has a socket unit"
)

#: A host and a port as in a URL or as in the options of other programs.
_HOST_AND_PORT = re.compile(r"(?:https?://)?\[?([0-9a-zA-Z.:-]*?)\]?:([0-9]{1,5})/?")

_FD_FORM = re.compile(r"fd:[0-9]{1,9}")

_PORT_FORM = re.compile(r"[0-9]{1,5}")
_MAX_PORT = 65535

#: RFC 6454's serialization of an origin, as browsers send it.
_WEB_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")

_HOST_NAME = re.compile(r"\*|[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")


def store_url(url: str) -> str:
    """
    Check the URL of a store; nothing is opened.
    """
    store_factory(url)
    return url


def absolute_path(path: str, directory: Path) -> str:
    """
    Make C{path} absolute, except C{-}, which stands for standard output.
    """
    return path if path == "-" else str(directory / path)


def absolute_endpoint(description: str, directory: Path) -> str:
    """
    Return a description of an endpoint, in which the path of a Unix socket is absolute.
    """
    kind, _, path = description.partition(":")
    return f"unix:{directory / path}" if kind == "unix" else description


def endpoint(description: str) -> str:
    """
    Check the description of a server endpoint; nothing is opened.
    """
    if description == ALL_OF_SYSTEMD or _FD_FORM.fullmatch(description):
        return description
    kind, *words = description.split(":")
    if kind not in ENDPOINT_FORMS:
        raise ValueError(f"must be {_KINDS}{_suggest_endpoint(description)}")
    if kind.startswith("tcp"):
        # The port is the first word, or follows port=.
        named = [word.removeprefix("port=") for word in words if word.startswith("port=")]
        port = (named or words or [""])[0]
        if not _PORT_FORM.fullmatch(port) or int(port) > _MAX_PORT:
            raise ValueError(f"the port must be a number up to {_MAX_PORT}")
    if kind == "unix" and words[:1] == [""]:
        raise ValueError("the path is empty")
    try:
        # Nothing is opened, so no reactor is needed.
        endpoints.serverFromString(None, description)
    except (TypeError, ValueError, LookupError) as error:
        form = f"must be {' or '.join(ENDPOINT_FORMS[kind])}"
        raise ValueError(_NO_SYSTEMD_SOCKET if kind == "systemd" else form) from error
    return description


def _suggest_endpoint(description: str) -> str:
    """
    Suggest the endpoint that the operator probably meant.
    """
    head = description.partition(":")[0]
    if description.isdecimal():
        likely = f"tcp:{description}:interface=127.0.0.1"
    elif description.startswith("/"):
        likely = f"unix:{description}"
    elif get_close_matches(head, ENDPOINT_FORMS, 1):
        return did_you_mean(head, list(ENDPOINT_FORMS), "{}:")
    elif match := _HOST_AND_PORT.fullmatch(description):
        host, port = match.groups()
        escaped = "127.0.0.1" if host in ("", "localhost") else host.replace(":", "\\:")
        kind = "tcp6" if ":" in host else "tcp"
        likely = f"{kind}:{port}:interface={escaped}"
    else:
        return ""
    return f" (did you mean {likely}?)"


def origin(text: str) -> str:
    if not _WEB_ORIGIN.fullmatch(text):
        raise ValueError("must be an origin as https://example.org, without a path")
    return text


def address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address") from None
    return text


def host_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise ValueError("must be a host name without a port, or *")
    return text
