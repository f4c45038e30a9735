"""
The API as an OpenAPI 3.1 document, which C{/openapi.json} serves and
C{docs/http-api.md} is made from.

What is in it follows from L{ENDPOINTS}: a path that is not served is not described,
and one that is served and that this module does not know cannot be rendered, which a
test would see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from attrs import frozen

from pexservice.web.components import (
    HEADERS,
    PARAMETERS,
    SCHEMAS,
    SECURITY_SCHEMES,
    Json,
    headers,
    problem_answers,
)
from pexservice.web.endpoints import ENDPOINTS, JSON_INDEX, TEXT_INDEX, Endpoint
from pexservice.web.replies import JSON, TEXT

#: What can become of any request.
_ALWAYS = (400, 408, 413, 414, 429, 431, 500, 503)

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

_UNCHANGED = {
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
        (401, 412, 422),
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
                "content": _content(TEXT_INDEX.decode(), "Index", json.loads(JSON_INDEX)),
            }
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
            304: _UNCHANGED,
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
            304: _UNCHANGED,
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
                f"id: 10\ndata: {json.dumps(_example('State'))}\n\n",
                "Cache-Control",
            )
        },
        ("Last-Event-ID",),
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
        {200: _plain("The metrics.", TEXT, "pex_revision 10\n")},
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
        ("If-None-Match",),
    ),
}


def _answers(described: Described, method: str) -> Json:
    forbidden = (403,) if described.moves and method == "get" else ()
    # RFC 9110 13.1.2 has 304 for reads.
    unchanged = {304: _UNCHANGED} if forbidden else {}
    problems = {
        status: {"$ref": f"#/components/responses/problem-{status}"}
        for status in (*_ALWAYS, *forbidden, *described.problems)
    }
    answers = {**problems, **unchanged, **described.answers}
    return {str(status): answers[status] for status in sorted(answers)}


def _operation(endpoint: Endpoint, method: str) -> Json:
    described = DESCRIBED[endpoint.path]
    name = endpoint.path.strip("/").partition(".")[0] or "index"
    operation: Json = {
        "operationId": f"{method}-{name}",
        "summary": endpoint.summary.partition(";")[0].capitalize(),
        "description": described.text,
    }
    if described.parameters:
        operation["parameters"] = [
            {"$ref": f"#/components/parameters/{each}"} for each in described.parameters
        ]
    if described.moves:
        operation["security"] = [{}, {"token": []}]
    return operation | {"responses": _answers(described, method)}


def _options(endpoint: Endpoint) -> Json:
    return {
        "operationId": f"options-{endpoint.path.strip('/').partition('.')[0] or 'index'}",
        "summary": "The methods that it takes",
        "responses": {
            "204": {"description": "See Allow.", "headers": headers("Allow")},
            **{
                str(status): {"$ref": f"#/components/responses/problem-{status}"}
                for status in _ALWAYS
            },
        },
    }


def document(endpoints: Iterable[Endpoint] = ENDPOINTS) -> Json:
    """
    What describes C{endpoints}.

    @raise LookupError: one of them is unknown.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pexservice",
            "version": "1.0.0",
            "summary": "A durable cursor on the Fibonacci sequence.",
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            each.path: {
                method: _operation(each, method)
                for method in (name.decode().lower() for name in each.methods)
            }
            | {"options": _options(each)}
            for each in endpoints
        },
        "components": {
            "schemas": SCHEMAS,
            "headers": HEADERS,
            "parameters": PARAMETERS,
            "responses": problem_answers(),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


class Rendered(NamedTuple):
    """
    @ivar tag: the opaque part of an entity tag.
    """

    body: bytes
    tag: str


@cache
def rendered() -> Rendered:
    """
    The document of what is served, made when it is first asked for.
    """
    body = json.dumps(document(), ensure_ascii=False).encode()
    return Rendered(body, sha256(body).hexdigest()[:16])
