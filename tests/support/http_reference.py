"""
Write docs/http-api.md from the OpenAPI document: C{python -m tests.support.http_reference}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pexservice.web.openapi import document
from pexservice.web.problems import TYPE_PREFIX

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"

_BEGINNING = """\
# HTTP API

`make api-docs` generates this page from the OpenAPI document, which the service has at \
`/openapi.json`.

"""

#: Examples with more characters are left out.
_SHORT = 300

Json = dict[str, Any]


def reference(whole: Json) -> str:
    """
    Return the text of the page.
    """
    about, *sections = whole["info"]["description"].split("\n## ")
    prose = "".join(f"\n## {section}" for section in sections)
    return "".join(
        [
            _BEGINNING,
            about,
            "\n## Endpoints\n\n",
            *_endpoints(whole),
            "\nEvery path can also return one of these [errors](#errors): ",
            f"{', '.join(sorted(_common_statuses(whole)))}.\n",
            *_details(whole),
            prose,
            "\n| name | status | example |\n|---|---|---|\n",
            *_problems(whole),
            "\n## Headers of responses\n\n| name | meaning and example |\n|---|---|\n",
            *_headers(whole),
        ]
    )


def _endpoints(whole: Json) -> Iterator[str]:
    yield "| path | methods | meaning |\n|---|---|---|\n"
    for path, item in whole["paths"].items():
        methods = [method.upper() for method in item if method != "options"]
        summary = item[methods[0].lower()]["summary"]
        yield f"| `{path}` | {' '.join(methods)} | {summary} |\n"


def _details(whole: Json) -> Iterator[str]:
    # Parameters and examples are shown for the first path that has them.
    shown: dict[str, str] = {}
    common = _common_statuses(whole)
    for path, item in whole["paths"].items():
        operation = next(iter(item.values()))
        yield f"\n### `{path}`\n\n{operation['description']}\n"
        parameters = "".join(_parameters(whole, operation))
        examples = "".join(_examples(whole, operation))
        for kind, detail in (("Parameters", parameters), ("Representations", examples)):
            if detail and detail in shown:
                yield f"\n{kind} are those of `{shown[detail]}`.\n"
            else:
                shown[detail] = path
                yield detail
        yield from _statuses(item, common)


def _parameters(whole: Json, operation: Json) -> Iterator[str]:
    references = operation.get("parameters", [])
    if references:
        yield "\n| parameter | in | meaning |\n|---|---|---|\n"
    for parameter in [resolved(whole, reference) for reference in references]:
        text = f"{parameter['description']}{_range(parameter['schema'])}"
        yield f"| `{parameter['name']}` | {parameter['in']} | {text} |\n"


def _examples(whole: Json, operation: Json) -> Iterator[str]:
    response = resolved(whole, operation["responses"]["200"])
    for kind, content in response["content"].items():
        example = _example(whole, content)
        if example is not None and len(str(example)) < _SHORT:
            yield f"\n`{kind}`:\n\n{_indented(example)}"


def _statuses_by_method(item: Json) -> dict[str, set[str]]:
    return {
        method.upper(): set(operation["responses"])
        for method, operation in item.items()
        if method != "options"
    }


def _common_statuses(whole: Json) -> set[str]:
    """
    Return the statuses that every operation can return.
    """
    return set.intersection(
        *(
            statuses
            for item in whole["paths"].values()
            for statuses in _statuses_by_method(item).values()
        )
    ) - {"200"}


def _statuses(item: Json, common: set[str]) -> Iterator[str]:
    """
    List the other statuses of an endpoint, and those of only some of its methods.
    """
    methods = _statuses_by_method(item)
    shared = set.intersection(*methods.values())
    yield f"\nStatuses: {', '.join(sorted(shared - common))}"
    for method, statuses in methods.items():
        if statuses > shared:
            yield f"; {method} also {', '.join(sorted(statuses - shared))}"
    yield ".\n"


def _example(whole: Json, content: Json) -> object:
    schema = resolved(whole, content["schema"])
    return content.get("example", next(iter(schema.get("examples", ())), None))


def resolved(whole: Json, part: Json) -> Json:
    """
    Return the component that C{part} refers to, or C{part} if it is no reference.
    """
    if "$ref" not in part:
        return part
    *_, kind, name = part["$ref"].split("/")
    component: Json = whole["components"][kind][name]
    return component


def _range(schema: Json) -> str:
    if schema.get("type") != "integer":
        return ""
    default = f"; the default is {schema['default']}" if "default" in schema else ""
    return f" From {schema['minimum']} to {schema['maximum']}{default}."


def _indented(example: object) -> str:
    text = example
    if not isinstance(text, str):
        text = json.dumps(example, separators=(",", ":"))
    return "".join(f"    {line}\n" for line in text.splitlines())


def _problems(whole: Json) -> Iterator[str]:
    for problem in whole["components"]["schemas"]["Problem"]["examples"]:
        name = problem["type"].removeprefix(TYPE_PREFIX)
        yield f"| `{name}` | {problem['status']} | {problem['detail']} |\n"


def _headers(whole: Json) -> Iterator[str]:
    for name, header in whole["components"]["headers"].items():
        yield f"| `{name}` | {header['description']} `{header['example']}` |\n"


def main() -> None:
    PAGE.write_text(reference(document()))
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
