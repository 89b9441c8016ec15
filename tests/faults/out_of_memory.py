"""Makes the n-th allocation of an operation fail, for n = 0, 1, ... until none is left to fail.

A program, since what it does to an interpreter must not happen to the one that runs the tests:

    python out_of_memory.py NAME...

Each NAME is one of OPERATIONS; without any, all are tried.  The n-th allocation fails alone: where
several fail in a row CPython itself crashes.  For each n the operation must succeed, or end with
MemoryError and nothing else, and the same loop must work afterwards.  In the end nothing may be
left over: descriptors, objects of our types, references to our types.

Prints a line for each operation and exits with 0, or with 1 and what went wrong on stderr.
"""

from __future__ import annotations

import _testcapi
import asyncio
import contextlib
import faulthandler
import functools
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyloop
from pyloop import Channel, Event, EventLoop, Selector, _core

# An operation is given up on as one that never ends after so many failures in a row.
MOST_ALLOCATIONS = 20_000
HANG_S = 60

TYPES = [value for value in vars(_core).values() if isinstance(value, type)]


# What an operation ends with when a callback was not made, for want of memory, and that was
# reported.
LEFT_OUT = (AssertionError, TimeoutError, asyncio.CancelledError, pyloop.Deadlock)

# The interpreter itself crashes where it has no memory for a function (from 3.12 on).
MAKES_FUNCTIONS = {
    "a_failing_callback",  # asyncio formats the callback with a generator expression
    "a_server",  # EventLoop._start_serving() makes one
    "deadlock",
    "loop_on_a_selector",  # a WeakValueDictionary makes one
    "make_and_close_a_loop",
    "run_on_a_new_loop",
    "run_on_poll",
}


class Wrong(Exception):
    """What must not happen: it is reported with the operation and the n at which it did."""


class World:
    """What an operation may use: a loop, two pairs of sockets, a listener, two UDP sockets."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self._open = contextlib.ExitStack()
        self._socks: list[socket.socket] = []
        # The handler sees what callbacks raise where there is nobody to raise it to.
        self.loop.set_exception_handler(self._report)
        self.reports: list[BaseException | None] = []
        self.content = False  # a protocol has what it wanted

    def _report(self, loop: Any, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if exc is None and context["message"].startswith("Task was destroyed"):
            exc = MemoryError()  # it could not be scheduled, or cancelled
        elif exc is None:
            exc = Wrong(context)
        if not isinstance(exc, KeyError):  # one that the operation raises itself
            self.reports.append(exc)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        left, right = socket.socketpair()
        for sock in (left, right):
            self.keep(sock)
        return left, right

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        self._socks.append(sock)
        self._open.callback(sock.close)
        return sock

    def transports(self) -> list[Any]:
        """Those that the loop knows of, for the sockets that are kept."""
        found = [
            self.loop._transport_at(sock.fileno()) for sock in self._socks if sock.fileno() >= 0
        ]
        return [*filter(None, found), *self.loop._transports.values()]

    def listener(self) -> socket.socket:
        sock = self.keep(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return sock

    def datagrams(self) -> tuple[socket.socket, socket.socket]:
        socks = [self.keep(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return socks[0], socks[1]

    def renew(self) -> None:
        """Drop the sockets of a round; the loop stays."""
        self._open.close()
        self._socks.clear()
        self.reports.clear()

    def close(self) -> None:
        self._open.close()
        self.loop.close()


# What an operation is: prepared with a world, it returns what is run while allocations fail.  That
# makes no function: CPython 3.12 and 3.13 crash when it has no memory for one.
Act = Callable[[], object]
Operation = Callable[[World], Act]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


# --- coroutines --------------------------------------------------------------------------------


@operation
def run_nothing(world: World) -> Act:
    return world.loop.run


@operation
def run_pause(world: World) -> Act:
    async def main() -> None:
        await pyloop.pause()
        await pyloop.pause()

    return lambda: world.loop.run(main(), main())


@operation
def run_on_a_new_loop(world: World) -> Act:
    async def main() -> None:
        await pyloop.pause()

    return lambda: pyloop.run(main())


@operation
def run_on_poll(world: World) -> Act:
    left, right = world.pair()

    async def main() -> None:
        await pyloop.sendall(left, b"x")
        await pyloop.recv(right)

    return lambda: pyloop.run(main(), backend="poll")


@operation
def make_and_close_a_loop(world: World) -> Act:
    return lambda: EventLoop().close()


@operation
def sleep(world: World) -> Act:
    async def main() -> None:
        await pyloop.sleep(0)
        await pyloop.sleep(1e-6)

    return lambda: world.loop.run(main())


@operation
def spawn_many(world: World) -> Act:
    async def child(n: int) -> int:
        await pyloop.pause()
        return n

    async def main() -> None:
        tasks = [await pyloop.spawn(child(n)) for n in range(70)]
        for n, task in enumerate(tasks):
            assert await task == n

    return lambda: world.loop.run(main())


@operation
def spawn_and_forget(world: World) -> Act:
    async def child() -> None:
        await pyloop.sleep(1e-6)

    async def main() -> None:
        await pyloop.spawn(child(), name="child")

    return lambda: world.loop.run(main())


@operation
def join_a_failure(world: World) -> Act:
    async def child() -> None:
        await pyloop.pause()
        raise KeyError("child")

    async def main() -> None:
        task = await pyloop.spawn(child())
        try:
            await task
        except KeyError:
            pass

    return lambda: world.loop.run(main())


def ignore(task: object) -> None:
    pass


@operation
def cancel(world: World) -> Act:
    async def child() -> None:
        await pyloop.sleep(60)

    async def main() -> None:
        task = await pyloop.spawn(child())
        await pyloop.pause()
        task.add_done_callback(ignore)
        task.cancel("enough")
        try:
            await task
        except asyncio.CancelledError:
            pass
        repr(task), task.get_stack(), task.get_name(), task.cancelling(), task.uncancel()

    return lambda: world.loop.run(main())


@operation
def generators(world: World) -> Act:
    left, right = world.pair()

    def child() -> Iterator[Any]:
        yield Event.Pause, None
        yield Event.Sleep, 1e-6
        yield Event.Send, left
        left.send(b"x")

    def main() -> Iterator[Any]:
        task = yield Event.Spawn, child()
        yield
        yield Event.Join, task
        yield Event.Recv, right
        assert right.recv(10) == b"x"

    return lambda: world.loop.run(main())


@operation
def rendezvous(world: World) -> Act:
    channel: Channel[int] = Channel()

    async def send() -> None:
        for n in range(5):
            await channel.send(n)
        channel.close()

    async def receive() -> None:
        got = [n async for n in channel]
        assert got == list(range(5)), got

    return lambda: world.loop.run(send(), receive())


@operation
def buffered_channel(world: World) -> Act:
    channel: Channel[int] = Channel(20)

    async def main() -> None:
        for n in range(20):
            await channel.send(n)
        for n in range(20):
            assert await channel.recv() == n

    return lambda: world.loop.run(main())


@operation
def close_a_channel_of_senders(world: World) -> Act:
    channel: Channel[int] = Channel()
    ended: list[int] = []

    async def send(n: int) -> None:
        try:
            await channel.send(n)
        except pyloop.ChannelClosed:
            ended.append(n)

    async def main() -> None:
        for n in range(4):
            await pyloop.spawn(send(n))
        await pyloop.pause()
        await pyloop.pause()
        channel.close()

    return lambda: world.loop.run(main())


@operation
def timeout(world: World) -> Act:
    async def main() -> None:
        try:
            async with pyloop.timeout(1e-6):
                # Not for ever: where there is no memory to call Timeout's method nobody is told.
                await pyloop.sleep(0.05)
        except TimeoutError:
            pass
        async with pyloop.timeout(60):
            await pyloop.pause()

    return lambda: world.loop.run(main())


@operation
def deadlock(world: World) -> Act:
    channel: Channel[int] = Channel()

    async def main() -> None:
        await channel.recv()

    def act() -> None:
        try:
            world.loop.run(main())
        except pyloop.Deadlock:
            pass

    return act


# --- sockets -----------------------------------------------------------------------------------


@operation
def recv_and_send(world: World) -> Act:
    left, right = world.pair()

    async def client() -> None:
        await pyloop.send(left, b"one")
        await pyloop.pause()
        await pyloop.sendall(left, b"two")

    async def server() -> None:
        got = await pyloop.recv(right)
        while len(got) < 6:
            got += await pyloop.recv(right, 100_000)
        assert got == b"onetwo"

    return lambda: world.loop.run(server(), client())


@operation
def recv_into(world: World) -> Act:
    left, right = world.pair()

    async def main() -> None:
        buffer = bytearray(10)
        await pyloop.send(left, memoryview(b"abc"))
        assert await pyloop.recv_into(right, buffer) == 3

    return lambda: world.loop.run(main())


@operation
def sendall_much(world: World) -> Act:
    left, right = world.pair()
    data = bytearray(500_000)

    async def server() -> None:
        left_over = len(data)
        while left_over:
            left_over -= len(await pyloop.recv(right, 200_000))

    async def client() -> None:
        await pyloop.sendall(left, data)

    return lambda: world.loop.run(server(), client())


@operation
def accept_and_connect(world: World) -> Act:
    listener = world.listener()

    async def client() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await pyloop.connect(sock, listener.getsockname())
            await pyloop.recv(sock)

    async def server() -> None:
        conn, _ = await pyloop.accept(listener)
        with conn:
            await pyloop.send(conn, b"x")

    return lambda: world.loop.run(server(), client())


@operation
def datagrams(world: World) -> Act:
    left, right = world.datagrams()

    async def main() -> None:
        await pyloop.sendto(left, b"x", right.getsockname())
        data, address = await pyloop.recvfrom(right, 10)
        assert (data, address) == (b"x", left.getsockname())

    return lambda: world.loop.run(main())


@operation
def lines(world: World) -> Act:
    left, right = world.pair()

    async def client() -> None:
        await pyloop.sendall(left, b"one\ntw")
        await pyloop.pause()
        await pyloop.sendall(left, b"o\n" + bytes(range(32, 100)) * 200 + b"\n")
        left.shutdown(socket.SHUT_WR)

    async def server() -> None:
        lengths = [len(line) async for line in pyloop.lines(right)]
        assert lengths == [3, 3, 68 * 200], lengths

    return lambda: world.loop.run(server(), client())


@operation
def wait_for_descriptors(world: World) -> Act:
    left, right = world.pair()

    async def main() -> None:
        await pyloop.wait_writable(left)
        left.send(b"x")
        await pyloop.wait_readable(right.fileno())

    return lambda: world.loop.run(main())


@operation
def a_second_reader(world: World) -> Act:
    left, right = world.pair()

    async def first() -> None:
        await pyloop.recv(right)

    async def second() -> None:
        await pyloop.pause()
        try:
            await pyloop.recv(right)
        except RuntimeError:
            left.send(b"x")

    return lambda: world.loop.run(first(), second())


@operation
def close_under_a_waiter(world: World) -> Act:
    left, right = world.pair()

    async def wait() -> None:
        try:
            await pyloop.recv(right)
        except OSError:
            pass

    async def close() -> None:
        await pyloop.pause()
        world.loop.close_socket(right)

    def act() -> None:
        world.loop.run(wait(), close())

    return act


# --- asyncio's face ----------------------------------------------------------------------------


@operation
def calls(world: World) -> Act:
    loop = world.loop
    seen: list[object] = []

    def act() -> None:
        timer = loop.call_later(60, seen.append, "never")
        try:
            loop.call_soon(seen.append, 1)
            loop.call_soon_threadsafe(seen.append, 2)
            loop.call_later(0, seen.append, 3)
            loop.call_at(0, seen.append, 4)
            loop.call_soon(loop.stop)
            loop.run_forever()
        finally:
            timer.cancel()
        assert len(seen) == 4
        repr(timer)

    return act


@operation
def many_timers(world: World) -> Act:
    loop = world.loop

    def act() -> None:
        handles = []
        try:
            for n in range(40):
                handles.append(loop.call_later(60 + n, print))
        finally:
            for handle in handles:
                handle.cancel()

    return act


@operation
def a_failing_callback(world: World) -> Act:
    loop = world.loop

    def fail() -> None:
        raise KeyError("callback")

    def act() -> None:
        loop.call_soon(fail)
        loop.call_soon(loop.stop)
        loop.run_forever()

    return act


@operation
def readers_and_writers(world: World) -> Act:
    left, right = world.pair()
    loop = world.loop
    left.send(b"x")

    def act() -> None:
        seen: list[str] = []
        try:
            loop.add_reader(right, seen.append, "r")
            loop.add_reader(right, seen.append, "r")
            loop.add_writer(right, seen.append, "w")
            loop.call_soon(loop.stop)
            loop.run_forever()
        finally:
            loop.remove_reader(right)
            loop.remove_writer(right)
        assert set(seen) == {"r", "w"}, seen

    return act


@operation
def sock_methods(world: World) -> Act:
    left, right = world.pair()
    loop = world.loop

    async def client() -> None:
        await loop.sock_sendall(left, b"x")
        assert await loop.sock_recv(left, 10) == b"y"

    async def server() -> None:
        buffer = bytearray(10)
        assert await loop.sock_recv_into(right, buffer) == 1
        await loop.sock_sendall(right, b"y")

    return lambda: world.loop.run(client(), server())


@operation
def sock_accept_and_connect(world: World) -> Act:
    listener = world.listener()
    loop = world.loop

    async def client() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.getsockname())

    async def server() -> None:
        conn, _ = await loop.sock_accept(listener)
        conn.close()

    return lambda: world.loop.run(client(), server())


@operation
def sock_datagrams(world: World) -> Act:
    left, right = world.datagrams()
    loop = world.loop

    async def main() -> None:
        await loop.sock_sendto(left, b"x", right.getsockname())
        data, _ = await loop.sock_recvfrom(right, 10)
        assert data == b"x"

    return lambda: world.loop.run(main())


@operation
def create_task(world: World) -> Act:
    loop = world.loop

    def generator() -> Iterator[Any]:
        yield
        return 2

    async def main() -> None:
        task = loop.create_task(generator(), name="generator")
        assert await task == 2

    return lambda: world.loop.run(main())


@operation
def asyncio_future_in_a_task(world: World) -> Act:
    loop = world.loop

    async def main() -> None:
        future = loop.create_future()
        loop.call_soon(future.set_result, 1)
        await future
        await asyncio.sleep(0)

    return lambda: world.loop.run(main())


@operation
def signal_handlers(world: World) -> Act:
    loop = world.loop
    seen: list[int] = []

    def act() -> None:
        try:
            loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
            signal.raise_signal(signal.SIGUSR1)
            loop.call_soon(loop.stop)
            loop.run_forever()
        finally:
            _testcapi.remove_mem_hooks()
            settle(loop)
            if loop.remove_signal_handler(signal.SIGUSR1):
                assert seen, "a signal was lost"

    return act


# --- the selector ------------------------------------------------------------------------------


def use_selector(world: World, backend: str) -> Act:
    left, right = world.pair()
    left.send(b"x")

    def act() -> None:
        with Selector(backend) as selector:
            selector.register(left, selectors.EVENT_READ)
            selector.register(right, selectors.EVENT_READ, "data")
            selector.modify(left, selectors.EVENT_WRITE, "more")
            assert len(selector.select(0)) == 2
            assert len(selector.get_map()) == 2
            assert selector.get_key(right).data == "data"
            assert selector.get_map().get(right) is not None
            assert len(list(selector.get_map())) == 2
            selector.unregister(right)
            assert len(selector.select()) == 1

    return act


@operation
def selector_on_epoll(world: World) -> Act:
    return use_selector(world, "epoll")


@operation
def selector_on_poll(world: World) -> Act:
    return use_selector(world, "poll")


@operation
def selector_that_is_kept(world: World) -> Act:
    """A registration that fails changes nothing."""
    left, right = world.pair()
    left.send(b"x")
    selector = world._open.enter_context(Selector())
    selector.register(left, selectors.EVENT_READ, "left")

    def act() -> None:
        before = dict(selector.get_map())
        try:
            selector.register(right, selectors.EVENT_READ)
        except MemoryError:
            _testcapi.remove_mem_hooks()
            after = dict(selector.get_map())
            if after != before:
                raise Wrong(f"register() failed and left {after}") from None
            raise
        key = selector.get_key(right)
        try:
            selector.modify(right, selectors.EVENT_WRITE, "new")
        except MemoryError:
            _testcapi.remove_mem_hooks()
            if selector.get_map().get(right) not in (key, None):
                raise Wrong("modify() failed half-way") from None
            raise
        ready = selector.select(0)
        if len(ready) != 1:
            raise Wrong(f"select() saw {ready}")
        selector.unregister(right)
        if len(selector.get_map()) != 1:
            raise Wrong("unregister() left something")

    return act


@operation
def loop_on_a_selector(world: World) -> Act:
    left, right = world.pair()

    async def client() -> None:
        await pyloop.sendall(left, b"x")

    async def server() -> None:
        assert await pyloop.recv(right) == b"x"

    def act() -> None:
        loop = EventLoop(selector=selectors.DefaultSelector())
        try:
            loop.run(server(), client())
        finally:
            loop.close()

    return act


# --- transports --------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        pass


class Client(asyncio.Protocol):
    def __init__(self, world: World) -> None:
        self._world = world
        self._got = 0

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        self._world.content = self._got == 300_003

    def connection_lost(self, exc: BaseException | None) -> None:
        self._world.content = True


class Listener(asyncio.DatagramProtocol):
    def __init__(self, world: World) -> None:
        self._world = world

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._world.content = True


class Served(Echo):
    def __init__(self, world: World, accepted: list[Any]) -> None:
        self._world = world
        self._accepted = accepted

    def connection_made(self, transport: Any) -> None:
        self._accepted.append(transport)
        self._world.content = True


def driven(
    world: World, start: Callable[[], Any], opened: list[Any], close: Callable[[Any], None]
) -> Act:
    """Start, wait until a protocol is content, close what was opened.

    In a task of ours: CPython's own crashes when its coroutine ends for want of memory.
    """
    loop = world.loop

    async def main() -> None:
        # A callback that could not be called is reported, but whoever waits for it cannot know.
        async with pyloop.timeout(0.3):
            await start()
            while not world.content:
                await pyloop.sleep(0.001)

    def act() -> None:
        world.content = False
        try:
            loop.run(main())
        finally:
            _testcapi.remove_mem_hooks()
            # Those as well that were made, and could not be handed over.
            for one in [*opened, *world.transports()]:
                close(one)
            settle(loop)

    return act


@operation
def stream_transports(world: World) -> Act:
    loop = world.loop
    left, right = world.pair()
    opened: list[Any] = []
    client = functools.partial(Client, world)

    async def start() -> None:
        transport, _ = await loop.create_connection(Echo, sock=left)
        opened.append(transport)
        transport, _ = await loop.create_connection(client, sock=right)
        opened.append(transport)
        transport.write(b"abc")
        transport.writelines([bytes(100_000), bytearray(200_000)])

    return driven(world, start, opened, abort)


@operation
def datagram_transports(world: World) -> Act:
    loop = world.loop
    left, right = world.datagrams()
    opened: list[Any] = []
    listener = functools.partial(Listener, world)

    async def start() -> None:
        transport, _ = await loop.create_datagram_endpoint(listener, sock=right)
        opened.append(transport)
        transport, _ = await loop.create_datagram_endpoint(listener, sock=left)
        opened.append(transport)
        transport.sendto(b"x", right.getsockname())

    return driven(world, start, opened, abort)


@operation
def a_server(world: World) -> Act:
    loop = world.loop
    listener = world.listener()
    client = world.keep(socket.socket())
    opened: list[Any] = []
    served = functools.partial(Served, world, opened)

    async def start() -> None:
        opened.append(await loop.create_server(served, sock=listener))
        try:
            client.connect(listener.getsockname())
        except BlockingIOError:
            pass

    return driven(world, start, opened, abort)


def abort(opened: Any) -> None:
    """End a transport or a server."""
    if isinstance(opened, asyncio.AbstractServer):
        opened.close()
    else:
        opened.abort()


def settle(loop: EventLoop) -> None:
    """Let run what is still scheduled."""
    for _ in range(5):
        loop.call_soon(loop.stop)
        loop.run_forever()


# --- the run -----------------------------------------------------------------------------------


def is_out_of_memory(exc: BaseException | None) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(is_out_of_memory(inner) for inner in exc.exceptions)
    if isinstance(exc, SystemError):
        # The interpreter forgets to set MemoryError where it has no room for the frame of a
        # Python function, and says so in one of these ways.  Of ours it would name a method.
        text = str(exc)
        return text == "error return without exception set" or (
            text.startswith(("<function ", "<method 'throw' of 'coroutine'"))
            and text.endswith(("without setting an exception", "with an exception set"))
        )
    if isinstance(exc, AttributeError):
        # Its look-up of attributes takes an error for an absence; and asyncio's own transports
        # miss some when they could not be made.
        half_made = type(exc.obj).__name__.startswith("_Selector")
        return half_made or (exc.obj is not None and hasattr(exc.obj, exc.name or ""))
    return isinstance(exc, MemoryError)


def forget(exc: BaseException | None) -> None:
    """Drop what the exception holds: the interpreter keeps a MemoryError for the last resort."""
    while exc is not None:
        context = exc.__context__ or exc.__cause__
        exc.__traceback__ = exc.__context__ = exc.__cause__ = None
        exc = context


async def probe(world: World) -> None:
    """What must work on a loop that has run out of memory before."""
    channel: Channel[bytes] = Channel()

    async def receive() -> None:
        await channel.send(await pyloop.recv(right))

    left, right = world.pair()
    task = await pyloop.spawn(receive())
    await pyloop.sleep(1e-6)
    await pyloop.sendall(left, b"probe")
    if await channel.recv() != b"probe":
        raise Wrong("a channel or a socket lost a value")
    await task


def snapshot() -> tuple[set[str], Counter[str], dict[str, int]]:
    """What could leak: descriptors, objects that the collector knows, references to types."""
    for _ in range(3):
        gc.collect()
    objects = Counter(type(value).__qualname__ for value in gc.get_objects())
    descriptors = set(os.listdir("/proc/self/fd"))
    return descriptors, objects, {type_.__name__: sys.getrefcount(type_) for type_ in TYPES}


def compare(before: Any, after: Any, n_rounds: int) -> None:
    if len(after[0]) > len(before[0]):
        raise Wrong(f"descriptors left open: {after[0] - before[0]}")
    ours = {type_.__name__ for type_ in TYPES}
    for kind, count in after[1].items():
        grown = count - before[1][kind]
        # The interpreter's own caches may have grown a little.
        if grown > (0 if kind in ours else 20 + n_rounds // 10):
            raise Wrong(f"{grown} objects of type {kind} left over after {n_rounds} rounds")
    for kind, count in after[2].items():
        if count > before[2][kind]:
            raise Wrong(f"{count - before[2][kind]} references to {kind} left over")


class Climb:
    """One operation, with each of its allocations failing in turn."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._prepare = OPERATIONS[name]
        self._unraisable: list[BaseException | None] = []

    def run(self) -> int:
        """Returns how many rounds did not succeed."""
        sys.unraisablehook = lambda args: self._unraisable.append(args.exc_value)
        world = World()
        for _ in range(3):
            self._prepare(world)()
            world.loop.run(probe(world))
            world.renew()
        world.close()
        before = snapshot()
        n_failed = n_passed = n = 0
        world = World()
        # An allocation may fail unnoticed, so that one success does not prove that it is over.
        while n_passed < 30:
            if self._round(world, n):
                n_passed += 1
            else:
                n_passed = 0
                n_failed += 1
            n += 1
            if n > MOST_ALLOCATIONS:
                raise Wrong(f"{self.name}: no end")
        world.close()
        compare(before, snapshot(), n)
        return n_failed

    def _round(self, world: World, n: int) -> bool:
        act = self._prepare(world)
        succeeded = True
        try:
            _testcapi.set_nomemory(n, n + 1)
            try:
                act()
            finally:
                _testcapi.remove_mem_hooks()
        except BaseException as exc:
            # Something was left out, but somebody was told.
            was_told = isinstance(exc, LEFT_OUT) and bool(world.reports)
            if not is_out_of_memory(exc) and not was_told:
                raise Wrong(f"{self.name}: n={n} ended with {exc!r}") from exc
            succeeded = False
            forget(exc)
        settle(world.loop)
        for exc in [*world.reports, *self._unraisable]:
            if not is_out_of_memory(exc):
                raise Wrong(f"{self.name}: n={n} reported {exc!r}") from exc
            forget(exc)
            succeeded = False
        world.reports.clear()
        self._unraisable.clear()
        try:
            world.loop.run(probe(world))
        except BaseException as exc:
            raise Wrong(f"{self.name}: after n={n} the loop is broken: {exc!r}") from exc
        world.renew()
        return succeeded


def main() -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or OPERATIONS:
        if name in MAKES_FUNCTIONS and sys.version_info >= (3, 12):
            continue
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        print(name, end=" ", flush=True)
        print(Climb(name).run(), flush=True)


if __name__ == "__main__":
    main()
