"""
The oldest idempotency keys go.
"""

from __future__ import annotations

from base64 import b64decode

from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.caller import Caller, persist
from pexservice.stores.etcd.records import Keys

#: How many keys go in one transaction, at least if there are as many, and how many
#: batches are looked at.
MOST = 100


async def trim(caller: Caller, keys: Keys, forgotten: int) -> None:
    """
    Forget the first C{forgotten} keys, but for those that share a batch with one that
    is kept.

    Each transaction takes the oldest batches whole, and only if the oldest one is
    still there.  So one that arrives late, or that another node was faster with,
    changes nothing.

    @raise Refused: etcd does not want to.
    @raise Unanswered: it does not answer.
    """
    if forgotten <= 0:
        return
    while True:
        answer = await persist(
            caller,
            lambda: caller.call(
                "kv/range",
                messages.get(
                    keys.age(0),
                    keys.age(forgotten + 1),
                    limit=str(MOST),
                    sort_order="ASCEND",
                ),
            ),
        )
        names: list[bytes] = []
        ages: list[bytes] = []
        for pair in messages.pairs(answer):
            more = records.read_names(pair)
            if ages and len(names) + len(more) > MOST:
                break
            ages.append(b64decode(pair["key"]))
            names += more
        if not ages:
            return
        message = messages.trimming(keys, ages[0], ages[-1], names)
        await persist(caller, lambda message=message: caller.call("kv/txn", message))  # type: ignore[misc]
