"""
C{pexctl check}: tell whether the service would start with these options.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import pairwise
from typing import TYPE_CHECKING

from pexservice.cli.output import Result

if TYPE_CHECKING:
    from pexservice.settings.options import Settings


def add_arguments(parser: ArgumentParser) -> None:
    """
    Describe the service's options, which C{pexctl} hands over as they are.
    """
    parser.usage = "pexctl check [-h] [--json] [OPTIONS]"
    parser.epilog = f"OPTIONS are the service's, as --config FILE.\n\n{parser.epilog}"
    # The options that this parser does not know are put here.
    parser.set_defaults(options=[])


def run(arguments: Namespace) -> Result:
    """
    Check the options, the files, the addresses and the store.
    """
    from attrs import evolve
    from twisted.internet import reactor

    from pexservice.cli.output import VerbFailed
    from pexservice.cli.store_access import failing_as_a_verb
    from pexservice.process.exit_status import CannotStart, Status
    from pexservice.process.listening import addresses_in_use
    from pexservice.worker.files import read_files

    settings = settings_of(arguments.options)
    in_use: list[str] = []
    try:
        # read_files would make the access log's file.
        read_files(evolve(settings, access_log=None))
        _check_access_log(settings.access_log)
        in_use += addresses_in_use(reactor, settings.listen)
    except CannotStart as error:
        outcome = "misconfigured" if error.exit_status == Status.MISCONFIGURED else "failed"
        raise VerbFailed(str(error), outcome, error.exit_status) from error
    with failing_as_a_verb():
        note = _check_store(settings, in_use)
    _check_sandbox(arguments.options, settings)
    used = f"; in use now: {', '.join(in_use)}" if in_use else ""
    return Result(f"well{note}{used}", {"outcome": "well", "in_use": in_use})


def settings_of(words: list[str]) -> Settings:
    """
    Return the settings of a service with the options C{words}.

    @raise VerbFailed: an option is wrong.
    """
    from twisted.python.usage import Options, UsageError

    from pexservice.cli.output import VerbFailed
    from pexservice.cli.twistd import ServiceOptions
    from pexservice.process.exit_status import Status

    options = ServiceOptions()
    try:
        # ServiceOptions' own parseOptions ends the process where an option is wrong.
        Options.parseOptions(options, words)
    except UsageError as error:
        raise VerbFailed(
            options.explained(str(error)), "misconfigured", Status.MISCONFIGURED
        ) from error
    return options.settings()


def _check_access_log(name: str | None) -> None:
    import os
    from pathlib import Path

    from pexservice.process.exit_status import cannot_use
    from pexservice.server.access_log import OWN_LOG

    if name is None or name == OWN_LOG:
        return
    path = Path(name)
    try:
        if path.exists():
            path.open("ab").close()
        elif not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            path.parent.stat()
            raise PermissionError(13, "cannot be made there: Permission denied")
    except OSError as error:
        raise cannot_use(f"the access log {path}", error) from error


def _check_sandbox(words: list[str], settings: Settings) -> None:
    from pexservice.cli.output import VerbFailed
    from pexservice.cli.sandbox import problems, properties_of, unit_of
    from pexservice.process.exit_status import Status

    config = next((b for a, b in pairwise(words) if a == "--config"), None)
    unit = unit_of(config)
    if unit is None:
        return
    for problem in problems(settings, unit, properties_of(unit)):
        raise VerbFailed(problem, "misconfigured", Status.MISCONFIGURED)


def _check_store(settings: Settings, in_use: list[str]) -> str:
    """
    Read the store, unless a service uses it.

    @return: a note for the end of the result, or an empty text.
    """
    from pexservice.cli.store_access import ask_store
    from pexservice.stores.interface import StoreBusy
    from pexservice.stores.lmdb.directory import Directory
    from pexservice.stores.lmdb.verify import verify_in_child
    from pexservice.stores.registry import check_start, is_shared

    if is_shared(settings.store):
        facts: list[str] = ask_store(settings, lambda store: store.inspect())
        return f"; {', '.join(facts)}"
    directory = Directory(settings.directory)
    try:
        check_start(settings.store, create=not settings.no_create)
    except StoreBusy:
        in_use.append(f"the store {directory.path}")
        return ""
    if not directory.path.exists() or not directory.holds_a_store():
        return f"; a new store would be created in {directory.path}"
    directory.own()
    try:
        verify_in_child(directory.path)
    finally:
        directory.release()
    return ""
