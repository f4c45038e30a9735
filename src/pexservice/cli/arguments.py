"""
The arguments that several verbs of C{pexctl} share.
"""

from __future__ import annotations

import math
import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pexservice.cli.output import WRONG_ARGUMENTS, VerbFailed

#: The URL of a service where neither the command line nor the environment names one.
URL = "http://127.0.0.1:8081"

URLS = "http://HOST:PORT, https://HOST:PORT, http+unix://%2FPATH%2FOF%2FSOCKET or unix:PATH"

_WITHOUT_SCHEME = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[!-~]*)?"
)


def _directory(store: str) -> str:
    """
    Return the directory of C{store}, which may be written as C{--store} takes it.
    """
    if re.match(r"(etcd:)?https?://|etcd:", store):
        raise ArgumentTypeError(
            f"{store}: this is a store in etcd; this command requires the directory of a"
            " store on disk. To copy a store in etcd, use etcdctl snapshot save"
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
    Return the positive number of seconds in C{text}.
    """
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or not float(text):
        raise ArgumentTypeError(f"{text}: must be a number of seconds greater than 0")
    return float(text)


def number(minimum: int, maximum: float = math.inf) -> Callable[[str], int]:
    """
    Return a parser of whole numbers from C{minimum} to C{maximum}.
    """
    limits = f"{minimum} or more" if maximum == math.inf else f"{minimum} to {maximum}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text) or not minimum <= int(text) <= maximum:
            raise ArgumentTypeError(f"{text}: must be a number, {limits}")
        return int(text)

    return parse


def is_url(url: str) -> bool:
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


def base_url(text: str) -> str:
    """
    Return C{text} as a base URL; C{http://} is assumed if it names no scheme.
    """
    if not is_url(text) and _WITHOUT_SCHEME.fullmatch(text):
        text = f"http://{text}"
    if not is_url(text):
        raise ArgumentTypeError(f"{text}: must be {URLS}")
    return text


def add_server(parser: ArgumentParser, *, several: bool = True) -> None:
    """
    Add the arguments for the service's address.

    @param several: whether the service may have several addresses.
    """
    repeatable = "; may be repeated, for nodes that are tried in turn" if several else ""
    parser.add_argument(
        "--url",
        metavar="URL",
        action="append",
        type=base_url,
        help=f"{URLS.replace('%', '%%')}{repeatable} [default: PEXSERVICE_URL, or {URL}]",
    )
    parser.add_argument(
        "--ca-file",
        metavar="PEM",
        help="a file of authorities to trust instead of the system's",
    )


def add_service(parser: ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="send the first token in this file [default: PEXSERVICE_TOKEN, or none]",
    )
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=seconds,
        default=30.0,
        help="how long to try, with all attempts [default: 30]",
    )


def urls_of(arguments: Namespace) -> list[str]:
    """
    Return the base URLs that a verb calls.

    @raise VerbFailed: C{PEXSERVICE_URL} is not a list of base URLs.
    """
    options: list[str] | None = arguments.url
    if options:
        return options
    try:
        return [
            base_url(word) for word in os.environ.get("PEXSERVICE_URL", "").split()
        ] or [URL]
    except ArgumentTypeError as error:
        raise VerbFailed(f"PEXSERVICE_URL: {error}", exit_status=WRONG_ARGUMENTS) from error


def token_of(arguments: Namespace) -> str | None:
    """
    Return the token that a verb sends, or C{None}.

    @raise VerbFailed: the token file cannot be read, or contains no token.
    """
    name: str | None = arguments.token_file
    if name is None:
        return os.environ.get("PEXSERVICE_TOKEN") or None
    try:
        lines = Path(name).read_text("ascii").splitlines()
    except UnicodeDecodeError:
        problem = "the file is not plain ASCII"
    except OSError as error:
        problem = error.strerror or str(error)
    else:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                return line.strip()
        problem = "the file contains no token"
    raise VerbFailed(
        f"--token-file {name}: {problem}",
        exit_status=WRONG_ARGUMENTS,
    )
