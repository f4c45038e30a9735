"""
The reasons why requests failed, as text for a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from twisted.internet.error import ConnectError, ConnectionClosed

from pexservice.core.text import printable


def causes(error: BaseException) -> Iterator[BaseException]:
    """
    Yield the exceptions that Twisted's client collected in C{error}, or C{error} itself.
    """
    failures = getattr(error, "reasons", None) or ()
    if not failures:
        yield error
    for failure in failures:
        # This error only repeats that the connection closed.
        if type(failure.value).__name__ != "_DataLoss":
            yield from causes(failure.value)


def describe(error: BaseException) -> str:
    """
    Return the reasons inside C{error} without duplicates: one line, never empty.

    The line does not end with a period, so that a message can continue after it.
    """
    reasons = (
        # The details are about Twisted's parser and not about the response.
        "the response is not valid HTTP"
        if cause is not error and _is_of_parser(cause)
        else _describe_cause(cause)
        for cause in causes(error)
    )
    return "; ".join(dict.fromkeys(reasons))


def _is_of_parser(cause: BaseException) -> bool:
    of_twisted = type(cause).__module__.startswith("twisted.web.")
    return of_twisted or isinstance(cause, LookupError | ValueError)


def _describe_cause(cause: BaseException) -> str:
    name = type(cause).__name__
    if isinstance(cause, ConnectionClosed):
        # Twisted's own texts, such as "Connection was closed cleanly.", are about TCP.
        return f"the connection closed before the complete response arrived ({name})"
    if isinstance(cause, ConnectError) and isinstance(cause.osError, int):
        return os.strerror(cause.osError)
    details = cause.args[0] if cause.args else None
    if isinstance(details, list) and all(isinstance(part, tuple) for part in details):
        # OpenSSL's errors have tuples (library, function, reason).
        return f"TLS: {', '.join(str(part[-1]) for part in details) or 'no reason given'}"
    return printable(str(cause).strip().removesuffix(".")) or name
