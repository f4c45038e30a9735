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
# The API

This page is made from the OpenAPI document that the service has at `/openapi.json`, by \
`make api-docs`.

"""

#: The longest example that is shown.  Characters.
_SHORT = 300

Json = dict[str, Any]


def reference(whole: Json) -> str:
    """
    Return the page.
    """
    about, *sections = whole["info"]["description"].split("\n## ")
    prose = "".join(f"\n## {section}" for section in sections)
    return "".join(
        [
            _BEGINNING,
            about,
            "\n## Endpoints\n\n",
            *_endpoints(whole),
            *_details(whole),
            prose,
            "\n| name | status | |\n|---|---|---|\n",
            *_problems(whole),
            "\n## Headers of answers\n\n| name | |\n|---|---|\n",
            *_headers(whole),
        ]
    )


def _endpoints(whole: Json) -> Iterator[str]:
    yield "| path | methods | |\n|---|---|---|\n"
    for path, item in whole["paths"].items():
        methods = [method.upper() for method in item if method != "options"]
        summary = item[methods[0].lower()]["summary"]
        yield f"| `{path}` | {' '.join(methods)} | {summary} |\n"


def _details(whole: Json) -> Iterator[str]:
    usual = set.intersection(*(set(each["responses"]) for each in _operations(whole)))
    usual.discard("200")
    yield f"\nAny request can get {', '.join(sorted(usual))}.\n"
    # Endpoints that differ in path and description only are told once.
    alike: dict[str, list[str]] = {}
    for path, item in whole["paths"].items():
        alike.setdefault("".join(_detail(whole, item, usual)), []).append(path)
    for detail, paths in alike.items():
        yield f"\n### {' '.join(f'`{path}`' for path in paths)}\n\n"
        for path in paths:
            yield f"{next(iter(whole['paths'][path].values()))['description']}\n"
        yield detail


def _operations(whole: Json) -> Iterator[Json]:
    for item in whole["paths"].values():
        yield from item.values()


def _detail(whole: Json, item: Json, usual: set[str]) -> Iterator[str]:
    operation = next(iter(item.values()))
    parameters = [_resolved(whole, each) for each in operation.get("parameters", [])]
    if parameters:
        yield "\n| parameter | in | |\n|---|---|---|\n"
    for each in parameters:
        text = f"{each['description']}{_range(each['schema'])}"
        yield f"| `{each['name']}` | {each['in']} | {text} |\n"
    answer = _resolved(whole, operation["responses"]["200"])
    for kind, content in answer["content"].items():
        example = _example(whole, content)
        if example is not None and len(str(example)) < _SHORT:
            yield f"\n`{kind}`:\n\n{_indented(example)}"
    statuses = {
        status
        for method, each in item.items()
        if method != "options"
        for status in each["responses"]
    }
    yield f"\nStatuses: {', '.join(sorted(statuses - usual))}.\n"


def _example(whole: Json, content: Json) -> object:
    schema = _resolved(whole, content["schema"])
    return content.get("example", next(iter(schema.get("examples", ())), None))


def _resolved(whole: Json, part: Json) -> Json:
    if "$ref" not in part:
        return part
    *_, kind, name = part["$ref"].split("/")
    found: Json = whole["components"][kind][name]
    return found


def _range(schema: Json) -> str:
    if schema.get("type") != "integer":
        return ""
    default = f", {schema['default']} if it is not given" if "default" in schema else ""
    return f" From {schema['minimum']} to {schema['maximum']}{default}."


def _indented(example: object) -> str:
    text = example if isinstance(example, str) else _compact(example)
    return "".join(f"    {line}\n" for line in text.splitlines())


def _compact(example: object) -> str:
    return json.dumps(example, separators=(",", ":"))


def _problems(whole: Json) -> Iterator[str]:
    for problem in whole["components"]["schemas"]["Problem"]["examples"]:
        name = problem["type"].removeprefix(TYPE_PREFIX)
        yield f"| `{name}` | {problem['status']} | {problem['detail']} |\n"


def _headers(whole: Json) -> Iterator[str]:
    for name, header in whole["components"]["headers"].items():
        yield f"| `{name}` | {header['description']} `{header['example']}` |\n"


def main() -> None:
    """
    Write the page.
    """
    PAGE.write_text(reference(document()))
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
