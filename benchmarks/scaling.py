"""Does the cost of a unit stay flat?  1 to 100,000 tasks and timers, 10 to 10,000 connections.

``scaling PEER BENCH COUNT`` is one measurement in a process of its own.
"""

import asyncio
import gc
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from benchmarks import echo
from benchmarks.harness import Lab, Peer
from benchmarks.samples import Sample
from benchmarks.workloads import run_asyncio

COUNTS = (1, 100, 10_000, 100_000)
CONNECTIONS = (10, 100, 1000, 10_000)
UNITS = 200_000  # about: switched or scheduled in one measurement
OWN = Peer("pyloop", "pyloop")
OWN_ASYNCIO = Peer("pyloop asyncio", "pyloop")
UVLOOP = Peer("uvloop", "uvloop")
PEERS: dict[str, tuple[Peer, ...]] = {"tasks": (OWN, UVLOOP), "timers": (OWN_ASYNCIO, UVLOOP)}
ECHO_PEERS = ("c-epoll", "pyloop coroutine", "pyloop protocol", "uvloop protocol")


def bench_name(kind: str, count: int) -> str:
    return f"{kind}, N = {count:,}"


def run(lab: Lab) -> None:
    for kind, peers in PEERS.items():
        for count in COUNTS:

            def take(peer: Peer, kind: str = kind, count: int = count) -> Sample:
                answer = lab.child(peer.library, "benchmarks.scaling", peer.name, kind, count)
                load = 1 - answer["cpu_ns"] / answer["elapsed_ns"]
                return Sample(answer["ns"], max(0.0, load), answer)

            lab.compare("scaling", bench_name(kind, count), "ns", lab.available(peers), take)
    echo_peers = [peer for peer in echo.PEERS if peer.name in ECHO_PEERS]
    for conns in CONNECTIONS:
        case = echo.Case(1024, conns, "polling")

        def echoes(peer: Peer, case: echo.Case = case) -> Sample:
            return echo.under_load(lab, peer, case)

        lab.compare(
            "scaling", bench_name("connections", conns), "us", lab.available(echo_peers), echoes
        )


# What follows runs in the peer's own process.


Answer = tuple[int, int, int]


class Turns:
    """``count`` tasks that take turns.  All of them have had one when the first of them reads the
    clocks, and none has ended when it reads them again."""

    def __init__(self, pause: Callable[[], Awaitable[Any]], count: int) -> None:
        self.pause = pause
        self.count = count
        self.turns = max(UNITS // count, 3)
        self.readings: list[tuple[int, int]] = []

    def read_clocks(self) -> None:
        self.readings.append((time.perf_counter_ns(), time.process_time_ns()))

    async def first(self) -> None:
        await self.pause()
        self.read_clocks()
        await self.other(self.turns)
        self.read_clocks()
        await self.pause()

    async def other(self, turns: int) -> None:
        pause = self.pause
        for _ in range(turns):
            await pause()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        return [self.first(), *[self.other(self.turns + 2) for _ in range(self.count - 1)]]

    def answer(self) -> Answer:
        (start, start_cpu), (end, end_cpu) = self.readings
        return end - start, end_cpu - start_cpu, self.turns * self.count


async def timers(count: int) -> Answer:
    """A timer made and cancelled while ``count`` others, due before and after it, are pending."""
    loop = asyncio.get_running_loop()

    def fire() -> None:
        raise RuntimeError("a timer fired")

    pending = [loop.call_later(1000 + number * 7919 % count, fire) for number in range(count)]
    batch = 1000
    done = 0
    start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
    while done < UNITS:
        for number in range(batch):
            loop.call_later(1000 + number * 7919 % count, fire).cancel()
        await asyncio.sleep(0)
        done += batch
    end, end_cpu = time.perf_counter_ns(), time.process_time_ns()
    for timer in pending:
        timer.cancel()
    return end - start, end_cpu - start_cpu, done


def main(peer: str, kind: str, count: int) -> None:
    # A collection in the middle, over all tasks, is the interpreter's cost and not the loop's.
    gc.disable()
    library = peer.removesuffix(" asyncio")
    if kind == "timers":
        elapsed_ns, cpu_ns, units = run_asyncio(library, timers(count))
    elif peer == "pyloop":
        pyloop = importlib.import_module("pyloop")
        turns = Turns(pyloop.pause, count)
        pyloop.run(*turns.tasks())
        elapsed_ns, cpu_ns, units = turns.answer()
    else:
        turns = Turns(lambda: asyncio.sleep(0), count)
        run_asyncio(library, all_of(turns))
        elapsed_ns, cpu_ns, units = turns.answer()
    json.dump({"ns": elapsed_ns / units, "elapsed_ns": elapsed_ns, "cpu_ns": cpu_ns}, sys.stdout)


async def all_of(turns: Turns) -> None:
    await asyncio.gather(*turns.tasks())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
