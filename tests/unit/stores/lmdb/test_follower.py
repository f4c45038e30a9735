"""
A standby has read the keys of the store when it takes over, whatever happens meanwhile.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from pexservice.core.cursor import Transition
from pexservice.stores.lmdb import follower, page_format, records
from pexservice.stores.lmdb.databases import oldest_reader
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.follower import (
    FOLLOW_INTERVAL_SECONDS,
    MORE_ROWS_SECONDS,
    Follower,
)
from pexservice.stores.lmdb.transaction import KeyReader, Retention
from pexservice.stores.remembered_keys import KeyUse
from tests.support.fakes import now
from tests.support.format_1 import turn_back
from tests.support.lmdb_pages import BRANCH, PagedFile
from tests.unit.stores.lmdb.test_store import at, filled


class Service:
    """
    A store that an active worker writes to, and the follower of a standby.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = at(path)
        now(self.store.open())
        self.clock = Clock()
        self.log = KeyReader(100_000)
        self.follower = Follower(path / DATA_FILE, self.log, self.clock)
        self.follower.start()
        self.clock.advance(0)

    def commit(self, *names: bytes) -> None:
        """
        Commit a step for each of C{names}, in one batch.
        """
        self.store.step(b"n" * len(names), *names)
        # Some file systems have coarse times.
        os.utime(self.path / DATA_FILE, ns=(0, self.store.state.revision))

    def poll(self) -> None:
        """
        Let the follower read.
        """
        self.clock.advance(FOLLOW_INTERVAL_SECONDS)

    def knows(self, name: bytes) -> bool:
        """
        Return whether the follower has read C{name}.
        """
        return self.log.remembered_keys.find(name) is not None

    def take_over(self) -> None:
        """
        Close the store, and open it as the standby does.
        """
        now(self.store.close())
        self.follower.stop()
        self.store = at(self.path, verify=None)
        self.store._key_reader = self.log
        now(self.store.open())


@pytest.fixture
def service(path: Path) -> Iterator[Service]:
    """
    Provide a new store and its follower.
    """
    service = Service(path)
    yield service
    service.follower.stop()
    now(service.store.close())


def test_keys_are_read_once_a_second(service: Service) -> None:
    service.commit(b"one", b"two")
    assert not service.knows(b"one")
    service.poll()
    assert service.log.remembered_keys.find(b"two") == KeyUse(Transition.NEXT, 2, 2)
    # The row grows, and then more rows come.
    for number in range(10):
        service.commit(*(b"%d-%d" % (number, index) for index in range(40)))
        service.poll()
        assert service.knows(b"%d-39" % number)
    assert len(service.log.remembered_keys) == 402


def test_rows_of_all_sizes_are_read_from_trees_of_all_depths(service: Service) -> None:
    names = []
    for number in range(600):
        size = (1, 64, 3, 70, 300)[number % 5]
        names += [b"%s-%d-%d" % (b"k" * (number % 200), number, n) for n in range(size)]
        service.commit(*names[-size:])
    for _ in range(10):
        service.clock.advance(FOLLOW_INTERVAL_SECONDS)
        service.clock.pump([MORE_ROWS_SECONDS] * 20)
    assert all(map(service.knows, names))


def test_few_rows_are_read_at_a_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "MAX_ROWS", 2)
    for number in range(6):
        service.commit(*(b"%d-%d" % (number, index) for index in range(64)))
    service.poll()
    assert service.knows(b"1-63")
    assert not service.knows(b"2-0")
    service.clock.pump([MORE_ROWS_SECONDS] * 5)
    assert service.knows(b"5-63")


def test_unchanged_file_is_not_read_again_and_no_page_is_held(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.commit(b"one")
    service.poll()
    assert oldest_reader(service.store.opened.databases.env) is None
    monkeypatch.setattr(page_format, "read_meta", pytest.fail)
    service.poll()
    assert service.knows(b"one")


def test_standby_that_takes_over_reads_only_what_is_new(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        service.commit(*(b"%d-%d" % (number, index) for index in range(64)))
    service.poll()
    service.commit(b"last")
    read: list[bytes] = []
    decode_key_row = records.decode_key_row

    def record(key: bytes, value: bytes) -> records.KeyRow:
        read.append(key)
        return decode_key_row(key, value)

    monkeypatch.setattr(records, "decode_key_row", record)
    service.take_over()
    assert service.knows(b"last")
    assert service.knows(b"0-0")
    # The newest row to compare it with the cursor, and to append to it; then the last row
    # that was followed, and the new one.
    assert read == [records.encode_first_item(first) for first in (321, 321, 257, 321)]


def test_damage_does_not_end_the_standby(service: Service) -> None:
    """
    Whatever stands in the file, and however short it is.
    """
    service.commit(*(b"%d" % number for number in range(200)))
    data = (service.path / DATA_FILE).read_bytes()
    damaged = service.path / "damaged"

    def poll() -> None:
        victim = Follower(damaged, KeyReader(1000), service.clock)
        victim._poll()
        victim.stop()

    for offset in range(0, len(data), 61):
        damaged.write_bytes(data[:offset] + b"\xff" * 7 + data[offset + 7 :])
        poll()
    for length in range(0, len(data), 999):
        damaged.write_bytes(data[:length])
        poll()
    damaged.unlink()
    poll()
    os.mkfifo(damaged)
    poll()


def test_tree_that_is_a_circle_is_given_up(service: Service) -> None:
    for number in range(300):
        service.commit(*(b"%d-%d" % (number, index) for index in range(64)))
    file = PagedFile(service.path)
    whole = bytes(file.data)
    # Every branch page becomes its own child, and each tree the deepest that may be.
    for page in file.used[BRANCH]:
        for node in file.nodes(page):
            file.put(page, node, page.to_bytes(6, "little"))
    for record in re.finditer(b"keys" + struct.pack("<IH", 0, 0), whole):
        file.put(0, record.end(), struct.pack("<H", 32))
    service.poll()
    assert service.log.newest_row.uses == b""
    (service.path / DATA_FILE).write_bytes(whole)
    service.poll()
    assert service.knows(b"0-0")


def test_store_that_comes_back_is_followed_again(service: Service, tmp_path: Path) -> None:
    service.commit(b"one")
    service.poll()
    service.path.rename(tmp_path / "away")
    service.poll()
    assert not service.knows(b"one")
    (tmp_path / "away").rename(service.path)
    service.poll()
    assert service.knows(b"one")


def test_keys_of_a_store_that_was_replaced_are_forgotten(
    service: Service, tmp_path: Path
) -> None:
    service.commit(*(b"%d" % number for number in range(100)))
    service.poll()
    now(service.store.close())
    service.path.rename(tmp_path / "away")
    filled(service.path, 30)
    service.take_over()
    keys = service.store.remembered_keys
    assert keys.find(b"key-29") is not None
    assert keys.find(b"5") is None
    assert len(keys) == 30


def test_rows_that_were_trimmed_meanwhile_do_not_matter(service: Service) -> None:
    service.store.opened._retention = Retention(10, 10)
    service.commit(*(b"a%d" % number for number in range(64)))
    service.poll()
    for number in range(20):
        service.commit(*(b"b%d-%d" % (number, index) for index in range(64)))
    service.poll()
    service.poll()
    assert service.knows(b"b19-63")
    service.take_over()
    assert service.knows(b"b19-63")


def test_store_of_format_1_is_not_followed(path: Path) -> None:
    filled(path, 10)
    turn_back(path)
    log = KeyReader(1000)
    following = Follower(path / DATA_FILE, log, Clock())
    following._poll()
    assert following._failures == len(log.remembered_keys) == 0
