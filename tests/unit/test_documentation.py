"""
The documentation: its links, its size, and the code that it names.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    + list(DOCS.rglob("*.md"))
)

#: A link or a picture with a relative target.
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


#: In docs/how-it-works.md: a function with a link to its file, and an arrow of the picture.
_FUNCTION = re.compile(r"\[`([\w.]+)`\]\(\.\./(src/pexservice/[\w/.]+\.py)\)")
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


def definitions(path: Path) -> set[str]:
    """
    Return the names of a module's classes and functions, methods with their class.
    """
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(f"{node.name}.{part.name}")
    return names


def imports() -> dict[str, set[str]]:
    """
    Return, for each package of the service, the packages that its modules import.
    """
    source = ROOT / "src" / "pexservice"
    packages: dict[str, set[str]] = {}
    for path in source.rglob("*.py"):
        package = path.relative_to(source).parts[0].removesuffix(".py")
        if package.startswith("__"):
            continue
        imported = packages.setdefault(package, set())
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if modules == ["pexservice"]:
                modules = [f"pexservice.{name.name}" for name in node.names]
            if isinstance(node, ast.Import):
                modules = [name.name for name in node.names]
            imported |= {
                module.split(".")[1]
                for module in modules
                if module.startswith("pexservice.")
            } - {package}
    return packages


def reachable(packages: dict[str, set[str]], package: str) -> set[str]:
    """
    Return all packages that C{package} imports, directly or through others.
    """
    direct = packages.get(package, set())
    return direct.union(*(reachable(packages, other) for other in direct))


def test_the_path_of_a_request_names_functions_that_exist() -> None:
    """
    Each function that C{docs/how-it-works.md} names is in the file that it links to.
    """
    functions = _FUNCTION.findall((DOCS / "how-it-works.md").read_text())
    assert len(functions) > 10
    for function, file in functions:
        if not function.endswith(".py"):
            assert function in definitions(ROOT / file), f"{file} has no {function}"


def test_the_picture_of_the_packages_shows_the_imports_of_the_code() -> None:
    """
    The picture has every import between packages that does not follow from the others.
    """
    packages = imports()
    needed = {
        (package, other)
        for package, direct in packages.items()
        for other in direct
        if not any(other in reachable(packages, third) for third in direct - {other})
    }
    picture = (DOCS / "how-it-works.md").read_text().split("```mermaid")[1].split("```")[0]
    assert set(_ARROW.findall(picture)) == needed


def test_the_documentation_has_at_most_25_pages() -> None:
    """
    A fact stands on one page, so that there are few pages.
    """
    assert len(list(DOCS.rglob("*.md"))) <= 25
