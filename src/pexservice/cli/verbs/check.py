"""
C{pexctl check}: whether the service would start with these options.
"""

from __future__ import annotations

import errno
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from pexservice.cli.output import Result, VerbFailed
from pexservice.cli.verb import STORE_STATUSES, Results, verb
from pexservice.core.base_url import MAX_SOCKET_PATH


@verb(
    "check",
    STORE_STATUSES,
    (),
    "pexctl check --config /etc/pexservice/pexservice.toml",
    usage="[OPTIONS]",
)
def check(arguments: Namespace) -> Results:
    """
    Check whether the service would start with these options.

    It reads the options, files, addresses and the store, and changes nothing. Run it as the
    user of the service, because another user may have other permissions. An address or a
    store that a running service uses is listed and is no error. OPTIONS are the options of
    the service, for example --config FILE.
    """
    from pexservice.cli.sandbox import problems, properties_of, unit_of
    from pexservice.cli.twistd import service_options
    from pexservice.cli.verbs.stores import options_for
    from pexservice.client.blocking import wait
    from pexservice.process.listening import addresses_in_use
    from pexservice.process.timing import the_reactor
    from pexservice.stores.errors import StoreBusy
    from pexservice.stores.registry import store_factory
    from pexservice.worker.files import read_files

    options = service_options(arguments.options)
    settings = options.settings()
    read_files(settings)
    _check_access_log(settings.access_log)
    for description in settings.listen:
        if description.startswith("unix:"):
            _check_unix_socket(description)
    in_use = [*addresses_in_use(the_reactor(), settings.listen)]
    store, facts = store_factory(settings.store), []
    try:
        facts = wait(lambda: store.inspect(options_for(settings)))
    except StoreBusy:
        in_use.append(f"the store {store.name}")
    if unit := unit_of(options.given.get("config")):
        for problem in problems(settings, unit, properties_of(unit)):
            raise VerbFailed(problem, "misconfigured")
    note = f"; {', '.join(facts)}" if facts else ""
    in_use_note = f"; in use now: {', '.join(in_use)}" if in_use else ""
    fields = {"outcome": "well", "in_use": in_use, "notes": facts}
    yield Result(f"well{note}{in_use_note}", fields)


def _check_access_log(name: str | None) -> None:
    from pexservice.process.exit_status import cannot_use
    from pexservice.server.access_log import OWN_LOG, AccessLog

    if name is None or name == OWN_LOG:
        return
    path = Path(name)
    try:
        if path.exists():
            AccessLog(name).close()
        else:
            _check_can_create(path)
    except OSError as error:
        raise cannot_use(f"the access log {path}", error) from error


def _check_unix_socket(description: str) -> None:
    """
    Check whether a Unix socket could be made, and make nothing.
    """
    from twisted.internet.endpoints import serverFromString

    from pexservice.process.exit_status import CannotStart, Misconfigured
    from pexservice.process.timing import the_reactor

    endpoint: Any = serverFromString(the_reactor(), description)
    path = Path(endpoint._address)  # noqa: SLF001 it has no public name
    problem = f"cannot listen on {description}"
    try:
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise OSError(errno.ENAMETOOLONG, "the path is too long")  # noqa: TRY301
        if path.exists() and not path.is_socket():
            raise Misconfigured(f"{problem}: {path} exists, and is no socket")
        _check_can_create(path)
    except OSError as error:
        raise CannotStart(f"{problem}: {error.strerror}") from error


def _check_can_create(path: Path) -> None:
    parent = path.absolute().parent
    if not os.access(parent, os.W_OK | os.X_OK):
        parent.stat()
        raise PermissionError(errno.EACCES, "cannot be made there: Permission denied")
