"""
The watch, by which a node hears of what other nodes do when they do it.

Nothing depends on the watch: a node that needs the cursor reads it.  If a watch hears
nothing, because its connection is dead without a sign of it, the news arrives with the next
read.  A watch is begun again after a while in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pexservice.stores.etcd import records
from pexservice.stores.etcd.caller import Caller, Refused, Unanswered
from pexservice.stores.etcd.records import Cursor, Keys, Message

#: The longest line that is kept; an event has some hundred bytes.
_LONGEST = 65536


class Lines:
    """
    A parser that takes an answer in pieces, and passes on the cursors that are in it.
    """

    def __init__(self, heard: Callable[[Cursor], None]) -> None:
        self._heard = heard
        self._rest = b""

    def take(self, chunk: bytes) -> None:
        """
        Take a piece of the answer, and pass on the cursors in the lines that it ends.
        """
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest if len(rest) < _LONGEST else b""
        for line in lines:
            try:
                events = json.loads(line)["result"].get("events", [])
            except (ValueError, KeyError, TypeError, AttributeError):
                # An error, or not etcd: the watch is over then.
                continue
            for event in events:
                # An event without a type is a put.  A record that cannot be read is
                # reported by the next read.
                if "type" not in event:
                    with suppress(records.BadRecord):
                        self._heard(records.read_cursor(event["kv"]))


class Watch:
    """
    A watch on the cursor, which lasts until it is stopped.
    """

    _log = Logger()

    def __init__(self, caller: Caller, keys: Keys, heard: Callable[[Cursor], None]) -> None:
        """
        Begin to watch the cursor.

        @param heard: called with each cursor.
        """
        self._caller = caller
        self._message: Message = {"create_request": {"key": records.text(keys.cursor)}}
        self._heard = heard
        # A stream that is given up may end as if it had broken.
        self._stopped = False
        self._watching = Deferred.fromCoroutine(self._watch())

    async def _watch(self) -> None:
        while not self._stopped:
            try:
                await self._caller.stream(self._message, Lines(self._heard).take)
            except (Refused, Unanswered) as error:
                self._log.debug("the watch ended: {error}", error=error)
            if not self._stopped:
                await self._caller.pause(5)

    def stop(self) -> None:
        """
        Stop the watch.
        """
        self._stopped = True
        self._watching.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._watching.cancel()
