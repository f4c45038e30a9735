"""
One call: the identical request is sent until a final response arrives or the deadline ends.

A request that moves the cursor has an idempotency key, so the repetition is safe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard, TypeVar

from attrs import define
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
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from pexservice.client.connecting import BadHead
from pexservice.client.errors import (
    CertificateRefused,
    CursorError,
    Unanswered,
    UnexpectedAnswer,
)
from pexservice.client.responses import ReceivedResponse, problem_of
from pexservice.core.base_url import BaseURL
from pexservice.core.text import printable, quoted

#: The response as it was read, or what C{read} makes of it.
Content = TypeVar("Content")

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

#: OpenSSL's words for an untrusted certificate, and for data that is not TLS.
_UNTRUSTED = "certificate verify failed"
_NO_TLS = ("wrong version number", "packet length too long", "http request")


class TimedOut(Exception):
    """
    An attempt received no complete response within its timeout.
    """


class TimedOutConnecting(TimedOut):
    """
    An attempt got no connection within its timeout.
    """


#: The problems of a response after which the request surely was not performed.
_SURE_REFUSALS = frozenset(("not-taken", "too-many-connections", "too-many-requests"))

#: The errors of an attempt that did not reach the server.
_UNSENT = (TimedOutConnecting, ConnectError, ConnectingCancelledError, DNSLookupError)

#: The errors after which another attempt may succeed.
_RETRIED = (*_UNSENT, TimedOut, ConnectionClosed, ResponseFailed, RequestTransmissionFailed)


@define(eq=False)
class RetryingClient:
    """
    A client of several servers with one store.

    It asks the servers in turn, beginning with the one that answered last.

    @ivar clock: the clock of delays and timeouts.
    @ivar servers: the servers, each with the agent that sends requests to it.
    @ivar headers: the headers of every request.
    @ivar timeout: how long one attempt may take, in seconds.
    @ivar on_retry: called with one line after each failed attempt that is repeated.
    @ivar closed: true when no attempt may begin any more.
    """

    clock: IReactorTime
    servers: Sequence[tuple[BaseURL, IAgent]]
    headers: Mapping[str, str]
    timeout: float
    on_retry: Callable[[str], object]
    closed: bool = False
    _turn: int = 0

    async def call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        read: Callable[[IResponse, str], Deferred[Content]],
        deadline: float,
    ) -> Content:
        """
        Send a request until a final response arrives, and return what C{read} makes of it.

        @param path: the path with the query.
        @param read: reads a response; it receives the response and the URL.
        @raise Unanswered: no final response arrived within C{deadline} seconds.
        @raise CursorError: another attempt would fail in the same way.
        """
        if self.closed:
            raise CursorError("this client is closed")
        end = self.clock.seconds() + deadline
        turn, attempts, sent, reason = self._turn, 0, False, ""
        lists = {name: [value] for name, value in {**self.headers, **headers}.items()}
        while True:
            server, agent = self.servers[turn % len(self.servers)]
            url = f"{server.text.rstrip('/')}{path}"
            seconds = min(self.timeout, max(end - self.clock.seconds(), 0.0))
            # Every server has its turn before the delay grows.
            delay = backoff(attempts // len(self.servers))
            sending: Deferred[IResponse] = agent.request(
                method.encode(), f"{server.url}{path}".encode(), Headers(lists), None
            )
            try:
                content = await self._attempt(sending.addCallback(read, url), seconds)
            except _RETRIED as error:
                if permanent := _permanent_error(url, error):
                    raise permanent from error
                sent = sent or not isinstance(error, _UNSENT)
                # If the deadline cut this attempt short, the error before says more.
                cut_short = seconds < self.timeout and isinstance(error, TimedOut)
                if not (reason and cut_short):
                    reason = f"{url}: {_words(error)}"
            else:
                if not _is_retried(content):
                    self._turn = turn
                    return content
                sent = sent or not _refuses_surely(content)
                reason = f"{url}: {_describe(content)}"
                delay = max(delay, self._requested_delay(content))
            turn += 1
            attempts += 1
            is_over = self.closed or self.clock.seconds() + delay >= end
            if not is_over:
                self.on_retry(reason)
                await self.wait(delay)
            if is_over or self.closed:
                end_reason = (
                    "the client was closed before a final response"
                    if self.closed
                    else f"no final response within {deadline:g} s"
                )
                raise Unanswered(
                    f"{end_reason} ({attempts} attempt{'s' * (attempts > 1)}): {reason}",
                    sent=sent,
                )

    async def wait(self, seconds: float) -> None:
        await deferLater(self.clock, seconds)

    def _requested_delay(self, response: ReceivedResponse) -> float:
        # Another server may be asked at once, except after a rate limit.
        if len(self.servers) > 1 and response.status != _TOO_MANY_REQUESTS:
            return 0.0
        return retry_after(response.headers, time.time())

    async def _attempt(self, result: Deferred[Content], seconds: float) -> Content:
        """
        Wait for a result at most C{seconds}, and cancel it when the call is cancelled.
        """
        result.addTimeout(seconds, self.clock, _time_out)
        # A cancelled request may end with the error of its connection, for example that
        # there is no such host.  This Deferred ends with CancelledError instead.
        ended: Deferred[Content] = Deferred()
        result.chainDeferred(ended)
        try:
            return await ended
        except CancelledError:
            result.cancel()
            raise


def _is_retried(content: object) -> TypeGuard[ReceivedResponse]:
    return isinstance(content, ReceivedResponse) and content.status in RETRIED_STATUSES


def _refuses_surely(response: ReceivedResponse) -> bool:
    problem = problem_of(response)
    return problem is not None and problem[0] in _SURE_REFUSALS


def _time_out(result: Any, timeout: float) -> Any:
    words = f"no response within {timeout:.3g} s"
    if isinstance(result, Failure) and result.check(*_UNSENT):
        raise TimedOutConnecting(f"no connection, and {words}")
    raise TimedOut(words)


def backoff(attempt: int, chance: float | None = None) -> float:
    """
    Return the delay after the C{attempt}-th failure, counted from 0, in seconds.

    Half of the delay is random: clients that failed together must not return together.

    @param chance: a number from 0 to 1; random by default.
    """
    if chance is None:
        chance = random.random()  # noqa: S311 no secret
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
    failures: Sequence[Failure] = getattr(error, "reasons", None) or ()
    if not failures:
        yield error
    for failure in failures:
        if failure.value is not None:
            yield from _causes(failure.value)


def _permanent_error(url: str, error: BaseException) -> CursorError | None:
    """
    Return the exception for an error that another attempt would not change, or C{None}.
    """
    words = _words(error)
    for cause in _causes(error):
        module = type(cause).__module__
        if isinstance(cause, BadHead):
            return UnexpectedAnswer(f"{url}: {cause}")
        if module.startswith("service_identity"):
            return CertificateRefused(
                f"{url}: expected a certificate for this host, got one for another name"
            )
        if module.startswith("OpenSSL") and _UNTRUSTED in words:
            return CertificateRefused(
                f"{url}: expected a certificate by a trusted authority, got: {words};"
                " name its authority in a CA file"
            )
        if module.startswith("OpenSSL") and any(known in words for known in _NO_TLS):
            return UnexpectedAnswer(f"{url}: expected TLS, got something else: {words}")
    return None


def _words(error: BaseException) -> str:
    """
    Return the texts of the exceptions inside C{error}, without duplicates.
    """
    texts: list[str] = []
    for cause in _causes(error):
        errors = cause.args[0] if cause.args else None
        if type(cause).__module__.startswith("OpenSSL") and isinstance(errors, list):
            # Each error is a tuple, whose last element is the text.
            texts += [str(parts[-1]) for parts in errors]
        else:
            texts.append(printable(str(cause)) or type(cause).__name__)
    return "; ".join(dict.fromkeys(texts))


def _describe(response: ReceivedResponse) -> str:
    problem = problem_of(response)
    words = quoted(response.body) if problem is None else f"{problem[0]}: {problem[1]}"
    return f"status {response.status}: {words}"
