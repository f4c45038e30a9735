"""
What the operator accepts to lose in a reload: tokens, TLS or history.

C{pexctl reload --accept OPTION} writes the option's name into the scoreboard, and the
supervisor reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pexservice.process.scoreboard import ACCEPTED_LOSSES

#: What is lost when a reload finds that one of these options was removed, or that
#: C{journal} was lowered.  An editor may have written only the first half of the
#: configuration file, and this half may be valid TOML.  So such a reload fails, unless the
#: operator accepts the loss.
LOSSES = {
    "token-file": "everybody could move the cursor",
    "tls-certificate": "requests would be sent in plain text",
    "journal": "the oldest steps of the history would be removed for good",
}


def accept_losses(descriptor: int, options: Sequence[str]) -> None:
    """
    Allow the next reload to remove or lower C{options}.

    @param descriptor: the supervisor's scoreboard, open for writing.
    """
    ACCEPTED_LOSSES.write(descriptor, json.dumps([*options]).encode())


def take_accepted_losses(descriptor: int) -> list[str]:
    """
    Return the options of the last call of L{accept_losses}, and forget them.
    """
    content = ACCEPTED_LOSSES.read(descriptor)
    accept_losses(descriptor, ())
    options: list[str] = [] if content is None else json.loads(content)
    return options
