"""Objects of every type of the extension, in all the states that they can be in."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections.abc import Callable, Generator
from typing import Any

from support import listener, socketpair

import pyloop
from pyloop import _core

IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


class ForeignFuture:
    """The least that a task can await of another framework; keeps the callback it is given."""

    _asyncio_future_blocking = False
    callback: Any = None
    is_cancelled = False

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        yield self
        self.result()

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        self.callback = callback

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def cancel(self, msg: Any = None) -> bool:
        self.is_cancelled = True
        self.callback(self)
        return True

    def result(self) -> None:
        if self.is_cancelled:
            raise asyncio.CancelledError


class World:
    """What samples are made of, and its end."""

    def __init__(self) -> None:
        self.loop = pyloop.EventLoop()
        self.loop.set_exception_handler(lambda loop, context: None)
        self.left, self.right = socketpair()
        self.loops: list[_core.LoopCore] = []
        self.sockets: list[socket.socket] = []

    def close(self) -> None:
        for loop in (self.loop, *self.loops):
            # They may have been set by a test.
            loop._thread_id = None
            loop._closed = False
            loop._debug = False
        self.loop.close()
        for core in self.loops:
            core._release_core()
        for sock in (self.left, self.right, *self.sockets):
            sock.close()

    def turn(self) -> None:
        """Run what is ready."""
        for _ in range(3):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def task(self, coro: Any) -> _core.Task[Any]:
        task: _core.Task[Any] = self.loop._create_native_task(coro)
        self.turn()
        return task

    def core(self) -> _core.LoopCore:
        core = _core.LoopCore()
        core._init_core(None)
        self.loops.append(core)
        return core


def nothing(*args: Any, **kwargs: Any) -> None:
    pass


def generator(value: Any = None) -> Generator[Any, Any, Any]:
    yield None
    return value


async def wait_for(awaitable: Any) -> Any:
    return await awaitable


async def fail() -> None:
    raise OSError("on purpose")


def cancelled(world: World) -> Any:
    task = world.task(wait_for(pyloop.Channel().recv()))
    task.cancel()
    world.turn()
    return task


def failed(world: World) -> Any:
    task = world.task(fail())
    task.exception()
    return task


def stubborn(world: World) -> Any:
    async def until_closed() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await pyloop.sleep(1000)
        await pyloop.sleep(1000)

    task = world.task(until_closed())
    task.cancel()
    world.turn()
    return task


def driven(operation: Any) -> Any:
    """An operation that has yielded to whoever drives it, outside any task."""

    def make(world: World) -> Any:
        op = operation(world)

        def start() -> None:
            op.send(None)

        world.loop.call_soon(start)
        world.turn()
        return op

    return make


def armed(operation: Any) -> Any:
    """An operation that a task waits in."""

    def make(world: World) -> Any:
        op = operation(world)
        world.task(wait_for(op))
        return op

    return make


def finished(operation: Any) -> Any:
    def make(world: World) -> Any:
        op = operation(world)
        op.close()
        return op

    return make


def wakeup(world: World) -> Any:
    future = ForeignFuture()
    world.task(wait_for(future))
    return future.callback


def foreign(world: World) -> Any:
    return world.task(wait_for(ForeignFuture()))


def joined(world: World) -> Any:
    task = world.task(wait_for(pyloop.sleep(1000)))
    world.task(wait_for(task))
    return task


def join(world: World) -> Any:
    return world.task(wait_for(pyloop.sleep(1000))).__await__()


def buffered(world: World) -> Any:
    channel: pyloop.Channel[int] = pyloop.Channel(4)
    channel.send_nowait(1)
    channel.send_nowait(2)
    return channel


def with_sender(world: World) -> Any:
    channel: pyloop.Channel[int] = pyloop.Channel()
    world.task(wait_for(channel.send(1)))
    return channel


def with_receiver(world: World) -> Any:
    channel: pyloop.Channel[int] = pyloop.Channel()
    world.task(wait_for(channel.recv()))
    return channel


def closed_channel(world: World) -> Any:
    channel = buffered(world)
    channel.close()
    return channel


def with_text(world: World) -> Any:
    lines = pyloop.lines(world.left)
    world.right.send(b"one\ntwo\nthree")
    world.task(wait_for(lines.__anext__()))
    return lines


def with_reader(world: World) -> Any:
    lines = pyloop.lines(world.left)
    world.task(wait_for(lines.__anext__()))
    return lines


def closed_lines(world: World) -> Any:
    lines = with_text(world)
    world.task(wait_for(lines.aclose()))
    return lines


def handle_that_ran(world: World) -> Any:
    handle = world.loop.call_soon(nothing, 1, 2)
    world.turn()
    return handle


def cancelled_handle(world: World) -> Any:
    handle = world.loop.call_soon(nothing, 1, 2)
    handle.cancel()
    return handle


def timer_that_ran(world: World) -> Any:
    handle = world.loop.call_later(-1, nothing)
    world.turn()
    return handle


def cancelled_timer(world: World) -> Any:
    handle = world.loop.call_later(1000, nothing)
    handle.cancel()
    return handle


def reader(world: World) -> Any:
    return world.loop._add_reader(world.left, nothing)


def bare_loop(world: World) -> Any:
    core = _core.LoopCore()
    world.loops.append(core)
    return core


def closed_core(world: World) -> Any:
    core = world.core()
    core._release_core()
    return core


def loop_at_work(world: World) -> Any:
    """A loop with something of everything."""
    reader(world)
    world.loop.call_later(1000, nothing)
    with_sender(world)
    foreign(world)
    return world.loop


def closed_loop(world: World) -> Any:
    world.loop.close()
    return world.loop


def new_loop(world: World) -> Any:
    """A loop whose __init__ was not called."""
    loop = pyloop.EventLoop.__new__(pyloop.EventLoop)
    world.loops.append(loop)
    return loop


def recv(world: World) -> Any:
    return pyloop.recv(world.left)


def connected(world: World) -> Any:
    """A transport, without its Python half, that reads and has something to send."""
    protocol = asyncio.Protocol()
    transport = _core.StreamCore(world.loop, world.left, protocol, None, {"some": "info"})
    world.turn()
    transport.write(bytes(1_000_000))
    return transport


def datagrams(world: World) -> Any:
    """A datagram transport, without its Python half, that has something to send."""
    left, right = socketpair(socket.SOCK_DGRAM)
    world.sockets += [left, right]
    transport = _core.DgramCore(world.loop, left, asyncio.DatagramProtocol())
    world.turn()
    for _ in range(1000):
        transport.sendto(bytes(1000))
    return transport


def watched(world: World) -> Any:
    connected(world)
    return world.loop._waiters(world.left)[0]


def listening(world: World) -> Any:
    sock = listener()
    world.sockets.append(sock)
    return world.loop._listen(sock, asyncio.Protocol, None, nothing, False)


def stopped_listener(world: World) -> Any:
    subject = listening(world)
    subject.stop()
    return subject


def send(world: World) -> Any:
    channel: pyloop.Channel[int] = pyloop.Channel()
    return channel.send(1)


def receive(world: World) -> Any:
    return pyloop.Channel().recv()


def registered(world: World) -> Any:
    selector = pyloop.Selector()
    selector.register(world.left, selectors.EVENT_READ, [])
    selector.register(world.right, selectors.EVENT_WRITE)
    return selector


def closed_selector(world: World) -> Any:
    selector = registered(world)
    selector.close()
    return selector


SAMPLES: dict[str, dict[str, Callable[[World], Any]]] = {
    "Channel": {
        "new": lambda world: pyloop.Channel(),
        "buffered": buffered,
        "sender": with_sender,
        "receiver": with_receiver,
        "closed": closed_channel,
    },
    "Operation": {
        "pause": lambda world: pyloop.pause(),
        "sleep": lambda world: pyloop.sleep(1000),
        "spawn": lambda world: pyloop.spawn(generator()),
        "recv": recv,
        "recv_into": lambda world: pyloop.recv_into(world.left, bytearray(10)),
        "recvfrom": lambda world: pyloop.recvfrom(world.left, 10),
        "send": lambda world: pyloop.send(world.left, b"x"),
        "sendall": lambda world: pyloop.sendall(world.left, bytearray(b"x")),
        "accept": lambda world: pyloop.accept(world.left),
        "connect": lambda world: pyloop.connect(world.left, "/nowhere"),
        "wait_readable": lambda world: pyloop.wait_readable(world.left),
        "wait_writable": lambda world: pyloop.wait_writable(world.left.fileno()),
        "channel_send": send,
        "channel_recv": receive,
        "lines": lambda world: pyloop.lines(world.left).__anext__(),
        "aclose": lambda world: pyloop.lines(world.left).aclose(),
        "join": join,
        "driven_recv": driven(recv),
        "driven_receive": driven(receive),
        "armed_sleep": armed(lambda world: pyloop.sleep(1000)),
        "armed_recv": armed(recv),
        "armed_receive": armed(receive),
        "armed_join": armed(join),
        "finished": finished(recv),
    },
    "Task": {
        "new": lambda world: world.loop._create_native_task(generator()),
        "root": lambda world: world.loop._create_native_task(generator(), root=True),
        "waiting": lambda world: world.task(wait_for(recv(world))),
        "waiting_for_foreign": foreign,
        "joined": joined,
        "finished": lambda world: world.task(generator(1)),
        "failed": failed,
        "cancelled": cancelled,
        "stubborn": stubborn,
    },
    "Wakeup": {"waiting": wakeup},
    "Lines": {
        "new": lambda world: pyloop.lines(world.left, encoding="latin-1"),
        "text": with_text,
        "reader": with_reader,
        "closed": closed_lines,
    },
    "Handle": {
        "new": lambda world: world.loop.call_soon(nothing, 1, 2),
        "ran": handle_that_ran,
        "cancelled": cancelled_handle,
        "reader": reader,
    },
    "TimerHandle": {
        "new": lambda world: world.loop.call_later(1000, nothing, 1),
        "ran": timer_that_ran,
        "cancelled": cancelled_timer,
    },
    "Selector": {
        "bare": lambda world: pyloop.Selector.__new__(pyloop.Selector),
        "new": lambda world: pyloop.Selector(),
        "registered": registered,
        "poll": lambda world: pyloop.Selector("poll"),
        "closed": closed_selector,
    },
    "SelectorMap": {
        "new": lambda world: pyloop.Selector().get_map(),
        "registered": lambda world: registered(world).get_map(),
    },
    "StreamCore": {
        "bare": lambda world: _core.StreamCore.__new__(_core.StreamCore),
        "connected": connected,
    },
    "DgramCore": {
        "bare": lambda world: _core.DgramCore.__new__(_core.DgramCore),
        "connected": datagrams,
    },
    "StreamEnd": {"reader": watched},
    "Listener": {"listening": listening, "stopped": stopped_listener},
    "LoopCore": {
        "bare": bare_loop,
        "initialised": lambda world: world.core(),
        "closed": closed_core,
    },
    "EventLoop": {
        "bare": new_loop,
        "new": lambda world: world.loop,
        "at_work": loop_at_work,
        "closed": closed_loop,
    },
    "Event": {"member": lambda world: pyloop.Event.Recv},
    "TaskType": {"member": lambda world: pyloop.TaskType.TO_READ},
    "Deadlock": {"new": lambda world: pyloop.Deadlock("text")},
    "ChannelClosed": {"new": lambda world: pyloop.ChannelClosed("text")},
    "LineTooLong": {"new": lambda world: pyloop.LineTooLong("text")},
}


def all_types() -> dict[str, type]:
    """Also those that no module shows: every type is a subclass of object."""
    found: dict[str, type] = {}
    to_do: list[type] = [object]
    while to_do:
        kinds: list[type] = type.__subclasses__(to_do.pop())
        for kind in kinds:
            if kind.__module__ in ("pyloop", "pyloop._core"):
                found[kind.__name__] = kind
            to_do.append(kind)
    found["EventLoop"] = pyloop.EventLoop
    return found


TYPES = all_types()
C_TYPES = {name: kind for name, kind in TYPES.items() if kind.__flags__ & IMMUTABLE}
