"""The servers that the load tests start: `python load_servers.py KIND`.

An `echo_` server sends back what it gets. A `flood_` server reads a number of 8 bytes, answers with
as many bytes of PATTERN as that says, and closes. After `listening on HOST:PORT`, a server serves
until SIGTERM; then it ends all connections and prints one line of JSON: how many connections it
has seen begin and end, how many there were at most, and which rules of the protocol interface were
broken.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import Any

import pyloop

PATTERN = bytes(range(251)) * 4
PIECE = 64 * len(PATTERN)  # how much a flood sends at once


class Counts:
    """What becomes of the connections of this process."""

    def __init__(self) -> None:
        self.opened = self.closed = self.most = 0
        self.broken_rules: list[str] = []

    def begin(self) -> None:
        self.opened += 1
        self.most = max(self.most, self.opened - self.closed)

    def end(self) -> None:
        self.closed += 1

    @contextmanager
    def connection(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.end()

    def report(self) -> str:
        return json.dumps(vars(self))


counts = Counts()

BACKLOG = 4096


def announce(listener: socket.socket) -> None:
    """Say where we listen: now the loop runs, and has all the descriptors that it needs."""
    print("listening on {}:{}".format(*listener.getsockname()), flush=True)


def pieces(size: int) -> Iterator[bytes]:
    """`size` bytes of PATTERN."""
    whole = PATTERN * (PIECE // len(PATTERN))
    for start in range(0, size, PIECE):
        yield whole[: size - start]


# ------------------------------------------------- coroutines on sockets


async def echo(conn: socket.socket) -> None:
    with counts.connection(), conn, suppress(OSError):
        while data := await pyloop.recv(conn, 65536):
            await pyloop.sendall(conn, data)


async def flood(conn: socket.socket) -> None:
    with counts.connection(), conn, suppress(OSError):
        wanted = b""
        while len(wanted) < 8:
            data = await pyloop.recv(conn, 8 - len(wanted))
            if not data:
                return
            wanted += data
        for piece in pieces(int(wanted)):
            await pyloop.sendall(conn, piece)


async def accept_for(
    serve: Callable[[socket.socket], Coroutine[Any, Any, None]], listener: socket.socket
) -> None:
    end_on_sigterm()
    announce(listener)
    while True:
        conn, _ = await pyloop.accept(listener)
        await pyloop.spawn(serve(conn))


def end_on_sigterm() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def run_coroutines(
    serve: Callable[[socket.socket], Coroutine[Any, Any, None]],
) -> Callable[[socket.socket], None]:
    def run(listener: socket.socket) -> None:
        with suppress(asyncio.CancelledError):
            pyloop.run(accept_for(serve, listener))

    return run


# ------------------------------------------------------------ generators

Steps = Generator[Any, Any, None]


def generator_echo(conn: socket.socket) -> Steps:
    with counts.connection(), conn, suppress(OSError):
        while True:
            yield "read", conn
            data = conn.recv(65536)
            if not data:
                return
            while data:
                yield "write", conn
                data = data[conn.send(data) :]


def generator_server(listener: socket.socket) -> Steps:
    loop = asyncio.get_running_loop()
    announce(listener)
    while True:
        yield "read", listener
        with suppress(BlockingIOError):
            conn, _ = listener.accept()
            conn.setblocking(False)
            loop.create_task(generator_echo(conn))


def run_generators(listener: socket.socket) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    with closing(pyloop.EventLoop(main=generator_server(listener))) as loop:
        with suppress(KeyboardInterrupt):
            loop.run()


# ------------------------------------------------------------- protocols


class Rules:
    """The order in which a loop may call a protocol; what is out of order is written down."""

    def __init__(self) -> None:
        self.state = "new"
        self.paused = False

    def expect(self, call: str, *states: str) -> None:
        if self.state not in states:
            counts.broken_rules.append(f"{call} after {self.state}")


class EchoProtocol(asyncio.Protocol):
    """Reads no more while what it has written is not taken."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.rules.expect("connection_made", "new")
        self.rules.state = "made"
        self.transport = transport
        transports.add(transport)
        counts.begin()

    def data_received(self, data: bytes) -> None:
        self.rules.expect("data_received", "made")
        if not data:
            counts.broken_rules.append("data_received without data")
        self.received(data)

    def received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.rules.expect("pause_writing", "made", "eof")
        if self.rules.paused:
            counts.broken_rules.append("pause_writing twice")
        self.rules.paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.rules.paused:
            counts.broken_rules.append("resume_writing without a pause")
        self.rules.paused = False
        self.resumed()

    def resumed(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> None:
        self.rules.expect("eof_received", "made")
        self.rules.state = "eof"

    def connection_lost(self, exc: Exception | None) -> None:
        self.rules.expect("connection_lost", "made", "eof")
        self.rules.state = "lost"
        transports.discard(self.transport)
        counts.end()


class FloodProtocol(EchoProtocol):
    """Writes until it is told to pause."""

    wanted = b""
    left: Iterator[bytes] | None = None

    def received(self, data: bytes) -> None:
        self.wanted += data
        if len(self.wanted) == 8:
            self.left = pieces(int(self.wanted))
            self.resumed()

    def resumed(self) -> None:
        if self.left is None or self.transport.is_closing():
            return
        for piece in self.left:
            self.transport.write(piece)
            if self.rules.paused:
                return
        self.transport.close()


transports: set[asyncio.BaseTransport] = set()


async def serve_protocol(make: Callable[[], EchoProtocol], listener: socket.socket) -> None:
    end_on_sigterm()
    server = await asyncio.get_running_loop().create_server(make, sock=listener, backlog=BACKLOG)
    announce(listener)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        for transport in list(transports):
            assert isinstance(transport, asyncio.WriteTransport)
            transport.abort()
        while counts.closed < counts.opened:
            await asyncio.sleep(0)


def run_protocols(make: Callable[[], EchoProtocol]) -> Callable[[socket.socket], None]:
    def run(listener: socket.socket) -> None:
        run_on_asyncio(serve_protocol(make, listener))

    return run


# --------------------------------------------------------------- streams


@asynccontextmanager
async def served(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """A counted connection, which ends with the block; that the client has left is no error."""
    with counts.connection():
        try:
            yield
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


async def stream_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with served(writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def stream_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with served(writer):
        for piece in pieces(int(await reader.readexactly(8))):
            writer.write(piece)
            await writer.drain()


async def serve_streams(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    listener: socket.socket,
) -> None:
    end_on_sigterm()
    tasks: set[asyncio.Task[None]] = set()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: streams of some versions of Python report it as an error when theirs is
        # cancelled before it begins.
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(welcome, sock=listener, backlog=BACKLOG)
    announce(listener)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


def run_streams(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> Callable[[socket.socket], None]:
    def run(listener: socket.socket) -> None:
        run_on_asyncio(serve_streams(serve, listener))

    return run


def run_on_asyncio(main: Coroutine[Any, Any, None]) -> None:
    with suppress(asyncio.CancelledError):
        with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
            runner.run(main)


KINDS: dict[str, Callable[[socket.socket], None]] = {
    "echo_coroutine": run_coroutines(echo),
    "echo_generator": run_generators,
    "echo_protocol": run_protocols(EchoProtocol),
    "echo_streams": run_streams(stream_echo),
    "flood_coroutine": run_coroutines(flood),
    "flood_protocol": run_protocols(FloodProtocol),
    "flood_streams": run_streams(stream_flood),
}


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        KINDS[sys.argv[1]](listener)
    print(counts.report(), flush=True)


if __name__ == "__main__":
    main()
