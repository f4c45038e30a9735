"""
Tests of text that is made safe to print.
"""

from __future__ import annotations

import pytest

from pexservice.core.base_url import BaseURL
from pexservice.core.text import without_password


@pytest.mark.parametrize(
    "url",
    [
        "http://user:geheim@h",
        "user:geheim@h:1",
        "http:user:geheim@h",
        "http://user:ge geheim@h",
        "http+unix://user:geheim@%2Ftmp%2Fx",
    ],
)
def test_error_for_a_url_shows_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\.\.\.@.* is not a base URL") as caught:
        BaseURL.parse(url)
    assert "geheim" not in str(caught.value)
    assert "geheim" not in without_password(f"{url}: '{url}' is wrong")


@pytest.mark.parametrize("text", ["unix:/tmp/@x", "a@b", "http://h:1/: no", "it is 5: me"])
def test_text_without_a_password_stays_as_it_is(text: str) -> None:
    assert without_password(text) == text
