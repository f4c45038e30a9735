"""
A client that neither loses nor repeats a step, on Twisted's Agent.

L{Cursor} is for programs with a reactor, L{BlockingCursor} for programs without one.
"""

from pexservice.client.blocking import BlockingCursor
from pexservice.client.cursor import Cursor
from pexservice.client.errors import (
    BadAddress,
    CertificateRefused,
    CursorError,
    Moved,
    OutcomeUnknown,
    Refused,
    Unanswered,
    UnexpectedAnswer,
)
from pexservice.client.state import State, Step

__all__ = [
    "BadAddress",
    "BlockingCursor",
    "CertificateRefused",
    "Cursor",
    "CursorError",
    "Moved",
    "OutcomeUnknown",
    "Refused",
    "State",
    "Step",
    "Unanswered",
    "UnexpectedAnswer",
]
