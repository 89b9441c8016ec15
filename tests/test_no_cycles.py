"""What a program does all day leaves no garbage that only the cycle collector can free."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from face_support import expect, pair, settle
from support import fill_socket, listener

import pyloop

ROUNDS = 5


class Stage:
    def __init__(self, left: socket.socket, right: socket.socket, full: socket.socket) -> None:
        self.left = left
        self.right = right
        self.full = full


async def cancel(task: Any) -> None:
    await settle(3)
    task.cancel()
    await expect(asyncio.CancelledError, task)


async def send_and_recv(stage: Stage) -> None:
    await pyloop.sendall(stage.left, b"x" * 100)
    assert await pyloop.recv(stage.right) == b"x" * 100
    task = await pyloop.spawn(pyloop.recv(stage.right))
    await settle(3)
    await pyloop.send(stage.left, b"y")
    assert await task == b"y"


async def recv_into(stage: Stage) -> None:
    buffer = bytearray(10)
    await pyloop.sendall(stage.left, b"x")
    assert await pyloop.recv_into(stage.right, buffer) == 1


async def cancelled_recv(stage: Stage) -> None:
    await cancel(await pyloop.spawn(pyloop.recv(stage.left)))


async def cancelled_sendall(stage: Stage) -> None:
    await cancel(await pyloop.spawn(pyloop.sendall(stage.full, bytearray(100))))


async def cancelled_sleep(stage: Stage) -> None:
    await cancel(await pyloop.spawn(pyloop.sleep(1000)))


async def cancelled_asyncio_task(stage: Stage) -> None:
    await cancel(asyncio.create_task(pyloop.recv(stage.left)))


async def a_second_reader(stage: Stage) -> None:
    task = await pyloop.spawn(pyloop.recv(stage.left))
    await settle(3)
    await expect(RuntimeError, pyloop.recv(stage.left))
    await cancel(task)


async def channel(stage: Stage) -> None:
    chan = pyloop.Channel()
    task = await pyloop.spawn(chan.send([]))
    await chan.recv()
    await task
    buffered = pyloop.Channel(3)
    buffered.send_nowait(1)
    assert await buffered.recv() == 1


async def closed_channel(stage: Stage) -> None:
    chan = pyloop.Channel()
    tasks = [await pyloop.spawn(chan.recv())]
    await settle(3)
    chan.close()
    await expect(pyloop.ChannelClosed, tasks.pop())
    await expect(pyloop.ChannelClosed, chan.send(1))


async def cancelled_channel(stage: Stage) -> None:
    chan = pyloop.Channel()
    await cancel(await pyloop.spawn(chan.recv()))
    await cancel(await pyloop.spawn(chan.send(1)))


async def timeouts(stage: Stage) -> None:
    async def limited() -> None:
        async with pyloop.timeout(0.0005):
            await pyloop.sleep(1000)

    await expect(TimeoutError, limited())
    async with pyloop.timeout(1000):
        await pyloop.pause()


async def spawn_and_join(stage: Stage) -> None:
    async def child() -> int:
        await pyloop.pause()
        return 1

    assert await (await pyloop.spawn(child())) == 1


async def a_child_that_raises(stage: Stage) -> None:
    async def child() -> None:
        await pyloop.pause()
        raise ValueError

    await expect(ValueError, await pyloop.spawn(child()))


async def lines(stage: Stage) -> None:
    await pyloop.sendall(stage.left, b"one\ntwo\nmuch too long\n\xff\n")
    iterator = pyloop.lines(stage.right, max_line=5)
    assert await iterator.__anext__() == "one"
    assert await iterator.__anext__() == "two"
    await expect(pyloop.LineTooLong, iterator.__anext__())
    await expect(UnicodeDecodeError, iterator.__anext__())
    await iterator.aclose()


async def accept_and_connect(stage: Stage) -> None:
    with listener() as listening, socket.socket() as client:
        client.setblocking(False)
        task = await pyloop.spawn(pyloop.accept(listening))
        await pyloop.connect(client, listening.getsockname())
        conn, _ = await task
        conn.close()


async def sleeps(stage: Stage) -> None:
    await pyloop.sleep(0)
    await pyloop.sleep(0.0005)
    await asyncio.sleep(0.0005)


class Foreign:
    def __await__(self) -> Any:
        yield 42


async def a_foreign_yield(stage: Stage) -> None:
    async def root() -> None:
        await Foreign()

    await expect(RuntimeError, root())


ACTIVITIES: list[Callable[[Stage], Awaitable[None]]] = [
    send_and_recv,
    recv_into,
    cancelled_recv,
    cancelled_sendall,
    cancelled_sleep,
    cancelled_asyncio_task,
    a_second_reader,
    channel,
    closed_channel,
    cancelled_channel,
    timeouts,
    spawn_and_join,
    a_child_that_raises,
    lines,
    accept_and_connect,
    sleeps,
    a_foreign_yield,
]


@pytest.mark.parametrize("activity", ACTIVITIES, ids=lambda activity: activity.__name__)
def test_no_cyclic_garbage(activity: Callable[[Stage], Awaitable[None]], backend: str) -> None:
    async def root() -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with pair() as (left, right), pair() as (full, _):
            fill_socket(full)
            stage = Stage(left, right, full)
            # Once before the measurement, for what is made on first use.
            await activity(stage)
            await settle()
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for _ in range(ROUNDS):
                    await activity(stage)
                await settle()
                gc.collect()
                return list(gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()

    assert pyloop.run(root(), backend=backend) == []


class Holder:
    """Keeps the Handle of a callback of its own: a cycle."""

    def __init__(self, loop: pyloop.EventLoop) -> None:
        self.loop = loop
        self.handle: asyncio.Handle | None = None

    def schedule(self) -> None:
        self.handle = self.loop.call_soon(self.call)

    def schedule_and_cancel(self) -> None:
        self.handle = self.loop.call_soon(self.call)
        self.handle.cancel()
        self.loop.call_soon(self.loop.stop)

    def schedule_and_stop(self) -> None:
        self.handle = self.loop.call_soon(self.call)
        self.loop.stop()

    def call(self) -> None:
        self.loop.stop()


def run_from(loop: pyloop.EventLoop, start: Callable[[Holder], None]) -> weakref.ref[Holder]:
    holder = Holder(loop)
    loop.call_soon(start, holder)
    loop.run_forever()
    return weakref.ref(holder)


@pytest.mark.parametrize(
    "start", [Holder.schedule, Holder.schedule_and_cancel], ids=["has run", "is cancelled"]
)
def test_kept_handle_is_collected(start: Callable[[Holder], None]) -> None:
    loop = pyloop.EventLoop()
    holder = run_from(loop, start)
    gc.collect()
    assert holder() is None
    loop.close()


@pytest.mark.filterwarnings("ignore:unclosed event loop")
def test_loop_dropped_with_a_kept_handle_pending_is_collected() -> None:
    holder = run_from(pyloop.EventLoop(), Holder.schedule_and_stop)
    gc.collect()
    assert holder() is None
