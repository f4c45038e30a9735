"""
The phases of a worker, and the system calls that may fail in them.

In each phase the worker does one thing.
"""

from __future__ import annotations

import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from pexservice.process.exit_status import Status
from tests.labs.faults.tampered import Fault, Tracer, Victim, stall
from tests.support.conversation import Answer, Conversation, Expected
from tests.support.daemon import poll_attempts

UVLOOP, EPOLL = "uvloop", "epoll"

#: Where a prepared store's cursor is, revision and position.
PREPARED = 257

#: With these options, the next step trims a prepared store.
ROTATING = ("--journal", "1")

#: The statuses of a worker that was asked to end.
STOPPED = (0, -signal.SIGTERM)

# The things that a failing call is made on.
STORE, CONNECTION, LOG, BOTH, ANY = "store", "connection", "log", "store and log", "any"


@frozen
class Kind:
    """
    Calls that fail alike.

    @ivar call: strace's name, or several with commas.
    @ivar once: errors that pass.
    @ivar ever: errors that may stay.
    """

    call: str
    on: str
    ever: tuple[str, ...] = ()
    once: tuple[str, ...] = ()

    def first(self) -> Kind:
        """
        Return the same kind, with its first error only.
        """
        return Kind(self.call, self.on, once=self.ever[:1])

    def failures(self) -> Iterator[tuple[str, bool]]:
        """
        Yield each error, and whether it is for ever.
        """
        for error in (*self.ever, *self.once):
            yield error, False
        for error in self.ever:
            yield error, True


#: The calls that write.  LMDB chooses among the first three by how it was built.
WRITING = (
    Kind("pwrite64", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
    Kind("pwritev", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
    Kind("writev", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
    Kind("write", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
    Kind("lseek", STORE, ("EIO",)),
    Kind("fdatasync", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
    Kind("fsync", STORE, ("EIO", "ENOSPC"), ("EINTR",)),
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
    # Twisted waits as long as there are no buffers.
    Kind("sendto", CONNECTION, ("EPIPE",), ("ENOBUFS", "EINTR", "EAGAIN")),
    Kind("sendmsg", CONNECTION, ("EPIPE", "ENOBUFS"), ("EINTR", "EAGAIN")),
)

#: A full disk has the log on it too.
LOGGING = (
    Kind("write", LOG, ("ENOSPC", "EIO")),
    Kind("write,writev,pwrite64,pwritev", BOTH, ("ENOSPC", "EIO")),
)

#: While a worker serves, Python still imports now and then.
FILES = (Kind("openat", ANY, ("EMFILE", "ENFILE")),)

ACCEPTING = (
    Kind(
        "accept4", ANY, ("EMFILE", "ENFILE", "ENOBUFS"), ("ECONNABORTED", "EINTR", "EPERM")
    ),
)


#: The files of a store.
OWN = ("data.mdb", "lock.mdb", "newest", "creating")


@frozen
class Case:
    """
    One run of a phase with a fault.
    """

    path: Path
    phase: Phase
    fault: Fault
    on: str

    @property
    def trace(self) -> Path:
        """
        Return the path of strace's output.
        """
        return self.path / "trace"

    def strace(self, *, connection: Sequence[str] = ()) -> list[str]:
        """
        Return the command line of strace.
        """
        store = self.path / "disk" / "store"
        files = [store, *(store / name for name in OWN)]
        files += [store / "creating" / name for name in ("data.mdb", "lock.mdb")]
        disk = [str(self.path / "disk"), *map(str, files)]
        log = [str(self.path / "victim")]
        on = {STORE: disk, CONNECTION: [*connection], LOG: log, BOTH: disk + log, ANY: []}
        return self.fault.strace(self.trace, on[self.on])


@frozen
class Phase:
    """
    One thing that a worker does.

    @ivar run: does the phase once; returns the outcome.
    """

    name: str
    reactor: str
    kinds: tuple[Kind, ...]
    run: Callable[[Case, Expected], str]
    prepared: bool = True
    options: tuple[str, ...] = ()


# What a worker does before it serves.


def start(case: Case, expected: Expected, *more: str) -> str:
    """
    Start a worker, and make a step.
    """
    strace = [*case.strace(), *more]
    with Victim(case.path, reactor=case.phase.reactor, strace=strace) as victim:
        if not victim.serves():
            assert victim.wait() == Status.CANNOT_START, victim.log_text()
            lines = victim.log_text().splitlines()
            reasons = [line for line in lines if line.startswith("pexservice: ")]
            assert len(reasons) == 1, victim.log_text()
            assert str(case.path / "disk") in reasons[0], victim.log_text()
            assert "Traceback" not in victim.log_text(), victim.log_text()
            return "did not start, and said why"
        conversation = victim.connect()
        shown = conversation.read("/current")
        assert shown is not None
        expected.shown(shown[0])
        answer = conversation.ask("next")
        expected.heard(answer)
        if answer.kind == "outcome unknown":
            assert victim.wait() == Status.STORE_FAILED, victim.log_text()
        else:
            victim.terminate()
            assert victim.wait() in STOPPED, victim.log_text()
        return f"started; {answer.kind}"


def start_with_children(case: Case, expected: Expected) -> str:
    """
    Start a worker with faults in the process that verifies its store, too.
    """
    return start(case, expected, "-f", "--seccomp-bpf")


# What a worker does while it serves.


#: Attaches strace; is given strace's names of a connection.
Attach = Callable[[Sequence[str]], Tracer]


def serving(
    act: Callable[[Victim, Attach], Sequence[Answer]],
) -> Callable[[Case, Expected], str]:
    """
    Return a run with a worker that serves before anything fails.

    @param act: is given how to attach strace; returns the answers to steps that were asked
        for together.
    """

    def run(case: Case, expected: Expected) -> str:
        tracers: list[Tracer] = []

        def attach(connection: Sequence[str]) -> Tracer:
            command = case.strace(connection=connection)
            tracers.append(Tracer(command, victim.process.pid, case.trace))
            return tracers[-1]

        with Victim(case.path, *case.phase.options, reactor=case.phase.reactor) as victim:
            assert victim.serves(), victim.log_text()
            try:
                answers = act(victim, attach)
            finally:
                for tracer in tracers:
                    tracer.detach()
            expected.heard(*answers)
            kinds = " and ".join(sorted({answer.kind for answer in answers}))
            return f"{kinds or 'read'}; {_goes_on(victim, expected, answers)}"

    return run


def _goes_on(victim: Victim, expected: Expected, answers: Sequence[Answer]) -> str:
    """
    Check that without faults the worker serves as if nothing had been, or ends by itself.
    """
    if victim.process.poll() in STOPPED:
        return "stopped"
    if not any(answer.kind == "outcome unknown" for answer in answers):
        # A worker that is ending takes no connection.
        with suppress(ConnectionError):
            answer = victim.connect().ask("next")
            expected.heard(answer)
            if answer.kind == "answered":
                victim.terminate()
                assert victim.wait() in STOPPED, victim.log_text()
                return "went on"
    assert victim.wait() == Status.STORE_FAILED, victim.log_text()
    # A worker that knew that nothing was taken could have gone on.
    assert {answer.kind for answer in answers} & {"outcome unknown", "broken"}, answers
    return "ended"


def _known(victim: Victim) -> tuple[Conversation, list[str]]:
    """
    Return a connection that has been used, and strace's names of it.
    """
    before = victim.sockets()
    conversation = victim.connect()
    assert conversation.read("/current") is not None
    return conversation, [*(victim.sockets() - before)]


def step(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Make a step with a key.
    """
    conversation, connection = _known(victim)
    attach(connection)
    return [conversation.ask("next", Idempotency_Key=KEY)]


#: The key of a step that is repeated when an untouched worker is there.
KEY = "once"


def reset(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Reset twice, by the same bytes, so that the second answer comes from the cache.
    """
    conversation, connection = _known(victim)
    before = conversation.ask("reset")
    assert before.kind == "answered"
    attach(connection)
    return [before, conversation.ask("reset")]


def together(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Make commits in the store's thread, with steps that come while one is under way.
    """
    conversation, connection = _known(victim)
    others = [victim.connect() for _ in range(2)]
    slow = stall(victim)
    answers = [conversation.ask("next")]
    slow.detach()
    attach(connection)
    for conversation_of_word, word in zip(
        (conversation, *others), ("next", "previous", "reset"), strict=True
    ):
        conversation_of_word.send(word)
    return answers + [
        asked_conversation.receive() for asked_conversation in (conversation, *others)
    ]


def history(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Read a whole page of the history.
    """
    conversation, connection = _known(victim)
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
    conversation = victim.connect()
    conversation.send("next")
    for _ in poll_attempts():
        if select.select([conversation.socket], [], [], 0)[0] or tracer.injected():
            break
    # As long as nobody can be accepted, nobody can be answered.
    tracer.detach()
    return [conversation.receive()]


def shut_down(victim: Victim, attach: Attach) -> list[Answer]:
    """
    Send SIGTERM with a step under way.
    """
    conversation, connection = _known(victim)
    attach(connection)
    conversation.send("next")
    victim.terminate()
    answer = conversation.receive()
    # A worker that is asked to stop says that it did, also when the last commit fails.
    assert victim.wait() in (*STOPPED, Status.STORE_FAILED), victim.log_text()
    return [answer]


WHILE_SERVING = (*WRITING, *OPENING[:6], *TALKING, *LOGGING, *FILES)

PHASES = (
    Phase("start, new store", UVLOOP, WRITING + OPENING, start, prepared=False),
    Phase("start, its store", UVLOOP, WRITING + OPENING, start),
    Phase("start, verifier too", UVLOOP, WRITING + OPENING, start_with_children),
    Phase("step", UVLOOP, WHILE_SERVING, serving(step)),
    Phase("step", EPOLL, (*TALKING, *FILES), serving(step)),
    Phase("reset", UVLOOP, WHILE_SERVING, serving(reset)),
    Phase("steps, in the thread", UVLOOP, WHILE_SERVING, serving(together)),
    Phase("history", UVLOOP, WHILE_SERVING, serving(history)),
    Phase("history", EPOLL, TALKING, serving(history)),
    Phase("rotation", UVLOOP, WRITING + LOGGING, serving(step), options=ROTATING),
    Phase("connection", UVLOOP, ACCEPTING, serving(connect)),
    Phase("connection", EPOLL, ACCEPTING, serving(connect)),
    Phase("shutdown", UVLOOP, WHILE_SERVING, serving(shut_down)),
    Phase("shutdown", EPOLL, TALKING, serving(shut_down)),
)
