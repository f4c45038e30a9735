"""
The other users of the service during a soak.

One follows the history, some read, and one reads slowly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException

from attrs import Factory, define, field

from pexservice.core.cursor import Transition, position_after
from tests.support.clients import AcknowledgedStep, Client, Stoppable
from tests.support.daemon import TIMEOUT_SECONDS

#: How many revisions back an answer may come that is compared: a step that was made
#: before a kill and repeated after it is answered late.
REMEMBERED = 200_000


@define(eq=False)
class _Onlooker(Stoppable):
    """
    A user of the service that does something again and again.

    @ivar pause: between two times.  Seconds.
    @ivar refused: how many connections were refused.
    @ivar broken: how many connections ended without an answer.
    """

    port: int
    pause: float = 0.01
    refused: int = 0
    broken: int = 0
    _connection: HTTPConnection | None = None

    def run(self) -> None:
        """
        Look again and again, until told to stop.
        """
        while not self.stopping.wait(self.pause):
            try:
                self.look()
            except ConnectionRefusedError:
                self.refused += 1
            except (OSError, HTTPException):
                self.broken += 1
                self.close()
        self.close()

    def look(self) -> None:
        """
        Look once.
        """
        raise NotImplementedError

    def close(self) -> None:
        """
        Close the connection, if one is kept.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@define(eq=False)
class Reader(_Onlooker):
    """
    A reader of values, which must be right, and never of an earlier revision than before.

    @ivar json: ask for JSON.
    @ivar fresh: open a connection for each request.
    @ivar surprises: answers that were not right.
    """

    json: bool = False
    fresh: bool = False
    reads: int = 0
    surprises: list[str] = Factory(list)

    _revision: int = 0
    _values: list[int] = Factory(lambda: [0, 1])

    def look(self) -> None:
        """
        Read one value.
        """
        if self._connection is None:
            self._connection = HTTPConnection(
                "127.0.0.1", self.port, timeout=TIMEOUT_SECONDS
            )
        headers = {"Accept": "application/json"} if self.json else {}
        self._connection.request("GET", "/current", headers=headers)
        answer = self._connection.getresponse()
        body = answer.read().decode()
        if self.fresh:
            self.close()
        if answer.status != 200:
            self.surprises.append(f"{answer.status} {body}")
            return
        revision, position = (
            int(answer.headers[name]) for name in ("Pex-Revision", "Pex-Position")
        )
        value = json.loads(body)["current"] if self.json else body.removesuffix("\n")
        while len(self._values) <= position:
            self._values.append(sum(self._values[-2:]))
        if value != str(self._values[position]) or revision < self._revision:
            self.surprises.append(f"revision {revision} after {self._revision}: {body}")
        self._revision = revision
        self.reads += 1


@define(eq=False)
class SlowReader(_Onlooker):
    """
    A reader that asks for much at once and takes a little at a time.
    """

    pause: float = 0.1

    def look(self) -> None:
        """
        Read a little.
        """
        if self._connection is None:
            self._connection = HTTPConnection(
                "127.0.0.1", self.port, timeout=TIMEOUT_SECONDS
            )
            self._connection.connect()
            asked = b"GET /history?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            self._connection.sock.sendall(asked * 50)
        if not self._connection.sock.recv(2000):
            raise ConnectionResetError


@define(eq=False)
class Follower(_Onlooker):
    """
    A reader that compares the history with the answers that the clients got.

    The clients may forget these answers then.

    @ivar compared: the last revision that it has seen.
    @ivar position: the position that this revision led to.
    @ivar confirmed: how many steps it has found in the history.
    @ivar lost: the answers that it has not, and where the history is not of one piece.
    """

    clients: Sequence[Client] = field(kw_only=True)
    compared: int = field(kw_only=True)
    position: int = field(kw_only=True)
    pause: float = 0.5
    confirmed: int = 0
    lost: list[str] = Factory(list)

    _rows: dict[int, tuple[int, str]] = Factory(dict)
    _unseen: list[AcknowledgedStep] = Factory(list)

    def look(self) -> None:
        """
        Compare all that is new.
        """
        for client in self.clients:
            # The clients continue meanwhile, at the other end of the list.
            count = len(client.acknowledged)
            self._unseen += client.acknowledged[:count]
            del client.acknowledged[:count]
        self._follow(self._new_rows())
        for step in self._unseen:
            # Each response that arrived before the history was read is in it, and once.
            if self._rows.pop(step.revision, None) == (step.position, step.word):
                self.confirmed += 1
            else:
                self.lost.append(f"{step}")
        self._unseen.clear()
        for revision in [*self._rows]:
            if revision > self.compared - REMEMBERED:
                break
            del self._rows[revision]

    def _new_rows(self) -> dict[int, tuple[int, str]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        rows: dict[int, tuple[int, str]] = {}
        path, more = "/history?limit=1000", True
        try:
            while path and more:
                connection.request("GET", path, headers={"Accept": "application/json"})
                page = json.loads(connection.getresponse().read())
                for row in page["transitions"]:
                    rows[row["revision"]] = (row["position"], row["transition"])
                path, more = page["next"], min(rows, default=0) > self.compared + 1
        finally:
            connection.close()
        return rows

    def _follow(self, rows: dict[int, tuple[int, str]]) -> None:
        """
        Check that C{rows} continue the history that was there before.
        """
        for revision in range(self.compared + 1, max(rows, default=0) + 1):
            after, word = rows.get(revision, (-1, "next"))
            if position_after(self.position, Transition[word.upper()]) != after:
                self.lost.append(f"the history breaks off at revision {revision}")
            self.position, self._rows[revision] = after, (after, word)
            self.compared = revision
