"""
A fake of etcd in memory, and a network between it and a store that a test controls.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from operator import eq, gt, lt

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from pexservice.stores.etcd.gateway import CallRefused, CallUnanswered
from pexservice.stores.etcd.messages import delete, put
from pexservice.stores.etcd.records import Message, base64_text

#: The maximum number of operations in a branch of a transaction, and of comparisons.
MAX_OPERATIONS = 128

NO_SPACE = "etcdserver: mvcc: database space exceeded"

#: Status codes of gRPC.
INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 3, 5, 7, 8


def _within(transaction: Message) -> Message:
    return {"request_txn": transaction}


MANY = [put(b"%d" % number, "") for number in range(129)]

#: Transactions that etcd refuses.
WRONG: list[Message] = [
    {"success": [put(b"k", ""), put(b"k", "")]},
    {"success": [delete(b"k"), put(b"k", "")]},
    # The branch is not taken.
    {"failure": [put(b"k", ""), delete(b"k")]},
    {"success": [put(b"k", ""), _within({"success": [put(b"k", "")]})]},
    {"success": [delete(b"k"), _within({"success": [put(b"k", "")]})]},
    {"success": MANY},
    {"failure": [_within({"success": MANY})]},
    # There is no such lease.
    {"success": [put(b"k", ""), put(b"l", "", lease="77")]},
]

#: Transactions that etcd accepts.
RIGHT: list[Message] = [
    {"success": MANY[1:]},
    {
        "success": [
            _within({"success": [put(b"k", "")]}),
            _within({"success": [delete(b"l")]}),
        ]
    },
    {"failure": [put(b"k", "", lease="77")]},
]


@frozen
class Value:
    """
    The value of a key, with its revisions and its lease.
    """

    value: str
    create: int
    mod: int
    lease: str


Values = dict[bytes, Value]


@define(eq=False)
class FakeEtcd:
    """
    A fake of etcd that refuses the same transactions as the real one.

    @ivar changes: the transactions that changed something.
    @ivar watchers: pairs of a key and a function that is called with each change of the
        key.
    @ivar alarmed: etcd is out of space, and refuses transactions that put a key.
    @ivar filling: the next transaction that puts a key is applied and refused all the same,
        because etcd runs out of space.
    @ivar read_only: the user may read, but not write.
    """

    values: Values = Factory(dict)
    revision: int = 1
    leases: int = 0
    ended: set[str] = Factory(set)
    changes: list[Message] = Factory(list)
    watchers: list[tuple[bytes, Callable[[bytes], object]]] = Factory(list)
    alarmed: bool = False
    filling: bool = False
    read_only: bool = False

    def snapshot(self) -> tuple[int, Values]:
        return self.revision, dict(self.values)

    def restore(self, snapshot: tuple[int, Values], bump: int = 0) -> None:
        """
        Restore a snapshot, and raise its revision by C{bump}.
        """
        revision, values = snapshot
        self.revision, self.values = revision + bump, dict(values)

    def put(self, key: bytes, value: bytes) -> None:
        """
        Put a key, as an operator or another node does.
        """
        self.apply("kv/txn", {"success": [put(key, base64_text(value))]})

    def apply(self, path: str, message: Message) -> Message:
        """
        Carry out a call, and return the response.
        """
        return {
            "kv/range": self._range,
            "kv/txn": self._txn,
            "kv/deleterange": self._delete,
            "lease/grant": self._grant,
            "lease/revoke": lambda message: self.expire(message["ID"]),
        }[path](message)

    def _grant(self, message: Message) -> Message:
        self.leases += 1
        return {"ID": str(self.leases), "TTL": message["TTL"]}

    def expire(self, lease: str) -> Message:
        """
        End a lease, and delete its keys.
        """
        self.ended.add(lease)
        for key in [key for key, stored in self.values.items() if stored.lease == lease]:
            del self.values[key]
        return {}

    def _selected(self, message: Message) -> list[bytes]:
        key = b64decode(message["key"])
        if "range_end" not in message:
            return [key] if key in self.values else []
        end = b64decode(message["range_end"])
        keys = [value for value in self.values if key <= value < end]
        keys.sort(reverse=message.get("sort_order") == "DESCEND")
        if message.get("sort_target") == "MOD":
            keys.sort(key=lambda stored_key: self.values[stored_key].mod)
        return keys

    def _range(self, message: Message) -> Message:
        values = [
            {
                "key": b64encode(key).decode(),
                "value": self.values[key].value,
                "create_revision": str(self.values[key].create),
                "mod_revision": str(self.values[key].mod),
            }
            for key in self._selected(message)[: int(message.get("limit", 10**9))]
        ]
        return {"kvs": values} if values else {}

    def _delete(self, message: Message) -> Message:
        for key in self._selected(message):
            del self.values[key]
        return {}

    def _txn(self, message: Message) -> Message:
        if self.read_only and _puts(message):
            raise CallRefused(PERMISSION_DENIED, "etcdserver: permission denied")
        _check_size(message)
        for branch in _branches(message):
            _check_overlaps(branch)
        if self.alarmed and _puts(message):
            raise CallRefused(RESOURCE_EXHAUSTED, NO_SPACE)
        # etcd chooses all branches before it applies an operation.
        before = dict(self.values)
        operations = [*_chosen_operations(message, before)]
        for operation in operations:
            lease = operation.get("request_put", {}).get("lease")
            if lease in self.ended or (lease and int(lease) > self.leases):
                raise CallRefused(NOT_FOUND, "etcdserver: requested lease not found")
        if any("request_range" not in operation for operation in operations):
            self.revision += 1
            self.changes.append(message)
        answer = self._answer(message, before)
        self._notify(operations)
        if self.filling and _puts(message):
            self.filling, self.alarmed = False, True
            raise CallRefused(RESOURCE_EXHAUSTED, NO_SPACE)
        return {"header": {"revision": str(self.revision)}, **answer}

    def _notify(self, operations: list[Message]) -> None:
        for operation in operations:
            put = operation.get("request_put", {"key": ""})
            key = b64decode(put["key"])
            line = {"result": {"events": [{"kv": {**put, "mod_revision": self.revision}}]}}
            for watched, tell in self.watchers:
                if watched == key:
                    tell(json.dumps(line).encode() + b"\n")

    def _answer(self, message: Message, before: Values) -> Message:
        """
        Apply a transaction that was sent when the keys had the values C{before}.
        """
        succeeded, operations = _choose_branch(message, before)
        responses = [self._operate(operation, before) for operation in operations]
        return {"responses": responses} | ({"succeeded": True} if succeeded else {})

    def _operate(self, operation: Message, before: Values) -> Message:
        ((kind, message),) = operation.items()
        if kind == "request_txn":
            return {"response_txn": self._answer(message, before)}
        if kind == "request_range":
            return {"response_range": self._range(message)}
        if kind == "request_delete_range":
            return {"response_delete_range": self._delete(message)}
        key = b64decode(message["key"])
        created = self.values[key].create if key in self.values else self.revision
        self.values[key] = Value(
            message["value"], created, self.revision, message.get("lease", "")
        )
        return {"response_put": {}}


def _holds(compare: Message, values: Values) -> bool:
    value = values.get(b64decode(compare["key"]))
    if compare["target"] == "VALUE":
        # A missing key has no value, so it equals none.
        return value is not None and value.value == compare["value"]
    name = compare["target"].lower()
    revision = getattr(value, name) if value else 0
    matches = {"EQUAL": eq, "GREATER": gt, "LESS": lt}[compare["result"]]
    return bool(matches(revision, int(compare[f"{name}_revision"])))


def _choose_branch(message: Message, values: Values) -> tuple[bool, list[Message]]:
    succeeded = all(_holds(compare, values) for compare in message.get("compare", []))
    return succeeded, message.get("success" if succeeded else "failure", [])


def _chosen_operations(message: Message, values: Values) -> Iterator[Message]:
    _, operations = _choose_branch(message, values)
    for operation in operations:
        if "request_txn" in operation:
            yield from _chosen_operations(operation["request_txn"], values)
        else:
            yield operation


def _branches(message: Message) -> tuple[list[Message], list[Message]]:
    return message.get("success", []), message.get("failure", [])


def _all_operations(*branches: list[Message]) -> Iterator[Message]:
    """
    Yield the operations of C{branches}, and those of all transactions nested in them.
    """
    for operation in chain(*branches):
        yield operation
        if "request_txn" in operation:
            yield from _all_operations(*_branches(operation["request_txn"]))


def _puts(message: Message) -> bool:
    """
    Return whether one of the branches of a transaction puts a key.
    """
    operations = _all_operations(*_branches(message))
    return any("request_put" in operation for operation in operations)


def _check_size(message: Message) -> None:
    for branch in (message.get("compare", []), *_branches(message)):
        if len(branch) > MAX_OPERATIONS:
            raise CallRefused(INVALID_ARGUMENT, "etcdserver: too many operations")
        for operation in branch:
            if "request_txn" in operation:
                _check_size(operation["request_txn"])


def _check_overlaps(branch: list[Message]) -> None:
    """
    Check that a branch puts no key twice, and deletes no key that it puts.

    etcd accepts such operations in exclusive branches of a nested transaction, the fake
    does not.
    """
    puts: list[bytes] = []
    deletions: list[tuple[bytes, bytes]] = []
    for operation in _all_operations(branch):
        ((kind, message),) = operation.items()
        if kind == "request_put":
            puts.append(b64decode(message["key"]))
        elif kind == "request_delete_range":
            key = b64decode(message["key"])
            end = message.get("range_end")
            deletions.append((key, key + b"\0" if end is None else b64decode(end)))
    if len(puts) > len({*puts}) or any(
        start <= key < end for key in puts for start, end in deletions
    ):
        raise CallRefused(
            INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"
        )


@define(eq=False)
class Sent:
    """
    A message on its way to etcd.

    @ivar answer: etcd's response, if etcd has got the message.
    """

    path: str
    message: Message
    done: Deferred[Message]
    answer: Message | CallRefused | None = None


@define(eq=False)
class FakeGateway:
    """
    A connection to the fake etcd.

    While C{open} is false, messages wait until the test decides what happens to them.

    @ivar waiting: the messages whose sender waits for a response.
    @ivar loose: the messages that their sender has given up, and that may still arrive.
    @ivar news: the events of the watch that have not arrived.
    """

    etcd: FakeEtcd
    clock: Clock
    open: bool = True
    waiting: list[Sent] = Factory(list)
    loose: list[Sent] = Factory(list)
    news: list[bytes] = Factory(list)
    certificate_expires: float | None = None
    _take_news: Callable[[bytes], None] | None = None

    async def survey(self) -> dict[str, str]:
        """
        Report no faulty member.
        """
        return {}

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key until the test ends.
        """
        key = b64decode(message["create_request"]["key"])
        self._take_news = take
        self.etcd.watchers.append((key, self.news.append))
        await Deferred()

    def hear(self) -> None:
        """
        Deliver the first event of the watch.
        """
        assert self._take_news is not None
        self._take_news(self.news.pop(0))

    def miss(self) -> None:
        """
        Lose the first event of the watch.
        """
        del self.news[0]

    async def call(self, path: str, message: Message) -> Message:
        if self.open:
            return self.etcd.apply(path, message)
        sent = Sent(path, message, Deferred())
        self.waiting.append(sent)
        return await sent.done

    async def pause(self, attempt: int) -> None:
        """
        Wait for 0.1 seconds before any attempt.
        """
        await deferLater(self.clock, 0.1)

    async def close(self) -> None:
        """
        There are no connections to close.
        """

    def answer(self) -> None:
        """
        Deliver the first message and its response.
        """
        answer = self.reach()
        if isinstance(answer, CallRefused):
            self.fail(answer)
        else:
            self.waiting.pop(0).done.callback(answer)

    def reach(self) -> Message | CallRefused:
        """
        Deliver the first message if etcd has not got it, and return etcd's response.

        The sender still waits for the response.
        """
        sent = self.waiting[0]
        if sent.answer is None:
            try:
                sent.answer = self.etcd.apply(sent.path, sent.message)
            except CallRefused as error:
                sent.answer = error
        return sent.answer

    def lose_answer(self) -> None:
        """
        Deliver the first message, and lose its response.
        """
        self.reach()
        self.lose()

    def lose(self, *, sent: bool = True) -> None:
        """
        Lose the first message.  If it was C{sent}, it may still arrive later.
        """
        message = self.waiting[0]
        if sent and message.answer is None:
            self.loose.append(message)
        self.fail(CallUnanswered("lost", sent=sent))

    def fail(self, error: Exception) -> None:
        """
        End the first message with C{error}.
        """
        self.waiting.pop(0).done.errback(error)

    def arrive(self) -> None:
        """
        Deliver the first message that its sender has given up.
        """
        sent = self.loose.pop(0)
        with suppress(CallRefused):
            self.etcd.apply(sent.path, sent.message)
