"""
Backups that are made again and again, of which the newest are kept.

Each backup has the time in its name, so the order of backups is that of their names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pexservice.stores.interface import StoreUnusable
from pexservice.stores.lmdb.backup import backup
from pexservice.stores.lmdb.directory import DATA
from pexservice.stores.lmdb.summary import Summary

Show = Callable[[str, int], object]

#: With microseconds, so that two backups in one second have two names; version 1.0.0 wrote
#: names without them.
_FORM = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}(\.[0-9]{6})?Z")


def add_backup(
    source: str, directory: str, keep: int, show: Show = lambda *_: None
) -> Summary:
    """
    Make one more verified backup in C{directory}, and then remove all but the newest.

    @param show: as for L{backup}.
    @param keep: how many stay, this one included; 1 or more.
    @raise StoreUnusable: the backup could not be made, and none was removed; or it was
        made, and an old one could not be removed.
    """
    name = datetime.now(UTC).strftime(_FORM)
    made = backup(source, str(Path(directory, name)), show)
    try:
        for each in existing_backups(directory)[:-keep]:
            shutil.rmtree(each)
    except OSError as error:
        raise StoreUnusable(
            f"{made.store} is a verified backup, but an old one stays: {error}"
        ) from error
    return made


def existing_backups(directory: str) -> list[Path]:
    """
    List the backups in C{directory}, the oldest first, and ignore anything else there.
    """
    return sorted(
        each
        for each in Path(directory).iterdir()
        if _NAME.fullmatch(each.name) and (each / DATA).exists()
    )


def time_of(made: Path) -> float:
    """
    Return when a backup was begun, in seconds since 1970, by its name.
    """
    form = _FORM if "." in made.name else _FORM.replace(".%f", "")
    return datetime.strptime(made.name, form).replace(tzinfo=UTC).timestamp()
