"""
C{pexctl backup}: copy a store.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_directory
from pexservice.cli.outcome import Result

SUMMARY = "copy a store, also while a service uses it"
DESCRIPTION = """\
The copy is one state that was
committed, and is verified; it is a store itself: start a service on it, or put
it in the place of one that was lost."""


def add_arguments(parser: ArgumentParser) -> None:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    add_directory(parser, "store", "the store's directory")
    add_directory(parser, "to", "the copy's directory, to be made")


def run(arguments: Namespace) -> Result:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    from attrs import asdict

    from pexservice.cli.local_store import contents, failing_as_a_verb
    from pexservice.cli.output import ProgressBar
    from pexservice.stores.lmdb.backup import backup

    with failing_as_a_verb(), ProgressBar() as bar:
        made = backup(arguments.store, arguments.to, bar.show)
    return Result(
        f"{made.store} is a verified backup: {contents(made)}",
        {"outcome": "backed-up", **asdict(made)},
    )
