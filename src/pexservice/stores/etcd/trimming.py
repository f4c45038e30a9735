"""
The removal of the oldest idempotency keys.
"""

from __future__ import annotations

from base64 import b64decode

from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.caller import Caller, persist
from pexservice.stores.etcd.records import Keys

#: How many keys one transaction removes at most, but for a batch that has more alone, and
#: how many batches are looked at for it.
MOST = 100


async def trim(caller: Caller, keys: Keys, forgotten: int) -> None:
    """
    Forget the first C{forgotten} keys, but for those that share a batch with a kept key.

    Each transaction takes the oldest batches whole, and only if the oldest one is still
    there.  So a transaction that arrives late, or that another node was faster with,
    changes nothing.

    @raise Refused: etcd refuses.
    @raise Unanswered: etcd does not answer.
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
