"""
The API as an OpenAPI 3.1 document.

C{/openapi.json} serves the document, and C{docs/http-api.md} is made from it.

C{openapi.json} beside this module is the document, C{openapi.description} its prose; both
are edited by hand, and the tests hold them against the service.  Three things are filled in
here: the prose, the answers that every operation can give, and which methods there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from pexservice.web.endpoints import ENDPOINTS, Endpoint
from pexservice.web.preconditions import Document
from pexservice.web.responses import JSON, TYPES


def document(endpoints: Iterable[Endpoint] = ENDPOINTS) -> dict[str, Any]:
    """
    Return the document that describes C{endpoints}.

    @raise LookupError: an endpoint, or a method of it, is not described.
    """
    here = files("pexservice.web")
    whole: dict[str, Any] = json.loads((here / "openapi.json").read_text())
    whole["info"]["description"] = (here / "openapi.description").read_text()
    every = whole.pop("x-every-operation")
    described = whole["paths"]
    whole["paths"] = {
        each.path: {
            method: described[each.path][method]
            for method in each.allow.decode().lower().split(", ")
        }
        for each in endpoints
    }
    for item in whole["paths"].values():
        for operation in item.values():
            answers = every | operation["responses"]
            operation["responses"] = dict(sorted(answers.items()))
    return whole


@cache
def rendered(endpoints: tuple[Endpoint, ...] = ENDPOINTS) -> Document:
    """
    Return the document about C{endpoints} as it is served, made when it is first asked for.
    """
    body = json.dumps(document(endpoints), ensure_ascii=False).encode() + b"\n"
    tag = sha256(body).hexdigest()[:16]
    headers = (
        (b"Content-Type", TYPES[JSON]),
        (b"ETag", f'"{tag}"'.encode()),
        (b"Cache-Control", b"no-cache"),
    )
    return Document(body, headers, tag)
