"""
Tests that the OpenAPI document describes all that is served, and nothing else.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest

from pexservice.core.cursor import Transition, state_at
from pexservice.server.limits import REQUEST_TIMEOUT_SECONDS
from pexservice.server.parser import (
    MAX_CHUNKS,
    MAX_HEADER_BYTES,
    MAX_HEADER_LINES,
    MAX_REQUEST_BODY_BYTES,
    MAX_REQUEST_LINE_BYTES,
)
from pexservice.stores.errors import Refusal
from pexservice.stores.interface import HistoryEntry
from pexservice.stores.remembered_keys import MAX_IDEMPOTENCY_KEY_BYTES
from pexservice.web import problems
from pexservice.web.access import Access
from pexservice.web.endpoints import DEFAULT_TABLE, ENDPOINTS, Endpoint
from pexservice.web.events import event
from pexservice.web.openapi import document, rendered
from pexservice.web.representations import history_response, state_headers, state_json
from pexservice.web.responses import JSON, PROBLEM
from tests.support.caller import Answer, Caller
from tests.support.http_reference import PAGE, reference, resolved

STATE = state_at(10, 10)

#: One of each problem there is, with the figures of the server's limits.
PROBLEMS = (
    problems.malformed("the parameter limit must be given once, a number from 1 to 1000"),
    problems.no_token(),
    problems.wrong_token(),
    problems.cross_origin("move the cursor"),
    problems.prefetch(),
    problems.no_such_path(b" ".join(DEFAULT_TABLE.by_path).decode()),
    problems.wrong_method(
        "POST, GET, OPTIONS", headers=((b"Allow", b"POST, GET, OPTIONS"),)
    ),
    problems.no_tunnel(),
    problems.too_slow(REQUEST_TIMEOUT_SECONDS),
    problems.unmet_if_match(headers=state_headers(JSON, b"10", b"10")),
    problems.unmet_if_none_match(headers=state_headers(JSON, b"10", b"10")),
    problems.too_much_content(MAX_REQUEST_BODY_BYTES),
    problems.too_many_chunks(MAX_REQUEST_BODY_BYTES, MAX_CHUNKS),
    problems.too_long_target(MAX_REQUEST_LINE_BYTES),
    problems.misdirected(),
    problems.key_reused(Transition.NEXT.word),
    problems.too_many_requests(100),
    problems.too_many_headers(MAX_HEADER_BYTES, MAX_HEADER_LINES),
    problems.internal_error(),
    problems.not_taken("the store pexservice-data is full"),
    problems.outcome_unknown(),
    problems.too_many_connections(10_000),
    problems.too_many_streams(250),
)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    Yield the path, the method and the description of each operation.
    """
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def test_document_has_each_path_with_its_methods_and_summary() -> None:
    described = json.loads(rendered().body)["paths"]
    assert {path: [*item] for path, item in described.items()} == {
        endpoint.path: endpoint.allow.decode().lower().split(", ") for endpoint in ENDPOINTS
    }
    for endpoint in ENDPOINTS:
        item = described[endpoint.path]
        for method in endpoint.methods:
            summary = item[method.decode().lower()]["summary"]
            assert summary.lower() == endpoint.summary.partition(";")[0].lower()


def test_an_endpoint_without_words_is_an_error() -> None:
    """
    A new endpoint cannot be forgotten in the document.
    """
    with pytest.raises(LookupError):
        document([Endpoint("/new", (b"GET",), "something new")])


def answers(path: str, method: str) -> Iterator[Answer]:
    """
    Yield answers of each status that a single request can get, in each representation.
    """
    without_tokens = Caller(Access(frozenset()))
    types = ["text/plain", "application/json", *(["text/html"] if path == "/" else [])]
    call = Caller()
    # The key stands for one of the paths, and for no other.
    call("POST", "/next", Idempotency_Key="k")
    call("POST", "/next")
    for accept in types:
        if path == "/history":
            yield call(method, "/history?limit=1", Accept=accept)
        for headers in (
            {},
            {"If_None_Match": "*"},
            {"If_Match": '"1000"'},
            {"If_Match": "1000"},
            {"Idempotency_Key": "k"},
            {"Sec_Fetch_Site": "cross-site"},
        ):
            yield call(method, path, Accept=accept, **headers)
        yield without_tokens(method, path, Accept=accept)
    call.store.failure = Refusal("the store is full")
    for accept in types:
        yield call(method, path, Accept=accept)


#: Headers that any answer may have, and that the document need not list.
FRAMING = {
    *("Content-Type", "Content-Length", "Date", "Server"),
    *("X-Content-Type-Options", "Cross-Origin-Resource-Policy"),
    "Content-Encoding",  # treq's testing tools add an empty one
}


def test_document_has_status_headers_and_type_of_each_response() -> None:
    """
    Each header that the document requires is in the response.
    """
    seen, whole = set(), document()
    for path, method, operation in operations():
        if path in ("/events", "/metrics"):
            continue
        for answer in answers(path, method):
            where = (path, method, answer.status)
            seen.add(answer.status)
            described = resolved(whole, operation["responses"][str(answer.status)])
            headers = {
                name: resolved(whole, header)
                for name, header in described.get("headers", {}).items()
            }
            sent = {name.decode() for name, _ in answer.headers.getAllRawHeaders()}
            required = {name for name, header in headers.items() if header["required"]}
            assert required <= sent, where
            # The page that browsers get at / is not meant for generated clients.
            if not (answer["ETag"] or "").endswith('-html"'):
                assert sent <= {*headers, *FRAMING}, where
            if answer.body:
                kind, _, _ = (answer["Content-Type"] or "").partition(";")
                assert kind in described["content"], where
    assert seen == {200, 204, 304, 400, 401, 403, 412, 422, 503}


def test_document_has_every_problem_as_it_is_sent() -> None:
    kinds = inspect.getmembers(problems, lambda kind: type(kind) is problems.ProblemKind)
    assert len(PROBLEMS) == len(kinds)
    bodies = {
        problem.name: problem.response(PROBLEM).body for problem in reversed(PROBLEMS)
    }
    whole = document()
    schema = whole["components"]["schemas"]["Problem"]
    examples = {
        example["type"].removeprefix(problems.TYPE_PREFIX): example
        for example in schema["examples"]
    }
    assert examples == {name: json.loads(body) for name, body in bodies.items()}
    properties = schema["properties"]
    assert properties["type"]["enum"] == sorted(
        example["type"] for example in examples.values()
    )
    assert properties["status"]["enum"] == sorted(
        {example["status"] for example in examples.values()}
    )
    for sent_problem in PROBLEMS:
        response = whole["components"]["responses"][f"problem-{sent_problem.status.value}"]
        assert f"`{sent_problem.name}`" in response["description"]
        sent = {name.decode() for name, _ in sent_problem.response(PROBLEM).headers}
        assert {*response["headers"]} == sent - {"Content-Type"}


def test_examples_are_made_by_the_code_that_responds() -> None:
    row = HistoryEntry(10, 10, Transition.NEXT, 1_795_000_000_123_456_000)
    history = history_response(STATE, JSON, [row], "/history?before=10&limit=1")
    components = document()["components"]
    (index,) = components["schemas"]["Index"]["examples"]
    served = json.loads(DEFAULT_TABLE.json_index)["endpoints"]
    assert all(endpoint in served for endpoint in index["endpoints"])
    examples = {
        name: schema["examples"]
        for name, schema in components["schemas"].items()
        if "examples" in schema and name not in ("Index", "Problem")
    }
    assert examples == {
        "State": [json.loads(state_json(STATE))],
        "History": [json.loads(history.body)],
        "Transition": json.loads(history.body)["transitions"],
    }
    sent = dict((*history.headers, *problems.no_token().headers))
    for name in ("Link", "WWW-Authenticate"):
        assert components["headers"][name]["example"] == sent[name.encode()].decode()
    stream = document()["paths"]["/events"]["get"]["responses"]["200"]["content"]
    example = stream["text/event-stream"]["example"]
    assert example == event(STATE).decode().rstrip()


def test_document_has_the_limits_and_transitions_of_the_code() -> None:
    components = document()["components"]
    assert (
        components["parameters"]["Idempotency-Key"]["schema"]["maxLength"]
        == MAX_IDEMPOTENCY_KEY_BYTES
    )
    transition = components["schemas"]["Transition"]["properties"]["transition"]
    assert transition["enum"] == [transition.word for transition in Transition]


def test_document_is_served_with_the_version_of_the_package_only() -> None:
    answer = Caller()("GET", "/openapi.json")
    assert (answer["Content-Type"], answer["Cache-Control"]) == (JSON, "no-cache")
    assert answer.json == document()
    assert answer.json["info"]["version"] == version("pexservice")
    assert b"Twisted" not in answer.body


def test_http_api_page_is_generated_from_the_document() -> None:
    """
    C{make api-docs} writes it.
    """
    assert PAGE.read_text() == reference(document())
