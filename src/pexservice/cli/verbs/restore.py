"""
C{pexctl restore}: put a backup in the place of a store.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pexservice.cli.arguments import add_directory, number
from pexservice.cli.output import Result

#: The value of C{--beyond} without a number, and how far beyond the replaced store's
#: revision the restored one then continues.
_FROM_STORE = -1
_MARGIN = 1_000_000


def add_arguments(parser: ArgumentParser) -> None:
    add_directory(parser, "directory", "the backup's directory")
    parser.add_argument(
        "--to",
        metavar="STORE",
        required=True,
        type=lambda text: text.removeprefix("lmdb:"),
        help="the store's directory",
    )
    parser.add_argument(
        "--beyond",
        metavar="N",
        nargs="?",
        const=_FROM_STORE,
        type=number(0),
        help="the highest revision that a client has seen [without N: the highest revision"
        f" in the replaced store or its witness, plus {_MARGIN:,}]",
    )


def run(arguments: Namespace) -> Result:
    from attrs import asdict

    from pexservice.cli.output import ProgressBar
    from pexservice.cli.store_access import contents, failing_as_a_verb
    from pexservice.stores.lmdb.restore import restore

    with failing_as_a_verb(), ProgressBar() as bar:
        beyond, origin = arguments.beyond, ""
        if beyond == _FROM_STORE:
            highest, origin = _highest_revision(arguments.to)
            beyond = highest + _MARGIN
            origin = f"; beyond revision {beyond}: {highest} {origin}, plus {_MARGIN:,}"
        done = restore(arguments.directory, arguments.to, beyond, bar.show)
    kept = "" if done.kept is None else f"; the replaced store is {done.kept}"
    return Result(
        f"{done.store.store} is restored: {contents(done.store)}{origin}{kept}",
        {
            "outcome": "restored",
            "steps": done.steps,
            "beyond": beyond,
            "kept": None if done.kept is None else str(done.kept),
            **asdict(done.store),
        },
    )


def _highest_revision(store: str) -> tuple[int, str]:
    """
    Return the highest revision of the store that is replaced, and its origin in words.
    """
    from pexservice.stores.interface import StoreUnusable
    from pexservice.stores.lmdb.summary import summary
    from pexservice.stores.lmdb.verify import verify_in_child
    from pexservice.stores.lmdb.witness import read_witness

    path = Path(store)
    try:
        witness = read_witness(path)
        if witness is not None:
            return witness.revision, "in the witness of the replaced store"
        # In a child, because reading a damaged store may end the process.
        verify_in_child(path)
        return summary(path).revision, "in the replaced store"
    except (OSError, StoreUnusable) as error:
        raise StoreUnusable(
            f"--beyond requires a number: the revision of {store} cannot be read: {error}"
        ) from error
