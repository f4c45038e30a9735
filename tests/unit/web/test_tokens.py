"""
Tests of how tokens are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from hmac import compare_digest

import pytest

from pexservice.web import access
from pexservice.web.access import Access
from tests.support.caller import Caller

TOKENS = ("first", "second", "third")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bytes, bytes]]]:
    """
    Provide the pairs that were compared by C{compare_digest}, whose time tells nothing.
    """
    pairs: list[tuple[bytes, bytes]] = []

    def compare(digest: bytes, other: bytes) -> bool:
        pairs.append((digest, other))
        return compare_digest(digest, other)

    monkeypatch.setattr(access, "compare_digest", compare)
    yield pairs
    assert all(len(digest) == len(other) == 32 for digest, other in pairs)


@pytest.mark.parametrize("token", [*TOKENS, "firs", "first.", "", "z" * 4000])
def test_token_is_compared_with_all_digests_each_time(
    token: str, compared: list[tuple[bytes, bytes]]
) -> None:
    """
    Whichever token matches, or none, and however long the token is.

    All digests have the same length.
    """
    known = frozenset(sha256(token.encode()).digest() for token in TOKENS)
    answer = Caller(Access(known))("POST", "/next", Authorization=f"Bearer {token}")
    assert answer.status == (200 if token in TOKENS else 401)
    assert {other for _, other in compared} == known
    assert len(compared) == len(known)
