"""
C{pexctl check}: tell whether the service would start with these options.
"""

from __future__ import annotations

import os
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pexservice.cli.output import Result, VerbFailed
from pexservice.cli.verb import STORE_STATUSES, verb

if TYPE_CHECKING:
    from pexservice.settings.options import Settings


@verb(
    "check",
    STORE_STATUSES,
    (),
    "pexctl check --config /etc/pexservice/pexservice.toml",
    usage="[OPTIONS]",
)
def check(arguments: Namespace) -> Result:
    """
    Read options, files, addresses and store as a start would.

    It changes nothing: it creates no store and keeps no address. Run it as the service's
    user, who may not read what you may. It lists what a running service uses, which is not
    an error. OPTIONS are the service's, as --config FILE.
    """
    from attrs import evolve
    from twisted.internet import reactor

    from pexservice.cli.sandbox import problems, properties_of, unit_of
    from pexservice.cli.store_access import settings_of, store_errors
    from pexservice.process.listening import addresses_in_use
    from pexservice.worker.files import read_files

    settings = settings_of(arguments.options)
    with store_errors():
        # read_files would make the access log's file.
        read_files(evolve(settings, access_log=None))
        _check_access_log(settings.access_log)
        in_use = [*addresses_in_use(reactor, settings.listen)]
        note = _check_store(settings, in_use)
    config = next((b for a, b in pairwise(arguments.options) if a == "--config"), None)
    if unit := unit_of(config):
        for problem in problems(settings, unit, properties_of(unit)):
            raise VerbFailed(problem, "misconfigured")
    used = f"; in use now: {', '.join(in_use)}" if in_use else ""
    return Result(f"well{note}{used}", {"outcome": "well", "in_use": in_use})


def _check_access_log(name: str | None) -> None:
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


def _check_store(settings: Settings, in_use: list[str]) -> str:
    """
    Read the store, unless a service uses it.

    @return: a note for the end of the result, or an empty text.
    """
    from pexservice.cli.store_access import ask_shared_store
    from pexservice.stores.interface import StoreBusy
    from pexservice.stores.lmdb.directory import Directory
    from pexservice.stores.lmdb.verify import verify_in_child
    from pexservice.stores.registry import check_start, is_shared

    if is_shared(settings.store):
        facts: list[str] = ask_shared_store(settings, lambda store: store.inspect())
        return f"; {', '.join(facts)}"
    directory = Directory(settings.directory)
    try:
        check_start(settings.store, create=not settings.no_create)
    except StoreBusy:
        in_use.append(f"the store {directory.path}")
        return ""
    if not directory.path.exists() or not directory.holds_store():
        return f"; a new store would be created in {directory.path}"
    directory.own()
    try:
        verify_in_child(directory.path)
    finally:
        directory.release()
    return ""
