"""
C{pexctl advance}: continue a restored store on etcd at a higher revision.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.output import Result


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--store", metavar="URL", required=True, help="etcd:http://HOST:PORT"
    )
    parser.add_argument("revision", metavar="REVISION", type=int, help="the new revision")


def run(arguments: Namespace) -> Result:
    from pexservice.cli.store_access import ask_store, failing_as_a_verb
    from pexservice.settings.options import Settings

    with failing_as_a_verb():
        revision, position = ask_store(
            Settings(store=arguments.store),
            lambda store: store.advance(arguments.revision),
        )
    return Result(
        f"the cursor is at revision {revision}, position {position}",
        {"outcome": "advanced", "revision": revision, "position": position},
    )
