"""
C{pexctl}, and C{python -m pexservice status|verify|backup}: what an operator asks of a
service and its store.

A result is a line, or with C{--json} an object, on standard output; what is wrong is a
line on standard error too.  Exit statuses are those of L{EPILOGUE}.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import pexservice.process.import_guard  # noqa: F401 before Twisted

# isort: split

from attrs import asdict

from pexservice.client.status import NotReady, Unreachable, is_url, status_of
from pexservice.stores.interface import (
    StoreBusy,
    StoreDamaged,
    StoreIncompatible,
    StoreUnusable,
)
from pexservice.stores.lmdb.backup import backup
from pexservice.stores.lmdb.summary import Summary, existing, summary
from pexservice.stores.lmdb.verify import verify_in_child

#: How it went, in one word, for those who ask for an object.
_OUTCOMES: dict[type[StoreUnusable], str] = {
    StoreDamaged: "damaged",
    StoreIncompatible: "incompatible",
}

#: EX_UNAVAILABLE.
UNREACHABLE_STATUS = 69

EPILOGUE = """\
exit status:
  0   it is well: ready, whole, backed up
  1   it is not ready, or it could not be done
  2   the command line is wrong
  64  the store has another format
  69  nobody answers as a pexservice does
  78  the store is damaged
"""

URL = "http://127.0.0.1:8081"
_URLS = "http://HOST:PORT, https://HOST:PORT or unix:PATH"


def _status(arguments: argparse.Namespace) -> tuple[str, dict[str, object]]:
    status = status_of(arguments.url, arguments.timeout)
    line = f"ready: revision {status.revision}, position {status.position}"
    return line, {"outcome": "ready", **asdict(status)}


def _verify(arguments: argparse.Namespace) -> tuple[str, dict[str, object]]:
    directory = existing(arguments.store)
    try:
        directory.own()
    except StoreBusy as error:
        raise StoreBusy(f"{error}; a backup can be made, and is verified") from None
    try:
        verify_in_child(directory.path)
        found = summary(directory.path)
    finally:
        directory.release()
    return f"{found.store} is whole: {_contents(found)}", {
        "outcome": "whole",
        **asdict(found),
    }


def _backup(arguments: argparse.Namespace) -> tuple[str, dict[str, object]]:
    made = backup(arguments.store, arguments.to)
    return f"{made.store} is a verified backup: {_contents(made)}", {
        "outcome": "backed-up",
        **asdict(made),
    }


def _contents(of: Summary) -> str:
    known = f"revision {of.revision}, position {of.position}, {of.size} bytes"
    if of.witness is None:
        return f"{known}; it has no witness, so this may not be its newest state"
    return known


def _directory(store: str) -> str:
    """
    As C{--store} has it, or the directory itself.
    """
    return store.removeprefix("lmdb:")


def _url(text: str) -> str:
    if not is_url(text):
        raise argparse.ArgumentTypeError(f"{text}: must be {_URLS}")
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text}: must be seconds, more than 0")
    return float(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pexctl",
        description="Look after a pexservice and its store.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        run: Callable[[argparse.Namespace], tuple[str, dict[str, object]]],
        summary: str,
        description: str,
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            run.__name__.strip("_"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {description}".strip(),
            epilog=EPILOGUE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("--json", action="store_true", help="answer an object")
        made.set_defaults(run=run)
        return made

    status = command(_status, "ask a running service whether it takes steps", "")
    status.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        type=_url,
        default=URL,
        help=f"{_URLS} [default: {URL}]",
    )
    status.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long to wait for it [default: 10]",
    )
    verify = command(
        _verify,
        "read a whole store that no service uses",
        "Nothing in it is changed.",
    )
    backing = command(
        _backup,
        "copy a store, also while a service uses it",
        "The copy is one state that was\ncommitted, and is verified; it is a store itself:"
        " start a service on it, or put\nit in the place of one that was lost.",
    )
    for each in (verify, backing):
        each.add_argument(
            "store", metavar="STORE", type=_directory, help="the store's directory"
        )
    backing.add_argument(
        "to", metavar="TO", type=_directory, help="the copy's directory, to be made"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    The command.

    @return: the exit status.
    """
    arguments = _parser().parse_args(argv)
    # So that what was begun is cleaned up.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        line, found = arguments.run(arguments)
    except NotReady as error:
        return _failed(arguments, 1, "not-ready", error)
    except Unreachable as error:
        return _failed(arguments, UNREACHABLE_STATUS, "unreachable", error)
    except StoreUnusable as error:
        return _failed(
            arguments, error.exit_status, _OUTCOMES.get(type(error), "failed"), error
        )
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    sys.stdout.write(f"{json.dumps(found) if arguments.json else line}\n")
    return 0


def _failed(
    arguments: argparse.Namespace, status: int, outcome: str, error: Exception
) -> int:
    if arguments.json:
        sys.stdout.write(f"{json.dumps({'outcome': outcome, 'error': str(error)})}\n")
    sys.stderr.write(f"pexctl: {error}\n")
    return status


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
