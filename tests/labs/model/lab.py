"""
Conversations with the real daemon that Hypothesis makes up, against a model of it.

One daemon serves all of them, so a conversation begins with a reset and everything in
it is relative to the revision that the reset led to.

C{python -m tests.labs.model.lab [EXAMPLES]} is the long form; the test calls
L{converse} with fewer.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.labs.model.asking import WORKER, Asking, Tags, World
from tests.labs.model.expected import (
    WORDS,
    Expected,
    Model,
    Wish,
    fibonacci,
    problem,
)
from tests.support.daemon import Daemon, read_all
from tests.support.evidence import Evidence, record

#: Requests in one conversation, at most.
STEPS = 40

_READS = st.sampled_from(["GET", "GET", "HEAD"])
_MOVES = st.sampled_from(["POST", "POST", "GET"])
_KEYS = st.none() | st.integers(0, 2)
#: See L{Tags}.
_TAGS = st.none() | st.lists(
    st.tuples(st.integers(-1, 2), st.sampled_from(["", "-json"]), st.booleans())
    | st.none(),
    min_size=1,
    max_size=3,
)
_PATHS = ("/", "/current", "/next", "/previous", "/reset", "/history", "/livez", "/readyz")


class Conversation(Asking):
    """
    A conversation in which every response is the model's, after any earlier requests.
    """

    @initialize()
    def begin(self) -> None:
        """
        Reset the cursor to 0, at whatever position the last conversation ended.
        """
        self.connection.request("POST", "/reset")
        response = self.connection.getresponse()
        assert (response.status, response.read()) == (200, b"0\n")
        revision = int(response.headers["Pex-Revision"])
        self.model = Model(revision, 0, revision)
        self.model.rows[revision] = (0, "reset")

    @rule(
        word=st.sampled_from(WORDS),
        method=_MOVES,
        json=st.booleans(),
        key=_KEYS,
        match=st.none() | _TAGS,
        none_match=st.none() | st.none() | _TAGS,
    )
    def move(
        self,
        *,
        word: str,
        method: str,
        json: bool,
        key: int | None,
        match: Tags | None,
        none_match: Tags | None,
    ) -> None:
        """
        Make a step, maybe with a key that was used before, maybe on preconditions.
        """
        wish = Wish(
            method=method,
            json=json,
            key=None if key is None else f"{self.world.conversations}-{key}",
            match=self._tags(match),
            none_match=self._tags(none_match),
        )
        self._ask(f"/{word}", wish, self.model.move(word, wish))

    @rule(words=st.lists(st.sampled_from(WORDS[:1] * 8 + WORDS), max_size=200))
    def pipeline(self, *, words: list[str]) -> None:
        """
        Send many steps at once, in one piece and without a look at the answers.
        """
        *most, last = ["current", *words, "current"]
        head = "HTTP/1.1\r\nHost: localhost\r\n"
        sent = "".join(f"GET /{word} {head}\r\n" for word in most)
        sent += f"GET /{last} {head}Connection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.world.daemon.port)) as raw:
            raw.sendall(sent.encode())
            answers = read_all(raw)
        bodies = re.findall(rb"\r\n\r\n(\d+)\n", answers)
        values = []
        for word in (*most, last):
            if word != "current":
                self.model.step(word)
            values.append(b"%d" % fibonacci(self.model.position))
        assert bodies == values
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == len(values)
        self.world.answers["200"] += len(values)

    @rule(word=st.sampled_from(WORDS), count=st.integers(2, 8))
    def together(self, *, word: str, count: int) -> None:
        """
        Make the same step by many clients at once, which share commits.

        Each client gets the response to one step.
        """
        sent = f"POST /{word} HTTP/1.0\r\n\r\n".encode()
        address = ("127.0.0.1", self.world.daemon.port)
        with ExitStack() as stack:
            crowd = [
                stack.enter_context(socket.create_connection(address)) for _ in range(count)
            ]
            for connection in crowd:
                connection.sendall(sent)
            answers = [read_all(connection) for connection in crowd]
        seen_states = []
        for answer in answers:
            match = re.search(
                rb"\r\nPex-Revision: (\d+)\r\nPex-Position: (\d+)\r\n", answer
            )
            assert match is not None, answer
            seen_states.append(
                (int(match[1]), int(match[2]), answer.rpartition(b"\r\n")[2])
            )
        expected_states = []
        for _ in range(count):
            self.model.step(word)
            value = b"%d\n" % fibonacci(self.model.position)
            expected_states.append((self.model.revision, self.model.position, value))
        assert sorted(seen_states) == expected_states
        self.world.answers["200"] += count

    @rule(method=_READS, json=st.booleans(), match=st.none() | _TAGS, none_match=_TAGS)
    def current(
        self,
        *,
        method: str,
        json: bool,
        match: Tags | None,
        none_match: Tags | None,
    ) -> None:
        """
        Look at the cursor.
        """
        wish = Wish(
            method=method,
            json=json,
            match=self._tags(match),
            none_match=self._tags(none_match),
        )
        self._ask("/current", wish, self.model.current(wish))

    @rule(
        method=_READS,
        json=st.booleans(),
        limit=st.none() | st.integers(1, 20) | st.integers(1, 1000),
        back=st.none() | st.integers(-3, 50),
        none_match=st.none() | st.none() | _TAGS,
    )
    def history(
        self,
        *,
        method: str,
        json: bool,
        limit: int | None,
        back: int | None,
        none_match: Tags | None,
    ) -> None:
        """
        Read the latest steps, or the steps before a revision.
        """
        before = None if back is None else max(self.model.revision + 1 - back, 1)
        query = [
            *([] if limit is None else [f"limit={limit}"]),
            *([] if before is None else [f"before={before}"]),
        ]
        wish = Wish(method=method, json=json, none_match=self._tags(none_match))
        expected = self.model.history(wish)
        revisions, following = self.model.listed(before, limit)
        page = f"/history?before={following}&limit={limit or 100}" if following else None
        if expected.status == 200:
            expected.headers["Link"] = page and f'<{page}>; rel="next"'
        body = self._ask(f"/history?{'&'.join(query)}", wish, expected)
        if expected.status == 200 and method == "GET":
            self._see_rows(body, revisions, page, as_json=json)

    @rule(method=_READS, json=st.booleans())
    def index(self, *, method: str, json: bool) -> None:
        """
        Check that the description names every path.
        """
        wish = Wish(method=method, json=json)
        body = self._ask("/", wish, Expected(200, {"Vary": "Accept"}))
        assert method == "HEAD" or all(path.encode() in body for path in _PATHS)

    @rule(path=st.sampled_from(["livez", "readyz"]), verbose=st.booleans(), method=_READS)
    def health(self, *, path: str, verbose: bool, method: str) -> None:
        """
        Check that the daemon says that it is well.
        """
        check = {"livez": "reactor", "readyz": "store"}[path]
        body = f"[+]{check} ok\n{path} check passed\n" if verbose else "ok\n"
        expected = Expected(200, {"Cache-Control": "no-store"}, body.encode())
        query = "?verbose" if verbose else ""
        self._ask(f"/{path}{query}", Wish(method=method), expected)

    @rule(path=st.sampled_from(_PATHS), method=st.sampled_from(["OPTIONS", "DELETE"]))
    def methods(self, *, path: str, method: str) -> None:
        """
        Check that each path says which methods it takes, and does nothing else.
        """
        allow = "POST, GET" if path[1:] in WORDS else "GET, HEAD"
        headers: dict[str, str | None] = {"Allow": f"{allow}, OPTIONS"}
        expected = Expected(204, headers, b"")
        wish = Wish(method=method)
        if method == "DELETE":
            refused = problem(405, "method-not-allowed", wish)
            expected = Expected(405, refused.headers | headers)
        self._ask(path, wish, expected)

    @rule(
        asked=st.sampled_from(
            [
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
    def refused(
        self,
        *,
        asked: tuple[int, str, str, str, str | None],
        json: bool,
    ) -> None:
        """
        Check that a request that is not understood moves nothing.
        """
        status, name, method, path, key = asked
        wish = Wish(method=method, json=json, key=key)
        self._ask(path, wish, problem(status, name, wish))

    @precondition(lambda self: not self.restarted)
    @rule(how=st.sampled_from([*["not"] * 20, "SIGTERM", "SIGKILL"]))
    def restart(self, *, how: str) -> None:
        """
        Restart the daemon, rarely, once in a conversation.

        The daemon continues with all that it knew.
        """
        if how == "not":
            return
        self.restarted = True
        self.connection.close()
        daemon = self.world.daemon
        if how == "SIGKILL":
            daemon.kill()
        else:
            assert daemon.stop() in (0, -15)
        self.world.restart()
        self.connection = self.world.daemon.connect()
        self.world.answers["restarts"] += 1


def converse(path: Path, examples: int) -> Counter[str]:
    """
    Hold generated conversations with a daemon.

    @return: by status, how many answers there were; and how many restarts.
    @raise AssertionError: an answer was another than the model's.
    """
    world = World(path, Daemon(path, command=WORKER))
    try:
        run_state_machine_as_test(
            lambda: Conversation(world),  # type: ignore[arg-type]  # any maker will do
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
        status = world.daemon.stop()
        assert status in (0, -15), status
    finally:
        world.daemon.kill()
    restarts = world.answers["restarts"]
    answers = world.answers.total() - restarts
    record(
        Evidence(
            name="model",
            promise="Every response is the one that the documentation describes, after any"
            " earlier requests.",
            size=answers,
            unit="responses",
            result=f"{world.conversations:,} generated conversations on every endpoint,"
            f" {restarts:,} restarts by SIGKILL or SIGTERM: each response is the model's",
            command="make model",
        )
    )
    return world.answers


def main() -> None:
    """
    Run the long form.
    """
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as path:
        print(converse(Path(path), examples))


if __name__ == "__main__":
    main()
