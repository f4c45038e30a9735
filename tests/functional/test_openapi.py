"""
Check the OpenAPI document with a validator, schemathesis and a client generator.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pexservice.web.endpoints import POST_ONLY_TABLE
from pexservice.web.openapi import document, rendered
from tests.support.daemon import Daemon
from tests.support.forms import amount

pytestmark = pytest.mark.once

HERE = Path(__file__).parent

#: Schemathesis generates this many requests of each kind for each operation.
EXAMPLES = amount(short=1, long=8)

#: The operations for which it generates none.  The parameters of /next are those of /reset.
EXCLUDED = amount(short=("method=OPTIONS", "method=HEAD", "path=/reset"), long=())


@pytest.mark.needs("openapi-spec-validator")
def test_served_document_is_valid_openapi_3_1() -> None:
    """
    It is valid with C{--post-only} too.
    """
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(document()).validate()
    OpenAPIV31SpecValidator(document(POST_ONLY_TABLE.endpoints)).validate()


def examples(part: Any) -> Iterator[tuple[Any, Any]]:
    """
    Yield each schema with each of its examples.
    """
    if isinstance(part, list):
        for item in part:
            yield from examples(item)
    elif isinstance(part, dict):
        if "schema" in part:
            if "example" in part:
                yield part["schema"], part["example"]
            for example in part.get("examples", {}).values():
                yield part["schema"], example["value"]
        for member in part.values():
            yield from examples(member)


@pytest.mark.needs("jsonschema")
def test_each_example_is_valid_by_its_schema() -> None:
    from jsonschema import Draft202012Validator, FormatChecker

    whole = document()
    all_examples = list(examples(whole))
    assert len(all_examples) > len(whole["paths"])
    for name, schema in whole["components"]["schemas"].items():
        all_examples += [
            ({"$ref": f"#/components/schemas/{name}"}, example)
            for example in schema.get("examples", ())
        ]
    for schema, example in all_examples:
        # The validator resolves references within the schema.
        Draft202012Validator(
            {"components": whole["components"], **schema}, format_checker=FormatChecker()
        ).validate(example)


@pytest.mark.needs("schemathesis")
@pytest.mark.parametrize(
    "kind", amount(short=["application/json"], long=["*/*", "application/json"])
)
def test_responses_match_the_openapi_document(tmp_path: Path, kind: str) -> None:
    """
    Schemathesis sends valid and invalid requests, and compares status, headers and body.
    """
    (tmp_path / "tokens").write_text("secret\n")
    with Daemon(tmp_path, "--token-file", "tokens", command="pexservice-worker") as daemon:
        ended = subprocess.run(
            [
                *(Path(sys.executable).parent / "schemathesis", "--no-color"),
                *("--config-file", HERE / "schemathesis.toml", "run"),
                f"http://127.0.0.1:{daemon.port}/openapi.json",
                *("--header", f"Accept: {kind}"),
                *("--header", "Authorization: Bearer secret"),
                *(f"--exclude-{operations}" for operations in EXCLUDED),
                *("--max-examples", str(EXAMPLES), "--seed", "1"),
                # This test does not measure how long a response takes.
                *("--request-timeout", "60", "--suppress-health-check", "all"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(HERE),
                # The tables that Hypothesis keeps here take three seconds to make.
                "HYPOTHESIS_STORAGE_DIRECTORY": str(HERE.parents[1] / ".hypothesis"),
            },
            check=False,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert daemon.revision() > 0


#: A program that knows the API only from the generated package.
_PROGRAM = """
import sys
from generated import Client
from generated.api.default import get_current, post_next, post_reset

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
for key in ("a", "b", "c", "c"):
    answer = post_next.sync_detailed(client=client, idempotency_key=key)
    print(answer.status_code.value, answer.parsed.strip(), answer.headers["Pex-Revision"])
print(get_current.sync(client=client).strip())
answer = post_next.sync_detailed(client=client, if_match='"0"')
print(answer.status_code.value)
print(post_reset.sync(client=client).strip())
"""


@pytest.mark.needs("openapi-python-client")
def test_generated_client_steps_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "document.json").write_bytes(rendered().body)
    generate = ("generate", "--path", "document.json", "--output-path", "generated")
    generated = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *generate, "--meta", "none"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    # The generator reports the parts of the document that it leaves out.
    assert "unsupported" not in generated.stdout.lower()
    modules = {module.stem for module in (tmp_path / "generated/api/default").glob("*.py")}
    operations = {
        operation["operationId"].replace("-", "_")
        for item in document()["paths"].values()
        for operation in item.values()
    }
    assert operations == modules - {"__init__"}
    with Daemon(tmp_path, command="pexservice-worker") as daemon:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, f"http://127.0.0.1:{daemon.port}"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
    assert done.stdout.splitlines() == [
        *("200 1 1", "200 1 2", "200 2 3", "200 2 3"),
        *("2", "412", "0"),
    ]
