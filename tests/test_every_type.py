"""What must hold for every type of the extension, in every state that its objects can be in.

SAMPLES makes objects of each type; a type that is not in it fails the first test.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import gc
import inspect
import os
import pickle
import random
import selectors
import signal
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from samples import (
    C_TYPES,
    SAMPLES,
    TYPES,
    ForeignFuture,
    World,
    buffered,
    generator,
    nothing,
    wait_for,
)
from support import listener, small_heap, socketpair

import pyloop
from pyloop import _core

pytestmark = [
    # Objects are dropped in states that call for a warning.
    pytest.mark.filterwarnings("ignore:pyloop operation:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    with small_heap():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with contextlib.closing(world):
        yield world


each_type = pytest.mark.parametrize("name", sorted(SAMPLES))
each_sample = pytest.mark.parametrize(
    ("name", "state"), [(name, state) for name in SAMPLES for state in SAMPLES[name]]
)


def test_every_type_is_here() -> None:
    assert set(SAMPLES) == set(TYPES)
    assert set(C_TYPES) == set(TYPES) - {
        *("EventLoop", "Event", "TaskType"),  # made of Python classes
        *("StreamCore", "DgramCore"),  # inherit one
        *("Deadlock", "ChannelClosed", "LineTooLong"),  # as Python makes exceptions
    }


@each_sample
def test_a_sample_is_of_its_type(name: str, state: str, world: World) -> None:
    assert type(SAMPLES[name][state](world)) is TYPES[name]


# --- calls -------------------------------------------------------------------------------------


class Awkward:
    """Answers every question with an error."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("__eq__")

    def __hash__(self) -> int:
        raise ZeroDivisionError("__hash__")

    def __bool__(self) -> bool:
        raise ZeroDivisionError("__bool__")

    def __index__(self) -> int:
        raise ZeroDivisionError("__index__")

    def __repr__(self) -> str:
        raise ZeroDivisionError("__repr__")


class BadName(str):
    __slots__ = ()


def argument_lists(world: World, subject: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    singles: list[Any] = [
        *(None, True, 0, 1, -1, 2**31, -(2**63), 2**64, 10**400, 1.5, float("nan"), float("inf")),
        *("", "text", "\ud800", "nul\0", b"bytes", bytearray(b"x"), [], (), {}, object()),
        *(Awkward(), nothing, world.left, world.left.fileno(), world.loop, subject, int),
        *(asyncio.CancelledError, ValueError("x"), KeyError, generator(), BadName("context")),
    ]
    lists: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {})]
    lists += [((value,), {}) for value in singles]
    lists += [
        ((nothing, 1), {}),
        ((1, nothing), {}),
        ((1.5, nothing, 1, 2, 3), {}),
        ((world.left, nothing), {}),
        ((world.left, nothing, "x"), {"context": None}),
        ((ValueError, "text"), {}),
        ((ValueError, ValueError("x"), None), {}),
        ((ValueError, "text", "traceback"), {}),
        ((subject, subject), {}),
        ((None, None, None), {}),
        ((None,) * 20, {}),
        ((), {"context": None}),
        ((), {"msg": "text"}),
        ((), {"value": 1}),
        ((), {"limit": 3}),
        ((), {"nonsense": 1, "": 2, "\ud800": 3}),
        ((nothing,), {"context": 3}),
        ((nothing,), {"context": Awkward()}),
        ((generator(),), {"name": "x", "context": None, "root": True}),
        ((generator(),), {"name": Awkward()}),
        ((generator(),), {"context": 3}),
    ]
    return lists


# These are Python's own, or would only put another object in the sample's place.
# The write end of an empty pipe.
WRITABLE = os.pipe()[1]

NOT_CALLED = {"__class__", "__init_subclass__", "__subclasshook__", "__new__", "__doc__"}


def names_of(kind: type) -> list[str]:
    """Attributes that pyloop defines; not those of asyncio or of every object."""
    classes = [base for base in kind.__mro__ if base.__module__.startswith("pyloop")]
    names = {name for base in classes for name in vars(base)}
    return sorted(names - NOT_CALLED)


def drop(result: Any) -> None:
    """Nobody will await it."""
    if inspect.iscoroutine(result) or isinstance(result, _core.Operation):
        with contextlib.suppress(RuntimeError):
            result.close()


def attempt(call: Callable[[], Any]) -> None:
    """Any exception will do but the one by which CPython says that a C function is wrong."""
    try:
        drop(call())
    except SystemError:
        raise
    except (Exception, asyncio.CancelledError):
        pass


def prepare(subject: Any) -> None:
    """run_forever() is to return after one turn, select() at once."""
    if isinstance(subject, _core.LoopCore):
        subject.stop()
    if isinstance(subject, _core.Selector):
        with contextlib.suppress(KeyError, ValueError):
            subject.register(WRITABLE, selectors.EVENT_WRITE)


def poke(subject: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    prepare(subject)
    method = getattr(subject, name, None)
    if callable(method):
        attempt(lambda: method(*args, **kwargs))


def look_at(subject: Any) -> None:
    """Everything that needs no arguments."""
    for name in dir(subject):
        with contextlib.suppress(Exception):
            getattr(subject, name)
    attempt(lambda: repr(subject))
    gc.collect(0)


@each_sample
def test_each_method_takes_any_arguments(name: str, state: str) -> None:
    """Each call on a new object."""
    for method in names_of(TYPES[name]):
        world = World()
        with contextlib.closing(world):
            number = len(argument_lists(world, None))
            subject = SAMPLES[name][state](world)
            if not callable(getattr(subject, method, None)):
                continue
        for index in range(number):
            world = World()
            with contextlib.closing(world):
                subject = SAMPLES[name][state](world)
                args, kwargs = argument_lists(world, subject)[index]
                poke(subject, method, args, kwargs)
                look_at(subject)
                del subject


@each_sample
def test_calls_in_any_order(name: str, state: str) -> None:
    """Many calls on the same object."""
    chance = random.Random(f"{name} {state}")
    methods = [method for method in names_of(TYPES[name]) if method != "__del__"]
    for _ in range(20):
        world = World()
        with contextlib.closing(world):
            subject = SAMPLES[name][state](world)
            arguments = argument_lists(world, subject)
            for _ in range(40):
                poke(subject, chance.choice(methods), *chance.choice(arguments))
            look_at(subject)
            del subject, arguments


@each_sample
def test_each_attribute_can_be_assigned_anything(name: str, state: str) -> None:
    world = World()
    with contextlib.closing(world):
        values = len(argument_lists(world, None))
    for attribute in names_of(TYPES[name]):
        if not inspect.isdatadescriptor(getattr(TYPES[name], attribute, None)):
            continue
        for index in range(-1, values):
            world = World()
            with contextlib.closing(world):
                subject = SAMPLES[name][state](world)
                if index < 0:
                    attempt(partial(delattr, subject, attribute))
                else:
                    args, _ = argument_lists(world, subject)[index]
                    attempt(partial(setattr, subject, attribute, *args[:1]))
                look_at(subject)
                del subject


@each_type
def test_new_alone(name: str) -> None:
    """__new__ without __init__: refused, or an object on which every method can be called."""
    kind: Any = TYPES[name]
    try:
        subject = kind.__new__(kind)
    except TypeError:
        if name in C_TYPES:
            with pytest.raises(TypeError):
                object.__new__(kind)
        return
    world = World()
    with contextlib.closing(world):
        number = len(argument_lists(world, None))
        for method in names_of(kind):
            for index in range(number):
                args, kwargs = argument_lists(world, subject)[index]
                poke(subject, method, args, kwargs)
                look_at(subject)
                if isinstance(subject, _core.LoopCore):
                    subject._thread_id = None
                    subject._release_core()  # asyncio's __del__ would warn
                subject = kind.__new__(kind)
        if isinstance(subject, _core.LoopCore):
            subject._release_core()


def test_which_types_can_be_made() -> None:
    """Of the types of the extension: the others have a function that makes them."""
    can_be_made = set()
    for name, kind in C_TYPES.items():
        with contextlib.suppress(TypeError):
            kind()
            can_be_made.add(name)
    assert can_be_made == {"Channel", "LoopCore", "Selector"}


# --- memory ------------------------------------------------------------------------------------


def rounds_of_tasks(world: World, n: int) -> None:
    for _ in range(0, n, 100):
        for _ in range(100):
            world.loop._create_native_task(generator())
        assert world.loop._run_tasks(False) == "ended"


def rounds_of_wakeups(world: World, n: int) -> None:
    for _ in range(n // 100):
        futures = [ForeignFuture() for _ in range(100)]
        for future in futures:
            world.loop._create_native_task(wait_for(future))
        world.turn()
        for future in futures:
            future.callback(future)
        del future, futures
        world.turn()


def rounds_of_handles(world: World, n: int) -> None:
    for _ in range(n // 200):
        for _ in range(100):
            world.loop.call_soon(nothing, 1)
            world.loop.call_soon(nothing, 1, 2, 3, 4).cancel()
        world.turn()


def rounds_of_operations(world: World, n: int) -> None:
    """Used and unused ones; those of the second kind are not recycled."""
    for _ in range(n // 4):
        pyloop.recv(world.left).close()
        pyloop.sleep(0)

    async def use() -> None:
        for _ in range(n // 2):
            await pyloop.pause()

    world.loop.run(use())


def repeat(make: Callable[[World], Any], share: int = 1) -> Callable[[World, int], None]:
    def rounds(world: World, n: int) -> None:
        for _ in range(n // share):
            make(world)

    return rounds


def one_loop(world: World) -> None:
    pyloop.EventLoop().close()


def one_timer(world: World) -> None:
    world.loop.call_later(1000, nothing, 1).cancel()


def one_transport(world: World) -> None:
    left, right = socketpair()
    transport = _core.StreamCore(world.loop, left, asyncio.Protocol(), None, {"some": "info"})
    world.turn()
    transport.write(b"x")
    transport.abort()
    world.turn()
    right.close()


def one_datagram(world: World) -> None:
    left, right = socketpair(socket.SOCK_DGRAM)
    transport = _core.DgramCore(world.loop, left, asyncio.DatagramProtocol())
    world.turn()
    for _ in range(1000):
        transport.sendto(bytes(1000))
    transport.abort()
    world.turn()
    right.close()


def one_listener(world: World) -> None:
    with listener() as sock:
        world.loop._listen(sock, asyncio.Protocol, None, nothing, False).stop()
        world.turn()


ROUNDS: dict[str, Callable[[World, int], None]] = {
    "Channel": repeat(buffered),
    "Operation": rounds_of_operations,
    "Task": rounds_of_tasks,
    "Wakeup": rounds_of_wakeups,
    "Lines": repeat(SAMPLES["Lines"]["new"]),
    "Selector": repeat(SAMPLES["Selector"]["registered"], share=4),
    "SelectorMap": repeat(SAMPLES["SelectorMap"]["registered"], share=4),
    "Handle": rounds_of_handles,
    "TimerHandle": repeat(one_timer),
    "LoopCore": repeat(lambda world: _core.LoopCore()),
    # Descriptors and a dozen Python objects each.
    "EventLoop": repeat(one_loop, share=10),
    "StreamCore": repeat(one_transport, share=10),
    "StreamEnd": repeat(one_transport, share=10),
    "DgramCore": repeat(one_datagram, share=20),
    "Listener": repeat(one_listener, share=10),
    "Deadlock": repeat(SAMPLES["Deadlock"]["new"]),
    "ChannelClosed": repeat(SAMPLES["ChannelClosed"]["new"]),
    "LineTooLong": repeat(SAMPLES["LineTooLong"]["new"]),
}


def references_and_blocks(kind: type) -> tuple[int, int]:
    gc.collect()
    return sys.getrefcount(kind), sys.getallocatedblocks()


@pytest.mark.parametrize("name", sorted(ROUNDS))
def test_ten_thousand_objects_leave_nothing(name: str, world: World) -> None:
    kind = TYPES[name]
    ROUNDS[name](world, 20_000)  # fills free lists and caches
    references, blocks = references_and_blocks(kind)
    ROUNDS[name](world, 10_000)
    references_now, blocks_now = references_and_blocks(kind)
    assert references_now == references
    assert blocks_now - blocks < 200


CAN_BE_INHERITED = {
    name: kind
    for name, kind in C_TYPES.items()
    if kind.__flags__ & 1 << 10  # BASETYPE
}


@pytest.mark.parametrize("name", sorted(CAN_BE_INHERITED))
@pytest.mark.parametrize("slots", [(), ("one", "two"), None], ids=["bare", "slots", "dict"])
def test_objects_of_a_derived_type_leave_nothing(name: str, slots: Any) -> None:
    """Each holds its type, and lets go of it."""
    namespace = {} if slots is None else {"__slots__": slots}
    derived: Any = type("Derived", (CAN_BE_INHERITED[name],), namespace)

    def rounds() -> None:
        for _ in range(1000):
            subject = derived()
            for slot in slots or ():
                setattr(subject, slot, subject)
            if slots is None:
                subject.attribute = subject
            del subject

    rounds()
    references, blocks = references_and_blocks(derived)
    rounds()
    references_now, blocks_now = references_and_blocks(derived)
    assert references_now == references
    assert blocks_now - blocks < 200


@each_sample
def test_each_state_leaves_nothing(name: str, state: str) -> None:
    def rounds(n: int) -> None:
        for _ in range(n):
            world = World()
            with contextlib.closing(world):
                SAMPLES[name][state](world)

    kind = TYPES[name]
    rounds(100)  # fills free lists and the interpreter's caches
    references, blocks = references_and_blocks(kind)
    rounds(300)
    references_now, blocks_now = references_and_blocks(kind)
    assert references_now == references
    assert blocks_now - blocks < 250


class Box(list[Any]):
    """A list that can be referred to weakly."""


def box_in_channel(box: Box) -> None:
    channel: pyloop.Channel[Any] = pyloop.Channel(1)
    channel.send_nowait(box)
    box.append(channel)


def box_in_channel_value(box: Box) -> None:
    channel: pyloop.Channel[Any] = pyloop.Channel(1)
    channel._value = box
    box.append(channel)


def box_in_operation(box: Box) -> None:
    channel: pyloop.Channel[Any] = pyloop.Channel()
    box.append(channel.send(box))


class SocketWithBox(socket.socket):
    box: Any = None


def box_in_lines(box: Box) -> None:
    left, right = socketpair()
    right.close()
    with SocketWithBox(fileno=left.detach()) as sock:
        sock.box = box
        box.append(pyloop.lines(sock))


def initialised_core(box: Box) -> _core.LoopCore:
    core = _core.LoopCore()
    core._init_core(None)
    box.append(core)
    return core


def box_in_task(box: Box) -> None:
    box.append(initialised_core(box)._create_native_task(generator(box)))


def box_in_handle(box: Box) -> None:
    box.append(initialised_core(box).call_soon(nothing, 1, box))


def box_in_timer(box: Box) -> None:
    box.append(initialised_core(box).call_later(1000, nothing, 1, box))


def box_in_reader(box: Box) -> None:
    left, right = socketpair()
    box.append(initialised_core(box)._add_reader(left, nothing, box, left, right))
    left.close()
    right.close()


def loop_with_box(box: Box) -> pyloop.EventLoop:
    loop = pyloop.EventLoop()
    loop.set_exception_handler(lambda loop, context: box.clear())
    box.append(loop)
    return loop


def box_in_loop(box: Box) -> None:
    loop_with_box(box).close()


def box_in_open_loop(box: Box) -> None:
    """With tasks that wait: for a channel, for another task, for a future that is not ours."""
    loop = loop_with_box(box)
    channel: pyloop.Channel[Any] = pyloop.Channel()
    first = loop._create_native_task(wait_for(channel.send(box)))
    future = ForeignFuture()
    for awaitable in (first, future, pyloop.sleep(1000)):
        loop._create_native_task(wait_for(awaitable))
    for _ in range(3):
        loop.call_soon(loop.stop)
        loop.run_forever()
    box += [channel, first, future]


def box_in_selector(box: Box) -> None:
    selector: Any = pyloop.Selector()
    selector.register(WRITABLE, selectors.EVENT_WRITE, box)
    selector.attribute = box
    box.append(selector)


def box_in_selector_map(box: Box) -> None:
    selector = pyloop.Selector()
    selector.register(WRITABLE, selectors.EVENT_WRITE, box)
    box.append(selector.get_map())


def with_tasks(box: Box, *coros: Any) -> list[Any]:
    """Tasks of a loop that is open, and that the box alone holds."""
    loop = loop_with_box(box)
    tasks = [loop._create_native_task(coro) for coro in coros]
    for _ in range(3):
        loop.call_soon(loop.stop)
        loop.run_forever()
    return tasks


def box_in_wakeup(box: Box) -> None:
    future = ForeignFuture()
    with_tasks(box, wait_for(future))
    box.append(future.callback)


def box_in_finished_task(box: Box) -> None:
    async def give() -> Box:
        return box

    box.extend(with_tasks(box, give()))


def box_in_failed_task(box: Box) -> None:
    async def give() -> Box:
        raise ValueError(box)

    box.extend(with_tasks(box, give()))
    box[-1].exception()


def box_in_done_callback(box: Box) -> None:
    (task,) = with_tasks(box, wait_for(pyloop.sleep(1000)))
    task.add_done_callback(partial(nothing, box))
    task.cancel(box)


def box_in_context(box: Box) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, box)
    core = initialised_core(box)
    box.append(core.call_soon(nothing, context=context))
    box.append(core._create_native_task(generator(), context=context))


def box_in_buffer(box: Box) -> None:
    class Buffer(bytearray):
        box: Any

    left, right = socketpair()
    buffer = Buffer(b"x")
    buffer.box = box
    box += [pyloop.recv_into(left, buffer), pyloop.sendall(right, buffer)]
    left.close()
    right.close()


def box_in_task_factory(box: Box) -> None:
    loop_with_box(box).set_task_factory(partial(nothing, box))  # type: ignore[arg-type]


class SelectorWithBox(selectors.SelectSelector):
    box: Any = None


def box_in_the_selector_of_a_loop(box: Box) -> None:
    selector = SelectorWithBox()
    selector.box = box
    box.append(pyloop.EventLoop(selector=selector))


def box_in_signal_handler(box: Box) -> None:
    core = initialised_core(box)
    box.append(core._add_signal(signal.SIGUSR1, nothing, box))


class ProtocolWithBox(asyncio.Protocol):
    box: Any = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.box = None


def box_in_transport(box: Box) -> None:
    """Its two ends are watched: in the loop's table, and in the transport."""
    loop = loop_with_box(box)
    left, right = socketpair()
    protocol = ProtocolWithBox()
    protocol.box = [box, right]
    transport: Any = _core.StreamCore(loop, left, protocol, None, {"box": box})
    transport.attribute = box
    loop.call_soon(loop.stop)
    loop.run_forever()
    transport.write(bytes(1_000_000))
    box += [transport, *loop._waiters(left)]


def box_in_datagram(box: Box) -> None:
    """Also in what is queued."""
    loop = loop_with_box(box)
    left, right = socketpair(socket.SOCK_DGRAM)
    protocol: Any = ProtocolWithBox()
    protocol.box = [box, right]
    transport = _core.DgramCore(loop, left, protocol, None, None, {"box": box})
    loop.call_soon(loop.stop)
    loop.run_forever()
    for _ in range(1000):
        transport.sendto(bytes(1000))
    transport.sendto(b"x", (box,))
    box += [transport, *loop._waiters(left)]


def box_in_listener(box: Box) -> None:
    loop = loop_with_box(box)
    sock = listener()
    box.append(loop._listen(sock, partial(asyncio.Protocol), None, box.append, False))
    box.append(sock)


def box_in_subclass(kind: Any) -> Callable[[Box], None]:
    def make(box: Box) -> None:
        box.append(type("Derived", (kind,), {"box": box})())
        box.append(type(box[-1]))
        box[-2].attribute = box

    return make


def box_in_exception(kind: type[BaseException]) -> Callable[[Box], None]:
    return lambda box: box.append(kind(box))


@pytest.mark.parametrize(
    "make",
    [
        box_in_channel,
        box_in_channel_value,
        box_in_operation,
        box_in_lines,
        box_in_task,
        box_in_handle,
        box_in_timer,
        box_in_reader,
        box_in_loop,
        box_in_open_loop,
        box_in_selector,
        box_in_selector_map,
        box_in_wakeup,
        box_in_finished_task,
        box_in_failed_task,
        box_in_done_callback,
        box_in_context,
        box_in_buffer,
        box_in_task_factory,
        box_in_the_selector_of_a_loop,
        box_in_signal_handler,
        box_in_transport,
        box_in_datagram,
        box_in_listener,
        box_in_subclass(pyloop.Channel),
        box_in_subclass(pyloop.Selector),
        box_in_subclass(_core.LoopCore),
        box_in_exception(pyloop.Deadlock),
        box_in_exception(pyloop.ChannelClosed),
        box_in_exception(pyloop.LineTooLong),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_cycle_is_collected(make: Callable[[Box], None]) -> None:
    box = Box()
    make(box)
    reference = weakref.ref(box)
    gc.collect()
    assert reference() is box
    del box
    gc.collect()
    assert reference() is None


def test_a_datagram_queued_to_its_own_transport_is_collected() -> None:
    """Nothing else of that cycle can be cleared: a tuple cannot."""
    loop = pyloop.EventLoop()
    left, right = socketpair(socket.SOCK_DGRAM)
    transport = _core.DgramCore(loop, left, asyncio.DatagramProtocol())
    loop.call_soon(loop.stop)
    loop.run_forever()
    while not transport._buffer:
        transport.sendto(bytes(1000))
    transport.sendto(b"x", (transport,))
    loop.close()
    left.close()
    right.close()
    del transport
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is _core.DgramCore]


# LoopCore alone is in nobody's hands; EventLoop has weak references by its Python half.
WITHOUT_WEAKREFS = {"LoopCore", "Listener", "StreamEnd", "Wakeup", "Event", "TaskType"}


@each_sample
def test_weak_references(name: str, state: str) -> None:
    world = World()
    with contextlib.closing(world):
        subject = SAMPLES[name][state](world)
        if name in ("Event", "TaskType"):
            assert weakref.ref(subject)() is subject  # lives as long as its class
            return
        if name in WITHOUT_WEAKREFS:
            with pytest.raises(TypeError):
                weakref.ref(subject)
            return
        ended: list[Any] = []
        reference = weakref.ref(subject, ended.append)
        assert reference() is subject
    del world
    del subject
    gc.collect()
    assert reference() is None
    assert ended == [reference]


# --- types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(C_TYPES))
def test_a_type_cannot_be_changed(name: str) -> None:
    kind = C_TYPES[name]
    for attribute in ("added", "__doc__", "__repr__", "close"):
        with pytest.raises(TypeError):
            setattr(kind, attribute, None)
        with pytest.raises(TypeError):
            delattr(kind, attribute)


@pytest.mark.parametrize("name", sorted(set(C_TYPES) - {"Channel", "LoopCore", "Selector"}))
def test_a_type_without_constructor_cannot_be_inherited_from(name: str) -> None:
    with pytest.raises(TypeError):
        type("Derived", (C_TYPES[name],), {})


def pickled(protocol: int, subject: Any) -> Any:
    return pickle.loads(pickle.dumps(subject, protocol))


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle{n}": partial(pickled, n) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
}


def samples_and_copies() -> list[Any]:
    params = []
    for name, states in SAMPLES.items():
        for state in states:
            for how in COPIES:
                params.append(pytest.param(name, state, how))
    return params


@pytest.mark.parametrize(("name", "state", "how"), samples_and_copies())
def test_copies(name: str, state: str, how: str, world: World) -> None:
    """An enum's member is one and the same, an exception is copied, the rest cannot be."""
    subject = SAMPLES[name][state](world)
    if name in ("Event", "TaskType"):
        assert COPIES[how](subject) is subject
    elif isinstance(subject, BaseException):
        other = COPIES[how](subject)
        assert type(other) is type(subject)
        assert other.args == subject.args
    else:
        with pytest.raises((TypeError, pickle.PicklingError), match="pickle|is not safe"):
            COPIES[how](subject)


# --- what help() shows -------------------------------------------------------------------------


def public_callables() -> Iterator[tuple[str, Any]]:
    for module in (pyloop, _core):
        for name, value in vars(module).items():
            if name.startswith("_") or inspect.ismodule(value):
                continue
            if callable(value) and not isinstance(value, type):
                yield name, value
    for name, kind in TYPES.items():
        yield name, kind
        for method, value in vars(kind).items():
            if not method.startswith("_") and callable(value):
                yield f"{name}.{method}", value


CALLABLES = dict(public_callables())


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_docstring(name: str) -> None:
    text = inspect.getdoc(CALLABLES[name])
    assert text
    assert "--\n" not in text, "the line that ends a signature is left: it has a mistake"


@pytest.mark.parametrize(
    "name",
    # Python's exceptions have none either; nobody but EventLoop calls LoopCore.
    sorted(set(CALLABLES) - {"Deadlock", "ChannelClosed", "LineTooLong", "LoopCore"}),
)
def test_signature(name: str) -> None:
    inspect.signature(CALLABLES[name])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in TYPES.values()
        for name, value in vars(kind).items()
        if not name.startswith("_") and inspect.isgetsetdescriptor(value)
    ],
)
def test_attributes_have_docstrings(kind: type, name: str) -> None:
    assert inspect.getdoc(vars(kind)[name])
