"""
A client that never loses or doubles a step, on treq and Twisted's Agent.

L{Cursor} is for programs with a reactor, L{BlockingCursor} for scripts without one.
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
