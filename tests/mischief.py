"""Objects whose code runs under pyloop, everywhere where Python code can, and does harm there.

A World holds a loop with something of everything. A *script* is a list of actions on it (close,
cancel, stop, drop, raise ...); a *place* hands a script to pyloop, to be run where it calls out.
Errors are allowed, but only those that are documented for what was done.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import contextvars
import enum
import gc
import os
import selectors
import signal
import socket
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Generator
from typing import Any

from asyncio_support import ActsInOne
from support import drain_socket, fill_socket, socketpair

import pyloop

Run = Callable[..., Any]
Script = list[tuple[str, int]]

MAX_DEPTH = 3
MAX_ACTIONS = 40  # between two turns, so that what makes more of itself comes to an end


class Mischief(Exception):
    """What scripts raise."""


# What calls in the wrong state may answer. Not SystemError, MemoryError or AssertionError.
ALLOWED = (
    *(RuntimeError, ValueError, TypeError, OSError, LookupError, AttributeError, BufferError),
    *(asyncio.CancelledError, asyncio.InvalidStateError, asyncio.QueueFull, asyncio.QueueEmpty),
    *(pyloop.ChannelClosed, StopIteration, StopAsyncIteration, GeneratorExit, Mischief),
    *(KeyboardInterrupt, SystemExit),
)


class World:
    def __init__(self, kind: str = "epoll") -> None:
        self.kind = kind
        self.enabled = True
        self.depth = 0
        self.actions_left = MAX_ACTIONS
        self.log: list[str] = []
        self.forbidden: list[BaseException] = []
        self.tasks: list[Any] = []
        self.handles: list[Any] = []
        self.operations: list[Any] = []
        self.transports: list[Any] = []
        self.protocols: list[Any] = []
        self.channels = [pyloop.Channel(0), pyloop.Channel(2)]
        self.own_channel = OwnChannel(nothing)
        self.keep: list[Any] = []
        self.variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
        self.pairs = [socketpair() for _ in range(3)]
        self.selector = pyloop.Selector()
        self.loop: Any = None
        self.is_turning = False
        self.make_loop()

    def make_loop(self) -> None:
        self.abandoned = self.tasks
        self.tasks, self.handles, self.operations = [], [], []
        self.transports, self.protocols = [], []
        if self.kind in ("epoll", "poll"):
            self.loop = pyloop.EventLoop(backend=self.kind)
        else:
            self.loop = pyloop.EventLoop(selector=OwnSelector(nothing))
        self.loop.set_exception_handler(self.handle_exception)
        # Nobody but the end of a test touches these.
        self.private, self.private_peer = socketpair()
        self.sentinel = self.loop._create_native_task(self.answer())
        self.sentinels = 0

    async def answer(self) -> None:
        sock = self.private
        with contextlib.suppress(asyncio.CancelledError, OSError):
            while await pyloop.recv(sock):
                await pyloop.sleep(0.000001)
                self.sentinels += 1
        sock.close()

    def handle_exception(self, loop: Any, context: dict[str, Any]) -> None:
        self.note_exception(context.get("exception"))

    def note_exception(self, exc: BaseException | None) -> None:
        if exc is not None and not isinstance(exc, ALLOWED):
            self.forbidden.append(exc)

    # --- scripts ---

    def script(self, name: str, acts: Script) -> Run:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.enabled or self.depth >= MAX_DEPTH:
                return None
            self.depth += 1
            try:
                for action, n in acts:
                    if self.actions_left <= 0:
                        return None
                    self.actions_left -= 1
                    self.log.append(f"{name}: {action} {n}")
                    if TRACE:
                        print(f"{name}: {action} {n}", file=sys.stderr, flush=True)
                    self.act(action, n)
            finally:
                self.depth -= 1
            return None

        return run

    def act(self, action: str, n: int) -> None:
        if action.startswith("raise"):
            RAISES[action](self, n)
        try:
            ACTIONS[action](self, n)
        except ALLOWED:
            pass
        except BaseException as exc:
            self.forbidden.append(exc)

    def place(self, name: str, acts: Script) -> None:
        """Give a script to pyloop."""
        try:
            PLACES[name](self, self.script(name, acts))
        except ALLOWED:
            pass

    # --- running ---

    def turn(self, n: int = 1) -> None:
        for _ in range(n):
            self.actions_left = MAX_ACTIONS
            if self.loop.is_closed():
                self.after_close()
            self.is_turning = True
            try:
                self.loop.call_soon(self.loop.stop)
                self.loop.run_forever()
            except ALLOWED:
                pass
            finally:
                self.is_turning = False
            self.check()

    def after_close(self) -> None:
        self.private_peer.close()
        self.private.close()
        self.make_loop()

    def check(self) -> None:
        if self.forbidden:
            raise AssertionError(f"after {self.log[-20:]}") from self.forbidden[0]

    def end(self) -> None:
        """Nobody does harm any more: everything still works, and everything can be ended."""
        self.enabled = False
        self.loop_is_alive()
        self.turn(3)
        for transport in self.transports:
            transport.abort()
        self.turn(2)
        for _ in range(30):
            left = [task for task in self.tasks if not task.done()]
            if not left and not self.others():
                break
            for task in (*left, *self.others()):
                task.cancel()
            self.turn()
        # What was made while its loop was being closed went with it.
        mine = [task for task in self.tasks if task.get_loop() is self.loop]
        lost = [task for task in mine if not task.done()]
        assert lost == [], f"lost: {lost}, after {self.log[-20:]}"
        for protocol in self.protocols:
            assert protocol.made == protocol.lost, f"{vars(protocol)}, after {self.log[-20:]}"
        self.private_peer.close()
        self.turn(3)
        self.check()

    def loop_is_alive(self) -> None:
        self.turn()
        before = self.sentinels
        self.private_peer.send(b"x")
        for _ in range(1000):
            self.turn()
            if self.sentinels > before:
                return
        raise AssertionError("the loop is dead")

    def close(self) -> None:
        self.enabled = False
        for sig in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(sig, signal.SIG_DFL)
        with contextlib.suppress(*ALLOWED):
            self.loop.close()
        self.selector.close()
        for thing in (self.keep, self.tasks, self.handles, self.operations, self.abandoned):
            thing.clear()
        for thing in (self.transports, self.protocols):
            thing.clear()
        self.loop = None
        for pair in [*self.pairs, (self.private, self.private_peer)]:
            for sock in pair:
                sock.close()
        gc.collect()

    # --- things to take ---

    def any_of(self, things: list[Any], n: int) -> Any:
        if not things:
            raise LookupError("there is none")
        return things[n % len(things)]

    def others(self) -> list[Any]:
        """All native tasks but the one that nobody touches."""
        return [task for task in self.loop._native_tasks() if task is not self.sentinel]

    def sock(self, n: int) -> socket.socket:
        return self.pairs[n % 3][n // 3 % 2]

    def spawn(self, coro: Any, n: int = 0) -> None:
        if n % 2 and not isinstance(coro, types.GeneratorType):
            self.tasks.append(self.loop.create_task(coro))
        else:
            self.tasks.append(self.loop._create_native_task(coro))


TRACE = bool(os.environ.get("PYLOOP_MISCHIEF_TRACE"))


def nothing(*args: Any) -> None:
    pass


# --- evil objects --------------------------------------------------------------------------------


class Dying:
    """Runs a script when it dies."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __del__(self) -> None:
        self.run()

    def __call__(self, *args: Any) -> None:
        pass


class Evil:
    """Its comparisons, its hash and its text run a script."""

    run: Run = staticmethod(nothing)

    def __eq__(self, other: object) -> bool:
        self.run()
        return self is other

    def __hash__(self) -> int:
        self.run()
        return 1

    def __repr__(self) -> str:
        self.run()
        return "<evil>"


class EvilFile(Evil):
    """Its fileno() does so, too."""

    def __init__(self, run: Run, fd: int) -> None:
        self.run = run
        self.fd = fd

    def fileno(self) -> int:
        self.run()
        return self.fd


class EvilSocket(Evil, socket.socket):
    def fileno(self) -> int:
        self.run()
        return super().fileno()

    def close(self) -> None:
        self.run()
        super().close()

    def __del__(self) -> None:
        try:
            self.run()
        finally:
            super().close()


class EvilNumber:
    def __init__(self, run: Run, value: float) -> None:
        self.run = run
        self.value = value

    def __float__(self) -> float:
        self.run()
        return float(self.value)

    def __index__(self) -> int:
        self.run()
        return int(self.value)


class EvilText(str):
    run: Run = staticmethod(nothing)

    def __hash__(self) -> int:
        self.run()
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        self.run()
        return str.__eq__(self, other)

    def __str__(self) -> str:
        self.run()
        return "evil"


class Buffer:
    """An exporter in Python, where there are such (3.12 and later)."""

    def __init__(self, run: Run, when: str, data: bytearray) -> None:
        self.run = run
        self.when = when
        self.data = data

    def __buffer__(self, flags: int) -> memoryview:
        if self.when == "export":
            self.run()
        return memoryview(self.data)

    def __release_buffer__(self, view: memoryview) -> None:
        if self.when == "release":
            self.run()
        view.release()


def buffer(run: Run, n: int) -> Any:
    data = bytearray(b"x" * 100)
    if n % 2 and sys.version_info >= (3, 12):
        return Buffer(run, "export" if n % 4 == 1 else "release", data)
    return data


class EvilFuture:
    """A future of another framework."""

    def __init__(self, world: World, run: Run, where: str) -> None:
        self.world = world
        self.run = run
        self.where = where
        self.callbacks: list[Any] = []
        self.is_blocking = True

    def at(self, where: str) -> None:
        if self.where == where:
            self.run()

    @property
    def _asyncio_future_blocking(self) -> bool:
        self.at("get blocking")
        return self.is_blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value: bool) -> None:
        self.at("set blocking")
        self.is_blocking = value

    def get_loop(self) -> Any:
        self.at("get_loop")
        return self.world.loop

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        self.callbacks.append(callback)
        if self.where == "call at once":
            callback(self)
        self.at("add_done_callback")

    def cancel(self, msg: Any = None) -> bool:
        self.at("cancel")
        for callback in self.callbacks:
            self.world.loop.call_soon(callback, self)
        return self.where != "refuses"

    def result(self) -> None:
        self.at("result")
        raise asyncio.CancelledError

    def __repr__(self) -> str:
        self.at("repr")
        return "<evil future>"

    def __await__(self) -> Generator[Any, Any, None]:
        yield self


FUTURE_PLACES = [
    *("get blocking", "set blocking", "get_loop", "add_done_callback", "call at once"),
    *("cancel", "refuses", "result", "repr"),
]


class OwnChannel(Evil):
    """The assignment's channel, with attributes that run a script."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.fields: dict[str, Any] = {"_sender": None, "_receiver": None}

    def _get(self, name: str) -> Any:
        self.run()
        return self.fields[name]

    def _set(self, name: str, value: Any) -> None:
        self.run()
        self.fields[name] = value

    _sender = property(
        lambda self: self._get("_sender"), lambda self, value: self._set("_sender", value)
    )
    _receiver = property(
        lambda self: self._get("_receiver"), lambda self, value: self._set("_receiver", value)
    )


class OwnSelector(selectors.DefaultSelector):
    run: Run

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def register(self, *args: Any, **kwargs: Any) -> Any:
        self.run()
        return super().register(*args, **kwargs)

    def unregister(self, *args: Any, **kwargs: Any) -> Any:
        key = super().unregister(*args, **kwargs)
        self.run()
        return key

    def modify(self, *args: Any, **kwargs: Any) -> Any:
        self.run()
        return super().modify(*args, **kwargs)

    def select(self, *args: Any, **kwargs: Any) -> Any:
        self.run()
        ready = super().select(*args, **kwargs)
        self.run()
        return ready

    def close(self) -> None:
        self.run()
        super().close()


class Calls(ActsInOne):
    """Runs a script in one of its methods, and counts connections."""

    def __init__(self, where: str, run: Run) -> None:
        super().__init__(where)
        self.run = run
        self.made = 0
        self.lost = 0
        self.loop = asyncio.get_running_loop()

    def act(self) -> None:
        self.run()

    def connection_made(self, transport: Any) -> None:
        self.made += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost += 1
        super().connection_lost(exc)

    def __del__(self) -> None:
        self.at("del")


class BufferedCalls(Calls, asyncio.BufferedProtocol):
    data = bytearray(100)

    def get_buffer(self, sizehint: int) -> Any:
        self.at("get_buffer")
        if self.where == "resizes":
            self.data = bytearray(100)
        elif self.where == "gives nothing":
            return bytearray()
        elif self.where in ("export", "release") and sys.version_info >= (3, 12):
            return Buffer(self.run, self.where, bytearray(100))
        return self.data

    def buffer_updated(self, n: int) -> None:
        self.at("buffer_updated")
        if self.where == "resizes":
            self.data.clear()


PROTOCOL_PLACES = [
    *(*Calls.PLACES, "del", "get_buffer", "buffer_updated", "resizes"),
    *("gives nothing", "export", "release"),
]


# --- actions -------------------------------------------------------------------------------------


def raise_mischief(world: World, n: int) -> None:
    raise Mischief


def raise_cancelled(world: World, n: int) -> None:
    raise asyncio.CancelledError


def raise_interrupt(world: World, n: int) -> None:
    raise KeyboardInterrupt if n % 2 else SystemExit


def raise_stop_iteration(world: World, n: int) -> None:
    raise StopIteration(n) if n % 2 else GeneratorExit


RAISES: dict[str, Callable[[World, int], None]] = {
    "raise": raise_mischief,
    "raise cancelled": raise_cancelled,
    "raise interrupt": raise_interrupt,
    "raise stop iteration": raise_stop_iteration,
}


def cancel_task(world: World, n: int) -> None:
    world.any_of(world.tasks, n).cancel(None if n % 2 else Dying(nothing))


def cancel_all(world: World, n: int) -> None:
    for task in list(world.tasks):
        task.cancel()


def cancel_current(world: World, n: int) -> None:
    task = asyncio.current_task(world.loop)
    if task is not None:
        task.cancel()


def drop_tasks(world: World, n: int) -> None:
    # They live on: the loop holds them.
    del world.tasks[n:]


def stop(world: World, n: int) -> None:
    world.loop.stop()


def close_loop(world: World, n: int) -> None:
    world.loop.close()


def run_loop(world: World, n: int) -> None:
    if world.is_turning and not world.loop.is_running():
        return  # it would run, and take the end of the turn that is about to begin
    if n % 2:
        world.loop.run_forever() if world.loop.is_running() else world.turn()
    else:
        world.loop.run_until_complete(asyncio.sleep(0))


def close_socket(world: World, n: int) -> None:
    world.loop.close_socket(world.sock(n))
    renew_pair(world, n)


def close_behind(world: World, n: int) -> None:
    world.sock(n).close()
    renew_pair(world, n)


def renew_pair(world: World, n: int) -> None:
    world.keep.append(world.pairs[n % 3])
    world.pairs[n % 3] = socketpair()


def send_bytes(world: World, n: int) -> None:
    world.sock(n + 3).send(b"x\n" * 20)


def fill(world: World, n: int) -> None:
    fill_socket(world.sock(n))


def drain(world: World, n: int) -> None:
    drain_socket(world.sock(n))


def collect(world: World, n: int) -> None:
    gc.collect()


def forget(world: World, n: int) -> None:
    del world.keep[n:]
    del world.operations[n:]
    del world.handles[n:]


def close_coroutine(world: World, n: int) -> None:
    coro = world.any_of(world.tasks, n).get_coro()
    if n % 2:
        coro.close()
    else:
        coro.throw(Mischief())


def resume_coroutine(world: World, n: int) -> None:
    world.any_of(world.tasks, n).get_coro().send(None)


def awaited(world: World, n: int) -> Any:
    """What a task waits for."""
    task = world.any_of(world.tasks, n)
    return task._fut_waiter


def close_awaited(world: World, n: int) -> None:
    operation = awaited(world, n)
    if n % 3 == 0:
        operation.close()
    elif n % 3 == 1:
        operation.cancel()
    else:
        operation.throw(Mischief())


def await_again(world: World, n: int) -> None:
    operation = awaited(world, n)

    async def again() -> None:
        await operation

    # asyncio's Task never runs again when a future of another framework raises in its hands.
    world.spawn(again(), 0 if isinstance(operation, EvilFuture) else n)


def take_operation(world: World, n: int) -> None:
    make = list(OPERATIONS.values())[n % len(OPERATIONS)]
    world.operations.append(make(world, n))


def drive_operation(world: World, n: int) -> None:
    operation = world.any_of(world.operations, n)
    [
        lambda: operation.send(None),
        lambda: operation.close(),
        lambda: operation.cancel(),
        lambda: operation.throw(Mischief()),
        lambda: operation.add_done_callback(nothing),
    ][n % 5]()


def spawn_waiting(world: World, n: int) -> None:
    # Made now, so that tasks join those that are older: a circle of asyncio's tasks and ours
    # ends in a RecursionError when it is cancelled, as one of asyncio's alone does.
    operation = list(OPERATIONS.values())[n % len(OPERATIONS)](world, n)
    world.spawn(waits(operation), n // 2)


def join_task(world: World, n: int) -> None:
    task = world.any_of(world.tasks, n)

    async def join() -> None:
        await task

    world.spawn(join(), n // 2)


def add_timer(world: World, n: int) -> None:
    world.handles.append(world.loop.call_later(n * 0.00001, nothing))


def call_soon(world: World, n: int) -> None:
    world.handles.append(world.loop.call_soon(nothing, n))


def cancel_handle(world: World, n: int) -> None:
    world.any_of(world.handles, n).cancel()


def add_reader(world: World, n: int) -> None:
    add = world.loop._add_reader if n % 2 else world.loop._add_writer
    world.handles.append(add(world.sock(n), nothing))


def remove_reader(world: World, n: int) -> None:
    (world.loop.remove_reader if n % 2 else world.loop.remove_writer)(world.sock(n))


def channel_call(world: World, n: int) -> None:
    channel = world.channels[n % 2]
    [channel.send_nowait, channel.recv_nowait, channel.close, lambda: repr(channel)][n // 2 % 4]()
    if channel.closed:
        world.channels[n % 2] = pyloop.Channel(n % 2 * 2)


def look_around(world: World, n: int) -> None:
    world.loop._waiters(world.sock(n))
    repr(world.loop)
    for task in world.tasks[:3]:
        repr(task)
        task.get_stack()
    for channel in world.channels:
        repr((channel._sender, channel._receiver, channel._value))
    asyncio.all_tasks(world.loop)


def describe(world: World, n: int) -> None:
    world.loop._describe_task(world.any_of(world.loop._native_tasks(), n))


def use_transport(world: World, n: int) -> None:
    transport = world.any_of(world.transports, n // 7)
    [
        lambda: transport.write(b"x" * 100),
        lambda: transport.write(buffer(nothing, n)),
        lambda: transport.writelines([b"a", b"b" * 100_000]),
        transport.close,
        transport.abort,
        transport.write_eof,
        transport.pause_reading,
        transport.resume_reading,
        lambda: transport.set_write_buffer_limits(high=0),
        lambda: transport.get_protocol(),
        lambda: repr(transport),
        lambda: transport.get_extra_info("sockname"),
        transport.get_write_buffer_size,
    ][n % 13]()


def drop_transport(world: World, n: int) -> None:
    # Its end is nobody's to bring about then.
    transport = world.any_of(world.transports, n)
    world.transports.remove(transport)
    with contextlib.suppress(ValueError):
        world.protocols.remove(transport.get_protocol())


def raise_signal(world: World, n: int) -> None:
    sig = signal.SIGUSR1 if n % 2 else signal.SIGUSR2
    if callable(signal.getsignal(sig)):  # or it would end us
        signal.raise_signal(sig)


def remove_signal(world: World, n: int) -> None:
    world.loop.remove_signal_handler(signal.SIGUSR1)


def use_selector(world: World, n: int) -> None:
    sock = world.sock(n)
    [
        lambda: world.selector.register(sock, 1 + n % 3, Dying(nothing)),
        lambda: world.selector.modify(sock, 1 + n % 3, Dying(nothing)),
        lambda: world.selector.unregister(sock),
        lambda: world.selector.select(0),
        lambda: world.selector.get_map().get(sock),
        lambda: list(world.selector.get_map().items()),
        lambda: world.selector.close(),
        lambda: setattr(world, "selector", pyloop.Selector()),
    ][n % 8]()


def set_debug(world: World, n: int) -> None:
    world.loop.set_debug(bool(n % 2))


def reset_hooks(world: World, n: int) -> None:
    world.loop.set_task_factory(None)
    world.loop.set_exception_handler(world.handle_exception)


def set_variable(world: World, n: int) -> None:
    world.variable.set(n)


ACTIONS: dict[str, Callable[[World, int], None]] = {
    function.__name__: function
    for function in (
        *(cancel_task, cancel_all, cancel_current, drop_tasks, stop, close_loop, run_loop),
        *(close_socket, close_behind, send_bytes, fill, drain, collect, forget),
        *(close_coroutine, resume_coroutine, close_awaited, await_again, take_operation),
        *(drive_operation, spawn_waiting, join_task, add_timer, call_soon, cancel_handle),
        *(add_reader, remove_reader, channel_call, look_around, describe, use_transport),
        *(drop_transport, raise_signal, remove_signal, use_selector, set_debug, reset_hooks),
        *(set_variable,),
    )
}

ACTION_NAMES = [*ACTIONS, *RAISES]

# What can be awaited.
OPERATIONS: dict[str, Callable[[World, int], Any]] = {
    "recv": lambda world, n: pyloop.recv(world.sock(n), 10),
    "recv_into": lambda world, n: pyloop.recv_into(world.sock(n), bytearray(10)),
    "recvfrom": lambda world, n: pyloop.recvfrom(world.sock(n), 10),
    "send": lambda world, n: pyloop.send(world.sock(n), b"x" * 10),
    "sendall": lambda world, n: pyloop.sendall(world.sock(n), bytearray(300_000)),
    "wait_readable": lambda world, n: pyloop.wait_readable(world.sock(n)),
    "wait_writable": lambda world, n: pyloop.wait_writable(world.sock(n)),
    "lines": lambda world, n: pyloop.lines(world.sock(n)).__anext__(),
    "channel recv": lambda world, n: world.channels[n % 2].recv(),
    "channel send": lambda world, n: world.channels[n % 2].send(n),
    "channel next": lambda world, n: world.channels[n % 2].__anext__(),
    "sleep": lambda world, n: pyloop.sleep(n * 0.00001),
    "long sleep": lambda world, n: pyloop.sleep(1000),
    "pause": lambda world, n: pyloop.pause(),
    "spawn": lambda world, n: pyloop.spawn(some_generator(world)),
    "join": lambda world, n: world.any_of(world.others(), n).__await__(),
    "sock_recv": lambda world, n: world.loop.sock_recv(world.sock(n), 10),
}


def some_generator(world: World) -> Generator[Any, Any, None]:
    yield None
    yield ("read", world.sock(1))


# --- places --------------------------------------------------------------------------------------


def in_call_soon(world: World, run: Run) -> None:
    world.handles.append(world.loop.call_soon(run))


def in_threadsafe(world: World, run: Run) -> None:
    world.handles.append(world.loop.call_soon_threadsafe(run))


def in_timer(world: World, run: Run) -> None:
    for delay in (0, -1, 0.00001):
        world.handles.append(world.loop.call_later(delay, run))
    world.handles.append(world.loop.call_at(world.loop.time(), run))


def in_reader(world: World, run: Run) -> None:
    world.handles.append(world.loop._add_reader(world.sock(0), run))
    world.sock(3).send(b"x")


def in_writer(world: World, run: Run) -> None:
    world.handles.append(world.loop._add_writer(world.sock(1), run))


def in_own_task(world: World, run: Run) -> None:
    async def body() -> None:
        try:
            run()
            await pyloop.pause()
            run()
            await pyloop.recv(world.sock(2))
        finally:
            run()

    world.spawn(body())


def in_asyncio_task(world: World, run: Run) -> None:
    async def body() -> None:
        try:
            run()
            await pyloop.sleep(0.00001)
            run()
            await world.channels[0].recv()
        finally:
            run()

    world.spawn(body(), 1)


def in_generator_task(world: World, run: Run) -> None:
    def body() -> Generator[Any, Any, None]:
        try:
            run()
            yield None
            run()
            yield ("read", world.sock(1))
            yield (pyloop.Event.ChanRecv, world.channels[1])
        finally:
            run()

    world.spawn(body())


def in_generators_that_refuse(world: World, run: Run) -> None:
    """They catch GeneratorExit and CancelledError, and go on; not for ever."""

    async def stubborn() -> None:
        for _ in range(3):
            try:
                await pyloop.sleep(1000)
            except (asyncio.CancelledError, GeneratorExit, Mischief):
                run()

    def generator() -> Generator[Any, Any, None]:
        for _ in range(3):
            try:
                yield (pyloop.Event.Sleep, 1000)
            except (asyncio.CancelledError, GeneratorExit, Mischief):
                run()

    world.spawn(stubborn())
    world.spawn(stubborn(), 1)
    world.spawn(generator())


def in_odd_yields(world: World, run: Run) -> None:
    class Odd(enum.Enum):
        Recv = 1
        Other = 2

        @property
        def _name_(self) -> str:
            run()
            return "Recv"

        @_name_.setter
        def _name_(self, value: str) -> None:
            pass

    class Attributes:
        def __getattr__(self, name: str) -> Any:
            run()
            raise AttributeError(name)

        def __repr__(self) -> str:
            run()
            return "<odd>"

        def __eq__(self, other: object) -> bool:
            run()
            return False

        __hash__ = None  # type: ignore[assignment]

    def body(yielded: Any) -> Generator[Any, Any, None]:
        yield yielded

    text = EvilText("read")
    text.run = run  # type: ignore[method-assign]
    file = EvilFile(run, world.sock(0).fileno())
    for yielded in (
        (Odd.Recv, world.sock(0)),
        (text, file),
        ("read", file),
        Attributes(),
        (Attributes(), Attributes()),
        (pyloop.Event.Spawn, body(None)),
        (pyloop.Event.Join, next(iter(world.others()), None)),
        (pyloop.Event.Sleep, EvilNumber(run, 0.00001)),
        (pyloop.Event.ChanSend, Attributes()),
    ):
        world.spawn(body(yielded))


def in_own_channel(world: World, run: Run) -> None:
    channel = world.own_channel
    channel.run = run

    def body(event: Any) -> Generator[Any, Any, None]:
        yield (event, channel)
        yield (event, channel)

    for event in (pyloop.Event.ChanSend, pyloop.Event.ChanRecv):
        world.spawn(body(event))


def in_foreign_future(world: World, run: Run) -> None:
    for where in FUTURE_PLACES:
        future = EvilFuture(world, run, where)

        async def body(future: EvilFuture = future) -> None:
            await future

        world.spawn(body())


def in_done_callback(world: World, run: Run) -> None:
    for n in (0, 1):

        async def body() -> None:
            await pyloop.pause()

        world.spawn(body(), n)
        task = world.tasks[-1]
        task.add_done_callback(run)
        task.add_done_callback(run, context=contextvars.copy_context())


def in_del(world: World, run: Run) -> None:
    """Everything that pyloop holds, and lets go."""
    loop = world.loop
    loop.call_soon(nothing, Dying(run))
    loop.call_soon(Dying(run)).cancel()
    loop.call_later(0, nothing, Dying(run))
    loop.call_later(1000, Dying(run)).cancel()
    world.handles.append(loop.call_later(1000, nothing, Dying(run)))
    world.channels[1].send_nowait(Dying(run))
    world.channels[1]._value = Dying(run)
    world.handles.append(loop._add_reader(world.sock(2), nothing, Dying(run)))
    world.selector.register(world.sock(1), selectors.EVENT_READ, Dying(run))
    context = contextvars.copy_context()
    context.run(world.variable.set, Dying(run))
    loop.call_soon(nothing, context=context)

    async def body() -> Any:
        local = Dying(run)  # noqa: F841
        await pyloop.sleep(0.00001)
        return Dying(run)

    async def failing() -> None:
        error = Mischief(Dying(run))
        error.attribute = Dying(run)  # type: ignore[attr-defined]
        raise error

    for n in (0, 1):
        loop.create_task(body()) if n else loop._create_native_task(body(), context=context)
        loop.create_task(failing()) if n else loop._create_native_task(failing())

    async def waiting() -> None:
        local = Dying(run)  # noqa: F841
        await world.channels[0].send(Dying(run))

    world.spawn(waiting())
    world.tasks[-1].cancel(Dying(run))
    loop.call_soon(world.tasks[-1].cancel, Dying(run))
    sock = EvilSocket()
    sock.run = run  # type: ignore[method-assign]
    del sock


def in_weakref(world: World, run: Run) -> None:
    for thing in (
        pyloop.Channel(),
        pyloop.recv(world.sock(0)),
        world.loop.call_soon(nothing),
        world.loop.call_later(0, nothing),
        pyloop.lines(world.sock(0)),
        pyloop.Selector(),
        world.loop._create_native_task(some_generator(world)),
    ):
        world.keep.append(weakref.ref(thing, run))
        if isinstance(thing, pyloop.Selector):
            thing.close()
    for thing in (*world.tasks[:3], *world.transports[:3]):
        world.keep.append(weakref.ref(thing, run))


def in_exception_handler(world: World, run: Run) -> None:
    def handler(loop: Any, context: dict[str, Any]) -> None:
        world.handle_exception(loop, context)
        run()

    world.loop.set_exception_handler(handler)
    world.loop.call_soon(RAISES["raise"], world, 0)

    async def failing() -> None:
        raise Mischief

    world.loop._create_native_task(failing())
    world.loop.create_task(failing())


def in_signal_handler(world: World, run: Run) -> None:
    world.loop.add_signal_handler(signal.SIGUSR1, run)
    signal.signal(signal.SIGUSR2, run)
    world.loop.call_soon(raise_signal, world, 0)
    world.loop.call_soon(raise_signal, world, 1)
    raise_signal(world, 1)


def in_fileno(world: World, run: Run) -> None:
    loop = world.loop
    file = EvilFile(run, world.sock(0).fileno())
    for call in (
        lambda: world.spawn(waits(pyloop.wait_readable(file))),
        lambda: world.spawn(waits(pyloop.wait_writable(file)), 1),
        lambda: loop._add_reader(file, nothing),
        lambda: loop._add_reader(file, nothing),
        lambda: loop._add_writer(file, Dying(run)),
        lambda: loop.remove_writer(file),
        lambda: loop.remove_reader(file),
        lambda: loop._waiters(file),
        lambda: world.selector.register(file, selectors.EVENT_READ, Dying(run)),
        lambda: world.selector.modify(file, selectors.EVENT_WRITE),
        lambda: world.selector.get_map()[file],
        lambda: file in world.selector.get_map(),
        lambda: world.selector.unregister(file),
    ):
        with contextlib.suppress(*ALLOWED):
            call()


async def waits(awaitable: Any) -> Any:
    return await awaitable


def in_socket_subclass(world: World, run: Run) -> None:
    loop = world.loop
    left, right = socketpair()
    world.keep.append(right)
    sock = EvilSocket(fileno=left.detach())
    sock.setblocking(False)
    sock.run = run  # type: ignore[method-assign]
    for call in (
        lambda: world.spawn(waits(pyloop.recv(sock))),
        lambda: world.spawn(waits(pyloop.recv(sock)), 1),
        lambda: world.spawn(waits(pyloop.sendall(sock, bytes(300_000)))),
        lambda: world.spawn(waits(loop.sock_recv_into(sock, bytearray(10)))),
        lambda: world.spawn(waits(pyloop.lines(sock).__anext__())),
        lambda: loop._add_writer(sock, nothing),
        lambda: loop._waiters(sock),
        lambda: world.turn() if not loop.is_running() else None,
        lambda: loop.close_socket(sock),
    ):
        with contextlib.suppress(*ALLOWED):
            call()


def in_numbers(world: World, run: Run) -> None:
    loop = world.loop
    for call in (
        lambda: loop.call_later(EvilNumber(run, 0.001), Dying(run)),
        lambda: loop.call_at(EvilNumber(run, 0.001), nothing, Dying(run)),
        lambda: world.spawn(waits(pyloop.sleep(EvilNumber(run, 0.00001)))),
        lambda: world.spawn(waits(pyloop.recv(world.sock(0), EvilNumber(run, 10)))),
        lambda: pyloop.connect(world.sock(0), ("127.0.0.1", EvilNumber(run, 9))).close(),
        lambda: world.selector.select(EvilNumber(run, 0)),
        lambda: world.selector.register(world.sock(0), EvilNumber(run, 1)),
        lambda: pyloop.Channel(EvilNumber(run, 1)),  # type: ignore[arg-type]
        lambda: loop.call_soon(nothing, context=EvilNumber(run, 1)),
    ):
        with contextlib.suppress(*ALLOWED):
            call()


def in_buffers(world: World, run: Run) -> None:
    loop = world.loop
    for n in range(4):
        for make in (
            lambda data: pyloop.recv_into(world.sock(0), data),
            lambda data: loop.sock_recv_into(world.sock(1), data),
            lambda data: pyloop.send(world.sock(2), data),
            lambda data: pyloop.sendall(world.sock(2), data),
        ):
            data = buffer(run, n)
            with contextlib.suppress(*ALLOWED):
                world.spawn(waits(make(data)), n)
            if isinstance(data, bytearray):
                with contextlib.suppress(BufferError):
                    data.clear()
    for transport in world.transports:
        with contextlib.suppress(*ALLOWED):
            transport.write(memoryview(buffer(run, 1)))
            transport.write(memoryview(buffer(run, 3)))


def in_task_factory(world: World, run: Run) -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        try:
            run()
        except BaseException:
            coro.close()
            raise
        return asyncio.Task(coro, loop=loop, **kwargs)

    world.loop.set_task_factory(factory)

    def create() -> None:
        coro = waits(pyloop.pause())
        with contextlib.suppress(*ALLOWED):
            world.tasks.append(world.loop.create_task(coro))

    world.loop.call_soon(create)


def in_selector_methods(world: World, run: Run) -> None:
    if world.loop._own_selector is not None:
        world.loop._own_selector.run = run
    world.spawn(waits(pyloop.recv(world.sock(0))))
    world.spawn(waits(pyloop.send(world.sock(1), b"x")), 1)
    world.loop._add_reader(world.sock(2), Dying(run))


def in_names(world: World, run: Run) -> None:
    name = EvilText("name")
    name.run = run  # type: ignore[method-assign]
    task = world.loop._create_native_task(some_generator(world), name=name)
    world.tasks.append(task)
    task.set_name(name)
    repr(task)
    world.loop._describe_task(task)


def in_codec(world: World, run: Run) -> None:
    """lines() decodes by a codec that is written in Python."""
    CODEC_RUN[0] = run
    world.spawn(waits(pyloop.lines(world.sock(0), encoding="mischief").__anext__()))
    world.sock(3).send(b"one\ntwo\n")


CODEC_RUN: list[Run] = [nothing]


def find_codec(name: str) -> codecs.CodecInfo | None:
    if name != "mischief":
        return None

    def decode(data: Any, errors: str = "strict") -> tuple[str, int]:
        CODEC_RUN[0]()
        return bytes(data).decode("latin-1"), len(data)

    def encode(text: str, errors: str = "strict") -> tuple[bytes, int]:
        return text.encode("latin-1"), len(text)

    return codecs.CodecInfo(encode, decode, name="mischief")


codecs.register(find_codec)


def in_protocol(world: World, run: Run) -> None:
    """Transports whose protocols run the script in one of their methods."""
    for where in PROTOCOL_PLACES:
        for kind in (Calls, BufferedCalls):
            world.loop.call_soon(connect_transport, world, kind, where, run)


def connect_transport(world: World, kind: Any, where: str, run: Run) -> None:
    if len(world.transports) > 12:
        return
    left, right = socketpair()
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    protocol = kind(where, run)
    waiter = world.loop.create_future() if len(world.transports) % 2 else None
    transport = world.loop._make_socket_transport(left, protocol, waiter)
    transport.set_write_buffer_limits(high=1000)
    world.transports.append(transport)
    if where != "del":
        world.protocols.append(protocol)
    else:
        del protocol
    world.keep.append(right)
    right.send(b"some data")
    transport.write(b"x" * 20_000)

    def read_on() -> None:
        with contextlib.suppress(OSError):
            drain_socket(right)
            right.send(b"more")
            right.shutdown(socket.SHUT_WR)
            drain_socket(right)

    world.loop.call_later(0.00001, read_on)


def in_async_generator(world: World, run: Run) -> None:
    async def values() -> Any:
        try:
            yield 1
            await pyloop.sleep(1000)
            yield 2
        finally:
            run()

    async def body() -> None:
        async for _ in values():
            run()
            break

    world.spawn(body())
    world.spawn(body(), 1)


def in_collector(world: World, run: Run) -> None:
    """Cycles through everything that a loop holds, with a script at their end."""
    channel: Any = pyloop.Channel(2)
    box: list[Any] = [channel, Dying(run)]
    channel.send_nowait(box)
    loop = world.loop
    handle = loop.call_later(1000, nothing, box)
    box.append(handle)
    handle.cancel()
    operation = pyloop.Channel().send(box)
    box.append(operation)
    operation.close()
    lines = pyloop.lines(world.sock(0))
    box.append(lines)
    other = pyloop.Selector()
    other.register(world.sock(0), selectors.EVENT_READ, box)
    box.append(other)
    world.keep.append(other.get_map())
    other.close()


def at_once(world: World, run: Run) -> None:
    """Outside of the loop."""
    run()


PLACES: dict[str, Callable[[World, Run], None]] = {
    function.__name__: function
    for function in (
        *(in_call_soon, in_threadsafe, in_timer, in_reader, in_writer, in_own_task),
        *(in_asyncio_task, in_generator_task, in_generators_that_refuse, in_odd_yields),
        *(in_own_channel, in_foreign_future, in_done_callback, in_del, in_weakref),
        *(in_exception_handler, in_signal_handler, in_fileno, in_socket_subclass, in_numbers),
        *(in_buffers, in_task_factory, in_selector_methods, in_names, in_codec, in_protocol),
        *(in_async_generator, in_collector, at_once),
    )
}

KINDS = ("epoll", "poll", "selector")


@contextlib.contextmanager
def quiet(world: World) -> Any:
    """Errors that have no caller are noted; warnings about what was dropped are right."""
    hook = sys.unraisablehook

    def note(unraisable: Any) -> None:
        world.note_exception(unraisable.exc_value)

    sys.unraisablehook = note
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook
