"""
TLS between a connection and its socket.

The TLS of asyncio decrypts all input of all connections as soon as it arrives.  But a
client can send input that costs far more to decrypt than to send: a KeyUpdate of 27 bytes
takes 10 microseconds, and a handshake requires a signature.  So this transport decrypts its
input in small parts, and only while the worker has time for it: all connections share a
L{ParsingBudget<pexservice.server.server.ParsingBudget>}.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from pexservice.server.connection import Connection
from pexservice.server.limits import Phase
from pexservice.server.server import Server

#: How many bytes are decrypted in one part.  2048 bytes contain at most 80 KeyUpdates,
#: which take 0.8 milliseconds.  The first message of a client has up to 1,900 bytes, with a
#: post-quantum key, so it fits into one part.
MAX_DECRYPTED_BYTES = 2048

#: How many bytes may arrive before OpenSSL has data for the connection.  If more
#: arrive, the connection is aborted as C{flooding}.  OpenSSL returns data when a whole
#: record has arrived, and a record has up to 16 KiB of data.  A handshake is smaller.
MAX_BYTES_WITHOUT_DATA = 32768

#: How many bytes of data one record may contain.
_MAX_RECORD_BYTES = 16384


class TlsTransport(asyncio.Protocol):
    """
    A layer between a transport of the event loop and a L{Connection}.

    This class is the protocol of the event loop's transport, and the transport of the
    connection.
    """

    def __init__(
        self, server: Server, context: ssl.SSLContext, connection: Connection, client: str
    ) -> None:
        """
        @param client: the client, for the order of the connections in the parsing budget.
        """
        self._server = server
        self._client = client
        self._budget = server.parsing_budget
        self._connection = connection
        self._socket_transport: asyncio.Transport | None = None
        # The encrypted bytes for OpenSSL, and those from OpenSSL.
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # The input that OpenSSL has not got yet.
        self._encrypted = bytearray()
        # Whether OpenSSL may have more decrypted data.
        self._has_decrypted = False
        self._bytes_without_data = 0
        self._handshake_done = self._decryption_scheduled = False
        self._is_reading = True
        # Whether reading from the socket is paused, by the connection or because the budget
        # is spent.
        self._socket_paused = False
        # Whether the peer sends no more, and whether this end sends no more.
        self._input_ended = self._output_ended = False
        self._eof_reported = False

    # Calls of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket_transport = transport  # type: ignore[assignment]
        if self._output_ended:
            transport.abort()  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._output_ended:
            return
        self._encrypted += data
        if self._decryption_scheduled or not self._is_reading:
            return
        if self._budget.has_time:
            self._decrypt_input()
        else:
            self._wait(self._client)

    def eof_received(self) -> bool:
        self._input_ended = True
        if not (self._encrypted or self._has_decrypted):
            self._end_input()
        # The connection may have a response to send.
        return True

    def pause_writing(self) -> None:
        if self._handshake_done:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._handshake_done:
            self._connection.resume_writing()

    def connection_lost(self, error: BaseException | None) -> None:
        self._output_ended = True
        self._encrypted.clear()
        # This frees the memory of OpenSSL at once, and not at the next garbage collection.
        self._socket_transport = None
        del self._tls, self._incoming, self._outgoing
        if self._connection.phase is not Phase.CLOSED:
            self._connection.connection_lost(error)

    # Decrypting.

    def _wait(self, client: str | None = None) -> None:
        self._decryption_scheduled = True
        self._pause_socket()
        self._budget.wait(self._decrypt_input, client)

    @property
    def _open_socket(self) -> asyncio.Transport | None:
        """
        Return the transport of the socket, unless it is closing.
        """
        transport = self._socket_transport
        return None if transport is None or transport.is_closing() else transport

    def _pause_socket(self) -> None:
        if (transport := self._open_socket) is not None:
            self._socket_paused = True
            transport.pause_reading()

    def _decrypt_input(self) -> None:
        """
        Decrypt input until there is no more, the budget is spent, or reading is paused.
        """
        self._decryption_scheduled = False
        try:
            while self._can_decrypt:
                begin = self._budget.seconds()
                self._decrypt_part()
                self._budget.spend(self._budget.seconds() - begin)
                if self._can_decrypt and self._budget.must_wait:
                    self._wait()
                    return
        except ssl.SSLError:
            # OpenSSL has written an alert, which tells the peer of the error.
            self._flush()
            self._close_socket()
            return
        if self._is_reading and not self._output_ended:
            if self._input_ended:
                self._end_input()
            elif self._socket_paused and self._socket_transport is not None:
                self._socket_paused = False
                self._socket_transport.resume_reading()

    @property
    def _can_decrypt(self) -> bool:
        return (
            self._is_reading
            and not self._output_ended
            and bool(self._encrypted or self._has_decrypted)
        )

    def _decrypt_part(self) -> None:
        """
        Decrypt up to L{MAX_DECRYPTED_BYTES} of the input.

        @raise ssl.SSLError: the input is not TLS, or it was changed on its way.
        """
        if not self._has_decrypted:
            self._incoming.write(self._encrypted[:MAX_DECRYPTED_BYTES])
            self._bytes_without_data += min(len(self._encrypted), MAX_DECRYPTED_BYTES)
            del self._encrypted[:MAX_DECRYPTED_BYTES]
        try:
            if not self._handshake_done:
                self._tls.do_handshake()
                self._handshake_done = True
                self._flush()
                self._connection.connection_made(self)  # type: ignore[arg-type]
            self._has_decrypted = True
            while self._is_reading and not self._output_ended:
                data = self._tls.read(_MAX_RECORD_BYTES)
                if not data:
                    # The peer has sent close_notify.  Bytes after that are dropped.
                    self._has_decrypted = False
                    self._encrypted.clear()
                    self._input_ended = True
                    break
                self._bytes_without_data = 0
                # This check is cheaper than the exception that another read would raise.
                self._has_decrypted = bool(self._incoming.pending or self._tls.pending())
                self._connection.data_received(data)
                if not self._has_decrypted:
                    break
        except ssl.SSLWantReadError:
            self._has_decrypted = False
        self._flush()
        if self._bytes_without_data > MAX_BYTES_WITHOUT_DATA:
            self._server.connections.closed["flooding"] += 1
            self.abort()

    def _end_input(self) -> None:
        if not self._handshake_done:
            self.abort()
        elif not (self._output_ended or self._eof_reported):
            self._eof_reported = True
            self._connection.eof_received()

    def _flush(self) -> None:
        if self._socket_transport is not None and self._outgoing.pending:
            self._socket_transport.write(self._outgoing.read())

    # The methods of a transport, as far as a connection calls them.

    def write(self, data: bytes) -> None:
        if data and self._handshake_done and not self._output_ended:
            self._tls.write(data)
            self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """
        Tell the peer that no more data follows, and drop all further input.
        """
        self._send_close_notify()
        if (transport := self._open_socket) is not None:
            transport.write_eof()
            transport.resume_reading()

    def _send_close_notify(self) -> None:
        if self._handshake_done and not self._output_ended:
            with suppress(ssl.SSLError):
                # OpenSSL raises an error if the peer has not sent its close_notify yet.
                self._tls.unwrap()
            self._flush()
        self._output_ended = True
        self._encrypted.clear()

    def close(self) -> None:
        self._send_close_notify()
        self._close_socket()

    def _close_socket(self) -> None:
        self._output_ended = True
        if self._socket_transport is not None:
            self._socket_transport.close()

    def abort(self) -> None:
        self._output_ended = True
        if self._socket_transport is not None:
            self._socket_transport.abort()

    def is_closing(self) -> bool:
        return self._output_ended

    def pause_reading(self) -> None:
        self._is_reading = False
        self._pause_socket()

    def resume_reading(self) -> None:
        if self._is_reading:
            return
        self._is_reading = True
        if self._output_ended:
            if (transport := self._open_socket) is not None:
                transport.resume_reading()
        elif not self._decryption_scheduled:
            # The connection must parse its own buffer before it gets more data.
            self._decryption_scheduled = True
            self._server.call_soon(self._decrypt_input)

    def get_extra_info(self, name: str) -> object:
        return self._socket_transport and self._socket_transport.get_extra_info(name)
