"""
The live page, for browsers: C{index.html} with its style and scripts inserted.

A browser gets the whole page with one response at C{/}.  So the API needs no paths for the
parts of the page, and all parts have the same version even while workers are replaced.  The
Content-Security-Policy allows exactly these parts, by their hashes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from pexservice.web.preconditions import Document
from pexservice.web.responses import CONTENT_TYPES, HTML

_TEMPLATES = files(__name__) / "templates"

#: Finds the links to the parts.  With these links, a browser can also open C{index.html}.
_PART = re.compile(
    rb'<link rel="stylesheet" href="(?P<style>[a-z.]+)">'
    rb'|<script src="(?P<script>[a-z.]+)"></script>'
)


@lru_cache(maxsize=1)
def page() -> Document:
    """
    Return the page, built from the templates at the first call.
    """
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def insert(part: re.Match[bytes]) -> bytes:
        kind = part.lastgroup or ""
        content = (_TEMPLATES / part[kind].decode()).read_bytes()
        hashes[kind].append(f"'sha256-{b64encode(sha256(content).digest()).decode()}'")
        return b"<%b>%b</%b>" % (kind.encode(), content, kind.encode())

    body = _PART.sub(insert, (_TEMPLATES / "index.html").read_bytes())
    policy = (
        "default-src 'none';"
        f" script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])};"
        # The icon is a data URL in the page.
        " connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = (
        (b"Vary", b"Accept"),
        (b"Content-Security-Policy", policy.encode()),
        (b"Referrer-Policy", b"no-referrer"),
    )
    return Document(body, CONTENT_TYPES[HTML], headers, "-html")
