"""
The page with the results: tables and plots.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.cells import Row

_BEGIN = "<!-- what follows is written by make bench{} -->"
_END = "<!-- and this is its end -->"

#: The part of the page about the costs of headers, bodies and options.
COSTS = ": what requests cost"


def table(rows: Sequence[Row]) -> list[str]:
    """
    Return the lines of a table in Markdown.
    """
    lines = [
        "| load | pexservice | against | theirs | ratio | at least | |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    for row in rows:
        ours, theirs = (
            f"{value:,.2f} ms" if row.unit == "ms" else f"{value:,.0f}/s"
            for value in (row.ours, row.theirs)
        )
        min_ratio = verdict = ""
        if row.min_ratio is not None:
            min_ratio = f"{row.min_ratio:.2f}"
            verdict = "held" if row.ratio >= row.min_ratio else "**not held**"
        lines.append(
            f"| {row.cell} | {ours} | {row.against} | {theirs}"
            f" | {row.ratio:.2f} | {min_ratio} | {verdict} |"
        )
    return lines


def machine(rounds: int, seconds: float) -> list[str]:
    """
    Return lines about the machine and the versions.
    """
    model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    names = ("twisted", "klein", "lmdb", "uvloop", "granian", "uvicorn")
    versions = [f"{name} {_version(name)}" for name in names]
    for command in (["nginx", "-v"], ["redis-server", "--version"], ["wrk", "-v"]):
        try:
            finished = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        match = re.search(r"\d+\.\d+[\d.]*", finished.stdout + finished.stderr)
        versions.append(f"{command[0]} {match[0] if match else ''}")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return [
        f"Taken on {datetime.now(UTC):%Y-%m-%d} on {len(os.sched_getaffinity(0))} cores of"
        f" {model[0] if model else platform.machine()}, {system}, kernel"
        f" {platform.release()}, Python {platform.python_version()}.",
        f"Versions: {', '.join(versions)}.",
        f"Each figure is the median of {rounds} runs of {seconds:g} seconds, the servers"
        " taking turns, client and server on the same machine.",
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def write(page: Path, lines: Sequence[str], part: str = "") -> None:
    """
    Replace one part of the page by C{lines}.
    """
    text = page.read_text()
    begin = _BEGIN.format(part)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(_END)
    page.write_text("\n".join([before + begin, "", *lines, "", _END]) + after)


def plot(
    path: Path,
    title: str,
    axes: tuple[str, str],
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    logarithmic: bool = True,
) -> None:
    """
    Draw C{series} into the SVG at C{path}.
    """
    import matplotlib as mpl  # noqa: PLC0415 half a second

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 matplotlib is slow to import

    mpl.rcParams["svg.hashsalt"] = "pexservice"
    figure, axis = plt.subplots(figsize=(7, 4))
    for name, points in series.items():
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    if logarithmic:
        axis.set_xscale("log")
    axis.set(title=title, xlabel=axes[0], ylabel=axes[1])
    axis.set_ylim(bottom=0)
    axis.grid(visible=True, alpha=0.3)
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    path.write_text(re.sub(r"[ \t]+\n", "\n", path.read_text()))
