"""
The table of endpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property

from attrs import evolve, frozen

READ_METHODS = (b"GET", b"HEAD")
STEP_METHODS = (b"POST", b"GET")


@frozen
class Endpoint:
    """
    A row of the table.

    @ivar methods: the accepted methods.  Every endpoint also accepts C{OPTIONS}.
    @ivar summary: the description in the index.
    """

    path: str
    methods: tuple[bytes, ...]
    summary: str

    @property
    def moves_cursor(self) -> bool:
        return b"POST" in self.methods

    @property
    def allow(self) -> bytes:
        return b", ".join((*self.methods, b"OPTIONS"))


ENDPOINTS = (
    Endpoint("/", READ_METHODS, "this list of endpoints; in browsers, a live page"),
    Endpoint("/current", READ_METHODS, "the value at the cursor"),
    Endpoint("/next", STEP_METHODS, "move the cursor one up; returns the new value"),
    Endpoint(
        "/previous",
        STEP_METHODS,
        "move the cursor one down, not below 0; returns the value",
    ),
    Endpoint("/reset", STEP_METHODS, "move the cursor to 0; returns the value"),
    Endpoint(
        "/history",
        READ_METHODS,
        "the latest steps, newest first; ?limit=1..1000 ?before=REVISION",
    ),
    Endpoint("/events", (b"GET",), "the cursor whenever it moves, as Server-Sent Events"),
    Endpoint("/livez", READ_METHODS, "liveness: the process is running; ?verbose"),
    Endpoint("/readyz", READ_METHODS, "readiness: a step would be accepted; ?verbose"),
    Endpoint("/metrics", (b"GET",), "the metrics, for Prometheus"),
    Endpoint("/openapi.json", READ_METHODS, "this API as an OpenAPI 3.1 document"),
)


@frozen
class EndpointTable:
    """
    The table of one service, and the index that C{/} returns.
    """

    endpoints: tuple[Endpoint, ...]

    @cached_property
    def by_path(self) -> Mapping[bytes, Endpoint]:
        return {endpoint.path.encode(): endpoint for endpoint in self.endpoints}

    @cached_property
    def text_index(self) -> bytes:
        rows = [
            (b" ".join(endpoint.methods).decode(), endpoint.path, endpoint.summary)
            for endpoint in self.endpoints
        ]
        method_width = max(len(methods) for methods, _, _ in rows) + 2
        path_width = max(len(path) for _, path, _ in rows) + 2
        lines = [
            f"{methods:{method_width}}{path:{path_width}}{summary}\n"
            for methods, path, summary in rows
        ]
        return (
            "A cursor over the Fibonacci sequence: 0 1 1 2 3 5 8 13 ...\n"
            "By default, every step is on disk before its response is sent.\n\n"
            + "".join(lines)
            + "\nAccept: application/json returns JSON."
            " Steps accept Idempotency-Key and If-Match.\n"
        ).encode()

    @cached_property
    def json_index(self) -> bytes:
        rows = [
            {
                "path": endpoint.path,
                "methods": [method.decode() for method in endpoint.methods],
                "description": endpoint.summary,
            }
            for endpoint in self.endpoints
        ]
        return f"{json.dumps({'endpoints': rows})}\n".encode()


DEFAULT_TABLE = EndpointTable(ENDPOINTS)

#: The table with C{--post-only}: no GET moves the cursor.
POST_ONLY_TABLE = EndpointTable(
    tuple(
        evolve(endpoint, methods=(b"POST",)) if endpoint.moves_cursor else endpoint
        for endpoint in ENDPOINTS
    )
)
