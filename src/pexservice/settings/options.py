"""
The one table of options: the settings of workers and supervisors, as plain values.

To add an option, add an attribute here.
"""

from __future__ import annotations

import attrs

from pexservice.settings import values
from pexservice.settings.option import (
    ACCESS,
    CONFIGURATION,
    KEEP_ALIVE,
    LISTENING,
    OUTPUT,
    STORE,
    Option,
    flag,
    number,
    on_or_off,
    one_of,
    seconds,
)
from pexservice.stores.errors import StoreBusy
from pexservice.stores.registry import store_factory

_DESCRIPTOR = number(3, 1_000_000)

#: With a shorter watchdog, the supervisor would kill a worker that is only busy.
_MIN_WATCHDOG_SECONDS = 0.5


@attrs.frozen(kw_only=True)
class Settings:
    """
    Settings of all workers of a service.

    @ivar foreground: whether the program that started this process gets its standard error
        and its exit status.  This is an option of twistd, not of this service.
    """

    listen: tuple[str, ...] = Option(
        "ENDPOINT",
        "Listen on this endpoint, in Twisted's syntax: tcp:PORT, tcp6:PORT, unix:PATH,"
        " systemd:domain=INET:index=0, or systemd:all for all sockets from systemd; may"
        " be repeated.",
        LISTENING,
        parse=values.endpoint,
        make_absolute=values.absolute_endpoint,
        repeatable=True,
    ).field(("tcp:8081:interface=127.0.0.1",))
    tls_certificate: str | None = Option(
        "PEM",
        "Serve HTTPS on every listener, with the certificate and its chain in this PEM"
        " file; needs --tls-key.",
        LISTENING,
        make_absolute=values.absolute_path,
    ).field(None)
    tls_key: str | None = Option(
        "PEM",
        "The PEM file with the certificate's key.",
        LISTENING,
        make_absolute=values.absolute_path,
    ).field(None)
    store: str = Option(
        "URL",
        "Where the cursor is kept: lmdb:DIRECTORY, which is created if it is not there, or,"
        " shared by many nodes, etcd:http://HOST:PORT[,http://HOST:PORT...].",
        STORE,
        parse=values.store_url,
        make_absolute=lambda url, directory: store_factory(url).absolute_url(directory),
    ).field("lmdb:pexservice-data")
    no_create: bool = flag(
        "Refuse to create a store: if there is none, it was moved, or its disk is not"
        " mounted. pexctl create creates one.",
        STORE,
    )
    synchronous_commit: bool = Option(
        "on|off",
        "on: a step is on disk before its response. off: its commit begins 10 ms after the"
        " response, or after the commit in progress; a crash before the commit ends, or a"
        " full disk, loses the step.",
        STORE,
        type=bool,
        parse=on_or_off,
    ).field(default=True)
    journal: int = Option(
        "N",
        "Keep this many steps for /history.",
        STORE,
        type=int,
        parse=number(1, 100_000_000),
    ).field(100_000)
    token_file: str | None = Option(
        "FILE",
        "Require a bearer token from this file, one per line, for each step; without"
        " this option any client may move the cursor.",
        ACCESS,
        make_absolute=values.absolute_path,
    ).field(None)
    cors_origin: tuple[str, ...] = Option(
        "ORIGIN",
        "Allow pages of this origin, such as https://example.org; may be repeated.",
        ACCESS,
        parse=values.origin,
        repeatable=True,
    ).field(())
    rate_limit: int | None = Option(
        "N",
        "Allow N requests per second per client address; respond 429 to the rest.",
        ACCESS,
        type=int,
        parse=number(1, 1_000_000),
    ).field(None)
    max_connections: int = Option(
        "N",
        "Keep at most N connections open. For one more, a client with more than its"
        " share loses a connection; if there is none, the connection that was idle"
        " longest is closed.",
        ACCESS,
        type=int,
        parse=number(1, 1_000_000),
    ).field(10_000)
    trusted_proxy: tuple[str, ...] = Option(
        "ADDRESS",
        "Trust X-Forwarded-For from this proxy, as from every proxy on a unix: listener;"
        " may be repeated.",
        ACCESS,
        parse=values.address,
        repeatable=True,
    ).field(())
    allowed_host: tuple[str, ...] = Option(
        "NAME",
        "Accept this Host on loopback connections without a token file, in addition to"
        " localhost and the machine's name; * accepts any; may be repeated.",
        ACCESS,
        parse=values.host_name,
        repeatable=True,
    ).field(())
    post_only: bool = flag("Respond 405 to GET on the paths that move the cursor.", ACCESS)
    access_log: str | None = Option(
        "FILE",
        "Write an access log in the combined format; - writes to the daemon's log.",
        OUTPUT,
        make_absolute=values.absolute_path,
    ).field(None)
    log_format: str = Option(
        "text|json",
        "text: each line starts with time, process and level. json: each line is an"
        " object.",
        OUTPUT,
        parse=one_of("text", "json"),
    ).field("text")
    foreground: bool = True

    def __attrs_post_init__(self) -> None:
        """
        Check that the options do not contradict each other.

        @raise ValueError: two options contradict each other.
        """
        if (self.tls_certificate is None) is not (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key go together")
        if not self.synchronous_commit and store_factory(self.store).shared:
            raise ValueError(
                "--synchronous-commit off cannot be used with a store of many nodes: two of"
                " them could answer with the same revision; remove the option"
            )

    def check_store(self) -> None:
        """
        Check cheaply whether a process with these settings could open the store.

        @raise StoreError: no process could open the store.
        """
        try:
            store_factory(self.store).check_openable(create=not self.no_create)
        except StoreBusy as error:
            advice = "stop it, or choose another store with --store"
            raise StoreBusy(f"{error}; {advice}") from None

    @property
    def tls(self) -> tuple[str, str] | None:
        """
        Return the files of the certificate and its key, or C{None} without TLS.
        """
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return self.tls_certificate, self.tls_key


@attrs.frozen(kw_only=True)
class WorkerSettings(Settings):
    """
    Settings of one worker process, with those that a supervisor passes to its workers.
    """

    supervisor: int | None = Option(
        "N",
        "For a supervisor: the descriptor of a pipe's writing end, for messages in"
        " systemd's notify protocol; the worker ends when the reading end is closed, and"
        " waits for a store in use.",
        KEEP_ALIVE,
        type=int,
        parse=_DESCRIPTOR,
    ).field(None)
    scoreboard: int | None = Option(
        "N",
        "For a supervisor: the descriptor of the memory that it shares with its workers.",
        KEEP_ALIVE,
        type=int,
        parse=_DESCRIPTOR,
    ).field(None)
    quick_check: bool = flag(
        "For a supervisor of version 1.0.0: no verification of the store is due.",
        KEEP_ALIVE,
    )

    @property
    def is_supervised(self) -> bool:
        return self.supervisor is not None


@attrs.frozen(kw_only=True)
class Supervision:
    """
    Settings of the supervisor.

    @ivar standby: how many standbys there should be.
    @ivar watchdog: a worker that sends no heartbeat for this many seconds is replaced.
    """

    standby: int = Option(
        "N",
        "Keep N standbys ready to take over: 0 or 1. With a store on etcd it is 0: the"
        " other nodes are active.",
        KEEP_ALIVE,
        type=int,
        parse=number(0, 1),
    ).field(1)
    watchdog: float = Option(
        "SECONDS",
        "Replace a worker that has sent no heartbeat for this long.",
        KEEP_ALIVE,
        type=float,
        parse=seconds(_MIN_WATCHDOG_SECONDS),
    ).field(5.0)


@attrs.frozen(kw_only=True)
class Source:
    """
    The source of options that are not on the command line.
    """

    config: str | None = Option(
        "FILE",
        "Read options from this TOML file, by their names without the dashes; the"
        " command line wins.",
        CONFIGURATION,
    ).field(None)
