"""
The interface of etcd's gateway, and calls and watches that are repeated.

A call ends in one of these ways:

  - etcd has executed the call, and its answer is returned.
  - etcd has not executed the call, and never will.  L{CallRefused} is raised if etcd says
    so.  If the call was not sent, L{CallUnanswered} without C{sent} is raised, or
    L{CallFailed} itself if the password file cannot be read.
  - It is unknown whether etcd has executed the call.  L{CallUnanswered} with C{sent} is
    raised, or L{CallRefused} with the code L{RESOURCE_EXHAUSTED}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ClassVar, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pexservice.stores.errors import Refusal
from pexservice.stores.etcd import records
from pexservice.stores.etcd.records import CursorRecord, Message

T = TypeVar("T")

#: How long one attempt at a call may take.
ATTEMPT_SECONDS = 1.0

#: How long all attempts at a call may take together.  Then waiting clients get an error.
CALL_TIMEOUT_SECONDS = 5.0

#: gRPC's code for a lack of space.  etcd sends it also for a call that it has executed, if
#: this call has used the last space.
RESOURCE_EXHAUSTED = 8


class CallFailed(Refusal):
    """
    A call failed.

    If a read of the store needs this call, the error is the L{Refusal} of the read.  If a
    batch needs the call, L{pexservice.stores.etcd.decision} finds out whether the batch is
    stored.

    @ivar reason: the message without C{PREFIX}.
    """

    PREFIX: ClassVar[str] = ""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.PREFIX}{reason}")
        self.reason = reason


class CallRefused(CallFailed):
    """
    etcd refused a call.

    @ivar code: gRPC's code.  With L{RESOURCE_EXHAUSTED}, etcd may have executed the call;
        with any other code, it has not.
    """

    PREFIX = "etcd refuses: "

    def __init__(self, code: int, reason: str) -> None:
        if code == RESOURCE_EXHAUSTED:
            reason += "; compact and defragment etcd, then disarm its NOSPACE alarm"
        super().__init__(reason)
        self.code = code


class CallUnanswered(CallFailed):
    """
    A call got no answer, or an answer that does not tell whether etcd executed the call.

    @ivar sent: whether etcd may have executed the call, now or later.
    """

    PREFIX = "etcd does not answer: "

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Gateway(Protocol):
    """
    The calls of etcd's JSON gateway that the store needs.  Tests implement them too.

    @ivar certificate_expires: when the client certificate expires, in seconds since the
        epoch; C{None} if there is no certificate.
    """

    certificate_expires: float | None

    @property
    def clock(self) -> IReactorTime:
        """
        Return the clock of the reactor.
        """

    async def survey(self) -> dict[str, str]:
        """
        Check that a member of etcd answers, and that no member is too old.

        @return: for each endpoint, its version, or why it does not answer.
        @raise StoreError: no member answers, a member is too old, or a server is not etcd.
        """

    async def call(self, path: str, message: Message) -> Message:
        """
        Make one attempt at a call, and return its answer.

        @param path: the path below C{/v3/}.
        @raise CallFailed: the call failed; see the start of this module.
        """

    async def pause(self, attempt: int) -> None:
        """
        Wait after the attempt with this number, counted from 0, before the next attempt.
        """

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key until the watch ends.

        @param take: called with each line of the answer.
        @raise CallFailed: the watch was not begun, or it broke.
        """

    async def close(self) -> None:
        """
        Close the connections.
        """


async def retry_until_answered(
    gateway: Gateway, attempt: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """
    Call C{attempt}, and call it again after a delay if it raises L{CallUnanswered}.

    @param attempt: makes one attempt at a call that can be repeated safely.
    @raise CallFailed: an attempt raised a L{CallFailed} that is no L{CallUnanswered}.
    @raise CallUnanswered: no attempt got an answer within L{CALL_TIMEOUT_SECONDS}.  The
        message has the reasons of all attempts, each once.
    """
    end, number = gateway.clock.seconds() + CALL_TIMEOUT_SECONDS, 0
    problems: dict[str, None] = {}
    sent = False
    while True:
        try:
            return await attempt()
        except CallUnanswered as error:
            problems[error.reason] = None
            sent = sent or error.sent
            if gateway.clock.seconds() + ATTEMPT_SECONDS >= end:
                raise CallUnanswered("; ".join(problems), sent=sent) from error
        await gateway.pause(number)
        number += 1


async def call_until_answered(gateway: Gateway, path: str, message: Message) -> Message:
    """
    Make a call that can be repeated safely; see L{retry_until_answered}.
    """
    return await retry_until_answered(gateway, lambda: gateway.call(path, message))


class Watch:
    """
    A watch on the cursor, by which etcd reports each node's batches to all nodes at once.

    Correctness does not depend on the watch, because a node that needs the present cursor
    reads it from etcd.  A call of L{Gateway.stream} ends after a minute at the latest, and
    is then repeated.  So if a connection breaks without an error, reports are missing for
    at most a minute.
    """

    _log = Logger()

    def __init__(
        self, gateway: Gateway, key: bytes, cursor_changed: Callable[[CursorRecord], None]
    ) -> None:
        """
        Begin to watch the cursor, which etcd has under C{key}.

        @param cursor_changed: called with every new record of the cursor.
        """
        self._gateway = gateway
        self._message: Message = {"create_request": {"key": records.base64_text(key)}}
        self._cursor_changed = cursor_changed
        # A cancelled stream may raise CallUnanswered, so the loop needs this flag too.
        self._stopped = False
        self._watching = Deferred.fromCoroutine(self._watch())

    async def _watch(self) -> None:
        while not self._stopped:
            try:
                await self._gateway.stream(self._message, self._take)
            except CallFailed as error:
                self._log.debug("the watch ended: {error}", error=error)
            if not self._stopped:
                await self._gateway.pause(5)

    def _take(self, line: bytes) -> None:
        try:
            events = json.loads(line)["result"].get("events", [])
        except (ValueError, KeyError, TypeError, AttributeError):
            # The line has an error of etcd, or is not from etcd.  The stream ends after a
            # minute, if not before.
            return
        for event in events:
            # An event without a type is a put.  A record that cannot be decoded is ignored
            # here, because the next read of the cursor reports it.
            if "type" not in event:
                with suppress(records.ForeignRecord):
                    self._cursor_changed(records.decode_cursor(event["kv"]))

    def stop(self) -> None:
        self._stopped = True
        self._watching.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._watching.cancel()
