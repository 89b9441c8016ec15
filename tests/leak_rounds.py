"""One round of every operation, on every way that it can take: what test_leaks.py repeats.

A round leaves its stage as it found it. Those of ASYNC run in a task of a running loop, those of
PLAIN outside of any.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import selectors
import signal
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from asyncio_support import ActsInOne
from face_support import expect, settle
from support import drain_socket, fill_socket, listener, socketpair

import pyloop
from pyloop import Event


class Stage:
    """What rounds use; `shared` are objects whose references are counted."""

    def __init__(self) -> None:
        self.left, self.right = socketpair()
        self.full, self.full_peer = socketpair()
        self.full.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.udp, self.udp_peer = socketpair(socket.SOCK_DGRAM)
        fill_socket(self.full)
        self.loop: Any = None
        self.value: Any = ["a value"]
        self.error = ValueError("shared")
        self.data = bytearray(b"0123456789")
        self.context = contextvars.copy_context()
        self.selector = pyloop.Selector()
        self.channel: pyloop.Channel[Any] = pyloop.Channel(10)
        self.shared = [
            *(self.value, self.data, self.context, self.selector, self.channel),
            *(self.left, self.full, self.udp, nothing),
        ]

    def close(self) -> None:
        self.selector.close()
        for sock in (
            *(self.left, self.right, self.full, self.full_peer),
            *(self.udp, self.udp_peer),
        ):
            sock.close()


Async = Callable[[Stage], Awaitable[None]]
Plain = Callable[[Stage], None]

ASYNC: dict[str, Async] = {}
PLAIN: dict[str, Plain] = {}


def of_a_task(function: Async) -> Async:
    ASYNC[function.__name__] = function
    return function


def of_nobody(function: Plain) -> Plain:
    PLAIN[function.__name__] = function
    return function


def nothing(*args: Any) -> None:
    pass


def refused(error: type[BaseException], call: Callable[[], Any]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


async def waits(awaitable: Any) -> Any:
    return await awaitable


async def raises(error: BaseException) -> None:
    raise error


def start(kind: int, coro: Any) -> Any:
    loop: Any = asyncio.get_running_loop()
    return loop.create_task(coro) if kind else loop._create_native_task(coro)


async def cancelled(coro: Any, kind: int = 0) -> None:
    task = start(kind, coro)
    await settle(4)
    task.cancel()
    await expect(asyncio.CancelledError, task)


# --- what can be awaited -------------------------------------------------------------------------

# Operations that wait, on this stage.
WAITS: dict[str, Callable[[Stage], Any]] = {
    "recv": lambda stage: pyloop.recv(stage.left),
    "recv_into": lambda stage: pyloop.recv_into(stage.left, stage.data),
    "recvfrom": lambda stage: pyloop.recvfrom(stage.udp, 10),
    "send": lambda stage: pyloop.send(stage.full, stage.data),
    "sendall": lambda stage: pyloop.sendall(stage.full, memoryview(stage.data)),
    "wait_readable": lambda stage: pyloop.wait_readable(stage.left),
    "wait_readable_number": lambda stage: pyloop.wait_readable(stage.left.fileno()),
    "wait_writable": lambda stage: pyloop.wait_writable(stage.full),
    "sleep": lambda stage: pyloop.sleep(1000),
    "channel_send": lambda stage: pyloop.Channel().send(stage.value),
    "channel_recv": lambda stage: pyloop.Channel().recv(),
    "channel_next": lambda stage: pyloop.Channel().__anext__(),
    "lines": lambda stage: pyloop.lines(stage.left).__anext__(),
    "sock_recv": lambda stage: stage.loop.sock_recv(stage.left, 10),
    "sock_recv_into": lambda stage: stage.loop.sock_recv_into(stage.left, stage.data),
    "sock_recvfrom": lambda stage: stage.loop.sock_recvfrom(stage.udp, 10),
    "sock_sendall": lambda stage: stage.loop.sock_sendall(stage.full, stage.data),
}


def add_waits() -> None:
    for name, make in WAITS.items():

        async def cancelled_while_it_waits(stage: Stage, make: Any = make) -> None:
            await cancelled(waits(make(stage)), 0)
            await cancelled(waits(make(stage)), 1)
            await cancelled(make(stage), 0)

        async def timed_out(stage: Stage, make: Any = make) -> None:
            async def limited() -> None:
                async with pyloop.timeout(0):
                    await make(stage)

            await expect(TimeoutError, limited())
            await expect(TimeoutError, asyncio.wait_for(make(stage), 0.000001))

        async def ended_by_others(stage: Stage, make: Any = make) -> None:
            operation = make(stage)
            task = start(0, waits(operation))
            await settle(3)
            operation.close()
            await expect(RuntimeError, task)

        async def awaited_twice(stage: Stage, make: Any = make) -> None:
            operation = make(stage)
            task = start(1, waits(operation))
            await settle(3)
            await expect(RuntimeError, operation)
            task.cancel()
            await expect(asyncio.CancelledError, task)
            await expect(RuntimeError, operation)

        async def never_awaited(stage: Stage, make: Any = make) -> None:
            make(stage).close()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make(stage)
            refused(KeyError, lambda: make(stage).throw(KeyError("x")))
            await pyloop.pause()

        async def driven_by_hand(stage: Stage, make: Any = make) -> None:
            operation = make(stage)
            assert operation.send(None) is operation
            operation.add_done_callback(nothing)
            assert operation.cancel()
            assert operation.cancelled()
            refused(asyncio.CancelledError, operation.result)
            refused(asyncio.CancelledError, lambda: operation.send(None))
            repr(operation)
            await settle(2)

        def left_in_a_closed_loop(stage: Stage, make: Any = make) -> None:
            loop = pyloop.EventLoop()
            loop.set_exception_handler(nothing)
            stage.loop = loop
            for coro in (waits(make(stage)), make(stage)):
                task: Any = loop._create_native_task(coro)
                task._log_destroy_pending = False
                loop.call_soon(loop.stop)
                loop.run_forever()
                assert not task.done() or task.exception() is not None
            del task, coro
            loop.close()
            stage.loop = None

        def without_a_loop(stage: Stage, make: Any = make) -> None:
            refused(RuntimeError, lambda: make(stage).send(None))

        for function in (
            *(cancelled_while_it_waits, timed_out, ended_by_others, awaited_twice),
            *(never_awaited, driven_by_hand),
        ):
            ASYNC[f"{name}_{function.__name__}"] = function
        if not name.startswith("sock_"):
            PLAIN[f"{name}_left_in_a_closed_loop"] = left_in_a_closed_loop
            PLAIN[f"{name}_without_a_loop"] = without_a_loop


add_waits()


@of_a_task
async def send_and_recv(stage: Stage) -> None:
    await pyloop.sendall(stage.right, b"x" * 100)
    assert await pyloop.recv(stage.left) == b"x" * 100
    task = start(0, waits(pyloop.recv(stage.left)))
    other = start(1, waits(pyloop.recvfrom(stage.udp, 10)))
    await settle(3)
    await pyloop.send(stage.right, stage.data)
    await pyloop.send(stage.udp_peer, stage.data)
    assert await task == stage.data
    assert (await other)[0] == stage.data
    await pyloop.send(stage.right, b"y")
    assert await pyloop.recv_into(stage.left, stage.data) == 1
    stage.data[0] = ord("0")


@of_a_task
async def a_large_sendall(stage: Stage) -> None:
    task = start(0, pyloop.sendall(stage.right, bytearray(600_000)))
    received = 0
    while received < 600_000:
        received += len(await pyloop.recv(stage.left, 500_000))
    await task


@of_a_task
async def refused_arguments(stage: Stage) -> None:
    for function in (pyloop.send, pyloop.sendall, pyloop.recv_into, pyloop.connect):
        refused(TypeError, lambda f=function: f(stage.left, stage.value))  # type: ignore[misc]
        refused(TypeError, lambda f=function: f(stage.value, stage.data))  # type: ignore[misc]
        refused(TypeError, lambda f=function: f(stage.left))  # type: ignore[misc]
    for call in (pyloop.recv, pyloop.recvfrom):
        refused(ValueError, lambda f=call: f(stage.left, -1))  # type: ignore[misc]
        refused(TypeError, lambda f=call: f(stage.left, stage.value))  # type: ignore[misc]
        refused(TypeError, lambda f=call: f(stage.left, bufsize=1, x=stage.value))  # type: ignore[misc]
    refused(TypeError, lambda: pyloop.sendto(stage.left, stage.data, stage.value))
    refused(TypeError, lambda: pyloop.accept(stage.value))
    refused(TypeError, lambda: pyloop.wait_readable(stage.value))
    refused(ValueError, lambda: pyloop.wait_readable(-1))
    refused(TypeError, lambda: pyloop.sleep(stage.value))
    refused(ValueError, lambda: pyloop.sleep(-1))
    refused(TypeError, lambda: pyloop.spawn(stage.value))
    refused(TypeError, lambda: pyloop.lines(stage.value))
    refused(LookupError, lambda: pyloop.lines(stage.left, encoding="no such"))
    refused(TypeError, lambda: pyloop.Channel(stage.value))
    refused(ValueError, lambda: pyloop.Channel(-1))
    refused(TypeError, lambda: pyloop.Channel().send(1, stage.value))


@of_a_task
async def refused_calls_of_the_loop(stage: Stage) -> None:
    loop = stage.loop
    refused(TypeError, lambda: loop.call_soon(nothing, context=stage.value))
    refused(TypeError, lambda: loop.call_later(stage.value, nothing))
    refused(TypeError, lambda: loop.call_at(None, nothing, stage.value))
    refused(ValueError, lambda: loop.add_reader(stage.value, nothing))
    refused(ValueError, lambda: loop.remove_writer(stage.value))
    refused(TypeError, lambda: loop.close_socket(stage.value))
    refused(TypeError, lambda: loop.create_task(stage.value))
    refused(TypeError, lambda: loop._create_native_task(stage.value))
    refused(RuntimeError, loop.close)
    refused(RuntimeError, loop.run_forever)
    refused(TypeError, lambda: loop.set_task_factory(stage.value))
    refused(ValueError, lambda: loop.add_signal_handler(1000, nothing))
    await pyloop.pause()


@of_a_task
async def a_second_reader(stage: Stage) -> None:
    task = start(0, pyloop.recv(stage.left))
    await settle(3)
    await expect(RuntimeError, pyloop.recv(stage.left))
    await expect(RuntimeError, asyncio.create_task(waits(pyloop.wait_readable(stage.left))))
    refused(RuntimeError, lambda: stage.loop._add_reader(stage.left, nothing, stage.value))
    task.cancel()
    await expect(asyncio.CancelledError, task)


@of_a_task
async def sockets_that_are_closed(stage: Stage) -> None:
    left, right = socketpair()
    tasks = [start(kind, waits(pyloop.recv(sock))) for kind, sock in enumerate((left, right))]
    await settle(3)
    stage.loop.close_socket(left)
    stage.loop.close_socket(right)
    for task in tasks:
        await expect(OSError, task)
    refused(OSError, lambda: pyloop.recv(left))


@of_a_task
async def accept_and_connect(stage: Stage) -> None:
    with listener() as listening, socket.socket() as client:
        client.setblocking(False)
        task = await pyloop.spawn(pyloop.accept(listening))
        await pyloop.connect(client, listening.getsockname())
        connection, _ = await task
        connection.close()


@of_a_task
async def a_connection_that_is_refused(stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        await expect(OSError, waits(pyloop.connect(client, "\0nobody listens here")))
        await expect(OSError, waits(stage.loop.sock_connect(client, "\0nor here")))


@of_a_task
async def sock_calls(stage: Stage) -> None:
    loop = stage.loop
    await loop.sock_sendall(stage.right, stage.data)
    assert await loop.sock_recv(stage.left, 100) == stage.data
    await loop.sock_sendall(stage.right, b"0")
    assert await loop.sock_recv_into(stage.left, stage.data) == 1
    await loop.sock_sendall(stage.udp_peer, b"x")
    await loop.sock_recvfrom(stage.udp, 10)
    with listener() as listening, socket.socket() as client:
        client.setblocking(False)
        task = asyncio.create_task(loop.sock_accept(listening))
        await loop.sock_connect(client, listening.getsockname())
        connection, _ = await task
        connection.close()


@of_a_task
async def lines_of_all_kinds(stage: Stage) -> None:
    stage.right.send(b"one\ntwo\nmuch too long\n\xff\nrest\nsix\nlast\n")
    iterator = pyloop.lines(stage.left, max_line=5)
    assert await iterator.__anext__() == "one"
    assert await iterator.__anext__() == "two"
    await expect(pyloop.LineTooLong, iterator.__anext__())
    await expect(UnicodeDecodeError, iterator.__anext__())
    async for line in iterator:
        assert line == "rest"
        break
    await iterator.aclose()
    await expect(StopAsyncIteration, iterator.__anext__())
    drain_socket(stage.left)


@of_a_task
async def lines_to_the_end(stage: Stage) -> None:
    left, right = socketpair()
    with left, right:
        right.send(b"one\ntwo")
        right.shutdown(socket.SHUT_WR)
        assert [line async for line in pyloop.lines(left)] == ["one", "two"]


@of_a_task
async def sleeps_and_pauses(stage: Stage) -> None:
    await pyloop.pause()
    await pyloop.sleep(0)
    await pyloop.sleep(0.000001)
    await asyncio.sleep(0)
    await asyncio.sleep(0.000001)


# --- channels ------------------------------------------------------------------------------------


@of_a_task
async def channel_rendezvous(stage: Stage) -> None:
    for kind in (0, 1):
        channel: pyloop.Channel[Any] = pyloop.Channel()
        task = start(kind, channel.send(stage.value))
        assert await channel.recv() is stage.value
        await task
        task = start(kind, waits(channel.recv()))
        await settle(2)
        channel.send_nowait(stage.value)
        assert await task is stage.value


@of_a_task
async def channel_with_a_buffer(stage: Stage) -> None:
    channel = stage.channel
    for _ in range(10):
        channel.send_nowait(stage.value)
    refused(asyncio.QueueFull, lambda: channel.send_nowait(stage.value))
    task = start(0, channel.send(stage.value))
    await settle(2)
    for _ in range(11):
        assert await channel.recv() is stage.value
    await task
    refused(asyncio.QueueEmpty, channel.recv_nowait)


@of_a_task
async def channel_dropped_with_values(stage: Stage) -> None:
    channel: Any = pyloop.Channel(3)
    channel.send_nowait(stage.value)
    channel.send_nowait(channel)
    channel._value = stage.value
    repr((channel, channel._value, channel._sender, channel._receiver))


@of_a_task
async def channel_closed(stage: Stage) -> None:
    channel: pyloop.Channel[Any] = pyloop.Channel()
    tasks = [start(kind, waits(channel.recv())) for kind in (0, 1)]
    await settle(2)
    channel.close()
    for task in tasks:
        await expect(pyloop.ChannelClosed, task)
    channel = pyloop.Channel()
    tasks = [start(kind, waits(channel.send(stage.value))) for kind in (0, 1)]
    await settle(2)
    channel.close()
    for task in tasks:
        await expect(pyloop.ChannelClosed, task)
    await expect(pyloop.ChannelClosed, channel.send(stage.value))
    await expect(pyloop.ChannelClosed, channel.recv())
    refused(pyloop.ChannelClosed, lambda: channel.send_nowait(stage.value))
    refused(pyloop.ChannelClosed, channel.recv_nowait)


@of_a_task
async def channel_iterated(stage: Stage) -> None:
    channel: pyloop.Channel[Any] = pyloop.Channel(2)

    async def producer() -> None:
        for _ in range(5):
            await channel.send(stage.value)
        channel.close()

    task = start(0, producer())
    assert len([value async for value in channel]) == 5
    await task


@of_a_task
async def channel_traps(stage: Stage) -> None:
    channel: Any = pyloop.Channel()

    def sender() -> Generator[Any, Any, None]:
        channel._value = stage.value
        yield (Event.ChanSend, channel)

    def receiver() -> Generator[Any, Any, Any]:
        return (yield (Event.ChanRecv, channel))

    tasks = [start(0, sender()), start(0, receiver())]
    assert await tasks[1] is stage.value
    await tasks[0]
    await cancelled(sender())
    await cancelled(receiver())


class OwnChannel:
    def __init__(self) -> None:
        self._sender = self._receiver = self._value = None


@of_a_task
async def own_channel(stage: Stage) -> None:
    channel = OwnChannel()

    def use(event: Any) -> Generator[Any, Any, None]:
        yield (event, channel)

    tasks = [start(0, use(Event.ChanSend)), start(0, use(Event.ChanRecv))]
    for task in tasks:
        await task
    task = start(0, use(Event.ChanSend))
    await settle(2)
    await expect(RuntimeError, start(0, use(Event.ChanSend)))
    task.cancel()
    await expect(asyncio.CancelledError, task)
    channel._receiver = stage.error
    await expect(RuntimeError, start(0, use(Event.ChanSend)))


# --- tasks ---------------------------------------------------------------------------------------


@of_a_task
async def traps_of_every_kind(stage: Stage) -> None:
    def generator() -> Generator[Any, Any, Any]:
        yield None
        yield (Event.Pause, stage.value)
        yield (Event.Sleep, 0)
        yield (Event.Write, stage.left)
        yield ("write", stage.left.fileno())
        yield (pyloop.TaskType.TO_WRITE, stage.left)
        child = yield (Event.Spawn, grandchild())
        assert (yield (Event.Join, child)) is stage.value

    def grandchild() -> Generator[Any, Any, Any]:
        yield None
        return stage.value

    await start(0, generator())


@of_a_task
async def yields_that_are_refused(stage: Stage) -> None:
    def generator(yielded: Any) -> Generator[Any, Any, None]:
        yield yielded

    for yielded in (
        *(42, stage.value, (Event.Spawn, stage.value), (Event.Join, stage.value)),
        *(("read", stage.value), ("no such", stage.left), (Event.ChanRecv, stage.value)),
        *((Event.Sleep, -1), (Event.Sleep, "x"), ("read", -1), (1, 2, 3)),
    ):
        await expect(Exception, start(0, generator(yielded)))


@of_a_task
async def tasks_that_end(stage: Stage) -> None:
    for kind in (0, 1):
        assert await start(kind, waits(pyloop.sleep(0))) is None
        await expect(ValueError, start(kind, raises(ValueError(stage.value))))
        await expect(asyncio.CancelledError, start(kind, raises(asyncio.CancelledError())))
        task = start(kind, raises(ValueError()))  # reported, never awaited
        await settle(3)
        del task
        await cancelled(waits(pyloop.sleep(1000)), kind)
        task = start(kind, waits(pyloop.sleep(1000)))
        task.cancel()  # before its first step
        await expect(asyncio.CancelledError, task)


@of_a_task
async def spawned(stage: Stage) -> None:
    assert await (await pyloop.spawn(waits(pyloop.sleep(0)), name="a name")) is None
    await expect(ValueError, await pyloop.spawn(raises(ValueError())))
    task = await pyloop.spawn(raises(ValueError()))  # its report goes to the handler
    await settle(2)
    del task


@of_a_task
async def joins(stage: Stage) -> None:
    for kind in (0, 1):
        for other in (0, 1):
            first = start(kind, waits(pyloop.sleep(1000)))
            second = start(other, waits(first))
            await settle(3)
            second.cancel()
            await expect(asyncio.CancelledError, second)
            await expect(asyncio.CancelledError, first)
    task = start(0, waits(pyloop.pause()))
    await task
    await task
    task = asyncio.current_task()
    assert task is not None
    await expect(RuntimeError, waits(task))


@of_a_task
async def the_interface_of_a_task(stage: Stage) -> None:
    task = start(0, waits(pyloop.sleep(1000)))
    task.add_done_callback(nothing)
    task.add_done_callback(nothing, context=stage.context)
    assert task.remove_done_callback(nothing) == 2
    task.add_done_callback(nothing)
    await settle(2)
    task.set_name("another name")
    repr((task, task.get_name(), task.get_coro(), task.get_stack(), task.get_context()))
    refused(asyncio.InvalidStateError, task.result)
    refused(asyncio.InvalidStateError, task.exception)
    refused(TypeError, lambda: task.add_done_callback(nothing, context=stage.value))
    stage.loop._describe_task(task)
    task.cancel(stage.value)
    assert task.cancelling() == 1
    task.uncancel()
    await expect(asyncio.CancelledError, task)
    refused(asyncio.CancelledError, task.result)
    refused(asyncio.CancelledError, task.exception)


@of_a_task
async def stubborn_tasks(stage: Stage) -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await pyloop.sleep(1000)
        await pyloop.pause()

    for kind in (0, 1):
        task = start(kind, stubborn())
        await settle(2)
        task.cancel()
        await task


@of_a_task
async def a_task_that_cancels_itself(stage: Stage) -> None:
    async def itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await pyloop.sleep(1000)

    for kind in (0, 1):
        await expect(asyncio.CancelledError, start(kind, itself()))


@of_a_task
async def coroutines_that_are_closed_outside(stage: Stage) -> None:
    coro = waits(pyloop.sleep(1000))
    task = start(0, coro)
    await settle(2)
    coro.close()
    await expect(RuntimeError, task)
    coro = waits(pyloop.sleep(1000))
    task = start(0, coro)
    await settle(2)
    refused(KeyError, lambda: coro.throw(KeyError(stage.value)))
    await expect(RuntimeError, task)


@of_a_task
async def asyncio_from_our_task(stage: Stage) -> None:
    future = stage.loop.create_future()
    task = start(0, waits(future))
    await settle(2)
    future.set_result(stage.value)
    assert await task is stage.value
    future = stage.loop.create_future()
    task = start(0, waits(future))
    await settle(2)
    future.set_exception(ValueError(stage.value))
    await expect(ValueError, task)
    await cancelled(waits(stage.loop.create_future()))
    event = asyncio.Event()
    task = start(0, event.wait())
    await settle(2)
    event.set()
    await task
    await asyncio.gather(pyloop.sleep(0), start(0, waits(pyloop.pause())))
    await expect(TimeoutError, asyncio.wait_for(pyloop.sleep(1000), 0.000001))

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waits(pyloop.pause()))
            tasks.create_task(raises(ValueError()))

    with contextlib.suppress(ExceptionGroup):
        await start(0, group())


@of_a_task
async def timeouts(stage: Stage) -> None:
    async def limited() -> None:
        async with pyloop.timeout(0.000001):
            await pyloop.sleep(1000)

    for kind in (0, 1):
        await expect(TimeoutError, start(kind, limited()))
    async with pyloop.timeout(1000):
        await pyloop.pause()


@of_a_task
async def asynchronous_generators(stage: Stage) -> None:
    async def values() -> Any:
        yield stage.value
        await pyloop.sleep(0)
        yield stage.value

    async for _ in values():
        pass
    async for _ in values():
        break
    await settle(2)


@of_a_task
async def task_factories(stage: Stage) -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **kwargs)

    def broken(loop: Any, coro: Any, **kwargs: Any) -> Any:
        coro.close()
        raise ValueError

    loop = stage.loop
    loop.set_task_factory(factory)
    await loop.create_task(waits(pyloop.pause()), name="x", context=stage.context)
    loop.set_task_factory(broken)
    refused(ValueError, lambda: loop.create_task(waits(None)))
    loop.set_task_factory(None)


# --- callbacks -----------------------------------------------------------------------------------


@of_a_task
async def handles(stage: Stage) -> None:
    loop = stage.loop
    for n in range(6):
        loop.call_soon(nothing, *[stage.value] * n)
        loop.call_soon(nothing, *[stage.value] * n).cancel()
    handle = loop.call_soon(nothing, stage.value, context=stage.context)
    repr((handle, handle.get_context(), handle.cancelled()))
    loop.call_soon(raise_it, stage.error)
    loop.call_soon(loop.call_soon, nothing, stage.value)
    loop.call_soon_threadsafe(nothing, stage.value)
    await settle(4)
    stage.error.__traceback__ = None


def raise_it(error: BaseException) -> None:
    raise error


@of_a_task
async def timers(stage: Stage) -> None:
    loop = stage.loop
    loop.call_later(0, nothing, stage.value)
    loop.call_later(-1, nothing, stage.value, context=stage.context)
    loop.call_at(loop.time(), nothing, stage.value)
    loop.call_later(1000, nothing, stage.value).cancel()
    handle = loop.call_later(1000, nothing, stage.value, stage.value, stage.value)
    repr((handle, handle.when(), handle < handle, handle == handle, hash(handle)))
    handle.cancel()
    handle.cancel()
    await asyncio.sleep(0.000001)


@of_a_task
async def callbacks_in_debug_mode(stage: Stage) -> None:
    loop = stage.loop
    loop.set_debug(True)
    loop.call_soon(nothing, stage.value)
    loop.call_soon(nothing, stage.value).cancel()
    loop.call_later(1000, nothing, stage.value).cancel()
    loop.call_soon(raise_it, stage.error)
    await start(0, waits(pyloop.pause()))
    await start(1, waits(pyloop.pause()))
    refused(TypeError, lambda: loop.call_soon(waits, stage.value) and loop.call_soon(None))
    await settle(3)
    loop.set_debug(False)
    stage.error.__traceback__ = None


@of_a_task
async def readers_and_writers(stage: Stage) -> None:
    loop = stage.loop
    loop.add_writer(stage.left, nothing, stage.value)
    loop.add_writer(stage.left, nothing, stage.value)  # in place of the first
    loop.add_reader(stage.left.fileno(), nothing, stage.value)
    repr(loop._waiters(stage.left))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert loop.remove_writer(stage.left)
    assert loop.remove_reader(stage.left)
    assert not loop.remove_reader(stage.left)


@of_a_task
async def a_reader_of_a_closed_socket(stage: Stage) -> None:
    left, right = socketpair()
    with right:
        stage.loop.add_reader(left, nothing, stage.value)
        await asyncio.sleep(0)
        left.close()
        await asyncio.sleep(0)
        with contextlib.suppress(ValueError):  # the poller may have told that it is gone
            stage.loop.remove_reader(left)


@of_a_task
async def signal_handlers(stage: Stage) -> None:
    loop = stage.loop
    loop.add_signal_handler(signal.SIGUSR1, nothing, stage.value)
    loop.add_signal_handler(signal.SIGUSR1, nothing, stage.value)
    signal.raise_signal(signal.SIGUSR1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)


@of_a_task
async def another_thread(stage: Stage) -> None:
    done = asyncio.Event()
    thread = threading.Thread(target=stage.loop.call_soon_threadsafe, args=(done.set,))
    thread.start()
    await done.wait()
    thread.join()


# --- transports ----------------------------------------------------------------------------------


class Protocol(ActsInOne):
    """Raises in one of its methods, or in none."""

    def __init__(self, where: str = "", value: Any = None) -> None:
        super().__init__(where)
        self.value = value
        self.lost = asyncio.get_running_loop().create_future()

    def act(self) -> None:
        raise ValueError(self.value)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)
        super().connection_lost(exc)


class BufferedProtocol(Protocol, asyncio.BufferedProtocol):
    data = bytearray(100)

    def get_buffer(self, sizehint: int) -> Any:
        self.at("get_buffer")
        return bytearray() if self.where == "gives nothing" else self.data

    def buffer_updated(self, n: int) -> None:
        self.at("buffer_updated")


def add_transports() -> None:
    for where in ("", *Protocol.PLACES, "get_buffer", "buffer_updated", "gives nothing"):
        for kind in (Protocol, BufferedProtocol):

            async def transport_round(
                stage: Stage, where: str = where, kind: type[Protocol] = kind
            ) -> None:
                left, right = socketpair()
                protocol = kind(where, stage.value)
                transport: Any
                with contextlib.suppress(ValueError), right:
                    transport, _ = await stage.loop.create_connection(lambda: protocol, sock=left)
                    transport.set_write_buffer_limits(high=0)
                    transport.write(b"some data")
                    transport.write(stage.data)
                    transport.writelines([b"a", stage.data])
                    right.send(b"some data")
                    await settle(1)
                    await asyncio.sleep(0)
                    drain_socket(right)
                    await asyncio.sleep(0)
                    transport.pause_reading() if transport.is_reading() else None
                    repr((transport, transport.get_extra_info("socket")))
                    transport.get_write_buffer_size()
                    if not transport.is_closing():
                        transport.resume_reading()
                        right.shutdown(socket.SHUT_WR)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    transport.close()
                    await protocol.lost
                    transport.write(b"too late")
                await asyncio.sleep(0)

            ASYNC[f"{kind.__name__}_{where or 'good'}"] = transport_round


add_transports()


@of_a_task
async def transports_that_are_aborted(stage: Stage) -> None:
    for act in ("abort", "close", "write_eof"):
        left, right = socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with right:
            protocol = Protocol()
            transport, _ = await stage.loop.create_connection(lambda p=protocol: p, sock=left)
            transport.write(bytes(200_000))
            transport.write(stage.data)
            getattr(transport, act)()
            await asyncio.sleep(0)
            transport.abort()
            await protocol.lost


@of_a_task
async def a_peer_that_resets(stage: Stage) -> None:
    left, right = socketpair()
    protocol = Protocol()
    transport, _ = await stage.loop.create_connection(lambda: protocol, sock=left)
    right.close()
    transport.write(stage.data)
    await asyncio.sleep(0)
    transport.write(stage.data)
    await protocol.lost


@of_a_task
async def streams(stage: Stage) -> None:
    left, right = socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    other_reader, other_writer = await asyncio.open_connection(sock=right)
    writer.write(b"one\n" * 10)
    await writer.drain()
    assert await other_reader.readline() == b"one\n"
    other_writer.close()
    await other_writer.wait_closed()
    writer.close()
    await writer.wait_closed()
    await reader.read()


@of_a_task
async def a_server(stage: Stage) -> None:
    served = asyncio.Event()

    async def serve(reader: Any, writer: Any) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()
        await served.wait()


@of_a_task
async def datagrams(stage: Stage) -> None:
    got = stage.loop.create_future()

    class Datagrams(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: Any) -> None:
            if not got.done():
                got.set_result(data)

    transport, _ = await stage.loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    assert await got == b"x"
    transport.close()
    await asyncio.sleep(0)


@of_a_task
async def pipes(stage: Stage) -> None:
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    with open(reading, "rb", 0) as file, open(writing, "wb", 0) as other:
        transport, _ = await stage.loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        writer, protocol = await stage.loop.connect_write_pipe(Protocol, other)
        writer.write(b"x\n")
        assert await reader.readline() == b"x\n"
        writer.close()
        await protocol.lost
        transport.close()
        await asyncio.sleep(0)


# --- loops ---------------------------------------------------------------------------------------

LOOPS: dict[str, Callable[[], pyloop.EventLoop]] = {
    "epoll": lambda: pyloop.EventLoop(backend="epoll"),
    "poll": lambda: pyloop.EventLoop(backend="poll"),
    "own_selector": lambda: pyloop.EventLoop(selector=pyloop.Selector()),
    "other_selector": lambda: pyloop.EventLoop(selector=selectors.PollSelector()),
}


def add_loops() -> None:
    for name, make in LOOPS.items():

        def opened_and_closed(stage: Stage, make: Any = make) -> None:
            make().close()

        def used_and_closed(stage: Stage, make: Any = make) -> None:
            """With something of everything left in it."""
            loop: Any = make()
            loop.set_exception_handler(nothing)
            assert loop.run(waits(pyloop.sleep(0)), waits(pyloop.pause())) == [None, None]
            loop.call_later(1000, nothing, stage.value)
            loop.call_soon(nothing, stage.value)
            loop.add_reader(stage.left, nothing, stage.value)
            loop.add_writer(stage.full, nothing, stage.value)
            loop.add_signal_handler(signal.SIGUSR1, nothing, stage.value)
            loop._create_native_task(waits(stage.channel.recv()))
            task = loop._create_native_task(waits(pyloop.recv(stage.udp)))
            loop.call_soon(loop.stop)
            loop.run_forever()
            repr(loop)
            del task
            loop.close()
            loop.close()
            refused(RuntimeError, lambda: loop.call_soon(nothing, stage.value))
            refused(RuntimeError, lambda: loop.call_later(1, nothing, stage.value))
            refused(RuntimeError, lambda: loop.add_reader(stage.left, nothing, stage.value))
            refused(RuntimeError, loop.run_forever)

        PLAIN[f"{name}_opened_and_closed"] = opened_and_closed
        PLAIN[f"{name}_used_and_closed"] = used_and_closed


add_loops()


@of_nobody
def loops_that_are_refused(stage: Stage) -> None:
    refused(ValueError, lambda: pyloop.EventLoop(backend="no such"))
    refused(TypeError, lambda: pyloop.EventLoop(selector=stage.value))
    refused(TypeError, lambda: pyloop.EventLoop(stage.value))
    refused(ValueError, lambda: pyloop.EventLoop(selector=stage.selector, backend="epoll"))  # type: ignore[arg-type]
    refused(RuntimeError, lambda: pyloop.EventLoop.__new__(pyloop.EventLoop).run_forever())


@of_nobody
def a_loop_that_is_dropped(stage: Stage) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop: Any = pyloop.EventLoop()
        loop.cycle = loop
        loop.call_soon(nothing, stage.value)
        loop.call_later(1000, nothing, stage.value)
        del loop
        gc.collect()


@of_nobody
def runs(stage: Stage) -> None:
    async def give() -> Any:
        await pyloop.pause()
        return stage.value

    assert pyloop.run(give()) is stage.value
    assert pyloop.run(give(), give()) == [stage.value, stage.value]
    refused(ValueError, lambda: pyloop.run(raises(ValueError()), waits(pyloop.sleep(1000))))
    refused(pyloop.Deadlock, lambda: pyloop.run(waits(pyloop.Channel().recv())))
    refused(TypeError, lambda: pyloop.run(stage.value))
    refused(KeyboardInterrupt, lambda: pyloop.run(raises(KeyboardInterrupt())))
    refused(SystemExit, lambda: pyloop.run(raises(SystemExit())))


@of_nobody
def runs_of_asyncio(stage: Stage) -> None:
    async def main() -> None:
        await pyloop.sleep(0)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
        runner.run(main())
        refused(ValueError, lambda: runner.run(raises(ValueError())))


@of_nobody
def spawned_tasks_that_fail_in_a_run(stage: Stage) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(nothing)
        await pyloop.spawn(raises(ValueError(stage.value)))
        await pyloop.spawn(waits(pyloop.Channel().recv()))

    pyloop.run(main())


# --- selectors -----------------------------------------------------------------------------------


def add_selectors() -> None:
    for backend in ("epoll", "poll"):

        def selector_round(stage: Stage, backend: str = backend) -> None:
            with pyloop.Selector(backend) as selector:
                key = selector.register(stage.left, selectors.EVENT_READ, stage.value)
                assert selector.register(stage.right.fileno(), 3).fd == stage.right.fileno()
                refused(KeyError, lambda: selector.register(stage.left, 1, stage.value))
                refused(ValueError, lambda: selector.register(stage.udp, 0, stage.value))
                refused(ValueError, lambda: selector.register(stage.value, 1))
                refused(KeyError, lambda: selector.unregister(stage.udp))
                refused(KeyError, lambda: selector.modify(stage.udp, 1, stage.value))
                refused(TypeError, lambda: selector.select(stage.value))
                assert selector.select(0)
                assert selector.modify(stage.left, 2, stage.value) != key
                selector.modify(stage.left, 2, stage.context)
                selected = selector.select(0)
                assert len(selected) == 2
                table = selector.get_map()
                assert len(table) == 2
                assert table[stage.left] in list(table.values())
                assert stage.udp not in table
                repr((selector, table))
                selector.unregister(stage.left)
            refused(ValueError, lambda: selector.select(0))
            refused(ValueError, lambda: selector.register(stage.left, 1, stage.value))

        def dropped_selector(stage: Stage, backend: str = backend) -> None:
            selector: Any = pyloop.Selector(backend)
            selector.register(stage.left, 1, selector)
            selector.cycle = selector.get_map()

        PLAIN[f"{backend}_selector"] = selector_round
        PLAIN[f"{backend}_selector_dropped"] = dropped_selector


add_selectors()


@of_nobody
def the_shared_selector(stage: Stage) -> None:
    stage.selector.register(stage.left, 1, stage.value)
    stage.selector.modify(stage.left, 3, stage.value)
    stage.selector.select(0)
    stage.selector.unregister(stage.left)


@of_nobody
def objects_of_the_module(stage: Stage) -> None:
    repr((pyloop.Channel(), pyloop.Deadlock("x"), pyloop.ChannelClosed(stage.value)))
    for maker in (pyloop.Channel[int], pyloop.Task[int], Event.Recv):
        repr(maker)
    refused(TypeError, lambda: type(asyncio.Task)("x", (pyloop.Task,), {}))
    type("Sub", (pyloop.Channel,), {})(1).send_nowait(stage.value)
