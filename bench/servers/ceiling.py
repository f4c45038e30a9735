"""
The upper bound: uvloop, with a constant response to each request.

The command is C{python -m bench.servers.ceiling PORT}.
"""

import asyncio
import sys
from typing import cast

import uvloop

_HEAD = b"HTTP/1.%b 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n0\n"
ANSWERS = {version: _HEAD % version for version in (b"0", b"1")}


class Constant(asyncio.Protocol):
    """
    A connection that counts each chunk of bytes as one request.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Keep the transport for the responses.
        """
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """
        Respond to a request, and close the connection after HTTP/1.0.
        """
        if b"HTTP/1.0" in data:
            self.transport.write(ANSWERS[b"0"])
            self.transport.close()
        else:
            self.transport.write(ANSWERS[b"1"])


async def main() -> None:
    """
    Serve on the port in the command line.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Constant, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
