"""
What a request turned out to mean when nothing in it mattered but its endpoint.

The handlers say so, for only they know that no condition, key, token or wish for
another representation was in play.  The server remembers it; see
L{pexservice.server.plan_cache}.
"""

from __future__ import annotations

from enum import Enum

from twisted.web.iweb import IRequest

from pexservice.core.cursor import Transition


class Meaning(Enum):
    """
    The value is the transition, if it is one.
    """

    CURRENT = None
    NEXT = Transition.NEXT
    PREVIOUS = Transition.PREVIOUS
    RESET = Transition.RESET


def means(request: IRequest, meaning: Meaning) -> None:
    """
    Whoever sends the bytes of C{request} again wants C{meaning}, answered as text.
    """
    request.meaning = meaning  # type: ignore[attr-defined]


def meaning_of(request: IRequest) -> Meaning | None:
    """
    What L{means} was told, if anything.
    """
    meaning: Meaning | None = getattr(request, "meaning", None)
    return meaning
