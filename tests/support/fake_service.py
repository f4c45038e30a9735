"""
A fake of the service for tests of clients.

A test can disturb its responses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from attrs import Factory, define, field, frozen
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pexservice.core.cursor import Transition, position_after, state_at
from pexservice.web.representations import state_json
from tests.support.fakes import now

T = TypeVar("T")

JSON = "application/json"
PROBLEM = "application/problem+json"


@frozen(kw_only=True)
class Disturbance:
    """
    What the fake does with one request instead of responding normally.

    @ivar makes_step: the step is made all the same.
    @ivar status: the status of the response.
    @ivar silent: there is no response.
    @ivar cut: the connection ends after half of the response.
    """

    makes_step: bool = False
    status: int = 0
    headers: dict[str, str] = Factory(dict)
    body: bytes = b""
    silent: bool = False
    cut: bool = False


def problem(status: int, name: str, **also: Any) -> Disturbance:
    """
    Return a disturbance that responds with one of the service's problems.
    """
    body = {"type": f"urn:problem-type:pexservice:{name}", "detail": f"about {name}"}
    headers = {"Content-Type": PROBLEM, **also.pop("headers", {})}
    return Disturbance(
        status=status, headers=headers, body=json.dumps(body).encode(), **also
    )


@frozen
class Asked:
    """
    A request that the fake has received.
    """

    method: str
    path: str
    headers: dict[str, str]
    time: float


@define(eq=False)
class FakeService(Resource):
    """
    A fake of the service: a cursor, its history and its keys.

    @ivar disturbances: what happens to the next requests; C{None} is a normal response.
    @ivar always: what happens to all requests after C{disturbances}.
    @ivar every_other: what happens to every second one of them.
    @ivar kept: the number of steps in the history, or C{None} for all steps.
    @ivar asked: every request.
    @ivar streams: the open event streams.
    """

    clock: Clock
    disturbances: list[Disturbance | None] = Factory(list)
    always: Disturbance | None = None
    every_other: Disturbance | None = None
    kept: int | None = None
    asked: list[Asked] = Factory(list)
    streams: list[Request] = Factory(list)
    rows: list[dict[str, Any]] = Factory(list)
    position: int = 0
    _keys: dict[str, tuple[int, int]] = Factory(dict)
    agent: RequestTraversalAgent = field(init=False)

    isLeaf = True

    def __attrs_post_init__(self) -> None:
        Resource.__init__(self)
        self.agent = RequestTraversalAgent(self)

    @property
    def revision(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[str]:
        """
        The keys of all requested steps, in their order.
        """
        return [
            request.headers["idempotency-key"]
            for request in self.asked
            if request.method == "POST"
        ]

    def render(self, request: Request) -> bytes | int:
        """
        Respond to a request, or disturb it.
        """
        headers = {
            name.decode().lower(): values[-1].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        path = request.uri.decode()
        asked = Asked(request.method.decode(), path, headers, self.clock.seconds())
        self.asked.append(asked)
        disturbance = self.disturbances.pop(0) if self.disturbances else self.always
        if disturbance is None and len(self.asked) % 2:
            disturbance = self.every_other
        if disturbance is None:
            return self._answer(request, asked)
        body = self._answer(request, asked) if disturbance.makes_step else b""
        if disturbance.silent:
            return NOT_DONE_YET
        if disturbance.cut:
            assert isinstance(body, bytes)
            request.setHeader("Content-Length", str(len(body) + 10))
            request.write(body[: len(body) // 2] or b"{")
            cast(ITransport, request.transport).loseConnection()
            return NOT_DONE_YET
        request.setResponseCode(disturbance.status)
        for name in list(request.responseHeaders.getAllRawHeaders()):
            request.responseHeaders.removeHeader(name[0])
        for header, value in disturbance.headers.items():
            request.setHeader(header, value)
        return disturbance.body

    def _answer(self, request: Request, asked: Asked) -> bytes | int:
        path, _, query = asked.path.partition("?")
        if path == "/events":
            request.setHeader("Content-Type", "text/event-stream")
            request.write(b"retry: 500\n\n")
            self.streams.append(request)
            return NOT_DONE_YET
        request.setHeader("Content-Type", JSON)
        if path == "/history":
            return self._history(
                dict(parameter.split("=") for parameter in query.split("&"))
            )
        revision, position = self.revision, self.position
        if asked.method == "POST":
            key = asked.headers["idempotency-key"]
            if key in self._keys:
                request.setHeader("Idempotency-Replayed", "true")
            else:
                self.step(path[1:])
                self._keys[key] = (self.revision, self.position)
            revision, position = self._keys[key]
        return state(revision, position)

    def step(self, word: str) -> None:
        self.position = position_after(self.position, Transition[word.upper()])
        self.rows.insert(
            0,
            {
                "revision": self.revision + 1,
                "position": self.position,
                "transition": word,
                "time": "2026-11-24T11:50:19.023457Z",
            },
        )

    def _history(self, query: dict[str, str]) -> bytes:
        before, limit = int(query.get("before", 10**9)), int(query["limit"])
        rows = [row for row in self.rows[: self.kept] if row["revision"] < before]
        following = f"/history?limit={limit}" if len(rows) > limit else None
        return json.dumps({"transitions": rows[:limit], "next": following}).encode()

    def tell(self, data: bytes) -> None:
        """
        Send C{data} on every event stream.
        """
        for stream in self.streams:
            stream.write(data)
        self.agent.flush()

    def end_streams(self) -> None:
        for stream in self.streams:
            stream.finish()
        self.streams.clear()
        self.agent.flush()

    def after(
        self,
        asks: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
        seconds: float = 200.0,
    ) -> T:
        """
        Advance the clock until a call has finished; return its result or raise its error.
        """
        called = Deferred.fromCoroutine(asks() if callable(asks) else asks)
        end = self.clock.seconds() + seconds
        while not called.called and self.clock.seconds() < end:
            self.clock.advance(0.01)
            self.agent.flush()
        assert called.called, "the call has not ended"
        return now(called)


def state(revision: int, position: int) -> bytes:
    """
    Return a state as the service writes it in JSON.
    """
    return state_json(state_at(revision, position))
