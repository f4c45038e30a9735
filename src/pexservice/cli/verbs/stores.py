"""
The verbs that work on a store: C{create}, C{verify}, C{backup}, C{restore}, C{advance}.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict, evolve

from pexservice.cli.output import WRONG_ARGUMENTS, ProgressBar, Result, VerbFailed
from pexservice.cli.verb import STORE_STATUSES, Results, argument, verb
from pexservice.settings.option import number

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from pexservice.core.cursor import Cursor
    from pexservice.settings.options import Settings
    from pexservice.stores.factory_interface import (
        IOfflineStore,
        IStoreFactory,
        StoreOptions,
        StoreSummary,
    )

#: The value of C{--beyond} without a number.  Then the highest revision in the replaced
#: store, plus a margin, is used.
_FROM_STORE = -1
_MARGIN = 1_000_000


def _store_on_disk(name: str) -> IOfflineStore:
    """
    Return the store or the backup C{name}, a directory or a URL as in C{--store}.

    It need not exist.
    """
    from pexservice.stores.registry import offline_store

    return offline_store(name)


def _store_on_etcd(url: str) -> IStoreFactory:
    """
    Return the factory of the store at C{url}, which many nodes share.
    """
    from pexservice.stores.registry import store_factory

    factory = store_factory(url)
    if not factory.shared:
        raise ValueError("must be a store on etcd, etcd:http://HOST:PORT")
    return factory


def options_for(settings: Settings) -> StoreOptions:
    """
    Return the options with which a verb opens the store of C{settings}.
    """
    from pexservice.process.timing import the_reactor
    from pexservice.stores.factory_interface import StoreOptions

    return StoreOptions(
        reactor=the_reactor(),
        journal=settings.journal,
        create=not settings.no_create,
    )


def _contents(summary: StoreSummary) -> str:
    line = f"revision {summary.revision}, position {summary.position}, {summary.size} bytes"
    if summary.witness is None:
        line += "; it has no witness, so this may not be its newest state"
    return line


@verb(
    "create",
    STORE_STATUSES,
    (),
    "pexctl create --config /etc/pexservice/pexservice.toml",
    "pexctl create --store lmdb:/srv/pexservice",
    usage="[--config FILE | --store URL]",
)
def create(arguments: Namespace) -> Results:
    """
    Create an empty store.

    It refuses if there is a store. A service with no-create in its configuration file does
    not create its store itself, so it needs this command.
    """
    from pexservice.cli.twistd import service_options
    from pexservice.client.blocking import wait
    from pexservice.stores.registry import store_factory

    # C{no-create} is for the service, and this verb creates a store nevertheless.
    settings = evolve(service_options(arguments.options).settings(), no_create=False)
    factory = store_factory(settings.store)
    wait(lambda: factory.create(options_for(settings)))
    yield Result(
        f"{factory.name}: a new store was created, at revision 0, position 0",
        {"outcome": "created", "store": factory.name},
    )


@verb(
    "verify",
    STORE_STATUSES,
    [argument("store", "STORE", "the store's directory", _store_on_disk)],
    "pexctl verify pexservice-data",
)
def verify(arguments: Namespace) -> Results:
    """
    Read and verify a whole store that no service uses.

    It changes nothing.
    """
    with ProgressBar() as bar:
        summary = arguments.store.verify(bar.show)
    yield Result(
        f"{summary.store} is whole: {_contents(summary)}",
        {"outcome": "whole", **asdict(summary)},
    )


@verb(
    "backup",
    STORE_STATUSES,
    [
        argument(
            "store",
            "STORE",
            "the store's directory, unless --config names it",
            _store_on_disk,
            nargs="?",
        ),
        argument(
            "to",
            "TO",
            "the new directory for the copy; with --keep, the directory of all copies",
            _store_on_disk,
        ),
        argument(
            "--config",
            "FILE",
            "copy the store that this configuration file of the service names",
        ),
        argument(
            "--keep",
            "N",
            "name the copy by the time, and remove all copies in TO but the newest N, also"
            " copies of other stores",
            number(1),
        ),
        argument(
            "--textfile",
            "FILE",
            "write metrics of the backups for Prometheus' node exporter; requires --keep",
        ),
    ],
    "pexctl backup pexservice-data monday",
    "pexctl backup pexservice-data /var/backups/pexservice --keep 7",
)
def backup(arguments: Namespace) -> Results:
    """
    Copy a store, also while a service uses it.

    The copy has one committed state, and is verified. The copy is a store: a service can
    use it, or pexctl restore can put it in the place of a lost store.
    """
    if (arguments.store is None) is (arguments.config is None):
        message = "name the STORE or --config FILE, and not both"
        raise VerbFailed(message, exit_status=WRONG_ARGUMENTS)
    if arguments.textfile is not None and arguments.keep is None:
        raise VerbFailed("--textfile requires --keep", exit_status=WRONG_ARGUMENTS)
    directory = arguments.to.directory
    store = arguments.store or _configured_store(arguments.config)
    failed = True
    try:
        with ProgressBar() as bar:
            copy = store.backup(directory, arguments.keep, bar.show)
        failed = False
    finally:
        if arguments.textfile is not None:
            _write_textfile(arguments.textfile, store, directory, failed=failed)
    yield Result(
        f"{copy.store} is a verified backup: {_contents(copy)}",
        {"outcome": "backed-up", **asdict(copy)},
    )


def _configured_store(path: str) -> IOfflineStore:
    """
    Return the store that the configuration file C{path} names.

    @raise VerbFailed: the file is wrong, or its store is not on this machine's disk.
    """
    from pexservice.cli.twistd import service_options
    from pexservice.stores.registry import store_factory

    store = service_options(["--config", path]).given.get("store")
    try:
        return store_factory(store or "").offline()
    except ValueError as error:
        reason = f"the configuration file {path}: store = {store!r}: {error}"
        raise VerbFailed(reason, "misconfigured") from error


def _write_textfile(
    name: str, store: IOfflineStore, directory: str, *, failed: bool
) -> None:
    """
    Write the metrics of the backups into a file that every user may read.

    The file is replaced in one atomic step, so no reader gets a part of it.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()

    def add(suffix: str, meaning: str, value: float) -> None:
        gauge = Gauge(f"pexservice_backup_{suffix}", meaning, ["store"], registry=registry)
        gauge.labels(str(Path(store.directory).absolute())).set(value)

    try:
        backups = store.backups(directory)
    except OSError:
        backups = []
    add("failed", "Whether the last backup failed.", failed)
    add("kept", "Verified backups that there are.", len(backups))
    if backups:
        meaning = "When the newest verified backup was begun, in seconds since 1970."
        add("last_success_timestamp_seconds", meaning, int(backups[-1].time))
        if (revision := backups[-1].revision) is not None:
            add("revision", "The revision of the newest verified backup.", revision)
    try:
        write_to_textfile(name, registry)
        Path(name).chmod(0o644)
    except OSError as error:
        raise VerbFailed(f"the metrics {name}: {error.strerror}") from error


@verb(
    "restore",
    STORE_STATUSES,
    [
        argument("backup", "DIRECTORY", "the backup's directory", _store_on_disk),
        argument("--to", "STORE", "the store's directory", _store_on_disk, required=True),
        argument(
            "--beyond",
            "N",
            "the highest revision that a client has seen [without N: the highest revision"
            f" in the replaced store or its witness, plus {_MARGIN:,}]",
            number(0),
            nargs="?",
            const=_FROM_STORE,
        ),
    ],
    "pexctl restore monday --to pexservice-data --beyond 6391",
)
def restore(arguments: Namespace) -> Results:
    """
    Put a backup in the place of a store that no service uses.

    It verifies a copy of the backup, puts the copy in the place of the store in one atomic
    step, and keeps the replaced directory under another name. Without --beyond, revisions
    that clients saw after the backup are used again for other steps. With --beyond and the
    highest of these revisions, restore makes steps until the revision is higher. These
    steps do not change the position.
    """
    from pexservice.stores.errors import StoreError

    beyond, origin = arguments.beyond, ""
    if beyond == _FROM_STORE:
        try:
            highest, origin = arguments.to.highest_revision()
        except (OSError, StoreError) as error:
            raise VerbFailed(
                "--beyond requires a number: the revision of"
                f" {arguments.to.directory} cannot be read: {error}"
            ) from error
        beyond = highest + _MARGIN
        origin = f"; beyond revision {beyond}: {highest} {origin}, plus {_MARGIN:,}"
    with ProgressBar() as bar:
        restored = arguments.to.restore(arguments.backup.directory, beyond, bar.show)
    store, kept = restored.summary, restored.kept
    replaced = "" if kept is None else f"; the replaced store is {kept}"
    yield Result(
        f"{store.store} is restored: {_contents(store)}{origin}{replaced}",
        {
            "outcome": "restored",
            "steps": restored.steps,
            "beyond": beyond,
            "kept": None if kept is None else str(kept),
            **asdict(store),
        },
    )


@verb(
    "advance",
    STORE_STATUSES,
    [
        argument("--store", "URL", "etcd:http://HOST:PORT", _store_on_etcd, required=True),
        argument("revision", "REVISION", "the new revision", int),
    ],
    "pexctl advance --store etcd:http://10.0.0.1:2379 6391",
)
def advance(arguments: Namespace) -> Results:
    """
    Give the cursor of a restored etcd a higher revision.

    The position does not change. Stop all nodes first. Choose the highest revision that any
    client or log has seen, so that no revision is used for two states.
    """
    from pexservice.client.blocking import wait
    from pexservice.settings.options import Settings
    from pexservice.stores.shared_interface import ISharedStore

    def advance_cursor() -> Deferred[Cursor]:
        store = ISharedStore(arguments.store.make(options_for(Settings())))
        return store.advance(arguments.revision)

    revision, position = wait(advance_cursor)
    yield Result(
        f"the cursor is at revision {revision}, position {position}",
        {"outcome": "advanced", "revision": revision, "position": position},
    )
