"""
A hook of mkdocs that keeps the name alone of a link out of C{docs/}.

The target of such a link, as one to code, is not on the site.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

#: A link that leaves the folder in which its page lies.
_UPWARDS = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)]*)\)")


def on_page_markdown(markdown: str, *, page: object, **_: object) -> str:
    """
    Return the page's text without the links that lead out of C{docs/}.
    """
    path = PurePosixPath(page.file.src_uri)  # type: ignore[attr-defined]
    depth = len(path.parts) - 1

    def shorten(link: re.Match[str]) -> str:
        words, up, _ = link.groups()
        return link[0] if up.count("/") <= depth else words

    return _UPWARDS.sub(shorten, markdown)
