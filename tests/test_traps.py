"""Coroutines that talk to the loop themselves: `yield (event, value)`.

The event may be ours, the reader's own Enum with the same names, a TaskType or a string; what is
none of these is an error at the yield of whoever yielded it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import types
from collections.abc import Callable, Generator
from enum import Enum, IntEnum, StrEnum, auto
from typing import Any

import pytest
from face_support import pair, settle
from support import drain_socket, fill_socket, listener, run_python

import pyloop

Trap = Generator[Any, Any, Any]


class OwnEvent(Enum):
    """What a reader of the assignment writes, in another order than ours."""

    Spawn = auto()
    ChanRecv = auto()
    ChanSend = auto()
    Recv = auto()
    Send = auto()
    Accept = auto()
    Pause = auto()


class TextEvent(StrEnum):
    Pause = "p"
    Accept = "a"
    Recv = "r"
    Send = "s"
    Spawn = "sp"
    ChanSend = "cs"
    ChanRecv = "cr"


class NumberEvent(IntEnum):
    Pause = 7
    Accept = 6
    Recv = 5
    Send = 4
    Spawn = 3
    ChanSend = 2
    ChanRecv = 1


ENUMS = [pyloop.Event, OwnEvent, TextEvent, NumberEvent]


@types.coroutine
def trap(event: Any, value: Any = None) -> Trap:
    return (yield (event, value))


@types.coroutine
def raw(value: Any) -> Trap:
    return (yield value)


def test_event_has_the_assignments_names() -> None:
    assert issubclass(pyloop.Event, Enum)
    names = {event.name for event in pyloop.Event}
    assert {"Pause", "Accept", "Send", "Recv", "Spawn", "ChanSend", "ChanRecv"} <= names
    assert {"Read", "Write", "Sleep"} <= names


def test_task_type_is_made_of_strings() -> None:
    assert issubclass(pyloop.TaskType, StrEnum)
    assert pyloop.TaskType.TO_READ == "to_read"
    assert pyloop.TaskType.TO_WRITE == "to_write"


@pytest.mark.parametrize("events", ENUMS)
def test_pause(events: Any) -> None:
    seen: list[str] = []

    async def root(name: str) -> None:
        for _ in range(3):
            seen.append(name)
            assert await trap(events.Pause) is None

    pyloop.run(root("a"), root("b"))
    assert "".join(seen) == "ababab"


@pytest.mark.parametrize("events", ENUMS)
def test_accept_recv_and_send_written_by_the_reader(events: Any, backend: str) -> None:
    @types.coroutine
    def accept(sock: socket.socket) -> Trap:
        assert (yield (events.Accept, sock)) is None
        conn, addr = sock.accept()
        conn.setblocking(False)
        return conn, addr

    @types.coroutine
    def recv(sock: socket.socket, bufsize: int = 1024) -> Trap:
        assert (yield (events.Recv, sock)) is None
        return sock.recv(bufsize)

    @types.coroutine
    def send(sock: socket.socket, data: bytes) -> Trap:
        assert (yield (events.Send, sock)) is None
        return sock.send(data)

    @types.coroutine
    def spawn(coro: Any) -> Trap:
        return (yield (events.Spawn, coro))

    async def connection(conn: socket.socket) -> None:
        with conn:
            while data := await recv(conn):
                await send(conn, str(int(data) * 2).encode())

    async def server(sock: socket.socket, clients: int) -> None:
        for _ in range(clients):
            conn, _ = await accept(sock)
            await spawn(connection(conn))

    async def client(address: tuple[str, int], number: int) -> int:
        with socket.socket() as sock:
            sock.setblocking(False)
            await pyloop.connect(sock, address)
            await send(sock, str(number).encode())
            return int(await recv(sock))

    with listener() as sock:
        address = sock.getsockname()
        clients = [client(address, number) for number in range(10)]
        results = pyloop.run(server(sock, 10), *clients, backend=backend)
    assert results[1:] == [2 * number for number in range(10)]


@pytest.mark.parametrize(
    "event",
    [
        pyloop.Event.Accept,
        pyloop.Event.Recv,
        pyloop.Event.Read,
        pyloop.TaskType.TO_READ,
        OwnEvent.Accept,
        OwnEvent.Recv,
        "to_read",
        "read",
    ],
    ids=str,
)
@pytest.mark.parametrize("as_number", [False, True], ids=["object", "descriptor"])
def test_read_events_wait_until_readable(event: Any, as_number: bool, backend: str) -> None:
    woken: list[Any] = []

    async def reader(sock: socket.socket) -> None:
        woken.append(await trap(event, sock.fileno() if as_number else sock))
        assert sock.recv(10) == b"x"

    async def root(left: socket.socket, right: socket.socket) -> None:
        task = await pyloop.spawn(reader(left))
        await settle()
        assert not woken
        right.send(b"x")
        await task
        assert woken == [None]

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize(
    "event",
    [
        pyloop.Event.Send,
        pyloop.Event.Write,
        pyloop.TaskType.TO_WRITE,
        OwnEvent.Send,
        "to_write",
        "write",
    ],
    ids=str,
)
def test_write_events_wait_until_writable(event: Any, backend: str) -> None:
    woken: list[Any] = []

    async def writer(sock: socket.socket) -> None:
        woken.append(await trap(event, sock))

    async def root(left: socket.socket, right: socket.socket) -> None:
        fill_socket(left)
        task = await pyloop.spawn(writer(left))
        await settle()
        assert not woken
        drain_socket(right)
        await task
        assert woken == [None]

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("events", ENUMS)
def test_spawn_resumes_the_parent_with_the_childs_task(events: Any) -> None:
    async def child() -> str:
        return "result"

    async def root() -> None:
        coro = child()
        task = await trap(events.Spawn, coro)
        assert isinstance(task, pyloop.Task)
        assert task.get_coro() is coro
        assert await task == "result"

    pyloop.run(root())


def test_sleep() -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await trap(pyloop.Event.Sleep, 0.005) is None
        assert loop.time() - before >= 0.005

    pyloop.run(root())


class OwnChannel:
    """The assignment's class, exercise 3, with the fields it asks for."""

    def __init__(self, events: Any) -> None:
        self._sender = self._receiver = None
        self._value: Any = None
        self.events = events

    @types.coroutine
    def send(self, value: Any = None) -> Trap:
        self._value = value
        yield (self.events.ChanSend, self)

    @types.coroutine
    def recv(self) -> Trap:
        yield (self.events.ChanRecv, self)
        return self._value


@pytest.mark.parametrize("events", ENUMS)
@pytest.mark.parametrize("receiver_first", [False, True])
def test_the_readers_own_channel(events: Any, receiver_first: bool) -> None:
    chan = OwnChannel(events)
    got: list[int] = []

    async def sender() -> None:
        for number in range(100):
            await chan.send(number)

    async def receiver() -> None:
        for _ in range(100):
            got.append(await chan.recv())

    roots = [receiver(), sender()] if receiver_first else [sender(), receiver()]
    pyloop.run(*roots)
    assert got == list(range(100))
    assert chan._sender is None
    assert chan._receiver is None


def test_the_readers_own_channel_shows_who_waits() -> None:
    chan = OwnChannel(OwnEvent)

    async def receiver() -> Any:
        return await chan.recv()

    async def sender(value: Any) -> None:
        await chan.send(value)

    waiting = receiver()

    async def check() -> None:
        await settle()
        assert chan._receiver is waiting
        assert chan._sender is None
        await chan.send("value")
        assert chan._receiver is None
        assert chan._sender is None
        sending = sender("second")
        task = await pyloop.spawn(sending)
        await settle()
        assert chan._sender is sending
        assert await chan.recv() == "second"
        await task
        assert chan._sender is None

    assert pyloop.run(waiting, check())[0] == "value"


def test_the_readers_own_channel_in_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    chan = OwnChannel(OwnEvent)

    async def ping() -> None:
        print("ping")
        await chan.send()

    async def pong() -> None:
        await chan.recv()
        print("pong")

    pyloop.run(ping(), pong())
    pyloop.run(pong(), ping())
    assert capsys.readouterr().out == "ping\npong\nping\npong\n"


@pytest.mark.parametrize("events", ENUMS)
def test_chan_recv_on_our_channel_resumes_with_the_value(events: Any) -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        task = await pyloop.spawn(chan.send("value"))
        assert await trap(events.ChanRecv, chan) == "value"
        await task

    pyloop.run(root())


@pytest.mark.parametrize("events", ENUMS)
def test_chan_send_on_our_channel_waits_for_the_receiver(events: Any) -> None:
    async def sender(chan: pyloop.Channel) -> None:
        await trap(events.ChanSend, chan)

    async def root() -> None:
        chan = pyloop.Channel()
        task = await pyloop.spawn(sender(chan))
        await settle()
        assert not task.done()
        await chan.recv()
        await task

    pyloop.run(root())


@pytest.mark.parametrize(("event", "value"), [("ChanSend", None), ("Sleep", 0)])
def test_an_event_that_only_pauses_after_a_wait_for_asyncio(event: str, value: Any) -> None:
    """A task whose step has used up its budget goes to the end of the queue first."""

    async def root() -> None:
        chan = pyloop.Channel(64)
        await asyncio.sleep(0.001)
        for number in range(32):
            await chan.send(number)
        chan._value = "last"
        await trap(getattr(pyloop.Event, event), chan if value is None else value)
        if event == "ChanSend":
            assert [await chan.recv() for _ in range(33)][-1] == "last"

    pyloop.run(root())


class Foreign(Enum):
    Fly = auto()


class Strange:
    def __repr__(self) -> str:
        return "<strange thing>"


class NoRepr:
    def __repr__(self) -> str:
        raise KeyError("no repr")


class LongRepr:
    def __repr__(self) -> str:
        return "very long " * 100_000


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: 42, "42"),
        (lambda: "hello", "hello"),
        (lambda: b"read", "read"),
        (lambda: Strange(), "<strange thing>"),
        (lambda: NoRepr(), "NoRepr object at 0x"),
        (lambda: LongRepr(), "...; pyloop understands"),
        (lambda: (1, 2), "(1, 2)"),
        (lambda: (), "()"),
        (lambda: (pyloop.Event.Recv,), "Recv"),
        (lambda: (pyloop.Event.Pause, None, None), "Pause"),
        (lambda: pyloop.Event.Recv, "Recv"),
        (lambda: (Foreign.Fly, None), "Fly"),
        (lambda: ("to_fly", None), "to_fly"),
        (lambda: ("Pause", None), "Pause"),
        (lambda: [pyloop.Event.Pause, None], "Pause"),
        (lambda: object, "object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_foreign_yield_is_an_error_at_the_yield(make: Callable[[], Any], shown: str) -> None:
    async def root() -> str:
        with pytest.raises(RuntimeError) as caught:
            await raw(make())
        assert shown in str(caught.value)
        assert "raw" in [entry.name for entry in caught.traceback]
        # The task can go on, and the loop with it.
        await pyloop.pause()
        await pyloop.sleep(0)
        return "went on"

    assert pyloop.run(root()) == "went on"


def test_a_foreign_yield_that_nobody_catches_is_what_run_raises() -> None:
    async def root() -> None:
        await raw(("to_fly", None))

    with pytest.raises(RuntimeError, match="to_fly"):
        pyloop.run(root())


@pytest.mark.parametrize(
    "event",
    [pyloop.Event.Recv, OwnEvent.Accept, pyloop.TaskType.TO_READ, "write", pyloop.Event.Write],
    ids=str,
)
@pytest.mark.parametrize("value", [None, "a string", 1.5, object(), -1, 1 << 70], ids=repr)
def test_an_event_with_a_value_that_cannot_be_waited_for(event: Any, value: Any) -> None:
    async def root() -> str:
        with pytest.raises((TypeError, ValueError, OverflowError, RuntimeError)):
            await trap(event, value)
        await pyloop.pause()
        return "went on"

    assert pyloop.run(root()) == "went on"


@pytest.mark.parametrize("event", [pyloop.Event.Spawn, OwnEvent.Spawn], ids=repr)
@pytest.mark.parametrize("value", [None, 42, "coro", len], ids=repr)
def test_spawn_of_what_is_not_a_coroutine(event: Any, value: Any) -> None:
    async def root() -> str:
        with pytest.raises((TypeError, RuntimeError)):
            await trap(event, value)
        await pyloop.pause()
        return "went on"

    assert pyloop.run(root()) == "went on"


@pytest.mark.parametrize("name", ["ChanSend", "ChanRecv"])
@pytest.mark.parametrize("value", [None, 42, object()], ids=["None", "42", "object"])
def test_a_channel_event_without_a_channel(name: str, value: Any) -> None:
    async def root() -> str:
        with pytest.raises((TypeError, AttributeError, RuntimeError)):
            await trap(pyloop.Event[name], value)
        await pyloop.pause()
        return "went on"

    assert pyloop.run(root()) == "went on"


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", None], ids=repr)
def test_a_sleep_event_with_a_bad_time(seconds: Any) -> None:
    async def root() -> str:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            await trap(pyloop.Event.Sleep, seconds)
        await pyloop.pause()
        return "went on"

    assert pyloop.run(root()) == "went on"


def test_a_closed_socket_is_an_error_at_the_yield(backend: str) -> None:
    with pair() as (left, _):
        number = left.fileno()

        async def root() -> str:
            left.close()
            with pytest.raises((OSError, ValueError, RuntimeError)):
                await trap(pyloop.Event.Recv, left)
            with pytest.raises((OSError, ValueError, RuntimeError)):
                await trap(pyloop.Event.Recv, number)
            await pyloop.pause()
            return "went on"

        assert pyloop.run(root(), backend=backend) == "went on"


def test_any_object_with_fileno_can_be_waited_for(backend: str) -> None:
    class Holder:
        def __init__(self, number: int) -> None:
            self.number = number

        def fileno(self) -> int:
            return self.number

    async def root(reading: int, writing: int) -> None:
        await trap(pyloop.Event.Write, Holder(writing))
        os.write(writing, b"x")
        await trap(pyloop.Event.Read, Holder(reading))
        assert os.read(reading, 2) == b"x"

    reading, writing = os.pipe()
    try:
        pyloop.run(root(reading, writing), backend=backend)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_task_cannot_join_itself() -> None:
    def root() -> Trap:
        yield (pyloop.Event.Join, asyncio.current_task())

    with pytest.raises(RuntimeError, match="cannot await on itself"):
        pyloop.run(root())


@pytest.mark.parametrize("way", ["simple", "functional"])
def test_the_enums_are_made_in_either_way(way: str) -> None:
    """Without what enum has for the standard library alone, in its public way."""
    done = run_python(
        f"""
import asyncio, enum, pickle
if {way!r} == "functional" and hasattr(enum, "_simple_enum"):
    del enum._simple_enum
from pyloop import Event, TaskType
for kind in Event, TaskType:
    for member in kind:
        assert kind[member.name] is kind(member.value) is getattr(kind, member.name) is member
        assert pickle.loads(pickle.dumps(member)) is member
    assert kind.__module__ == "pyloop" and kind.__doc__.startswith("What a ")
assert [member.value for member in Event] == list(range(1, len(Event) + 1))
assert issubclass(Event, enum.Enum) and issubclass(TaskType, enum.StrEnum)
print(*(member.name for member in Event), *TaskType)
"""
    )
    assert done.stderr == ""
    assert done.stdout.split() == [*pyloop.Event.__members__, "to_read", "to_write"]
