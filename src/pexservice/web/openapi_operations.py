"""
What the OpenAPI document says of each path, and of the API as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from attrs import frozen

from pexservice.core.cursor import state_at
from pexservice.web.endpoints import TABLE
from pexservice.web.events import event
from pexservice.web.openapi_schemas import SCHEMAS, Json, headers
from pexservice.web.replies import JSON, TEXT

_STATE_HEADERS = ("Pex-Revision", "Pex-Position", "ETag", "Cache-Control", "Vary")

ABOUT = """\
A durable cursor on the Fibonacci sequence: 0 1 1 2 3 5 8 13 ...
Every answered step is on disk.

Paths are matched literally: `//next`, `/next/` and `/%6eext` are 404.
An unknown query parameter is ignored.
`OPTIONS` answers 204 with `Allow`, any other method that is not listed 405 with `Allow`.
HEAD never moves the cursor: on a path that moves it is 405.

## Representations

Text is the default: the decimal digits and a newline.
`Accept: application/json` gives JSON.
Values are strings there, because a JSON number beyond 2^53 is not exact; `previous` is \
`null` at position 0.

Every answer about the cursor has `Pex-Revision`, `Pex-Position`, `Content-Length`, \
`Cache-Control: no-store`, `Vary: Accept` and a strong `ETag`: `"10"` for text, \
`"10-json"` for JSON.

## Events

`/events` is a stream of Server-Sent Events, whatever `Accept` says.
The present state comes at once, and then one event after each move, but no sooner than \
a tenth of a second after the last: moves in between share one, which has the newest \
state.
With `Last-Event-ID`, as browsers send it when they come back, the present state is left \
out if it is that one.
After 15 seconds without a move a comment is sent.

`data` is the state as JSON.
A value of more than 1000 digits is left out, and its neighbours; `digits` counts them, \
and `first` and `last` are the 32 at each end.

A client that does not read misses states, never the newest, and is closed when it has \
taken nothing for 60 seconds.
A stream is its connection's last answer; it ends when its worker does, and whoever \
comes back after `retry` milliseconds goes on with the next one.
There are 250 streams, or a quarter of the connections that there may be if that is \
less; one more is 503 with `Retry-After`.
After a stop of a service that answers before it commits a revision may come a second \
time, for another state, and a client that resumes with it does not notice until the \
next move.

## Safety of a step

`Idempotency-Key`, 1 to 255 visible ASCII characters: the first use moves, a repeat \
answers the same state with `Idempotency-Replayed: true`.
The same key on another path is 422.
If the first is still under way, the repeat waits for it.
The last 100,000 keys are remembered, over restarts.
A repeat is answered as the first time even if its preconditions hold no more.

`If-Match: "10"` moves only if the cursor is still at revision 10; otherwise 412, with \
the present state's headers.
Preconditions take either form of the tag, and lists of tags.
`If-None-Match` on a read is 304 when it matches.

A GET that moves is there because the original API has it: many clients and proxies send \
a GET again on their own.
Use POST.
A service that was started with `--post-only` takes nothing else there: GET is 405.

## Access

A service that was given a token file takes a step only with one of its tokens, as \
`Authorization: Bearer TOKEN`; everybody may read.
Pages of an origin that the service was told of may use it: then every answer has \
`Vary: Origin`, and theirs `Access-Control-Allow-Origin` and \
`Access-Control-Expose-Headers`.
A request that moves, by GET or by POST, is refused (403) when a browser sends it for a \
page of another origin, and as a prefetch; so is a stream of events for such a page.
`Sec-Fetch-Site`, where it is sent, must be `same-origin` or `none`; where it is not, \
`Origin`, if it is sent, must name the host of the request.
Clients that are no browsers send neither.

Over loopback, without a token file, only names that nobody else can have are answered: \
an IP address, `localhost`, one that ends in `.localhost`, the machine's own name, or an \
`--allowed-host`.
Any other `Host` is 421.

Every answer has `X-Content-Type-Options: nosniff`, and `Cross-Origin-Resource-Policy: \
same-origin` unless it is for an origin that the service was told of.

## Errors

One line of text that says what is wrong and what to do, or RFC 9457's \
`application/problem+json` for those who accept JSON.

After a malformed request (400 of the request itself, 408, 413, 414, 431) the \
connection is closed: what follows on it cannot be trusted to be a request.
"""


def _content(text: object, schema: str, example: object) -> Json:
    """
    An answer as text or as JSON.
    """
    return {
        TEXT: {"schema": {"type": "string"}, "example": text},
        JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example},
    }


def _example(schema: str) -> object:
    return SCHEMAS[schema]["examples"][0]


_HISTORY_LINE = "2026-11-18T11:06:40.123456Z revision 10 next to position 10\n"

_VALUE = _content("55\n", "State", _example("State"))

UNCHANGED = {
    "description": "The client has it already.",
    "headers": headers(*_STATE_HEADERS),
}


@frozen
class Described:
    """
    What is to be said of a path, whatever the method.

    @ivar text: more than the summary of L{Endpoint}.
    @ivar parameters: names of L{PARAMETERS}.
    @ivar answers: by status.
    @ivar problems: statuses besides those that any request can get.
    @ivar moves: it takes a token, if the service has any.
    """

    text: str
    answers: Mapping[int, Json]
    parameters: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
    moves: bool = False


def _move(text: str) -> Described:
    return Described(
        text,
        {
            200: {
                "description": "The value after the step, which is on disk.",
                "headers": headers(*_STATE_HEADERS, "Idempotency-Replayed"),
                "content": _VALUE,
            }
        },
        ("Idempotency-Key", "If-Match", "If-None-Match"),
        (401, 403, 412, 422),
        moves=True,
    )


def _plain(description: str, kind: str, example: str, *names: str) -> Json:
    """
    An answer in one representation.
    """
    return {
        "description": description,
        "headers": headers(*names),
        "content": {kind: {"schema": {"type": "string"}, "example": example}},
    }


DESCRIBED: dict[str, Described] = {
    "/": Described(
        "The endpoints that there are.",
        {
            200: {
                "description": "What there is.",
                "headers": headers("Vary"),
                "content": {
                    **_content(
                        TABLE.text_index.decode(), "Index", json.loads(TABLE.json_index)
                    ),
                    # For browsers, which ask for it.
                    "text/html": {"schema": {"type": "string"}},
                },
            },
            304: {"description": "The browser has the page already."},
        },
    ),
    "/current": Described(
        "The value at the cursor, as it is on disk.",
        {
            200: {
                "description": "The value.",
                "headers": headers(*_STATE_HEADERS),
                "content": _VALUE,
            },
            304: UNCHANGED,
        },
        ("If-Match", "If-None-Match"),
        (412,),
    ),
    "/next": _move("Moves from position n to n + 1."),
    "/previous": _move("Moves from position n to n - 1; at 0 it stays, and is a step too."),
    "/reset": _move("Moves to position 0."),
    "/history": Described(
        "As many of the latest transitions as the service was told to keep.",
        {
            200: {
                "description": "A page, newest first.",
                "headers": headers(*_STATE_HEADERS, "Link"),
                "content": _content(_HISTORY_LINE, "History", _example("History")),
            },
            304: UNCHANGED,
        },
        ("limit", "before", "If-Match", "If-None-Match"),
        (412,),
    ),
    "/events": Described(
        "Server-Sent Events: the cursor whenever it has moved, at most 10 times a second."
        " The `id` of an event is the revision.",
        {
            200: _plain(
                "A stream that does not end.",
                "text/event-stream",
                event(state_at(10, 10)).decode().rstrip(),
                "Cache-Control",
            )
        },
        ("Last-Event-ID",),
        (403,),
    ),
    "/livez": Described(
        "`ok`, or each check on a line with `?verbose`.",
        {200: _plain("It is.", TEXT, "ok\n", "Cache-Control")},
        ("verbose",),
    ),
    "/readyz": Described(
        "`ok`, or each check on a line with `?verbose` or when one fails.",
        {
            200: _plain("It would.", TEXT, "ok\n", "Cache-Control"),
            503: _plain(
                "It would not, and why.",
                TEXT,
                "[-]store failed: the store is not open yet\nreadyz check failed\n",
                "Cache-Control",
            ),
        },
        ("verbose",),
    ),
    "/metrics": Described(
        "Prometheus' text format.",
        {200: _plain("The metrics.", TEXT, "pexservice_revision 10.0\n")},
    ),
    "/openapi.json": Described(
        "This document.",
        {
            200: {
                "description": "OpenAPI 3.1.",
                "headers": {
                    name: {"required": True, "schema": {"type": "string"}}
                    for name in ("ETag", "Cache-Control")
                },
                "content": {JSON: {"schema": {"type": "object"}}},
            },
            304: {"description": "The client has it already."},
        },
        ("Known-Document",),
    ),
}
