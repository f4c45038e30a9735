"""
The live page, for browsers: C{index.html} with C{style.css} and C{script.js} put in.

It is one answer, at a path that is there anyway.  So the API has no paths for the
page's sake, the three cannot be of different versions while workers are replaced, and
the Content-Security-Policy names the two by their hashes: nothing else runs.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from attrs import frozen

from pexservice.web.conditions import Tags
from pexservice.web.replies import Header, Reply

#: In C{index.html}, as a browser that opens the file itself would follow them.
_STYLE = b'<link rel="stylesheet" href="style.css">'
_SCRIPT = b'<script type="module" src="script.js"></script>'


@frozen
class Page:
    """
    @ivar tag: the opaque part of its ETag: it changes when the page does.
    """

    body: bytes
    headers: tuple[Header, ...]
    tag: str

    def reply(self, if_none_match: Tags | None) -> Reply:
        """
        The page, or that the browser has it.
        """
        if if_none_match is not None and if_none_match.name(self.tag):
            return Reply(304, self.headers)
        return Reply(
            200, (*self.headers, (b"Content-Type", b"text/html; charset=utf-8")), self.body
        )


@lru_cache(maxsize=1)
def page() -> Page:
    """
    Made once, from the three files.
    """
    templates = files(__name__) / "templates"
    html, style, script = (
        (templates / name).read_bytes() for name in ("index.html", "style.css", "script.js")
    )
    body = _replace(html, _STYLE, b"<style>%b</style>" % style)
    body = _replace(body, _SCRIPT, b'<script type="module">%b</script>' % script)
    tag = f"{sha256(body).hexdigest()[:16]}-html"
    policy = (
        "default-src 'none';"
        f" script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        # The icon is in the page too.
        " connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = (
        # Kept, and asked for again each time: a 304 has no body.
        (b"Cache-Control", b"no-cache"),
        (b"ETag", f'"{tag}"'.encode()),
        (b"Vary", b"Accept"),
        (b"Content-Security-Policy", policy.encode()),
        (b"Cross-Origin-Opener-Policy", b"same-origin"),
        (b"Referrer-Policy", b"no-referrer"),
        (b"X-Content-Type-Options", b"nosniff"),
    )
    return Page(body, headers, tag)


def _replace(html: bytes, reference: bytes, content: bytes) -> bytes:
    before, found, after = html.partition(reference)
    if not found:
        raise ValueError(f"index.html has no {reference.decode()}")
    return before + content + after


def _hash(content: bytes) -> str:
    return "sha256-" + b64encode(sha256(content).digest()).decode()
