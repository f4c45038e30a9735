"""
Conversations with the real daemon that Hypothesis generates, compared with a model.

One daemon serves all conversations.  So each conversation begins with a reset, and
everything in it is relative to the revision of this reset.

C{python -m tests.labs.model.lab [EXAMPLES]} is the long form; the test calls L{converse}
with fewer examples.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from attrs import Factory, define
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.labs.model.expected import (
    WORDS,
    ExpectedResponse,
    Model,
    Request,
    fibonacci,
)
from tests.support.daemon import WORKER, Daemon, read_all
from tests.support.evidence import record, run_lab

#: How many requests a conversation has at most.
MAX_REQUESTS = 40

_READ_METHODS = st.sampled_from(["GET", "GET", "HEAD"])
_STEP_METHODS = st.sampled_from(["POST", "POST", "GET"])
#: See L{Tags}.
_TAGS = st.none() | st.lists(
    st.tuples(st.integers(-1, 2), st.sampled_from(["", "-json"]), st.booleans())
    | st.none(),
    min_size=1,
    max_size=3,
)


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


class Conversation(RuleBasedStateMachine):
    """
    A conversation in which every response must be the model's.

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

    @initialize()
    def begin(self) -> None:
        """
        Reset the cursor, because the last conversation may have ended anywhere.
        """
        self.connection.request("POST", "/reset")
        response = self.connection.getresponse()
        assert (response.status, response.read()) == (200, b"0\n")
        revision = int(response.headers["Pex-Revision"])
        self.model = Model(revision, 0, revision)
        self.model.rows[revision] = (0, "reset")

    @rule(
        word=st.sampled_from(WORDS),
        values=st.fixed_dictionaries(
            {
                "method": _STEP_METHODS,
                "json": st.booleans(),
                "key": st.none() | st.integers(0, 2),
                "match": st.none() | _TAGS,
                "none_match": st.none() | st.none() | _TAGS,
            }
        ),
    )
    def step(self, *, word: str, values: dict[str, Any]) -> None:
        """
        Make a step, perhaps with a used key, and perhaps with preconditions.
        """
        request = self._request(**values)
        self._ask(f"/{word}", request, self.model.try_step(word, request))

    @rule(words=st.lists(st.sampled_from(WORDS[:1] * 8 + WORDS), max_size=200))
    def pipeline(self, *, words: list[str]) -> None:
        """
        Send many requests in one piece, and then read all responses.
        """
        *first_words, last_word = ["current", *words, "current"]
        head = "HTTP/1.1\r\nHost: localhost\r\n"
        sent = "".join(f"GET /{word} {head}\r\n" for word in first_words)
        sent += f"GET /{last_word} {head}Connection: close\r\n\r\n"
        with socket.create_connection(
            ("127.0.0.1", self.service.daemon.port)
        ) as connection:
            connection.sendall(sent.encode())
            responses = read_all(connection)
        bodies = re.findall(rb"\r\n\r\n(\d+)\n", responses)
        values = []
        for word in (*first_words, last_word):
            if word != "current":
                self.model.apply_step(word)
            values.append(b"%d" % fibonacci(self.model.position))
        assert bodies == values
        assert responses.count(b"HTTP/1.1 200 OK\r\n") == len(values)
        self.service.responses["200"] += len(values)

    @rule(word=st.sampled_from(WORDS), count=st.integers(2, 8))
    def together(self, *, word: str, count: int) -> None:
        """
        Make the same step with many clients at once, which share commits.

        Each client must get the response to a different step.
        """
        sent = f"POST /{word} HTTP/1.0\r\n\r\n".encode()
        address = ("127.0.0.1", self.service.daemon.port)
        with ExitStack() as stack:
            crowd = [
                stack.enter_context(socket.create_connection(address)) for _ in range(count)
            ]
            for connection in crowd:
                connection.sendall(sent)
            responses = [read_all(connection) for connection in crowd]
        seen_states = []
        for response in responses:
            revision, position = re.findall(rb"\r\nPex-\w+: (\d+)", response)
            seen_states.append(
                (int(revision), int(position), response.rpartition(b"\r\n")[2])
            )
        expected_states = []
        for _ in range(count):
            self.model.apply_step(word)
            value = b"%d\n" % fibonacci(self.model.position)
            expected_states.append((self.model.revision, self.model.position, value))
        assert sorted(seen_states) == expected_states
        self.service.responses["200"] += count

    @rule(
        method=_READ_METHODS, json=st.booleans(), match=st.none() | _TAGS, none_match=_TAGS
    )
    def current(self, **values: Any) -> None:
        """
        Read the cursor.
        """
        request = self._request(**values)
        self._ask("/current", request, self.model.current(request))

    @rule(
        method=_READ_METHODS,
        json=st.booleans(),
        limit=st.none() | st.integers(1, 20) | st.integers(1, 1000),
        back=st.none() | st.integers(-3, 50),
        none_match=st.none() | st.none() | _TAGS,
    )
    def history(self, *, limit: int | None, back: int | None, **values: Any) -> None:
        """
        Read the newest steps, or the steps before a revision.
        """
        before = None if back is None else max(self.model.revision + 1 - back, 1)
        query = [
            *([] if limit is None else [f"limit={limit}"]),
            *([] if before is None else [f"before={before}"]),
        ]
        request = self._request(**values)
        expected = self.model.history(request)
        revisions, next_page = self.model.page_revisions(before, limit)
        page = f"/history?before={next_page}&limit={limit or 100}" if next_page else None
        if expected.status == 200:
            expected.headers["Link"] = page and f'<{page}>; rel="next"'
        body = self._ask(f"/history?{'&'.join(query)}", request, expected)
        if expected.status == 200 and request.method == "GET":
            self._check_rows(body, revisions, page, as_json=request.json)

    @precondition(lambda self: not self.restarted)
    @rule(signal_name=st.sampled_from([*["not"] * 20, "SIGTERM", "SIGKILL"]))
    def restart(self, *, signal_name: str) -> None:
        """
        Restart the daemon, in few conversations and at most once in each.

        The daemon must still know everything.
        """
        if signal_name == "not":
            return
        self.restarted = True
        self.connection.close()
        daemon = self.service.daemon
        if signal_name == "SIGKILL":
            daemon.kill()
        else:
            assert daemon.stop() in (0, -15)
        self.service.restart()
        self.connection = self.service.daemon.connect()
        self.service.responses["restarts"] += 1


def converse(path: Path, examples: int) -> Counter[str]:
    """
    Hold generated conversations with a daemon.

    @return: how many responses there were with each status, and how many restarts.
    @raise AssertionError: a response was not the model's.
    """
    service = ServiceUnderTest(path, Daemon(path, command=WORKER))
    try:
        run_state_machine_as_test(
            lambda: Conversation(service),  # type: ignore[arg-type]  # any callable will do
            settings=settings(
                max_examples=examples,
                stateful_step_count=MAX_REQUESTS,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
        status = service.daemon.stop()
        assert status in (0, -15), status
    finally:
        service.daemon.kill()
    restarts = service.responses["restarts"]
    responses = service.responses.total() - restarts
    record(
        "model",
        promise="Every response is the one that the documentation describes, after any"
        " earlier requests.",
        size=responses,
        unit="responses",
        result=f"{service.conversations:,} generated conversations,"
        f" {restarts:,} restarts by SIGKILL or SIGTERM: each response is the model's",
    )
    return service.responses


if __name__ == "__main__":
    run_lab(converse, 1000)
