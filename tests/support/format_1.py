"""
Stores in format 1, the format of version 1.0.0.
"""

from __future__ import annotations

import struct
from pathlib import Path

import lmdb

from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.records import seal


def turn_back(path: Path) -> dict[bytes, bytes]:
    """
    Convert the store in C{path}, which no process uses, to format 1.

    @return: its idempotency keys with their packed uses.
    """
    keys: dict[bytes, bytes] = {}
    with lmdb.open(str(path), map_size=1 << 28, max_dbs=len(DATABASES), lock=False) as env:
        cursor, _, rows = (env.open_db(name) for name in DATABASES)
        with env.begin(write=True) as txn:
            for key, value in txn.cursor(rows):
                keys |= records.decode_key_row(key, value).items()
            txn.drop(rows, delete=False)
            for name, use in keys.items():
                by_name, by_age = b"k" + name, b"r" + use[1:9]
                txn.put(by_name, seal(by_name, use), db=rows)
                txn.put(by_age, seal(by_age, name), db=rows)
            record = records.decode_cursor(txn.get(records.CURSOR_KEY, b"", db=cursor))
            value = seal(records.CURSOR_KEY, struct.pack(">HQQ", 1, *record.cursor))
            txn.put(records.CURSOR_KEY, value, db=cursor)
    return keys
