"""
A program that makes steps with many clients at once, and records the outcome of each call.

L{tests.labs.client.lab} starts it as C{python -m tests.labs.client.clients SECONDS CLIENTS
FILE URL...}.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import Factory, asdict, define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from pexservice.client import Cursor, CursorError

#: Much longer than any call should take, so that no call fails by its deadline.
DEADLINE_SECONDS = 120.0


@define(eq=False)
class ClientRecord:
    """
    The record of all clients of one process.

    @ivar call_count: how many calls were made.
    @ivar responses: of each call with a response, the revision, the position, the
        transition and the duration in seconds.
    @ivar replayed: how many of these responses were replays.
    @ivar repetitions: how many failed attempts were repeated.
    @ivar failures: the errors of the calls that failed.
    """

    call_count: int = 0
    responses: list[tuple[int, int, str, float]] = Factory(list)
    replayed: int = 0
    repetitions: int = 0
    failures: list[str] = Factory(list)


async def make_steps(
    cursor: Cursor, record: ClientRecord, end: float, client_number: int
) -> None:
    """
    Make steps until the time C{end}.
    """
    rng = random.Random(client_number)  # noqa: S311 nothing secret
    while time.monotonic() < end:
        transition = rng.choices(["next", "previous", "reset"], [60, 39, 1])[0]
        record.call_count += 1
        began = time.monotonic()
        try:
            state = await getattr(cursor, transition)()
        except CursorError as error:
            record.failures.append(f"{type(error).__name__}: {error}")
            continue
        seconds = time.monotonic() - began
        record.responses.append((state.revision, state.position, transition, seconds))
        record.replayed += state.replayed


async def run_clients(
    reactor: Any, seconds: float, count: int, urls: Sequence[str]
) -> ClientRecord:
    """
    Make steps with all clients, and return their record.
    """
    record = ClientRecord()

    def on_retry(_: str) -> None:
        record.repetitions += 1

    # Each cursor tries another address first.
    cursors = [
        Cursor(
            *urls[n:],
            *urls[:n],
            deadline=DEADLINE_SECONDS,
            connections=count,
            on_retry=on_retry,
            reactor=reactor,
        )
        for n in range(len(urls))
    ]
    end = time.monotonic() + seconds
    await gatherResults(
        [
            Deferred.fromCoroutine(make_steps(cursors[n % len(cursors)], record, end, n))
            for n in range(count)
        ]
    )
    for cursor in cursors:
        await cursor.close()
    return record


def main(reactor: Any, seconds: str, count: str, file: str, *urls: str) -> Deferred[Any]:
    """
    Make steps, and write the record to a file.
    """
    stepping = Deferred.fromCoroutine(
        run_clients(reactor, float(seconds), int(count), urls)
    )
    return stepping.addCallback(
        lambda record: Path(file).write_text(json.dumps(asdict(record)))
    )


if __name__ == "__main__":
    react(main, sys.argv[1:])
