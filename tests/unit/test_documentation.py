"""
The documentation: its links, its size, and its statements about the code.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

import pexservice
from pexservice.process.exit_status import Status
from pexservice.web import problems

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PAGES = sorted(
    [
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
    ]
    + list(DOCS.rglob("*.md"))
)

#: A link or a picture with a relative target.
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")

HOW_IT_WORKS = (DOCS / "how-it-works.md").read_text()
PACKAGE = Path(pexservice.__file__).parent

#: A row of the path of a request: a step, functions, and the file that defines them.
_PATH_ROW = re.compile(
    r"(?m)^\| .+ \| (`[\w.`, ]+`) \| \[`[\w./]+`\]\((?:\.\./)+src/(.+)\) \|$"
)

#: A row of a table of log lines: the lines, and then the level or the advice.
_LOG_ROW = re.compile(r"(?m)^\| (`.+?`) \| ")

#: The parts of a log line that differ from time to time.
_VARIABLE = re.compile(r"\.\.\.|--[\w-]+|\S*[\d/]\S*|\b(?:[A-Z]{1,}|newest)\b|[:;(),]")

#: Words in log lines that the system or etcd has chosen.
FOREIGN_WORDS = {
    "Address already in use",
    "Too many open files",
    "database space exceeded",
    "ended with status",
    "permission denied",
}

_IMPORT = re.compile(r"(?m)^ *from pexservice\.(\w+)[\w.]* import ")
_ARROW = re.compile(r"(?m)^    (\w+)(?:\[.*?\])? --> (\w+)")


def anchors(page: Path) -> set[str]:
    """
    Return the anchors of a page's headings, as GitHub and mkdocs write them.
    """
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """
    The site of the documentation does not check links that leave C{docs/}.
    """
    for target, anchor in _LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_is_longer_than_lintian_accepts(page: Path) -> None:
    assert max(map(len, page.read_text().splitlines())) <= 512


def test_the_documentation_is_small() -> None:
    """
    A fact stands on one page, so 25 pages and 24,000 words are enough.
    """
    pages = list(DOCS.rglob("*.md"))
    assert len(pages) <= 25
    assert sum(len(page.read_text().split()) for page in pages) <= 24_000


def test_path_of_a_request_names_functions_of_the_code() -> None:
    shortcuts = (DOCS / "decisions" / "own-http-parser.md").read_text()
    rows = _PATH_ROW.findall(HOW_IT_WORKS + shortcuts)
    assert len(rows) >= 20
    for functions, file in rows:
        module = import_module(file.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", functions):
            assert attrgetter(name)(module).__module__ == module.__name__


def imports_between_packages() -> dict[str, set[str]]:
    """
    Return which packages each package imports.
    """
    imported: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        importer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not importer.startswith("__"):
            targets = _IMPORT.findall(path.read_text())
            imported.setdefault(importer, set()).update({*targets} - {importer})
    return imported


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    return {start}.union(*(reachable(graph, target) for target in graph[start]))


def test_picture_of_the_packages_shows_the_imports_of_the_code() -> None:
    """
    An arrow is an import that does not follow from other arrows.
    """
    picture = HOW_IT_WORKS.partition("```mermaid\nflowchart")[2].partition("```")[0]
    drawn = set(_ARROW.findall(picture))
    graph = imports_between_packages()
    needed = {
        (importer, target)
        for importer, targets in graph.items()
        for target in targets
        if not any(target in reachable(graph, other) for other in targets - {target})
    }
    assert drawn == needed


@cache
def texts_of_the_code() -> str:
    """
    Return all strings of the code, with a space for each value that is inserted.
    """
    texts: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                texts.append(str(node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", " ") for part in node.values]
                texts.append("".join(p if isinstance(p, str) else " " for p in parts))
    return "\n".join(texts)


@pytest.mark.parametrize("page", ["operations.md", "cluster.md"])
def test_log_lines_of_the_tables_are_those_of_the_code(page: str) -> None:
    texts = texts_of_the_code()
    section = re.split(
        "(?m)^#+ (?:What the lines mean|Log lines)", (DOCS / page).read_text()
    )[1]
    section = section.partition("\n## ")[0].partition("\n### No space")[0]
    rows = _LOG_ROW.findall(section)
    assert len(rows) >= 5
    for line in re.findall(r"`([^`]+)`", " ".join(rows)):
        parts = [part.strip() for part in _VARIABLE.split(line)]
        unknown = {part for part in parts if " " in part and part not in texts}
        assert unknown <= FOREIGN_WORDS, line


def test_operations_page_explains_each_exit_status_and_each_server_error() -> None:
    page = (DOCS / "operations.md").read_text()
    for status in Status:
        assert f"\n| {status.value} | `{status.name}` |" in page
    kinds = [
        kind for kind in vars(problems).values() if isinstance(kind, problems.ProblemKind)
    ]
    errors = [problem for kind in kinds if (problem := kind("", "")).status >= 500]
    assert len(errors) >= 4
    for error in errors:
        assert f"\n| `{error.name}` | {error.status.value} |" in page
