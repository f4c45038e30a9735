"""
Tests of the page as a response: its policy, and when it is sent again.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from tests.support.caller import Caller

#: The C{Accept} of a browser.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize("accept", [BROWSER, "text/html"])
def test_a_client_that_prefers_html_gets_the_page(accept: str) -> None:
    """
    Caches must ask for the page again each time.
    """
    answer = Caller()("GET", "/", Accept=accept)
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    assert answer.length == len(answer.body)
    assert (answer["Cache-Control"], answer["Vary"]) == ("no-cache", "Accept")
    assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "text/*", "", "image/png"])
def test_other_clients_get_the_description_as_text(accept: str) -> None:
    """
    Every client got that text before there was a page.
    """
    answer = Caller()("GET", "/", Accept=accept)
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Content-Security-Policy"] is None


def test_the_policy_names_each_style_and_script() -> None:
    """
    It names them by their hashes, and allows nothing from elsewhere.
    """
    answer = Caller()("GET", "/", Accept="text/html")
    policy = answer["Content-Security-Policy"] or ""
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind, count in ((b"style", 1), (b"script", 8)):
        parts = re.findall(b"<%b>(.*?)</%b>" % (kind, kind), answer.body, re.DOTALL)
        hashes = [b64encode(sha256(part).digest()).decode() for part in parts]
        sources = " ".join(f"'sha256-{digest}'" for digest in hashes)
        assert f"{kind.decode()}-src {sources};" in policy
        assert len(parts) == count
    loaded = re.findall(rb"""(?:src|href)=["']?(?!data:)([^"'>]+)""", answer.body)
    assert {digest.decode() for digest in loaded} == {
        "/current",
        "/history",
        "/readyz?verbose",
        "/metrics",
        "/openapi.json",
    }
