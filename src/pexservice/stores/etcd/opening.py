"""
The opening of a store on etcd.

The functions here find out which etcd answers, and whether the store is one of this
program, and make the keys that the first batch needs.
"""

from __future__ import annotations

import re
import secrets

from twisted.logger import Logger

from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.address import Address
from pexservice.stores.etcd.caller import (
    RESOURCE_EXHAUSTED,
    Caller,
    Refused,
    Unanswered,
    ask,
    persist,
)
from pexservice.stores.etcd.gateway import Gateway
from pexservice.stores.etcd.messages import Operation
from pexservice.stores.etcd.records import Cursor, Keys, Message
from pexservice.stores.interface import (
    StoreAway,
    StoreDamaged,
    StoreMisconfigured,
    StoreMissing,
    StoreUnusable,
)

_log = Logger()

#: The oldest version that is used: before it, the gateway is elsewhere.
OLDEST = (3, 4, 0)

#: From the first version to before the second, a member that was paused may answer a
#: linearizable read with an old state.
STALE = ((3, 5, 0), (3, 5, 28))

#: How long an operation key outlives its process, at most, in seconds.  A process
#: whose key has gone makes another one.
LEASE = 24 * 3600


def check_version(name: str, answer: Message) -> str:
    """
    Check the version in an answer of etcd, and return it.

    @param name: where etcd is, for messages.
    @raise StoreMisconfigured: etcd is too old, or something else answers.
    """
    version = str(answer.get("etcdserver", ""))
    if (numbers := _numbers(version)) is None:
        raise StoreMisconfigured(f"{name}: what answers there is not etcd")
    if numbers < OLDEST:
        raise StoreMisconfigured(f"{name} has etcd {version}; 3.4 or newer is required")
    return version


def _numbers(version: str) -> tuple[int, ...] | None:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return match and tuple(map(int, match.groups()))


async def check_members(gateway: Gateway, address: Address) -> dict[str, str]:
    """
    Check that etcd answers, and that no member is too old.

    @return: of each endpoint, its version, or why it does not answer.
    @raise StoreUnusable: nothing answers, or something else does, or an old etcd.
    """
    report: dict[str, str] = {}
    versions: list[str] = []
    for endpoint in address.endpoints:
        try:
            answer = await gateway.version(endpoint)
        except (Refused, Unanswered) as error:
            report[endpoint] = str(error).removeprefix(f"{endpoint}: ")
        else:
            version = check_version(endpoint, answer)
            versions.append(version)
            report[endpoint] = f"etcd {version}"
    if not versions:
        reasons = (f"{endpoint}: {reason}" for endpoint, reason in report.items())
        raise StoreAway(f"no etcd answers: {'; '.join(reasons)}")
    return report


def warn_of_stale_reads(report: dict[str, str]) -> None:
    """
    Log one warning if a member has a version that may answer a read with an old state.
    """
    stale = {
        endpoint: version
        for endpoint, version in report.items()
        if STALE[0] <= (_numbers(version.removeprefix("etcd ")) or ()) < STALE[1]
    }
    if stale:
        _log.warn(
            "{members}: before etcd 3.5.28, a member that was paused may answer a read with"
            " an old state; update etcd",
            members=", ".join(f"{name} has {version}" for name, version in stale.items()),
        )


async def open_cursor(
    caller: Caller, keys: Keys, name: str, *, journal: int, create: bool
) -> Cursor:
    """
    Read the cursor, and create it if there is nothing at all.

    @param journal: how many transitions the history of a new cursor keeps.
    @param create: whether to create a cursor; else its absence is an error.
    @raise StoreUnusable: or one of its subclasses.
    """
    cursor = await find_cursor(caller, keys, name)
    if cursor is not None:
        return cursor
    if not create:
        raise StoreMissing(
            f"{name} has no cursor with the prefix {keys.prefix.decode()}; restore etcd"
            " from a snapshot, or create a cursor with pexctl create"
        )
    try:
        # Of the nodes that do this at the same time, one creates the cursor.
        await ask(caller, "kv/txn", messages.create(keys, journal))
    except (Refused, Unanswered) as error:
        raise explain(name, error) from error
    _log.warn(
        "{name} had no cursor with the prefix {prefix}: a new one was created at"
        " revision 0",
        name=name,
        prefix=keys.prefix.decode(),
    )
    return await open_cursor(caller, keys, name, journal=journal, create=False)


async def find_cursor(caller: Caller, keys: Keys, name: str) -> Cursor | None:
    """
    Read the cursor; return C{None} if there are no keys but those of nodes that run.

    @raise StoreUnusable: or one of its subclasses.
    """
    try:
        answer = await ask(caller, "kv/txn", messages.find_cursor(keys))
        cursor, *others = (
            messages.pairs(response["response_range"]) for response in answer["responses"]
        )
        if not cursor and not any(others):
            return None
        return messages.only_cursor(keys, cursor)
    except (Refused, Unanswered) as error:
        raise explain(name, error) from error
    except records.BadRecord as error:
        raise StoreDamaged(f"{name}, {keys.cursor.decode()}: {error}") from error


async def begin_operations(caller: Caller, keys: Keys) -> Operation:
    """
    Make a new operation key.  An attempt that got no answer does no harm: its lease ends.

    @raise Refused: etcd refuses it.
    @raise Unanswered: etcd does not answer.
    """

    async def attempt() -> Operation:
        granted = await caller.call("lease/grant", {"TTL": str(LEASE)})
        operation = Operation(keys.operation(secrets.token_hex(8)), 0, granted["ID"])
        answer = await caller.call("kv/txn", messages.begin_operations(operation))
        if not answer.get("succeeded"):
            raise Unanswered("the operation key was there", sent=True)
        return operation

    return await persist(caller, attempt)


def explain(name: str, error: Exception) -> StoreUnusable:
    """
    Return the error for a store on etcd that cannot be opened because of C{error}.
    """
    if not isinstance(error, Refused):
        return StoreAway(f"{name} does not answer, or has no quorum: {error}")
    if error.code == RESOURCE_EXHAUSTED:
        return StoreAway(f"{name} refuses: {error}")
    return StoreMisconfigured(f"{name} refuses: {error}")
