"""
The endpoints there are: one table for the guard, the description and the routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property

from attrs import evolve, frozen

READ = (b"GET", b"HEAD")
MOVE = (b"POST", b"GET")
STREAM = (b"GET",)


@frozen
class Endpoint:
    """
    One endpoint of the API.

    @ivar methods: the methods that it takes, besides C{OPTIONS}, which each takes.
    """

    path: str
    methods: tuple[bytes, ...]
    summary: str

    @property
    def allow(self) -> bytes:
        """
        Return the value of an C{Allow} header.
        """
        return b", ".join((*self.methods, b"OPTIONS"))


ENDPOINTS = (
    Endpoint("/", READ, "this description; for browsers, a live page"),
    Endpoint("/current", READ, "the value at the cursor"),
    Endpoint("/next", MOVE, "move one up and answer the value there"),
    Endpoint("/previous", MOVE, "move one down, not below 0, and answer the value there"),
    Endpoint("/reset", MOVE, "move to 0 and answer the value there"),
    Endpoint(
        "/history",
        READ,
        "the latest transitions, newest first; ?limit=1..1000 ?before=REVISION",
    ),
    Endpoint("/events", STREAM, "the cursor whenever it moves, as Server-Sent Events"),
    Endpoint("/livez", READ, "is the process alive; ?verbose"),
    Endpoint("/readyz", READ, "does it take steps; ?verbose"),
    Endpoint("/metrics", (b"GET",), "what it counts, for Prometheus"),
    Endpoint("/openapi.json", READ, "this API, described as OpenAPI 3.1"),
)


@frozen
class Table:
    """
    The endpoints of one service.
    """

    endpoints: tuple[Endpoint, ...]

    @cached_property
    def by_path(self) -> Mapping[bytes, Endpoint]:
        """
        Return the endpoints by the bytes of their paths.
        """
        return {each.path.encode(): each for each in self.endpoints}

    @cached_property
    def text_index(self) -> bytes:
        """
        Return the description of the endpoints as text.
        """
        methods = [b" ".join(each.methods).decode() for each in self.endpoints]
        wide = max(map(len, methods)) + 2
        deep = max(len(each.path) for each in self.endpoints) + 2
        lines = [
            f"{method:{wide}}{each.path:{deep}}{each.summary}\n"
            for method, each in zip(methods, self.endpoints, strict=True)
        ]
        text = (
            "A cursor on the Fibonacci sequence: 0 1 1 2 3 5 8 13 ...\n"
            "Every answered step is on disk.\n\n"
            + "".join(lines)
            + "\nAccept: application/json gives JSON."
            " Steps take Idempotency-Key and If-Match.\n"
        )
        return text.encode()

    @cached_property
    def json_index(self) -> bytes:
        """
        Return the description of the endpoints as JSON.
        """
        described = {
            "endpoints": [
                {
                    "path": each.path,
                    "methods": [method.decode() for method in each.methods],
                    "description": each.summary,
                }
                for each in self.endpoints
            ]
        }
        return f"{json.dumps(described)}\n".encode()


TABLE = Table(ENDPOINTS)

#: With C{--post-only}: no GET moves the cursor.
POST_ONLY = Table(
    tuple(
        evolve(each, methods=(b"POST",)) if each.methods == MOVE else each
        for each in ENDPOINTS
    )
)

BY_PATH = TABLE.by_path

#: The endpoints that read or move the cursor.
CURSOR = tuple(
    each for each in ENDPOINTS if each.methods == MOVE or each.path == "/current"
)
