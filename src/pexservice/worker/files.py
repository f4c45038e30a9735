"""
The files that the options name, but for the store.
"""

from __future__ import annotations

from pathlib import Path

from pexservice.process.exit_status import cannot_use
from pexservice.server.access_log import OWN_LOG
from pexservice.server.transport.tls import context
from pexservice.settings.options import Settings
from pexservice.web.access import read_tokens


def check_files(settings: Settings) -> frozenset[bytes] | None:
    """
    Check that the files named by the options can be opened.

    @return: digests of the tokens that may move the cursor, or C{None} if everybody may.
    @raise CannotStart: one of them cannot be used; the message names it.
    """
    path = settings.access_log
    if path is not None and path != OWN_LOG:
        try:
            with Path(path).open("a"):
                pass
        except OSError as error:
            raise cannot_use(f"the access log {path}", error) from error
    if settings.tls is not None:
        context(*settings.tls)
    return None if settings.token_file is None else read_tokens(settings.token_file)
