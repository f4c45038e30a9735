"""
Tests of plans on a store that other nodes write to.
"""

from __future__ import annotations

import pytest

from tests.support.fake_etcd import FakeEtcd, FakeGateway
from tests.support.fakes import Turns
from tests.support.wire import Server, Wire

CURRENT = b"GET /current HTTP/1.1\r\nHost: h\r\nX-Request-ID: %d\r\n\r\n"
STEP = b"POST /next HTTP/1.1\r\nHost: h\r\nIdempotency-Key: %d\r\n\r\n"


@pytest.fixture
def etcd() -> FakeGateway:
    """
    Return a way to etcd that answers at once until it is closed.
    """
    clock = Turns()
    return FakeGateway(FakeEtcd(), clock)


def begun(etcd: FakeGateway) -> Server:
    """
    Return a server that has parsed a read and a step, and whose messages wait from now on.
    """
    server = Server(etcd=etcd)
    wire = server.connect()
    for head in (CURRENT, STEP):
        wire.send(head % 0)
        settle(server, wire, etcd)
    assert wire.received.count(b"HTTP/1.1 200 ") == 2
    etcd.open = False
    return server


def settle(server: Server, wire: Wire, etcd: FakeGateway) -> None:
    """
    Let all that is under way be answered.
    """
    for _ in range(20):
        server.clock.turn(0.01)
        wire.turns(2)
        while etcd.news:
            etcd.hear()
        while etcd.waiting:
            etcd.answer()


def test_reads_on_etcd_use_their_plan_and_share_a_read_of_etcd(etcd: FakeGateway) -> None:
    """
    Each read waits for the response of etcd.
    """
    server = begun(etcd)
    parsed = server.shared.counters.without_plan
    first, *others = wires = [server.connect() for _ in range(5)]
    first.send(CURRENT % 1)
    assert len(etcd.waiting) == 1
    for number, wire in enumerate(others, 2):
        wire.send(CURRENT % number)
    assert len(etcd.waiting) == 1
    etcd.answer()
    # The reads that arrived while the request was in progress share the next one.
    assert [b"200 OK" in wire.received for wire in wires] == [True] + [False] * 4
    assert len(etcd.waiting) == 1
    etcd.answer()
    assert all(b"Pex-Revision: 1\r\n" in wire.received for wire in wires)
    assert not etcd.waiting
    assert server.shared.counters.without_plan == parsed


def test_keyed_step_on_etcd_uses_its_plan_and_is_replayed(etcd: FakeGateway) -> None:
    server = begun(etcd)
    parsed = server.shared.counters.without_plan
    wire = server.connect()
    for number in (1, 2, 1):
        wire.send(STEP % number)
        settle(server, wire, etcd)
    revisions = [
        line for line in wire.received.split(b"\r\n") if line.startswith(b"Pex-Revision")
    ]
    assert revisions == [b"Pex-Revision: %d" % number for number in (2, 3, 2)]
    assert wire.received.count(b"Idempotency-Replayed: true") == 1
    assert server.shared.counters.without_plan == parsed


def test_request_without_etcd_is_refused_and_keeps_its_plan(etcd: FakeGateway) -> None:
    server = begun(etcd)
    parsed = server.shared.counters.without_plan
    wire = server.connect()
    for head in (CURRENT % 1, STEP % 1):
        wire.send(head)
        for _ in range(100):
            while etcd.waiting:
                etcd.lose(sent=False)
            etcd.clock.advance(0.1)
            server.clock.turn(0.1)
    assert wire.received.count(b"HTTP/1.1 503 ") == 2
    assert server.shared.counters.without_plan == parsed
