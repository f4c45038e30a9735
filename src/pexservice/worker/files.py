"""
The files that the options name, but for the store.
"""

from __future__ import annotations

from pathlib import Path

from pexservice.process.exit_status import CannotStart
from pexservice.server.site import OWN_LOG
from pexservice.server.transport.tls import context
from pexservice.settings.options import Settings
from pexservice.web.access import read_tokens


def check_files(settings: Settings) -> frozenset[bytes] | None:
    """
    See that they can be used.

    @return: digests of the tokens that may move the cursor, if there are such.
    @raise CannotStart: or L{BadTokens}.
    """
    path = settings.access_log
    if path is not None and path != OWN_LOG:
        try:
            with Path(path).open("a"):
                pass
        except OSError as error:
            raise CannotStart(f"the access log {path}: {error.strerror}") from error
    if settings.tls is not None:
        context(*settings.tls)
    return None if settings.token_file is None else read_tokens(settings.token_file)
