"""
The gain of group commit on etcd: steps per second, and the duration of a step.

It compares the service's committer with one compare-and-swap per step, for two numbers of
concurrent clients.

The command is C{python -m bench.cluster etcd:http://HOST:PORT [SECONDS]}.  The etcd may
have other data, because the benchmark uses its own prefix.  The clients run in this
process, so only the committer, the store and etcd are measured.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from tempfile import TemporaryDirectory
from typing import Any, cast

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from pexservice.commit.committer import Committer
from pexservice.commit.interface import ICommitter, Outcome, Step
from pexservice.commit.optimistic import OptimisticCommitter
from pexservice.core.cursor import Cursor, State, Transition
from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.factory_interface import StoreOptions
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.registry import store_factory
from pexservice.stores.shared_interface import Conflict

CLIENT_COUNTS = (64, 256)
NODE_COUNTS = (1, 3)

#: A function that makes one step.
MakeStep = Callable[[], Coroutine[Any, Any, object]]


async def _load(client_count: int, seconds: float, steps: list[MakeStep]) -> list[float]:
    """
    Let clients make steps for C{seconds}, each client with one of the functions C{steps}.

    @return: the duration of each step, in seconds.
    """
    end, durations = time.perf_counter() + seconds, list[float]()

    async def client(step: MakeStep) -> None:
        while (started := time.perf_counter()) < end:
            try:
                await step()
            except (Refusal, OutcomeUnknown):
                # With hundreds of transactions at once, etcd does not respond in time.
                continue
            durations.append(time.perf_counter() - started)

    await gatherResults(
        [
            Deferred.fromCoroutine(client(steps[number % len(steps)]))
            for number in range(client_count)
        ]
    )
    return durations


def _one_each(store: EtcdStore) -> MakeStep:
    """
    Return a function that makes a step with a compare-and-swap, and repeats a conflict.
    """

    async def step() -> None:
        while True:
            before = store._known_record.cursor  # noqa: SLF001 what a separate client would keep
            after = Cursor(before.revision + 1, before.position + 1)
            batch = Batch(before, b"n", after, 0)
            try:
                await store.commit(batch)
            except Conflict:
                continue
            return

    return step


def _grouped(committer: ICommitter) -> MakeStep:
    step = Step(Transition.NEXT)
    return lambda: _submit(committer, step)


class _Waiter:
    def __init__(self) -> None:
        self.state: Deferred[State] = Deferred()

    def respond(self, _: Outcome, state: State, /) -> None:
        self.state.callback(state)

    def fail(self, error: Exception, /) -> None:
        self.state.errback(error)


async def _submit(committer: ICommitter, step: Step) -> object:
    waiter = _Waiter()
    committer.step(step, waiter)
    return await waiter.state


def _row(
    node_count: str, client_count: int, method: str, durations: list[float], seconds: float
) -> None:
    cuts = statistics.quantiles(durations, n=100) if len(durations) > 1 else [0.0] * 99
    sys.stdout.write(
        f"| {node_count} | {client_count} | {method} | {len(durations) / seconds:,.0f}"
        f" | {1e3 * cuts[49]:.1f} ms | {1e3 * cuts[98]:.1f} ms |\n"
    )
    sys.stdout.flush()


async def measure(reactor: Any, url: str, seconds: float) -> None:
    sys.stdout.write("| nodes | clients | method | steps/s | median | 99% |\n")
    sys.stdout.write("|---:|---:|---|---:|---:|---:|\n")
    for client_count in CLIENT_COUNTS:
        with TemporaryDirectory() as path:
            directory = Directory(f"{path}/store")
            embedded = Committer(
                LmdbStore(directory, CommitExecutor(reactor)),
                reactor,
                on_fatal_failure=lambda _: None,
            )
            await embedded.start()
            durations = await _load(client_count, seconds, [_grouped(embedded)])
            await embedded.stop()
        _row("embedded", client_count, "grouped", durations, seconds)
    for node_count in NODE_COUNTS:
        for client_count in CLIENT_COUNTS:
            for method in ("one each", "grouped"):
                name = f"{node_count}/{client_count}/{method.replace(' ', '-')}"
                stores = [
                    cast(
                        EtcdStore,
                        store_factory(f"{url}?prefix=bench/{name}/").make(
                            StoreOptions(reactor=reactor, journal=1000)
                        ),
                    )
                    for _ in range(node_count)
                ]
                committers = [
                    OptimisticCommitter(store, reactor, on_fatal_failure=lambda _: None)
                    for store in stores
                ]
                for committer in committers:
                    await committer.start()
                steps = (
                    [*map(_grouped, committers)]
                    if method == "grouped"
                    else [*map(_one_each, stores)]
                )
                durations = await _load(client_count, seconds, steps)
                _row(str(node_count), client_count, method, durations, seconds)
                for committer in committers:
                    await committer.stop()


def main() -> None:
    url = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0  # noqa: PLR2004 the number of arguments
    react(lambda reactor: Deferred.fromCoroutine(measure(reactor, url, seconds)))


if __name__ == "__main__":
    main()
