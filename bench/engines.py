"""
The cost of a small durable commit in several storage engines, in turns, on one disk.

C{python bench/engines.py [DIRECTORY]} prints a table for docs/decisions: the medians of a
commit of one record of 64 bytes, and of a commit of a hundred such records.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb

ROUNDS, COMMITS = 5, 200
SMALL, LARGE = 1, 100
RECORD = b"r" * 64

Commit = Callable[[Sequence[bytes]], None]


def append(path: Path) -> Commit:
    """
    Return commits that append to a file and flush it once: the lowest cost of durability.
    """
    file = os.open(path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def commit(records: Sequence[bytes]) -> None:
        os.write(file, b"".join(records))
        os.fdatasync(file)

    return commit


def overwrite(path: Path) -> Commit:
    """
    Return commits that overwrite reserved space in a file and flush it once.
    """
    file = os.open(path / "ring", os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(1 << 20))
    os.fsync(file)

    def commit(records: Sequence[bytes]) -> None:
        os.pwrite(file, b"".join(records), 0)
        os.fdatasync(file)

    return commit


def in_lmdb(path: Path) -> Commit:
    """
    Return commits to LMDB with its defaults: it flushes the data, and then the meta page.
    """
    environment = lmdb.open(str(path / "lmdb"), map_size=1 << 28)
    number = 0

    def commit(records: Sequence[bytes]) -> None:
        nonlocal number
        with environment.begin(write=True) as transaction:
            for record in records:
                number = (number + 1) % 10_000
                transaction.put(b"%08d" % number, record)

    return commit


def in_sqlite(path: Path) -> Commit:
    """
    Return commits to SQLite with a write-ahead log that each commit flushes.
    """
    database = sqlite3.connect(path / "sqlite", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table rows (key integer primary key, value blob)")
    number = 0

    def commit(records: Sequence[bytes]) -> None:
        nonlocal number
        database.execute("begin immediate")
        for record in records:
            number = (number + 1) % 10_000
            database.execute("insert or replace into rows values (?, ?)", (number, record))
        database.execute("commit")

    return commit


ENGINES: dict[str, Callable[[Path], Commit]] = {
    "a file that grows": append,
    "a file with space": overwrite,
    "LMDB": in_lmdb,
    "SQLite, WAL, full": in_sqlite,
}


def median(commit: Commit, size: int) -> float:
    """
    Return the median duration of a commit of C{size} records, in milliseconds.
    """
    times = []
    for _ in range(COMMITS):
        started = time.perf_counter()
        commit([RECORD] * size)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else ".") as directory:
        commits = {name: make(Path(directory)) for name, make in ENGINES.items()}
        durations: dict[tuple[str, int], list[float]] = {}
        for _ in range(ROUNDS):
            for name, commit in commits.items():
                for size in (SMALL, LARGE):
                    durations.setdefault((name, size), []).append(median(commit, size))
    print("| engine | a commit of 1 | a commit of 100 |\n|---|---:|---:|")
    for name in ENGINES:
        one, many = (statistics.median(durations[name, size]) for size in (SMALL, LARGE))
        print(f"| {name} | {one:.3f} ms | {many:.3f} ms |")


if __name__ == "__main__":
    main()
