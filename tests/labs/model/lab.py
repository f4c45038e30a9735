"""
Conversations with the real daemon that Hypothesis generates, compared with a model.

One daemon serves all conversations.  So each conversation begins with a reset, and
everything in it is relative to the revision of this reset.

C{python -m tests.labs.model.lab [EXAMPLES]} is the long form; the test calls L{converse}
with fewer examples.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from tests.labs.model.conversation import WORKER, CheckedConversation, ServiceUnderTest
from tests.labs.model.expected import (
    WORDS,
    Model,
    Request,
    fibonacci,
    problem,
)
from tests.support.daemon import Daemon, read_all
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
_PATHS = ("/", "/current", "/next", "/previous", "/reset", "/history", "/livez", "/readyz")


class Conversation(CheckedConversation):
    """
    A conversation in which every response must be the model's.
    """

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

    @rule(
        case=st.sampled_from(
            [
                *((405, "method-not-allowed", "DELETE", path, None) for path in _PATHS),
                (405, "method-not-allowed", "HEAD", "/next", None),
                (405, "method-not-allowed", "HEAD", "/reset", None),
                (404, "not-found", "POST", "//next", None),
                (404, "not-found", "POST", "/next/", None),
                (404, "not-found", "GET", "/%6eext", None),
                (400, "bad-request", "GET", "/history?limit=0", None),
                (400, "bad-request", "GET", "/history?limit=1001", None),
                (400, "bad-request", "GET", "/history?before=x", None),
                (400, "bad-request", "POST", "/next", "two words"),
                (400, "bad-request", "POST", "/reset", "k" * 256),
            ]
        ),
        json=st.booleans(),
    )
    def refused(self, *, case: tuple[int, str, str, str, str | None], json: bool) -> None:
        """
        Check that a bad request has no effect.
        """
        status, name, method, path, key = case
        request = Request(method=method, json=json, key=key)
        self._ask(path, request, problem(status, name, request))

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
        command="make model",
    )
    return service.responses


if __name__ == "__main__":
    run_lab(converse, 1000)
