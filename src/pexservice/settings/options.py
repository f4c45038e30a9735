"""
What the command line says, as plain values; see L{pexservice.cli.twistd}.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen


@frozen(kw_only=True)
class Settings:
    """
    Of one worker.

    @ivar listen: endpoint descriptions.
    @ivar store: the directory of an LMDB store.
    @ivar etcd: where the store is instead, as C{--store} has it.
    @ivar journal: how many transitions the history goes back.
    @ivar rate_limit: requests a second for each client address.
    @ivar trusted_proxies: addresses whose X-Forwarded-For counts.
    @ivar tls: the PEM files of a certificate and its key.
    @ivar foreground: whether who started the process sees its standard error and
        its exit status.
    @ivar lifeline: the descriptor of a pipe whose other end the supervisor holds.
    @ivar scoreboard: the descriptor of the supervisor's L{scoreboard
        <pexservice.process.scoreboard>}.
    @ivar quick_check: the store was verified a moment ago, so only look at the
        cursor.
    """

    listen: tuple[str, ...] = ("tcp:8081:interface=127.0.0.1",)
    store: str = "pexservice-data"
    etcd: str | None = None
    synchronous_commit: bool = True
    journal: int = 100_000
    token_file: str | None = None
    cors_origins: tuple[str, ...] = ()
    access_log: str | None = None
    max_connections: int = 10_000
    rate_limit: int | None = None
    trusted_proxies: tuple[str, ...] = ()
    tls: tuple[str, str] | None = None
    foreground: bool = True
    lifeline: int | None = None
    scoreboard: int | None = None
    quick_check: bool = False

    def arguments(self) -> Iterator[str]:
        """
        The command line that says the same, but for what a supervisor adds.
        """
        yield from ("--store", self.etcd or f"lmdb:{self.store}")
        yield from ("--synchronous-commit", "on" if self.synchronous_commit else "off")
        yield from ("--journal", str(self.journal))
        yield from ("--max-connections", str(self.max_connections))
        if self.token_file is not None:
            yield from ("--token-file", self.token_file)
        if self.access_log is not None:
            yield from ("--access-log", self.access_log)
        if self.rate_limit is not None:
            yield from ("--rate-limit", str(self.rate_limit))
        if self.tls is not None:
            certificate, key = self.tls
            yield from ("--tls-certificate", certificate, "--tls-key", key)
        for proxy in self.trusted_proxies:
            yield from ("--trusted-proxy", proxy)
        for origin in self.cors_origins:
            yield from ("--cors-origin", origin)


@frozen(kw_only=True)
class Supervision:
    """
    Of the supervisor.

    @ivar standby: how many warm workers wait to take over, 0 or 1.
    @ivar watchdog: seconds of silence after which a worker is replaced.
    """

    standby: int = 1
    watchdog: float = 5.0
