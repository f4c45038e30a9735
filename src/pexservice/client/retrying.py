"""
One call: the client sends the same request until a final response, or until the deadline.

A request that moves the cursor has an idempotency key, so the repetition is safe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TypeVar

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
from pexservice.client.state import is_number
from pexservice.core.base_url import BaseURL
from pexservice.core.failures import causes, describe
from pexservice.core.text import quoted

#: What an attempt receives: a response with its body, or a stream of events.
Received = TypeVar("Received")

#: The result of a call: what the response means, for example a state.
Content = TypeVar("Content")

#: These statuses are not final: another attempt may get another response.
RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))

_TOO_MANY_REQUESTS = 429

#: A response with one of these problems says that the request was not performed.
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

#: The delay doubles with each failure, from the first delay to the longest.  A standby
#: takes over within milliseconds, so the first delay is short.
FIRST_DELAY_SECONDS = 0.025
MAX_DELAY_SECONDS = 1.0

#: If C{Retry-After} is longer, the client waits only for this long.
_MAX_RETRY_AFTER_SECONDS = 3600.0

#: OpenSSL's words for an untrusted certificate, and for data that is not TLS.
_UNTRUSTED = "certificate verify failed"
_NO_TLS = ("wrong version number", "packet length too long", "http request")


@define(eq=False)
class _AttemptFailed(Exception):
    """
    An attempt failed, and another one may succeed.

    @ivar reason: why it failed.
    @ivar maybe_performed: whether a server may have performed the request.
    @ivar retry_after: the delay that the server asks for, in seconds.
    @ivar timed_out: whether the reason is the timeout of the attempt.
    """

    reason: str
    maybe_performed: bool
    retry_after: float = 0.0
    timed_out: bool = False


@define(eq=False)
class RetryingClient:
    """
    A client of one or more servers that have the same store.

    Each attempt goes to one server.  The first attempt of a call goes to the server that
    sent the last final response.  After a failed attempt, the next one goes to the next
    server.  The servers that were not tried yet share the remaining time equally.

    @ivar clock: the clock of delays and timeouts.
    @ivar servers: the servers, each with the agent that sends requests to it.
    @ivar headers: the headers of every request.
    @ivar attempt_timeout: how long one attempt may take, in seconds.
    @ivar on_retry: called with one line after each failed attempt that is repeated.
    @ivar closed: true when no attempt may begin any more.
    @ivar maybe_performed_count: how many attempts servers may have performed, or may still
        perform.
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
        method: bytes,
        path: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        receive: Callable[[IResponse, str], Deferred[Received]],
        read: Callable[[Received], Content],
    ) -> Content:
        """
        Send a request until a final response arrives, and return what the response means.

        @param path: the path with the query.
        @param deadline: how long all attempts may take together, in seconds.
        @param receive: called with a response and its URL; receives the body.
        @param read: returns what a final response means, or raises L{CursorError}.
        @raise Unanswered: no final response arrived in time.
        @raise CursorError: this client is closed, or the error is permanent, such as a
            refused certificate.
        """
        if self.closed:
            raise CursorError("this client is closed")
        end = self.clock.seconds() + deadline
        all_headers = Headers(
            {header: [value] for header, value in {**self.headers, **headers}.items()}
        )
        first_server, server_count = self._last_server, len(self.servers)
        maybe_performed, reason = False, ""
        for attempts_before in count():
            index = (first_server + attempts_before) % server_count
            server, agent = self.servers[index]
            remaining = max(end - self.clock.seconds(), 0.0)
            share = remaining / max(server_count - attempts_before, 1)
            timeout = min(self.attempt_timeout, share)
            self.maybe_performed_count += 1
            request = agent.request(method, f"{server.url}{path}".encode(), all_headers)
            url = f"{server.text.rstrip('/')}{path}"
            try:
                received = await self._attempt(
                    request.addCallback(receive, url), url, timeout
                )
                self._last_server = index
                return read(received)
            except CursorError as error:
                error.maybe_performed |= maybe_performed
                raise
            except _AttemptFailed as failure:
                self.maybe_performed_count -= not failure.maybe_performed
                maybe_performed |= failure.maybe_performed
                # If the deadline ended this attempt, an earlier reason says more.
                if not (reason and failure.timed_out and timeout == remaining):
                    reason = failure.reason
                asked_delay = failure.retry_after
            # Every server has its turn before the delay grows.
            delay = max(backoff(attempts_before // server_count), asked_delay)
            if self.closed or self.clock.seconds() + delay >= end:
                break
            self.on_retry(reason)
            await deferLater(self.clock, delay)
            if self.closed:
                break
        if self.closed:
            fault = "the client was closed before a final response"
        elif delay == asked_delay:
            fault = f"no final response, and the server asks to wait {delay:g} s"
        else:
            fault = f"no final response within {deadline:g} s"
        attempts = f"{attempts_before + 1} attempt{'s' * (attempts_before > 0)}"
        raise Unanswered(f"{fault} ({attempts}): {reason}", maybe_performed=maybe_performed)

    async def _attempt(
        self, request: Deferred[Received], url: str, seconds: float
    ) -> Received:
        """
        Wait for what one attempt receives, and return it if it is final.

        @raise _AttemptFailed: another attempt may succeed.
        @raise CursorError: another attempt would fail in the same way.
        """

        def time_out(result: object, _: float) -> Received:
            reason, connected = f"no response within {seconds:.3g} s", True
            if isinstance(result, Failure) and result.check(*_NO_CONNECTION):
                reason, connected = f"no connection, and {reason}", False
            raise _AttemptFailed(f"{url}: {reason}", connected, timed_out=True)

        request.addTimeout(seconds, self.clock, time_out)
        # A cancelled request may fail with another error than CancelledError, for example
        # with DNSLookupError.  A second Deferred always fails with CancelledError.
        ended: Deferred[Received] = Deferred()
        request.chainDeferred(ended)
        try:
            received = await ended
        except CancelledError:
            request.cancel()
            raise
        except _RETRIED_ERRORS as error:
            _raise_if_permanent(url, error)
            connected = not isinstance(error, _NO_CONNECTION)
            raise _AttemptFailed(f"{url}: {describe(error)}", connected) from error
        if (
            not isinstance(received, ReceivedResponse)
            or received.status not in RETRIED_STATUSES
        ):
            return received
        name, detail = problem_of(received) or (None, quoted(received.body))
        described = f"{name}: {detail}" if name else detail
        # Retry-After is about one server, so it only counts if the next attempt goes to the
        # same server.  With a 429 it always counts, because a rate limit may apply to all.
        heeds_delay = len(self.servers) == 1 or received.status == _TOO_MANY_REQUESTS
        raise _AttemptFailed(
            f"{url}: status {received.status}: {described}",
            maybe_performed=name not in _NOT_PERFORMED,
            retry_after=retry_after(received.headers) if heeds_delay else 0.0,
        )


def backoff(failed_rounds: int) -> float:
    """
    Return the delay before the next attempt, in seconds.

    Half of the delay is random, so that clients that failed at the same time do not retry
    at the same time.

    @param failed_rounds: how many times all servers have been tried in turn.
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


def _raise_if_permanent(url: str, error: BaseException) -> None:
    """
    Raise the exception for an error that another attempt would not change.
    """
    text = describe(error)
    for cause in causes(error):
        # pyOpenSSL and service_identity may not be installed, so this function knows their
        # classes by the names of their modules.
        module = type(cause).__module__.partition(".")[0]
        if isinstance(cause, BadHead):
            raise UnexpectedAnswer(f"{url}: {cause}", maybe_performed=True)
        if module == "service_identity":
            raise CertificateRefused(
                f"{url}: expected a certificate for this host, got one for another name"
            )
        if module == "OpenSSL" and _UNTRUSTED in text:
            raise CertificateRefused(
                f"{url}: expected a certificate by a trusted authority, got none ({text});"
                " name its authority in a CA file"
            )
        if module == "OpenSSL" and any(phrase in text for phrase in _NO_TLS):
            raise UnexpectedAnswer(f"{url}: expected TLS, got something else ({text})")
