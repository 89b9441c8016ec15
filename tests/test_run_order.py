"""Ready tasks run first in, first out, on one queue with asyncio's callbacks."""

from __future__ import annotations

import asyncio
import socket
import types
from collections.abc import Generator

import pytest
from face_support import pair

import pyloop


async def silly(name: str) -> None:
    for _ in range(3):
        print(name, end=" ")
        await pyloop.pause()


def test_the_assignments_example(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    pyloop.run(silly("a"), silly("b"), silly("c"), backend=backend)
    assert capsys.readouterr().out == "a b c a b c a b c "


def test_roots_start_in_the_order_they_were_given() -> None:
    started: list[int] = []

    async def root(number: int) -> None:
        started.append(number)

    pyloop.run(*(root(number) for number in range(100)))
    assert started == list(range(100))


def test_a_thousand_tasks_keep_their_order_for_many_rounds() -> None:
    seen: list[tuple[int, int]] = []

    async def root(number: int) -> None:
        for turn in range(5):
            seen.append((turn, number))
            await pyloop.pause()

    pyloop.run(*(root(number) for number in range(1000)))
    assert seen == [(turn, number) for turn in range(5) for number in range(1000)]


def test_tasks_of_different_length_drop_out_without_disturbing_the_rest() -> None:
    seen: list[str] = []

    async def root(name: str, turns: int) -> None:
        for _ in range(turns):
            seen.append(name)
            await pyloop.pause()

    pyloop.run(root("a", 1), root("b", 3), root("c", 2))
    assert "".join(seen) == "abcbcb"


def test_spawned_children_run_in_the_order_of_spawning_and_after_who_was_ready_before() -> None:
    seen: list[str] = []

    async def child(name: str) -> None:
        seen.append(name)

    async def parent() -> None:
        for name in "xyz":
            await pyloop.spawn(child(name))

    async def neighbour() -> None:
        seen.append("neighbour")

    pyloop.run(parent(), neighbour())
    assert seen == ["neighbour", "x", "y", "z"]


def test_the_parent_goes_on_while_the_child_lives() -> None:
    seen: list[str] = []

    async def child(release: pyloop.Channel) -> None:
        await release.recv()
        seen.append("child ended")

    async def parent() -> None:
        release = pyloop.Channel()
        await pyloop.spawn(child(release))
        seen.append("parent goes on")
        await release.send()

    pyloop.run(parent())
    assert seen == ["parent goes on", "child ended"]


def test_deeply_nested_awaits_keep_their_turn() -> None:
    seen: list[str] = []

    async def down(depth: int) -> None:
        if depth:
            await down(depth - 1)
        else:
            await pyloop.pause()

    async def root(name: str, depth: int) -> None:
        for _ in range(3):
            seen.append(name)
            await down(depth)

    pyloop.run(root("a", 0), root("b", 50), root("c", 3))
    assert "".join(seen) == "abcabcabc"


def test_a_bare_yield_is_a_pause() -> None:
    seen: list[str] = []

    @types.coroutine
    def bare() -> Generator[None, None, None]:
        yield

    async def bare_root() -> None:
        for _ in range(3):
            seen.append("bare")
            await bare()

    async def pausing_root() -> None:
        for _ in range(3):
            seen.append("pause")
            await pyloop.pause()

    pyloop.run(bare_root(), pausing_root())
    assert seen == ["bare", "pause"] * 3


def test_call_soon_and_tasks_share_one_queue() -> None:
    seen: list[str] = []

    async def first() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(seen.append, "callback 1")
        await pyloop.pause()
        seen.append("first")
        loop.call_soon(seen.append, "callback 2")
        await pyloop.pause()
        seen.append("first")

    async def second() -> None:
        for _ in range(2):
            await pyloop.pause()
            seen.append("second")

    pyloop.run(first(), second())
    assert seen == ["callback 1", "first", "second", "callback 2", "first", "second"]


def test_both_kinds_of_task_take_turns() -> None:
    seen: list[str] = []

    async def asyncio_kind() -> None:
        for _ in range(3):
            seen.append("asyncio")
            await asyncio.sleep(0)

    async def root() -> None:
        task = asyncio.create_task(asyncio_kind())
        await pyloop.pause()
        for _ in range(3):
            seen.append("pyloop")
            await pyloop.pause()
        await task

    pyloop.run(root())
    assert seen == ["asyncio", "pyloop"] * 3


def test_a_ready_read_does_not_overtake_who_is_ready_already(backend: str) -> None:
    seen: list[str] = []

    async def reader(name: str, sock: socket.socket) -> None:
        await pyloop.recv(sock)
        seen.append(name)

    async def poster(sock: socket.socket) -> None:
        await pyloop.pause()
        sock.send(b"x")
        for turn in range(3):
            seen.append(f"turn {turn}")
            await pyloop.pause()

    with pair() as (left, right):
        pyloop.run(reader("reader", left), poster(right), backend=backend)
    assert seen[0] == "turn 0"
    assert "reader" in seen
