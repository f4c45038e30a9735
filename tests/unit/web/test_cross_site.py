"""
Tests of the rules for web pages.
"""

from __future__ import annotations

import pytest

from pexservice.web.access import Access, same_host
from pexservice.web.parameters import marks_prefetch
from pexservice.web.problems import Problem

ORIGIN = b"https://pages.example.org"
HOST = b"pex.example.org:8081"

POLICY = Access()
WITH_ORIGIN = Access(None, [ORIGIN.decode()])


def refusal(
    access: Access, host: bytes | None, origins: list[bytes], sites: list[bytes]
) -> Problem | None:
    """
    Return the problem that a step with these headers gets, if any.
    """
    headers = {b"origin": origins, b"sec-fetch-site": sites}
    present = {name: values for name, values in headers.items() if values}
    if host is not None:
        present[b"host"] = [host]
    try:
        access.check_page("move the cursor", present)
    except Problem as problem:
        return problem
    return None


@pytest.mark.parametrize(
    ("sites", "origins", "own"),
    [
        # A client that is no browser.
        ([], [], True),
        ([b"same-origin"], [], True),
        ([b"none"], [], True),
        ([b"same-origin"], [b"https://elsewhere.example"], True),
        ([b"same-site"], [], False),
        ([b"cross-site"], [], False),
        ([b"cross-site"], [b"http://" + HOST], False),
        ([b""], [], False),
        ([b"Same-Origin"], [], False),
        ([b"cross-site", b"same-origin"], [], False),
        ([b"same-origin, cross-site"], [], False),
        ([b"same-origin, none"], [], True),
        # An older browser, or one that does not trust the connection.
        ([], [b"https://" + HOST], True),
        ([], [b"http://elsewhere.example"], False),
        ([], [b"http://" + HOST, b"http://elsewhere.example"], False),
        ([], [b"http://" + HOST + b", http://elsewhere.example"], False),
    ],
)
def test_sec_fetch_site_decides_and_origin_only_without_it(
    sites: list[bytes], origins: list[bytes], *, own: bool
) -> None:
    """
    If there are several values, all of them must pass.
    """
    problem = refusal(POLICY, HOST, origins, sites)
    assert (problem is None) is own
    if problem is not None:
        assert (problem.status, problem.name) == (403, "cross-origin")
        assert "may not move the cursor" in problem.detail
        assert "--cors-origin" in problem.detail


def test_http_1_0_request_without_host_has_no_origin() -> None:
    assert refusal(POLICY, None, [b"http://localhost"], []) is not None
    assert refusal(POLICY, None, [], []) is None


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [
        ([ORIGIN], True),
        ([ORIGIN + b"."], False),
        ([ORIGIN + b":8443"], False),
        ([b"http://pages.example.org"], False),
        ([ORIGIN, ORIGIN], False),
        ([], False),
    ],
)
def test_only_a_named_origin_is_allowed_whatever_the_browser_says(
    origins: list[bytes], *, allowed: bool
) -> None:
    problem = refusal(WITH_ORIGIN, HOST, origins, [b"cross-site"])
    assert (problem is None) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (b"http://localhost", b"localhost:80", True),
        (b"https://localhost", b"localhost", True),
        (b"https://localhost", b"localhost:443", True),
        (b"http://localhost:8081", b"localhost", False),
        (b"http://[::1]:8081", b"[::1]:8081", True),
        (b"http://localhost", b"localhost:", True),
        (b"HTTP://LOCALHOST:8081", b"localhost:8081", True),
        (b"http://localhost", b"example.localhost", False),
        (b"null", b"null", False),
        (b"", b"", False),
        (b"file://localhost", b"localhost", False),
        (b"http://user@localhost", b"localhost", False),
        (b"http://localhost/", b"localhost", False),
    ],
)
def test_default_port_may_be_left_out_and_schemes_are_not_compared(
    origin: bytes, host: bytes, *, same: bool
) -> None:
    assert same_host(origin, host) is same


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ([], True),
        ([b"other"], True),
        ([b""], True),
        ([b"prefetch"], False),
        ([b"prefetch;prerender"], False),
        ([b"Prefetch"], False),
        ([b"preview"], False),
        ([b"other, prefetch"], False),
        ([b"other", b"prefetch"], False),
    ],
)
def test_prefetch_is_recognized_by_its_headers(values: list[bytes], *, meant: bool) -> None:
    assert marks_prefetch(values) is not meant
