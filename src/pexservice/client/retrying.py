"""
One call: the identical request is sent until a final response arrives or the deadline ends.

A request that moves the cursor has an idempotency key, so the repetition is safe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, TypeVar

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web._newclient import (  # the exceptions of its client have no other home
    ParseError,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from pexservice.client.connecting import Address, ResponseTooLong
from pexservice.client.errors import (
    CertificateRefused,
    CursorError,
    Unanswered,
    UnexpectedAnswer,
)
from pexservice.client.responses import Response, problem_of, quoted, read_response
from pexservice.core.text import printable

T = TypeVar("T")

#: The statuses that are not final: another attempt may have another response.
RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))

_TOO_MANY_REQUESTS = 429

#: The backoff doubles from the first delay to the longest.  A standby takes over within
#: milliseconds, so the first delay is short.
FIRST_DELAY_SECONDS = 0.025
MAX_DELAY_SECONDS = 1.0

#: Retry-After of more digits counts as an hour, which no deadline waits for.
_MAX_RETRY_AFTER_DIGITS = 4
_HOUR_SECONDS = 3600.0


class TimedOut(Exception):
    """
    An attempt received no complete response within its timeout.
    """


class TimedOutConnecting(TimedOut):
    """
    An attempt got no connection within its timeout.
    """


#: The errors of an attempt that did not reach the server.
UNSENT_ERRORS: tuple[type[Exception], ...] = (
    TimedOutConnecting,
    ConnectError,
    ConnectingCancelledError,
    DNSLookupError,
    RequestNotSent,
)

#: The errors after which another attempt may succeed.
RETRIED_ERRORS: tuple[type[Exception], ...] = (
    *UNSENT_ERRORS,
    TimedOut,
    ResponseTooLong,
    ConnectionClosed,
    ResponseFailed,
    RequestTransmissionFailed,
)

#: OpenSSL's words for an untrusted certificate, and for data that is not TLS.
_UNTRUSTED = "certificate verify failed"
_NO_TLS = ("wrong version number", "packet length too long", "http request")


@frozen
class Request:
    """
    A request, which any of the servers may answer.

    @ivar path: the path with the query.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Server:
    """
    A server, and the agent that sends requests to it.
    """

    address: Address
    agent: IAgent


class RetryingClient:
    """
    A client of several servers with one store.

    It asks the servers in turn, beginning with the one that answered last.

    @ivar clock: the clock of delays and timeouts.
    @ivar timeout: how long one attempt may take, in seconds.
    @ivar closed: true when no attempt may begin any more.
    """

    def __init__(
        self,
        clock: IReactorTime,
        servers: Sequence[Server],
        headers: Mapping[str, str],
        timeout: float,
        on_retry: Callable[[str], object] | None,
    ) -> None:
        """
        Make a client that asks the first of C{servers} first.

        @param headers: the headers of every request.
        @param on_retry: called with one line after each failed attempt that is repeated.
        """
        self.clock = clock
        self.timeout = timeout
        self.closed = False
        self._servers = servers
        self._headers = headers
        self._on_retry = on_retry
        self._turn = 0

    async def call(self, request: Request, deadline: float) -> Response:
        """
        Send C{request} until a final response arrives.

        @raise Unanswered: no final response arrived within C{deadline} seconds.
        @raise CursorError: another attempt would fail in the same way.
        """
        end = self.clock.seconds() + deadline
        turn = self._turn
        sent = False
        reason = ""
        for attempt in count():
            remaining = end - self.clock.seconds()
            requested_delay = 0.0
            url = self.url(request, turn)
            try:
                response = await self.attempt(
                    request, turn, read_response, max(min(self.timeout, remaining), 0.0)
                )
            except RETRIED_ERRORS as error:
                sent = sent or not isinstance(error, UNSENT_ERRORS)
                # The deadline cut the last attempt short: the error before says more.
                if not (
                    reason and remaining < self.timeout and isinstance(error, TimedOut)
                ):
                    reason = f"{url}: {_explain(error)}"
            else:
                if response.status not in RETRIED_STATUSES:
                    self._turn = turn
                    return response
                sent = True
                reason = f"{url}: {_describe(response)}"
                # Another server may be asked at once, except after a rate limit.
                if len(self._servers) == 1 or response.status == _TOO_MANY_REQUESTS:
                    requested_delay = retry_after(response.headers, time.time())
            turn += 1
            delay = max(self.backoff(attempt), requested_delay)
            if self.closed or self.clock.seconds() + delay >= end:
                attempts = f"{attempt + 1} attempts" if attempt else "one attempt"
                raise Unanswered(
                    f"no final response within {deadline:g} s ({attempts}): {reason}",
                    sent=sent,
                )
            if self._on_retry is not None:
                self._on_retry(reason)
            await self.wait(delay)
        raise AssertionError("unreachable")

    def backoff(self, attempt: int) -> float:
        """
        Return the delay after the C{attempt}-th failure, counted from 0, in seconds.
        """
        # Every server has its turn before the delay grows.
        return backoff(attempt // len(self._servers), random.random())  # noqa: S311 no secret

    async def wait(self, seconds: float) -> None:
        await deferLater(self.clock, seconds)

    def url(self, request: Request, turn: int) -> str:
        """
        Return the URL of the C{turn}-th attempt, for messages.
        """
        return f"{str(self._server(turn).address).rstrip('/')}{request.path}"

    def _server(self, turn: int) -> Server:
        return self._servers[turn % len(self._servers)]

    async def attempt(
        self,
        request: Request,
        turn: int,
        read: Callable[[IResponse, str], Deferred[T]],
        timeout: float,  # noqa: ASYNC109 Twisted's timeouts, not asyncio's
    ) -> T:
        """
        Send C{request} once, to the server whose turn it is.

        @param read: reads the response; it receives the response and the URL.
        @param timeout: how long request and reading may take, in seconds.
        @raise CursorError: another attempt would fail in the same way.
        @raise Exception: one of L{RETRIED_ERRORS}.
        """
        if self.closed:
            raise CursorError("this client is closed")
        server = self._server(turn)
        url = self.url(request, turn)
        headers = {**self._headers, **request.headers}
        result: Deferred[Any] = server.agent.request(
            request.method.encode(),
            f"{server.address.url}{request.path}".encode(),
            Headers({name: [value] for name, value in headers.items()}),
            None,
        )
        result.addCallback(read, url)
        result.addTimeout(timeout, self.clock, _time_out)
        # A cancelled request may end with the error of its connection, for example that
        # there is no such host.  This Deferred ends with CancelledError instead.
        ended: Deferred[T] = Deferred()
        result.chainDeferred(ended)
        try:
            return await ended
        except CancelledError:
            result.cancel()
            raise
        except RETRIED_ERRORS as error:
            permanent = _permanent_error(url, error)
            if permanent is not None:
                raise permanent from error
            raise


def _time_out(result: Any, timeout: float) -> Any:
    words = f"no response within {timeout:.3g} s"
    if isinstance(result, Failure) and result.check(*UNSENT_ERRORS):
        raise TimedOutConnecting(f"no connection, and {words}")
    raise TimedOut(words)


def backoff(attempt: int, chance: float) -> float:
    """
    Return the delay after the C{attempt}-th failure, counted from 0, in seconds.

    Half of the delay is random: clients that failed together must not return together.

    @param chance: a random number from 0 to 1.
    """
    longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 16), MAX_DELAY_SECONDS)
    return longest * (1 + chance) / 2


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """
    Return the delay that a response asks for, in seconds; 0 if it asks for none.

    @param headers: the headers of the response, by their names in lower case.
    @param now: seconds since 1970, which count if the response has no C{Date}.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) <= _MAX_RETRY_AFTER_DIGITS else _HOUR_SECONDS
    until = _timestamp(value)
    if until is None:
        return 0.0
    date = _timestamp(headers.get("date", ""))
    return max(until - (now if date is None else date), 0.0)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """
    Yield the exceptions inside one of Twisted's client, or C{error} if there are none.
    """
    failures = getattr(error, "reasons", None)
    if not failures:
        yield error
    for failure in failures or ():
        if isinstance(failure, Failure) and failure.value is not None:
            yield from _causes(failure.value)


def _permanent_error(url: str, error: BaseException) -> CursorError | None:
    """
    Return the exception for an error that another attempt would not change, or C{None}.
    """
    for cause in _causes(error):
        module, words = type(cause).__module__, _words(cause)
        if isinstance(cause, ParseError):
            return UnexpectedAnswer(f"{url}: expected HTTP, got {quoted(cause.data)}")
        if isinstance(cause, ResponseTooLong):
            return UnexpectedAnswer(f"{url}: expected a shorter response, got {words}")
        if module.startswith("service_identity"):
            return CertificateRefused(
                f"{url}: expected a certificate for this host, got one for another name"
            )
        if module.startswith("OpenSSL"):
            if _UNTRUSTED in words:
                return CertificateRefused(
                    f"{url}: expected a certificate by a trusted authority, got: {words};"
                    " name its authority in a CA file"
                )
            if any(known in words for known in _NO_TLS):
                return UnexpectedAnswer(f"{url}: expected TLS, got something else: {words}")
    return None


def _explain(error: BaseException) -> str:
    return "; ".join(dict.fromkeys(map(_words, _causes(error))))


def _words(error: BaseException) -> str:
    if type(error).__module__.startswith("OpenSSL") and error.args:
        errors = error.args[0]
        if isinstance(errors, list):
            return "; ".join(dict.fromkeys(str(parts[-1]) for parts in errors))
    return printable(str(error)) or type(error).__name__


def _describe(response: Response) -> str:
    problem = problem_of(response)
    words = quoted(response.body) if problem is None else f"{problem[0]}: {problem[1]}"
    return f"status {response.status}: {words}"
