"""
C{pexctl restore}: put a backup in the place of a store.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_directory, number
from pexservice.cli.outcome import Result


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
        type=number(0),
        help="the highest revision that a client has seen",
    )


def run(arguments: Namespace) -> Result:
    from attrs import asdict

    from pexservice.cli.local_store import contents, failing_as_a_verb
    from pexservice.cli.output import ProgressBar
    from pexservice.stores.lmdb.restore import restore

    with failing_as_a_verb(), ProgressBar() as bar:
        done = restore(arguments.directory, arguments.to, arguments.beyond, bar.show)
    kept = "" if done.kept is None else f"; the replaced store is {done.kept}"
    return Result(
        f"{done.store.store} is restored: {contents(done.store)}{kept}",
        {
            "outcome": "restored",
            "steps": done.steps,
            "kept": None if done.kept is None else str(done.kept),
            **asdict(done.store),
        },
    )
