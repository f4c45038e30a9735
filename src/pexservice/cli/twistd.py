"""
The command line.  It checks what can be checked without opening anything, and says
in one line what is wrong.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, ClassVar, NoReturn

import pexservice.process.import_guard  # noqa: F401 before Twisted

# isort: split

from twisted.application.service import IService
from twisted.internet import endpoints
from twisted.python import usage

from pexservice.cli.help import grouped
from pexservice.settings.options import Settings, Supervision

_JOURNAL_LIMIT = 100_000_000
_CONNECTIONS_LIMIT = 1_000_000
_RATE_LIMIT = 1_000_000
_DESCRIPTOR_LIMIT = 1_000_000

#: A watchdog shorter than this would bite a worker that is merely busy.  Seconds.
_SHORTEST = 0.5

#: RFC 6454's serialization of an origin, as browsers send it.
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")

_KINDS = ("tcp:", "tcp6:", "unix:", "systemd:")


def _number(option: str, least: int, most: int) -> Callable[[str], int]:
    def coerce(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"--{option} {text}: must be from {least} to {most}")
        return int(text)

    return coerce


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or float(text) < _SHORTEST:
        raise ValueError(f"--watchdog {text}: must be {_SHORTEST} seconds or more")
    return float(text)


def _on_or_off(text: str) -> str:
    if text not in ("on", "off"):
        raise ValueError(f"--synchronous-commit {text}: must be on or off")
    return text


def _store(url: str) -> str:
    if url.startswith("etcd:"):
        from pexservice.stores.etcd.address import parse  # noqa: PLC0415 rarely used

        try:
            parse(url)
        except ValueError as error:
            raise ValueError(f"--store {url}: {error}") from None
    elif not re.fullmatch(r"lmdb:.+", url):
        raise ValueError(f"--store {url}: must be lmdb:DIRECTORY or etcd:http://HOST:PORT")
    return url


class CommonOptions(usage.Options):
    """
    What a worker is told, by whomever.
    """

    command: ClassVar[str]
    kinds: ClassVar[Sequence[str]] = _KINDS

    optParameters: ClassVar[Sequence[Sequence[object]]] = [
        [
            "store",
            None,
            "lmdb:pexservice-data",
            "Where the cursor is kept: lmdb:DIRECTORY, which is made if it is not there,"
            " or, shared by many nodes, etcd:http://HOST:PORT[,http://HOST:PORT...].",
            _store,
        ],
        [
            "synchronous-commit",
            None,
            "on",
            "on: a step is on disk before its answer. off: at most 10 ms after it, and"
            " lost if the process dies in between.",
            _on_or_off,
        ],
        [
            "journal",
            None,
            100_000,
            "How many transitions /history goes back.",
            _number("journal", 1, _JOURNAL_LIMIT),
        ],
        [
            "token-file",
            None,
            None,
            "A file of bearer tokens, one a line, that may move the cursor; without it"
            " everybody may.",
        ],
        [
            "access-log",
            None,
            None,
            "A file for an access log in the combined format; - for the daemon's own.",
        ],
        [
            "max-connections",
            None,
            10_000,
            "How many connections may be open; beyond it the longest idle one goes.",
            _number("max-connections", 1, _CONNECTIONS_LIMIT),
        ],
        [
            "rate-limit",
            None,
            None,
            "Requests a second for each client address; those over it are refused.",
            _number("rate-limit", 1, _RATE_LIMIT),
        ],
        [
            "tls-certificate",
            None,
            None,
            "A PEM file with a certificate and its chain, to serve HTTPS on every"
            " listener; takes --tls-key.",
        ],
        ["tls-key", None, None, "A PEM file with the certificate's key."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["cors-origin"] = []
        self["trusted-proxy"] = []

    def opt_listen(self, description: str) -> None:
        """An endpoint to listen on, as Twisted has them: tcp:PORT, tcp6:PORT, unix:PATH or systemd:domain=INET:index=0; repeatable [default: tcp:8081:interface=127.0.0.1]."""  # noqa: E501 one line of --help, which wraps it
        kind = description.partition(":")[0] + ":"
        try:
            if kind not in self.kinds:
                raise ValueError(f"it must begin with {', '.join(self.kinds)}")  # noqa: TRY301
            # Nothing is opened, so no reactor is needed.
            endpoints.serverFromString(None, description)
        except (ValueError, TypeError, LookupError) as error:
            raise usage.UsageError(f"--listen {description}: {error}") from error
        self["listen"].append(description)

    def opt_cors_origin(self, origin: str) -> None:
        """An origin, as https://example.org, whose pages may use the API; repeatable."""
        if not _ORIGIN.fullmatch(origin):
            raise usage.UsageError(
                f"--cors-origin {origin}: must be an origin as https://example.org,"
                " without a path"
            )
        self["cors-origin"].append(origin)

    def opt_trusted_proxy(self, address: str) -> None:
        """The address of a proxy whose X-Forwarded-For counts, besides any that comes through a unix: listener; repeatable."""  # noqa: E501 one line of --help, which wraps it
        try:
            ip_address(address)
        except ValueError:
            raise usage.UsageError(
                f"--trusted-proxy {address}: must be an IP address"
            ) from None
        self["trusted-proxy"].append(address)

    def opt_version(self) -> NoReturn:
        """Display the version and exit."""
        from importlib.metadata import version  # noqa: PLC0415 a megabyte

        sys.stdout.write(f"pexservice {version('pexservice')}\n")
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        """
        What C{--help} shows.
        """
        return grouped(self)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        As the inherited one, but who makes a mistake sees it: twistd would print the
        whole of its own help before it.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # Twisted's words for what a coercion raised, which names the option.
            wrong = str(error).removeprefix("Parameter type enforcement failed: ")
            raise SystemExit(
                f"{self.command}: {wrong}; see twistd {self.command} --help"
            ) from None

    def postOptions(self) -> None:
        """
        What goes together.
        """
        if (self["tls-certificate"] is None) is not (self["tls-key"] is None):
            raise usage.UsageError("--tls-certificate and --tls-key go together")
        if self["store"].startswith("etcd:") and self["synchronous-commit"] == "off":
            raise usage.UsageError(
                "--synchronous-commit off: not with etcd, where an answer that was given"
                " before could be another node's too"
            )

    def parseArgs(self, *words: str) -> None:
        """
        There are none.
        """
        if words:
            raise usage.UsageError(f"there is no argument {words[0]}, only options")

    def settings(self) -> Settings:
        """
        For a worker.
        """
        parent: Mapping[str, object] = self.parent or {}
        return Settings(
            listen=tuple(self["listen"]) or Settings().listen,
            store=self["store"].removeprefix("lmdb:"),
            etcd=self["store"] if self["store"].startswith("etcd:") else None,
            synchronous_commit=self["synchronous-commit"] == "on",
            journal=self["journal"],
            token_file=self["token-file"],
            cors_origins=tuple(self["cors-origin"]),
            access_log=self["access-log"],
            max_connections=self["max-connections"],
            rate_limit=self["rate-limit"],
            trusted_proxies=tuple(self["trusted-proxy"]),
            tls=None
            if self["tls-key"] is None
            else (self["tls-certificate"], self["tls-key"]),
            foreground=bool(parent.get("nodaemon", True)),
            lifeline=self.get("lifeline"),
            scoreboard=self.get("scoreboard"),
            quick_check=bool(self.get("quick-check")),
        )


class WorkerOptions(CommonOptions):
    """
    The options of one worker.
    """

    command: ClassVar[str] = "pexservice-worker"
    kinds = (*_KINDS, "fd:")
    longdesc = (
        "One worker: it serves, and ends when it cannot go on. For who brings a"
        " supervisor of their own."
    )
    optParameters: ClassVar[Sequence[Sequence[object]]] = [
        [
            "lifeline",
            None,
            None,
            "For a supervisor: a pipe's descriptor; end when it ends, and wait for a"
            " store in use.",
            _number("lifeline", 3, _DESCRIPTOR_LIMIT),
        ],
        [
            "scoreboard",
            None,
            None,
            "For a supervisor: the descriptor of what it counts, for /metrics.",
            _number("scoreboard", 3, _DESCRIPTOR_LIMIT),
        ],
    ]
    optFlags: ClassVar[Sequence[Sequence[object]]] = [
        [
            "quick-check",
            None,
            "For a supervisor: the store was verified before, look at the cursor only.",
        ],
    ]


class ServiceOptions(CommonOptions):
    """
    The options of the whole service.
    """

    command: ClassVar[str] = "pexservice"
    longdesc = "A durable cursor over the Fibonacci sequence, over HTTP."
    optParameters: ClassVar[Sequence[Sequence[object]]] = [
        [
            "standby",
            None,
            1,
            "How many warm workers wait to take over, 0 or 1.",
            _number("standby", 0, 1),
        ],
        [
            "watchdog",
            None,
            5.0,
            "Seconds of silence after which a worker is replaced.",
            _seconds,
        ],
    ]

    def supervision(self) -> Supervision:
        """
        For the supervisor.
        """
        return Supervision(standby=self["standby"], watchdog=self["watchdog"])


def _steady_reactor() -> Any:
    """
    The reactor, which this import chooses, with timers by the monotonic clock:
    Twisted's go by the wall clock, and a step of that would condemn every worker, or
    nobody for as long.
    """
    from twisted.internet import reactor  # noqa: PLC0415

    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    return reactor


def _make_service(options: ServiceOptions) -> IService:
    """
    A supervisor by C{options}.  Opens nothing: twistd forks after this.
    """
    from pexservice.supervisor.service import Supervisor  # noqa: PLC0415 as lean as it can be

    return Supervisor(options.settings(), options.supervision(), _steady_reactor())


def _make_worker(options: WorkerOptions) -> IService:
    """
    A worker by C{options}.  Opens nothing either.
    """
    # A supervisor, which reads these options too, has no use for what this imports.
    from pexservice.worker.service import Worker  # noqa: PLC0415

    return Worker(options.settings(), _steady_reactor())


class service:  # noqa: N801 stands for a module, which ServiceMaker asks for
    """
    C{twistd pexservice}.
    """

    Options = ServiceOptions
    makeService = staticmethod(_make_service)


class worker:  # noqa: N801 as above
    """
    C{twistd pexservice-worker}.
    """

    Options = WorkerOptions
    makeService = staticmethod(_make_worker)
