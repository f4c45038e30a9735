"""
etcd's JSON gateway over HTTP.

The gateway sends its calls to one member of etcd.  If this member does not answer, the
gateway sends the next calls to the next member.  L{pexservice.stores.etcd.gateway} lists
the ways in which a call ends.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from io import BytesIO

import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http import OK
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from pexservice.core.failures import describe
from pexservice.stores.errors import StoreMisconfigured, StoreUnavailable
from pexservice.stores.etcd.address import EtcdAddress
from pexservice.stores.etcd.gateway import (
    ATTEMPT_SECONDS,
    RESOURCE_EXHAUSTED,
    CallFailed,
    CallRefused,
    CallUnanswered,
)
from pexservice.stores.etcd.records import Message

#: The timeout in etcd for one request, in milliseconds.  It is shorter than an election.
#: So if the leader dies, a request is repeated as soon as there is a new leader.
ATTEMPT_MILLISECONDS = 500

#: How often one call gets a new token.  Users or roles may change while a call renews its
#: token, so one renewal may not be enough.
MAX_TOKEN_RENEWALS = 3

#: How long one watch lasts.
WATCH_SECONDS = 60.0

#: The delay between attempts doubles from the first delay to the longest.  Each delay is
#: made shorter by a random part, at most half, so that nodes do not retry at the same time.
FIRST_RETRY_DELAY_SECONDS = 0.02
MAX_RETRY_DELAY_SECONDS = 0.4

#: gRPC's code for a call that etcd cannot execute, for example with a wrong password.
_INVALID_ARGUMENT = 3

_UNAUTHENTICATED = 16

#: The gRPC codes of errors after which etcd does not execute the request: INVALID_ARGUMENT,
#: NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED and
#: UNAUTHENTICATED.  After other codes, such as UNAVAILABLE, etcd may still execute it.
REFUSAL_CODES = (_INVALID_ARGUMENT, 5, 7, RESOURCE_EXHAUSTED, 9, 12, _UNAUTHENTICATED)

#: The oldest supported version of etcd.  The gateways of older versions have other paths.
OLDEST_VERSION = (3, 4, 0)

#: In the versions from the first of these until just before the second, a member that was
#: paused may answer a linearizable read with an old state.
STALE_VERSIONS = ((3, 5, 0), (3, 5, 28))

#: etcd's error for a token that is older than the last change of users or roles.
_OLD_AUTH_REVISION = "revision of auth store is old"

#: A response that is not JSON, but begins with one of these texts, is a refusal of etcd's
#: gateway, which has not executed the request.  The reasons are, in this order: the client
#: certificate has a CN; the host name is unknown; the gateway is disabled.  Any other text
#: may come from a proxy, after etcd has executed the request.
_GATEWAY_REFUSALS = (
    "CommonName of client sending a request against gateway",
    "etcd received your request, but the Host header was unrecognized",
    "404 page not found",
)

#: How many characters are shown of a response that is not from etcd.
_MAX_SHOWN = 120


class HttpGateway:
    """
    A connection to one etcd cluster.  See L{Gateway}.
    """

    _log = Logger()

    def __init__(self, address: EtcdAddress, reactor: IReactorTime) -> None:
        self.address = address
        self.clock = reactor
        self._pool = HTTPConnectionPool(reactor)
        # Twisted must not repeat a POST, because it does not know whether that is safe.
        self._pool.retryAutomatically = False
        self._pool.maxPersistentPerHost = 8
        # treq's own client cannot encode the URL of an IPv6 address.
        self._client = self._agent()
        # Selects the endpoint to call.  If this endpoint does not answer, the number is
        # increased.
        self._endpoint_number = 0
        # etcd's token for the user; None if there is no user, or if there is no token yet.
        self._token: str | None = None
        self._warned_of_old_states = False

    def _agent(self) -> IAgent:
        self.certificate_expires: float | None = None
        if not self.address.secure:
            plain: IAgent = Agent(
                self.clock, connectTimeout=ATTEMPT_SECONDS, pool=self._pool
            )
            return plain
        from pexservice.stores.etcd.secure import agent, expiry  # noqa: PLC0415 pyOpenSSL

        agent_over_tls = agent(self.address, self.clock, self._pool)
        self.certificate_expires = expiry(self.address)
        return agent_over_tls

    async def pause(self, attempt: int) -> None:
        """
        Wait longer after each attempt; see L{Gateway.pause}.
        """
        longest = min(FIRST_RETRY_DELAY_SECONDS * 2**attempt, MAX_RETRY_DELAY_SECONDS)
        await deferLater(self.clock, longest * random.uniform(0.5, 1))  # noqa: S311 no secret

    async def call(self, path: str, message: Message) -> Message:
        """
        Make one attempt at a call; if the token has expired, try again with a new token.

        See L{Gateway.call}.
        """
        for _ in range(MAX_TOKEN_RENEWALS):
            await self._ensure_token()
            token = self._token
            try:
                return await self._attempt(path, message)
            except CallRefused as error:
                # A token expires after some time, and at each change of users or roles.
                expired = (
                    error.code == _UNAUTHENTICATED or _OLD_AUTH_REVISION in error.reason
                )
                if token is None or not expired:
                    raise
            # Another call may have renewed the token meanwhile.
            if self._token == token:
                self._token = None
        await self._ensure_token()
        return await self._attempt(path, message)

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key, for L{WATCH_SECONDS} at most; see L{Gateway.stream}.
        """
        await self._ensure_token()
        endpoint = self._endpoint()
        try:
            await Deferred.fromCoroutine(
                self._collect(f"{endpoint}/v3/watch", message, take)
            ).addTimeout(WATCH_SECONDS, self.clock)
        except DeferredTimeout:
            return
        except CancelledError:
            raise
        except Exception as error:
            raise CallUnanswered(f"{endpoint}: {describe(error)}", sent=True) from error

    async def _collect(
        self, url: str, message: Message, take: Callable[[bytes], None]
    ) -> None:
        response = await self._request("POST", url, message, {})
        receiver = _LineReceiver(take)
        response.deliverBody(receiver)
        await receiver.ended

    async def _ensure_token(self) -> None:
        """
        Get a token for the user, if there is a user and no token.
        """
        if self.address.user is None or self._token is not None:
            return
        try:
            password = self.address.password()
        except StoreMisconfigured as error:
            # No CallUnanswered, because another attempt would fail too.
            raise CallFailed(str(error)) from error
        message = {"name": self.address.user, "password": password}
        answer = await self._attempt("auth/authenticate", message)
        self._token = answer["token"]

    async def survey(self) -> dict[str, str]:
        report: dict[str, str] = {}
        stale: list[str] = []
        for endpoint in self.address.endpoints:
            try:
                answer = await self._exchange("GET", endpoint, "/version", None)
            except CallFailed as error:
                report[endpoint] = error.reason.removeprefix(f"{endpoint}: ")
            else:
                version, numbers = check_version(endpoint, answer)
                report[endpoint] = f"etcd {version}"
                if STALE_VERSIONS[0] <= numbers < STALE_VERSIONS[1]:
                    stale.append(f"{endpoint} has etcd {version}")
        if not any(words.startswith("etcd ") for words in report.values()):
            reasons = (f"{endpoint}: {reason}" for endpoint, reason in report.items())
            raise StoreUnavailable(f"no etcd answers: {'; '.join(reasons)}")
        if stale and not self._warned_of_old_states:
            self._warned_of_old_states = True
            self._log.warn(
                "{members}: before etcd 3.5.28, a member that was paused may answer a read"
                " with an old state; update etcd",
                members=", ".join(stale),
            )
        return report

    async def _attempt(self, path: str, message: Message) -> Message:
        number = self._endpoint_number
        endpoint = self._endpoint()
        try:
            answer = await self._exchange("POST", endpoint, f"/v3/{path}", message)
            # Each answer of etcd has a header.
            if "header" not in answer:
                raise _not_etcd(endpoint)
        except CallUnanswered:
            if self._endpoint_number == number:
                self._endpoint_number += 1
            raise
        return answer

    def _endpoint(self) -> str:
        endpoints = self.address.endpoints
        return endpoints[self._endpoint_number % len(endpoints)]

    async def _exchange(
        self, method: str, endpoint: str, path: str, message: Message | None
    ) -> Message:
        def timed_out(_: object, seconds: float) -> Failure:
            # A cancelled request may fail with any error.  Without this function, that
            # error would be shown instead of the timeout.
            return Failure(
                CallUnanswered(f"{endpoint}: no answer in {seconds} s", sent=True)
            )

        try:
            sent = Deferred.fromCoroutine(self._send(method, endpoint + path, message))
            status, body = await sent.addTimeout(ATTEMPT_SECONDS, self.clock, timed_out)
        except CallUnanswered:
            raise
        except (ConnectError, DNSLookupError) as error:
            raise CallUnanswered(f"{endpoint}: {describe(error)}", sent=False) from error
        except Exception as error:
            # After any other error, etcd may have received the request.
            raise CallUnanswered(f"{endpoint}: {describe(error)}", sent=True) from error
        return _parse_response(endpoint, status, body)

    async def _send(
        self, method: str, url: str, message: Message | None
    ) -> tuple[int, bytes]:
        timeout = f"{ATTEMPT_MILLISECONDS}m"
        response = await self._request(method, url, message, {"Grpc-Timeout": [timeout]})
        return response.code, await treq.content(response)

    def _request(
        self, method: str, url: str, message: Message | None, headers: dict[str, list[str]]
    ) -> Deferred[IResponse]:
        if self._token is not None:
            headers["Authorization"] = [self._token]
        content = BytesIO(json.dumps(message).encode())
        body = None if message is None else FileBodyProducer(content)
        return self._client.request(method.encode(), url.encode(), Headers(headers), body)

    async def close(self) -> None:
        await self._pool.closeCachedConnections()


class _LineReceiver(LineOnlyReceiver):
    """
    The receiver of the lines of a watch.  A line that is too long ends the watch.

    @ivar ended: fires when the connection has ended.  C{ended.cancel()} closes it.
    """

    delimiter = b"\n"

    #: The longest line, in bytes.  A line with an event has some hundred bytes.
    MAX_LENGTH = 65536

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self.ended: Deferred[None] = Deferred(lambda _: self._drop())

    def _drop(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def lineReceived(self, line: bytes) -> None:
        self._take(line)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            self.ended.callback(None)


def _parse_response(endpoint: str, status: int, body: bytes) -> Message:
    """
    Return etcd's answer from a response.

    @raise CallRefused: etcd refused the call.
    @raise CallUnanswered: the response does not say whether etcd executed the call.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        words = " ".join(body.decode(errors="replace").split())[:_MAX_SHOWN]
        if words.startswith(_GATEWAY_REFUSALS):
            raise CallRefused(_INVALID_ARGUMENT, f"{endpoint}: status {status}: {words}")
        raise _not_etcd(endpoint, f": status {status}: {words}")
    code = answer.get("code", 0)
    if status == OK and not code:
        return answer
    reason = str(answer.get("message") or answer.get("error") or f"status {status}")
    if code in REFUSAL_CODES:
        raise CallRefused(code, reason)
    raise CallUnanswered(f"{endpoint}: {reason}", sent=True)


def _not_etcd(endpoint: str, details: str = "") -> CallUnanswered:
    return CallUnanswered(f"{endpoint} is not etcd's gateway{details}", sent=True)


def check_version(endpoint: str, answer: Message) -> tuple[str, tuple[int, ...]]:
    """
    Return the version in an answer of etcd as text, and as numbers to compare.

    @raise StoreMisconfigured: etcd is too old, or the server is not etcd.
    """
    version = str(answer.get("etcdserver", ""))
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if match is None:
        raise StoreMisconfigured(f"{endpoint}: the server there is not etcd")
    numbers = tuple(map(int, match.groups()))
    if numbers < OLDEST_VERSION:
        raise StoreMisconfigured(f"{endpoint} has etcd {version}; 3.4 or newer is required")
    return version, numbers
