"""
Tests that Twisted's own C{Site}, serving the Klein app, gives the same responses.
"""

from __future__ import annotations

import re

import pytest

from tests.support.chance import Chance
from tests.support.conversations import valid_request
from tests.support.forms import amount
from tests.support.recorded import split
from tests.support.seam import SETUPS, converse, converse_with_site

#: Headers that belong to the server and its connection, not to the app.
_OF_THE_SERVER = (b"server:", b"date:", b"connection:")

#: Streams do not end, and each server counts its own metrics.
_NOT_THE_SAME = re.compile(rb"GET /events|[A-Z]+ /metrics")

#: Conversations in each setup.
CONVERSATIONS = amount(short=25, long=3000)


def parts(received: bytes) -> list[tuple[bytes, list[bytes], bytes]]:
    """
    Return the status line, the headers in order of their names, and the body of responses.
    """
    responses = []
    for head, body in split(received):
        status_line, *headers = head.split(b"\r\n")
        kept = [
            header for header in headers if not header.lower().startswith(_OF_THE_SERVER)
        ]
        responses.append((status_line, sorted(kept), body))
    return responses


@pytest.mark.parametrize("setup", SETUPS)
def test_valid_requests_get_the_responses_of_twisted_site(setup: str) -> None:
    """
    To requests that any parser accepts, both servers give the same responses.
    """
    for seed in range(CONVERSATIONS):
        chance = Chance(seed)
        few = [valid_request(chance) for _ in range(1 + chance.below(3))]
        requests = [chance.choose(few) for _ in range(1 + chance.below(5))]
        requests = [request for request in requests if not _NOT_THE_SAME.match(request)]
        ours = converse(setup, requests, patient=True, ends=False).received
        theirs = converse_with_site(setup, requests)
        assert parts(ours) == parts(theirs), (seed, requests)
