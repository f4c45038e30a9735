"""
Constant responses: an ASGI and an RSGI application, and a worker of pexservice.

The worker uses one constant text for all values.  Its command is C{python -m
bench.servers.constant DIGITS twistd's arguments ...}.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


async def asgi(
    scope: dict[str, Any],
    _: Callable[[], Awaitable[object]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """
    Respond with a constant, for uvicorn and granian.
    """
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"0\n"})


async def rsgi(_: object, protocol: Any) -> None:
    """
    Respond with a constant, for granian.
    """
    headers = [(name.decode(), value.decode()) for name, value in HEADERS]
    protocol.response_bytes(200, headers, b"0\n")


def main() -> None:
    """
    Run C{twistd} in this process, with the same text for every term.
    """
    from twisted.scripts.twistd import run  # noqa: PLC0415 not for the others

    from pexservice.core.sequence import Term  # noqa: PLC0415 for one of the servers

    # This character occurs nowhere else in a response.
    text = b"~" * int(sys.argv[1])
    Term.text = property(lambda _: text)  # type: ignore[method-assign,assignment]
    sys.argv[:] = ["twistd", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()
