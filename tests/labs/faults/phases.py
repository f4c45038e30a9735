"""
The phases of a worker, and the system calls that may fail in each.
"""

from __future__ import annotations

import json
import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from itertools import permutations
from pathlib import Path

from attrs import define, frozen

from pexservice.core.cursor import Transition, position_after
from pexservice.process.exit_status import Status
from tests.support.daemon import REACTORS, TIMEOUT_SECONDS, WORKER, Daemon, poll_attempts
from tests.support.strace import Tracer, slow_flushes

#: (revision, position)
At = tuple[int, int]

#: The end of the body of a 503, and the outcome that it states.
_REFUSALS = {
    b"; nothing was moved, try again\n": "not taken",
    b" or repeat the step with the same Idempotency-Key\n": "outcome unknown",
}


@frozen
class Answer:
    """
    The response to a step.

    @ivar kind: C{answered}, C{not taken}, C{outcome unknown} or C{broken}.
    @ivar at: revision and position in the response, if the step was answered.
    """

    word: str
    kind: str
    at: At | None = None


class Conversation:
    """
    One connection, on which a test sends a step and reads its response later.
    """

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self._connection.connect()
        self._word = ""

    def send(self, word: str, **headers: str) -> None:
        """
        Send a step without waiting for its response.

        If the connection is broken, C{receive} reports it.
        """
        self._word = word
        request_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request("POST", f"/{word}", headers=request_headers)
        except OSError:
            self.close()

    @property
    def socket(self) -> socket.socket:
        """
        The socket, for a caller that waits until it is readable.
        """
        return self._connection.sock

    def receive(self) -> Answer:
        """
        Return the response to the step.

        @raise AssertionError: there was no response, or one with an unexpected status.
        """
        try:
            response = self._connection.getresponse()
            body = response.read()
        except TimeoutError:
            raise AssertionError(f"{self._word} has no answer") from None
        except (OSError, HTTPException):
            return Answer(self._word, "broken")
        if response.status == 200:
            at = (response.headers["Pex-Revision"], response.headers["Pex-Position"])
            return Answer(self._word, "answered", (int(at[0]), int(at[1])))
        for end, kind in _REFUSALS.items():
            if response.status == 503 and body.endswith(end):
                return Answer(self._word, kind)
        raise AssertionError(f"{self._word} was answered {response.status} {body!r}")

    def ask(self, word: str, **headers: str) -> Answer:
        self.send(word, **headers)
        return self.receive()

    def read(self, path: str) -> tuple[At, list[dict[str, object]]] | None:
        """
        Read C{/current} or C{/history}.

        @return: the cursor and the transitions, or L{None} if the connection broke.
        """
        try:
            self._connection.request("GET", path, headers={"Accept": "application/json"})
            response = self._connection.getresponse()
            body = json.loads(response.read())
        except TimeoutError:
            raise AssertionError(f"{path} has no answer") from None
        except (OSError, HTTPException):
            return None
        assert response.status == 200, body
        if "transitions" in body:
            return (0, 0), body["transitions"]
        return (body["revision"], body["position"]), []

    def close(self) -> None:
        self._connection.close()


@define
class Expected:
    """
    The states that the cursor may have on disk according to all responses.
    """

    possible: set[At]

    def heard(self, *answers: Answer) -> None:
        """
        Take responses to steps that were sent concurrently, and so were made in any order.

        @raise AssertionError: no order of the steps explains the responses.
        """
        reachable = {at for order in permutations(answers) for at in self._after(order)}
        assert reachable, f"from {self.possible}, {answers}"
        self.possible = reachable

    def _after(self, answers: Sequence[Answer]) -> set[At]:
        possible = self.possible
        for answer in answers:
            moved = {_follow(at, answer.word) for at in possible}
            if answer.kind == "answered":
                possible = moved & {answer.at} if answer.at else set()
            elif answer.kind != "not taken":
                possible = possible | moved
        return possible

    def shown(self, at: At) -> None:
        """
        Take a state that a client has read.  From then on no crash may undo it.
        """
        assert at in self.possible, f"{at} was shown, possible were {self.possible}"
        self.possible = {state for state in self.possible if state >= at}


def _follow(at: At, word: str) -> At:
    revision, position = at
    return revision + 1, position_after(position, Transition[word.upper()])


@frozen
class Fault:
    """
    A failure of one system call in each thread, and perhaps of all later ones.

    @ivar call: strace's name of the call, or several names with commas.
    @ivar error: the name of the error in C{errno.h}.
    @ivar number: the number of the call that fails.
    @ivar forever: whether all later calls fail too.
    """

    call: str
    error: str
    number: int
    forever: bool

    def __str__(self) -> str:
        return f"{self.call} {self.error} {self.number}{'+' if self.forever else ''}"

    def strace(self, paths: Iterable[str]) -> list[str]:
        """
        Return the options of strace.

        @param paths: the paths of the calls that count; without a path, all calls count.
        """
        when = f"{self.number}{'+' if self.forever else ''}"
        inject = f"inject={self.call}:error={self.error}:when={when}"
        only = [f"--trace-path={path}" for path in paths]
        return ["-e", f"trace={self.call}", "-e", "signal=none", "-e", inject, *only]


class Victim(Daemon):
    """
    A worker with the store C{path/disk/store}, which may fail to start.

    The store has its own parent directory, so that no other file is affected.

    @ivar serves: whether the worker has started; if not, it has ended.
    """

    serves = True

    def __init__(
        self, path: Path, *options: str, reactor: str, strace: Sequence[str] = ()
    ) -> None:
        self._conversations: list[Conversation] = []
        options = (*store_option(path), *options)
        super().__init__(path, *options, command=WORKER, reactor=reactor, wrapper=strace)

    def wait_for_log(self, pattern: str, start: int = 0) -> str:
        try:
            return super().wait_for_log(pattern, start)
        except AssertionError:
            if self.process.poll() is None:
                raise
            self.serves = False
            return ""

    def __exit__(self, error: object, *_: object) -> None:
        for conversation in self._conversations:
            conversation.close()
        super().__exit__(error)

    def converse(self) -> Conversation:
        """
        Return a connection, which C{__exit__} closes.
        """
        self._conversations.append(Conversation(self.port))
        return self._conversations[-1]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def sockets(self) -> set[str]:
        """
        Return strace's names of the worker's open sockets.
        """
        names = set()
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                names.add(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
        return {name for name in names if name.startswith("socket:")}


def store_option(path: Path) -> list[str]:
    """
    Return the option C{--store} with the path of the store.
    """
    return ["--store", f"lmdb:{path / 'disk' / 'store'}"]


UVLOOP, ASYNCIO = REACTORS

#: The revision and the position of a prepared store.
PREPARED = 257

#: With these options, the next step trims a prepared store.
TRIMMING = ("--journal", "1")

#: The exit statuses of a worker that was asked to stop.
STOP_STATUSES = (0, -signal.SIGTERM)

# The targets of a failing call.
STORE, CONNECTION, LOG, BOTH, ANY = "store", "connection", "log", "store and log", "any"


@frozen
class Kind:
    """
    A kind of system call, and its errors.

    @ivar call: strace's name of the call, or several names with commas.
    @ivar target: the files or connections of the call.
    @ivar permanent_errors: errors that may last.
    @ivar transient_errors: errors that occur only once.
    """

    call: str
    target: str
    permanent_errors: tuple[str, ...] = ()
    transient_errors: tuple[str, ...] = ()

    def with_first_error_only(self) -> Kind:
        return Kind(self.call, self.target, transient_errors=self.permanent_errors[:1])

    def errors_with_duration(self) -> Iterator[tuple[str, bool]]:
        """
        Yield each error, and whether all later calls fail too.
        """
        for error in (*self.permanent_errors, *self.transient_errors):
            yield error, False
        for error in self.permanent_errors:
            yield error, True


#: Calls that write.  The build of LMDB decides which of the first three it uses.
WRITING = (
    *(
        Kind(call, STORE, ("EIO", "ENOSPC"), ("EINTR",))
        for call in ("pwrite64", "pwritev", "writev", "write", "fdatasync", "fsync")
    ),
    Kind("lseek", STORE, ("EIO",)),
)

OPENING = (
    Kind("openat", STORE, ("EMFILE", "EIO", "EACCES"), ("EINTR",)),
    Kind("flock", STORE, ("ENOLCK", "EIO"), ("EINTR",)),
    Kind("fcntl", STORE, ("ENOLCK",), ("EINTR",)),
    Kind("mmap", STORE, ("ENOMEM", "EAGAIN")),
    Kind("pread64", STORE, ("EIO",), ("EINTR",)),
    Kind("read", STORE, ("EIO",), ("EINTR",)),
    Kind("ftruncate", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
    Kind("getdents64", STORE, ("EIO",)),
    Kind("newfstatat", STORE, ("EIO",)),
    Kind("mkdir", STORE, ("ENOSPC", "EROFS")),
    Kind("chmod", STORE, ("EPERM",)),
    Kind("rename", STORE, ("EIO", "ENOSPC")),
    Kind("unlinkat", STORE, ("EIO",)),
    Kind("rmdir", STORE, ("EIO",)),
)

TALKING = (
    Kind("read", CONNECTION, ("ECONNRESET",), ("EINTR", "EAGAIN")),
    Kind("recvfrom", CONNECTION, ("ECONNRESET",), ("EINTR", "EAGAIN")),
    Kind("write", CONNECTION, ("EPIPE", "ENOBUFS"), ("EINTR", "EAGAIN")),
    Kind("writev", CONNECTION, ("EPIPE", "ENOBUFS"), ("EINTR", "EAGAIN")),
    # Twisted retries without an end while there are no buffers.
    Kind("sendto", CONNECTION, ("EPIPE",), ("ENOBUFS", "EINTR", "EAGAIN")),
    Kind("sendmsg", CONNECTION, ("EPIPE", "ENOBUFS"), ("EINTR", "EAGAIN")),
)

#: A full disk that also has the log.
LOGGING = (
    Kind("write", LOG, ("ENOSPC", "EIO")),
    Kind("write,writev,pwrite64,pwritev", BOTH, ("ENOSPC", "EIO")),
)

#: While a worker serves, Python still imports a module sometimes.
FILES = (Kind("openat", ANY, ("EMFILE", "ENFILE")),)

ACCEPTING = (
    Kind(
        "accept4", ANY, ("EMFILE", "ENFILE", "ENOBUFS"), ("ECONNABORTED", "EINTR", "EPERM")
    ),
)


#: The files of a store.
STORE_FILES = ("data.mdb", "lock.mdb", "newest", "creating")


@frozen
class Case:
    path: Path
    phase: Phase
    fault: Fault
    target: str

    @property
    def trace(self) -> Path:
        """
        Return the path of strace's output.
        """
        return self.path / "trace"

    def strace(self, *, connection: Sequence[str] = ()) -> list[str]:
        store = self.path / "disk" / "store"
        files = [store, *(store / name for name in STORE_FILES)]
        files += [store / "creating" / name for name in ("data.mdb", "lock.mdb")]
        disk = [str(self.path / "disk"), *map(str, files)]
        log = [str(self.path / "log")]
        paths = {
            STORE: disk,
            CONNECTION: [*connection],
            LOG: log,
            BOTH: disk + log,
            ANY: [],
        }
        return self.fault.strace(paths[self.target])


@frozen
class Phase:
    """
    A phase of a worker.

    @ivar run: goes through the phase once, and returns the outcome.
    """

    name: str
    reactor: str
    kinds: tuple[Kind, ...]
    run: Callable[[Case, Expected], str]
    prepared: bool = True
    options: tuple[str, ...] = ()


# Phases before the worker serves.


def start(case: Case, expected: Expected, *more: str) -> str:
    """
    Start a worker, and make a step.
    """
    strace = ["strace", "-D", "-o", str(case.trace), *case.strace(), *more]
    with Victim(case.path, reactor=case.phase.reactor, strace=strace) as victim:
        if not victim.serves:
            assert victim.wait() == Status.CANNOT_START, victim.log_text()
            lines = victim.log_text().splitlines()
            reasons = [line for line in lines if line.startswith("pexservice: ")]
            assert len(reasons) == 1, victim.log_text()
            assert str(case.path / "disk") in reasons[0], victim.log_text()
            assert "Traceback" not in victim.log_text(), victim.log_text()
            return "did not start, and said why"
        conversation = victim.converse()
        shown = conversation.read("/current")
        assert shown is not None
        expected.shown(shown[0])
        response = conversation.ask("next")
        expected.heard(response)
        if response.kind == "outcome unknown":
            assert victim.wait() == Status.STORE_FAILED, victim.log_text()
        else:
            assert victim.stop() in STOP_STATUSES, victim.log_text()
        return f"started; {response.kind}"


def start_with_children(case: Case, expected: Expected) -> str:
    """
    Start a worker, with faults also in the child process that verifies the store.
    """
    return start(case, expected, "-f", "--seccomp-bpf")


# Phases of a worker that serves.


#: Attaches strace, with strace's names of the connections that may fail.
Attach = Callable[[Sequence[str]], Tracer]


def serving(
    action: Callable[[Victim, Attach], Sequence[Answer]],
) -> Callable[[Case, Expected], str]:
    """
    Return a run that attaches strace to a worker that serves.

    @param action: makes requests, and returns the responses to steps that were sent
        together.
    """

    def run(case: Case, expected: Expected) -> str:
        tracers: list[Tracer] = []

        def attach(connection: Sequence[str]) -> Tracer:
            options = case.strace(connection=connection)
            tracers.append(Tracer(victim.process.pid, *options, output=case.trace))
            return tracers[-1]

        with Victim(case.path, *case.phase.options, reactor=case.phase.reactor) as victim:
            assert victim.serves, victim.log_text()
            try:
                responses = action(victim, attach)
            finally:
                for tracer in tracers:
                    tracer.detach()
            expected.heard(*responses)
            kinds = " and ".join(sorted({response.kind for response in responses}))
            return f"{kinds or 'read'}; {_check_afterwards(victim, expected, responses)}"

    return run


def _check_afterwards(
    victim: Victim, expected: Expected, responses: Sequence[Answer]
) -> str:
    """
    Check that the worker continues without faults, or ends by itself for a reason.
    """
    if victim.process.poll() in STOP_STATUSES:
        return "stopped"
    if not any(response.kind == "outcome unknown" for response in responses):
        # A worker that ends accepts no connection.
        with suppress(ConnectionError):
            response = victim.converse().ask("next")
            expected.heard(response)
            if response.kind == "answered":
                assert victim.stop() in STOP_STATUSES, victim.log_text()
                return "continued"
    assert victim.wait() == Status.STORE_FAILED, victim.log_text()
    # A worker that knows that no step was stored has no reason to end.
    assert {response.kind for response in responses} & {"outcome unknown", "broken"}, (
        responses
    )
    return "ended"


def _used_connection(victim: Victim) -> tuple[Conversation, list[str]]:
    """
    Return a connection that was used before, and strace's names of it.
    """
    before = victim.sockets()
    conversation = victim.converse()
    assert conversation.read("/current") is not None
    return conversation, [*(victim.sockets() - before)]


def step(victim: Victim, attach: Attach) -> list[Answer]:
    conversation, connection = _used_connection(victim)
    attach(connection)
    return [conversation.ask("next", Idempotency_Key=KEY)]


#: The key of a step that is repeated at a worker without faults.
KEY = "once"


def reset(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Reset twice with the same bytes, so that the second response comes from the plan cache.
    """
    conversation, connection = _used_connection(victim)
    before = conversation.ask("reset")
    assert before.kind == "answered"
    attach(connection)
    return [before, conversation.ask("reset")]


def steps_in_batches(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Make a commit in the store's thread, and meanwhile send steps that share the next batch.
    """
    conversation, connection = _used_connection(victim)
    others = [victim.converse() for _ in range(2)]
    with slow_flushes(victim.process.pid, 0.02):
        responses = [conversation.ask("next")]
    attach(connection)
    conversations = (conversation, *others)
    for waiting, word in zip(conversations, ("next", "previous", "reset"), strict=True):
        waiting.send(word)
    return responses + [waiting.receive() for waiting in conversations]


def history(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Read a whole page of the history.
    """
    conversation, connection = _used_connection(victim)
    attach(connection)
    response = conversation.read("/history?limit=1000")
    if response is not None:
        revisions = [row["revision"] for row in response[1]]
        assert revisions == [*range(PREPARED, 0, -1)]
    return []


def connect(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Make a step on a new connection.
    """
    tracer = attach(())
    conversation = victim.converse()
    conversation.send("next")
    for _ in poll_attempts():
        if select.select([conversation.socket], [], [], 0)[0] or tracer.injected():
            break
    # While the worker cannot accept connections, there is no response.
    tracer.detach()
    return [conversation.receive()]


def shut_down(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Send SIGTERM while a step is in progress.
    """
    conversation, connection = _used_connection(victim)
    attach(connection)
    conversation.send("next")
    victim.process.terminate()
    response = conversation.receive()
    # A worker that is asked to stop reports this, even if the last commit fails.
    assert victim.wait() in (*STOP_STATUSES, Status.STORE_FAILED), victim.log_text()
    return [response]


WHILE_SERVING = (*WRITING, *OPENING[:6], *TALKING, *LOGGING, *FILES)

PHASES = (
    Phase("start, new store", UVLOOP, WRITING + OPENING, start, prepared=False),
    Phase("start, its store", UVLOOP, WRITING + OPENING, start),
    Phase("start, verifier too", UVLOOP, WRITING + OPENING, start_with_children),
    Phase("step", UVLOOP, WHILE_SERVING, serving(step)),
    Phase("step", ASYNCIO, (*TALKING, *FILES), serving(step)),
    Phase("reset", UVLOOP, WHILE_SERVING, serving(reset)),
    Phase("steps, in the thread", UVLOOP, WHILE_SERVING, serving(steps_in_batches)),
    Phase("history", UVLOOP, WHILE_SERVING, serving(history)),
    Phase("history", ASYNCIO, TALKING, serving(history)),
    Phase("rotation", UVLOOP, WRITING + LOGGING, serving(step), options=TRIMMING),
    Phase("connection", UVLOOP, ACCEPTING, serving(connect)),
    Phase("connection", ASYNCIO, ACCEPTING, serving(connect)),
    Phase("shutdown", UVLOOP, WHILE_SERVING, serving(shut_down)),
    Phase("shutdown", ASYNCIO, TALKING, serving(shut_down)),
)
