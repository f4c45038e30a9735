"""
Steps, their responses, and the states of the cursor that the responses allow.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from itertools import permutations

from attrs import define, frozen

from pexservice.core.cursor import Transition, position_after
from tests.support.daemon import TIMEOUT_SECONDS

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
