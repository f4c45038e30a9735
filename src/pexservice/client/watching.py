"""
The watch of a cursor, over streams of events that may break.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from itertools import count

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from pexservice.client.answers import Answer, refuse, state_of
from pexservice.client.calling import AGAIN, Call, Caller, read_answer
from pexservice.client.event_stream import EventStream
from pexservice.client.failures import BROKEN
from pexservice.client.state import State

_OK = 200

#: The headers of an event, whose data is an answer of its own.
_JSON = {"content-type": "application/json"}


async def watch(caller: Caller, streams: set[EventStream]) -> AsyncIterator[State]:
    """
    Return the states of the cursor as they come, each of a higher revision.

    @param streams: the streams that are open, to be closed with the client.
    @raise CursorError: the server has no such streams.
    """
    last: State | None = None
    failures = 0
    for turn in count():
        headers = {"Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = str(last.revision)
        call = Call("GET", "/events", headers)
        asked_to_wait = 0.0
        try:
            opened = await caller.send(
                call, turn, partial(_opened, caller.clock), caller.patience
            )
        except BROKEN:
            opened = None
        if isinstance(opened, Answer):
            if opened.status not in AGAIN:
                refuse(opened)
            asked_to_wait = caller.asked_to_wait(opened)
        elif opened is not None:
            streams.add(opened)
            try:
                while (event := await opened.next()) is not None:
                    failures = 0
                    answer = Answer(caller.url(call, turn), _OK, _JSON, event.encode())
                    state = state_of(answer)
                    if last is None or state.revision > last.revision:
                        last = state
                        yield state
            finally:
                streams.discard(opened)
                opened.end("nobody watches")
        if caller.closed:
            return
        await caller.wait(max(caller.back_off(failures), asked_to_wait))
        failures += 1


def _opened(
    clock: IReactorTime, response: IResponse, url: str
) -> Deferred[EventStream | Answer]:
    """
    Return the stream, or the answer that came instead.
    """
    kinds = response.headers.getRawHeaders(b"content-type", [b""])
    if response.code == _OK and kinds[-1].startswith(b"text/event-stream"):
        stream = EventStream(clock)
        response.deliverBody(stream)
        return succeed(stream)
    return read_answer(response, url).addCallback(lambda answer: answer)
