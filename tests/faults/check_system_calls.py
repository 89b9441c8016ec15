"""Run by test_system_calls.py, with shim.c preloaded: see there for what a rule is."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import random
import selectors
import signal
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from face_support import Reports
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import drain_socket, listener, socketpair

import pyloop

SHIM = ctypes.CDLL(os.environ["FAULTS_SHIM"])
SHIM.faults_add.argtypes = [
    *(ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_long)
]
SHIM.faults_reset.argtypes = [ctypes.c_uint64]
SHIM.faults_calls.restype = ctypes.c_long
SHIM.faults_hits.restype = ctypes.c_long

ALWAYS = 1 << 40

# What the extension may make an operation of.
RECEIVING = ("recv", "recvfrom", "recvmsg", "recvmmsg", "read")
SENDING = ("send", "sendto", "sendmsg", "sendmmsg", "write", "writev")
ACCEPTING = ("accept", "accept4")
WAITING = ("epoll_wait", "epoll_pwait2", "ppoll", "poll")

FATAL = [
    errno.ECONNRESET,
    errno.EPIPE,
    errno.EBADF,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ECONNABORTED,
]
# What accept(2) says when there is no descriptor, or no memory, for another connection.
SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
NAMES = errno.errorcode


def add(
    calls: tuple[str, ...],
    sock: socket.socket | None = None,
    *,
    first: int = 0,
    count: int = 1,
    error: int = 0,
    size: int = 0,
) -> None:
    """A rule for a group of calls: on one socket, or on any descriptor."""
    fd = -1 if sock is None else sock.fileno()
    assert SHIM.faults_add(",".join(calls).encode(), fd, first, count, error, size) == 0


def hits(calls: tuple[str, ...]) -> int:
    return sum(SHIM.faults_hits(call.encode()) for call in calls)


def made(calls: tuple[str, ...]) -> int:
    return sum(SHIM.faults_calls(call.encode()) for call in calls)


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    SHIM.faults_reset(1)
    yield
    SHIM.faults_reset(1)


def payload(n: int) -> bytes:
    return random.Random(n).randbytes(n)


@pytest.fixture(params=["native", "asyncio"])
def run(request: pytest.FixtureRequest, backend: str) -> Callable[..., Any]:
    """Runs coroutines side by side: as tasks of ours, or as asyncio's, on a loop of ours."""

    def native(*coros: Any) -> None:
        pyloop.run(*coros, backend=backend)

    def of_asyncio(*coros: Any) -> None:
        async def gather() -> None:
            await asyncio.gather(*coros)

        with asyncio.Runner(loop_factory=lambda: pyloop.EventLoop(backend=backend)) as runner:
            runner.run(gather())

    return native if request.param == "native" else of_asyncio


# --- receiving ---------------------------------------------------------------------------------

Receive = Callable[[socket.socket], Awaitable[bytes]]


async def into(receive: Callable[[socket.socket, bytearray], Awaitable[int]], sock: Any) -> bytes:
    buffer = bytearray(1000)
    return bytes(buffer[: await receive(sock, buffer)])


async def sender_too(operation: Awaitable[tuple[bytes, Any]]) -> bytes:
    return (await operation)[0]


def loop() -> pyloop.EventLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, pyloop.EventLoop)
    return running


RECEIVES: dict[str, Receive] = {
    "recv": lambda sock: pyloop.recv(sock, 1000),
    "recv_much": lambda sock: pyloop.recv(sock, 100_000),
    "recv_into": lambda sock: into(pyloop.recv_into, sock),
    "recvfrom": lambda sock: sender_too(pyloop.recvfrom(sock, 1000)),
    "sock_recv": lambda sock: loop().sock_recv(sock, 1000),
    "sock_recv_into": lambda sock: into(lambda s, b: loop().sock_recv_into(s, b), sock),
    "sock_recvfrom": lambda sock: sender_too(loop().sock_recvfrom(sock, 1000)),
}


@pytest.mark.parametrize("error", FATAL, ids=NAMES.get)
@pytest.mark.parametrize("name", RECEIVES)
def test_a_receive_that_fails_has_taken_nothing(
    name: str, error: int, run: Callable[..., Any]
) -> None:
    left, right = socketpair()

    async def receive() -> None:
        with pytest.raises(OSError) as raised:
            await RECEIVES[name](right)
        assert raised.value.errno == error
        assert await RECEIVES[name](right) == b"all of it"

    async def send() -> None:
        await pyloop.pause()
        left.send(b"all of it")

    with left, right:
        add(RECEIVING, right, error=error)
        run(receive(), send())
        assert hits(RECEIVING) == 1


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN], ids=NAMES.get)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", RECEIVES)
def test_a_receive_is_tried_again(
    name: str, count: int, error: int, run: Callable[..., Any]
) -> None:
    left, right = socketpair()

    async def receive() -> None:
        got = b""
        while got != b"xy":
            got += await RECEIVES[name](right)
            assert got in (b"x", b"xy")

    async def send() -> None:
        left.send(b"x")
        for _ in range(5):
            await pyloop.pause()
        left.send(b"y")

    with left, right:
        add(RECEIVING, right, count=count, error=error)
        run(receive(), send())
        assert hits(RECEIVING) == count
        assert made(RECEIVING) < 30 + count


@pytest.mark.parametrize("error", FATAL, ids=NAMES.get)
def test_lines_go_on_after_an_error(error: int, run: Callable[..., Any]) -> None:
    left, right = socketpair()

    async def receive() -> None:
        lines = pyloop.lines(right)
        assert await anext(lines) == "one"
        with pytest.raises(OSError) as raised:
            await anext(lines)
        assert raised.value.errno == error
        left.send(b"o\n")
        assert await anext(lines) == "two"

    with left, right:
        left.send(b"one\ntw")
        add(RECEIVING, right, first=1, error=error)
        run(receive())
        assert hits(RECEIVING) == 1


# --- sending -----------------------------------------------------------------------------------

Send = Callable[[socket.socket, bytes], Awaitable[object]]
SENDS: dict[str, Send] = {
    "send": lambda sock, data: pyloop.send(sock, data),
    "sendall": lambda sock, data: pyloop.sendall(sock, data),
    "sock_sendall": lambda sock, data: loop().sock_sendall(sock, data),
}


@pytest.mark.parametrize("error", FATAL, ids=NAMES.get)
@pytest.mark.parametrize("name", SENDS)
def test_a_send_that_fails_has_sent_nothing(name: str, error: int, run: Callable[..., Any]) -> None:
    left, right = socketpair()

    async def send() -> None:
        with pytest.raises(OSError) as raised:
            await SENDS[name](left, b"lost")
        assert raised.value.errno == error
        await SENDS[name](left, b"sent")

    with left, right:
        add(SENDING, left, error=error)
        run(send())
        assert hits(SENDING) == 1
        assert drain_socket(right) == b"sent"


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN], ids=NAMES.get)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", SENDS)
def test_a_send_is_tried_again(name: str, count: int, error: int, run: Callable[..., Any]) -> None:
    left, right = socketpair()

    async def send() -> None:
        await SENDS[name](left, b"once")

    with left, right:
        add(SENDING, left, count=count, error=error)
        run(send())
        assert hits(SENDING) == count
        assert made(SENDING) < 30 + count
        assert drain_socket(right) == b"once"


def test_datagrams_are_neither_lost_nor_doubled(run: Callable[..., Any]) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as left,
        socket.socket(type=socket.SOCK_DGRAM) as right,
    ):
        for sock in (left, right):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)

        async def main() -> None:
            address = right.getsockname()
            for n, error in enumerate([errno.EINTR, errno.EAGAIN, *FATAL]):
                data = b"%d" % n
                SHIM.faults_reset(1)
                add(SENDING, left, error=error)
                if error in FATAL:
                    with pytest.raises(OSError) as raised:
                        await pyloop.sendto(left, data, address)
                    assert raised.value.errno == error
                await loop().sock_sendto(left, data, address)
                assert hits(SENDING) == 1
                add(RECEIVING, right, error=error)
                if error in FATAL:
                    with pytest.raises(OSError) as raised:
                        await pyloop.recvfrom(right, 100)
                    assert raised.value.errno == error
                assert await loop().sock_recvfrom(right, 100) == (data, left.getsockname())
                assert hits(RECEIVING) == 1

        run(main())


# --- connections -------------------------------------------------------------------------------

ACCEPTS: dict[str, Callable[[socket.socket], Awaitable[tuple[socket.socket, Any]]]] = {
    "accept": lambda sock: pyloop.accept(sock),
    "sock_accept": lambda sock: loop().sock_accept(sock),
}


@pytest.mark.parametrize(
    "error",
    [*SHORTAGES, errno.EBADF],
    ids=NAMES.get,
)
@pytest.mark.parametrize("name", ACCEPTS)
def test_a_failed_accept_leaves_the_connection(
    name: str, error: int, run: Callable[..., Any]
) -> None:
    async def serve(sock: socket.socket) -> None:
        with pytest.raises(OSError) as raised:
            await ACCEPTS[name](sock)
        assert raised.value.errno == error
        conn, _ = await ACCEPTS[name](sock)
        with conn:
            assert await pyloop.recv(conn) == b"hello"

    with listener() as sock, socket.create_connection(sock.getsockname()) as client:
        client.sendall(b"hello")
        add(ACCEPTING, sock, error=error)
        run(serve(sock))
        assert hits(ACCEPTING) == 1


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EINTR, errno.EAGAIN], ids=NAMES.get)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ACCEPTS)
def test_accept_is_tried_again(name: str, count: int, error: int, run: Callable[..., Any]) -> None:
    async def serve(sock: socket.socket) -> None:
        conn, _ = await ACCEPTS[name](sock)
        conn.close()

    with listener() as sock, socket.create_connection(sock.getsockname()):
        add(ACCEPTING, sock, count=count, error=error)
        run(serve(sock))
        assert hits(ACCEPTING) == count
        assert made(ACCEPTING) < 30 + count


CONNECTS: dict[str, Callable[[socket.socket, Any], Awaitable[None]]] = {
    "connect": lambda sock, address: pyloop.connect(sock, address),
    "sock_connect": lambda sock, address: loop().sock_connect(sock, address),
}


@pytest.mark.parametrize("error", [0, errno.EINTR, *FATAL], ids=lambda e: NAMES.get(e, "none"))
@pytest.mark.parametrize("name", CONNECTS)
def test_connect(name: str, error: int, run: Callable[..., Any]) -> None:
    async def connect(sock: socket.socket, address: Any) -> None:
        if error in FATAL:
            with pytest.raises(OSError) as raised:
                await CONNECTS[name](sock, address)
            assert raised.value.errno == error
        await CONNECTS[name](sock, address)
        await pyloop.sendall(sock, b"hello")

    with listener() as server, socket.socket() as sock:
        sock.setblocking(False)
        add(("connect",), sock, error=error, count=1 if error else 0)
        run(connect(sock, server.getsockname()))
        assert hits(("connect",)) == bool(error)
        server.setblocking(True)
        conn, _ = server.accept()
        with conn:
            assert conn.recv(10) == b"hello"


# --- the poller --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=NAMES.get)
@pytest.mark.parametrize(
    ("call", "first"), [("epoll_create1", 0), ("epoll_create1", 1), ("pipe2", 0)]
)
def test_a_loop_that_cannot_be_made(call: str, first: int, error: int) -> None:
    add((call,), first=first, error=error)
    with pytest.raises((OSError, MemoryError)) as raised:
        pyloop.EventLoop(backend="epoll").close()
    assert isinstance(raised.value, MemoryError) or raised.value.errno == error
    SHIM.faults_reset(1)
    pyloop.EventLoop().close()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM], ids=NAMES.get)
def test_a_selector_that_cannot_be_made(error: int) -> None:
    add(("epoll_create1",), error=error, count=ALWAYS)
    with pytest.raises((OSError, MemoryError)):
        pyloop.Selector("epoll")
    SHIM.faults_reset(1)
    pyloop.Selector("epoll").close()


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC, errno.EBADF], ids=NAMES.get)
def test_a_registration_that_is_refused(error: int) -> None:
    """Who waits for that descriptor is told; others are not disturbed."""
    left, right = socketpair()
    other_left, other_right = socketpair()

    async def refused() -> None:
        with pytest.raises((OSError, MemoryError)) as raised:
            await pyloop.recv(right)
        assert isinstance(raised.value, MemoryError) or raised.value.errno == error
        assert await pyloop.recv(right) == b"x"
        await pyloop.sendall(other_left, b"y")

    async def other() -> None:
        assert await pyloop.recv(other_right) == b"y"

    async def send() -> None:
        await pyloop.sleep(0.001)
        left.send(b"x")

    with left, right, other_left, other_right:
        add(("epoll_ctl",), right, error=error)
        pyloop.run(refused(), other(), send(), backend="epoll")
        assert hits(("epoll_ctl",)) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_an_interrupted_wait_goes_on(run: Callable[..., Any], count: int) -> None:
    left, right = socketpair()

    async def receive() -> None:
        for _ in range(10):
            assert await pyloop.recv(right) == b"x"

    async def send() -> None:
        for _ in range(10):
            await pyloop.sleep(0.0005)
            left.send(b"x")

    with left, right:
        add(WAITING, error=errno.EINTR, count=count)
        run(receive(), send())
        assert hits(WAITING) >= count
        assert made(WAITING) < 150


@pytest.mark.parametrize("error", [errno.EBADF, errno.EINVAL, errno.ENOMEM], ids=NAMES.get)
def test_a_wait_that_fails_ends_the_run(backend: str, error: int) -> None:
    async def main() -> None:
        add(WAITING, error=error)
        await pyloop.sleep(0.01)

    with pytest.raises(OSError) as raised:
        pyloop.run(main(), backend=backend)
    assert raised.value.errno == error

    async def again() -> None:
        await pyloop.sleep(0.001)

    pyloop.run(again(), backend=backend)


@pytest.mark.parametrize("count", [1, 3])
def test_an_interrupted_select_is_told_nothing_wrong(backend: str, count: int) -> None:
    left, right = socketpair()
    with left, right, pyloop.Selector(backend) as selector:
        selector.register(right, selectors.EVENT_READ)
        left.send(b"x")
        add(WAITING, error=errno.EINTR, count=count)
        answers = [selector.select(0.01) for _ in range(count + 1)]
        assert hits(WAITING) == count
        assert [key.fileobj for key, _ in answers[-1]] == [right]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=NAMES.get)
def test_without_epoll_pwait2_timers_are_not_early(error: int) -> None:
    async def main() -> None:
        running = loop()
        for delay in (0.0001, 0.0015, 0.003):
            started = running.time()
            await pyloop.sleep(delay)
            assert running.time() - started >= delay

    add(("epoll_pwait2",), error=error, count=ALWAYS)
    pyloop.run(main(), backend="epoll")
    assert hits(("epoll_pwait2",)) <= 1  # it is remembered
    assert made(("epoll_wait",)) < 30


def test_no_wakeup_is_lost(backend: str) -> None:
    """Calls from another thread, while writes and reads of the wake-up are interrupted."""
    n_calls = 300
    running = pyloop.EventLoop(backend=backend)
    seen: list[int] = []
    ready = threading.Semaphore(0)

    def called(n: int) -> None:
        seen.append(n)
        ready.release()
        if n == n_calls - 1:
            running.stop()

    def other_thread() -> None:
        for n in range(n_calls):
            running.call_soon_threadsafe(called, n)
            assert ready.acquire(timeout=60)

    thread = threading.Thread(target=other_thread)
    for first in range(5, 200, 10):
        add(("write", "read"), first=first, error=errno.EINTR)
    add(WAITING, first=10, count=50, error=errno.EINTR)
    thread.start()
    running.run_forever()
    thread.join()
    running.close()
    assert seen == list(range(n_calls))
    assert hits(("write", "read")) > 0
    assert made(WAITING) < 20 * n_calls


def test_a_thread_that_wakes_a_closed_loop_writes_to_nobody_else(backend: str) -> None:
    """It lets go of the GIL for that: close() waits until it has written."""
    running = pyloop.EventLoop(backend=backend)
    near, gate = socket.socketpair()
    # The write takes so long: nobody opens the gate.
    gate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 200_000))
    wakeup_fds: list[int] = []
    is_over = threading.Event()

    def wake() -> None:
        # Until one of the calls finds the loop asleep, and the next one finds it closed.
        with contextlib.suppress(RuntimeError):
            while not is_over.is_set():
                running.call_soon_threadsafe(is_over.is_set)

    def start() -> None:
        fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd)
        wakeup_fds.append(fd)
        SHIM.faults_hold(fd, gate.fileno())
        running.add_reader(near, running.stop)
        thread.start()

    thread = threading.Thread(target=wake)
    with near, gate:
        running.call_soon(start)
        running.run_forever()
        running.close()
        (fd,) = wakeup_fds
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        reader, writer = os.pipe2(os.O_NONBLOCK)
        is_over.set()
        thread.join()
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.close(reader)
        os.close(writer)


# --- no byte is lost ---------------------------------------------------------------------------


def shorten(sock: socket.socket, calls: tuple[str, ...], size: int, *, every: bool) -> None:
    """Each call moves at most `size` bytes; with `every` a random number up to that."""
    add(calls, sock, count=ALWAYS, size=-size if every else size)


def interrupt(sock: socket.socket, calls: tuple[str, ...], places: list[tuple[int, int]]) -> None:
    for first, error in places:
        add(calls, sock, first=first, error=error)


INTERRUPTIONS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from([errno.EINTR, errno.EAGAIN])), max_size=4
)
SIZES = st.integers(1, 70) | st.sampled_from([1, 2, 1023, 1024, 1025, 65535, 65536, 65537])
CUTS: dict[str, st.SearchStrategy[Any]] = {
    "sizes": st.tuples(SIZES, SIZES),
    "every": st.booleans(),
    "places": INTERRUPTIONS,
}


@contextlib.contextmanager
def cutting(
    left: socket.socket,
    right: socket.socket,
    seed: int,
    sizes: tuple[int, int],
    every: bool,
    places: list[tuple[int, int]],
) -> Iterator[None]:
    """Calls that send from left, or receive at right, are made smaller, and interrupted."""
    SHIM.faults_reset(seed)
    interrupt(left, SENDING, places)
    interrupt(right, RECEIVING, places)
    shorten(left, SENDING, sizes[0], every=every)
    shorten(right, RECEIVING, sizes[1], every=every)
    yield
    SHIM.faults_reset(1)


def transfer(backend: str, n: int, **cuts: Any) -> None:
    data = payload(n)
    left, right = socketpair()
    got = bytearray()

    async def send() -> None:
        await pyloop.sendall(left, data)
        left.shutdown(socket.SHUT_WR)

    async def receive() -> None:
        while piece := await pyloop.recv(right, 65536):
            got.extend(piece)

    with left, right, cutting(left, right, n, **cuts):
        pyloop.run(send(), receive(), backend=backend)
        assert got == data
        # A piece of one byte costs a few calls, never an endless number.
        assert made(SENDING) + made(RECEIVING) + made(WAITING) < 12 * n + 300


@settings(max_examples=40)
@given(n=st.integers(0, 2000), **CUTS)
@example(n=200_000, sizes=(65536, 1025), every=True, places=[])
def test_sendall_and_recv_lose_no_byte(backend: str, **how: Any) -> None:
    transfer(backend, **how)


@pytest.mark.stress
@settings(max_examples=1500)
@given(n=st.integers(0, 5000), **CUTS)
def test_sendall_and_recv_lose_no_byte_at_length(backend: str, **how: Any) -> None:
    transfer(backend, **how)


@settings(max_examples=40)
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=12),
    size=st.integers(1, 40),
    every=st.booleans(),
    places=INTERRUPTIONS,
)
def test_lines_are_put_together(
    backend: str, lines: list[str], size: int, every: bool, places: list[tuple[int, int]]
) -> None:
    left, right = socketpair()
    got: list[str] = []

    async def receive() -> None:
        async for line in pyloop.lines(right):
            got.append(line)

    with left, right:
        SHIM.faults_reset(size)
        interrupt(right, RECEIVING, places)
        shorten(right, RECEIVING, size, every=every)
        left.sendall("".join(f"{line}\n" for line in lines).encode())
        left.shutdown(socket.SHUT_WR)
        pyloop.run(receive(), backend=backend)
        SHIM.faults_reset(1)
    assert got == lines


# --- transports --------------------------------------------------------------------------------


class Recorder(asyncio.Protocol):
    """Keeps what it gets; `lost` is done when the connection is."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.ended = False
        self.lost: asyncio.Future[BaseException | None] = loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


def recorders() -> tuple[list[Recorder], Callable[[], Recorder]]:
    """A protocol factory, and the list of what it has made."""
    made_protocols: list[Recorder] = []

    def make() -> Recorder:
        made_protocols.append(Recorder())
        return made_protocols[-1]

    return made_protocols, make


class BufferedRecorder(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.got = bytearray()
        self.lost: asyncio.Future[BaseException | None] = loop().create_future()
        self._buffer = bytearray(1000)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, n: int) -> None:
        self.got += self._buffer[:n]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


def run_asyncio(main: Any, backend: str) -> None:
    with asyncio.Runner(loop_factory=lambda: pyloop.EventLoop(backend=backend)) as runner:
        runner.run(main)


def ignore_reports() -> None:
    """For tests that do not ask what the loop says of an unusual error."""
    loop().set_exception_handler(lambda running, context: None)


async def connection(sock: socket.socket, protocol: type[Any]) -> Any:
    _, made_protocol = await loop().create_connection(protocol, sock=sock)
    return made_protocol


PROTOCOLS = [Recorder, BufferedRecorder]


@pytest.mark.parametrize("error", FATAL, ids=NAMES.get)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_transport_that_cannot_read_is_lost(
    backend: str, protocol: type[Any], error: int
) -> None:
    left, right = socketpair()

    async def main() -> None:
        ignore_reports()
        client = await connection(right, protocol)
        add(RECEIVING, right, first=1, error=error)
        left.send(b"one")
        while client.got != b"one":
            await asyncio.sleep(0)
        left.send(b"two")
        exc = await client.lost
        assert isinstance(exc, OSError)
        assert exc.errno == error
        assert client.got == b"one"
        assert hits(RECEIVING) == 1

    with left, right:
        run_asyncio(main(), backend)


@pytest.mark.parametrize("error", FATAL, ids=NAMES.get)
@pytest.mark.parametrize("first", [0, 1])
def test_a_transport_that_cannot_write_is_lost(backend: str, error: int, first: int) -> None:
    left, right = socketpair()

    async def main() -> None:
        ignore_reports()
        client = await connection(left, Recorder)
        add(SENDING, left, first=first, error=error)
        client.transport.write(payload(500_000))
        client.transport.write(b"more")
        while not client.lost.done():
            await asyncio.sleep(0)
            drain_socket(right)
        exc = client.lost.result()
        assert isinstance(exc, OSError)
        assert exc.errno == error
        assert hits(SENDING) == 1
        assert client.transport.get_write_buffer_size() == 0

    with left, right:
        run_asyncio(main(), backend)


REFUSALS = [errno.ENOMEM, errno.ENOSPC]


@pytest.mark.parametrize("error", REFUSALS, ids=NAMES.get)
@pytest.mark.parametrize("count", [1, ALWAYS])
@pytest.mark.parametrize("side", ["read", "write"])
def test_a_transport_that_the_poller_refuses(side: str, count: int, error: int) -> None:
    """It is asked once more, and then the connection is lost: it does not wait for ever."""
    left, right = socketpair()

    async def main() -> None:
        if side == "read":
            add(("epoll_ctl",), left, count=count, error=error)
        client = await connection(left, Recorder)
        if side == "write":
            while not client.transport._polling[0]:
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            add(("epoll_ctl",), left, count=count, error=error)
            client.transport.write(payload(1_000_000))
        while hits(("epoll_ctl",)) == 0:
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        if count != 1:
            exc = await client.lost
            assert isinstance(exc, OSError)
            assert exc.errno == error
            return
        right.send(b"data")
        got = b""
        while client.got != b"data" or (side == "write" and len(got) < 1_000_000):
            await asyncio.sleep(0)
            got += drain_socket(right)
        assert got == (payload(1_000_000) if side == "write" else b"")
        client.transport.abort()
        await client.lost

    with left, right:
        run_asyncio(main(), "epoll")


@pytest.mark.parametrize("error", REFUSALS, ids=NAMES.get)
@pytest.mark.parametrize("count", [1, ALWAYS])
def test_a_server_that_the_poller_refuses(count: int, error: int) -> None:
    async def main() -> None:
        reports = Reports()
        made_protocols, make = recorders()
        with listener() as sock:
            add(("epoll_ctl",), sock, count=count, error=error)
            async with await loop().create_server(make, sock=sock):
                # Refused while nobody is there to be accepted.
                while hits(("epoll_ctl",)) == 0:
                    await asyncio.sleep(0)
                await asyncio.sleep(0.001)
                with socket.create_connection(sock.getsockname()):
                    while not made_protocols and not reports.contexts:
                        await asyncio.sleep(0.001)
                for served in made_protocols:
                    await served.lost
        assert len(made_protocols) == (count == 1)
        assert [exc.errno for exc in reports.exceptions] == [error] * (count != 1)

    run_asyncio(main(), "epoll")


def test_a_callback_that_the_poller_refuses_is_reported() -> None:
    left, right = socketpair()

    async def main() -> None:
        reports = Reports()
        called = asyncio.Event()
        add(("epoll_ctl",), left, error=errno.ENOSPC)
        loop().add_reader(left, called.set)
        await called.wait()
        assert [exc.errno for exc in reports.exceptions] == [errno.ENOSPC]
        assert not loop().remove_reader(left)

    with left, right:
        run_asyncio(main(), "epoll")


def pass_through_transports(
    backend: str,
    pieces: list[int],
    protocol: type[Any],
    together: bool,
    **cuts: Any,
) -> None:
    left, right = socketpair()
    data = [payload(n) for n in pieces]
    n_bytes = sum(pieces)

    async def main() -> None:
        sender = await connection(left, Recorder)
        receiver = await connection(right, protocol)
        if together:
            sender.transport.writelines(data)
        else:
            for n, piece in enumerate(data):
                sender.transport.write(piece if n % 2 else bytearray(piece))
                if n % 3 == 0:
                    await asyncio.sleep(0)
        sender.transport.write_eof()
        assert await receiver.lost is None
        assert receiver.got == b"".join(data)
        sender.transport.abort()
        await sender.lost

    with left, right, cutting(left, right, n_bytes, **cuts):
        run_asyncio(main(), backend)
        assert made(SENDING) + made(RECEIVING) + made(WAITING) < 12 * n_bytes + 400


WAYS = {**CUTS, "protocol": st.sampled_from(PROTOCOLS), "together": st.booleans()}


@settings(max_examples=40)
@given(pieces=st.lists(st.integers(0, 300), max_size=12), **WAYS)
@example(
    pieces=[100_000, 1, 200_000],
    sizes=(65535, 1025),
    every=True,
    places=[],
    protocol=Recorder,
    together=True,
)
def test_transports_lose_no_byte(backend: str, **how: Any) -> None:
    pass_through_transports(backend, **how)


@pytest.mark.stress
@settings(max_examples=1000)
@given(pieces=st.lists(st.integers(0, 1000), max_size=30), **WAYS)
def test_transports_lose_no_byte_at_length(backend: str, **how: Any) -> None:
    pass_through_transports(backend, **how)


# --- servers and datagram transports -----------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        *(errno.EAGAIN, errno.ECONNABORTED, errno.EINTR, errno.EMFILE),
        # It takes a second until the server goes on.
        *(pytest.param(error, marks=pytest.mark.stress) for error in SHORTAGES[1:]),
    ],
    ids=NAMES.get,
)
def test_a_server_that_cannot_accept_goes_on(backend: str, error: int) -> None:
    """Where descriptors are short it pauses, as asyncio does, for a second; nothing is lost."""

    async def main() -> None:
        reports = Reports()
        made_protocols, make = recorders()
        with listener() as sock:
            # In its queue before the first accept.
            clients = [socket.create_connection(sock.getsockname()) for _ in range(3)]
            add(ACCEPTING, sock, error=error)
            server = await loop().create_server(make, sock=sock)
            async with server:
                for n, client in enumerate(clients):
                    client.sendall(b"%d" % n)
                    client.close()
                while len(made_protocols) < 3:
                    await asyncio.sleep(0.001)
                for served in made_protocols:
                    await served.lost
            assert sorted(bytes(served.got) for served in made_protocols) == [b"0", b"1", b"2"]
            assert hits(ACCEPTING) == 1
            assert made(ACCEPTING) < 30
            assert len(reports.contexts) == (error in SHORTAGES)

    run_asyncio(main(), backend)


class Mailbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost: asyncio.Future[BaseException | None] = loop().create_future()

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.got.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.parametrize(
    "error", [errno.EINTR, errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED], ids=NAMES.get
)
def test_datagram_transports_go_on(backend: str, error: int) -> None:
    async def main() -> None:
        running = loop()
        here: Any = ("127.0.0.1", 0)
        receiver, inbox = await running.create_datagram_endpoint(Mailbox, local_addr=here)
        sender, outbox = await running.create_datagram_endpoint(Mailbox, local_addr=here)
        address = receiver.get_extra_info("sockname")
        retried = error in (errno.EINTR, errno.EAGAIN)

        add(SENDING, sender.get_extra_info("socket"), error=error)
        sender.sendto(b"first", address)
        sender.sendto(b"second", address)
        if retried:
            assert await inbox.got.get() == b"first"
        else:
            assert (await outbox.errors.get()).errno == error  # type: ignore[attr-defined]
        assert await inbox.got.get() == b"second"
        assert hits(SENDING) == 1

        add(RECEIVING, receiver.get_extra_info("socket"), error=error)
        sender.sendto(b"third", address)
        if not retried:
            assert (await inbox.errors.get()).errno == error  # type: ignore[attr-defined]
        assert await inbox.got.get() == b"third"
        assert hits(RECEIVING) == 1
        assert made(RECEIVING) + made(SENDING) < 100

        for transport, protocol in ((receiver, inbox), (sender, outbox)):
            transport.close()
            assert await protocol.lost is None

    run_asyncio(main(), backend)


# --- signal handlers -----------------------------------------------------------------------------

INTERRUPTED: dict[str, Callable[[socket.socket], Any]] = {
    "recv": lambda sock: pyloop.recv(sock),
    "recv_into": lambda sock: pyloop.recv_into(sock, bytearray(10)),
    "recvfrom": lambda sock: pyloop.recvfrom(sock, 10),
    "send": lambda sock: pyloop.send(sock, bytearray(10)),
    "sendall": lambda sock: pyloop.sendall(sock, bytearray(10)),
    "sendto": lambda sock: pyloop.sendto(sock, bytearray(10), "/nowhere"),
    "accept": lambda sock: pyloop.accept(sock),
}


@pytest.mark.parametrize("what", ["operation", "socket"])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_signal_handler_that_ends_what_it_interrupts(name: str, what: str) -> None:
    """The call is interrupted until the handler has run."""
    left, right = socketpair()

    async def root() -> None:
        operation = INTERRUPTED[name](left)

        def handler(signum: int, frame: object) -> None:
            if what == "operation":
                operation.close()
            else:
                loop().close_socket(left)

        signal.signal(signal.SIGVTALRM, handler)
        add(RECEIVING + SENDING + ACCEPTING, left, count=ALWAYS, error=errno.EINTR)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
        with pytest.raises(RuntimeError if what == "operation" else OSError):
            await operation

    with left, right:
        try:
            pyloop.run(root())
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
