"""
One call, sent again until it is answered or its deadline is over.

The identical request is sent again, so a caller that moves the cursor gives its call an
idempotency key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from attrs import field, frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from pexservice.client.addresses import Address
from pexservice.client.answers import Answer, problem_of, shown
from pexservice.client.bodies import read_body
from pexservice.client.errors import CursorError, Unanswered
from pexservice.client.failures import BROKEN, TimedOut, explain, lasting
from pexservice.client.pauses import back_off, retry_after

T = TypeVar("T")

#: Statuses that are no final answer: another attempt may be answered otherwise.
AGAIN = frozenset((408, 429, 500, 502, 503, 504))

_TOO_MANY_REQUESTS = 429


@frozen
class Call:
    """
    A request to whichever address answers.

    @ivar path: the path with the query.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Server:
    """
    An address, and the client that sends requests to it.

    @ivar url: the URL that paths are appended to, for this client.
    @ivar headers: the headers of every request to this address.
    """

    address: Address
    client: HTTPClient
    url: str
    headers: Mapping[str, str] = field(factory=dict)


class Caller:
    """
    A sender of calls to the servers in turns, beginning with the one that answered last.

    @ivar closed: whether the client is closed: no call is begun or sent again any more.
    @ivar patience: how long one attempt may take, in seconds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        servers: Sequence[Server],
        headers: Mapping[str, str],
        patience: float,
    ) -> None:
        """
        Make a sender that tries the first of C{servers} first.

        @param headers: the headers of every request.
        @param patience: how long one attempt may take, in seconds.
        """
        self.clock = clock
        self.closed = False
        self._servers = servers
        self._headers = headers
        self.patience = patience
        self._turn = 0

    async def call(self, call: Call, deadline: float) -> Answer:
        """
        Send C{call} until there is an answer that another attempt would not change.

        @raise Unanswered: there was no such answer within C{deadline} seconds.
        @raise CursorError: another attempt would end in the same way.
        """
        end = self.clock.seconds() + deadline
        turn = self._turn
        wrong = ""
        for attempt in count():
            remaining = end - self.clock.seconds()
            asked_to_wait = 0.0
            url = self.url(call, turn)
            try:
                answer = await self.send(
                    call, turn, read_answer, min(self.patience, remaining)
                )
            except BROKEN as error:
                # An earlier error says more than that the deadline cut the last attempt
                # short.
                if not (
                    wrong and remaining < self.patience and isinstance(error, TimedOut)
                ):
                    wrong = f"{url}: {explain(error)}"
            else:
                if answer.status not in AGAIN:
                    self._turn = turn
                    return answer
                wrong = f"{url}: {_in_words(answer)}"
                # Another server does not have to wait for this one.
                if len(self._servers) == 1 or answer.status == _TOO_MANY_REQUESTS:
                    asked_to_wait = self.asked_to_wait(answer)
            turn += 1
            pause = max(self.back_off(attempt), asked_to_wait)
            if self.closed or self.clock.seconds() + pause >= end:
                tries = f"after {attempt + 1} tries" if attempt else "at the only try"
                raise Unanswered(f"no answer within {deadline:g} s, {tries}: {wrong}")
            await self.wait(pause)
        raise AssertionError("unreachable")

    def asked_to_wait(self, answer: Answer) -> float:
        """
        Return how long C{answer} asks to wait before the next attempt, in seconds.
        """
        return retry_after(answer.headers, time.time())

    def back_off(self, attempt: int) -> float:
        """
        Return how long to wait after the C{attempt}-th failure.
        """
        # Every server has its turn before the pauses grow.
        return back_off(attempt // len(self._servers), random.random())  # noqa: S311 no secret

    async def wait(self, seconds: float) -> None:
        """
        Wait for C{seconds}.
        """
        await deferLater(self.clock, seconds)

    def url(self, call: Call, turn: int) -> str:
        """
        Return the URL that is asked for in the C{turn}-th turn, for messages.
        """
        address = self._servers[turn % len(self._servers)].address
        return f"{str(address).rstrip('/')}{call.path}"

    async def send(
        self,
        call: Call,
        turn: int,
        read: Callable[[IResponse, str], Deferred[T]],
        patience: float,
    ) -> T:
        """
        Send C{call} once, to the server whose turn it is.

        @param read: takes the response and the URL, and reads the answer.
        @param patience: how long the answer and its reading may take, in seconds.
        @raise CursorError: another attempt would end in the same way.
        @raise Exception: one of L{BROKEN}: another attempt may be answered.
        """
        if self.closed:
            raise CursorError("this client is closed")
        server = self._servers[turn % len(self._servers)]
        url = self.url(call, turn)
        # The type of treq's reactor is private, and this clock is enough for treq.
        clock: Any = self.clock
        headers = {**server.headers, **self._headers, **call.headers}
        sent: Deferred[Any] = server.client.request(
            call.method,
            f"{server.url}{call.path}",
            headers=Headers({name: [value] for name, value in headers.items()}),
            # A redirect would take the key and the token somewhere else.
            allow_redirects=False,
            unbuffered=True,
            reactor=clock,
        )
        sent.addCallback(read, url)
        sent.addTimeout(patience, clock, _timed_out)
        # A cancelled request may end as if it had broken: during a look-up of the host, as
        # if there was no such host.  So its caller waits for a Deferred of its own, which
        # says that the call was cancelled.
        ended: Deferred[T] = Deferred()
        sent.chainDeferred(ended)
        try:
            return await ended
        except CancelledError:
            sent.cancel()
            raise
        except BROKEN as error:
            if (found := lasting(url, error)) is not None:
                raise found from error
            raise


def read_answer(response: IResponse, url: str) -> Deferred[Answer]:
    """
    Read the whole answer, body and all.
    """
    headers = {
        name.decode("ascii", "replace").lower(): values[-1].decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }
    body = read_body(response)
    return body.addCallback(lambda found: Answer(url, response.code, headers, found))


def _timed_out(_: object, timeout: float) -> Any:
    raise TimedOut(f"no answer in {timeout:.3g} s")


def _in_words(answer: Answer) -> str:
    """
    Return the status and the problem of an answer that is not final, for messages.
    """
    problem = problem_of(answer)
    words = shown(answer.body) if problem is None else f"{problem[0]}: {problem[1]}"
    return f"status {answer.status}: {words}"
