"""
Tests of the access to the cursor: tokens, and the rules for web pages.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.logger import capturedLogs

from pexservice.process.exit_status import Misconfigured
from pexservice.web import access
from pexservice.web.access import (
    ANY_HOST,
    Access,
    BadTokens,
    HostPolicy,
    read_tokens,
    same_host,
)
from pexservice.web.clients import Peer
from pexservice.web.parameters import marks_prefetch
from pexservice.web.problems import Problem
from pexservice.web.responses import JSON
from tests.support.caller import Caller

ORIGIN = "https://pages.example.org"
NAMED = ORIGIN.encode()
HOST = b"pex.example.org:8081"


def digests(*tokens: str) -> frozenset[bytes]:
    """
    Return the digests of C{tokens}, as the service stores them.
    """
    return frozenset(sha256(token.encode()).digest() for token in tokens)


@pytest.fixture
def call() -> Caller:
    return Caller(Access(digests("first", "second")))


class TestTokens:
    """
    Tests of requests with C{--token-file}.
    """

    @pytest.mark.parametrize("value", ["Bearer first", "bearer  second", "BEARER first "])
    def test_each_token_of_the_file_allows_a_step(self, call: Caller, value: str) -> None:
        """
        The scheme may be in capital letters.
        """
        assert call("POST", "/next", Authorization=value).body == b"1\n"

    @pytest.mark.parametrize(
        "values", [[], [""], ["Basic Zmlyc3Q6"], ["first"], ["Bearer first"] * 2]
    )
    def test_step_without_exactly_one_token_gets_401_with_a_challenge(
        self, call: Caller, values: list[str]
    ) -> None:
        answer = call("POST", "/next", Authorization=values)
        assert (answer.status, b"send one header" in answer.body) == (401, True)
        assert answer["WWW-Authenticate"] == 'Bearer realm="pexservice"'
        assert call("GET", "/current")["Pex-Revision"] == "0"

    @pytest.mark.parametrize("value", ["Bearer third", "Bearer", "Bearer first second"])
    def test_step_with_a_wrong_token_gets_401_that_says_so(
        self, call: Caller, value: str
    ) -> None:
        answer = call("GET", "/reset", Authorization=value)
        assert answer.status == 401
        assert 'error="invalid_token"' in (answer["WWW-Authenticate"] or "")

    @pytest.mark.parametrize("token", ["first", "second", "firs", "", "z" * 4000])
    def test_token_is_compared_with_all_valid_tokens_each_time(
        self, call: Caller, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        All digests have the same length, so the duration tells nothing about valid tokens.
        """
        compare = Mock(wraps=compare_digest)
        monkeypatch.setattr(access, "compare_digest", compare)
        answer = call("POST", "/next", Authorization=f"Bearer {token}")
        assert answer.status == (200 if token in ("first", "second") else 401)
        pairs = [comparison.args for comparison in compare.call_args_list]
        assert pairs == [(sha256(token.encode()).digest(), valid) for _, valid in pairs]
        assert {valid for _, valid in pairs} == digests("first", "second")


class TestTokenFile:
    """
    Tests of the file with the tokens.
    """

    def test_token_file_has_one_token_per_line(self, tmp_path: Path) -> None:
        """
        Comments and empty lines are ignored.
        """
        path = tmp_path / "tokens"
        path.write_text("# team\nfirst\n\n  sec-ond~+/==  \n")
        assert read_tokens(str(path)) == digests("first", "sec-ond~+/==")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "has no token"),
            (b"# nobody\n\n", "has no token"),
            (b"first\ntwo words\n", "line 2: a token is made of"),
            (b"\xff\n", "is not plain ASCII"),
        ],
    )
    def test_error_about_a_bad_token_names_file_and_line(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "tokens"
        path.write_bytes(content)
        with pytest.raises(BadTokens, match=message) as caught:
            read_tokens(str(path))
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize(("mode", "warnings"), [(0o640, 0), (0o644, 1)])
    def test_token_file_that_every_user_can_read_is_a_warning(
        self, tmp_path: Path, mode: int, warnings: int
    ) -> None:
        path = tmp_path / "tokens"
        path.write_text("first\n")
        path.chmod(mode)
        with capturedLogs() as events:
            read_tokens(str(path))
        assert len(events) == warnings

    def test_error_about_a_missing_token_file_names_it(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"missing: No such file"):
            read_tokens(str(tmp_path / "missing"))


class TestPages:
    """
    Tests of requests from pages of other origins, and of prefetches.
    """

    def test_page_of_a_named_origin_may_step_but_not_prefetch(self) -> None:
        call = Caller(Access(origins=[ORIGIN]))
        cross = {"Sec_Fetch_Site": "cross-site", "Origin": ORIGIN}
        assert call("GET", "/next", **cross).body == b"1\n"
        assert call("POST", "/next", **cross).body == b"1\n"
        answer = call("GET", "/next", **cross, Sec_Purpose="prefetch", Accept=JSON)
        assert (answer.status, answer.json["title"]) == (403, "Not on purpose")
        cross["Origin"] = "https://example.org"
        assert call("POST", "/next", **cross).status == 403

    def test_page_of_another_origin_gets_no_stream(self) -> None:
        call = Caller()
        answer = call("GET", "/events", Sec_Fetch_Site="cross-site")
        assert (answer.status, len(call.events)) == (403, 0)
        assert b"may not watch" in answer.body


class TestOrigins:
    @pytest.fixture
    def call(self) -> Caller:
        return Caller(Access(digests("first"), [ORIGIN, "http://localhost:3000"]))

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/current"), ("POST", "/next"), ("GET", "/nothing"), ("PUT", "/next")],
    )
    def test_every_response_allows_the_named_origin_to_read_it(
        self, call: Caller, method: str, path: str
    ) -> None:
        """
        Error responses also allow it.
        """
        answer = call(method, path, Origin=ORIGIN)
        assert answer["Access-Control-Allow-Origin"] == ORIGIN
        assert "Pex-Revision" in (answer["Access-Control-Expose-Headers"] or "")
        assert answer.headers.getRawHeaders("Vary") == ["Origin", "Accept"]

    @pytest.mark.parametrize("origin", ["https://example.org", "null", ORIGIN + "."])
    def test_response_to_another_origin_allows_nothing(
        self, call: Caller, origin: str
    ) -> None:
        """
        Caches learn that the response depends on the origin.
        """
        answer = call("GET", "/current", Origin=origin)
        assert answer["Access-Control-Allow-Origin"] is None
        assert answer.headers.getRawHeaders("Vary") == ["Origin", "Accept"]

    def test_preflight_lists_allowed_headers_and_needs_no_token(self, call: Caller) -> None:
        asked = {
            "Origin": ORIGIN,
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "idempotency-key, authorization",
        }
        answer = call("OPTIONS", "/next", **asked)
        assert answer.status == 204
        assert answer["Access-Control-Allow-Origin"] == ORIGIN
        assert answer["Access-Control-Allow-Methods"] == "POST, GET, OPTIONS"
        allowed = (answer["Access-Control-Allow-Headers"] or "").split(", ")
        assert {"Idempotency-Key", "Content-Type"} <= {*allowed}
        assert answer["Access-Control-Max-Age"] == "600"
        # Without this header it is no preflight.
        del asked["Access_Control_Request_Method"]
        assert call("OPTIONS", "/next", **asked)["Access-Control-Allow-Methods"] is None
        asked["Access_Control_Request_Method"] = "POST"
        asked["Origin"] = "https://example.org"
        assert call("OPTIONS", "/next", **asked)["Access-Control-Allow-Methods"] is None


def test_peer_whose_host_is_not_checked_sees_no_processes() -> None:
    """
    The C{Host} is not checked for remote peers, or if every name is allowed.
    """
    local = Peer("127.0.0.1", trusted=False, is_local=True)
    remote = Peer("192.0.2.1", trusted=False, is_local=False)
    policy = HostPolicy(own_name="box")
    assert (policy.protects(local), policy.protects(remote)) == (True, False)
    assert not HostPolicy([ANY_HOST], own_name="box").protects(local)


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
    ("sites", "origins", "allowed"),
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
        # An origin that --cors-origin names is allowed whatever the browser says.
        ([b"cross-site"], [NAMED], True),
        ([b"cross-site"], [NAMED + b"."], False),
        ([b"cross-site"], [NAMED + b":8443"], False),
        ([b"cross-site"], [NAMED.replace(b"https", b"http")], False),
        ([b"cross-site"], [NAMED, NAMED], False),
    ],
)
def test_sec_fetch_site_decides_and_origin_only_without_it(
    sites: list[bytes], origins: list[bytes], *, allowed: bool
) -> None:
    """
    If there are several values, all of them must pass.
    """
    problem = refusal(Access(origins=[ORIGIN]), HOST, origins, sites)
    assert (problem is None) is allowed
    if problem is not None:
        assert (problem.status, problem.name) == (403, "cross-origin")
        assert "may not move the cursor" in problem.detail
        assert "--cors-origin" in problem.detail


def test_http_1_0_request_without_host_has_no_origin() -> None:
    assert refusal(Access(), None, [b"http://localhost"], []) is not None
    assert refusal(Access(), None, [], []) is None


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
