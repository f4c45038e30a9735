"""
The common part of all requests in a conversation with the real daemon.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from attrs import Factory, define
from hypothesis.stateful import RuleBasedStateMachine

from tests.labs.model.expected import ExpectedResponse, Model, Request
from tests.support.daemon import Daemon

WORKER = "pexservice-worker"

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_LINE = re.compile(rf"({_TIME}) revision (\d+) (\w+) to position (\d+)")

#: Entity tags: by how many revisions a tag is behind the cursor, its suffix, and whether it
#: is weak.  C{None} stands for C{*}.
Tags = list[tuple[int, str, bool] | None]


@define
class ServiceUnderTest:
    """
    The daemon and the counts of all conversations.

    @ivar path: the directory of the store.
    @ivar conversations: how many conversations there were; the number makes their keys
        different.
    @ivar responses: how many responses there were with each status, and how many restarts.
    """

    path: Path
    daemon: Daemon
    conversations: int = 0
    responses: Counter[str] = Factory(Counter)

    def restart(self) -> None:
        """
        Start another daemon on the same store.
        """
        self.daemon = Daemon(self.path, command=WORKER)


class CheckedConversation(RuleBasedStateMachine):
    """
    A state machine that sends requests to the daemon, and checks the responses.

    @ivar model: predicts the responses.
    """

    model: Model

    def __init__(self, service: ServiceUnderTest) -> None:
        super().__init__()
        self.service = service
        self.restarted = False
        service.conversations += 1
        self.connection: HTTPConnection = service.daemon.connect()

    def teardown(self) -> None:
        self.connection.close()

    def _ask(self, path: str, request: Request, expected: ExpectedResponse) -> bytes:
        """
        Send a request, and check the response.

        @return: the body.
        @raise AssertionError: the response is not the expected one.
        """
        self.connection.request(request.method, path, headers=request.headers())
        response = self.connection.getresponse()
        body = response.read()
        self.service.responses[str(response.status)] += 1
        assert response.status == expected.status, (path, request, body)
        name = expected.headers.pop("X-Name", None)
        for header, value in expected.headers.items():
            assert response.headers[header] == value, (path, request, header)
        assert response.headers["Transfer-Encoding"] is None
        if request.method == "HEAD":
            assert body == b""
            if expected.body and expected.status != 304:
                assert response.headers["Content-Length"] == str(len(expected.body))
            return body
        if expected.status not in (204, 304):
            assert response.headers["Content-Length"] == str(len(body))
        if expected.body is not None:
            assert body == expected.body, (path, request)
        if name is not None and request.json:
            problem = json.loads(body)
            assert problem["type"] == f"urn:problem-type:pexservice:{name}"
            assert problem["status"] == expected.status
        elif name is not None:
            assert re.fullmatch(rb"[^\n]+\n", body)
        return body

    def _request(self, **values: Any) -> Request:
        """
        Return a request with the drawn values, some of which depend on the conversation.
        """
        for name in ("match", "none_match"):
            values[name] = self._tags(values.get(name))
        if values.get("key") is not None:
            values["key"] = f"{self.service.conversations}-{values['key']}"
        return Request(**values)

    def _tags(self, tags: Tags | None) -> tuple[str, ...] | None:
        if tags is None:
            return None
        if None in tags:
            return ("*",)
        return tuple(
            f'{"W/" if weak else ""}"{max(self.model.revision - back, 0)}{suffix}"'
            for back, suffix, weak in filter(None, tags)
        )

    def _check_rows(
        self, body: bytes, revisions: range, page: str | None, *, as_json: bool
    ) -> None:
        """
        Check that C{body} lists C{revisions} and links to C{page} as its next page.
        """
        if as_json:
            page_content = json.loads(body)
            assert page_content["next"] == page
            keys = ("time", "revision", "transition", "position")
            rows = [
                tuple(str(row[key]) for key in keys) for row in page_content["transitions"]
            ]
        else:
            lines = [_LINE.fullmatch(line) for line in body.decode().splitlines()]
            rows = [line.groups() for line in lines if line is not None]
        times = [time for time, *_ in rows]
        assert all(re.fullmatch(_TIME, time) for time in times)
        assert times == sorted(times, reverse=True)
        assert [int(revision) for _, revision, *_ in rows] == [*revisions]
        for _, revision, word, position in rows:
            if int(revision) >= self.model.base:
                assert (int(position), word) == self.model.rows[int(revision)]
