"""
The operator's consent to a reload that loses tokens, TLS or history.

C{pexctl reload --accept} writes it into the scoreboard, and the supervisor reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pexservice.process.scoreboard import CONSENT

#: What is lost when a reload finds one of these options removed, or C{journal} lowered.  An
#: editor may have written only the first half of the configuration file, and this half may
#: be valid TOML, so such a reload needs the operator's consent.
LOSSES = {
    "token-file": "everybody could move the cursor",
    "tls-certificate": "requests would be sent in plain text",
    "journal": "the oldest steps of the history would be removed for good",
}


def give_consent(descriptor: int, options: Sequence[str]) -> None:
    """
    Allow the next reload to lose what C{options} protect.

    @param descriptor: the supervisor's scoreboard, open for writing.
    """
    CONSENT.write(descriptor, json.dumps([*options]).encode())


def take_consent(descriptor: int) -> list[str]:
    """
    Return the options of the last call of L{give_consent}, and forget them.
    """
    content = CONSENT.read(descriptor)
    give_consent(descriptor, ())
    options: list[str] = [] if content is None else json.loads(content)
    return options
