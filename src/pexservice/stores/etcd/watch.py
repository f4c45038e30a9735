"""
The watch on the cursor, which reports other nodes' batches at once.

Correctness does not depend on the watch: a node that needs the cursor reads it from etcd.
So if the connection of a watch breaks without an error, the next read shows the present
cursor.  Every watch ends after a minute, and another watch begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pexservice.stores.etcd import records
from pexservice.stores.etcd.gateway import CallRefused, CallUnanswered, Gateway
from pexservice.stores.etcd.records import CursorRecord, Message


class Watch:
    """
    A watch on the cursor, which lasts until it is stopped.
    """

    _log = Logger()

    def __init__(
        self, gateway: Gateway, key: bytes, cursor_changed: Callable[[CursorRecord], None]
    ) -> None:
        """
        Begin to watch the cursor, which etcd has under C{key}.

        @param cursor_changed: called with every new record of the cursor.
        """
        self._gateway = gateway
        self._message: Message = {"create_request": {"key": records.text(key)}}
        self._cursor_changed = cursor_changed
        # This flag is needed because a cancelled stream may raise CallUnanswered.
        self._stopped = False
        self._watching = Deferred.fromCoroutine(self._watch())

    async def _watch(self) -> None:
        while not self._stopped:
            try:
                await self._gateway.stream(self._message, self._take)
            except (CallRefused, CallUnanswered) as error:
                self._log.debug("the watch ended: {error}", error=error)
            if not self._stopped:
                await self._gateway.pause(5)

    def _take(self, line: bytes) -> None:
        try:
            events = json.loads(line)["result"].get("events", [])
        except (ValueError, KeyError, TypeError, AttributeError):
            # etcd reported an error, or the server is not etcd.  The watch ends anyway.
            return
        for event in events:
            # An event without a type is a put.  The next read reports a record that cannot
            # be read.
            if "type" not in event:
                with suppress(records.ForeignRecord):
                    self._cursor_changed(records.decode_cursor(event["kv"]))

    def stop(self) -> None:
        self._stopped = True
        self._watching.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._watching.cancel()
