"""Start-up: imports, the first run, runs that do nothing, the size of the extension.

One process each: ``startup PEER BENCH`` prints one JSON object.
"""

import asyncio
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Lab, Peer
from benchmarks.samples import Sample
from benchmarks.workloads import loop_factory, noop, run_asyncio

LOOPS = ("pyloop", "uvloop", "rloop", "asyncio")
RUNS = 2000

PEERS = {
    "import": tuple(Peer(loop, loop) for loop in ("pyloop", "uvloop", "rloop")),
    "first run": (
        Peer("pyloop", "pyloop"),
        *[Peer("pyloop asyncio" if loop == "pyloop" else loop, loop) for loop in LOOPS],
    ),
    "run(noop)": (
        Peer("pyloop", "pyloop"),
        *[Peer("pyloop asyncio" if loop == "pyloop" else loop, loop) for loop in LOOPS],
    ),
    "run_until_complete(noop)": tuple(
        Peer("pyloop asyncio" if loop == "pyloop" else loop, loop) for loop in LOOPS
    ),
    "size of the extension": tuple(Peer(loop, loop) for loop in ("pyloop", "uvloop", "rloop")),
}
UNITS = {"import": "ms", "first run": "ms", "size of the extension": "KiB"}


def run(lab: Lab) -> None:
    for bench, peers in PEERS.items():

        def take(peer: Peer, bench: str = bench) -> Sample:
            answer = lab.child(peer.library, "benchmarks.startup", peer.name, bench)
            return Sample(answer["value"])

        lab.compare(
            "startup",
            bench,
            UNITS.get(bench, "us"),
            lab.available(peers),
            take,
            timed=bench != "size of the extension",
            rounds=1 if bench == "size of the extension" else None,
        )


# What follows runs in the peer's own process.


def milliseconds_of_import(library: str) -> float:
    """Beyond asyncio, which is imported already."""
    start = time.perf_counter()
    importlib.import_module(library)
    return (time.perf_counter() - start) * 1e3


def run_once(peer: str) -> None:
    if peer == "pyloop":
        importlib.import_module("pyloop").run(noop())
    else:
        run_asyncio(peer.removesuffix(" asyncio"), noop())


def milliseconds_of_first_run(peer: str) -> float:
    importlib.import_module(peer.removesuffix(" asyncio"))
    start = time.perf_counter()
    run_once(peer)
    return (time.perf_counter() - start) * 1e3


def microseconds_of_runs(peer: str) -> float:
    """A loop made, run and closed."""
    run_once(peer)
    start = time.perf_counter()
    for _ in range(RUNS // 10):
        run_once(peer)
    return (time.perf_counter() - start) * 1e6 / (RUNS // 10)


def microseconds_until_complete(peer: str) -> float:
    """Runs of one loop that stays."""
    loop: Any = loop_factory(peer.removesuffix(" asyncio"))()
    asyncio.set_event_loop(loop)
    for _ in range(10):
        loop.run_until_complete(noop())
    start = time.perf_counter()
    for _ in range(RUNS):
        loop.run_until_complete(noop())
    elapsed = time.perf_counter() - start
    loop.close()
    return elapsed * 1e6 / RUNS


def kibibytes_of_extension(library: str) -> float:
    folder = Path(str(importlib.import_module(library).__file__)).parent
    return sum(path.stat().st_size for path in folder.rglob("*.so")) / 1024


if __name__ == "__main__":
    measure = {
        "import": milliseconds_of_import,
        "first run": milliseconds_of_first_run,
        "run(noop)": microseconds_of_runs,
        "run_until_complete(noop)": microseconds_until_complete,
        "size of the extension": kibibytes_of_extension,
    }
    json.dump({"value": measure[sys.argv[2]](sys.argv[1])}, sys.stdout)
