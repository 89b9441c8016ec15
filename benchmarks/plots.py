"""Plots of a run's results as SVG, by matplotlib where it is installed: ``plots results.json``."""

import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]

COLOURS = {
    "pyloop": "#c0392b",
    "uvloop": "#2874a6",
    "rloop": "#7d3c98",
    "asyncio": "#7f8c8d",
    "c-epoll": "#1d1d1d",
    "c-udp": "#1d1d1d",
    "textbook": "#d4ac0d",
    "trio": "#229954",
    "curio": "#ca6f1e",
    "gevent": "#48c9b0",
}
BARS = (
    ("echo", "1 KiB x 10, polling client"),
    ("echo", "1 KiB x 100, polling client"),
    ("echo", "UDP, 512 B x 10, polling client"),
    ("echo", "connections, 512 B x 10, polling client"),
    ("http", "uvicorn x 64"),
    ("http", "aiohttp x 64"),
    ("chat", "1 to 100"),
    ("chat", "1,000 in rooms of 10"),
    ("memory", "per connection"),
)
WIDE = 50  # the range from which a linear axis shows nothing of the small ones
ECHO = re.compile(r"^(\d+) (KiB|B) x (\d+), polling client$")


def colour(peer: str) -> str:
    return COLOURS.get(peer.split(" ")[0], "#555555")


def file_name(suite: str, bench: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", bench.lower()).strip("-")
    return f"{suite}-{words}.svg"


def draw(run: Json, folder: Path) -> int:
    """Draw what there is; returns the number of plots."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        print("without plots: matplotlib is not installed", file=sys.stderr)
        return 0
    matplotlib.use("svg")
    # Text as text and fixed ids: small files, and the same ones for the same results.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pyloop", "font.size": 9})
    pyplot = importlib.import_module("matplotlib.pyplot")
    count = 0
    results = run["results"]
    for suite, bench in BARS:
        found = [r for r in results if (r["suite"], r["bench"]) == (suite, bench)]
        if found:
            bars(pyplot, found, folder / file_name(suite, bench))
            count += 1
    for name, axis, lines in (
        ("echo-by-size.svg", "bytes per message, 10 connections", by_size(results)),
        ("echo-by-connections.svg", "connections, 1 KiB", by_connections(results)),
        *[
            (f"scaling-{kind}.svg", kind, by_count(results, kind))
            for kind in ("tasks", "timers", "connections")
        ],
    ):
        if any(len(points) > 1 for points in lines.values()):
            unit = "ns" if name in ("scaling-tasks.svg", "scaling-timers.svg") else "us"
            curves(pyplot, lines, axis, f"{unit} per unit", folder / name)
            count += 1
    micro = [result for result in results if result["suite"] == "micro"]
    if micro:
        ratios(pyplot, micro, folder / "micro.svg")
        count += 1
    return count


def bars(pyplot: Any, results: Sequence[Json], path: Path) -> None:
    """Medians, with the lowest and the highest round as a whisker."""
    results = sorted(results, key=lambda result: -result["median"])
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.24 * len(results)))
    medians = [result["median"] for result in results]
    spread = [
        [result["median"] - result["low"] for result in results],
        [result["high"] - result["median"] for result in results],
    ]
    names = [result["peer"] for result in results]
    axes.barh(names, medians, xerr=spread, color=[colour(name) for name in names], height=0.7)
    axes.set_xlabel(f"{results[0]['bench']}: {results[0]['unit']}, less is better")
    if max(medians) > WIDE * min(medians):
        axes.set_xscale("log")
    save(pyplot, figure, axes, path)


Lines = dict[str, list[tuple[float, float]]]


def curves(pyplot: Any, lines: Lines, axis: str, unit: str, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    styles = {"streams": ":", "protocol": "--", "asyncio": "--"}
    for peer, points in sorted(lines.items()):
        xs, ys = zip(*sorted(points), strict=True)
        style = styles.get(peer.split(" ")[-1], "-") if " " in peer else "-"
        axes.plot(xs, ys, style, marker="o", markersize=3, label=peer, color=colour(peer))
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(axis)
    axes.set_ylabel(unit)
    axes.legend(fontsize=7)
    save(pyplot, figure, axes, path)


def ratios(pyplot: Any, results: Sequence[Json], path: Path) -> None:
    """Each micro-benchmark beside pyloop's asyncio face, which has all of them."""
    base = {r["bench"]: r["median"] for r in results if r["peer"] == "pyloop asyncio"}
    peers = list(dict.fromkeys(r["peer"] for r in results if r["peer"] != "pyloop asyncio"))
    benches = list(base)
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    for number, peer in enumerate(peers):
        points = [
            (benches.index(r["bench"]) + (number - len(peers) / 2) * 0.1, r["median"] / base[bench])
            for r in results
            if r["peer"] == peer and (bench := r["bench"]) in base
        ]
        xs, ys = zip(*points, strict=True)
        axes.bar(xs, ys, width=0.1, label=peer, color=colour(peer))
    axes.axhline(1, color=colour("pyloop"), linewidth=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(benches)), benches, rotation=30, ha="right")
    axes.set_ylabel("times pyloop's asyncio face")
    axes.legend(fontsize=7, ncols=4)
    save(pyplot, figure, axes, path)


def save(pyplot: Any, figure: Any, axes: Any, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def echoes(results: Iterable[Json]) -> Iterable[tuple[int, int, str, float]]:
    """Bytes, connections, peer, median of each plain echo under the polling client."""
    for result in results:
        found = ECHO.match(result["bench"])
        if result["suite"] == "echo" and found:
            size = int(found[1]) * (1024 if found[2] == "KiB" else 1)
            yield size, int(found[3]), result["peer"], result["median"]


def by_size(results: Iterable[Json]) -> Lines:
    return only_curves((p, size, y) for size, conns, p, y in echoes(results) if conns == 10)


def by_connections(results: Iterable[Json]) -> Lines:
    return only_curves((p, conns, y) for size, conns, p, y in echoes(results) if size == 1024)


def by_count(results: Iterable[Json], kind: str) -> Lines:
    found = []
    for result in results:
        name, _, count = result["bench"].partition(", N = ")
        if result["suite"] == "scaling" and name == kind:
            found.append((result["peer"], int(count.replace(",", "")), result["median"]))
    return only_curves(found)


def only_curves(points: Iterable[tuple[str, int, float]]) -> Lines:
    """Those of which the most points are there: a curve needs them all."""
    lines: Lines = {}
    for peer, x, y in points:
        lines.setdefault(peer, []).append((x, y))
    most = max((len(line) for line in lines.values()), default=0)
    return {peer: line for peer, line in lines.items() if len(line) == most}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    print(draw(json.loads(file.read_text(encoding="utf-8")), file.parent), "plots")
