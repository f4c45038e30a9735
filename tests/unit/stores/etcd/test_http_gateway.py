"""
The gateway to etcd: the meaning of its answers, its address, and its version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from pexservice.process import pyopenssl_guard
from pexservice.stores.errors import Refusal, StoreError, StoreMisconfigured
from pexservice.stores.etcd.address import EtcdAddress, parse
from pexservice.stores.etcd.factory import EtcdFactory
from pexservice.stores.etcd.gateway import CallRefused, CallUnanswered
from pexservice.stores.etcd.http_gateway import HttpGateway, _parse_response, check_version
from pexservice.stores.etcd.records import Message
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.factory_interface import StoreOptions
from tests.support.fakes import now

# A test module that was imported before may have set the guard.
pyopenssl_guard.lift()


@pytest.mark.parametrize("code", [3, 5, 7, 8, 9, 12, 16])
def test_refusal_of_etcd_is_shown(code: int) -> None:
    with pytest.raises(CallRefused, match="refuses: no") as caught:
        _parse_response("u", 400, json.dumps({"code": code, "message": "no"}).encode())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "CommonName of client sending a request against gateway"),
        (421, "etcd received your request, but the Host header was unrecognized."),
        (404, "404 page not found"),
    ],
)
def test_refusal_of_the_gateway_is_shown(status: int, words: str) -> None:
    with pytest.raises(CallRefused, match=f"^etcd refuses: u: status {status}: {words}$"):
        _parse_response("u", status, f"\n{words}\n".encode())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((503, json.dumps({"code": code}).encode()) for code in (1, 2, 4, 10, 13, 14, 15)),
        (504, b'{"error": "context deadline exceeded", "code": 4}'),
        (502, b""),
        # A proxy may refuse after etcd has executed the request.
        (400, b"Bad Request"),
        (404, b"<html>404 Not Found</html>"),
        (408, b""),
        (429, b"Too Many Requests"),
        (400, b'{"code": [], "message": "no"}'),
        (500, b"{}"),
        (200, b"[]"),
        (200, b"<html>"),
        (200, b'{"code": 14, "message": "etcdserver: request timed out"}'),
    ],
)
def test_any_other_failure_leaves_the_outcome_unknown(status: int, body: bytes) -> None:
    with pytest.raises(CallUnanswered) as caught:
        _parse_response("u", status, body)
    assert caught.value.sent


def test_every_part_of_an_address_is_read_from_its_url() -> None:
    files = "ca=a&certificate=b&key=c&user=d&password-file=e"
    assert parse(f"etcd:http://h:1,https://[::1]:2/?prefix=p/&{files}") == EtcdAddress(
        endpoints=("http://h:1", "https://[::1]:2"),
        prefix="p/",
        ca="a",
        certificate="b",
        key="c",
        user="d",
        password_file="e",  # noqa: S106 a name
    )
    assert parse("etcd:http://h").prefix == "pexservice/"


@pytest.mark.parametrize(
    "url",
    [
        "etcd:",
        "etcd:h:1",
        "etcd:http://a,",
        "etcd:http://bob:s3,cret@h:1",
        "etcd:http://h:1/v3",
        "etcd:http://h:65536",
        "etcd:http://h:0",
        "etcd:http://h:1?prefix",
        "etcd:http://h:1?prefix=",
        "etcd:http://h:1?prefix=a%20b",
        "etcd:http://h:1?prefix=a&prefix=b",
        "etcd:http://h:1?key=a",
        "etcd:http://h:1?password-file=a",
        "etcd:http://h:1?what=a",
    ],
)
def test_malformed_url_is_refused_and_its_password_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse(url)
    assert "s3" not in str(caught.value)


def test_old_version_or_another_program_is_refused() -> None:
    for version in ("3.4.0", "3.5.27", "3.6.1", "4.0.0-rc.1"):
        check_version("u", {"etcdserver": version})
    for version in ("2.3.8", "3.3.27"):
        with pytest.raises(StoreError, match=f"^u has etcd {version}; 3.4 or newer is"):
            check_version("u", {"etcdserver": version})
    for answer in ({"name": "consul"}, {"etcdserver": "3"}, {"etcdserver": "none"}):
        with pytest.raises(StoreError, match="the server there is not etcd"):
            check_version("u", answer)


class PendingGateway(HttpGateway):
    """
    A gateway whose attempts end when the test says so.

    @ivar pending: the path of each attempt, and what ends the attempt.
    """

    def __init__(self, address: EtcdAddress) -> None:
        super().__init__(address, Clock())
        self.pending: list[tuple[str, Deferred[Message]]] = []

    async def _attempt(self, path: str, message: Message) -> Message:
        ended: Deferred[Message] = Deferred()
        self.pending.append((path, ended))
        return await ended

    def end(self, path: str, outcome: Message | CallRefused) -> None:
        """
        End the oldest attempt, which is a call of C{path}.
        """
        oldest_path, ended = self.pending.pop(0)
        assert oldest_path == path
        if isinstance(outcome, CallRefused):
            ended.errback(outcome)
        else:
            ended.callback(outcome)


def test_calls_with_an_expired_token_each_continue_with_a_new_one(tmp_path: Path) -> None:
    """
    Users may change again meanwhile.  A token that stays expired is an error.
    """
    login, expired = "auth/authenticate", CallRefused(3, "revision of auth store is old")
    (tmp_path / "password").write_text("secret\n")
    address = parse(f"etcd:http://h:1?user=u&password-file={tmp_path / 'password'}")
    gateway = PendingGateway(address)
    first = Deferred.fromCoroutine(gateway.call("first", {}))
    gateway.end(login, {"token": "old"})
    second = Deferred.fromCoroutine(gateway.call("second", {}))
    gateway.end("first", expired)
    gateway.end("second", expired)
    for token in ("new", "newer"):
        gateway.end(login, {"token": token})
    gateway.end("first", {"number": 1})
    gateway.end("second", expired)
    gateway.end(login, {"token": "newest"})
    gateway.end("second", {"number": 2})
    assert (now(first), now(second)) == ({"number": 1}, {"number": 2})
    third = Deferred.fromCoroutine(gateway.call("third", {}))
    for _ in range(3):
        gateway.end("third", expired)
        gateway.end(login, {"token": "no"})
    gateway.end("third", expired)
    with pytest.raises(CallRefused, match="is old"):
        now(third)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"\xff\n", "must be text in UTF-8")]
)
def test_unreadable_password_file_fails_the_start_and_refuses_requests_until_it_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    """
    The reason names the file, is not blamed on etcd, and costs no wait.
    """
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    url = f"etcd:http://h:1?user=u&password-file={file}"
    clock: Any = Clock()
    with pytest.raises(StoreMisconfigured, match=f"^the password file {file}: .*{reason}"):
        EtcdFactory(url).make(StoreOptions(reactor=clock, journal=1))
    answer = AsyncMock(return_value={"header": {}, "token": "t"})
    monkeypatch.setattr(HttpGateway, "_attempt", answer)
    store = EtcdStore(HttpGateway(parse(url), clock), "p/")
    asks: list[Callable[[], Deferred[Any]]]
    asks = [store.read, store.probe, lambda: store.recall(b"k")]
    for ask in asks:
        with pytest.raises(Refusal, match=f"^the password file {file}: "):
            now(ask())
    with pytest.raises(StoreError, match=f"^etcd: the password file {file}: "):
        now(store.advance(1))
    file.write_text("secret\n")
    assert now(store.recall(b"k")) is None


@pytest.mark.parametrize("endpoint", ["http://h:1", "http://[::1]:2", "http://[fe80::1]"])
def test_url_of_an_endpoint_reaches_the_agent_unchanged(endpoint: str) -> None:
    gateway = HttpGateway(parse(f"etcd:{endpoint}"), Clock())
    gateway._client = agent = Mock()
    agent.request.return_value = fail(Refused())
    with pytest.raises(CallUnanswered, match="Connection was refused"):
        now(Deferred.fromCoroutine(gateway.call("kv/range", {})))
    _, url, *_ = agent.request.call_args.args
    assert url == f"{endpoint}/v3/kv/range".encode()
