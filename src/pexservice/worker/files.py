"""
The files that the options name, except for the store.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime

from attrs import frozen
from twisted.logger import Logger

from pexservice.process.exit_status import cannot_use
from pexservice.server.access_log import OWN_LOG
from pexservice.server.tls import context, expiry
from pexservice.settings.options import Settings
from pexservice.web.access import read_tokens

_log = Logger()

#: A worker that starts warns if the certificate expires in fewer days.
EXPIRY_WARNING_DAYS = 14


@frozen
class Files:
    """
    The content of the files that the options name.

    @ivar tokens: digests of the tokens that may move the cursor, or C{None} if steps need
        no token.
    @ivar tls: the TLS context for all connections, or C{None} without TLS.
    @ivar certificate_expires: when the certificate expires, in seconds since the epoch.
    """

    tokens: frozenset[bytes] | None
    tls: ssl.SSLContext | None
    certificate_expires: float | None

    def warn_of_expiry(self, now: float) -> None:
        if self.certificate_expires is None:
            return
        days = (self.certificate_expires - now) / (24 * 3600)
        if days < EXPIRY_WARNING_DAYS:
            end = datetime.fromtimestamp(self.certificate_expires, UTC)
            _log.warn(
                "the TLS certificate {verb} on {end}; renew it and reload",
                verb="expires" if days > 0 else "expired",
                end=end.isoformat(timespec="minutes").replace("+00:00", "Z"),
            )


def read_files(settings: Settings) -> Files:
    """
    Read the files, and check that the access log can be opened.

    @raise CannotStart: a file cannot be used; the message names the file.
    """
    path = settings.access_log
    if path is not None and path != OWN_LOG:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            os.close(os.open(path, flags, 0o640))
        except OSError as error:
            raise cannot_use(f"the access log {path}", error) from error
    return Files(
        None if settings.token_file is None else read_tokens(settings.token_file),
        None if settings.tls is None else context(*settings.tls),
        None if settings.tls is None else expiry(settings.tls[0]),
    )
