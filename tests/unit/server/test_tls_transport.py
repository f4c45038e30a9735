"""
Tests of TLS between a connection and its socket, with OpenSSL as the client and no network.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pexservice.server import tls_transport
from pexservice.server.limits import Phase
from pexservice.server.server import MAX_SECONDS_PER_ITERATION, ParsingBudget
from pexservice.server.tls_transport import MAX_DECRYPTED_BYTES, TlsTransport
from pexservice.worker.files import tls_context
from tests.support.crowd import certified
from tests.support.wire import Transport


class Recorder:
    """
    A connection that records the calls that it gets.

    @ivar react: called with what has been received.
    """

    def __init__(self) -> None:
        self.phase = Phase.RECEIVING
        self.received = b""
        self.calls: list[str] = []
        self.react: Callable[[bytes], object] = lambda _: None

    def connection_made(self, _: object) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.react(data)

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, _: object) -> None:
        self.calls.append("lost")


class Worker:
    """
    What the transports of one worker share, with a clock of the test's.
    """

    def __init__(self, tls: ssl.SSLContext, trusted: ssl.SSLContext) -> None:
        self.tls, self.trusted = tls, trusted
        self.cost = 0.0
        self._now = 0.0
        self._calls: list[Callable[[], object]] = []
        self.parsing_budget = ParsingBudget(self._calls.append, self._seconds)
        self.closed = {"flooding": 0}

    def _seconds(self) -> float:
        # Asked before and behind each step.
        self._now += self.cost / 2
        return self._now

    def turn(self) -> None:
        """
        Make the calls that were asked for before this turn.
        """
        calls, self._calls[:] = list(self._calls), []
        for call in calls:
            call()

    def transport(self, connection: Any, client: str) -> TlsTransport:
        server: Any = SimpleNamespace(
            parsing_budget=self.parsing_budget,
            call_soon=self._calls.append,
            connections=SimpleNamespace(closed=self.closed),
        )
        return TlsTransport(server, self.tls, connection, client)


class Peer:
    """
    A client and the service's end of its connection.
    """

    def __init__(self, worker: Worker, client: str = "192.0.2.1") -> None:
        self.worker = worker
        self.connection = Recorder()
        self.transport = worker.transport(self.connection, client)
        self.raw = Transport()
        self.transport.connection_made(self.raw)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = worker.trusted.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")

    def shake_hands(self) -> None:
        """
        Agree on TLS.
        """
        for _ in range(3):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send_encrypted(self._out.read())
            else:
                break
        self.send_encrypted(self._out.read())

    def encrypt(self, data: bytes) -> bytes:
        """
        Return the records of C{data}.
        """
        self.tls.write(data)
        return self._out.read()

    def send_encrypted(self, data: bytes) -> None:
        """
        Have C{data} arrive at the service, and let the client take the response.
        """
        if data:
            self.transport.data_received(data)
        self.take()

    def take(self) -> None:
        """
        Take the bytes that the service has written.
        """
        self._in.write(self.raw.value())
        self.raw.clear()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ...]:
    """
    Provide the context of the service and that of a client that trusts it.
    """
    (_, chain, _, key), trusted = certified(tmp_path_factory.mktemp("tls"))
    return tls_context(chain, key), trusted


@pytest.fixture
def worker(contexts: tuple[ssl.SSLContext, ...]) -> Worker:
    """
    Provide a worker, whose time costs nothing at first.
    """
    return Worker(*contexts)


@pytest.fixture
def peer(worker: Worker) -> Peer:
    """
    Provide a client that has agreed on TLS.
    """
    peer = Peer(worker)
    peer.shake_hands()
    return peer


def test_connection_begins_after_the_handshake_and_data_goes_both_ways(peer: Peer) -> None:
    """
    A record may arrive in any pieces.
    """
    assert peer.connection.calls == ["made"]
    for byte in peer.encrypt(b"a request"):
        peer.send_encrypted(bytes([byte]))
    assert peer.connection.received == b"a request"
    peer.transport.write(b"a response")
    peer.take()
    assert peer.tls.read(100) == b"a response"


def test_input_beyond_the_budget_waits_for_later_turns(peer: Peer) -> None:
    """
    When the time of an iteration is used up, the rest is decrypted in later iterations.
    """
    sent = b"x" * MAX_DECRYPTED_BYTES * 10
    records = b"".join(peer.encrypt(sent[i : i + 100]) for i in range(0, len(sent), 100))
    peer.worker.cost = MAX_SECONDS_PER_ITERATION
    peer.send_encrypted(records)
    first = len(peer.connection.received)
    assert 0 < first < 2 * MAX_DECRYPTED_BYTES
    # So the memory is bounded, and the client has to wait.
    assert not peer.raw.is_reading()
    peer.worker.turn()
    assert first < len(peer.connection.received) < len(sent)
    for _ in range(40):
        peer.worker.turn()
    assert peer.connection.received == sent
    assert peer.raw.is_reading()


def test_new_input_goes_before_the_rest_of_a_flood(worker: Worker) -> None:
    """
    However many connections flood the worker, a client with new input is next.
    """
    floods = [Peer(worker) for _ in range(20)]
    honest = Peer(worker)
    for peer in (*floods, honest):
        peer.shake_hands()
    worker.turn()
    worker.cost = MAX_SECONDS_PER_ITERATION
    for flood in floods:
        flood.send_encrypted(b"".join(flood.encrypt(b"x") for _ in range(500)))
    for _ in range(25):
        worker.turn()
    assert not all(len(flood.connection.received) == 500 for flood in floods)
    honest.send_encrypted(honest.encrypt(b"a request"))
    worker.turn()
    assert honest.connection.received == b"a request"
    for _ in range(1000):
        worker.turn()
    assert [flood.connection.received for flood in floods] == [b"x" * 500] * 20


def test_no_client_waits_behind_all_handshakes_of_another(worker: Worker) -> None:
    """
    Clients take turns with the first part of their input, and none is forgotten.
    """
    worker.cost = MAX_SECONDS_PER_ITERATION
    flood = [Peer(worker) for _ in range(50)]
    honest = Peer(worker, "192.0.2.2")
    for peer in (*flood, honest):
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        peer.send_encrypted(peer._out.read())
    for _ in range(3):
        worker.turn()
    assert honest.raw.value()
    assert sum(bool(peer.raw.value()) for peer in flood) < 10
    for _ in range(50):
        worker.turn()
    assert all(peer.raw.value() or peer._in.pending for peer in flood)


def test_client_that_sends_no_data_is_cut_off(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Records without data are counted, and the connection ends when there are too many.
    """
    monkeypatch.setattr(tls_transport, "MAX_BYTES_WITHOUT_DATA", 4000)
    peer.send_encrypted(peer.encrypt(b"x" * 3000))
    peer.send_encrypted(peer.encrypt(b"x" * 3000))
    assert not peer.raw.aborted
    # A record is data when all of it has arrived.
    peer.send_encrypted(peer.encrypt(b"x" * 10_000)[:9000])
    assert peer.raw.aborted
    assert peer.worker.closed == {"flooding": 1}


def test_paused_connection_receives_nothing_until_it_reads_again(peer: Peer) -> None:
    """
    Records that arrived together with the last one are passed on later.
    """
    peer.connection.react = lambda _: peer.transport.pause_reading()
    peer.send_encrypted(peer.encrypt(b"one ") + peer.encrypt(b"two ") + peer.encrypt(b"3"))
    assert (peer.connection.received, peer.raw.is_reading()) == (b"one ", False)
    for expected in (b"one two ", b"one two 3"):
        peer.transport.resume_reading()
        assert peer.connection.received != expected
        peer.worker.turn()
        assert peer.connection.received == expected
    peer.connection.react = lambda _: None
    peer.transport.resume_reading()
    peer.worker.turn()
    assert peer.raw.is_reading()


def test_close_sends_close_notify_to_the_client(peer: Peer) -> None:
    """
    So the client knows that nothing was cut off.
    """
    peer.transport.write(b"the end")
    peer.transport.close()
    assert peer.raw.is_closing()
    peer.take()
    assert peer.tls.read(100) == b"the end"
    assert peer.tls.read(100) == b""


def test_input_behind_the_end_of_output_is_dropped(peer: Peer) -> None:
    """
    After a refusal, the rest of the client's input is not decrypted.
    """
    peer.transport.write_eof()
    assert (peer.raw.half_closed, peer.raw.is_closing()) == (True, False)
    peer.send_encrypted(peer.encrypt(b"more"))
    assert (peer.connection.received, peer.raw.is_reading()) == (b"", True)


def test_half_close_reaches_the_connection_behind_its_data(peer: Peer) -> None:
    """
    The connection learns of it once, and may still send a response.
    """
    records = peer.encrypt(b"a request")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.worker.cost = MAX_SECONDS_PER_ITERATION
    peer.send_encrypted(records)
    peer.send_encrypted(peer._out.read())
    assert peer.transport.eof_received()
    for _ in range(10):
        peer.worker.turn()
    assert peer.connection.received == b"a request"
    assert peer.connection.calls == ["made", "eof"]
    peer.transport.write(b"a response")
    assert peer.raw.value()


def test_changed_record_ends_the_connection(peer: Peer) -> None:
    """
    Nothing of a record that was changed reaches the connection.
    """
    records = bytearray(peer.encrypt(b"a request"))
    records[-1] ^= 1
    peer.send_encrypted(bytes(records))
    assert (peer.connection.received, peer.raw.is_closing()) == (b"", True)
    # An alert says why.
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        peer.tls.read(100)


def test_client_that_leaves_in_the_handshake_is_released(worker: Worker) -> None:
    """
    The connection has not begun, but learns of the end.
    """
    peer = Peer(worker)
    peer.transport.eof_received()
    assert peer.raw.aborted
    peer.transport.connection_lost(None)
    assert peer.connection.calls == ["lost"]


def test_connection_that_is_closed_before_it_has_a_socket_is_aborted(
    worker: Worker,
) -> None:
    """
    A connection may have to make room for another one as soon as it is accepted.
    """
    transport = worker.transport(Recorder(), "192.0.2.1")
    transport.abort()
    raw = Transport()
    transport.connection_made(raw)
    assert raw.aborted
