"""
A client that sends a request again and again until a final response arrives.

A response is final unless its status is in L{RETRIED_STATUSES}.  A request for a step has
an idempotency key, so the service applies the step only once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TypeVar

from attrs import define, field, frozen
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

from pexservice.client.connecting import permanent_error
from pexservice.client.errors import CursorError, Unanswered
from pexservice.client.responses import (
    OK,
    ReceivedResponse,
    error_of,
    problem_of,
    read_response,
)
from pexservice.client.state import is_number
from pexservice.core.base_url import BaseURL
from pexservice.core.failures import describe
from pexservice.core.text import quoted

#: What a call returns: the content of the final response, for example a state.
Content = TypeVar("Content")

#: After a response with one of these statuses, the client tries again.
RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))

_TOO_MANY_REQUESTS = 429

#: If a response has one of these problems, the server did not perform the request.
_NOT_PERFORMED = frozenset(("not-taken", "too-many-connections", "too-many-requests"))

#: The errors of an attempt that got no connection.
_NO_CONNECTION = (ConnectError, ConnectingCancelledError, DNSLookupError)

#: The errors after which another attempt may succeed.
_RETRIED_ERRORS = (
    *_NO_CONNECTION,
    ConnectionClosed,
    ResponseFailed,
    RequestTransmissionFailed,
)

#: In a round, the client tries each server once.  The longest delay after an attempt of the
#: first round is short, because a standby takes over within milliseconds.  The longest
#: delay doubles with each round, up to the second constant.
FIRST_DELAY_SECONDS = 0.025
MAX_DELAY_SECONDS = 1.0

#: The message of a call of a closed client.
CLOSED = "this client is closed"

#: If C{Retry-After} is longer, the client waits only for this long.
_MAX_RETRY_AFTER_SECONDS = 3600.0


@frozen
class ClientRequest:
    """
    A request that can be sent to any server.

    @ivar path: the path with the query.
    """

    method: bytes
    path: str
    headers: Mapping[str, str] = field(factory=dict)


@define(eq=False)
class _AttemptFailed(CursorError):
    """
    An attempt failed, and another attempt may succeed.

    @ivar retry_after: the delay that the server asks for, in seconds.
    """

    retry_after: float = field(default=0.0, kw_only=True)


@define
class _FailedAttempts:
    """
    The failed attempts of one call.

    @ivar maybe_performed: whether a server may have performed one of them.
    @ivar reason: why the last attempt failed that a server may have performed.  If there is
        no such attempt, why the last attempt failed.
    """

    count: int = 0
    maybe_performed: bool = False
    reason: str = ""

    def add(self, error: _AttemptFailed) -> None:
        self.count += 1
        if error.maybe_performed or not self.maybe_performed:
            self.reason = error.message
        self.maybe_performed |= error.maybe_performed

    def unanswered(self, why_stopped: str) -> Unanswered:
        attempts = f"{self.count} attempt{'s' if self.count > 1 else ''}"
        return Unanswered(
            f"{why_stopped} ({attempts}): {self.reason}",
            maybe_performed=self.maybe_performed,
        )


@define(eq=False)
class RetryingClient:
    """
    A client of one or more servers that have the same store.

    Each attempt of a call goes to one server, and the next attempt to the next server.  The
    first attempt goes to the server that sent the last final response.

    @ivar clock: the clock of delays and timeouts.
    @ivar servers: the servers, each with the agent that sends requests to it.
    @ivar headers: the headers of every request.
    @ivar attempt_timeout: how long one attempt may take, in seconds.
    @ivar on_retry: called with the reason of each failed attempt, before the next attempt.
    @ivar closed: true when no attempt may begin any more.
    @ivar possibly_performed: how many attempts a server may have performed, of all calls.
        An attempt in progress counts.
    """

    clock: IReactorTime
    servers: Sequence[tuple[BaseURL, IAgent]]
    headers: Mapping[str, str]
    attempt_timeout: float
    on_retry: Callable[[str], object]
    closed: bool = False
    possibly_performed: int = 0
    _preferred_index: int = 0

    async def call(
        self,
        request: ClientRequest,
        total_timeout: float,
        receive: Callable[[IResponse, str], Awaitable[Content]],
    ) -> Content:
        """
        Send a request until a final response arrives, and return the content.

        @param total_timeout: how long all attempts may take together, in seconds.
        @param receive: called with a response of status 200 and its URL; reads the body and
            returns the content, or raises L{CursorError}.
        @raise Unanswered: no final response arrived in time, or before this client was
            closed.
        @raise CursorError: the final response has another status than 200; this client was
            closed before the call; or no attempt can succeed, for example because the
            client does not trust the server's certificate.
        """
        deadline = self.clock.seconds() + total_timeout
        first_index, server_count = self._preferred_index, len(self.servers)
        failed = _FailedAttempts()
        while not self.closed:
            server_index = (first_index + failed.count) % server_count
            # The servers that were not tried yet share the remaining time equally.
            remaining = max(deadline - self.clock.seconds(), 0.0)
            share = remaining / max(server_count - failed.count, 1)
            seconds = min(self.attempt_timeout, share)
            self.possibly_performed += 1
            try:
                return await self._attempt(server_index, request, seconds, receive)
            except CursorError as raised:
                error = raised
            if not error.maybe_performed:
                self.possibly_performed -= 1
            if not isinstance(error, _AttemptFailed):
                error.maybe_performed |= failed.maybe_performed
                raise error
            delay = max(backoff(failed.count // server_count), error.retry_after)
            failed.add(error)
            if self.clock.seconds() + delay >= deadline:
                if delay == error.retry_after:
                    asked = f"the server asks to wait at least {delay:g} s"
                    raise failed.unanswered(f"no final response, and {asked}")
                raise failed.unanswered(f"no final response within {total_timeout:g} s")
            self.on_retry(error.message)
            await deferLater(self.clock, delay)
        if not failed.count:
            raise CursorError(CLOSED)
        raise failed.unanswered("the client was closed before a final response")

    async def _attempt(
        self,
        server_index: int,
        request: ClientRequest,
        seconds: float,
        receive: Callable[[IResponse, str], Awaitable[Content]],
    ) -> Content:
        """
        Send a request to one server, and return the content of its final response.

        @param seconds: how long this attempt may take.
        @raise _AttemptFailed: another attempt may succeed.
        @raise CursorError: another attempt would fail in the same way.
        """
        server, agent = self.servers[server_index]
        url = f"{server.text.rstrip('/')}{request.path}"
        headers = {**self.headers, **request.headers}

        async def send() -> Content:
            response = await agent.request(
                request.method,
                f"{server.url}{request.path}".encode(),
                Headers({name: [value] for name, value in headers.items()}),
            )
            if response.code in RETRIED_STATUSES:
                raise self._failure_of(await read_response(response, url))
            self._preferred_index = server_index
            if response.code != OK:
                raise error_of(await read_response(response, url))
            return await receive(response, url)

        def time_out(result: object, _: float) -> Content:
            connected = not (isinstance(result, Failure) and result.check(*_NO_CONNECTION))
            reason = "no response" if connected else "no connection, and no response"
            raise _AttemptFailed(
                f"{url}: {reason} within {seconds:.3g} s", maybe_performed=connected
            )

        sending = Deferred.fromCoroutine(send()).addTimeout(seconds, self.clock, time_out)
        # If the caller cancels this attempt, the await below raises CancelledError.  If it
        # awaited C{sending}, the agent could replace this error, for example by
        # DNSLookupError.
        ended: Deferred[Content] = Deferred()
        sending.chainDeferred(ended)
        try:
            return await ended
        except CancelledError:
            sending.cancel()
            raise
        except _RETRIED_ERRORS as error:
            if (permanent := permanent_error(url, error)) is not None:
                raise permanent from error
            raise _AttemptFailed(
                f"{url}: {describe(error)}",
                maybe_performed=not isinstance(error, _NO_CONNECTION),
            ) from error
        except ValueError as error:
            # Twisted refuses some host names, such as xn--a.example, before it connects.
            raise CursorError(f"{url}: {describe(error)}") from error

    def _failure_of(self, response: ReceivedResponse) -> _AttemptFailed:
        """
        Return the exception for a response that is not final.
        """
        name, detail = problem_of(response) or (None, quoted(response.body))
        described = f"{name}: {detail}" if name else detail
        # Retry-After is about one server.  If there are several servers, the next attempt
        # goes to another one, so the client ignores Retry-After.  But after a 429 the
        # client waits, because a rate limit may apply to all servers.
        must_wait = len(self.servers) == 1 or response.status == _TOO_MANY_REQUESTS
        return _AttemptFailed(
            f"{response.url}: status {response.status}: {described}",
            maybe_performed=name not in _NOT_PERFORMED,
            retry_after=parse_retry_after(response.headers) if must_wait else 0.0,
        )


def backoff(failed_rounds: int) -> float:
    """
    Return the delay before the next attempt, in seconds.

    Half of the delay is random, so that clients that failed at the same time do not retry
    at the same time.

    @param failed_rounds: the number of completed rounds; 0 in the first round.
    """
    max_delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(failed_rounds, 16), MAX_DELAY_SECONDS)
    return random.uniform(max_delay / 2, max_delay)  # noqa: S311 no secret


def parse_retry_after(headers: Mapping[str, str]) -> float:
    """
    Return the delay that a response asks for, in seconds; 0 if it asks for none.

    @param headers: the headers of the response, by their names in lower case.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = (
            float(value)
            if is_number(value)
            else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)
