"""
Other clients during a soak: one follows the history, some read, and one reads slowly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException

from attrs import Factory, define, field

from pexservice.core.cursor import Transition, position_after
from tests.support.clients import AcknowledgedStep, Client, Stoppable, whole_history
from tests.support.daemon import Daemon

#: How many older revisions are kept for a comparison: a step that was made before a kill
#: and repeated after it gets a late response.
KEPT_REVISIONS = 200_000


@define(eq=False)
class _Observer(Stoppable):
    """
    A client that makes the same request again and again.

    @ivar pause: the pause between two requests, in seconds.
    @ivar refused: how many connections were refused.
    """

    service: Daemon
    pause: float = 0.01
    refused: int = 0
    connection: HTTPConnection = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.connection = self.service.connect()

    def run(self) -> None:
        while not self.stopping.wait(self.pause):
            try:
                self.observe()
            except ConnectionRefusedError:
                self.refused += 1
            except (OSError, HTTPException):
                # The worker was killed.
                self.connection.close()
        self.connection.close()

    def observe(self) -> None:
        """
        Make one request.
        """
        raise NotImplementedError


@define(eq=False)
class Reader(_Observer):
    """
    A client that reads values and checks them; no revision may be older than the last one.

    @ivar json: whether it reads JSON.
    @ivar fresh: whether it opens a connection for each request.
    @ivar surprises: responses that were wrong.
    """

    json: bool = False
    fresh: bool = False
    reads: int = 0
    surprises: list[str] = Factory(list)

    _revision: int = 0
    _values: list[int] = Factory(lambda: [0, 1])

    def observe(self) -> None:
        headers = {"Accept": "application/json"} if self.json else {}
        self.connection.request("GET", "/current", headers=headers)
        response = self.connection.getresponse()
        body = response.read().decode()
        if self.fresh:
            self.connection.close()
        if response.status != 200:
            self.surprises.append(f"{response.status} {body}")
            return
        revision, position = (
            int(response.headers[name]) for name in ("Pex-Revision", "Pex-Position")
        )
        value = json.loads(body)["current"] if self.json else body.removesuffix("\n")
        while len(self._values) <= position:
            self._values.append(sum(self._values[-2:]))
        if value != str(self._values[position]) or revision < self._revision:
            self.surprises.append(f"revision {revision} after {self._revision}: {body}")
        self._revision = revision
        self.reads += 1


@define(eq=False)
class SlowReader(_Observer):
    """
    A client that requests much at once, and reads the responses slowly.
    """

    pause: float = 0.1

    def observe(self) -> None:
        if self.connection.sock is None:
            request = b"GET /history?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            self.connection.connect()
            self.connection.send(request * 50)
        if not self.connection.sock.recv(2000):
            raise ConnectionResetError


@define(eq=False)
class Follower(_Observer):
    """
    A client that compares the history with the responses of other clients.

    After that, the other clients may forget these responses.

    @ivar compared: the last revision that it has seen.
    @ivar position: the position at this revision.
    @ivar confirmed: how many of the responses it has found in the history.
    @ivar lost: the responses that it has not found, and the gaps in the history.
    """

    clients: Sequence[Client] = field(kw_only=True)
    compared: int = field(kw_only=True)
    position: int = field(kw_only=True)
    pause: float = 0.5
    confirmed: int = 0
    lost: list[str] = Factory(list)

    _rows: dict[int, tuple[int, str]] = Factory(dict)
    _unchecked: list[AcknowledgedStep] = Factory(list)

    def observe(self) -> None:
        """
        Compare everything new.
        """
        for client in self.clients:
            # Meanwhile, the clients append to the end of the list.
            count = len(client.acknowledged)
            self._unchecked += client.acknowledged[:count]
            del client.acknowledged[:count]
        self._check_rows(whole_history(self.service, self.compared))
        for step in self._unchecked:
            # Each response that arrived before the history was read is in the history once.
            if self._rows.pop(step.revision, None) == (step.position, step.word):
                self.confirmed += 1
            else:
                self.lost.append(f"{step}")
        self._unchecked.clear()
        for revision in [*self._rows]:
            if revision > self.compared - KEPT_REVISIONS:
                break
            del self._rows[revision]

    def _check_rows(self, rows: dict[int, tuple[int, str]]) -> None:
        """
        Check that C{rows} continue the part of the history that was read before.
        """
        for revision in range(self.compared + 1, max(rows, default=0) + 1):
            after, word = rows.get(revision, (-1, "next"))
            if position_after(self.position, Transition[word.upper()]) != after:
                self.lost.append(f"the history breaks off at revision {revision}")
            self.position, self._rows[revision] = after, (after, word)
            self.compared = revision
