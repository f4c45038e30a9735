"""
Compare the answers of two versions of the service.

The last release says what is right, for it is what clients have today.  Both versions are
started alike and get the same conversations, command lines and wrong starts, in the same
order.  Their answers are compared one by one, headers in their order, after the parts that
no two processes have alike are taken out: the date, times and paths.

An answer that differs is an error, unless L{tests.support.wanted} lists the difference.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from attrs import define, evolve, field, frozen

from tests.support.daemon import Daemon, read_answer
from tests.support.differences import Answer, Outcome

#: Seconds without a byte after which a version counts as silent.  Only a conversation to
#: which one of the versions has no answer at all takes so long.
SILENCE = 8

_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

#: Headers that say how large or how old a body is, or what is in it.
_ABOUT_THE_BODY = ("Content-Length", "ETag", "Content-Security-Policy")


@frozen
class Case:
    """
    One connection.

    @ivar chunks: the bytes to send, each chunk after the ones sent before have been read.
        The word REVISION in it stands for the cursor's revision before the case.
    @ivar leaves: the client closes its half behind the chunks.
    @ivar until: the client leaves when these bytes have arrived; without them, when the
        other end closes.
    @ivar opaque: the body may differ, and the headers about it.
    """

    name: str
    chunks: tuple[bytes, ...]
    leaves: bool = False
    until: bytes | None = None
    opaque: bool = False


@frozen
class Setup:
    """
    One way to start the service, and the cases that are tried on it.

    @ivar secret: a header that lets the oracle itself move the cursor.
    @ivar proxied: the daemon trusts the address in C{X-Forwarded-For}, and limits the
        rate of each.
    @ivar prepare: puts files into the directory where the daemon is to start.
    """

    name: str
    cases: Sequence[Case]
    options: Sequence[str] = ()
    command: str = "pexservice"
    secret: bytes = b""
    proxied: bool = False
    prepare: Callable[[Path], object] = lambda _: None


@define
class Side:
    """
    One of the two versions, running.

    @ivar daemon: the service.
    @ivar revision: the revision of its cursor; C{position} is its position.
    """

    daemon: Daemon
    _setup: Setup
    _connect: Callable[[Daemon], socket.socket]
    _control: socket.socket = field(init=False)
    _asked: int = field(init=False, default=0)
    # The connection by which the oracle asks was closed.
    _cut_off: bool = field(init=False, default=False)
    revision: int = field(init=False, default=0)
    position: int = field(init=False, default=0)

    def __enter__(self) -> Self:
        self._control = self._connect(self.daemon)
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        """
        Close the oracle's own connection.
        """
        self._control.close()

    def turn(self) -> None:
        """
        Wait until the daemon has read what was sent to it before.
        """
        self._ask(b"GET /livez")

    def look(self) -> None:
        """
        Learn where the cursor is.
        """
        self._take(self._ask(b"GET /current"))

    def reset(self) -> None:
        """
        Move the cursor to position 0 and one revision further.
        """
        self._take(self._ask(b"POST /reset"))

    def _take(self, answer: bytes) -> None:
        head = answer.decode("latin-1").lower()
        self.revision = int(head.partition("\r\npex-revision: ")[2].split("\r\n")[0])
        self.position = int(head.partition("\r\npex-position: ")[2].split("\r\n")[0])

    def _ask(self, request: bytes) -> bytes:
        lines = [request + b" HTTP/1.1", b"Host: localhost", self._setup.secret]
        if self._setup.proxied:
            # Each time another client, so that none of them is refused.
            self._asked += 1
            high, low = divmod(self._asked, 250)
            lines.append(b"X-Forwarded-For: 10.%d.%d.1" % (high, low))
        sent = b"\r\n".join([*filter(None, lines), b"", b""])
        answer = b""
        with suppress(ConnectionError):
            self._control.sendall(sent)
            answer = read_answer(self._control)
        if not answer:
            self._cut_off = True
            self._control.close()
            self._control = self._connect(self.daemon)
            self._control.sendall(sent)
            answer = read_answer(self._control)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return answer

    def hold(self, case: Case) -> Outcome:
        """
        Hold the conversation of C{case}, and return its outcome.
        """
        before = self.revision
        received = b""
        broken: list[Answer] = []
        with self._connect(self.daemon) as connection:
            connection.settimeout(SILENCE)
            # If the other end has closed, it need not have waited for what comes now.
            with suppress(ConnectionError, ssl.SSLError):
                for chunk in case.chunks:
                    connection.sendall(chunk.replace(b"REVISION", b"%d" % before))
                    self.turn()
                if case.leaves:
                    connection.shutdown(socket.SHUT_WR)
            # Such a close may turn the end of what is received into a reset, which takes
            # none of it away.
            with suppress(ConnectionError, ssl.SSLError):
                try:
                    while chunk := connection.recv(1 << 20):
                        received += chunk
                        if case.until is not None and case.until in received:
                            break
                except TimeoutError:
                    broken.append(Answer("nothing more came"))
        self.look()
        if self._cut_off:
            self._cut_off = False
            broken.append(Answer("another client's connection was closed"))
        moved = Answer(f"revisions moved: {self.revision - before}")
        return (*(_plain(response, case) for response in parse(received)), *broken, moved)


def align(first_side: Side, other: Side) -> None:
    """
    Bring both cursors to the same revision and position, whatever a case has done to them.
    """
    while first_side.revision != other.revision:
        min(first_side, other, key=lambda side: side.revision).reset()
    if first_side.position != other.position:
        first_side.reset()
        other.reset()


def parse(received: bytes) -> Outcome:
    """
    Cut a stream into its answers.

    An answer to a HEAD, or a 304, has a length and no body; it is found by what follows
    it, for no body here begins as an answer does.
    """
    answers: list[Answer] = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end or not head.startswith(b"HTTP/1."):
            answers.append(Answer("no HTTP", body=received))
            break
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = [line.partition(": ")[::2] for line in lines]
        answer = Answer(status, tuple((name, value) for name, value in headers))
        length = answer.header("Content-Length")
        if rest.startswith(b"HTTP/1.") or answer.code[:1] == "1":
            size = 0
        else:
            size = len(rest) if length is None else int(length)
        answers.append(evolve(answer, body=rest[:size]))
        received = rest[size:]
    return tuple(answers)


def _plain(answer: Answer, case: Case) -> Answer:
    """
    Take out of an answer what no two processes have alike.
    """
    hidden = ("Date", *(_ABOUT_THE_BODY if case.opaque else ()))
    headers = tuple(
        (name, "..." if name in hidden else value) for name, value in answer.headers
    )
    opaque = case.opaque and answer.code == "200"
    return Answer(
        answer.status, headers, b"..." if opaque else _TIME.sub(b"TIME", answer.body)
    )
