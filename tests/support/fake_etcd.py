"""
As much of etcd as the store uses, in memory, and a network that a test holds in its
hands.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from pexservice.stores.etcd.caller import Unanswered
from pexservice.stores.etcd.records import Message


@define
class Value:
    """
    What is under a key.
    """

    value: str
    create: int
    mod: int
    lease: str


@define(eq=False)
class FakeEtcd:
    """
    One that is always right.

    @ivar changes: the transactions that changed something.
    """

    values: dict[bytes, Value] = Factory(dict)
    revision: int = 1
    leases: int = 0
    changes: list[Message] = Factory(list)

    def apply(self, path: str, message: Message) -> Message:
        """
        Do it, and answer.
        """
        return {
            "kv/range": self._range,
            "kv/txn": self._txn,
            "lease/grant": self._grant,
            "lease/revoke": lambda message: self.expire(message["ID"]),
        }[path](message)

    def _grant(self, message: Message) -> Message:
        self.leases += 1
        return {"ID": str(self.leases), "TTL": message["TTL"]}

    def expire(self, lease: str) -> Message:
        """
        A lease ends, and its keys with it.
        """
        for key in [key for key, each in self.values.items() if each.lease == lease]:
            del self.values[key]
        return {}

    def _selected(self, message: Message) -> list[bytes]:
        key = b64decode(message["key"])
        if "range_end" not in message:
            return [key] if key in self.values else []
        end = b64decode(message["range_end"])
        down = message.get("sort_order") == "DESCEND"
        return sorted((each for each in self.values if key <= each < end), reverse=down)

    def _range(self, message: Message) -> Message:
        found = [
            {
                "key": b64encode(key).decode(),
                "value": self.values[key].value,
                "create_revision": str(self.values[key].create),
                "mod_revision": str(self.values[key].mod),
            }
            for key in self._selected(message)[: int(message.get("limit", 10**9))]
        ]
        return {"kvs": found} if found else {}

    def _holds(self, compare: Message) -> bool:
        value = self.values.get(b64decode(compare["key"]))
        if compare["target"] == "MOD":
            actual, wanted = value.mod if value else 0, int(compare["mod_revision"])
        else:
            actual, wanted = value.create if value else 0, int(compare["create_revision"])
        return actual == wanted if compare["result"] == "EQUAL" else actual > wanted

    def _txn(self, message: Message) -> Message:
        succeeded = all(map(self._holds, message.get("compare", [])))
        operations = message.get("success" if succeeded else "failure", [])
        if any("request_range" not in each for each in operations):
            self.revision += 1
            self.changes.append(message)
        answer: Message = {
            "header": {"revision": str(self.revision)},
            "responses": [self._operate(each) for each in operations],
        }
        return answer | ({"succeeded": True} if succeeded else {})

    def _operate(self, operation: Message) -> Message:
        ((kind, message),) = operation.items()
        if kind == "request_range":
            return {"response_range": self._range(message)}
        if kind == "request_delete_range":
            for key in self._selected(message):
                del self.values[key]
            return {"response_delete_range": {}}
        key = b64decode(message["key"])
        old = self.values.get(key)
        self.values[key] = Value(
            message["value"],
            old.create if old else self.revision,
            self.revision,
            message.get("lease", ""),
        )
        return {"response_put": {}}


@define(eq=False)
class Sent:
    """
    A message under way.

    @ivar answer: that of etcd, which is under way back then.
    """

    path: str
    message: Message
    done: Deferred[Message]
    answer: Message | None = None


@define(eq=False)
class FakeCaller:
    """
    A way to the fake.  Messages wait until the test decides what becomes of them,
    unless it is C{open}.

    @ivar waiting: those whose sender waits.
    @ivar loose: those whose sender was told that there is no answer, and which may
        arrive yet.
    """

    etcd: FakeEtcd
    clock: Clock
    open: bool = True
    waiting: list[Sent] = Factory(list)
    loose: list[Sent] = Factory(list)

    async def call(self, path: str, message: Message) -> Message:
        """
        See L{Caller.call}.
        """
        if self.open:
            return self.etcd.apply(path, message)
        sent = Sent(path, message, Deferred())
        self.waiting.append(sent)
        return await sent.done

    async def pause(self, attempt: int) -> None:
        """
        See L{Caller.pause}.
        """
        await deferLater(self.clock, 0.1)

    async def rest(self, longest: float) -> None:
        """
        See L{Caller.rest}.
        """
        await deferLater(self.clock, longest)

    def seconds(self) -> float:
        """
        See L{Caller.seconds}.
        """
        return self.clock.seconds()

    def _take(self) -> Sent:
        return self.waiting.pop(0)

    def answer(self) -> None:
        """
        The first message arrives, and its answer too.
        """
        answer = self.reach()
        self._take().done.callback(answer)

    def reach(self) -> Message:
        """
        The first message arrives, if it has not, and its answer is under way.
        """
        sent = self.waiting[0]
        if sent.answer is None:
            sent.answer = self.etcd.apply(sent.path, sent.message)
        return sent.answer

    def lose_answer(self) -> None:
        """
        The first message arrives, and its answer does not.
        """
        self.reach()
        self.fail(Unanswered("lost", sent=True))

    def lose(self, *, sent: bool = True) -> None:
        """
        The first message is given up, and may arrive later if it was C{sent}.
        """
        message = self._take()
        if sent and message.answer is None:
            self.loose.append(message)
        message.done.errback(Unanswered("lost", sent=sent))

    def fail(self, error: Exception) -> None:
        """
        The first message ends with C{error}.
        """
        self._take().done.errback(error)

    def arrive(self) -> Any:
        """
        The first loose message arrives.

        @return: what nobody is told.
        """
        sent = self.loose.pop(0)
        return self.etcd.apply(sent.path, sent.message)
