"""Timers fire in the order of their deadlines, those of one deadline in order, never early."""

from __future__ import annotations

import asyncio
import math
import time
from fractions import Fraction
from typing import Any

import pytest
from face_support import settle
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloop


def test_sleep_wakes_in_the_order_of_the_deadlines(backend: str) -> None:
    woken: list[int] = []
    order = [7, 2, 9, 4, 1, 8, 3, 6, 5, 0]

    async def sleeper(number: int) -> None:
        await pyloop.sleep(0.002 + number * 0.001)
        woken.append(number)

    pyloop.run(*(sleeper(number) for number in order), backend=backend)
    assert woken == sorted(order)


@pytest.mark.parametrize("seconds", [0.0001, 0.0002, 0.00099, 0.001, 0.0025, 0.01, 0.02])
def test_sleep_is_never_early(seconds: float, backend: str) -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            before, clock = loop.time(), time.monotonic()
            await pyloop.sleep(seconds)
            assert time.monotonic() - clock >= seconds
            assert loop.time() - before >= seconds

    pyloop.run(root(), backend=backend)


def test_callbacks_are_never_early(backend: str) -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        chan = pyloop.Channel(1000)
        base = loop.time()
        deadlines = [base + number * 0.00013 for number in range(1, 60)]
        for deadline in deadlines:
            loop.call_at(deadline, lambda when=deadline: chan.send_nowait((when, loop.time())))
        for deadline in deadlines:
            when, now = await chan.recv()
            assert when == deadline
            assert now >= when

    pyloop.run(root(), backend=backend)


def test_equal_deadlines_fire_in_the_order_they_were_set(backend: str) -> None:
    fired: list[int] = []

    async def root() -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + 0.003
        for number in range(500):
            loop.call_at(when, fired.append, number)
        await pyloop.sleep(0.006)

    pyloop.run(root(), backend=backend)
    assert fired == list(range(500))


def test_sleep_zero_is_one_turn() -> None:
    seen: list[str] = []

    async def root(name: str, zero: Any) -> None:
        for _ in range(3):
            seen.append(name)
            assert await pyloop.sleep(zero) is None

    pyloop.run(root("a", 0), root("b", 0.0), root("c", False))
    assert "".join(seen) == "abcabcabc"


def test_the_clock_is_time_monotonic() -> None:
    async def root() -> None:
        before = time.monotonic()
        now = asyncio.get_running_loop().time()
        assert before <= now <= time.monotonic()

    pyloop.run(root())


def test_sleep_takes_whole_and_other_numbers() -> None:
    class Seconds:
        def __float__(self) -> float:
            return 0.001

    async def root() -> None:
        await pyloop.sleep(Fraction(1, 1000))
        await pyloop.sleep(Seconds())
        task = await pyloop.spawn(pyloop.sleep(10**6))
        await settle()
        task.cancel()

    pyloop.run(root())


def test_a_very_long_sleep_does_not_wake_at_once(backend: str) -> None:
    async def root() -> None:
        tasks = [
            await pyloop.spawn(pyloop.sleep(seconds))
            for seconds in (86400 * 365 * 10, 2**31, 2**32 / 1000, 1e9)
        ]
        await pyloop.sleep(0.005)
        await settle()
        for task in tasks:
            assert not task.done()
            task.cancel()

    pyloop.run(root(), backend=backend)


def test_a_deadline_in_the_past_fires_soon() -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        fired: list[str] = []
        loop.call_at(loop.time() - 10, fired.append, "past")
        loop.call_later(-1, fired.append, "negative")
        loop.call_later(0, fired.append, "now")
        await pyloop.sleep(0.001)
        assert fired == ["past", "negative", "now"]

    pyloop.run(root())


def test_a_timer_can_be_asked_and_cancelled() -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        fired: list[str] = []
        when = loop.time() + 0.002
        kept = loop.call_at(when, fired.append, "kept")
        dropped = loop.call_at(when, fired.append, "dropped")
        assert kept.when() == pytest.approx(when, abs=1e-6)
        assert not dropped.cancelled()
        dropped.cancel()
        dropped.cancel()
        assert dropped.cancelled()
        assert not kept.cancelled()
        await pyloop.sleep(0.005)
        assert fired == ["kept"]
        kept.cancel()

    pyloop.run(root())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 40), st.just(0)),
        # A timer that cancels another one when it fires, or adds one.
        st.tuples(st.just("add canceller"), st.integers(0, 6), st.integers(0, 40)),
        st.tuples(st.just("add adder"), st.integers(0, 6), st.integers(0, 6)),
    ),
    max_size=40,
)


@settings(max_examples=100)
@given(steps=STEPS)
def test_any_order_of_add_cancel_and_fire(steps: list[tuple[str, int, int]]) -> None:
    """Deadlines are explicit numbers on one base: how fast the machine is decides nothing."""

    async def root() -> None:
        loop = asyncio.get_running_loop()
        base = loop.time() + 0.001
        handles: list[Any] = []
        deadlines: list[int] = []
        cancelled: set[int] = set()
        fired: list[int] = []
        done = pyloop.Channel(1)

        def cancel(number: int) -> None:
            if handles:
                number %= len(handles)
                handles[number].cancel()
                if number not in fired:
                    cancelled.add(number)

        def add(slot: int, then: Any, argument: int) -> None:
            number = len(handles)
            deadlines.append(slot)
            handles.append(loop.call_at(base + slot * 0.0001, fire, number, then, argument))

        def fire(number: int, then: Any, argument: int) -> None:
            assert number not in cancelled
            assert number not in fired
            assert loop.time() >= base + deadlines[number] * 0.0001
            fired.append(number)
            if then == "cancel":
                cancel(argument)
            elif then == "add":
                # Later than everything there is, so that its place is known.
                add(7 + argument, None, 0)

        for name, argument, other in steps:
            if name == "add":
                add(argument, None, 0)
            elif name == "cancel":
                cancel(argument)
            elif name == "add canceller":
                add(argument, "cancel", other)
            else:
                add(argument, "add", other)
        first = len(handles)
        loop.call_at(base + 20 * 0.0001, done.send_nowait, None)
        await done.recv()

        # What a late timer added is due before this sleep ends, even if it is due already.
        await pyloop.sleep(0.002)

        assert set(fired) == set(range(len(handles))) - cancelled
        early = [number for number in fired if number < first]
        assert early == sorted(early, key=lambda number: (deadlines[number], number))
        assert fired[: len(early)] == early

    pyloop.run(root())


class Whole(int):
    pass


@pytest.mark.parametrize(
    "seconds", [2**31, 2**40, 2**63 - 1, 2**63, 10**400, Whole(10**400), 1e300, math.inf]
)
def test_times_beyond_every_clock(seconds: float) -> None:
    async def limited() -> None:
        async with pyloop.timeout(seconds):
            await pyloop.sleep(seconds)

    async def root() -> None:
        task = await pyloop.spawn(limited())
        await settle()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    pyloop.run(root())


@pytest.mark.parametrize("seconds", [-1, -(2**63), -(10**400), Whole(-(10**400)), -math.inf])
def test_negative_times(seconds: float) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        pyloop.sleep(seconds)
    with pytest.raises(ValueError, match="must not be negative"):
        pyloop.timeout(seconds)


def test_many_timers_most_of_them_cancelled(backend: str) -> None:
    fired: list[int] = []

    async def root() -> None:
        loop = asyncio.get_running_loop()
        base = loop.time() + 0.01
        handles = [
            loop.call_at(base + (number * 7919 % 1000) * 1e-5, fired.append, number)
            for number in range(5000)
        ]
        for number, handle in enumerate(handles):
            if number % 10:
                handle.cancel()
        await pyloop.sleep(0.05)

    pyloop.run(root(), backend=backend)
    expected = sorted(range(0, 5000, 10), key=lambda number: (number * 7919 % 1000, number))
    assert fired == expected
