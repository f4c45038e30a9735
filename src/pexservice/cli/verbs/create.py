"""
C{pexctl create}: create an empty store.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.output import Result


def add_arguments(parser: ArgumentParser) -> None:
    """
    Describe the service's options, of which those about the store count.
    """
    parser.usage = "pexctl create [-h] [--json] [--config FILE | --store URL]"
    # The options that this parser does not know are put here.
    parser.set_defaults(options=[])


def run(arguments: Namespace) -> Result:
    """
    Create the store that the options name.
    """
    from pexservice.cli.store_access import failing_as_a_verb, options_for, wait_for
    from pexservice.cli.verbs.check import settings_of
    from pexservice.stores.registry import create_store, name_of

    settings = settings_of(arguments.options)
    with failing_as_a_verb():
        wait_for(lambda: create_store(settings.store, options_for(settings)))
    name = name_of(settings.store)
    return Result(
        f"{name}: a new store was created, at revision 0, position 0",
        {"outcome": "created", "store": name},
    )
