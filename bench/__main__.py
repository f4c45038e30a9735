"""
The benchmarks: pexservice and other servers under load.

The program starts pexservice and the servers to compare it with, puts load on them in
turns, and writes bench/results.md and the pictures of docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench import cells, chart, costs, peers, report
from bench.cells import PEER, Cell, Row
from bench.load import BadResponses, Load, Measured, Target, measure
from bench.peers import OFF, OURS


def say(line: str) -> None:
    """
    Write a line of progress to standard error.
    """
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def parse_peer(text: str) -> Target:
    name, _, url = text.partition("=")
    if not name or not url.startswith("http://"):
        raise argparse.ArgumentTypeError("must be NAME=http://HOST:PORT")
    return Target(name, url.rstrip("/"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs per load and server (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2, help="length of a run (%(default)s)"
    )
    parser.add_argument(
        "--peer",
        type=parse_peer,
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a running server with /current, /next and /previous to compare with",
    )
    parser.add_argument(
        "--one-core-peer",
        type=parse_peer,
        action="append",
        default=[],
        metavar="NAME=URL",
        help="the same, for a server that is bound to the first core (taskset -c 0)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help="measure only the loads with these words in their names; write no page",
    )
    parser.add_argument(
        "--costs",
        action="store_true",
        help="measure only the costs of headers, bodies and options",
    )
    parser.add_argument(
        "--cost-seconds",
        type=int,
        default=1,
        help="length of a run for these costs, in whole seconds (%(default)s)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("bench/results.md"),
        help="the page that gets the results (%(default)s)",
    )
    return parser.parse_args()


def median_of(measurements: Sequence[Measured]) -> Measured:
    percentiles: dict[float, list[float]] = defaultdict(list)
    for measurement in measurements:
        for percentile, milliseconds in measurement.percentiles.items():
            percentiles[percentile].append(milliseconds)
    return Measured(
        statistics.median(measurement.rate for measurement in measurements),
        {percentile: statistics.median(times) for percentile, times in percentiles.items()},
    )


def measure_in_turns(
    targets: Iterable[Target], load: Load, rounds: int, seconds: float
) -> dict[str, Measured]:
    """
    Put C{load} on C{targets} in turns, A B A B.

    @return: the medians by name, without servers that failed under the load.
    @raise BadResponses: pexservice failed.
    """
    measurements: dict[str, list[Measured]] = defaultdict(list)
    remaining = list(targets)
    for _ in range(rounds):
        for target in list(remaining):
            try:
                measurements[target.name].append(measure(target, load, seconds))
            except BadResponses as error:
                if target.counts:
                    raise
                say(f"{load}: {target.name} is left out: {error}")
                remaining.remove(target)
                measurements.pop(target.name, None)
    medians = {name: median_of(runs) for name, runs in measurements.items()}
    rates = ", ".join(f"{name} {median.rate:,.0f}" for name, median in medians.items())
    say(f"{load}: {rates}")
    return medians


class Session:
    def __init__(self, options: argparse.Namespace, path: Path) -> None:
        self._options = options
        self._path = path
        self._measure_in_turns = partial(
            measure_in_turns, rounds=options.rounds, seconds=options.seconds
        )
        self._rows: list[Row] = []
        self._medians: dict[Load, dict[str, Measured]] = {}

    def run(self) -> list[Row]:
        """
        Measure everything, write the page, and return the rows of its table.

        With C{--only}, measure some of the loads, and write no page.
        """
        with peers.all_of_them(self._path, say) as targets:
            self._table(cells.CELLS, [*targets, *self._options.peer], self._options.peer)
            if not self._options.only:
                self._latency()
                self._bound()
                by_connections = self._by_connections(targets)
        if not self._options.only or "core" in self._options.only:
            with peers.ours(self._path / "one core", one_core=True) as target:
                pinned = self._options.one_core_peer
                self._table(cells.ONE_CORE, [target, *pinned], pinned)
        if not self._options.only:
            by_position = self._by_position()
            self._write(by_connections, by_position)
        return self._rows

    def _table(
        self,
        wanted_cells: Iterable[Cell],
        targets: Sequence[Target],
        named: Sequence[Target],
    ) -> None:
        names = [peer.name for peer in named]
        for cell in wanted_cells:
            if self._options.only not in str(cell.load):
                continue
            wanted_names = {*cell.names, *(names if PEER in cell.names else [])}
            present_targets = [target for target in targets if target.name in wanted_names]
            medians = self._measure_in_turns(present_targets, cell.load)
            self._medians[cell.load] = medians
            self._rows += cells.rows(cell, medians, names)

    def _latency(self) -> None:
        medians = self._medians[cells.LATENCY]
        for peer in self._options.peer:
            if peer.name not in medians:
                continue
            ours, theirs = (medians[name].percentiles[99] for name in (OURS, peer.name))
            load = f"{cells.LATENCY}, 99th percentile"
            min_ratio = 1 / cells.MAX_LATENCY_RATIO
            self._rows.append(Row(load, ours, peer.name, theirs, min_ratio, unit="ms"))

    def _bound(self) -> None:
        """
        Add a row that compares durable steps on few connections with their upper bound.

        A step takes at least a commit, and a request without a commit.
        """
        commit = commit_milliseconds(self._path / "commit", cells.BOUND.connections)
        # The same steps, with a response before the commit.
        request = self._medians[cells.BOUND][OFF].percentiles[50]
        bound = 1000 * cells.BOUND.connections / (commit + request)
        say(
            f"a commit {commit:.3f} ms, a request {request:.3f} ms, so at most {bound:,.0f}"
        )
        rate = self._medians[cells.BOUND][OURS].rate
        name = f"the bound: {commit:.2f} ms for a commit, {request:.2f} ms for a request"
        self._rows.append(Row(str(cells.BOUND), rate, name, bound, cells.MIN_BOUND_RATIO))

    def _by_connections(
        self, targets: Sequence[Target]
    ) -> dict[str, list[tuple[float, float]]]:
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        compared = [
            target for target in targets if target.name in (OURS, OFF, cells.WEBDIS)
        ]
        for connections in cells.CONNECTIONS:
            load = Load("wrk", connections)
            for name, median in measure_in_turns(
                [*compared, *self._options.peer], load, 1, self._options.seconds
            ).items():
                points[name].append((connections, median.rate))
        return points

    def _by_position(self) -> dict[str, list[tuple[float, float]]]:
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for position in cells.POSITIONS:
            for title, load in (
                ("/current", Load("wrk", 10, steps=False)),
                ("to and fro", Load("wrk", 10)),
                ("/next", Load("wrk", 10, up_only=True)),
            ):
                medians = self._measure_at(position, load)
                points[title].append((position or 1, medians[OURS].rate))
                points[f"{title}, constant text"].append(
                    (position or 1, medians["constant"].rate)
                )
                if position >= cells.POSITIONS[-2]:
                    self._rows.append(
                        Row(
                            f"`{title}` at {position:,}, wrk c{load.connections}",
                            medians[OURS].rate,
                            "itself with a constant text",
                            medians["constant"].rate,
                            cells.MIN_CONSTANT_RATIO,
                        )
                    )
        return points

    def _measure_at(self, position: int, load: Load) -> dict[str, Measured]:
        name = f"far {position} {load.steps} {load.up_only}"
        digits = max(1, int(position * 0.20898764))
        started: list[AbstractContextManager[Target]] = [
            peers.far(self._path / name, position, None),
            peers.far(self._path / f"{name} constant", position, digits),
        ]
        with started[0] as ours, started[1] as constant:
            return self._measure_in_turns([ours, constant], load)

    def _write(
        self,
        by_connections: Mapping[str, Sequence[tuple[float, float]]],
        by_position: Mapping[str, Sequence[tuple[float, float]]],
    ) -> None:
        page: Path = self._options.page
        plots = chart.PICTURES
        latencies = {
            name: sorted(median.percentiles.items())
            for name, median in self._medians[cells.LATENCY].items()
            if median.percentiles and name != peers.FLOOR
        }
        report.plot(
            plots / "connections.svg",
            "Steps a second by connections (wrk)",
            ("connections", "steps/s"),
            by_connections,
        )
        report.plot(
            plots / "latency.svg",
            f"Latency: {cells.LATENCY}",
            ("percentile", "milliseconds"),
            latencies,
            logarithmic=False,
        )
        report.plot(
            plots / "position.svg",
            "Cost by position (wrk c10)",
            ("position", "requests/s"),
            by_position,
        )
        report.write(
            page,
            [
                *report.machine(self._options.rounds, self._options.seconds),
                "",
                *report.table(self._rows),
            ],
        )
        chart.redraw(page)


def commit_milliseconds(path: Path, size: int) -> float:
    """
    Return the median duration of a commit of C{size} steps in the store, in milliseconds.
    """
    from tests.support.fakes import inline, now  # noqa: PLC0415 for this measurement alone

    from pexservice.core.cursor import Cursor  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.interface import Batch  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.lmdb.directory import Directory  # noqa: PLC0415 for this measurement alone
    from pexservice.stores.lmdb.store import LmdbStore  # noqa: PLC0415 for this measurement alone

    store = LmdbStore(Directory(str(path)), inline(), verify=lambda *_: None)
    now(store.open())
    durations = []
    for number in range(2000):
        before, after = Cursor(number * size, 0), Cursor((number + 1) * size, 0)
        batch = Batch(before, b"np" * (size // 2), after, time.time_ns())
        started = time.perf_counter()
        now(store.commit(batch))
        durations.append(time.perf_counter() - started)
    now(store.close())
    return 1000 * statistics.median(durations)


def write_costs(options: argparse.Namespace, path: Path) -> None:
    """
    Measure the costs of headers, bodies and options, and write them into the page.
    """
    lines = costs.measure_all(
        path, options.peer, rounds=options.rounds, seconds=options.cost_seconds, say=say
    )
    report.write(options.page, lines, report.COSTS)
    sys.stdout.write("\n".join([*lines, ""]))


def main() -> int:
    options = parse_arguments()
    build = Path("build")
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name:
        path = Path(name).resolve()
        if not options.only:
            write_costs(options, path / "costs")
        if not options.costs:
            rows = Session(options, path).run()
            sys.stdout.write("\n".join([*report.table(rows), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
