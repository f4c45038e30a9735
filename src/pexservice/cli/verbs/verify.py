"""
C{pexctl verify}: check that a store contains what was written to it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_directory
from pexservice.cli.output import Result


def add_arguments(parser: ArgumentParser) -> None:
    add_directory(parser, "store", "the store's directory")


def run(arguments: Namespace) -> Result:
    from attrs import asdict

    from pexservice.cli.output import ProgressBar
    from pexservice.cli.store_access import contents, failing_as_a_verb
    from pexservice.stores.interface import StoreBusy
    from pexservice.stores.lmdb.summary import existing, summary
    from pexservice.stores.lmdb.verify import verify_in_child

    with failing_as_a_verb():
        directory = existing(arguments.store)
        try:
            directory.own()
        except StoreBusy as error:
            raise StoreBusy(f"{error}; make a backup, which is verified") from None
        try:
            with ProgressBar() as bar:
                verify_in_child(
                    directory.path, lambda percent: bar.show("verifying", percent)
                )
            found = summary(directory.path)
        finally:
            directory.release()
    return Result(
        f"{found.store} is whole: {contents(found)}",
        {"outcome": "whole", **asdict(found)},
    )
