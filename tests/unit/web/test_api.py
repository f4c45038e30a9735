"""
The API as clients see it, endpoint by endpoint.
"""

from __future__ import annotations

from itertools import product

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from pexservice.core.cursor import Cursor
from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.interface import Batch
from pexservice.web.endpoints import ENDPOINTS, POST_ONLY_TABLE
from pexservice.web.operations import RequestChecker
from tests.support.caller import Answer, Caller
from tests.support.fakes import MemoryStore
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
    return Caller()


def values(call: Caller, *paths: str) -> list[str]:
    """
    Send a request to each of C{paths}, and return the bodies of the responses.
    """
    return [call("POST" if path in MOVING else "GET", path).body.decode() for path in paths]


def test_each_response_shows_the_value_after_the_step(call: Caller) -> None:
    assert values(call, *["/next"] * 8) == [f"{n}\n" for n in (1, 1, 2, 3, 5, 8, 13, 21)]
    down = values(call, "/previous", "/current", "/reset", "/previous", "/current")
    assert "".join(down).split() == ["13", "13", "0", "0", "0"]
    assert call("GET", "/current")["Pex-Revision"] == "11"


@pytest.mark.parametrize("path", MOVING)
def test_get_makes_a_step_as_post_does(call: Caller, path: str) -> None:
    """
    The API is that of the Go service Prosp3r/pexservice, in which GET makes a step.
    """
    for revision, method in enumerate(("POST", "GET"), 1):
        assert call(method, path)["Pex-Revision"] == str(revision)


def test_text_is_the_digits_and_a_newline_with_the_cursor_headers(call: Caller) -> None:
    values(call, *["/next"] * 10)
    answer = call("GET", "/current")
    assert (answer.status, answer.body, answer.length) == (200, b"55\n", 3)
    assert (answer["Content-Type"], answer["ETag"]) == ("text/plain; charset=utf-8", '"10"')
    assert (answer["Pex-Revision"], answer["Pex-Position"]) == ("10", "10")
    assert (answer["Cache-Control"], answer["Vary"]) == ("no-store", "Accept")


def test_json_has_its_members_in_order_strings_as_values_and_its_own_etag(
    call: Caller,
) -> None:
    """
    At position 0, there is no previous value.
    """
    assert call("GET", "/current", Accept=JSON).body == (
        b'{"position":0,"current":"0","previous":null,"next":"1","revision":0}\n'
    )
    values(call, *["/next"] * 10)
    answer = call("GET", "/current", Accept=JSON)
    assert answer.body == (
        b'{"position":10,"current":"55","previous":"34","next":"89","revision":10}\n'
    )
    assert (answer["Content-Type"], answer["ETag"]) == (JSON, '"10-json"')
    assert answer["Vary"] == "Accept"


@pytest.mark.parametrize("path", [endpoint.path for endpoint in ENDPOINTS])
def test_other_methods_get_405_with_the_allowed_ones_and_move_nothing(
    call: Caller, path: str
) -> None:
    """
    OPTIONS lists the allowed methods too.
    """
    allow = ALLOW.get(path, "GET, HEAD, OPTIONS")
    others = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"}
    for method in sorted(others - set(allow.split(", "))):
        answer = call(method, path)
        assert (method, answer.status, answer["Allow"]) == (method, 405, allow)
    options = call("OPTIONS", path)
    assert (options.status, options["Allow"], options.body) == (204, allow, b"")
    assert call("GET", "/current")["Pex-Revision"] == "0"


@pytest.mark.parametrize("path", READING)
def test_head_gets_the_headers_of_get_and_no_body(call: Caller, path: str) -> None:
    get, head = call("GET", path), call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Type", "ETag", "Pex-Revision"):
        assert head[name] == get[name]
    assert get.length == len(get.body)


def test_path_that_is_not_written_literally_gets_404_with_the_paths_that_exist(
    call: Caller,
) -> None:
    answer = call("POST", "/%6eext")
    assert answer.status == 404
    assert b"/current /next /previous /reset" in answer.body
    assert call("GET", "/current")["Pex-Revision"] == "0"


def test_unknown_parameters_are_ignored(call: Caller) -> None:
    assert call("POST", "/next?limit=x&%ff=%&&=").body == b"1\n"


def test_problem_is_one_line_or_for_clients_that_accept_json_that_of_rfc_9457(
    call: Caller,
) -> None:
    detail = "method not allowed; use one of POST, GET, OPTIONS"
    text = call("DELETE", "/next")
    assert text["Content-Type"] == "text/plain; charset=utf-8"
    assert text.body.decode() == f"{detail}\n"
    assert text["Cache-Control"] == "no-store"
    for accept in (JSON, "application/problem+json", "application/*"):
        answer = call("DELETE", "/next", Accept=accept)
        assert answer["Content-Type"] == "application/problem+json"
        assert answer.json == {
            "type": "urn:problem-type:pexservice:method-not-allowed",
            "title": "Method not allowed",
            "status": 405,
            "detail": detail,
        }


def test_openapi_document_ignores_if_match(call: Caller) -> None:
    assert call("GET", "/openapi.json", If_Match="bad").status == 200


@pytest.mark.parametrize(("path", "accept"), [("/", "text/html"), ("/openapi.json", JSON)])
def test_client_that_has_a_document_gets_304(call: Caller, path: str, accept: str) -> None:
    tag = call("GET", path, Accept=accept)["ETag"] or ""
    for method, known in product(("GET", "HEAD"), (tag, f"W/{tag}", f'"1", {tag}', "*")):
        again = call(method, path, Accept=accept, If_None_Match=known)
        assert (again.status, again.body, again["ETag"]) == (304, b"", tag)
        assert again["Content-Type"] is None
    assert call("GET", path, Accept=accept, If_None_Match='"1"').status == 200
    assert call("GET", path, Accept=accept, If_None_Match="1").status == 400


class TestPostOnly:
    @pytest.fixture
    def call(self) -> Caller:
        return Caller(table=POST_ONLY_TABLE)

    @pytest.mark.parametrize("path", MOVING)
    def test_get_on_a_stepping_path_gets_405_and_post_steps(
        self, call: Caller, path: str
    ) -> None:
        """
        OPTIONS lists no GET.
        """
        answer = call("GET", path)
        assert (answer.status, answer["Allow"]) == (405, "POST, OPTIONS")
        assert call("OPTIONS", path)["Allow"] == "POST, OPTIONS"
        assert call("GET", "/current")["Pex-Revision"] == "0"
        assert call("POST", path)["Pex-Revision"] == "1"

    def test_post_only_index_and_openapi_document_have_no_get_that_steps(
        self, call: Caller
    ) -> None:
        """
        They have all endpoints, and the GET of C{/current}.
        """
        index = call("GET", "/", Accept=JSON).json["endpoints"]
        methods = {endpoint["path"]: endpoint["methods"] for endpoint in index}
        assert methods["/next"] == methods["/previous"] == methods["/reset"] == ["POST"]
        text = call("GET", "/").body.decode()
        assert "\nPOST      /next" in text
        assert all(path in text for path in methods)
        paths = call("GET", "/openapi.json").json["paths"]
        assert {*paths["/next"]} == {"post", "options"}
        assert {*paths["/current"]} == {"get", "head", "options"}
        assert {*paths} == {*methods} == {endpoint.path for endpoint in ENDPOINTS}


class TestIdempotency:
    def test_repeated_key_gets_the_first_response_and_makes_no_step(
        self, call: Caller
    ) -> None:
        """
        Other requests may have arrived in between.
        """
        first = call("POST", "/next", Idempotency_Key="k")
        values(call, "/next", "/reset")
        again = call("POST", "/next", Idempotency_Key="k")
        assert (first.body, first["Idempotency-Replayed"]) == (b"1\n", None)
        assert (again.body, again["Idempotency-Replayed"]) == (b"1\n", "true")
        for name in ("ETag", "Pex-Revision", "Pex-Position"):
            assert again[name] == first[name]
        # A repeat may have another method and another representation.
        again = call("GET", "/next", Idempotency_Key="k", Accept=JSON)
        assert (again.json["revision"], again["Idempotency-Replayed"]) == (1, "true")
        assert call("GET", "/current")["Pex-Revision"] == "3"

    def test_key_used_for_another_endpoint_gets_422_that_names_it(
        self, call: Caller
    ) -> None:
        call("POST", "/next", Idempotency_Key="k")
        answer = call("POST", "/reset", Idempotency_Key="k")
        assert answer.status == 422
        assert b"was used for /next" in answer.body
        assert call("GET", "/current")["Pex-Revision"] == "1"

    @pytest.mark.parametrize(
        "key", ["", " ", "a b", "\u00e9", "k" * 256, "a\x7f", ["a", "b"], ["a", "a"]]
    )
    def test_malformed_key_gets_400_and_makes_no_step(
        self, call: Caller, key: str | list[str]
    ) -> None:
        answer = call("POST", "/next", Idempotency_Key=key)
        assert answer.status == 400
        assert b"Idempotency-Key must be" in answer.body
        assert call("GET", "/current")["Pex-Revision"] == "0"

    @pytest.mark.parametrize("key", ["k" * 255, "!", "~", '"8e03978e-40d5"', "a,b;c"])
    def test_key_of_1_to_255_visible_ascii_characters_is_accepted(
        self, call: Caller, key: str
    ) -> None:
        call("POST", "/next", Idempotency_Key=key)
        answer = call("POST", "/next", Idempotency_Key=key)
        assert answer["Idempotency-Replayed"] == "true"

    def test_read_ignores_the_idempotency_key(self, call: Caller) -> None:
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
    def test_step_with_the_present_tag_in_if_match_is_made(
        self, call: Caller, tags: str | list[str]
    ) -> None:
        """
        The tag may be that of text or of JSON, and it may be in a list.
        """
        call("POST", "/next")
        assert call("POST", "/next", If_Match=tags)["Pex-Revision"] == "2"

    @pytest.mark.parametrize("tags", ['"0"', '"2"', 'W/"1"', '"1-xml"', '"01"', '""'])
    def test_step_with_another_tag_in_if_match_gets_412(
        self, call: Caller, tags: str
    ) -> None:
        """
        The response has the headers of the present state.  A weak tag matches nothing.
        """
        call("POST", "/next")
        answer = call("POST", "/next", If_Match=tags)
        assert (answer.status, answer["Cache-Control"]) == (412, "no-store")
        assert b"If-Match must list it" in answer.body
        cursor = (answer["Pex-Revision"], answer["Pex-Position"], answer["ETag"])
        assert cursor == ("1", "1", '"1"')
        assert call("GET", "/current")["Pex-Revision"] == "1"

    @pytest.mark.parametrize(
        "tags", ["", "1", '"1', "'1'", '"1" "2"', '"a\tb"', 'w/"1"', "*, *", '*, "1"', ","]
    )
    @pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
    @pytest.mark.parametrize("path", ["/next", "/current"])
    def test_malformed_precondition_gets_400(
        self, call: Caller, path: str, name: str, tags: str
    ) -> None:
        """
        If the service ignored the precondition, it could make an unwanted step.
        """
        answer = call("GET", path, **{name.replace("-", "_"): tags})
        assert answer.status == 400
        assert name.encode() in answer.body
        assert call("GET", "/current")["Pex-Revision"] == "0"

    @pytest.mark.parametrize("tags", ['"0"', '"0-json"', 'W/"0"', "*", '"7", W/"0-json"'])
    def test_read_with_a_present_tag_gets_304(self, call: Caller, tags: str) -> None:
        """
        The response has the headers and no body. The tags are compared weakly.
        """
        for method in ("GET", "HEAD"):
            answer = call(method, "/current", If_None_Match=tags)
            assert (answer.status, answer.body, answer["ETag"]) == (304, b"", '"0"')
            assert answer["Pex-Revision"] == "0"

    def test_read_with_another_tag_gets_the_value_or_412(self, call: Caller) -> None:
        call("POST", "/next")
        assert call("GET", "/current", If_None_Match='"0"').body == b"1\n"
        assert call("GET", "/current", If_Match='"1"').body == b"1\n"
        assert call("GET", "/current", If_Match='"0"').status == 412

    def test_step_with_the_present_tag_in_if_none_match_is_not_made(
        self, call: Caller
    ) -> None:
        """
        It gets 412, or 304 if its method is GET.
        """
        assert call("POST", "/next", If_None_Match='"9"').body == b"1\n"
        for tags in ('"1"', "*"):
            body = call("POST", "/next", If_None_Match=tags).body
            assert b"If-None-Match must not list it" in body
        assert call("GET", "/next", If_None_Match='"1"').status == 304
        assert call("GET", "/next", If_Match='"9"', If_None_Match='"1"').status == 412
        assert call("GET", "/current")["Pex-Revision"] == "1"


class TestHistory:
    def test_history_as_json_has_the_newest_transition_first_without_values(
        self, call: Caller
    ) -> None:
        """
        Each has the position that it led to, and its time.
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

    def test_history_as_text_has_one_line_per_transition(self, call: Caller) -> None:
        answer = call("GET", "/history")
        assert (answer.status, answer.body, answer.length) == (200, b"", 0)
        values(call, "/next", "/reset")
        assert call("GET", "/history").body.decode().splitlines() == [
            "2026-11-18T11:06:40.123456Z revision 2 reset to position 0",
            "2026-11-18T11:06:40.123456Z revision 1 next to position 1",
        ]

    def test_following_the_links_gives_every_transition_once(self, call: Caller) -> None:
        """
        A page has at most 100 transitions by default.
        """
        values(call, *["/next"] * 200)
        path, seen, sizes = "/history", [], []
        while path:
            answer = call("GET", path, Accept=JSON)
            page = answer.json
            seen += [transition["revision"] for transition in page["transitions"]]
            sizes.append(len(page["transitions"]))
            link = page["next"] and f'<{page["next"]}>; rel="next"'
            assert answer["Link"] == link
            path = page["next"]
        assert seen == [*range(200, 0, -1)]
        assert sizes == [100, 100]

    def test_parameters_choose_number_and_revisions_of_the_transitions(
        self, call: Caller
    ) -> None:
        values(call, *["/next"] * 9)
        page = call("GET", "/history?before=5&limit=2", Accept=JSON).json
        assert [transition["revision"] for transition in page["transitions"]] == [4, 3]
        assert page["next"] == "/history?before=3&limit=2"
        assert call("GET", f"/history?limit=1000&before={2**64}").status == 200

    @pytest.mark.parametrize("query", ["", "?before=3", "?before=4", "?before=99"])
    def test_history_has_no_transition_above_the_state_in_its_headers(
        self, call: Caller, query: str
    ) -> None:
        """
        The store may have a batch that the committer does not know yet.
        """
        values(call, "/next", "/next")
        batch = Batch(call.store.cursor, b"n", Cursor(3, 3), time_ns=0)
        call.store.commit(batch)
        answer = call("GET", f"/history{query}", Accept=JSON)
        assert answer["Pex-Revision"] == "2"
        assert [entry["revision"] for entry in answer.json["transitions"]] == [2, 1]

    @pytest.mark.parametrize(
        "query",
        [
            *("limit=0", "limit=1001", "limit=", "limit", "limit=-1", "limit=+1"),
            *("limit=1&limit=1", "limit=1.5", "limit=%d9%a1"),
            *("before=0", "before=x", "before=123456789012345678901"),
        ],
    )
    def test_bad_parameter_gets_400_that_names_it_and_its_range(
        self, call: Caller, query: str
    ) -> None:
        answer = call("GET", f"/history?{query}")
        assert answer.status == 400
        name = query.partition("=")[0]
        maximum = {"limit": 1000, "before": 99999999999999999999}[name]
        text = f"the parameter {name} must be given once, a number from 1 to {maximum}"
        assert text in answer.body.decode()

    def test_history_respects_the_preconditions_of_the_cursor(self, call: Caller) -> None:
        assert call("GET", "/history", If_None_Match='"0"').status == 304


class TestFaults:
    """
    Tests of the store's failures, as clients see them.
    """

    def test_step_that_the_store_did_not_take_gets_503(self, call: Caller) -> None:
        """
        The response says that nothing was moved.
        """
        call.store.failure = Refusal("the store is full")
        answer = call("POST", "/next", Accept=JSON)
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.json["type"] == "urn:problem-type:pexservice:not-taken"
        assert "the store is full; nothing was moved" in answer.json["detail"]
        call.store.failure = None
        assert call("POST", "/next").body == b"1\n"
        assert not call.fatal

    def test_step_with_unknown_outcome_gets_503_of_type_outcome_unknown(
        self, call: Caller
    ) -> None:
        """
        Afterwards the worker accepts reads, and refuses steps.
        """
        call("POST", "/next")
        call.store.failure = OutcomeUnknown("Input/output error")
        answer = call("POST", "/next", Accept=JSON)
        assert answer.status == 503
        assert answer.json["type"] == "urn:problem-type:pexservice:outcome-unknown"
        assert len(call.fatal) == 1
        after = call("POST", "/next", Accept=JSON)
        assert after.json["type"] == "urn:problem-type:pexservice:not-taken"
        assert call("GET", "/current").body == b"1\n"
        assert call("GET", "/readyz").status == 503

    @pytest.mark.parametrize(
        ("path", "part", "method"),
        [
            ("/current", RequestChecker, "check_rate_and_host"),
            ("/current", RequestChecker, "check_operation"),
            ("/history", MemoryStore, "history"),
        ],
    )
    def test_bug_gets_500_without_a_traceback_and_keeps_the_connection(
        self, path: str, part: type, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        The log has the traceback.  The response has each header once.
        """
        server = Server()
        wire = server.connect()
        request = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        with monkeypatch.context() as patched, capturedLogs() as logged:
            patched.setattr(part, method, lambda *_, **__: 1 // 0)
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
        assert sum("ZeroDivisionError" in str(event) for event in logged) == 1
        wire.send(request)
        assert wire.received.count(b"HTTP/1.1 200 OK\r\n") == 1


class TestHealth:
    """
    Tests of C{/livez} and C{/readyz}.
    """

    @pytest.mark.parametrize(
        ("path", "component"), [("/livez", "reactor"), ("/readyz", "store")]
    )
    def test_healthy_service_responds_with_ok_and_on_request_with_details(
        self, call: Caller, path: str, component: str
    ) -> None:
        """
        As Kubernetes expects it.  Clients that do not accept JSON get text.
        """
        for accept in ("", "*/*", "text/plain", "text/html,*/*;q=0.8"):
            answer = call("GET", path, Accept=accept)
            assert (answer.status, answer.body) == (200, b"ok\n")
            assert answer["Cache-Control"] == "no-store"
        details = f"[+]{component} ok\n{path[1:]} check passed\n"
        for query in ("verbose", "verbose=", "verbose=true", "a=b&verbose"):
            assert call("GET", f"{path}?{query}").body.decode() == details
        answer = call("GET", path, Accept=JSON)
        assert answer.json == {"status": "ok", "checks": {component: "ok"}, "notes": []}

    def test_stopping_service_is_alive_and_not_ready(self, call: Caller) -> None:
        Deferred.fromCoroutine(call.committer.stop())
        answer = call("GET", "/readyz")
        assert answer.status == 503
        assert answer.body == (
            b"[-]store failed: the service is stopping\nreadyz check failed\n"
        )
        failed = call("GET", "/readyz", Accept=JSON)
        assert failed.status == 503
        assert failed.json["status"] == "failed"
        assert failed.json["checks"] == {"store": "the service is stopping"}
        assert call("GET", "/livez").status == 200


def test_response_does_not_wait_for_the_disk_with_synchronous_commit_off() -> None:
    call = Caller(synchronous=False)
    call.store.held = True
    answer = call("POST", "/next")
    assert isinstance(answer, Answer)
    assert call("GET", "/current").body == b"1\n"
    # The history and its headers show what is on the disk.
    history = call("GET", "/history")
    assert (history.body, history["ETag"]) == (b"", '"0"')


@pytest.mark.parametrize("path", [*READING, "/no"])
def test_json_ends_with_a_newline_as_text_does(path: str, call: Caller) -> None:
    answer = call("GET", path, Accept=JSON)
    assert (answer["Content-Type"] or "").endswith("json")
    assert answer.body.endswith(b"}\n")
    assert not answer.body.endswith(b"\n\n")
