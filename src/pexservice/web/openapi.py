"""
The API as an OpenAPI 3.1 document.

C{/openapi.json} returns the document, and C{docs/http-api.md} is made from it.

C{openapi.json} is written by hand, and so is its prose, C{openapi.description}.  Tests
compare both with the service.  This module inserts the prose, adds the responses that every
operation can have, and removes methods that the service does not accept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from pexservice.web.endpoints import ENDPOINTS, Endpoint
from pexservice.web.preconditions import Document
from pexservice.web.responses import CONTENT_TYPES, JSON


def document(endpoints: Iterable[Endpoint] = ENDPOINTS) -> dict[str, Any]:
    """
    Return the document that describes C{endpoints}.

    @raise LookupError: an endpoint, or a method of it, is not described.
    """
    directory = files("pexservice.web")
    openapi: dict[str, Any] = json.loads((directory / "openapi.json").read_text())
    openapi["info"]["description"] = (directory / "openapi.description").read_text()
    common_responses = openapi.pop("x-every-operation")
    described = openapi["paths"]
    openapi["paths"] = {
        endpoint.path: {
            method: described[endpoint.path][method]
            for method in endpoint.allow.decode().lower().split(", ")
        }
        for endpoint in endpoints
    }
    for item in openapi["paths"].values():
        for operation in item.values():
            responses = common_responses | operation["responses"]
            operation["responses"] = dict(sorted(responses.items()))
    return openapi


@cache
def rendered(endpoints: tuple[Endpoint, ...] = ENDPOINTS) -> Document:
    """
    Return the document about C{endpoints}, ready for responses.
    """
    body = json.dumps(document(endpoints), ensure_ascii=False).encode() + b"\n"
    return Document(body, CONTENT_TYPES[JSON])
