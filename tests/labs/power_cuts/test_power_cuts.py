"""
Power cuts under load, during the creation of a store, and while an old store is rewritten.

Each test uses all file systems that a store is likely to be on.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import STAGING_DIRECTORY
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE, sync_directory
from pexservice.stores.lmdb.transaction import read_format_at
from pexservice.stores.remembered_keys import unpack_use
from tests.labs.power_cuts.lab import CLIENTS, cut_power
from tests.labs.power_cuts.volumes import KINDS, Kind, Volume
from tests.support.commands import run_command
from tests.support.daemon import (
    LOOPBACK,
    WORKER,
    Daemon,
    running_command,
    twistd,
    wait_until,
)
from tests.support.fakes import ABOVE_ALL, now
from tests.support.format_1 import turn_back
from tests.support.forms import amount
from tests.unit.stores.lmdb.test_store import at

pytestmark = [
    pytest.mark.once,
    pytest.mark.needs("root", "mounts", "mkfs.ext4", "mkfs.xfs"),
]

CUTS = 51

#: How many stores are created on each file system.
CREATIONS = 6

#: How long the creation of a store runs before the cut, at least and at most.  A complete
#: one takes about 0.01 seconds.
CREATION_SECONDS = (0.0, 0.02)

#: How many stores are rewritten on each file system, and how many keys each has.
REWRITES = amount(short=6, long=20)
KEY_COUNT = amount(short=2_000, long=20_000)

#: How long the rewriting of a store runs before the cut, at least and at most.  A complete
#: one takes from 0.5 to 2 seconds; 0.5 seconds of it is the start of the child process.
REWRITE_SECONDS = (0.0, amount(short=1.0, long=3.0))

REWRITE_PROGRAM = """
import sys
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.migrate import migrate
directory = Directory(sys.argv[1])
directory.lock()
migrate(directory)
"""


def test_power_cut_undoes_no_answered_step(tmp_path: Path) -> None:
    """
    After each of 51 cuts, no acknowledged step is lost, and no key makes two steps.

    The negative control, which is LMDB without flushes, loses commits in the same cuts.
    """
    total = cut_power(tmp_path, CUTS)
    assert total["cuts"] == CUTS
    # There was load, and the cuts prevented some responses.
    assert total["acknowledged"] > CLIENTS * CUTS
    assert total["unknown"] > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_power_cut_during_the_creation_leaves_no_store_or_a_complete_one(
    tmp_path: Path, kind: Kind
) -> None:
    """
    A complete store has revision 0.  The next start serves, and takes a step.
    """
    rng = random.Random(kind.name)  # noqa: S311 nothing secret
    with Volume(tmp_path, kind) as volume:
        path = volume.mount_point / "store"
        options = ("--store", f"lmdb:{path}")
        start = twistd("-n", "--pidfile=", WORKER, "--listen", LOOPBACK, *options)
        for _ in range(CREATIONS):
            _run_and_cut(volume, start, path, rng.uniform(*CREATION_SECONDS))
            volume.recover()
            with Daemon(tmp_path, *options, command="pexservice-worker") as daemon:
                assert daemon.step() == 1
            shutil.rmtree(path)
            sync_directory(volume.mount_point)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_power_cut_during_the_rewriting_leaves_the_old_store_or_the_new_one(
    tmp_path: Path, kind: Kind
) -> None:
    """
    The next start rewrites an old store, and has the cursor, the history and all keys.
    """
    rng = random.Random(kind.name)  # noqa: S311 nothing secret
    old = tmp_path / "old"
    with at(old, map_size=1 << 28) as store:
        for first in range(0, KEY_COUNT, 100):
            store.step(b"n" * 100, *(b"%032d" % (first + n) for n in range(100)))
    keys = turn_back(old)
    assert len(keys) == KEY_COUNT
    with Volume(tmp_path, kind) as volume:
        path = volume.mount_point / "store"
        for _ in range(REWRITES):
            shutil.copytree(old, path, ignore=shutil.ignore_patterns(READER_TABLE_FILE))
            run_command("sync", "--file-system", str(path))
            rewrite = [sys.executable, "-c", REWRITE_PROGRAM, str(path)]
            seconds = rng.uniform(*REWRITE_SECONDS)
            _run_and_cut(volume, rewrite, path / STAGING_DIRECTORY, seconds)
            volume.recover()
            assert read_format_at(path) in (1, 2)
            with at(path) as rewritten:
                assert rewritten.state == store.state
                assert len(now(rewritten.history(ABOVE_ALL, KEY_COUNT))) == KEY_COUNT
                for key, use in keys.items():
                    assert rewritten.remembered_keys.find(key) == unpack_use(use)
            shutil.rmtree(path)
            sync_directory(volume.mount_point)


def _run_and_cut(
    volume: Volume, command: Sequence[str], made_first: Path, seconds: float
) -> None:
    """
    Run a command, and cut the power C{seconds} after it has made the path C{made_first}.
    """
    with (
        (volume.path / "log-of-command").open("ab") as log,
        running_command(
            command, cwd=volume.path, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        wait_until(
            lambda: made_first.exists() or process.poll() is not None,
            f"{made_first} exists",
        )
        # A command that has failed makes nothing.
        assert not process.poll()
        time.sleep(seconds)
        volume.cut()
