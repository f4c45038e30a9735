"""
The chart of docs/performance.md: reads and steps per second on 64 connections.

It is drawn from the table in bench/results.md, not from the measurements.  So the chart
always agrees with the table, also if it is drawn again: C{python -m bench.chart}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path("bench/results.md")
PICTURES = Path("docs/performance")
CHART = "overview.svg"

OURS = "pexservice"

#: The two loads as the table names them, and their titles in the chart.
PANELS = {
    "`/current`, wrk c64": "Reads per second (GET /current)",
    "steps, wrk c64": "Steps per second (next and previous)",
}

#: The servers that store a step on disk before the response.
DURABLE = (OURS, "webdis + Redis")

_ROW = re.compile(r"\| ([^|]+) \| ([\d,]+)/s \| ([^|]+) \| ([\d,]+)/s \|.*")


def rates(page: str) -> dict[str, dict[str, float]]:
    """
    Read the table.

    @return: by load, the requests per second of each server.
    """
    rates_by_load: dict[str, dict[str, float]] = {load: {} for load in PANELS}
    for line in page.splitlines():
        row = _ROW.fullmatch(line)
        if row is not None and row[1] in rates_by_load:
            rates_by_load[row[1]][OURS] = _number(row[2])
            rates_by_load[row[1]][row[3]] = _number(row[4])
    return rates_by_load


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def draw(path: Path, rates_by_load: Mapping[str, Mapping[str, float]]) -> None:
    """
    Draw an SVG with one panel for each load.
    """
    import matplotlib as mpl  # noqa: PLC0415 half a second

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 matplotlib is slow to import

    mpl.rcParams.update({"svg.hashsalt": "pexservice", "svg.fonttype": "none"})
    figure, axes = plt.subplots(
        1, len(rates_by_load), figsize=(9.5, 2.9), layout="constrained"
    )
    for axis, (load, servers) in zip(axes, rates_by_load.items(), strict=True):
        names: Sequence[str] = sorted(servers, key=lambda name: servers[name])
        reads = load.startswith("`")
        for name in names:
            colour = "#b7791f" if name == OURS else "#8f959e"
            # A hollow bar means that a step is only in memory.
            hollow = not reads and name not in DURABLE
            bar = axis.barh(
                name,
                servers[name],
                color="none" if hollow else colour,
                edgecolor=colour,
                linewidth=1.2,
            )
            axis.bar_label(bar, [f"{servers[name]:,.0f}"], padding=3, fontsize=9)
        axis.set_title(PANELS[load], fontsize=10, loc="left")
        axis.set_xlim(0, 1.22 * max(servers.values()))
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False, labelsize=9)
    axes[-1].set_xlabel(
        "hollow: nothing on disk; filled: on disk before the response",
        fontsize=9,
        loc="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    path.write_text(re.sub(r"[ \t]+\n", "\n", path.read_text()))


def redraw(page: Path) -> None:
    """
    Draw the chart of C{page} into the folder of the pictures.
    """
    draw(PICTURES / CHART, rates(page.read_text()))


if __name__ == "__main__":
    redraw(PAGE)
