"""Timers of every kind against a plain model: each once, never early, in the order of deadlines.

How fast the machine is decides nothing: the model compares deadlines, not times of arrival.
"""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest
from model_support import few_and_many, play

import pyloop

STEPS = 150
TICK = 0.0001


class Timer:
    """One in the model. Its deadline is known exactly (call_at) or within bounds (sleep)."""

    def __init__(self, number: int, turn: int) -> None:
        self.number = number
        self.turn = turn  # in which it was made
        self.earliest = 0.0
        self.latest = 0.0
        self.is_exact = False
        self.handle: Any = None
        self.task: Any = None


class Driver:
    def __init__(self, chance: random.Random, trace: list[str]) -> None:
        self.chance = chance
        self.trace = trace
        self.loop = asyncio.get_running_loop()
        self.turn = 0
        self.n_steps = 0
        self.pending: dict[int, Timer] = {}
        self.numbers = iter(range(10**9))
        self.references: list[weakref.ref[Any]] = []

    async def run(self) -> None:
        self.loop.call_soon(self.count_turns)
        try:
            while self.n_steps < STEPS or self.pending:
                self.some_steps(self.chance.randint(0, 10))
                await pyloop.sleep(self.chance.choice((0, TICK, 5 * TICK)))
        finally:
            self.turn = -1
        await pyloop.pause()
        gc.collect()
        assert all(reference() is None for reference in self.references)

    def count_turns(self) -> None:
        """The first callback of each turn: what is due in it runs after us."""
        if self.turn >= 0:
            self.turn += 1
            self.loop.call_soon(self.count_turns)

    def some_steps(self, n: int) -> None:
        kinds = (self.call_at, self.call_at, self.call_later, self.sleep, self.far_away)
        for _ in range(n):
            if self.n_steps >= STEPS:
                # No more; and what is far away will not come by itself.
                for timer in [one for one in self.pending.values() if one.earliest > 1e5]:
                    self.cancel(timer)
                return
            self.n_steps += 1
            if self.pending and self.chance.random() < 0.35:
                self.cancel(self.chance.choice(list(self.pending.values())))
            else:
                self.chance.choice(kinds)()

    # --- what happens ---

    def add(self, text: str) -> Timer:
        timer = Timer(next(self.numbers), self.turn)
        self.pending[timer.number] = timer
        self.trace.append(f"{timer.number}: {text} in turn {self.turn}")
        return timer

    def fired(self, number: int) -> None:
        self.trace.append(f"fired {number} in turn {self.turn}")
        assert number in self.pending, "fired twice, or after cancel()"
        timer = self.pending.pop(number)
        assert self.loop.time() >= timer.earliest, "early"
        for other in self.pending.values():
            # Made before we were due, or could be: at the latest in the turn before ours.
            if other.turn < self.turn and comes_before(other, timer):
                raise AssertionError(f"{number} overtook {other.number}")
        if self.chance.random() < 0.3:
            self.some_steps(self.chance.randint(1, 3))

    # --- the operations ---

    def call_at(self) -> None:
        # Few different deadlines: many are equal.
        when = self.loop.time() + self.chance.randint(-2, 12) * TICK
        when -= when % (3 * TICK)
        timer = self.add(f"call_at {when}")
        timer.earliest = timer.latest = when
        timer.is_exact = True
        callback = Callback(self, timer.number)
        self.references.append(weakref.ref(callback))
        timer.handle = self.loop.call_at(when, callback, timer.number)
        assert timer.handle.when() == when

    def call_later(self) -> None:
        delay = self.chance.choice((-1.0, 0, TICK, 3 * TICK, 12 * TICK))
        timer = self.add(f"call_later {delay}")
        timer.earliest = self.loop.time() + max(0, delay)
        timer.handle = self.loop.call_later(delay, self.fired, timer.number)
        timer.latest = self.loop.time() + max(0, delay)

    def far_away(self) -> None:
        timer = self.add("call_later 1e6")
        timer.earliest = timer.latest = self.loop.time() + 1e6
        timer.handle = self.loop.call_later(1e6, self.fired, timer.number)

    def sleep(self) -> None:
        delay = self.chance.choice((TICK, 3 * TICK, 12 * TICK))
        timer = self.add(f"sleep {delay}")
        # Until it sleeps it cannot be late.
        timer.latest = float("inf")
        timer.earliest = float("-inf")
        coro = self.sleeper(timer, delay)
        if self.chance.random() < 0.5:
            timer.task = self.loop.create_task(coro)
        else:
            timer.task = self.loop._create_native_task(coro)  # type: ignore[attr-defined]

    async def sleeper(self, timer: Timer, delay: float) -> None:
        timer.turn = self.turn
        timer.earliest = self.loop.time() + delay
        operation = pyloop.sleep(delay)
        # The deadline is set when the operation is first driven: before this callback runs.
        self.loop.call_soon(self.sleeps, timer, delay)
        try:
            await operation
        except asyncio.CancelledError:
            return
        self.fired(timer.number)

    def sleeps(self, timer: Timer, delay: float) -> None:
        timer.latest = self.loop.time() + delay

    def cancel(self, timer: Timer) -> None:
        self.trace.append(f"cancel {timer.number} in turn {self.turn}")
        del self.pending[timer.number]
        (timer.handle or timer.task).cancel()
        if timer.handle is not None:
            assert timer.handle.cancelled()
        if self.chance.random() < 0.1:
            (timer.handle or timer.task).cancel()  # again


class Callback:
    """A callback of its own for each timer, so that one can see that it is let go."""

    def __init__(self, driver: Driver, number: int) -> None:
        self.driver = driver

    def __call__(self, number: int) -> None:
        self.driver.fired(number)


def comes_before(one: Timer, other: Timer) -> bool:
    if one.is_exact and other.is_exact and one.earliest == other.earliest:
        return one.number < other.number
    return one.latest < other.earliest


def one_round(chance: random.Random, trace: list[str], backend: str) -> int:
    async def root() -> None:
        await Driver(chance, trace).run()

    failures: list[dict[str, Any]] = []
    loop = pyloop.EventLoop(backend=backend)
    loop.set_exception_handler(lambda loop, context: failures.append(context))
    try:
        loop.run(root())
    finally:
        loop.close()
        if failures:
            raise failures[0]["exception"]
    return STEPS


@few_and_many
def test_timers_are_their_model(operations: int, backend: str) -> None:
    play(lambda chance, trace: one_round(chance, trace, backend), operations)


@pytest.mark.parametrize("n", [1000, pytest.param(100_000, marks=pytest.mark.stress)])
def test_many_timers_are_a_sorted_list(n: int) -> None:
    """Far more than fit a small heap, cancelled in random order, all due when the loop looks."""
    chance = random.Random(n)
    loop = pyloop.EventLoop()
    try:
        base = loop.time() - 1000
        fired: list[int] = []
        whens = [base + chance.randrange(n // 2) * TICK for _ in range(n)]
        handles = [loop.call_at(when, fired.append, i) for i, when in enumerate(whens)]
        gone = set(chance.sample(range(n), n // 2))
        for i in chance.sample(sorted(gone), len(gone)):
            handles[i].cancel()
        loop.call_later(0, loop.stop)
        loop.run_forever()
        assert fired == sorted(set(range(n)) - gone, key=lambda i: (whens[i], i))
    finally:
        loop.close()
