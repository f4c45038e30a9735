"""
A worker that is not active yet: its listeners and its reports.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from ssl import SSLContext

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pexservice.commit.interface import ICommitter
from pexservice.process.listening import Place, format_address, socket_file
from pexservice.process.scoreboard import Score
from pexservice.process.sd_notify import NOT_READY, STANDBY
from pexservice.process.timing import Periodic
from pexservice.server.listener import Listener
from pexservice.server.server import Server
from pexservice.stores.interface import IStoreFactory

#: How often a worker that is not active checks whether another one is.
CHECK_INTERVAL_SECONDS = 0.25

#: When no worker has been active for this long, a worker with a problem responds with 503.
#: This is longer than a takeover, and shorter than the timeout of a client.
ALONE_SECONDS = 0.5

#: When no worker has been active for this long, and none can hold the lock now, a standby
#: reports the other program that holds it.
FOREIGN_LOCK_SECONDS = 3.0


@define(eq=False)
class Listeners:
    """
    The listeners of a worker, which are opened and closed together.
    """

    _log = Logger()

    _places: Sequence[Place]
    _server: Server
    _loop: AbstractEventLoop
    _tls: SSLContext | None
    _open: list[Listener] = field(init=False, factory=list)

    @property
    def are_open(self) -> bool:
        return bool(self._open)

    async def open(self) -> None:
        """
        Listen everywhere, unless this worker listens already.

        @raise CannotStart: an address cannot be listened on.
        """
        if self._open:
            return
        self._server.start()
        try:
            for place in self._places:
                await self._listen(place)
        except Exception:
            await self.close()
            raise

    async def _listen(self, place: Place) -> None:
        # Twisted only opens the port.  The listener accepts, so the factory is never used.
        port = await place.listen(Factory())
        self._open.append(Listener(port, self._loop, self._server, self._tls))
        self._log.info("listening on {address}", address=format_address(port.getHost()))
        path = socket_file(port)
        if path is not None and not path.is_socket():
            self._log.error(
                "the file of the Unix socket {path} is gone, so no client can connect"
                " there; restart the service to create it again",
                path=path,
            )

    async def close(self) -> None:
        closing, self._open = self._open, []
        await DeferredList([maybeDeferred(port.stopListening) for port in closing])


@define(eq=False)
class Unready:
    """
    Reports the state of a worker that is not active.

    Such a worker waits as a standby for the store's lock, or it has a problem, such as a
    store that cannot be opened.  If it has a problem and no other worker is active, it
    listens: requests that need the store get 503 with the problem.
    """

    _log = Logger()

    _reactor: IReactorTime
    _listeners: Listeners
    _committer: ICommitter
    _store: IStoreFactory
    _read_score: Callable[[], Score | None]
    # Sends its arguments, a line each, to the supervisor, now and with each heartbeat.
    _notify_state: Callable[..., object]
    _waits_for_lock: bool = field(init=False, default=False)
    _problem: str | None = field(init=False, default=None)
    # Since when this worker waits and no other one is active, by the reactor's clock.
    _alone_since: float | None = field(init=False, default=None)
    _checking: Periodic = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._checking = Periodic(
            lambda: Deferred.fromCoroutine(self._check()), self._reactor
        )

    def start(self) -> None:
        self._checking.start(CHECK_INTERVAL_SECONDS)

    def stop(self) -> None:
        """
        Report nothing more: the worker becomes active, or stops.
        """
        self._checking.stop()

    def stand_by(self) -> None:
        """
        Report that this worker waits for the store's lock.

        While it still listens, this is too early: L{_check} first closes the listeners,
        when the worker that has the lock is active, and then calls this again.
        """
        self._waits_for_lock, self._alone_since = True, None
        if self._listeners.are_open:
            return
        self._log.info("standby: waiting for the store's lock")
        self._problem = None
        self._notify_state(STANDBY)

    def store_failed_to_open(self, problem: str) -> None:
        self._waits_for_lock = False
        self._report(problem)

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._log.error("cannot serve: {problem}; retrying", problem=problem)
        self._problem = problem
        self._committer.refuse_all(problem)
        self._notify_state(f"STATUS={problem}", NOT_READY)

    async def _check(self) -> None:
        score, now = self._read_score(), self._reactor.seconds()
        if score is not None and score.serving:
            self._alone_since = None
            await self._listeners.close()
            if self._waits_for_lock and self._problem is not None:
                self.stand_by()
            return
        if self._alone_since is None:
            self._alone_since = now
        alone_seconds = now - self._alone_since
        if (
            self._waits_for_lock
            and alone_seconds >= FOREIGN_LOCK_SECONDS
            and (score is not None and score.possible_lock_holders == 0)
        ):
            self._report(
                f"{self._store.name} is in use by {self._store.lock_holder()}, which is no"
                " worker of this service"
            )
        if self._problem is not None and alone_seconds >= ALONE_SECONDS:
            await self._listeners.open()
