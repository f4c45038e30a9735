"""
One call: the client sends the same request until a final response, or until the deadline.

A request that moves the cursor has an idempotency key, so the repetition is safe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

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

#: The result of a call: what the parameter C{read} of L{RetryingClient.call} returns.
Content = TypeVar("Content")

#: These statuses are not final: another attempt may get another response.
RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))

_TOO_MANY_REQUESTS = 429

#: The delay doubles with each failure, from the first delay to the longest.  A standby
#: takes over within milliseconds, so the first delay is short.
FIRST_DELAY_SECONDS = 0.025
MAX_DELAY_SECONDS = 1.0

#: If C{Retry-After} is longer, the client waits only for this long.
_MAX_RETRY_AFTER_SECONDS = 3600.0

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


#: A response with one of these problems says that the request was not performed.
_SURE_REFUSALS = frozenset(("not-taken", "too-many-connections", "too-many-requests"))

#: The errors of an attempt that did not reach the server.
_UNSENT = (TimedOutConnecting, ConnectError, ConnectingCancelledError, DNSLookupError)

#: The errors after which another attempt may succeed.
_RETRIED = (*_UNSENT, TimedOut, ConnectionClosed, ResponseFailed, RequestTransmissionFailed)


class _AttemptFailed(Exception):
    """
    An attempt failed, and another one may succeed.

    @ivar reason: why it failed.
    @ivar sent: whether the server may have performed the request.
    @ivar retry_after: the delay that the server asks for, in seconds.
    """

    def __init__(self, reason: str, *, sent: bool, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.retry_after = retry_after


@define(eq=False)
class RetryingClient:
    """
    A client of one or more servers that have the same store.

    Each attempt goes to one server.  The first attempt of a call goes to the server that
    sent the last final response.  After a failed attempt, the next one goes to the next
    server.

    @ivar clock: the clock of delays and timeouts.
    @ivar servers: the servers, each with the agent that sends requests to it.
    @ivar headers: the headers of every request.
    @ivar attempt_timeout: how long one attempt may take, in seconds.
    @ivar on_retry: called with one line after each failed attempt that is repeated.
    @ivar closed: true when no attempt may begin any more.
    @ivar possibly_performed: how many attempts a server has performed, or may have
        performed or still perform, as far as this client knows.
    """

    clock: IReactorTime
    servers: Sequence[tuple[BaseURL, IAgent]]
    headers: Mapping[str, str]
    attempt_timeout: float
    on_retry: Callable[[str], object]
    closed: bool = False
    possibly_performed: int = 0
    _last_server: int = 0

    async def call(
        self,
        method: bytes,
        path: str,
        headers: Mapping[str, str],
        read: Callable[[IResponse, str], Deferred[Content]],
        seconds: float,
    ) -> Content:
        """
        Send a request until a final response arrives, and return what C{read} makes of it.

        @param path: the path with the query.
        @param read: reads a response; it receives the response and the URL.
        @param seconds: how long all attempts may take together.
        @raise Unanswered: no final response arrived in time.
        @raise CursorError: this client is closed, or the error is permanent, such as a
            refused certificate.
        """
        if self.closed:
            raise CursorError("this client is closed")
        end = self.clock.seconds() + seconds
        all_headers = Headers(
            {header: [value] for header, value in {**self.headers, **headers}.items()}
        )
        first_index, attempts, sent, reason = self._last_server, 0, False, ""
        while True:
            index = (first_index + attempts) % len(self.servers)
            server, agent = self.servers[index]
            remaining = max(end - self.clock.seconds(), 0.0)
            # Every server has its turn before the delay grows.
            delay = backoff(attempts // len(self.servers))
            attempts += 1
            self.possibly_performed += 1
            request = agent.request(method, f"{server.url}{path}".encode(), all_headers)
            url = f"{server.text.rstrip('/')}{path}"
            try:
                content = await self._attempt(
                    request.addCallback(read, url), url, remaining
                )
            except (CertificateRefused, UnexpectedAnswer) as error:
                error.sent = error.sent or sent
                raise
            except _AttemptFailed as failure:
                if not failure.sent:
                    self.possibly_performed -= 1
                sent = sent or failure.sent
                # If the deadline of the call cut this attempt short, the reason of the
                # attempt before it says more.
                cut_short = remaining < self.attempt_timeout and isinstance(
                    failure.__cause__, TimedOut
                )
                reason = reason if reason and cut_short else failure.reason
                asked_delay = failure.retry_after
                delay = max(delay, asked_delay)
            else:
                self._last_server = index
                return content
            if self.closed or self.clock.seconds() + delay >= end:
                break
            self.on_retry(reason)
            await deferLater(self.clock, delay)
            if self.closed:
                break
        fault = f"no final response within {seconds:g} s"
        if delay == asked_delay:
            fault = f"no final response, and the server asks to wait {delay:g} s"
        fault = "the client was closed before a final response" if self.closed else fault
        fault += f" ({attempts} attempt{'s' * (attempts > 1)})"
        raise Unanswered(f"{fault}: {reason}", sent=sent)

    async def _attempt(
        self, result: Deferred[Content], url: str, remaining: float
    ) -> Content:
        """
        Wait for the C{result} of one attempt, and return it if it is final.

        @raise _AttemptFailed: another attempt may succeed.
        @raise CursorError: another attempt would fail in the same way.
        """
        try:
            content = await self._wait(result, min(self.attempt_timeout, remaining))
        except _RETRIED as error:
            _raise_if_permanent(url, error)
            reason, sent = f"{url}: {describe(error)}", not isinstance(error, _UNSENT)
            raise _AttemptFailed(reason, sent=sent) from error
        if (
            not isinstance(content, ReceivedResponse)
            or content.status not in RETRIED_STATUSES
        ):
            return content
        name, detail = problem_of(content) or (None, quoted(content.body))
        described = f"{name}: {detail}" if name else detail
        # Retry-After is about one server, so it only counts if the next attempt goes to the
        # same server.  A rate limit may apply to all servers.
        heeds_delay = len(self.servers) == 1 or content.status == _TOO_MANY_REQUESTS
        raise _AttemptFailed(
            f"{url}: status {content.status}: {described}",
            sent=name not in _SURE_REFUSALS,
            retry_after=retry_after(content.headers) if heeds_delay else 0.0,
        )

    async def _wait(self, result: Deferred[Content], seconds: float) -> Content:
        """
        Wait for C{result} for at most C{seconds}, and cancel it if this call is cancelled.
        """
        result.addTimeout(seconds, self.clock, _time_out)
        # If C{result} is cancelled, Twisted may end it with another error, for example an
        # unknown host.  So this method waits for a second Deferred, whose cancellation
        # always gives CancelledError.
        ended: Deferred[Content] = Deferred()
        result.chainDeferred(ended)
        try:
            return await ended
        except CancelledError:
            result.cancel()
            raise


def _time_out(result: Any, timeout: float) -> Any:
    text = f"no response within {timeout:.3g} s"
    if isinstance(result, Failure) and result.check(*_UNSENT):
        raise TimedOutConnecting(f"no connection, and {text}")
    raise TimedOut(text)


def backoff(failed_rounds: int) -> float:
    """
    Return the delay before the next attempt, in seconds.

    Half of the delay is random, so that clients that failed at the same time do not retry
    at the same time.

    @param failed_rounds: how often every server has failed.
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
        # pyOpenSSL and service_identity may not be installed.
        module = type(cause).__module__.partition(".")[0]
        if isinstance(cause, BadHead):
            raise UnexpectedAnswer(f"{url}: {cause}")
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
            message = f"{url}: expected TLS, got something else ({text})"
            raise UnexpectedAnswer(message, sent=False)
