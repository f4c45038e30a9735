"""
The live page, for browsers: C{index.html} with its style and its scripts put in.

The page is one answer, at a path that is there anyway.  So the API has no paths for the
page's sake, the page's parts cannot be of different versions while workers are replaced,
and the Content-Security-Policy names them by their hashes: nothing else runs.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from pexservice.web.preconditions import Document
from pexservice.web.replies import HTML, TYPES

_TEMPLATES = files(__name__) / "templates"

#: The links to the parts in C{index.html}, which a browser that opens the file follows.
_PART = re.compile(
    rb'<link rel="stylesheet" href="(?P<style>[a-z.]+)">'
    rb'|<script src="(?P<script>[a-z.]+)"></script>'
)


@lru_cache(maxsize=1)
def page() -> Document:
    """
    Return the page, made once from the templates.
    """
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def put_in(part: re.Match[bytes]) -> bytes:
        kind = part.lastgroup or ""
        content = (_TEMPLATES / part[kind].decode()).read_bytes()
        hashes[kind].append(f"'sha256-{b64encode(sha256(content).digest()).decode()}'")
        return b"<%b>%b</%b>" % (kind.encode(), content, kind.encode())

    body = _PART.sub(put_in, (_TEMPLATES / "index.html").read_bytes())
    tag = f"{sha256(body).hexdigest()[:16]}-html"
    policy = (
        "default-src 'none';"
        f" script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])};"
        # The icon is in the page too.
        " connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = (
        # A browser keeps the page, and asks again each time: a 304 has no body.
        (b"Cache-Control", b"no-cache"),
        (b"ETag", f'"{tag}"'.encode()),
        (b"Vary", b"Accept"),
        (b"Content-Security-Policy", policy.encode()),
        (b"Referrer-Policy", b"no-referrer"),
        (b"Content-Type", TYPES[HTML]),
    )
    return Document(body, headers, tag)
