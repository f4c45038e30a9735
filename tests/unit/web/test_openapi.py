"""
The OpenAPI document says what is served, all of it, and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from pexservice.server.heads import MOST_HEADERS
from pexservice.server.limits import REQUEST_TIMEOUT
from pexservice.server.parser import LARGEST_BODY, LARGEST_HEADERS, LONGEST_REQUEST_LINE
from pexservice.web import problems
from pexservice.web.endpoints import ENDPOINTS, READ, Endpoint
from pexservice.web.openapi import document, rendered
from pexservice.web.openapi_operations import DESCRIBED
from pexservice.web.openapi_schemas import PROBLEMS
from pexservice.web.problems import Problem
from tests.support.caller import Caller
from tests.support.http_reference import PAGE, reference


@pytest.fixture
def call() -> Caller:
    """
    A new cursor.
    """
    return Caller()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    Path, method and operation.
    """
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def test_the_table_is_described() -> None:
    """
    Each path with each of its methods.
    """
    assert {(path, method) for path, method, _ in operations()} == {
        (each.path, method.decode())
        for each in ENDPOINTS
        for method in (*each.methods, b"OPTIONS")
    }


def test_what_is_not_served_is_left_out() -> None:
    """
    Whatever there are words for.
    """
    table = [Endpoint("/events", (b"GET",), "as it moves"), ENDPOINTS[1]]
    assert [*document(table)["paths"]] == ["/events", "/current"]
    assert {*document(table)["paths"]["/events"]} == {"get", "options"}


def test_every_word_can_be_rendered() -> None:
    """
    Also of paths that are not in the table.
    """
    document([Endpoint(path, READ, "a path") for path in DESCRIBED])


def test_an_endpoint_without_words_is_an_error() -> None:
    """
    Rather than a document that says less than the table.
    """
    with pytest.raises(LookupError):
        document([Endpoint("/new", READ, "something new")])


def test_names_are_unique() -> None:
    """
    What generated clients call the operations.
    """
    names = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(set(names)) == sorted(names)


def test_every_reference_leads_somewhere() -> None:
    """
    Within the document.
    """
    whole = document()

    def references(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for each in part.values():
                yield from references(each)
        elif isinstance(part, list):
            for each in part:
                yield from references(each)

    found = set(references(whole))
    assert found
    for each in found:
        at = whole
        for name in each.removeprefix("#/").split("/"):
            at = at[name]


def test_every_problem_is_described() -> None:
    """
    Each that the web has a function for.
    """
    made = {
        name
        for name, function in inspect.getmembers(problems, inspect.isfunction)
        if function.__annotations__.get("return") == "Problem" and name != "of_refusal"
    }
    assert len(PROBLEMS) == len(made)
    responses = document()["components"]["responses"]
    examples = {
        (answer["status"], answer["type"])
        for response in responses.values()
        for answer in (
            each["value"]
            for each in response["content"]["application/problem+json"]["examples"].values()
        )
    }
    assert examples == {
        (each.status, problems.TYPE_PREFIX + each.name) for each in PROBLEMS
    }


@pytest.mark.parametrize(
    "problem",
    [
        problems.too_slow(REQUEST_TIMEOUT),
        problems.too_much_content(LARGEST_BODY),
        problems.too_long_target(LONGEST_REQUEST_LINE),
        problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS),
    ],
    ids=lambda problem: problem.name,
)
def test_the_figures_are_the_servers(problem: Problem) -> None:
    """
    The web does not know the server, so its examples repeat them.
    """
    assert problem.detail in {each.detail for each in PROBLEMS}


def test_it_is_served(call: Caller) -> None:
    """
    Whole, as JSON, and not sent again to who has it.
    """
    answer = call("GET", "/openapi.json")
    assert (answer.status, answer["Content-Type"]) == (200, "application/json")
    assert (answer.body, answer["Cache-Control"]) == (rendered().body, "no-cache")
    assert answer.json == document()
    tag = answer["ETag"]
    assert tag == f'"{rendered().tag}"'
    for known in (tag, f"W/{tag}", f'"1", {tag}', "*"):
        again = call("GET", "/openapi.json", If_None_Match=known)
        assert (again.status, again.body, again["ETag"]) == (304, b"", tag)
    assert call("GET", "/openapi.json", If_None_Match='"1"').status == 200
    assert call("GET", "/openapi.json", If_None_Match="1").status == 400


def test_no_version_of_the_software(call: Caller) -> None:
    """
    The API has one, and that is another.
    """
    assert call("GET", "/openapi.json").json["info"]["version"] == "1.0.0"
    assert b"Twisted" not in rendered().body


def test_the_page_is_up_to_date() -> None:
    """
    docs/http-api.md is what C{make api-docs} makes.
    """
    assert PAGE.read_text() == reference(document())
