"""
The contract that callers see, endpoint by endpoint.
"""

from __future__ import annotations

import time
from typing import cast

import pytest
from twisted.logger import ILogObserver, capturedLogs, globalLogPublisher

from pexservice.stores.interface import NotTaken
from pexservice.web.endpoints import ENDPOINTS, POST_ONLY
from pexservice.web.performer import Performer
from tests.support.caller import Answer, Caller
from tests.support.wire import Server

JSON = "application/json"
MOVING = ["/next", "/previous", "/reset"]
READING = ["/", "/current", "/history", "/livez", "/readyz", "/openapi.json"]
ALLOW = {
    **dict.fromkeys(MOVING, "POST, GET, OPTIONS"),
    **dict.fromkeys(["/events", "/metrics"], "GET, OPTIONS"),
}


@pytest.fixture
def call() -> Caller:
    """
    Return a caller of a service with a new cursor.
    """
    return Caller()


def values(call: Caller, *paths: str) -> list[str]:
    """
    Return the answer of each of C{paths}, in turn.
    """
    return [call("POST" if path in MOVING else "GET", path).body.decode() for path in paths]


def test_the_example(call: Caller) -> None:
    """
    Each answer shows the value after the move.
    """
    assert values(call, *["/next"] * 8) == [f"{n}\n" for n in (1, 1, 2, 3, 5, 8, 13, 21)]
    assert values(call, "/previous", "/current", "/reset", "/previous", "/current") == [
        "13\n",
        "13\n",
        "0\n",
        "0\n",
        "0\n",
    ]
    assert call("GET", "/current")["Pex-Revision"] == "11"


@pytest.mark.parametrize("path", MOVING)
def test_get_moves_as_post_does(call: Caller, path: str) -> None:
    """
    GET moves as POST does; it is kept because the original API has it.
    """
    for revision, method in enumerate(("POST", "GET"), 1):
        assert call(method, path)["Pex-Revision"] == str(revision)


def test_text(call: Caller) -> None:
    """
    A text answer is the digits and a newline, with the headers about the cursor.

    Every answer about the cursor has these headers.
    """
    values(call, *["/next"] * 10)
    answer = call("GET", "/current")
    assert (answer.status, answer.body, answer.length) == (200, b"55\n", 3)
    assert {name: answer[name] for name in EXPECTED} == EXPECTED


EXPECTED = {
    "Content-Type": "text/plain; charset=utf-8",
    "Pex-Revision": "10",
    "Pex-Position": "10",
    "ETag": '"10"',
    "Cache-Control": "no-store",
    "Vary": "Accept",
    "Transfer-Encoding": None,
}


def test_json(call: Caller) -> None:
    """
    A JSON answer has its members in this order, and an ETag of its own.

    The values in the answer are decimal strings.
    """
    values(call, *["/next"] * 10)
    answer = call("GET", "/current", Accept=JSON)
    assert answer.body == (
        b'{"position":10,"current":"55","previous":"34","next":"89","revision":10}\n'
    )
    assert (answer["Content-Type"], answer["ETag"]) == (JSON, '"10-json"')
    assert answer["Vary"] == "Accept"


def test_json_at_the_origin(call: Caller) -> None:
    """
    At the origin, the previous value is null in JSON.
    """
    assert call("GET", "/current", Accept=JSON).json == {
        "position": 0,
        "current": "0",
        "previous": None,
        "next": "1",
        "revision": 0,
    }


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text"),
        ("", "text"),
        ("text/plain", "text"),
        ("text/html", "text"),
        ("image/png", "text"),
        ("application/json", "json"),
        ("application/*", "json"),
        ("application/json;q=0.5, text/plain;q=0.4", "json"),
        ("application/json;q=0.4, text/plain;q=0.5", "text"),
        ("application/json;q=0", "text"),
        ("application/json; charset=utf-8", "json"),
        ("application/json;indent=2;q=0.5, text/plain;q=0.4", "json"),
        ("text/plain;q=0.1, */*", "json"),
        ("nonsense", "text"),
        (";;q=,,", "text"),
    ],
)
def test_negotiation(call: Caller, accept: str, kind: str) -> None:
    """
    The answer has the preferred one of the two representations.

    The answer is text when the request asks for nothing else.
    """
    content_type = call("GET", "/current", Accept=accept)["Content-Type"]
    assert content_type == {"text": "text/plain; charset=utf-8", "json": JSON}[kind]


def test_negotiation_over_two_headers(call: Caller) -> None:
    """
    Two C{Accept} lines are one list.
    """
    answer = call("GET", "/current", Accept=["text/plain;q=0.1", JSON])
    assert answer["Content-Type"] == JSON


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=[each.path for each in ENDPOINTS])
def test_methods(call: Caller, endpoint: object) -> None:
    """
    Any other method gets 405 with the allowed methods, and moves nothing.

    OPTIONS lists the allowed methods too, and moves nothing either.
    """
    path = endpoint.path  # type: ignore[attr-defined]
    allow = ALLOW.get(path, "GET, HEAD, OPTIONS")
    others = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"}
    for method in sorted(others - set(allow.split(", "))):
        answer = call(method, path)
        assert (method, answer.status, answer["Allow"]) == (method, 405, allow)
    options = call("OPTIONS", path)
    assert (options.status, options["Allow"], options.body) == (204, allow, b"")
    assert call("GET", "/current")["Pex-Revision"] == "0"


@pytest.mark.parametrize("path", READING)
def test_head(call: Caller, path: str) -> None:
    """
    HEAD gets the headers of GET, and no body.
    """
    get, head = call("GET", path), call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Type", "ETag", "Pex-Revision"):
        assert head[name] == get[name]
    assert get.length == len(get.body)


@pytest.mark.parametrize(
    "path",
    [
        "//next",
        "/next/",
        "/%6eext",
        "/Next",
        "/next;x",
        "/nex",
        "/next/..",
        "/./next",
        "/next%20",
        "/next%3f",
        "/index.html",
        "/api/next",
        "/next%00",
        "/\u00fc",
    ],
)
def test_paths_are_literal(call: Caller, path: str) -> None:
    """
    A path that is not written literally gets 404, which lists the paths that exist.
    """
    answer = call("POST", path)
    assert answer.status == 404
    assert b"/current /next /previous /reset" in answer.body
    assert call("GET", "/current")["Pex-Revision"] == "0"


def test_unknown_parameters_are_ignored(call: Caller) -> None:
    """
    Unknown parameters are ignored, whatever they are.
    """
    assert call("POST", "/next?limit=x&%ff=%&&=").body == b"1\n"


def test_problems_as_text(call: Caller) -> None:
    """
    A problem as text is one line.
    """
    answer = call("DELETE", "/next")
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.body == b"method not allowed; use one of POST, GET, OPTIONS\n"
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize("accept", [JSON, "application/problem+json", "application/*"])
def test_problems_as_json(call: Caller, accept: str) -> None:
    """
    A client that accepts JSON gets a problem as RFC 9457 has it.
    """
    answer = call("DELETE", "/next", Accept=accept)
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json == {
        "type": "urn:problem-type:pexservice:method-not-allowed",
        "title": "Method not allowed",
        "status": 405,
        "detail": "method not allowed; use one of POST, GET, OPTIONS",
    }


def test_index(call: Caller) -> None:
    """
    The index names every endpoint, as text and as JSON.
    """
    text, json = call("GET", "/"), call("GET", "/", Accept=JSON)
    assert text["Content-Type"] == "text/plain; charset=utf-8"
    for endpoint in ENDPOINTS:
        assert endpoint.path.encode() in text.body
    assert [each["path"] for each in json.json["endpoints"]] == [
        endpoint.path for endpoint in ENDPOINTS
    ]
    assert json.json["endpoints"][2]["methods"] == ["POST", "GET"]


class TestPostOnly:
    """
    Tests of C{--post-only}.
    """

    @pytest.fixture
    def call(self) -> Caller:
        """
        Return a caller of a service that takes no GET on the paths that move.
        """
        return Caller(table=POST_ONLY)

    @pytest.mark.parametrize("path", ["/next", "/previous", "/reset"])
    def test_methods(self, call: Caller, path: str) -> None:
        """
        GET on a moving path gets 405 and moves nothing; POST moves; OPTIONS says so.
        """
        answer = call("GET", path)
        assert (answer.status, answer["Allow"]) == (405, "POST, OPTIONS")
        assert call("OPTIONS", path)["Allow"] == "POST, OPTIONS"
        assert call("GET", "/current")["Pex-Revision"] == "0"
        assert call("POST", path)["Pex-Revision"] == "1"

    def test_descriptions(self, call: Caller) -> None:
        """
        The index and the OpenAPI document have no GET that moves, and all the rest.
        """
        index = call("GET", "/", Accept=JSON).json["endpoints"]
        methods = {each["path"]: each["methods"] for each in index}
        assert methods["/next"] == methods["/previous"] == methods["/reset"] == ["POST"]
        assert b"\nPOST      /next" in call("GET", "/").body
        paths = call("GET", "/openapi.json").json["paths"]
        assert {*paths["/next"]} == {"post", "options"}
        assert {*paths} == {*methods} == {each.path for each in ENDPOINTS}
        assert {*Caller()("GET", "/openapi.json").json["paths"]["/next"]} > {"get"}


class TestIdempotency:
    """
    Tests of C{Idempotency-Key}.
    """

    def test_a_repeat(self, call: Caller) -> None:
        """
        A repeat moves nothing, and gets the answer of the first request.

        This holds whatever requests came since.
        """
        first = call("POST", "/next", Idempotency_Key="k")
        values(call, "/next", "/reset")
        again = call("POST", "/next", Idempotency_Key="k")
        assert (first.body, first["Idempotency-Replayed"]) == (b"1\n", None)
        assert (again.body, again["Idempotency-Replayed"]) == (b"1\n", "true")
        for name in ("ETag", "Pex-Revision", "Pex-Position"):
            assert again[name] == first[name]
        assert call("GET", "/current")["Pex-Revision"] == "3"

    def test_a_repeat_by_get(self, call: Caller) -> None:
        """
        A repeat is recognized by its transition, whatever its method and representation.
        """
        call("POST", "/next", Idempotency_Key="k")
        again = call("GET", "/next", Idempotency_Key="k", Accept=JSON)
        assert (again.json["revision"], again["Idempotency-Replayed"]) == (1, "true")

    def test_another_endpoint(self, call: Caller) -> None:
        """
        A key that was used for another endpoint gets 422, which names that endpoint.
        """
        call("POST", "/next", Idempotency_Key="k")
        answer = call("POST", "/reset", Idempotency_Key="k")
        assert answer.status == 422
        assert b"was used for /next" in answer.body
        assert call("GET", "/current")["Pex-Revision"] == "1"

    def test_two_at_once(self, call: Caller) -> None:
        """
        The second of two requests with one key waits for the first, and is replayed.
        """
        call.store.held = True
        first = call.begin("POST", "/next", Idempotency_Key="k")
        second = call.begin("POST", "/next", Idempotency_Key="k")
        assert first + second == []
        call.store.finish()
        call.turn()
        assert [each["Idempotency-Replayed"] for each in first + second] == [None, "true"]
        assert [each["Pex-Revision"] for each in first + second] == ["1", "1"]

    @pytest.mark.parametrize(
        "key", ["", " ", "a b", "\u00e9", "k" * 256, "a\x7f", ["a", "b"], ["a", "a"]]
    )
    def test_invalid_keys(self, call: Caller, key: str | list[str]) -> None:
        """
        A malformed key gets 400, and nothing moves.
        """
        answer = call("POST", "/next", Idempotency_Key=key)
        assert answer.status == 400
        assert b"Idempotency-Key must be" in answer.body
        assert call("GET", "/current")["Pex-Revision"] == "0"

    @pytest.mark.parametrize("key", ["k" * 255, "!", "~", '"8e03978e-40d5"', "a,b;c"])
    def test_valid_keys(self, call: Caller, key: str) -> None:
        """
        A key is any visible ASCII, and up to 255 characters of it.
        """
        call("POST", "/next", Idempotency_Key=key)
        answer = call("POST", "/next", Idempotency_Key=key)
        assert answer["Idempotency-Replayed"] == "true"

    def test_reading_has_no_use_for_it(self, call: Caller) -> None:
        """
        An idempotency key is ignored where nothing moves.
        """
        assert call("GET", "/current", Idempotency_Key="a b").status == 200


class TestPreconditions:
    """
    Tests of C{If-Match} and C{If-None-Match}.
    """

    @pytest.mark.parametrize(
        "tags", ['"1"', '"1-json"', "*", '"9", "1"', ' "a,b" ,, "1-json"', ['"9"', '"1"']]
    )
    def test_if_match_holds(self, call: Caller, tags: str | list[str]) -> None:
        """
        A step moves if C{If-Match} has the present tag, in either form, in a list too.
        """
        call("POST", "/next")
        assert call("POST", "/next", If_Match=tags)["Pex-Revision"] == "2"

    @pytest.mark.parametrize("tags", ['"0"', '"2"', 'W/"1"', '"1-xml"', '"01"', '""'])
    def test_if_match_does_not_hold(self, call: Caller, tags: str) -> None:
        """
        A step whose C{If-Match} does not hold gets 412, and nothing moves.

        The answer has the present state's headers.  A weak tag matches nothing.
        """
        call("POST", "/next")
        answer = call("POST", "/next", If_Match=tags)
        assert answer.status == 412
        assert {
            name: answer[name] for name in ("Pex-Revision", "Pex-Position", "ETag")
        } == {
            "Pex-Revision": "1",
            "Pex-Position": "1",
            "ETag": '"1"',
        }
        assert answer["Cache-Control"] == "no-store"
        assert call("GET", "/current")["Pex-Revision"] == "1"

    @pytest.mark.parametrize(
        "tags", ["", "1", '"1', "'1'", '"1" "2"', '"a\tb"', 'w/"1"', "*, *", '*, "1"', ","]
    )
    @pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
    @pytest.mark.parametrize("path", ["/next", "/current"])
    def test_invalid_tags(self, call: Caller, path: str, name: str, tags: str) -> None:
        """
        A malformed precondition gets 400, since it must not be passed over.
        """
        answer = call("GET", path, **{name.replace("-", "_"): tags})
        assert answer.status == 400
        assert name.encode() in answer.body
        assert call("GET", "/current")["Pex-Revision"] == "0"

    def test_blanks_take_no_time(self, call: Caller) -> None:
        """
        A header as long as one may be is refused in linear time, not quadratic.
        """
        began = time.monotonic()
        for _ in range(20):
            assert call("GET", "/current", If_Match=f'"a",{" " * 16000}x').status == 400
        # In quadratic time, this takes 25 seconds.
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("tags", ['"0"', '"0-json"', 'W/"0"', "*", '"7", W/"0-json"'])
    def test_not_modified(self, call: Caller, tags: str) -> None:
        """
        A read with a present tag gets 304 with the headers and without a body.

        The tags are compared weakly.
        """
        for method in ("GET", "HEAD"):
            answer = call(method, "/current", If_None_Match=tags)
            assert (answer.status, answer.body, answer["ETag"]) == (304, b"", '"0"')
            assert answer["Pex-Revision"] == "0"

    def test_modified(self, call: Caller) -> None:
        """
        A read with the tag of another revision gets the value.
        """
        call("POST", "/next")
        assert call("GET", "/current", If_None_Match='"0"').body == b"1\n"

    def test_if_match_on_a_read(self, call: Caller) -> None:
        """
        A read whose C{If-Match} holds gets 200, and 412 otherwise.
        """
        assert call("GET", "/current", If_Match='"0"').status == 200
        assert call("GET", "/current", If_Match='"1"').status == 412

    def test_if_none_match_on_a_move(self, call: Caller) -> None:
        """
        A step with C{If-None-Match} moves if the cursor is elsewhere.

        Otherwise the step gets 412, or 304 if its method is GET.
        """
        assert call("POST", "/next", If_None_Match='"9"').body == b"1\n"
        assert call("POST", "/next", If_None_Match='"1"').status == 412
        assert call("GET", "/next", If_None_Match='"1"').status == 304
        assert call("GET", "/next", If_Match='"9"', If_None_Match='"1"').status == 412
        assert call("GET", "/current")["Pex-Revision"] == "1"

    def test_two_at_once(self, call: Caller) -> None:
        """
        Of two moves from one revision, the first is made and the second gets 412.

        The second move gets 412 only when the first is durable.
        """
        call.store.held = True
        first = call.begin("POST", "/next", If_Match='"0"')
        second = call.begin("POST", "/next", If_Match='"0"')
        assert first + second == []
        call.store.finish()
        call.turn()
        assert [each.status for each in first + second] == [200, 412]
        assert second[0]["Pex-Revision"] == "1"


class TestHistory:
    """
    Tests of C{/history}.
    """

    def test_json(self, call: Caller) -> None:
        """
        The history as JSON has the newest transition first, and no values.

        Each transition has the position that it led to, and its time.
        """
        values(call, "/next", "/next", "/previous")
        answer = call("GET", "/history", Accept=JSON)
        time = "2026-11-18T11:06:40.123456Z"
        assert answer.json == {
            "transitions": [
                {"revision": 3, "position": 1, "transition": "previous", "time": time},
                {"revision": 2, "position": 2, "transition": "next", "time": time},
                {"revision": 1, "position": 1, "transition": "next", "time": time},
            ],
            "next": None,
        }
        assert (answer["Pex-Revision"], answer["ETag"]) == ("3", '"3-json"')

    def test_text(self, call: Caller) -> None:
        """
        The history as text has one line for each transition.
        """
        values(call, "/next", "/reset")
        assert call("GET", "/history").body.decode().splitlines() == [
            "2026-11-18T11:06:40.123456Z revision 2 reset to position 0",
            "2026-11-18T11:06:40.123456Z revision 1 next to position 1",
        ]

    def test_empty(self, call: Caller) -> None:
        """
        An empty history is an empty body, with a length of 0.
        """
        answer = call("GET", "/history")
        assert (answer.status, answer.body, answer.length) == (200, b"", 0)

    def test_pages(self, call: Caller) -> None:
        """
        Following the links gives every transition once, 100 at a time by default.
        """
        values(call, *["/next"] * 250)
        path, seen, sizes = "/history", [], []
        while path:
            answer = call("GET", path, Accept=JSON)
            page = answer.json
            seen += [each["revision"] for each in page["transitions"]]
            sizes.append(len(page["transitions"]))
            link = page["next"] and f'<{page["next"]}>; rel="next"'
            assert answer["Link"] == link
            path = page["next"]
        assert seen == [*range(250, 0, -1)]
        assert sizes == [100, 100, 50]

    def test_parameters(self, call: Caller) -> None:
        """
        The parameters choose how many transitions there are, and below which revision.
        """
        values(call, *["/next"] * 9)
        page = call("GET", "/history?before=5&limit=2", Accept=JSON).json
        assert [each["revision"] for each in page["transitions"]] == [4, 3]
        assert page["next"] == "/history?before=3&limit=2"

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=1001",
            "limit=",
            "limit",
            "limit=-1",
            "limit=ten",
            "limit=1.5",
            "limit=1&limit=1",
            "limit=%d9%a1",
            "limit=+1",
            "before=0",
            "before=x",
            "before=1e3",
            "before=123456789012345678901",
        ],
    )
    def test_bad_parameters(self, call: Caller, query: str) -> None:
        """
        A bad parameter gets 400, which names the parameter and its range.
        """
        answer = call("GET", f"/history?{query}")
        assert answer.status == 400
        assert f"the parameter {query.partition('=')[0]} must be" in answer.body.decode()

    def test_largest_parameters(self, call: Caller) -> None:
        """
        The largest values of the parameters are allowed.
        """
        assert call("GET", f"/history?limit=1000&before={2**64}").status == 200

    def test_not_modified(self, call: Caller) -> None:
        """
        The history takes the same preconditions as the cursor.
        """
        assert call("GET", "/history", If_None_Match='"0"').status == 304


class TestFaults:
    """
    Tests of the store's failures, as callers see them.
    """

    def test_not_taken(self, call: Caller) -> None:
        """
        A step that the store did not take gets 503, which says that nothing was moved.
        """
        call.store.failure = NotTaken("the store is full")
        answer = call("POST", "/next", Accept=JSON)
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.json["type"] == "urn:problem-type:pexservice:not-taken"
        assert "the store is full; nothing was moved" in answer.json["detail"]
        call.store.failure = None
        assert call("POST", "/next").body == b"1\n"
        assert not call.fatal

    def test_unknown(self, call: Caller) -> None:
        """
        A step of unknown outcome gets 503 of its own type, and no more steps are taken.

        Reads go on.
        """
        call("POST", "/next")
        call.store.failure = OSError(5, "Input/output error")
        answer = call("POST", "/next", Accept=JSON)
        assert answer.status == 503
        assert answer.json["type"] == "urn:problem-type:pexservice:outcome-unknown"
        assert len(call.fatal) == 1
        after = call("POST", "/next", Accept=JSON)
        assert after.json["type"] == "urn:problem-type:pexservice:not-taken"
        assert call("GET", "/current").body == b"1\n"
        assert call("GET", "/readyz").status == 503

    def test_a_bug(self, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A bug gets 500 without a traceback, which is in the log.
        """
        logged: list[object] = []
        globalLogPublisher.addObserver(cast(ILogObserver, logged.append))
        monkeypatch.setattr(call.committer, "history", lambda *_: 1 // 0)
        answer = call("GET", "/history", Accept=JSON)
        globalLogPublisher.removeObserver(cast(ILogObserver, logged.append))
        assert answer.status == 500
        assert answer.json["type"] == "urn:problem-type:pexservice:internal-error"
        assert b"Zero" not in answer.body
        assert "ZeroDivisionError" in str(logged)

    @pytest.mark.parametrize("name", ["admit", "call"])
    def test_a_bug_before_an_operation(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A bug before an operation does its work gets 500, with each header once.

        The connection goes on.
        """
        server = Server()
        wire = server.connect()
        request = b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n"
        with monkeypatch.context() as patched, capturedLogs() as logged:
            patched.setattr(Performer, name, lambda *_, **__: 1 // 0)
            wire.send(request)
        head, _, body = wire.received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        assert status == b"HTTP/1.1 500 Internal Server Error"
        assert sorted(lines) == [
            b"Cache-Control: no-store",
            b"Content-Length: %d" % len(body),
            b"Content-Type: text/plain; charset=utf-8",
            b"Cross-Origin-Resource-Policy: same-origin",
            b"Vary: Accept",
            b"X-Content-Type-Options: nosniff",
        ]
        assert body == b"internal error; the service's log has the reason\n"
        assert sum("ZeroDivisionError" in str(each) for each in logged) == 1
        wire.send(request)
        assert wire.received.endswith(b"\r\n\r\n0\n")


class TestHealth:
    """
    Tests of C{/livez} and C{/readyz}.
    """

    @pytest.mark.parametrize("path", ["/livez", "/readyz"])
    def test_ok(self, call: Caller, path: str) -> None:
        """
        A healthy service answers C{ok}, as Kubernetes expects it.
        """
        answer = call("GET", path)
        assert (answer.status, answer.body, answer["Cache-Control"]) == (
            200,
            b"ok\n",
            "no-store",
        )

    @pytest.mark.parametrize(
        "query", ["verbose", "verbose=", "verbose=true", "a=b&verbose"]
    )
    def test_verbose(self, call: Caller, query: str) -> None:
        """
        A verbose answer has each check on a line.
        """
        assert call("GET", f"/livez?{query}").body == (
            b"[+]reactor ok\nlivez check passed\n"
        )
        assert call("GET", f"/readyz?{query}").body == b"[+]store ok\nreadyz check passed\n"

    def test_draining(self, call: Caller) -> None:
        """
        A stopping service is alive and not ready.
        """
        call.committer.drain()
        answer = call("GET", "/readyz")
        assert answer.status == 503
        assert answer.body == (
            b"[-]store failed: the service is stopping\nreadyz check failed\n"
        )
        assert call("GET", "/livez").status == 200


def test_with_synchronous_commit_off() -> None:
    """
    With synchronous commit off, an answer does not wait for the disk.
    """
    call = Caller(synchronous=False)
    call.store.held = True
    answer = call("POST", "/next")
    assert isinstance(answer, Answer)
    assert call("GET", "/current").body == b"1\n"
    # The history is of what is on disk, and so are its headers.
    history = call("GET", "/history")
    assert (history.body, history["ETag"]) == (b"", '"0"')


JSON_ANSWERS = ("/", "/current", "/history", "/livez", "/readyz", "/openapi.json", "/no")


@pytest.mark.parametrize("path", JSON_ANSWERS)
def test_json_ends_with_a_newline(path: str, call: Caller) -> None:
    """
    JSON ends with a newline, as text does.

    So a terminal's prompt stands on a line of its own.
    """
    answer = call("GET", path, Accept="application/json")
    assert (answer["Content-Type"] or "").endswith("json")
    assert answer.body.endswith(b"}\n")
    assert not answer.body.endswith(b"\n\n")


def test_health_as_json(call: Caller) -> None:
    """
    Health as JSON has each check by its name, also when one fails; other clients get text.
    """
    answer = call("GET", "/readyz", Accept="application/json")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "checks": {"store": "ok"}, "notes": []}
    assert call("GET", "/livez", Accept="application/json").json["checks"] == {
        "reactor": "ok"
    }
    call.committer.unusable("the store is not there")
    answer = call("GET", "/readyz", Accept="application/json")
    assert answer.status == 503
    assert answer.json["status"] == "failed"
    assert "the store is not there" in answer.json["checks"]["store"]
    for accept in ("*/*", "text/plain", "text/html,*/*;q=0.8"):
        assert call("GET", "/livez", Accept=accept).body == b"ok\n"
