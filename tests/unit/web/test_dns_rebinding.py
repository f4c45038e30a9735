"""
Tests of the check of Host.
"""

from __future__ import annotations

import pytest
from twisted.logger import capturedLogs, formatEvent

from pexservice.web.access import MAX_LOGGED_HOSTS, HostPolicy
from pexservice.web.clients import Peer
from pexservice.web.problems import Problem


def policy(*allowed: str) -> HostPolicy:
    """
    Return the policy of a machine called C{Box}.
    """
    return HostPolicy(allowed, own_name="Box")


def refusal(rules: HostPolicy, host: bytes) -> Problem:
    """
    Return the problem of a request for C{host} over loopback.
    """
    with pytest.raises(Problem) as caught:
        rules.check(host, Peer("127.0.0.1", trusted=False, is_local=True))
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        None,
        *(b"127.0.0.1", b"192.0.2.7:8081", b"[::1]", b"[2001:DB8::1]:8081"),
        *(b"localhost", b"LOCALHOST.:8081", b"localhost:", b"app.localhost:8081"),
        *(b"box", b"BOX.:8081", b"pex.example.org", b"Pex.Example.Org.:443"),
    ],
)
def test_allowed_and_local_host_names_are_accepted(host: bytes | None) -> None:
    """
    Case, port and a final dot do not matter.
    """
    assert policy("PEX.example.org").allows_from_every_peer(host)


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b".", b"*", b"\xff", b"attacker.example:8081", b"alocalhost"),
        *(b"127.0.0.1.attacker.example", b"localhost.attacker.example"),
        *(b"notpex.example.org", b"pex.example.org..", b"box.example.org"),
        *(b"[::1", b"::1", b"[127.0.0.1]", b"127.1", b"0x7f000001", b"127.0.0.1:x"),
    ],
)
def test_other_host_is_refused_with_the_option_that_allows_it(host: bytes) -> None:
    """
    The response does not repeat the name.
    """
    rules = policy("pex.example.org")
    assert not rules.allows_from_every_peer(host)
    problem = refusal(rules, host)
    assert (problem.status, problem.name) == (421, "misdirected-request")
    assert "--allowed-host" in problem.detail
    assert "attacker" not in problem.detail


def test_every_host_is_accepted_with_a_wildcard() -> None:
    foreign = b"attacker.example"
    assert not policy().allows_from_every_peer(foreign)
    for rules in (policy("*"), policy("pex.example.org", "*")):
        assert rules.allows_from_every_peer(foreign)


def test_each_refused_host_is_logged_once_and_only_so_many() -> None:
    rules = policy()
    with capturedLogs() as events:
        for host in (b"", b"a.example", b"A.example:81", b"b.example.", b"a.example"):
            refusal(rules, host)
        assert len(events) == 2
        assert "--allowed-host a.example " in formatEvent(events[0])
        for number in range(2 * MAX_LOGGED_HOSTS):
            refusal(rules, b"%d.example" % number)
    assert len(events) == MAX_LOGGED_HOSTS + 1
    assert "no longer logged" in formatEvent(events[-1])
