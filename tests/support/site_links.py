"""
A hook of mkdocs that replaces links to files outside C{docs/} by their text.

The site does not contain these files.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

#: A link to a folder above that of its page.
_UPWARDS = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)]*)\)")


def on_page_markdown(markdown: str, *, page: object, **_: object) -> str:
    """
    Return the page's text without the links to files outside C{docs/}.
    """
    path = PurePosixPath(page.file.src_uri)  # type: ignore[attr-defined]
    depth = len(path.parts) - 1

    def shorten(link: re.Match[str]) -> str:
        words, up, _ = link.groups()
        return link[0] if up.count("/") <= depth else words

    return _UPWARDS.sub(shorten, markdown)
