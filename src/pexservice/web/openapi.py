"""
The API as an OpenAPI 3.1 document, which C{/openapi.json} serves and
C{docs/http-api.md} is made from.

What is in it follows from L{ENDPOINTS}: a path that is not served is not described,
and one that is served and that this module does not know cannot be rendered, which a
test would see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from pexservice.web.endpoints import ENDPOINTS, Endpoint
from pexservice.web.openapi_operations import ABOUT, DESCRIBED, UNCHANGED, Described
from pexservice.web.openapi_schemas import (
    HEADERS,
    PARAMETERS,
    SCHEMAS,
    SECURITY_SCHEMES,
    Json,
    headers,
    problem_answers,
)

#: What can become of any request.
_ALWAYS = (400, 408, 413, 414, 421, 429, 431, 500, 503)


def _answers(described: Described, method: str) -> Json:
    # RFC 9110 13.1.2 has 304 for reads.
    unchanged = {304: UNCHANGED} if described.moves and method == "get" else {}
    problems = {
        status: {"$ref": f"#/components/responses/problem-{status}"}
        for status in (*_ALWAYS, *described.problems)
    }
    answers = {**problems, **unchanged, **described.answers}
    return {str(status): answers[status] for status in sorted(answers)}


def _identity(method: str, endpoint: Endpoint) -> str:
    """
    What a generated client calls it.
    """
    name = endpoint.path.strip("/").partition(".")[0] or "index"
    return f"{method}-{name}"


def _operation(endpoint: Endpoint, method: str) -> Json:
    described = DESCRIBED[endpoint.path]
    summary = endpoint.summary.partition(";")[0]
    operation: Json = {
        "operationId": _identity(method, endpoint),
        "summary": summary[0].upper() + summary[1:],
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
        "operationId": _identity("options", endpoint),
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
def rendered(endpoints: tuple[Endpoint, ...] = ENDPOINTS) -> Rendered:
    """
    Return the document of what is served, made when it is first asked for.
    """
    body = json.dumps(document(endpoints), ensure_ascii=False).encode()
    return Rendered(body, sha256(body).hexdigest()[:16])
