"""
Arguments that several verbs of C{pexctl} take.
"""

from __future__ import annotations

import math
import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pexservice.cli.outcome import WRONG_ARGUMENTS, VerbFailed

#: The URL of a service where neither the command line nor the environment names one.
URL = "http://127.0.0.1:8081"

URLS = "http://HOST:PORT, https://HOST:PORT, http+unix://%2FPATH%2FOF%2FSOCKET or unix:PATH"

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}/?")


def _directory(store: str) -> str:
    """
    Return the directory of C{store}, which may be written as C{--store} takes it.
    """
    if re.match(r"(etcd:)?https?://|etcd:", store):
        raise ArgumentTypeError(
            f"{store}: this is a store in etcd, and here it takes the directory of one on"
            " disk; etcd's own tool copies and checks what it keeps: etcdctl snapshot save"
        )
    return store.removeprefix("lmdb:")


def add_directory(
    parser: ArgumentParser, name: str, words: str, *, optional: bool = False
) -> None:
    """
    Add the argument C{name}, the directory of a store.
    """
    parser.add_argument(
        name,
        metavar=name.upper(),
        type=_directory,
        nargs="?" if optional else None,
        help=words,
    )


def seconds(text: str) -> float:
    """
    Return the seconds, more than 0, that C{text} names.
    """
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or not float(text):
        raise ArgumentTypeError(f"{text}: must be seconds, more than 0")
    return float(text)


def number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """
    Make a parser of whole numbers from C{least} to C{most}.
    """
    limits = f", {least} or more" if most == math.inf else f" from {least} to {most}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text}: must be a number{limits}")
        return int(text)

    return parse


def is_url(url: str) -> bool:
    """
    Tell whether C{url} is a base URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.query or parts.fragment or not url.isascii():
        return False
    if parts.scheme in ("unix", "http+unix"):
        return bool((parts.netloc + parts.path).strip("/"))
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def url(text: str) -> str:
    """
    Return C{text} as a base URL; a host and a port alone get C{http://} in front.
    """
    if not is_url(text) and _HOST_AND_PORT.fullmatch(text):
        text = f"http://{text}"
    if not is_url(text):
        raise ArgumentTypeError(f"{text}: must be {URLS}")
    return text


def add_server(parser: ArgumentParser, *, several: bool = True) -> None:
    """
    Add the arguments that say where a service is.

    @param several: whether the service may be at several addresses.
    """
    again = "; may be repeated, for nodes that are tried in turns" if several else ""
    parser.add_argument(
        "--url",
        metavar="URL",
        action="append",
        type=url,
        help=f"{URLS.replace('%', '%%')}{again} [default: PEXSERVICE_URL, or else {URL}]",
    )
    parser.add_argument(
        "--ca-file",
        metavar="PEM",
        help="the authorities to trust instead of the system's",
    )


def add_service(parser: ArgumentParser) -> None:
    """
    Add the arguments of a verb that calls a service.
    """
    add_server(parser)
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="the file whose first token is sent [default: PEXSERVICE_TOKEN, or none]",
    )
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=seconds,
        default=30.0,
        help="how long to try [default: 30]",
    )


def urls_of(arguments: Namespace) -> list[str]:
    """
    Return the base URLs that a verb is to call.

    @raise VerbFailed: C{PEXSERVICE_URL} names something that is no base URL.
    """
    given: list[str] | None = arguments.url
    if given:
        return given
    found = os.environ.get("PEXSERVICE_URL", "").split() or [URL]
    for each in found:
        if not is_url(each):
            raise VerbFailed(
                f"PEXSERVICE_URL: {each}: must be {URLS}", exit_status=WRONG_ARGUMENTS
            )
    return found


def token_of(arguments: Namespace) -> str | None:
    """
    Return the token that a verb is to send, or C{None}.

    @raise VerbFailed: the token file cannot be read, or has no token in it.
    """
    name: str | None = arguments.token_file
    if name is None:
        return os.environ.get("PEXSERVICE_TOKEN") or None
    try:
        lines = Path(name).read_text("ascii").splitlines()
    except UnicodeDecodeError:
        problem = "it is not plain ASCII"
    except OSError as error:
        problem = error.strerror or str(error)
    else:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                return line.strip()
        problem = "there is no token in it"
    raise VerbFailed(
        f"--token-file {name}: {problem}",
        exit_status=WRONG_ARGUMENTS,
    )
