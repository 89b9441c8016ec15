"""Rounds of every operation leave everything as it was: references, objects, memory, descriptors.

What a round does is in leak_rounds.py. The first rounds are not counted: they fill free lists and
the caches of the interpreter.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from leak_rounds import ASYNC, PLAIN, Stage, nothing
from samples import TYPES
from support import no_log, small_heap

import pyloop

ROUNDS = int(os.environ.get("PYLOOP_LEAK_ROUNDS", "10000"))
FEW_ROUNDS = 50
WARM_UP = 50

# These take a millisecond and more each.
SLOW = {"another_thread", "a_server", "a_loop_that_is_dropped", "streams", "datagrams", "runs"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    with small_heap(), no_log():
        yield


class Books:
    """What is counted before and after."""

    def __init__(self, stage: Stage, *, traced: bool) -> None:
        self.counted = {
            **TYPES,
            **{f"shared {i}": thing for i, thing in enumerate(stage.shared)},
            "CancelledError": asyncio.CancelledError,
            "message": "message",
            "loop": stage.loop,
        }
        self.traced = traced
        self.references = dict.fromkeys(self.counted, 0)
        self.objects = self.blocks = self.descriptors = self.memory = self.bytes = 0
        self.read()

    def read(self) -> None:
        gc.collect()
        for name, thing in self.counted.items():
            self.references[name] = sys.getrefcount(thing)
        self.objects = len(gc.get_objects())
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.memory = tracemalloc.get_traced_memory()[0] if self.traced else 0
        self.bytes = resident_bytes()
        self.blocks = sys.getallocatedblocks()

    def growth(self, before: Books) -> dict[str, int]:
        """By how much each number grew, if it did."""
        pairs = {
            **{
                f"references to {name}": (count, before.references[name])
                for name, count in self.references.items()
            },
            "objects": (self.objects, before.objects),
            "blocks of memory": (self.blocks, before.blocks),
            "descriptors": (self.descriptors, before.descriptors),
            "traced bytes": (self.memory, before.memory),
            "resident bytes": (self.bytes, before.bytes),
        }
        return {name: now - then for name, (now, then) in pairs.items() if now > then}


# Growth in bytes below which there is none: per round, and of the allocator's whole arenas.
TRACED_BYTES = 16
RESIDENT_BYTES = 4_000_000
# AddressSanitizer does, to find who uses it.
KEEPS_FREED_MEMORY = "asan" in Path("/proc/self/maps").read_text()


def is_leak(name: str, growth: int, rounds: int) -> bool:
    """A leak shows once per round at least; what is less may be a cache that grew."""
    if name == "resident bytes":
        return growth > RESIDENT_BYTES and not KEEPS_FREED_MEMORY
    if name == "traced bytes":
        return growth > rounds * TRACED_BYTES
    return growth > rounds // 2 or name == "descriptors"


class Stocktaking:
    """Compares stretches of rounds. What leaks grows in each; what only grew once does not."""

    def __init__(self, stage: Stage, rounds: int, traced: bool) -> None:
        self.stage = stage
        self.rounds = rounds
        self.traced = traced
        Books(stage, traced=traced)  # which makes objects, too
        self.before = Books(stage, traced=traced)
        self.leaks: set[str] | None = None

    def is_settled(self) -> bool:
        now = Books(self.stage, traced=self.traced)
        grown = now.growth(self.before)
        leaks = {name for name, growth in grown.items() if is_leak(name, growth, self.rounds)}
        self.leaks = leaks if self.leaks is None else self.leaks & leaks
        self.before = now
        return not self.leaks


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


STRETCHES = 10  # free lists fill up slowly


def run_async(name: str, rounds: int, traced: bool = False) -> None:
    act = ASYNC[name]
    stage = Stage()

    async def repeat(n: int) -> None:
        for _ in range(n):
            await act(stage)
        for _ in range(4):
            await pyloop.pause()

    async def root() -> set[str] | None:
        stage.loop = asyncio.get_running_loop()
        stage.loop.set_exception_handler(nothing)
        await repeat(WARM_UP)
        stock = Stocktaking(stage, rounds, traced)
        for _ in range(STRETCHES):
            await repeat(rounds)
            if stock.is_settled():
                break
        return stock.leaks

    try:
        assert pyloop.run(root()) == set()
    finally:
        stage.close()


def run_plain(name: str, rounds: int, traced: bool = False) -> None:
    act = PLAIN[name]
    stage = Stage()

    def repeat(n: int) -> None:
        for _ in range(n):
            act(stage)

    try:
        repeat(WARM_UP)
        stock = Stocktaking(stage, rounds, traced)
        for _ in range(STRETCHES):
            repeat(rounds)
            if stock.is_settled():
                break
        assert stock.leaks == set()
    finally:
        stage.close()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def run(name: str, rounds: int, traced: bool = False) -> None:
    call: Callable[..., Any] = run_async if name in ASYNC else run_plain
    call(name, rounds, traced)


@pytest.mark.parametrize("name", [*ASYNC, *PLAIN])
def test_some_rounds(name: str) -> None:
    run(name, FEW_ROUNDS)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*ASYNC, *PLAIN])
def test_ten_thousand_rounds(name: str) -> None:
    run(name, ROUNDS // 20 if name in SLOW else ROUNDS)


@pytest.mark.stress
@pytest.mark.parametrize("name", [*ASYNC, *PLAIN])
def test_traced_memory(name: str) -> None:
    """Also what the interpreter's own allocator does not count in blocks."""
    tracemalloc.start()
    try:
        run(name, 100, traced=True)
    finally:
        tracemalloc.stop()
