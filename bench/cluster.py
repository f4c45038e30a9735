"""
The gain of group commit on etcd: steps per second, and the duration of a step.

The service's committer is compared with one compare-and-swap per request, for two numbers
of concurrent clients.

The command is C{python -m bench.cluster etcd:http://HOST:PORT [SECONDS]}.  The etcd may be
filled: the benchmark uses its own prefix.  The clients are in this process, so only the
committer, the store and etcd are measured.
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
from pexservice.stores.errors import Conflict, OutcomeUnknown, Refusal
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.factory_interface import StoreOptions
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.registry import store_factory

CALLERS = (64, 256)
NODES = (1, 3)

#: A function that makes one step.
MakeStep = Callable[[], Coroutine[Any, Any, object]]


async def _load(callers: int, seconds: float, steps: list[MakeStep]) -> list[float]:
    """
    Have C{callers} make steps for C{seconds}, each caller at one node of C{steps}.

    @return: how long each step took, in seconds.
    """
    end, took = time.perf_counter() + seconds, list[float]()

    async def caller(step: MakeStep) -> None:
        while (began := time.perf_counter()) < end:
            try:
                await step()
            except (Refusal, OutcomeUnknown):
                # With hundreds of transactions at once, etcd does not answer in time.
                continue
            took.append(time.perf_counter() - began)

    await gatherResults(
        [
            Deferred.fromCoroutine(caller(steps[number % len(steps)]))
            for number in range(callers)
        ]
    )
    return took


def _one_each(store: EtcdStore) -> MakeStep:
    """
    Return a step by one compare-and-swap, retried until no other client was faster.
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


def _row(nodes: str, callers: int, how: str, took: list[float], seconds: float) -> None:
    cuts = statistics.quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    sys.stdout.write(
        f"| {nodes} | {callers} | {how} | {len(took) / seconds:,.0f}"
        f" | {1e3 * cuts[49]:.1f} ms | {1e3 * cuts[98]:.1f} ms |\n"
    )
    sys.stdout.flush()


async def measure(reactor: Any, url: str, seconds: float) -> None:
    """
    Measure everything, and write the table.
    """
    sys.stdout.write("| nodes | callers | how | steps/s | median | 99% |\n")
    sys.stdout.write("|---:|---:|---|---:|---:|---:|\n")
    for callers in CALLERS:
        with TemporaryDirectory() as path:
            directory = Directory(f"{path}/store")
            embedded = Committer(
                LmdbStore(directory, CommitExecutor(reactor)),
                reactor,
                fatal=lambda _: None,
            )
            await embedded.start()
            took = await _load(callers, seconds, [_grouped(embedded)])
            await embedded.stop()
        _row("embedded", callers, "grouped", took, seconds)
    for nodes in NODES:
        for callers in CALLERS:
            for how in ("one each", "grouped"):
                prefix = f"{url}?prefix=bench/{nodes}/{callers}/{how.replace(' ', '-')}/"
                stores = [
                    cast(
                        EtcdStore,
                        store_factory(prefix).make(
                            StoreOptions(reactor=reactor, journal=1000)
                        ),
                    )
                    for _ in range(nodes)
                ]
                committers = [
                    OptimisticCommitter(each, reactor, fatal=lambda _: None)
                    for each in stores
                ]
                for each in committers:
                    await each.start()
                steps = (
                    [*map(_grouped, committers)]
                    if how == "grouped"
                    else [*map(_one_each, stores)]
                )
                took = await _load(callers, seconds, steps)
                _row(str(nodes), callers, how, took, seconds)
                for each in committers:
                    await each.stop()


def main() -> None:
    """
    Run the command.
    """
    url = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0  # noqa: PLR2004 the number of arguments
    react(lambda reactor: Deferred.fromCoroutine(measure(reactor, url, seconds)))


if __name__ == "__main__":
    main()
