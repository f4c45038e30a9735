"""
What the operations of the OpenAPI document share: schemas, headers, parameters, and an
answer for each status of L{pexservice.web.problems}.

Examples and problem types are made by the code that makes the answers, so that they
cannot be anything else than what is sent.
"""

from __future__ import annotations

import json
from typing import Any

from pexservice.core.cursor import Transition, state_at
from pexservice.stores.interface import LONGEST_KEY, Row
from pexservice.web import problems
from pexservice.web.endpoints import BY_PATH, TABLE
from pexservice.web.problems import TYPE_PREFIX, Problem
from pexservice.web.replies import JSON, PROBLEM, TEXT
from pexservice.web.representations import history_reply, state_headers, state_json

Json = dict[str, Any]

_STATE = state_at(10, 10)
_ROW = Row(10, 10, Transition.NEXT, 1_795_000_000_123_456_000)
_HISTORY = history_reply(_STATE, JSON, [_ROW], "/history?before=10&limit=1")

#: One of each problem there is, with the figures of the server's limits.
PROBLEMS: tuple[Problem, ...] = (
    problems.malformed("the parameter limit must be given once, a number from 1 to 1000"),
    problems.no_token(),
    problems.wrong_token(),
    problems.cross_origin("move the cursor"),
    problems.not_on_purpose(),
    problems.no_such_path(map(bytes.decode, BY_PATH)),
    problems.wrong_method(BY_PATH[b"/next"].allow),
    problems.too_slow(20),
    problems.unmet_precondition(
        state_headers(JSON, b"%d" % _STATE.revision, b"%d" % _STATE.position)
    ),
    problems.too_much_content(65536),
    problems.too_long_target(8192),
    problems.misdirected(),
    problems.key_reused(Transition.NEXT.word),
    problems.too_many_requests(100),
    problems.too_many_headers(16384, 100),
    problems.internal_error(),
    problems.not_taken("the store pexservice-data is full"),
    problems.outcome_unknown(),
    problems.too_many_connections(10_000),
    problems.too_many_streams(250),
)

_WHOLE: Json = {"type": "integer", "minimum": 0}
_VALUE: Json = {"type": "string", "pattern": "^[0-9]+$"}
_TAG = r'(W/)?"[!#-~]*"'


def _object(example: bytes, description: str, **properties: Json) -> Json:
    """
    An object that always has all of its members.
    """
    return {
        "type": "object",
        "description": description,
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
        "examples": [json.loads(example)],
    }


SCHEMAS: dict[str, Json] = {
    "State": _object(
        state_json(_STATE),
        "The cursor. Values are decimal strings, for a JSON number beyond 2^53 is not"
        " exact.",
        position=_WHOLE,
        current=_VALUE,
        previous={
            "type": ["string", "null"],
            "pattern": _VALUE["pattern"],
            "description": "null at position 0",
        },
        next=_VALUE,
        revision=_WHOLE,
    ),
    "History": _object(
        _HISTORY.body,
        "The latest transitions, newest first; no values, for they follow from the"
        " positions.",
        transitions={
            "type": "array",
            "items": {"$ref": "#/components/schemas/Transition"},
        },
        next={
            "type": ["string", "null"],
            "format": "uri-reference",
            "description": "where the transitions before these are; null on the last page",
        },
    ),
    "Transition": _object(
        json.dumps(json.loads(_HISTORY.body)["transitions"][0]).encode(),
        "One step, and where it led.",
        revision={"type": "integer", "minimum": 1},
        position=_WHOLE,
        transition={"enum": [each.word for each in Transition]},
        time={"type": "string", "format": "date-time"},
    ),
    "Index": _object(
        TABLE.json_index,
        "The endpoints there are.",
        endpoints={
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "methods", "description"],
                "properties": {
                    "path": {"type": "string"},
                    "methods": {"type": "array", "items": {"type": "string"}},
                    "description": {"type": "string"},
                },
            },
        },
    ),
    "Problem": _object(
        problems.wrong_token().reply(PROBLEM).body,
        "RFC 9457's problem details.",
        type={"enum": sorted({TYPE_PREFIX + each.name for each in PROBLEMS})},
        title={"type": "string"},
        status={"enum": sorted({each.status.value for each in PROBLEMS})},
        detail={"type": "string", "description": "what is wrong and what to do; one line"},
    ),
}


def _header(
    description: str, example: object, *, required: bool = True, **schema: object
) -> Json:
    return {
        "description": description,
        "required": required,
        "schema": schema,
        "example": example,
    }


#: Each is in every answer that lists it, but for two.
HEADERS: dict[str, Json] = {
    "Pex-Revision": _header("How many steps there were.", 10, **_WHOLE),
    "Pex-Position": _header("The index of the value.", 10, **_WHOLE),
    "ETag": _header(
        "The revision; with `-json` if the answer is JSON.",
        '"10-json"',
        type="string",
        pattern=r'^"[0-9]+(-json)?"$',
    ),
    "Cache-Control": _header("It must not be kept.", "no-store", const="no-store"),
    "Vary": _header("What the answer was chosen by.", "Accept", type="string"),
    "Idempotency-Replayed": _header(
        "The step was made before, with the same key; nothing was moved.",
        "true",
        required=False,
        const="true",
    ),
    "Link": _header(
        "Where the transitions before these are, if there are any.",
        dict(_HISTORY.headers)[b"Link"].decode(),
        required=False,
        type="string",
    ),
    "Allow": _header(
        "The methods that the path takes.",
        BY_PATH[b"/next"].allow.decode(),
        type="string",
    ),
    "Retry-After": _header("Seconds to wait before the next try.", 1, **_WHOLE),
    "WWW-Authenticate": _header(
        "What is wanted, as RFC 6750 has it.",
        dict(problems.no_token().headers)[b"WWW-Authenticate"].decode(),
        type="string",
    ),
}


def _tags(name: str, description: str) -> Json:
    return {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {
            "anyOf": [
                {"const": "*"},
                {"type": "string", "pattern": rf"^{_TAG}(, ?{_TAG})*$"},
            ]
        },
        "example": '"10"',
    }


PARAMETERS: dict[str, Json] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The first use moves; a repeat answers what the first one did.",
        "schema": {
            "type": "string",
            "pattern": "^[!-~]+$",
            "minLength": 1,
            "maxLength": LONGEST_KEY,
        },
        "example": "8e03978e-40d5-43e8-bc93-6894a57f9324",
    },
    "If-Match": _tags("If-Match", "Only if the cursor is at this revision; else 412."),
    "If-None-Match": _tags(
        "If-None-Match", "Only if the cursor is at none of these; else 304, for POST 412."
    ),
    "Known-Document": _tags("If-None-Match", "304 if it is still the one with this tag."),
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "How many transitions.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    },
    "before": {
        "name": "before",
        "in": "query",
        "description": "Only transitions before this revision.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**20 - 1},
    },
    "verbose": {
        "name": "verbose",
        "in": "query",
        "description": "Each check on a line; the value does not matter.",
        "schema": {"type": "string"},
        "allowEmptyValue": True,
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The revision that the client saw last.",
        "schema": {"type": "string"},
    },
}

SECURITY_SCHEMES: dict[str, Json] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "Where the operator has given the service a token file.",
    }
}


def headers(*names: str) -> Json:
    """
    Of an answer.
    """
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def problem_answers() -> dict[str, Json]:
    """
    An answer for each status, by C{problem-404} and so on.
    """
    by_status: dict[int, dict[str, Problem]] = {}
    for each in PROBLEMS:
        # Of several with one name, the first is the example.
        by_status.setdefault(each.status.value, {}).setdefault(each.name, each)
    return {f"problem-{status}": _answer(by_name) for status, by_name in by_status.items()}


def _answer(by_name: dict[str, Problem]) -> Json:
    """
    The answer of one status, with each of its problems as an example.
    """
    replies = {name: each.reply(PROBLEM) for name, each in by_name.items()}
    first = next(iter(replies.values()))
    sent = [name.decode() for name, _ in first.headers if name != b"Content-Type"]
    return {
        "description": ", or ".join(f"`{name}`" for name in by_name),
        "headers": headers(*sent),
        "content": {
            TEXT: {
                "schema": {"type": "string"},
                "examples": {
                    name: {"value": f"{each.detail}\n"} for name, each in by_name.items()
                },
            },
            PROBLEM: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {
                    name: {"value": json.loads(reply.body)}
                    for name, reply in replies.items()
                },
            },
        },
    }
