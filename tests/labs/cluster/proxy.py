"""
A TCP proxy that disturbs the connections it passes on.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto


class Mood(Enum):
    """
    The ways in which a proxy treats what comes.
    """

    #: Pass it on.
    FAIR = auto()
    #: Pass it on, later.
    SLOW = auto()
    #: Take it, and no more.
    SILENT = auto()
    #: Pass requests on, and keep the answers.
    DEAF = auto()
    #: Tell the server that the client has nothing more to say, and keep the answers.
    HALF_CLOSED = auto()
    #: Break the connections, and take none.
    CUT = auto()


#: How late a slow proxy passes on what comes.  Seconds.
DELAY = 0.2


class Proxy:
    """
    A proxy in front of one port.

    @ivar port: where it listens.
    """

    def __init__(self, behind: int, delay: float = DELAY) -> None:
        """
        @param delay: how late it passes on what comes, when it is slow.  Seconds.
        """
        self._behind, self._delay = behind, delay
        self._mood = Mood.FAIR
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def being(self, mood: Mood) -> Iterator[None]:
        """
        Be in a mood until the end of the block.
        """
        self._mood = mood
        if mood is Mood.CUT:
            self._break()
        if mood is Mood.HALF_CLOSED:
            for _, server in self._taken():
                with suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
        try:
            yield
        finally:
            self._mood = Mood.FAIR
            # Bytes that these connections have lost are gone.
            if mood is not Mood.SLOW:
                self._break()

    def _taken(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            return list(self._pairs)

    def _break(self) -> None:
        for pair in self._taken():
            self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._mood is Mood.CUT:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._behind), 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            pumps = [
                threading.Thread(target=self._pump, args=(*way, pair, answers), daemon=True)
                for way, answers in (((client, server), False), ((server, client), True))
            ]
            for pump in pumps:
                pump.start()
            threading.Thread(target=self._bury, args=(pumps, pair), daemon=True).start()

    def _bury(
        self, pumps: list[threading.Thread], pair: tuple[socket.socket, socket.socket]
    ) -> None:
        for pump in pumps:
            pump.join()
        for side in pair:
            side.close()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        answers: bool,  # noqa: FBT001 a thread's arguments
    ) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                mood = self._mood
                if mood is Mood.SLOW:
                    time.sleep(self._delay)
                if mood is Mood.SILENT or (
                    answers and mood in (Mood.DEAF, Mood.HALF_CLOSED)
                ):
                    continue
                sink.sendall(chunk)
        self._end(pair)

    def close(self) -> None:
        """
        Close the proxy for good.
        """
        self._listener.close()
        self._break()
