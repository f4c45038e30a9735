"""
Three etcd and several daemons, which fail and lose their connections under clients.

The clients ask all of the daemons and write down the answers.  L{cluster_faults} has faults
that only clients in the middle of a request may notice; L{cluster_restores} goes
back to a snapshot, or to nothing, which every daemon must report; L{cluster_users} changes
the users of an etcd with TLS and JWT.

C{python -m tests.labs.cluster.lab [ROUNDS]} is the long form, with five daemons, one of
them far from etcd; the tests run one round.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import Enum
from functools import partial
from http import HTTPStatus
from pathlib import Path

from attrs import Factory, define, evolve, frozen

from pexservice.core.cursor import Transition
from pexservice.process.exit_status import Status
from pexservice.stores.etcd.records import decode_key_use
from tests.labs.cluster.proxy import Mood, Proxy
from tests.labs.histories.lab import RecordingClient, journal_of
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, poll_attempts, wait_until
from tests.support.etcd import (
    Member,
    cluster,
    emptied,
    restore_snapshot,
    save_snapshot,
)
from tests.support.etcd_users import TlsFiles, as_root, enable_users
from tests.support.evidence import Evidence, record
from tests.support.linearizability import Record, faults
from tests.support.ports import held_ports

CLIENTS = 24

#: How long each fault lasts, and how much traffic there is before the next one, on
#: each node.  Seconds, answers.
LASTS = 1.5
TRAFFIC = 30

#: How often etcd's users are changed, in the short form.
CHANGES = 4

#: How late the messages of a daemon that is far from etcd are, in each direction.  Seconds.
FAR = 0.025

#: How long the service may take to respond after the leader's death, in the long form.
#: Seconds.
RECOVERY = 3.0

_WORDS = ["current", *(transition.word for transition in Transition)]


@define(eq=False)
class Caller(RecordingClient):
    """
    A client that writes down its requests and the answers to them.

    It repeats a request with a key until the request is answered, at the next node each
    time.

    @ivar ports: the ports of the nodes.
    @ivar prefix: what its keys begin with.
    @ivar step_times: of each answered step, when it was begun and when it was answered.
    @ivar keys: by key, the revision in the client's response.
    @ivar answers: by port, how many answers there were.
    """

    ports: Sequence[int] = ()
    prefix: str = ""
    keys: dict[str, int] = Factory(dict)
    answers: dict[int, int] = Factory(dict)
    step_times: list[tuple[float, float]] = Factory(list)
    unready: int = 0

    def run(self) -> None:
        """
        Ask until told to stop.
        """
        choose = random.Random(self.number)  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set():
            count += 1
            if choose.random() < 1 / 30:
                # Clients that left a node that failed come back.
                self._close()
                self.port = choose.choice(self.ports)
            word = choose.choices(_WORDS, [30, 50, 19, 1])[0]
            if word == "current":
                self._ask(None, "GET /current HTTP/1.1\r\nHost: localhost\r\n\r\n", None)
                continue
            key = f"{self.prefix}{self.number}-{count}" if self.number % 2 else None
            header = "" if key is None else f"Idempotency-Key: {key}\r\n"
            # Every fourth step is for the revision that was seen last only, also among
            # the steps that have a key and are repeated.
            if choose.random() < 1 / 4:
                header += f'If-Match: "{self.last}"\r\n'
            sent = f"POST /{word} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
            self._ask(Transition[word.upper()], sent, key)
        self._close()

    def _ask(self, operation: Transition | None, sent: str, key: str | None) -> None:
        called, refused = time.monotonic(), False
        while not self.stopping.is_set():
            refused = False
            try:
                answer = self._exchange(sent.encode())
            except OSError:
                self.broken += 1
                self._elsewhere()
            else:
                if not answer.startswith(b"HTTP/1.1 503 "):
                    self._note_answer(operation, called, answer, key)
                    return
                refused = b"nothing was moved" in answer
                self.unready += 1
                self._elsewhere()
            if key is None:
                break
        self.records.append(
            Record(client=self.number, operation=operation, called=called, refused=refused)
        )

    def _elsewhere(self) -> None:
        self._close()
        self.port = self.ports[(self.ports.index(self.port) + 1) % len(self.ports)]
        # A client that is refused at once must not ask a thousand times a second.
        time.sleep(0.02)

    def _note_answer(
        self, operation: Transition | None, called: float, answer: bytes, key: str | None
    ) -> None:
        status = self.write_down(operation, called, answer)
        self.answers[self.port] = self.answers.get(self.port, 0) + 1
        if status == HTTPStatus.OK and key is not None:
            self.keys[key] = self.last
        if status == HTTPStatus.OK and operation is not None:
            self.step_times.append((called, self.records[-1].returned))


@define(eq=False)
class Laboratory:
    """
    The etcd members, proxies, daemons and clients that run.

    @ivar far: the proxies of the last daemon, if it is far from etcd.
    @ivar tls: the certificates that the daemons show, if etcd has users.
    @ivar started: how often the clients were started.
    """

    path: Path
    members: Sequence[Member]
    proxies: Sequence[Proxy]
    daemons: list[Daemon]
    ports: Sequence[int]
    far: Sequence[Proxy] = ()
    tls: TlsFiles | None = None
    callers: Sequence[Caller] = ()
    started: int = 0

    def start_callers(self) -> None:
        """
        Start the clients, each with a daemon first.
        """
        ports = self.ports
        self.started += 1
        self.callers = [
            Caller(
                *(n, ports[n % len(ports)]),
                fresh=n % 4 == 0,
                ports=ports,
                prefix=f"{self.started}-",
            )
            for n in range(CLIENTS)
        ]
        for caller in self.callers:
            caller.start()

    def stop_callers(self) -> list[Record]:
        """
        Stop the clients, and return what they have recorded.
        """
        for caller in self.callers:
            caller.stopping.set()
        for caller in self.callers:
            caller.join(TIMEOUT_SECONDS)
            assert caller.surprises == [], caller.surprises
        return [record for caller in self.callers for record in caller.records]

    def journal(self) -> Sequence[Transition]:
        """
        Return the steps that were made, and check that all daemons are at their end.
        """
        journal = journal_of(self.daemons[0])
        for daemon in self.daemons:
            response, _ = daemon.request("/current")
            assert response.headers["Pex-Revision"] == str(len(journal))
        return journal

    def start_daemon(self, number: int) -> Daemon:
        """
        Start one of our daemons, each with another etcd first.
        """
        proxies = self.proxies
        if self.far and number == len(self.ports) - 1:
            proxies = self.far
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

    def led(self, *, by: bool = True) -> int:
        """
        Return the number of the etcd member that leads, or of one that does not.

        @param by: whether the leader is wanted.
        """
        for _ in poll_attempts():
            leads = [member.leads() for member in self.members]
            if any(leads):
                return leads.index(by)
        raise AssertionError("there is no leader")

    def traffic(self) -> None:
        """
        Wait until each node has given L{TRAFFIC} more answers.
        """
        before = [*map(self._answers, self.ports)]
        for _ in poll_attempts():
            now = [*map(self._answers, self.ports)]
            if all(b - a >= TRAFFIC for a, b in zip(before, now, strict=True)):
                return
            for caller in self.callers:
                assert caller.is_alive()
        raise AssertionError(f"after {before} answers only {now}")

    def _answers(self, port: int) -> int:
        return sum(caller.answers.get(port, 0) for caller in self.callers)

    def first_since(self, moment: float) -> float:
        """
        Return how long it took until a step asked for since C{moment} was answered.
        """
        for _ in poll_attempts():
            for caller in self.callers:
                for called, returned in reversed(caller.step_times[-5:]):
                    if called > moment:
                        return returned - moment
        raise AssertionError("nothing goes on")


Fault = Callable[[Laboratory, int], AbstractContextManager[None]]


@contextmanager
def killed(laboratory: Laboratory, number: int) -> Iterator[None]:
    """
    Kill a member by SIGKILL, and start it again.
    """
    laboratory.members[number].kill()
    yield
    laboratory.members[number].start()


@contextmanager
def paused(laboratory: Laboratory, number: int) -> Iterator[None]:
    """
    Stop a member by SIGSTOP for a while.
    """
    laboratory.members[number].signal(signal.SIGSTOP)
    yield
    laboratory.members[number].signal(signal.SIGCONT)


@contextmanager
def without_quorum(laboratory: Laboratory, number: int) -> Iterator[None]:
    """
    Stop two members, for longer than a node waits.

    Each node says so, lives, and takes nothing.
    """
    with paused(laboratory, number), paused(laboratory, (number + 1) % 3):
        for daemon in laboratory.daemons:
            wait_until(partial(_is_not_ready, daemon), "not ready without a quorum")
            assert daemon.request("/livez")[0].status == HTTPStatus.OK
        yield


@contextmanager
def node_killed(laboratory: Laboratory, number: int) -> Iterator[None]:
    """
    Kill one of our daemons by SIGKILL, and start it again.
    """
    laboratory.daemons[number].kill()
    yield
    laboratory.daemons[number] = laboratory.start_daemon(number)


def _is_not_ready(daemon: Daemon) -> bool:
    return daemon.request("/readyz")[0].status == HTTPStatus.SERVICE_UNAVAILABLE


@contextmanager
def without_space(laboratory: Laboratory, number: int) -> Iterator[None]:
    """
    Have etcd refuse all writes.

    Each node says so, is not ready, and answers reads.
    """
    member = laboratory.members[number]
    alarm = {"alarm": "NOSPACE", "memberID": 0}
    member.ask("/v3/maintenance/alarm", {"action": "ACTIVATE", **alarm})
    for daemon in laboratory.daemons:
        wait_until(partial(_is_not_ready, daemon), "not ready")
        assert b"space exceeded" in daemon.request("/readyz")[1]
        assert daemon.request("/current")[0].status == HTTPStatus.OK
    yield
    for alarmed in member.ask("/v3/maintenance/alarm", {"action": "GET"})["alarms"]:
        member.ask("/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarmed})


def moody(mood: Mood) -> Fault:
    """
    Return a fault that has a member's connections suffer C{mood}.
    """
    return lambda laboratory, number: laboratory.proxies[number].being(mood)


#: The faults, each for the leader and for a member that does not lead.
FAULTS: dict[str, Fault] = {
    "killed": killed,
    "paused": paused,
    "without_quorum": without_quorum,
    "node_killed": node_killed,
    "without_space": without_space,
    **{mood.name.lower(): moody(mood) for mood in Mood if mood is not Mood.FAIR},
}


@frozen
class Result:
    """
    The figures of a run.

    @ivar unknown: operations with an unknown outcome.
    @ivar replayed: steps that had been made when they were repeated.
    @ivar unready: answers 503.
    @ivar recovery: after each death of a leader, seconds to the first answer to a step that
        was asked for since.
    """

    faults: int
    operations: int
    looks: int
    unknown: int
    replayed: int
    unready: int
    recovery: tuple[float, ...]


def _stop(lab: Laboratory, number: int) -> None:
    daemon = lab.daemons[number]
    if daemon.process.poll() is None:
        daemon.stop()


@contextmanager
def laboratory(
    path: Path, nodes: int, *, distant: bool = False, tls: TlsFiles | None = None
) -> Iterator[Laboratory]:
    """
    Provide three etcd, C{nodes} daemons and twenty-four clients.

    @param distant: whether the last daemon is far from etcd.
    @param tls: makes etcd ask for certificates, users and passwords.
    """
    with ExitStack() as stack:
        options, context = ([], None) if tls is None else (tls.options(), tls.context())
        members = stack.enter_context(cluster(path, 3, *options, context=context))
        if tls is not None:
            enable_users(members[0])
        proxies = [Proxy(int(member.url.rpartition(":")[2])) for member in members]
        for proxy in proxies:
            stack.callback(proxy.close)
        ports = stack.enter_context(held_ports(nodes))
        lab = Laboratory(path, members, proxies, [], ports, tls=tls)
        if distant:
            lab.far = [Proxy(int(member.url.rpartition(":")[2]), FAR) for member in members]
            for proxy in lab.far:
                stack.callback(proxy.close)
                stack.enter_context(proxy.being(Mood.SLOW))
        for number in range(nodes):
            lab.daemons.append(lab.start_daemon(number))
            # By its number, for another daemon may be in its place then.
            stack.callback(_stop, lab, number)
        lab.start_callers()
        try:
            yield lab
        finally:
            lab.stop_callers()


def cluster_faults(
    path: Path,
    rounds: int,
    *,
    followers: Container[str],
    nodes: int = 3,
    distant: bool = False,
) -> Result:
    """
    Disturb a cluster, and check the responses of its clients.

    @param rounds: how often each of L{FAULTS} befalls the leader.
    @param followers: the faults that befall a member that does not lead, too.
    @param nodes: how many daemons there are.
    @param distant: whether the last of them is far from etcd.
    @raise AssertionError: no single cursor can have told all this.
    """
    recovery: list[float] = []
    faults_made = 0
    with laboratory(path, nodes, distant=distant) as lab:
        lab.traffic()
        for _ in range(rounds):
            for kind, fault in FAULTS.items():
                for leader in (True, False) if kind in followers else (True,):
                    number = lab.led(by=leader)
                    began = time.monotonic()
                    with fault(lab, number):
                        if kind == "killed" and leader:
                            recovery.append(lab.first_since(began))
                        time.sleep(LASTS)
                    faults_made += 1
                    lab.traffic()
        records = lab.stop_callers()
        journal = lab.journal()
        _check_keys(lab)
    _check(records, journal)
    return Result(
        faults_made,
        len(records),
        sum(record.operation is None for record in records),
        sum(record.seen is None and not record.refused for record in records),
        sum(caller.replayed for caller in lab.callers),
        sum(caller.unready for caller in lab.callers),
        tuple(round(seconds, 2) for seconds in recovery),
    )


def _check(records: Sequence[Record], journal: Sequence[Transition]) -> None:
    contradictions = faults(records, journal)
    assert not contradictions, "\n".join(
        [f"{len(contradictions)} faults", *contradictions[:20]]
    )


class Restore(Enum):
    """
    The ways in which etcd goes back, by how much etcd's revision is raised.
    """

    PLAIN = 0
    BUMPED = 1_000_000
    #: All data is removed, and nothing put in its place.
    EMPTIED = -1


def cluster_restores(path: Path, ways: Sequence[Restore]) -> int:
    """
    Restore etcd under clients; check that each daemon reports it and continues from there.

    The responses to steps after the snapshot belong to another history; all the rest is of
    the one that goes on.

    @return: how many operations there were.
    @raise AssertionError: a daemon did not report it, or no single cursor can have told the
        rest.
    """
    operations = 0
    # What was written down of the history that etcd has now.
    records: list[Record] = []
    with laboratory(path, 3) as lab:
        for number, way in enumerate(ways, 1):
            lab.traffic()
            records += lab.stop_callers()
            kept = lab.journal()
            _check(records, kept)
            file = path / f"snapshot-{number}"
            save_snapshot(lab.members[0], file)
            lab.start_callers()
            lab.traffic()
            began = _go_back(lab, way, file)
            revision = 0 if way is Restore.EMPTIED else len(kept)
            for daemon in lab.daemons[way is Restore.EMPTIED :]:
                _wait_for_lines(daemon, "the cursor went back", number)
            lab.traffic()
            records += lab.stop_callers()
            operations += len(records)
            records = [
                record
                # On a busy machine, a client may read a response of the old etcd late.
                if record.called > began or _is_of_kept_history(record, revision)
                else evolve(record, seen=None)
                for record in records
                if record.returned > began or _is_of_kept_history(record, revision)
            ]
            _check(records, lab.journal())
            lab.start_callers()
    return operations


def cluster_users(path: Path, changes: int) -> int:
    """
    Change etcd's users under clients, so that the tokens of all daemons are old each time.

    Each second time the leader is killed as well.  At last a certificate with a CN is
    refused as long as etcd has users, and then it is accepted.

    @return: how many operations there were.
    @raise AssertionError: no single cursor can have told all this.
    """
    tls = TlsFiles.make(path)
    with laboratory(path, 3, tls=tls) as lab:
        lab.traffic()
        for number in range(changes):
            with killed(lab, lab.led()) if number % 2 else nullcontext():
                survivor = lab.members[lab.led()]
                as_root(survivor, "user/add", {"name": f"u{number}", "password": "p"})
                lab.traffic()
            lab.traffic()
        records = lab.stop_callers()
        _check(records, lab.journal())
        member = lab.members[lab.led()]
        store = tls.store(member.url, "named", "pex")
        checked = subprocess.run(
            [sys.executable, "-m", "pexservice", "check", "--store", store],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert checked.returncode == Status.MISCONFIGURED
        assert "CommonName of client sending a request" in checked.stderr
        as_root(member, "disable", {})
        with Daemon(path, "--store", tls.store(member.url, "named")) as daemon:
            assert daemon.request("/next", "POST")[0].status == HTTPStatus.OK
    return len(records)


def _is_of_kept_history(record: Record, revision: int) -> bool:
    """
    Return whether a response, if there is one, belongs to the history up to C{revision}.
    """
    return record.seen is None or record.seen[0] <= revision


def _go_back(lab: Laboratory, way: Restore, file: Path) -> float:
    """
    Have etcd go back C{way}.

    @return: a moment between the last answer of the old etcd and the first one of the new.
    """
    moments: list[float] = []

    def stopped() -> None:
        # What the old etcd has answered reaches the clients before that.
        for daemon in lab.daemons:
            wait_until(partial(_is_not_ready, daemon), "not ready")
        moments.append(time.monotonic())

    if way is not Restore.EMPTIED:
        restore_snapshot(lab.members, file, way.value, stopped=stopped)
        return moments[0]
    with emptied(lab.members):
        stopped()
    # A running daemon creates no cursor, and one that starts does.
    for daemon in lab.daemons:
        _wait_for_lines(daemon, "etcd has lost the key", 1)
    with node_killed(lab, 0):
        pass
    return moments[0]


def _wait_for_lines(daemon: Daemon, words: str, count: int) -> None:
    wait_until(lambda: daemon.log.read_text().count(words) >= count, words)


def _check_keys(lab: Laboratory) -> None:
    """
    Check that each key that was answered is in etcd with what was answered.
    """
    prefix = b"pexservice/keys/"
    answer = lab.members[0].ask(
        "/v3/kv/range",
        {
            "key": b64encode(prefix).decode(),
            "range_end": b64encode(prefix[:-1] + b"0").decode(),
        },
    )
    kept = {
        b64decode(pair["key"]).removeprefix(prefix).decode(): decode_key_use(pair).revision
        for pair in answer["kvs"]
    }
    acknowledged = {
        key: revision for caller in lab.callers for key, revision in caller.keys.items()
    }
    assert acknowledged
    assert {key: kept.get(key) for key in acknowledged} == acknowledged
    # No two keys claim the same step.
    assert len(set(kept.values())) == len(kept)


def main() -> None:
    """
    Run the long form.
    """
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as path:
        result = cluster_faults(Path(path), rounds, followers=FAULTS, nodes=5, distant=True)
    print(result)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as path:
            operations = cluster_restores(Path(path), [*Restore])
        print(operations, "operations,", len(Restore), "restores reported", flush=True)
        with tempfile.TemporaryDirectory() as path:
            operations = cluster_users(Path(path), 2 * CHANGES)
        print(operations, "operations,", 2 * CHANGES, "changes of users", flush=True)
    assert max(result.recovery) < RECOVERY
    record(
        Evidence(
            name="cluster",
            promise="Many nodes are one cursor: under faults of etcd and of the network,"
            " each step is made once, and all nodes see each acknowledged step.",
            size=result.operations,
            unit="operations",
            result=f"{CLIENTS} clients of five nodes, one of them 50 ms away,"
            f" {result.faults} faults (killed"
            " or stopped members, no quorum, no space, connections cut, delayed, silent or"
            " half closed),"
            f" {result.unknown:,} outcomes unknown, {result.replayed:,} steps"
            f" replayed: the record is linearizable; a step after the leader's death took"
            f" at most {max(result.recovery)} s",
            command="make cluster-faults",
        )
    )


if __name__ == "__main__":
    main()
