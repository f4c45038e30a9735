"""
Three members of etcd and several nodes, which fail or lose connections under load.

The clients make requests to all nodes and record the responses.  L{cluster_faults} causes
faults that a client notices only if it waits for a response.  L{cluster_restores} restores
a snapshot of etcd or removes all its data, which every node must report.  L{cluster_users}
changes the users of an etcd with TLS and JWT.

C{python -m tests.labs.cluster.lab [ROUNDS]} is the long form, with five nodes, one of them
far from etcd; the tests run one round with three nodes.
"""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from pathlib import Path

from attrs import define, evolve

from pexservice.core.cursor import Transition
from pexservice.process.exit_status import Status
from pexservice.stores.etcd.records import base64_text, decode_key_use, end_of
from tests.labs.histories.lab import (
    Figures,
    RecordingClient,
    check_records,
    journal_of,
)
from tests.support.commands import run_command
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, poll_attempts, wait_until
from tests.support.etcd import (
    Member,
    cluster,
    emptied,
    restore_snapshot,
    save_snapshot,
    without_space,
)
from tests.support.etcd_users import TlsFiles, as_root, enable_users
from tests.support.evidence import record
from tests.support.linearizability import Record, require_linearizable
from tests.support.ports import held_ports
from tests.support.tcp_server import serving_connections


class Disturbance(Enum):
    """
    The ways in which a proxy disturbs its connections.
    """

    #: Pass all bytes on.
    NONE = auto()
    #: Pass all bytes on after a delay.
    SLOW = auto()
    #: Receive bytes, and discard them.
    BLACK_HOLE = auto()
    #: Pass requests on, and discard the responses.
    NO_RESPONSES = auto()
    #: Close the sending half towards the server, and discard the responses.
    HALF_CLOSED = auto()
    #: Close all connections, and accept no other.
    CUT = auto()


#: The connection to the client, and the connection to the server.
Pair = tuple[socket.socket, socket.socket]

#: How long a slow proxy delays each chunk of bytes.
DELAY_SECONDS = 0.2


class Proxy:
    """
    A proxy for one port; see L{proxy_of}.

    @ivar port: the port on which it listens.
    """

    port: int

    def __init__(self, target_port: int, delay_seconds: float) -> None:
        """
        @param delay_seconds: how long a slow proxy delays each chunk of bytes.
        """
        self._target_port, self._delay_seconds = target_port, delay_seconds
        self._disturbance = Disturbance.NONE
        self._pairs: set[Pair] = set()
        self._lock = threading.Lock()

    @contextmanager
    def disturbed(self, disturbance: Disturbance) -> Iterator[None]:
        """
        Disturb the connections until the end of the block.
        """
        self._disturbance = disturbance
        if disturbance is Disturbance.CUT:
            self.shut_down_all()
        if disturbance is Disturbance.HALF_CLOSED:
            for _, server in self._open_pairs():
                with suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
        try:
            yield
        finally:
            self._disturbance = Disturbance.NONE
            # The bytes that these connections have lost are gone.
            if disturbance is not Disturbance.SLOW:
                self.shut_down_all()

    def _open_pairs(self) -> list[Pair]:
        with self._lock:
            return list(self._pairs)

    def shut_down_all(self) -> None:
        for pair in self._open_pairs():
            self._shut_down(pair)

    def _shut_down(self, pair: Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(self, client: socket.socket) -> None:
        """
        Connect C{client} to the target port until one of both closes the connection.
        """
        if self._disturbance is Disturbance.CUT:
            return
        with socket.create_connection(("127.0.0.1", self._target_port), 5) as server:
            pair = (client, server)
            for end in pair:
                end.settimeout(None)
            with self._lock:
                self._pairs.add(pair)
            responses = threading.Thread(
                target=self._pump, args=(pair,), kwargs={"responses": True}, daemon=True
            )
            responses.start()
            self._pump(pair, responses=False)
            responses.join()

    def _pump(self, pair: Pair, *, responses: bool) -> None:
        source, destination = reversed(pair) if responses else pair
        discarding = {Disturbance.BLACK_HOLE}
        if responses:
            discarding |= {Disturbance.NO_RESPONSES, Disturbance.HALF_CLOSED}
        with suppress(OSError):
            while chunk := source.recv(65536):
                disturbance = self._disturbance
                if disturbance is Disturbance.SLOW:
                    time.sleep(self._delay_seconds)
                if disturbance not in discarding:
                    destination.sendall(chunk)
        self._shut_down(pair)


@contextmanager
def proxy_of(url: str, slow_seconds: float | None = None) -> Iterator[Proxy]:
    """
    Run a proxy for the port in C{url} until the end of the block.

    @param slow_seconds: if it is given, the proxy delays each chunk of bytes for so long.
    """
    proxy = Proxy(int(url.rpartition(":")[2]), slow_seconds or DELAY_SECONDS)
    disturbance = Disturbance.SLOW if slow_seconds else Disturbance.NONE
    with serving_connections(proxy.serve) as proxy.port:
        try:
            with proxy.disturbed(disturbance):
                yield proxy
        finally:
            proxy.shut_down_all()


CLIENTS = 24

#: How long each fault lasts, and how many responses each node sends between two faults.
FAULT_SECONDS = 1.5
MIN_RESPONSES = 30

#: How often the users of etcd are changed in the short form, and in the long form.
USER_CHANGES = 2
MANY_USER_CHANGES = 8

#: The delay of messages between the far node and etcd, in each direction.
FAR_DELAY_SECONDS = 0.025

#: After the death of etcd's leader, a step gets its response within this time, in the long
#: form.
MAX_RECOVERY_SECONDS = 3.0


@define(eq=False)
class ClusterSetup:
    """
    The members of etcd, the proxies, the nodes and the clients of one run.

    @ivar daemons: the nodes.
    @ivar far_proxies: the slow proxies of the last node, if it is far from etcd.
    @ivar tls: the certificates of the nodes, if etcd has users.
    @ivar start_count: how often the clients were started.
    """

    path: Path
    members: Sequence[Member]
    proxies: Sequence[Proxy]
    daemons: list[Daemon]
    ports: Sequence[int]
    far_proxies: Sequence[Proxy] = ()
    tls: TlsFiles | None = None
    clients: Sequence[RecordingClient] = ()
    start_count: int = 0

    def start_clients(self) -> None:
        """
        Start the clients; they try different nodes first.
        """
        ports = self.ports
        self.start_count += 1
        self.clients = [
            RecordingClient(
                *(n, ports[n % len(ports)]),
                fresh=n % 4 == 0,
                ports=ports,
                prefix=f"{self.start_count}-",
            )
            for n in range(CLIENTS)
        ]
        for client in self.clients:
            client.start()

    def stop_clients(self) -> list[Record]:
        """
        Stop the clients, and return their records.
        """
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join(TIMEOUT_SECONDS)
            assert client.surprises == [], client.surprises
        return [record for client in self.clients for record in client.records]

    def journal(self) -> Sequence[Transition]:
        """
        Return all steps, and check that every node is at the last one.
        """
        journal = journal_of(self.daemons[0])
        for daemon in self.daemons:
            response, _ = daemon.request("/current")
            assert response.headers["Pex-Revision"] == str(len(journal))
        return journal

    def start_daemon(self, number: int) -> Daemon:
        """
        Start a node; each one tries another member of etcd first.
        """
        proxies = self.proxies
        if self.far_proxies and number == len(self.ports) - 1:
            proxies = self.far_proxies
        order = [proxies[(number + turn) % 3].port for turn in range(3)]
        path = self.path / f"d{number}"
        path.mkdir(exist_ok=True)
        scheme = "http" if self.tls is None else "https"
        urls = ",".join(f"{scheme}://127.0.0.1:{port}" for port in order)
        store = f"etcd:{urls}" if self.tls is None else self.tls.store(urls, "plain", "pex")
        return Daemon(
            path,
            *("--store", store),
            *("--listen", f"tcp:{self.ports[number]}:interface=127.0.0.1"),
            *("--journal", "100000000"),
            command="pexservice-worker",
        )

    def find_member(self, *, leader: bool = True) -> int:
        """
        Return the number of the member that is the leader, or of one that is not.
        """
        for _ in poll_attempts():
            leads = [member.leads() for member in self.members]
            if any(leads):
                return leads.index(leader)
        raise AssertionError("there is no leader")

    def wait_for_traffic(self) -> None:
        """
        Wait until each node has sent L{MIN_RESPONSES} more responses.
        """
        before = [*map(self._response_count, self.ports)]
        for _ in poll_attempts():
            now = [*map(self._response_count, self.ports)]
            if all(b - a >= MIN_RESPONSES for a, b in zip(before, now, strict=True)):
                return
            for client in self.clients:
                assert client.is_alive()
        raise AssertionError(f"after {before} answers only {now}")

    def _response_count(self, port: int) -> int:
        return sum(client.response_counts.get(port, 0) for client in self.clients)

    def seconds_until_next_step(self, moment: float) -> float:
        """
        Return how long after C{moment} the first step arrived that began after C{moment}.
        """
        for _ in poll_attempts():
            for client in self.clients:
                for last in reversed(client.records[-5:]):
                    if last.operation and last.seen and last.called > moment:
                        return last.returned - moment
        raise AssertionError("no step gets a response")


Fault = Callable[[ClusterSetup, int], AbstractContextManager[None]]


@contextmanager
def killed(setup: ClusterSetup, number: int) -> Iterator[None]:
    """
    Kill a member of etcd by SIGKILL, and start it again.
    """
    setup.members[number].kill()
    yield
    setup.members[number].start()


@contextmanager
def paused(setup: ClusterSetup, number: int) -> Iterator[None]:
    """
    Stop a member of etcd by SIGSTOP, and continue it.
    """
    setup.members[number].signal(signal.SIGSTOP)
    yield
    setup.members[number].signal(signal.SIGCONT)


@contextmanager
def without_quorum(setup: ClusterSetup, number: int) -> Iterator[None]:
    """
    Stop two members of etcd, for longer than the timeout of a node.

    Each node must be alive, but not ready.
    """
    with paused(setup, number), paused(setup, (number + 1) % 3):
        for daemon in setup.daemons:
            wait_until(partial(_is_not_ready, daemon), "not ready without a quorum")
            assert daemon.request("/livez")[0].status == HTTPStatus.OK
        yield


@contextmanager
def node_killed(setup: ClusterSetup, number: int) -> Iterator[None]:
    """
    Kill a node by SIGKILL, and start it again.
    """
    setup.daemons[number].kill()
    yield
    setup.daemons[number] = setup.start_daemon(number)


def _is_not_ready(daemon: Daemon) -> bool:
    return daemon.request("/readyz")[0].status == HTTPStatus.SERVICE_UNAVAILABLE


@contextmanager
def full(setup: ClusterSetup, number: int) -> Iterator[None]:
    """
    Make etcd refuse all writes.

    Each node must report the reason, be not ready, and respond to reads.
    """
    with without_space(setup.members[number]):
        for daemon in setup.daemons:
            wait_until(partial(_is_not_ready, daemon), "not ready")
            assert b"space exceeded" in daemon.request("/readyz")[1]
            assert daemon.request("/current")[0].status == HTTPStatus.OK
        yield


def disturbed_connections(disturbance: Disturbance) -> Fault:
    """
    Return a fault that disturbs the connections to one member of etcd.
    """
    return lambda setup, number: setup.proxies[number].disturbed(disturbance)


#: The faults.  Each one is caused at the leader, and some at a follower too.
FAULTS: dict[str, Fault] = {
    "killed": killed,
    "paused": paused,
    "without_quorum": without_quorum,
    "node_killed": node_killed,
    "full": full,
    **{
        disturbance.name.lower(): disturbed_connections(disturbance)
        for disturbance in Disturbance
        if disturbance is not Disturbance.NONE
    },
}


@contextmanager
def running_cluster(
    path: Path, nodes: int, *, one_far: bool = False, tls: TlsFiles | None = None
) -> Iterator[ClusterSetup]:
    """
    Start three members of etcd, C{nodes} nodes and the clients.

    @param one_far: whether the last node is far from etcd.
    @param tls: makes etcd require certificates, users and passwords.
    """
    with ExitStack() as stack:
        options, context = ([], None) if tls is None else (tls.options(), tls.context())
        members = stack.enter_context(cluster(path, 3, *options, context=context))
        if tls is not None:
            enable_users(members[0])
        proxies = [stack.enter_context(proxy_of(member.url)) for member in members]
        ports = stack.enter_context(held_ports(nodes))
        setup = ClusterSetup(path, members, proxies, [], ports, tls=tls)
        if one_far:
            setup.far_proxies = [
                stack.enter_context(proxy_of(member.url, FAR_DELAY_SECONDS))
                for member in members
            ]
        try:
            for number in range(nodes):
                setup.daemons.append(setup.start_daemon(number))
            setup.start_clients()
            yield setup
        finally:
            setup.stop_clients()
            for daemon in setup.daemons:
                if daemon.process.poll() is None:
                    daemon.stop()


def cluster_faults(
    path: Path,
    rounds: int,
    *,
    followers: Container[str],
    nodes: int = 3,
    one_far: bool = False,
) -> tuple[Figures, int, list[float]]:
    """
    Cause faults in a cluster, and check the records of the clients.

    @param rounds: how often each of L{FAULTS} is caused at the leader.
    @param followers: the names of the faults that are caused at a follower too.
    @param nodes: the number of nodes.
    @param one_far: whether the last node is far from etcd.
    @return: the figures; the number of faults; after each death of a leader, how many
        seconds it took until a new step got its response.
    @raise AssertionError: the records are not linearizable.
    """
    recovery: list[float] = []
    faults_made = 0
    with running_cluster(path, nodes, one_far=one_far) as setup:
        setup.wait_for_traffic()
        for _ in range(rounds):
            for kind, fault in FAULTS.items():
                for leader in (True, False) if kind in followers else (True,):
                    number = setup.find_member(leader=leader)
                    began = time.monotonic()
                    with fault(setup, number):
                        if kind == "killed" and leader:
                            recovery.append(setup.seconds_until_next_step(began))
                        time.sleep(FAULT_SECONDS)
                    faults_made += 1
                    setup.wait_for_traffic()
        setup.stop_clients()
        journal = setup.journal()
        _check_keys(setup)
    return check_records(setup.clients, journal), faults_made, recovery


class Restore(Enum):
    """
    The ways in which etcd loses its newest data.  The value is added to etcd's revision.
    """

    PLAIN = 0
    BUMPED = 1_000_000
    #: Remove all data.
    EMPTIED = -1


def cluster_restores(path: Path, ways: Sequence[Restore]) -> int:
    """
    Restore etcd under load; check that each node reports it and continues from there.

    The responses to steps after the snapshot belong to a lost history.  All other responses
    must agree with the history that continues.

    @return: how many operations there were.
    @raise AssertionError: a node did not report the loss, or the records are not
        linearizable.
    """
    operations = 0
    # The records that belong to the history that etcd has now.
    records: list[Record] = []
    with running_cluster(path, 3) as setup:
        for number, way in enumerate(ways, 1):
            setup.wait_for_traffic()
            records += setup.stop_clients()
            kept = setup.journal()
            require_linearizable(records, kept)
            file = path / f"snapshot-{number}"
            save_snapshot(setup.members[0], file)
            setup.start_clients()
            setup.wait_for_traffic()
            began = _go_back(setup, way, file)
            revision = 0 if way is Restore.EMPTIED else len(kept)
            for daemon in setup.daemons[way is Restore.EMPTIED :]:
                _wait_for_lines(daemon, "the cursor went back", number)
            setup.wait_for_traffic()
            records += setup.stop_clients()
            operations += len(records)
            records = [
                record
                # On a busy machine, a client may read a response from before the restore
                # late.
                if record.called > began or _is_of_kept_history(record, revision)
                else evolve(record, seen=None)
                for record in records
                if record.returned > began or _is_of_kept_history(record, revision)
            ]
            require_linearizable(records, setup.journal())
            setup.start_clients()
    return operations


def cluster_users(path: Path, changes: int) -> int:
    """
    Change the users of etcd under load, so that the tokens of all nodes become invalid.

    Before every second change, the leader is killed.  At the end, etcd must refuse a
    certificate with a CN as long as it has users, and accept it without users.

    @return: how many operations there were.
    @raise AssertionError: the records are not linearizable.
    """
    tls = TlsFiles.make(path)
    with running_cluster(path, 3, tls=tls) as setup:
        setup.wait_for_traffic()
        for number in range(changes):
            with killed(setup, setup.find_member()) if number % 2 else nullcontext():
                survivor = setup.members[setup.find_member()]
                as_root(survivor, "user/add", {"name": f"u{number}", "password": "p"})
                setup.wait_for_traffic()
            setup.wait_for_traffic()
        records = setup.stop_clients()
        require_linearizable(records, setup.journal())
        member = setup.members[setup.find_member()]
        store = tls.store(member.url, "named", "pex")
        check = (sys.executable, "-m", "pexservice", "check", "--store", store)
        output = run_command(*check, status=Status.MISCONFIGURED)
        assert "CommonName of client sending a request" in output
        as_root(member, "disable", {})
        with Daemon(path, "--store", tls.store(member.url, "named")) as daemon:
            assert daemon.request("/next", "POST")[0].status == HTTPStatus.OK
    return len(records)


def _is_of_kept_history(record: Record, revision: int) -> bool:
    """
    Return whether a response, if there is one, belongs to the history up to C{revision}.
    """
    return record.seen is None or record.seen[0] <= revision


def _go_back(setup: ClusterSetup, way: Restore, file: Path) -> float:
    """
    Make etcd lose its newest data in the way C{way}.

    @return: a moment between the last response of the old etcd and the first one of the
        new.
    """
    moments: list[float] = []

    def stopped() -> None:
        # By then, the responses of the old etcd have reached the clients.
        for daemon in setup.daemons:
            wait_until(partial(_is_not_ready, daemon), "not ready")
        moments.append(time.monotonic())

    if way is not Restore.EMPTIED:
        restore_snapshot(setup.members, file, way.value, stopped=stopped)
        return moments[0]
    with emptied(setup.members):
        stopped()
    # A running node creates no cursor, but a node that starts does.
    for daemon in setup.daemons:
        _wait_for_lines(daemon, "etcd has lost the key", 1)
    with node_killed(setup, 0):
        pass
    return moments[0]


def _wait_for_lines(daemon: Daemon, words: str, count: int) -> None:
    wait_until(lambda: daemon.log.read_text().count(words) >= count, words)


def _check_keys(setup: ClusterSetup) -> None:
    """
    Check that etcd has each key of a response, with the revision of that response.
    """
    prefix = b"pexservice/keys/"
    keys = {"key": base64_text(prefix), "range_end": base64_text(end_of(prefix))}
    response = setup.members[0].ask("/v3/kv/range", keys)
    kept = {
        b64decode(pair["key"]).removeprefix(prefix).decode(): decode_key_use(pair).revision
        for pair in response["kvs"]
    }
    acknowledged = {
        key: revision for client in setup.clients for key, revision in client.keys.items()
    }
    assert acknowledged
    assert {key: kept.get(key) for key in acknowledged} == acknowledged
    # No two keys have the same step.
    assert len(set(kept.values())) == len(kept)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as path:
        figures, faults_made, recovery = cluster_faults(
            Path(path), rounds, followers=FAULTS, nodes=5, one_far=True
        )
    print(figures, recovery)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as path:
            operations = cluster_restores(Path(path), [*Restore])
        print(operations, "operations,", len(Restore), "restores reported", flush=True)
        with tempfile.TemporaryDirectory() as path:
            operations = cluster_users(Path(path), MANY_USER_CHANGES)
        print(operations, "operations,", MANY_USER_CHANGES, "changes of users", flush=True)
    assert max(recovery) < MAX_RECOVERY_SECONDS
    record(
        "cluster",
        promise="Many nodes are one cursor: under faults of etcd and of the network,"
        " each step is made once, and all nodes see each acknowledged step.",
        size=figures.operations,
        unit="operations",
        result=f"{CLIENTS} clients of five nodes, one of them 50 ms away,"
        f" {faults_made} faults (killed"
        " or stopped members, no quorum, no space, connections cut, delayed, silent or"
        " half closed),"
        f" {figures.unknown:,} outcomes unknown, {figures.replayed:,} steps"
        f" replayed: the record is linearizable; a step after the leader's death took"
        f" at most {max(recovery):.2f} s",
        command="make cluster-faults",
    )


if __name__ == "__main__":
    main()
