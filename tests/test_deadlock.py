"""Roots that wait for what can never come end in Deadlock, which says who waits where."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from face_support import pair, settle, task_name

import pyloop


def test_deadlock_is_a_runtime_error() -> None:
    assert issubclass(pyloop.Deadlock, RuntimeError)


@pytest.mark.parametrize("side", ["recv", "send"])
def test_one_root_on_a_channel_without_a_partner(side: str) -> None:
    names: list[str] = []

    async def root(chan: pyloop.Channel) -> None:
        names.append(task_name())
        await (chan.recv() if side == "recv" else chan.send(1))

    with pytest.raises(pyloop.Deadlock) as caught:
        pyloop.run(root(pyloop.Channel()))
    message = str(caught.value)
    assert names[0] in message
    assert side in message.lower()
    assert "chan" in message.lower()


def test_the_message_lists_every_waiting_task() -> None:
    names: list[str] = []

    async def root(chan: pyloop.Channel) -> None:
        names.append(task_name())
        await chan.recv()

    with pytest.raises(pyloop.Deadlock) as caught:
        pyloop.run(*(root(pyloop.Channel()) for _ in range(5)))
    assert len(set(names)) == 5
    for name in names:
        assert name in str(caught.value)


def test_the_message_says_at_which_line_each_task_waits() -> None:
    lines: list[int] = []

    def here() -> None:
        lines.append(sys._getframe(1).f_lineno + 1)

    async def inner(chan: pyloop.Channel) -> None:
        here()
        await chan.recv()

    async def outer(chan: pyloop.Channel) -> None:
        await inner(chan)

    def generator(chan: pyloop.Channel) -> Any:
        here()
        yield (pyloop.Event.ChanRecv, chan)

    def delegating(chan: pyloop.Channel) -> Any:
        yield from generator(chan)

    async def iterates(chan: pyloop.Channel) -> None:
        here()
        async for _ in chan:
            pass

    roots = [body(pyloop.Channel()) for body in (outer, delegating, iterates)]
    with pytest.raises(pyloop.Deadlock) as caught:
        pyloop.run(*roots)
    for text, line in zip(str(caught.value).splitlines()[1:], lines, strict=True):
        assert text.endswith(f", at {__file__}:{line}")


class Awaits:
    """An awaitable that passes on what another does, and is no coroutine."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __await__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._inner.send(None)

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)


class AwaitsItself(Awaits):
    @property
    def cr_await(self) -> Any:
        return self


class HasEverything(Awaits):
    def __getattr__(self, name: str) -> Any:
        return HasEverything(None)


class Raises(Awaits):
    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


@pytest.mark.parametrize("kind", [AwaitsItself, HasEverything, Raises])
def test_awaitables_with_odd_attributes_do_not_hide_the_deadlock(kind: type[Awaits]) -> None:
    lines: list[int] = []

    async def root() -> None:
        lines.append(sys._getframe().f_lineno + 1)
        await kind(pyloop.Channel().recv().__await__())

    with pytest.raises(pyloop.Deadlock) as caught:
        pyloop.run(root())
    assert str(caught.value).endswith(f", at {__file__}:{lines[0]}")


def test_tasks_that_wait_for_each_other() -> None:
    async def wait_for(tasks: dict[str, Any], other: str) -> None:
        await tasks[other]

    async def root() -> None:
        tasks: dict[str, Any] = {}
        tasks["left"] = await pyloop.spawn(wait_for(tasks, "right"), name="left-task")
        tasks["right"] = await pyloop.spawn(wait_for(tasks, "left"), name="right-task")
        await tasks["left"]

    with pytest.raises(pyloop.Deadlock) as caught:
        pyloop.run(root())
    assert "left-task" in str(caught.value)
    assert "right-task" in str(caught.value)


def test_tasks_that_wait_for_each_other_can_be_shown() -> None:
    async def wait_for(tasks: list[Any], other: int) -> None:
        await tasks[other]

    async def root() -> None:
        tasks: list[Any] = []
        for number in range(3):
            tasks.append(await pyloop.spawn(wait_for(tasks, (number + 1) % 3), name=f"t{number}"))
        await settle()
        for number, task in enumerate(tasks):
            assert f"t{number}" in repr(task)
        tasks[0].cancel()
        await settle()
        assert all(task.cancelled() for task in tasks)

    pyloop.run(root())


def test_a_root_that_joins_a_stuck_child() -> None:
    async def child() -> None:
        await pyloop.Channel().recv()

    async def root() -> None:
        await (await pyloop.spawn(child(), name="the-stuck-child"))

    with pytest.raises(pyloop.Deadlock, match="the-stuck-child"):
        pyloop.run(root())


def test_finally_blocks_of_deadlocked_tasks_run() -> None:
    ended: list[str] = []

    async def stuck(name: str) -> None:
        try:
            await pyloop.Channel().recv()
        finally:
            await pyloop.pause()
            ended.append(name)

    async def root() -> None:
        await pyloop.spawn(stuck("child"))
        await stuck("root")

    with pytest.raises(pyloop.Deadlock):
        pyloop.run(root())
    assert sorted(ended) == ["child", "root"]


def test_one_root_ends_and_the_other_is_stuck() -> None:
    ended: list[str] = []

    async def good() -> None:
        for _ in range(5):
            await pyloop.pause()
        await pyloop.sleep(0.001)
        ended.append("good")

    async def stuck() -> None:
        await pyloop.Channel().recv()

    with pytest.raises(pyloop.Deadlock):
        pyloop.run(good(), stuck())
    assert ended == ["good"]


def test_the_channel_is_usable_afterwards() -> None:
    chan = pyloop.Channel()

    async def receiver() -> Any:
        return await chan.recv()

    async def sender() -> None:
        await chan.send("value")

    for side in (receiver, sender):
        with pytest.raises(pyloop.Deadlock):
            pyloop.run(side())
        assert chan._sender is None
        assert chan._receiver is None
        assert pyloop.run(receiver(), sender())[0] == "value"


def test_the_loop_is_usable_afterwards() -> None:
    async def stuck() -> None:
        await pyloop.Channel().recv()

    async def good() -> str:
        await pyloop.sleep(0)
        return "good"

    loop = pyloop.EventLoop()
    try:
        for _ in range(3):
            with pytest.raises(pyloop.Deadlock):
                loop.run(stuck())
            assert loop.run(good()) == "good"
    finally:
        loop.close()


def test_waiting_for_a_socket_is_no_deadlock(backend: str) -> None:
    async def root(left: socket.socket) -> bytes:
        return await pyloop.recv(left)

    with pair() as (left, right):
        timer = threading.Timer(0.02, right.send, [b"late"])
        timer.start()
        assert pyloop.run(root(left), backend=backend) == b"late"
        timer.join()


def test_waiting_while_another_task_sleeps_is_no_deadlock() -> None:
    chan = pyloop.Channel()

    async def sleeper() -> None:
        await pyloop.sleep(0.005)
        await chan.send("slept")

    async def root() -> Any:
        return await chan.recv()

    assert pyloop.run(root(), sleeper())[0] == "slept"


def test_waiting_while_a_callback_is_due_is_no_deadlock() -> None:
    async def root() -> Any:
        chan = pyloop.Channel(1)
        asyncio.get_running_loop().call_later(0.005, chan.send_nowait, "called")
        return await chan.recv()

    assert pyloop.run(root()) == "called"


def test_waiting_while_a_reader_callback_is_registered_is_no_deadlock(backend: str) -> None:
    async def root(left: socket.socket) -> Any:
        chan = pyloop.Channel(1)
        loop = asyncio.get_running_loop()
        loop.add_reader(left, chan.send_nowait, "readable")
        try:
            return await chan.recv()
        finally:
            loop.remove_reader(left)

    with pair() as (left, right):
        timer = threading.Timer(0.02, right.send, [b"x"])
        timer.start()
        assert pyloop.run(root(left), backend=backend) == "readable"
        timer.join()


def test_waiting_for_a_thread_is_no_deadlock() -> None:
    async def root() -> str:
        release = threading.Event()
        threading.Timer(0.02, release.set).start()
        await asyncio.to_thread(release.wait)
        return "joined"

    assert pyloop.run(root()) == "joined"


def test_a_future_that_another_thread_completes_is_no_deadlock() -> None:
    async def root() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = threading.Timer(0.02, loop.call_soon_threadsafe, [future.set_result, "done"])
        timer.start()
        return await future

    assert pyloop.run(root()) == "done"


class LastMoment:
    """A thread that ends right when run() looks which threads there are, and helps before that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._look = threading.enumerate
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._help, args=[callback])
        self._thread.start()
        monkeypatch.setattr(threading, "enumerate", self._enumerate)

    def _help(self, callback: Callable[[], object]) -> None:
        self._go.wait()
        self._loop.call_soon_threadsafe(callback)

    def _enumerate(self) -> list[threading.Thread]:
        self._go.set()
        self._thread.join()
        return self._look()


def test_a_thread_that_helps_and_ends_while_run_looks_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def root() -> str:
        chan: pyloop.Channel[str] = pyloop.Channel(1)
        LastMoment(monkeypatch, lambda: chan.send_nowait("helped"))
        return await chan.recv()

    assert pyloop.run(root()) == "helped"


def test_such_a_thread_helps_a_finally_block_of_a_cancelled_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleaned: list[str] = []

    async def child(chan: pyloop.Channel[str]) -> None:
        try:
            await pyloop.sleep(1000)
        finally:
            LastMoment(monkeypatch, lambda: chan.send_nowait("cleaned"))
            cleaned.append(await chan.recv())

    async def root() -> None:
        await pyloop.spawn(child(pyloop.Channel(1)))
        await settle()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pyloop.run(root())
    assert cleaned == ["cleaned"]


def test_a_task_that_catches_the_end_and_waits_again_cannot_hold_the_run() -> None:
    async def stubborn() -> None:
        chan = pyloop.Channel()
        for _ in range(3):
            try:
                await chan.recv()
            except asyncio.CancelledError:
                await pyloop.pause()

    with pytest.raises(pyloop.Deadlock):
        pyloop.run(stubborn())
