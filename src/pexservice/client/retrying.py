"""
A client that sends a request again and again until a final response arrives.

A response is final unless its status is in L{RETRIED_STATUSES}.  A request for a step has
an idempotency key, so the service makes the step only once.
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

#: If a response has one of these problems, the server has not performed the request.
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

#: Each time all servers have failed, the delay doubles, from the first to the longest.  A
#: standby takes over within milliseconds, so the first delay is short.
FIRST_DELAY_SECONDS = 0.025
MAX_DELAY_SECONDS = 1.0

#: If C{Retry-After} is longer, the client waits only for this long.
_MAX_RETRY_AFTER_SECONDS = 3600.0


@frozen
class ClientRequest:
    """
    A request without the server that it goes to.

    @ivar path: the path with the query.
    """

    method: bytes
    path: str
    headers: Mapping[str, str] = field(factory=dict)


@define(eq=False)
class _AttemptFailed(Exception):
    """
    An attempt failed, and another attempt may succeed.

    @ivar maybe_performed: whether the server may have performed the request.
    @ivar retry_after: the delay that the server asks for, in seconds.
    @ivar cut_short: whether the attempt had less time than C{attempt_timeout}, because it
        had to share the time until the deadline.
    """

    reason: str
    maybe_performed: bool
    retry_after: float = 0.0
    cut_short: bool = False


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
    @ivar maybe_performed_count: the number of attempts, in progress or ended, whose request
        a server may have performed.
    """

    clock: IReactorTime
    servers: Sequence[tuple[BaseURL, IAgent]]
    headers: Mapping[str, str]
    attempt_timeout: float
    on_retry: Callable[[str], object]
    closed: bool = False
    maybe_performed_count: int = 0
    _last_server: int = 0

    async def call(
        self,
        request: ClientRequest,
        deadline: float,
        receive: Callable[[IResponse, str], Awaitable[Content]],
    ) -> Content:
        """
        Send a request until a final response arrives, and return the content.

        @param deadline: how long all attempts may take together, in seconds.
        @param receive: called with a response of status 200 and its URL; reads the body and
            returns the content, or raises L{CursorError}.
        @raise Unanswered: no final response arrived in time.
        @raise CursorError: the final response has another status than 200; this client is
            closed; or no attempt can succeed, for example because the client does not trust
            the server's certificate.
        """
        if self.closed:
            raise CursorError("this client is closed")
        end = self.clock.seconds() + deadline
        first_server, server_count = self._last_server, len(self.servers)
        attempt_count, maybe_performed, reason = 0, False, ""
        fault = "the client was closed before a final response"
        while not self.closed:
            server_index = (first_server + attempt_count) % server_count
            # The servers that were not tried yet share the remaining time equally.
            remaining = max(end - self.clock.seconds(), 0.0)
            share = remaining / max(server_count - attempt_count, 1)
            seconds = min(self.attempt_timeout, share)
            attempt_count += 1
            self.maybe_performed_count += 1
            try:
                return await self._attempt(server_index, request, seconds, receive)
            except (CursorError, _AttemptFailed) as error:
                if not error.maybe_performed:
                    self.maybe_performed_count -= 1
                maybe_performed |= error.maybe_performed
                if isinstance(error, CursorError):
                    error.maybe_performed = maybe_performed
                    raise
                failure = error
            # If this attempt was cut short, the reason of an earlier one tells more.
            if not (reason and failure.cut_short):
                reason = failure.reason
            # Every server has its turn before the delay grows.
            failed_rounds = (attempt_count - 1) // server_count
            delay = max(backoff(failed_rounds), failure.retry_after)
            if self.clock.seconds() + delay >= end:
                fault = f"no final response within {deadline:g} s"
                if failure.retry_after:
                    fault = f"no final response, and the server asks to wait {delay:g} s"
                break
            if self.closed:
                break
            self.on_retry(reason)
            await deferLater(self.clock, delay)
        attempts = f"{attempt_count} attempt{'s' if attempt_count > 1 else ''}"
        raise Unanswered(f"{fault} ({attempts}): {reason}", maybe_performed=maybe_performed)

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
            self._last_server = server_index
            if response.code != OK:
                raise error_of(await read_response(response, url))
            return await receive(response, url)

        def time_out(result: object, _: float) -> Content:
            reason, connected = f"no response within {seconds:.3g} s", True
            if isinstance(result, Failure) and result.check(*_NO_CONNECTION):
                reason, connected = f"no connection, and {reason}", False
            cut_short = seconds < self.attempt_timeout
            raise _AttemptFailed(f"{url}: {reason}", connected, cut_short=cut_short)

        sending = Deferred.fromCoroutine(send()).addTimeout(seconds, self.clock, time_out)
        # If the caller cancels this attempt, it must get a CancelledError, and not the
        # error into which the agent may turn it, for example DNSLookupError.  So this waits
        # for a second Deferred, C{ended}.
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
            connected = not isinstance(error, _NO_CONNECTION)
            raise _AttemptFailed(f"{url}: {describe(error)}", connected) from error

    def _failure_of(self, response: ReceivedResponse) -> _AttemptFailed:
        """
        Return the exception for a response that is not final.
        """
        name, detail = problem_of(response) or (None, quoted(response.body))
        described = f"{name}: {detail}" if name else detail
        # Retry-After is about one server.  If there are several, the next attempt goes to
        # another server, so the client ignores Retry-After.  But after a 429 it waits,
        # because a rate limit may apply to all servers.
        heeds_delay = len(self.servers) == 1 or response.status == _TOO_MANY_REQUESTS
        return _AttemptFailed(
            f"{response.url}: status {response.status}: {described}",
            maybe_performed=name not in _NOT_PERFORMED,
            retry_after=retry_after(response.headers) if heeds_delay else 0.0,
        )


def backoff(failed_rounds: int) -> float:
    """
    Return the delay before the next attempt, in seconds.

    Half of the delay is random, so that clients that failed at the same time do not retry
    at the same time.

    @param failed_rounds: how many rounds of all servers had failed before this attempt.
    """
    max_delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(failed_rounds, 16), MAX_DELAY_SECONDS)
    return random.uniform(max_delay / 2, max_delay)  # noqa: S311 no secret


def retry_after(headers: Mapping[str, str]) -> float:
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
