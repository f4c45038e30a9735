"""
The part of a conversation with the real daemon that is the same for all requests.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

from attrs import Factory, define
from hypothesis.stateful import RuleBasedStateMachine

from tests.labs.model.expected import Expected, Model, Wish
from tests.support.daemon import Daemon

WORKER = "pexservice-worker"

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_LINE = re.compile(rf"({_TIME}) revision (\d+) (\w+) to position (\d+)")

#: Entity tags by how far behind the cursor they are, their suffix, and whether they
#: are weak; C{None} is C{*}.
Tags = list[tuple[int, str, bool] | None]


@define
class World:
    """
    The state that outlives a conversation.

    @ivar path: where the daemon has its store.
    @ivar conversations: how many there were, so that each has its own keys.
    @ivar answers: by status, how many there were; and restarts.
    """

    path: Path
    daemon: Daemon
    conversations: int = 0
    answers: Counter[str] = Factory(Counter)

    def restart(self) -> None:
        """
        Start a new daemon on the same store, after the last has ended.
        """
        self.daemon = Daemon(self.path, command=WORKER)


class Asking(RuleBasedStateMachine):
    """
    A state machine that asks the daemon, and checks its answers.

    @ivar model: what the daemon should be like.
    """

    model: Model

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.restarted = False
        world.conversations += 1
        self.connection: HTTPConnection = world.daemon.connect()

    def teardown(self) -> None:
        """
        Close the connection, for the next conversation has its own.
        """
        self.connection.close()

    def _ask(self, path: str, wish: Wish, expected: Expected) -> bytes:
        """
        Send a request, and check the answer.

        @return: the body.
        @raise AssertionError: the answer is another.
        """
        self.connection.request(wish.method, path, headers=wish.headers())
        response = self.connection.getresponse()
        body = response.read()
        self.world.answers[str(response.status)] += 1
        assert response.status == expected.status, (path, wish, body)
        name = expected.headers.pop("X-Name", None)
        for header, value in expected.headers.items():
            assert response.headers[header] == value, (path, wish, header)
        assert response.headers["Transfer-Encoding"] is None
        if wish.method == "HEAD":
            assert body == b""
            if expected.body and expected.status != 304:
                assert response.headers["Content-Length"] == str(len(expected.body))
            return body
        if expected.status not in (204, 304):
            assert response.headers["Content-Length"] == str(len(body))
        if expected.body is not None:
            assert body == expected.body, (path, wish)
        if name is not None and wish.json:
            problem = json.loads(body)
            assert problem["type"] == f"urn:problem-type:pexservice:{name}"
            assert problem["status"] == expected.status
        elif name is not None:
            assert re.fullmatch(rb"[^\n]+\n", body)
        return body

    def _tags(self, behind: Tags | None) -> tuple[str, ...] | None:
        if behind is None:
            return None
        if None in behind:
            return ("*",)
        return tuple(
            f'{"W/" if weak else ""}"{max(self.model.revision - back, 0)}{suffix}"'
            for back, suffix, weak in filter(None, behind)
        )

    def _see_rows(
        self, body: bytes, revisions: range, page: str | None, *, as_json: bool
    ) -> None:
        """
        Check that C{body} lists C{revisions} and names C{page}.

        C{page} is the page of the rows before these revisions.
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
