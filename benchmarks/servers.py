"""The echo servers, one small function each: ``servers NAME`` prints ``PORT n``.

Each is written as a user of that library would write it, none does more or less than another: one
coroutine or protocol per connection, TCP_NODELAY, reads of at most BUFSIZE bytes, everything sent
before the next read where the interface waits for that.  They run until they are killed.
"""

import asyncio
import contextlib
import importlib
import socket
import ssl
import sys
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

from benchmarks.workloads import run_asyncio

BUFSIZE = 65536
BACKLOG = 4096
CERTIFICATE = Path(__file__).parent / "limit" / "build" / "cert.pem"


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def announce(listener: Any) -> None:
    print("PORT", listener.getsockname()[1], flush=True)


def set_nodelay(conn: Any) -> None:
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def coroutine_server(library: Any) -> None:
    """pyloop, and the textbook: coroutines that await the library's own recv and sendall."""
    accept, spawn, recv, sendall = library.accept, library.spawn, library.recv, library.sendall

    async def echo(conn: socket.socket) -> None:
        with conn, contextlib.suppress(ConnectionError):
            while data := await recv(conn, BUFSIZE):
                await sendall(conn, data)

    async def serve() -> None:
        with listen() as listener:
            announce(listener)
            while True:
                conn, _ = await accept(listener)
                set_nodelay(conn)
                await spawn(echo(conn))

    library.run(serve())


def trap_server(library: Any) -> None:
    """pyloop with functions of the user's own, as the assignment writes them."""
    event = library.Event

    @types.coroutine
    def accept(sock: socket.socket) -> Generator[Any, Any, socket.socket]:
        yield (event.Accept, sock)
        conn, _ = sock.accept()
        conn.setblocking(False)
        return conn

    @types.coroutine
    def recv(sock: socket.socket, bufsize: int) -> Generator[Any, Any, bytes]:
        yield (event.Recv, sock)
        return sock.recv(bufsize)

    @types.coroutine
    def send(sock: socket.socket, data: bytes) -> Generator[Any, Any, int]:
        yield (event.Send, sock)
        return sock.send(data)

    @types.coroutine
    def spawn(coro: Any) -> Generator[Any, Any, None]:
        yield (event.Spawn, coro)

    async def sendall(sock: socket.socket, data: bytes) -> None:
        while data:
            sent = await send(sock, data)
            data = data[sent:]

    async def echo(conn: socket.socket) -> None:
        with conn, contextlib.suppress(ConnectionError):
            while data := await recv(conn, BUFSIZE):
                await sendall(conn, data)

    async def serve() -> None:
        with listen() as listener:
            announce(listener)
            while True:
                conn = await accept(listener)
                set_nodelay(conn)
                await spawn(echo(conn))

    library.run(serve())


async def sock_server() -> None:
    """asyncio's loop.sock_*."""
    loop = asyncio.get_running_loop()
    tasks = set()

    async def echo(conn: socket.socket) -> None:
        with conn, contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(conn, BUFSIZE):
                await loop.sock_sendall(conn, data)

    with listen() as listener:
        announce(listener)
        while True:
            conn, _ = await loop.sock_accept(listener)
            set_nodelay(conn)
            task = loop.create_task(echo(conn))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


# asyncio and its replacements set TCP_NODELAY on the connections of their transports themselves,
# and not all of their transports are instances of asyncio.Transport.


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoBufferedProtocol(asyncio.BufferedProtocol):
    # One buffer serves all connections: a loop reads into it and calls back before it reads again.
    # What is written is copied out of it, because a transport may keep what it could not send.
    buffer = memoryview(bytearray(BUFSIZE))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


async def serve_on(server: asyncio.Server) -> None:
    """Wait for ever beside a server that serves already; serve_forever() breaks rloop's."""
    announce(server.sockets[0])
    await asyncio.get_running_loop().create_future()


async def protocol_server(factory: Callable[[], asyncio.BaseProtocol]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
    await serve_on(server)


async def tls_server() -> None:
    """EchoProtocol over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.get_running_loop().create_server(
        EchoProtocol, "127.0.0.1", 0, backlog=BACKLOG, ssl=context
    )
    await serve_on(server)


class EchoDatagramProtocol(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def udp_server() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        EchoDatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    announce(transport.get_extra_info("socket"))
    await loop.create_future()


async def sock_udp_server() -> None:
    """asyncio's loop.sock_recvfrom and sock_sendto."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        announce(sock)
        while True:
            data, addr = await loop.sock_recvfrom(sock, BUFSIZE)
            await loop.sock_sendto(sock, data, addr)


def coroutine_udp_server(library: Any) -> None:
    recvfrom, sendto = library.recvfrom, library.sendto

    async def serve() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            announce(sock)
            while True:
                data, addr = await recvfrom(sock, BUFSIZE)
                await sendto(sock, data, addr)

    library.run(serve())


def trio_udp_server() -> None:
    trio = importlib.import_module("trio")

    async def serve() -> None:
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 0))
            announce(sock)
            while True:
                data, addr = await sock.recvfrom(BUFSIZE)
                await sock.sendto(data, addr)

    trio.run(serve)


async def stream_server() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(BUFSIZE):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=BACKLOG)
    await serve_on(server)


def trio_server() -> None:
    trio = importlib.import_module("trio")

    async def echo(conn: Any) -> None:
        with conn, contextlib.suppress(ConnectionError):
            while data := await conn.recv(BUFSIZE):
                while data:
                    sent = await conn.send(data)
                    data = data[sent:]

    async def serve() -> None:
        with trio.socket.from_stdlib_socket(listen()) as listener:
            announce(listener)
            async with trio.open_nursery() as nursery:
                while True:
                    conn, _ = await listener.accept()
                    set_nodelay(conn)
                    nursery.start_soon(echo, conn)

    trio.run(serve)


def curio_server() -> None:
    curio = importlib.import_module("curio")
    curio_io = importlib.import_module("curio.io")

    async def echo(conn: Any) -> None:
        async with conn:
            with contextlib.suppress(ConnectionError):
                while data := await conn.recv(BUFSIZE):
                    await conn.sendall(data)

    async def serve() -> None:
        async with curio_io.Socket(listen()) as listener:
            announce(listener)
            while True:
                conn, _ = await listener.accept()
                set_nodelay(conn)
                await curio.spawn(echo, conn, daemon=True)

    curio.run(serve)


def gevent_server() -> None:
    gevent = importlib.import_module("gevent")
    gevent_socket = importlib.import_module("gevent.socket")

    def echo(conn: Any) -> None:
        with conn, contextlib.suppress(ConnectionError):
            while data := conn.recv(BUFSIZE):
                conn.sendall(data)

    with listen() as plain:
        listener = gevent_socket.socket(fileno=plain.detach())
    announce(listener)
    while True:
        conn, _ = listener.accept()
        set_nodelay(conn)
        gevent.spawn(echo, conn)


FACES: dict[str, Callable[[], Any]] = {
    "sock": sock_server,
    "protocol": lambda: protocol_server(EchoProtocol),
    "buffered": lambda: protocol_server(EchoBufferedProtocol),
    "streams": stream_server,
    "tls": tls_server,
    "udp": udp_server,
    "sock udp": sock_udp_server,
}
OTHERS = {
    "trio": trio_server,
    "trio udp": trio_udp_server,
    "curio": curio_server,
    "gevent": gevent_server,
}


def settle_malloc() -> None:
    """Free one large block, as every program of some size has done at its start.

    glibc maps blocks above a threshold, at first 128 KiB, and raises it to the size of the largest
    one that was freed.  asyncio and rloop read into fresh blocks of 256 KiB; in a process that has
    freed nothing larger each of their reads costs mmap, mremap and munmap, three times what
    the echo costs, which would say nothing about them.
    """
    bytes(1 << 20)


def main(name: str) -> None:
    settle_malloc()
    library, _, face = name.partition(" ")
    if face == "coroutine":
        coroutine_server(importlib.import_module(library))
    elif face == "coroutine udp":
        coroutine_udp_server(importlib.import_module(library))
    elif face == "trap":
        trap_server(importlib.import_module(library))
    elif library == "textbook":
        coroutine_server(importlib.import_module("benchmarks.textbook"))
    elif name in OTHERS:
        OTHERS[name]()
    else:
        run_asyncio(library, FACES[face]())


if __name__ == "__main__":
    main(sys.argv[1])
