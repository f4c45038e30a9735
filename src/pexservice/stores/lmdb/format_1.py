"""
The idempotency keys in format 1, which version 1.0.0 writes.

The other records of format 1 are as in L{pexservice.stores.lmdb.records}.  Each idempotency
key has two records in the database C{keys}, one by its name and one by its age:

=======================  ==========================================
key of the record        payload, with sizes in bytes
=======================  ==========================================
``k`` + idempotency key  transition (1), revision (8), position (8)
``r`` + revision (8)     idempotency key
=======================  ==========================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import lmdb

from pexservice.stores.lmdb.records import BadRecord, unseal
from pexservice.stores.remembered_keys import USE_SIZE, unpack_use

_BY_AGE = struct.Struct(">cQ")

#: Records by name sort before this key, and records by age do not.
OLDEST_AGE_KEY = _BY_AGE.pack(b"r", 0)


def keys_of_format_1(
    txn: lmdb.Transaction[bytes],
    database: lmdb._Database,
    items: Iterable[tuple[bytes, bytes]],
    newest: int,
) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield every idempotency key with its packed use, oldest first.

    All records are checked.

    @param items: all records of C{database}, in order.
    @param newest: the revision of the cursor.
    @raise BadRecord: the records contradict each other.
    """
    names = ages = 0
    for record_key, value in items:
        if record_key < OLDEST_AGE_KEY:
            _read_use(record_key, value, newest)
            names += 1
            continue
        name = unseal(record_key, value)
        by_name = b"k" + name
        record = txn.get(by_name, db=database)
        if record is None:
            raise BadRecord("the idempotency keys contradict each other")
        use = _read_use(by_name, record, newest)
        if record_key != _BY_AGE.pack(b"r", unpack_use(use).revision):
            raise BadRecord("the idempotency keys contradict each other")
        ages += 1
        yield name, use
    if ages != names:
        raise BadRecord(f"of {names} idempotency keys {ages} have an age")


def _read_use(by_name: bytes, value: bytes, newest: int) -> bytes:
    use = unseal(by_name, value)
    try:
        if len(use) != USE_SIZE or unpack_use(use).revision > newest:
            raise BadRecord(f"the record {by_name!r} is newer than the cursor")
    except ValueError as error:
        raise BadRecord(f"the record {by_name!r}: {error}") from None
    return use
