"""The same misuse on asyncio's loop and on ours: exceptions, log records and warnings are equal.

Not in the tables: what a wrong number or type of arguments is answered with (our texts name the
function and the value), and calls that would block asyncio's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import logging
import re
import selectors
import signal
import socket
import ssl
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import small_heap

import pyloop

# asyncio makes reference cycles and sockets that nobody closes where it raises; what is compared
# are the warnings that a loop gives.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    with small_heap():
        yield


Factory = Callable[[], asyncio.AbstractEventLoop]
FACTORIES: tuple[Factory, Factory] = (
    lambda: asyncio.SelectorEventLoop(selectors.EpollSelector()),
    lambda: pyloop.EventLoop(backend="epoll"),
)


class Things(contextlib.ExitStack):
    """What the cases need; closed at the end."""

    def tcp(self, *, blocking: bool = False) -> socket.socket:
        sock = self.enter_context(socket.socket())
        sock.setblocking(blocking)
        return sock

    def closed(self) -> socket.socket:
        sock = self.tcp()
        sock.close()
        return sock

    def udp(self) -> socket.socket:
        sock = self.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.setblocking(False)
        return sock

    def unix(self) -> socket.socket:
        return self.enter_context(socket.socket(socket.AF_UNIX))

    def listener(self) -> socket.socket:
        return self.enter_context(socket.create_server(("127.0.0.1", 0)))

    def refusing_port(self) -> int:
        """A port that is bound, and that nobody listens on."""
        sock = self.tcp()
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

    def connected(self) -> socket.socket:
        left, right = socket.socketpair()
        self.enter_context(right)
        left.setblocking(False)
        return self.enter_context(left)

    def file(self, mode: str = "rb") -> Any:
        return self.enter_context(open(__file__, mode))


async def coroutine() -> None:
    pass


async def agen() -> Any:
    yield 1


def closing(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def on_closed(loop: Any) -> Any:
        loop.close()
        return call(loop)

    return on_closed


def released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


def debugging(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def in_debug(loop: Any) -> Any:
        loop.set_debug(True)
        return call(loop)

    return in_debug


# On a loop that does not run.
CALLS: dict[str, Callable[[Any], Any]] = {
    "run_forever, closed": closing(lambda loop: loop.run_forever()),
    "run_until_complete, closed": closing(lambda loop: loop.run_until_complete(coroutine())),
    "call_soon, closed": closing(lambda loop: loop.call_soon(print)),
    "call_soon_threadsafe, closed": closing(lambda loop: loop.call_soon_threadsafe(print)),
    "call_later, closed": closing(lambda loop: loop.call_later(1, print)),
    "call_at, closed": closing(lambda loop: loop.call_at(1, print)),
    "create_task, closed": closing(lambda loop: loop.create_task(coroutine())),
    "create_future, closed": closing(lambda loop: loop.create_future().done()),
    "run_in_executor, closed": closing(lambda loop: loop.run_in_executor(None, print)),
    "add_reader, closed": closing(lambda loop: loop.add_reader(0, print)),
    "add_writer, closed": closing(lambda loop: loop.add_writer(0, print)),
    "remove_reader, closed": closing(lambda loop: loop.remove_reader(0)),
    "remove_writer, closed": closing(lambda loop: loop.remove_writer(0)),
    "add_signal_handler, closed": closing(lambda loop: loop.add_signal_handler(10, print)),
    "remove_signal_handler, closed": closing(lambda loop: loop.remove_signal_handler(10)),
    "stop, closed": closing(lambda loop: loop.stop()),
    "close, closed": closing(lambda loop: loop.close()),
    "repr, closed": closing(repr),
    "repr": repr,
    "state": lambda loop: (loop.is_running(), loop.is_closed(), loop.get_debug()),
    "run_until_complete: a number": lambda loop: loop.run_until_complete(5),
    "run_until_complete: an async generator": lambda loop: loop.run_until_complete(agen()),
    "run_until_complete: stopped": lambda loop: (
        loop.call_soon(loop.stop),
        loop.run_until_complete(loop.create_future()),
    ),
    "set_task_factory": lambda loop: loop.set_task_factory(5),
    "set_exception_handler": lambda loop: loop.set_exception_handler(5),
    "set_default_executor": lambda loop: loop.set_default_executor(5),
    "call_later: None": lambda loop: loop.call_later(None, print),
    "call_at: None": lambda loop: loop.call_at(None, print),
    "create_task: a number": lambda loop: loop.create_task(5),
    "create_task: a function": lambda loop: loop.create_task(coroutine),
    "create_task: an async generator": lambda loop: loop.create_task(agen()),
    "create_task: a future": lambda loop: loop.create_task(loop.create_future()),
    "create_task: nothing": lambda loop: loop.create_task(),
    "create_task: name by position": lambda loop: loop.create_task(coroutine(), "name"),
    "create_task: loop": lambda loop: loop.create_task(coroutine(), loop=loop),
    "create_task: another loop": lambda loop: loop.create_task(
        coroutine(), name="x", loop=asyncio.AbstractEventLoop()
    ),
    "add_signal_handler: coroutine function": lambda loop: loop.add_signal_handler(10, coroutine),
    "add_signal_handler: SIGKILL": lambda loop: loop.add_signal_handler(signal.SIGKILL, print),
    "add_signal_handler: 0": lambda loop: loop.add_signal_handler(0, print),
    "add_signal_handler: 1000": lambda loop: loop.add_signal_handler(1000, print),
    "add_signal_handler: text": lambda loop: loop.add_signal_handler("x", print),
    "remove_signal_handler: text": lambda loop: loop.remove_signal_handler("x"),
    "remove_signal_handler: 1000": lambda loop: loop.remove_signal_handler(1000),
    "remove_signal_handler: none": lambda loop: loop.remove_signal_handler(10),
    "debug, call_soon: coroutine function": debugging(lambda loop: loop.call_soon(coroutine)),
    "debug, call_soon: coroutine": debugging(lambda loop: loop.call_soon(coroutine())),
    "debug, call_later: coroutine": debugging(lambda loop: loop.call_later(1, coroutine)),
    "debug, call_at: coroutine": debugging(lambda loop: loop.call_at(1, coroutine)),
    "debug, threadsafe": debugging(lambda loop: loop.call_soon_threadsafe(coroutine)),
    "debug, call_soon: a number": debugging(lambda loop: loop.call_soon(5)),
    "debug, call_at: a number": debugging(lambda loop: loop.call_at(1, 5)),
    "debug, run_in_executor": debugging(lambda loop: loop.run_in_executor(None, coroutine)),
}


def start_tls(loop: Any, transport: Any, **options: float) -> Any:
    return loop.start_tls(transport, asyncio.Protocol(), ssl.create_default_context(), **options)


# Inside of a running loop.
AWAITS: dict[str, Callable[[Any, Things], Any]] = {
    "run_forever": lambda loop, _: loop.run_forever(),
    "run_until_complete": lambda loop, _: loop.run_until_complete(coroutine()),
    "another loop": lambda loop, things: things.enter_context(
        contextlib.closing(asyncio.SelectorEventLoop())
    ).run_forever(),
    "asyncio.run": lambda loop, _: asyncio.run(coroutine()),
    "close": lambda loop, _: loop.close(),
    "sock_recv: not connected": lambda loop, t: loop.sock_recv(t.tcp(), 5),
    "sock_recv_into: not connected": lambda loop, t: loop.sock_recv_into(t.tcp(), bytearray(5)),
    "sock_recv_into: bytes": lambda loop, t: loop.sock_recv_into(t.connected(), b"xx"),
    "sock_recvfrom: not connected": lambda loop, t: loop.sock_recvfrom(t.tcp(), 5),
    "sock_recvfrom_into": lambda loop, t: loop.sock_recvfrom_into(t.tcp(), bytearray(5)),
    "sock_sendall: not connected": lambda loop, t: loop.sock_sendall(t.tcp(), b"x"),
    "sock_sendall: text": lambda loop, t: loop.sock_sendall(t.connected(), "x"),
    "sock_sendto: not connected": lambda loop, t: loop.sock_sendto(t.tcp(), b"x", ("::1", 1)),
    "sock_accept: not listening": lambda loop, t: loop.sock_accept(t.tcp()),
    "sock_connect: refused": lambda loop, t: loop.sock_connect(
        t.tcp(), ("127.0.0.1", t.refusing_port())
    ),
    "sock_connect: refused by name": lambda loop, t: loop.sock_connect(
        t.tcp(), ("localhost", t.refusing_port())
    ),
    "sock_connect: connected": lambda loop, t: loop.sock_connect(t.connected(), "/tmp"),
    "sock_connect: no file": lambda loop, t: loop.sock_connect(t.connected(), "/nonexistent/file"),
    "sock_recv: closed": lambda loop, t: loop.sock_recv(t.closed(), 5),
    "sock_recv_into: closed": lambda loop, t: loop.sock_recv_into(t.closed(), bytearray(5)),
    "sock_sendall: closed": lambda loop, t: loop.sock_sendall(t.closed(), b"x"),
    "sock_connect: closed": lambda loop, t: loop.sock_connect(t.closed(), ("127.0.0.1", 1)),
    "sock_accept: closed": lambda loop, t: loop.sock_accept(t.closed()),
    "sock_sendfile: text file": lambda loop, t: loop.sock_sendfile(t.tcp(), t.file("r")),
    "sock_sendfile: offset": lambda loop, t: loop.sock_sendfile(t.tcp(), t.file(), -1),
    "sock_sendfile: count": lambda loop, t: loop.sock_sendfile(t.tcp(), t.file(), 0, -1),
    "sock_sendfile: datagrams": lambda loop, t: loop.sock_sendfile(t.udp(), t.file()),
    "sock_sendfile: closed": lambda loop, t: loop.sock_sendfile(t.closed(), t.file()),
    "debug, sock_recv: blocking": lambda loop, t: (
        loop.set_debug(True),
        loop.sock_recv(t.tcp(blocking=True), 5),
    )[1],
    "debug, sock_accept: blocking": lambda loop, t: (
        loop.set_debug(True),
        loop.sock_accept(t.listener()),
    )[1],
    "create_connection: nothing": lambda loop, t: loop.create_connection(asyncio.Protocol),
    "create_connection: both": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", 1, sock=t.tcp()
    ),
    "create_connection: refused": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", t.refusing_port()
    ),
    "create_connection: refused twice": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "localhost", t.refusing_port()
    ),
    "create_connection: happy eyeballs": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", t.refusing_port(), happy_eyeballs_delay=0.1
    ),
    "create_connection: server_hostname": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", 1, server_hostname="x"
    ),
    "create_connection: handshake": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", 1, ssl_handshake_timeout=1
    ),
    "create_connection: shutdown": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", 1, ssl_shutdown_timeout=1
    ),
    "create_connection: TLS without a name": lambda loop, t: loop.create_connection(
        asyncio.Protocol, ssl=True, sock=t.tcp()
    ),
    "create_connection: datagrams": lambda loop, t: loop.create_connection(
        asyncio.Protocol, sock=t.udp()
    ),
    "create_connection: local address": lambda loop, t: loop.create_connection(
        asyncio.Protocol, "127.0.0.1", 1, local_addr=("203.0.113.1", 0)
    ),
    "create_connection: factory": lambda loop, t: loop.create_connection(
        lambda: 1 / 0, sock=t.connected()
    ),
    "create_server: nothing": lambda loop, t: loop.create_server(asyncio.Protocol),
    "create_server: both": lambda loop, t: loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, sock=t.tcp()
    ),
    "create_server: ssl=True": lambda loop, t: loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl=True
    ),
    "create_server: handshake": lambda loop, t: loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl_handshake_timeout=1
    ),
    "create_server: shutdown": lambda loop, t: loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl_shutdown_timeout=1
    ),
    "create_server: datagrams": lambda loop, t: loop.create_server(asyncio.Protocol, sock=t.udp()),
    "create_server: not ours": lambda loop, t: loop.create_server(
        asyncio.Protocol, "203.0.113.1", 0
    ),
    "create_server: in use": lambda loop, t: loop.create_server(
        asyncio.Protocol, "127.0.0.1", t.listener().getsockname()[1]
    ),
    "create_unix_connection: nothing": lambda loop, t: loop.create_unix_connection(
        asyncio.Protocol
    ),
    "create_unix_connection: no file": lambda loop, t: loop.create_unix_connection(
        asyncio.Protocol, "/nonexistent/file"
    ),
    "create_unix_connection: TCP": lambda loop, t: loop.create_unix_connection(
        asyncio.Protocol, sock=t.tcp()
    ),
    "create_unix_connection: ssl": lambda loop, t: loop.create_unix_connection(
        asyncio.Protocol, "x", ssl=True
    ),
    "create_unix_server: nothing": lambda loop, t: loop.create_unix_server(asyncio.Protocol),
    "create_unix_server: TCP": lambda loop, t: loop.create_unix_server(
        asyncio.Protocol, sock=t.tcp()
    ),
    "create_unix_server: no folder": lambda loop, t: loop.create_unix_server(
        asyncio.Protocol, "/nonexistent/file"
    ),
    "create_unix_server: too long": lambda loop, t: loop.create_unix_server(
        asyncio.Protocol, "/tmp/" + "x" * 200
    ),
    "datagram: nothing": lambda loop, t: loop.create_datagram_endpoint(asyncio.DatagramProtocol),
    "datagram: text": lambda loop, t: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr="x"
    ),
    "datagram: a stream": lambda loop, t: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, sock=t.tcp()
    ),
    "datagram: both": lambda loop, t: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), sock=t.udp()
    ),
    "datagram: two families": lambda loop, t: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), remote_addr=("::1", 1)
    ),
    "connect_accepted_socket: datagrams": lambda loop, t: loop.connect_accepted_socket(
        asyncio.Protocol, t.udp()
    ),
    "connect_accepted_socket: handshake": lambda loop, t: loop.connect_accepted_socket(
        asyncio.Protocol, t.tcp(), ssl_handshake_timeout=1
    ),
    "start_tls: context": lambda loop, t: loop.start_tls(None, asyncio.Protocol(), 5),
    "start_tls: transport": lambda loop, t: start_tls(loop, None),
    "connect_read_pipe: file": lambda loop, t: loop.connect_read_pipe(asyncio.Protocol, t.file()),
    "connect_write_pipe: file": lambda loop, t: loop.connect_write_pipe(asyncio.Protocol, t.file()),
    "subprocess_shell": lambda loop, t: loop.subprocess_shell(asyncio.SubprocessProtocol, ["x"]),
    "subprocess_exec: text": lambda loop, t: loop.subprocess_exec(
        asyncio.SubprocessProtocol, "true", text=True
    ),
    "subprocess_exec: shell": lambda loop, t: loop.subprocess_exec(
        asyncio.SubprocessProtocol, "true", shell=True
    ),
    "getaddrinfo: no service": lambda loop, t: loop.getaddrinfo("127.0.0.1", "x!x"),
    "getnameinfo: a number": lambda loop, t: loop.getnameinfo(5),
    "debug, call_soon in a thread": lambda loop, t: (
        loop.set_debug(True),
        asyncio.to_thread(loop.call_soon, print),
    )[1],
    "debug, call_at in a thread": lambda loop, t: (
        loop.set_debug(True),
        asyncio.to_thread(loop.call_at, 1, print),
    )[1],
    "call_exception_handler": lambda loop, t: loop.call_exception_handler({"message": "m"}),
}

# On a connected transport.
ON_TRANSPORT: dict[str, Callable[[Any, Any, Things], Any]] = {
    "write: text": lambda loop, tr, t: tr.write("x"),
    "write: None": lambda loop, tr, t: tr.write(None),
    "writelines: a number": lambda loop, tr, t: tr.writelines(5),
    "write: released": lambda loop, tr, t: tr.write(released()),
    "write: released, closed": lambda loop, tr, t: (tr.abort(), tr.write(released())),
    "write: not contiguous": lambda loop, tr, t: tr.write(memoryview(b"abcd")[::2]),
    "write: no dimension": lambda loop, tr, t: tr.write(memoryview(b"a").cast("c", ())),
    "writelines: released": lambda loop, tr, t: tr.writelines([b"x", released()]),
    "writelines: texts": lambda loop, tr, t: tr.writelines(["x"]),
    "limits: low over high": lambda loop, tr, t: tr.set_write_buffer_limits(high=1, low=2),
    "limits: below 0": lambda loop, tr, t: tr.set_write_buffer_limits(high=-1),
    "limits: low below 0": lambda loop, tr, t: tr.set_write_buffer_limits(low=-1),
    "limits": lambda loop, tr, t: (tr.get_write_buffer_limits(), tr.get_write_buffer_size()),
    "pause twice": lambda loop, tr, t: (tr.pause_reading(), tr.pause_reading(), tr.is_reading()),
    "resume twice": lambda loop, tr, t: (tr.resume_reading(), tr.is_reading()),
    "pause, closed": lambda loop, tr, t: (tr.close(), tr.pause_reading(), tr.is_reading()),
    "resume, closed": lambda loop, tr, t: (tr.close(), tr.resume_reading(), tr.is_reading()),
    "write after write_eof": lambda loop, tr, t: (tr.write_eof(), tr.write(b"x")),
    "writelines after write_eof": lambda loop, tr, t: (tr.write_eof(), tr.writelines([b"x"])),
    "write_eof twice": lambda loop, tr, t: (tr.write_eof(), tr.write_eof()),
    "write_eof, closed": lambda loop, tr, t: (tr.close(), tr.write_eof()),
    "can_write_eof": lambda loop, tr, t: tr.can_write_eof(),
    "add_reader": lambda loop, tr, t: loop.add_reader(tr.get_extra_info("socket"), print),
    "add_writer": lambda loop, tr, t: loop.add_writer(tr._sock_fd, print),
    "remove_reader": lambda loop, tr, t: loop.remove_reader(tr._sock_fd),
    "remove_writer": lambda loop, tr, t: loop.remove_writer(tr._sock_fd),
    "sock_recv": lambda loop, tr, t: loop.sock_recv(tr._sock, 5),
    "sock_recv_into": lambda loop, tr, t: loop.sock_recv_into(tr._sock, bytearray(5)),
    "sock_connect": lambda loop, tr, t: loop.sock_connect(tr._sock, "/nonexistent/file"),
    "create_connection again": lambda loop, tr, t: loop.create_connection(
        asyncio.Protocol, sock=tr._sock
    ),
    "sendfile: text file": lambda loop, tr, t: loop.sendfile(tr, t.file("r")),
    "sendfile: offset": lambda loop, tr, t: loop.sendfile(tr, t.file(), -5),
    "sendfile, closed": lambda loop, tr, t: (tr.close(), loop.sendfile(tr, t.file()))[1],
    "start_tls: handshake": lambda loop, tr, t: start_tls(loop, tr, ssl_handshake_timeout=0),
    "start_tls: shutdown": lambda loop, tr, t: start_tls(loop, tr, ssl_shutdown_timeout=-1),
    "extra info": lambda loop, tr, t: (tr.get_extra_info("nope", 7), tr.get_extra_info("cipher")),
}

ON_SERVER: dict[str, Callable[[Any], Any]] = {
    "start_serving, closed": lambda server: (server.close(), server.start_serving())[1],
    "serve_forever, closed": lambda server: (server.close(), server.serve_forever())[1],
    "state": lambda server: (server.is_serving(), server.close(), server.is_serving()),
    "sockets, closed": lambda server: (server.close(), server.sockets),
}

ON_DATAGRAMS: dict[str, Callable[[Any], Any]] = {
    "text": lambda transport: transport.sendto("x", ("127.0.0.1", 9)),
    "None": lambda transport: transport.sendto(None, ("127.0.0.1", 9)),
    "sendto, closed": lambda transport: (
        transport.close(),
        transport.sendto(b"x", ("127.0.0.1", 9)),
    ),
    "closing": lambda transport: (transport.close(), transport.is_closing()),
}


async def report_from_callbacks(loop: Any) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise ValueError("in the callback")

    loop.call_soon(fails, 1, "two")
    loop.call_later(0, functools.partial(fails, key=1), 2)
    loop.call_soon(asyncio.Protocol().connection_lost)
    loop.call_soon(5)
    await asyncio.sleep(0.001)


async def report_by_hand(loop: Any) -> None:
    loop.call_exception_handler({})
    loop.call_exception_handler(
        {"message": "m", "exception": ValueError("x"), "extra": 5, "transport": 7}
    )
    loop.default_exception_handler({})


async def report_from_a_handler(loop: Any) -> None:
    def handler(loop: Any, context: Any) -> None:
        raise LookupError("in the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.001)


async def exceptions_never_retrieved(loop: Any) -> None:
    async def fails() -> None:
        raise ValueError("nobody asks")

    task = loop.create_task(fails(), name="fails")
    await asyncio.sleep(0.001)
    del task
    future = loop.create_future()
    future.set_exception(ValueError("nor here"))
    del future
    gc.collect()


async def pending_tasks_destroyed(loop: Any) -> None:
    async def waits() -> None:
        await loop.create_future()

    task = loop.create_task(waits(), name="waits")
    await asyncio.sleep(0)
    del task
    gc.collect()


async def callbacks_that_take_time(loop: Any) -> None:
    loop.set_debug(True)
    loop.slow_callback_duration = 0.001

    def long(number: int) -> None:
        time.sleep(0.002)

    def long_and_fails() -> None:
        time.sleep(0.002)
        raise ValueError

    async def step() -> None:
        time.sleep(0.002)

    loop.call_soon(long, 1)
    loop.call_soon(long_and_fails)
    await loop.create_task(step(), name="long")


async def report_in_debug_mode(loop: Any) -> None:
    loop.set_debug(True)
    loop.call_soon(loop.call_exception_handler, {"message": "from a callback"})
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    loop.call_exception_handler({"message": "from a step"})
    loop.set_debug(False)
    await asyncio.sleep(0)
    loop.call_exception_handler({"message": "later"})


async def unclosed_transports(loop: Any) -> None:
    with Things() as things:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=things.connected())
        await asyncio.sleep(0)
        del transport, _
        gc.collect()
        loop.call_soon(loop.stop)


async def async_generators_left(loop: Any) -> None:
    async def generator() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    left = generator()
    await left.__anext__()
    await loop.shutdown_asyncgens()
    late = generator()
    await late.__anext__()
    await late.aclose()


async def executor_after_shutdown(loop: Any) -> None:
    await loop.shutdown_default_executor()
    await loop.run_in_executor(None, print)


async def executors(loop: Any) -> None:
    with ThreadPoolExecutor(1) as executor:
        assert await loop.run_in_executor(executor, sum, [1, 2]) == 3
    await loop.run_in_executor(executor, print)


async def writes_after_the_loss(loop: Any) -> None:
    with Things() as things:
        sock = things.connected()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
        transport.abort()
        for _ in range(7):
            transport.write(b"x")
        await asyncio.sleep(0)


async def odd_origins(loop: Any) -> tuple[int, int]:
    loop.set_debug(True)
    await asyncio.sleep(0)
    depth = sys.get_coroutine_origin_tracking_depth()
    loop.set_debug(False)
    await asyncio.sleep(0)
    return depth, sys.get_coroutine_origin_tracking_depth()


PROGRAMS: list[Callable[[Any], Any]] = [
    report_from_callbacks,
    report_by_hand,
    report_in_debug_mode,
    report_from_a_handler,
    exceptions_never_retrieved,
    pending_tasks_destroyed,
    callbacks_that_take_time,
    unclosed_transports,
    async_generators_left,
    executor_after_shutdown,
    executors,
    writes_after_the_loss,
    odd_origins,
]


def plain(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, replacement in (
        (r"0x[0-9a-f]+", "0x"),
        (r"_UnixSelectorEventLoop|EventLoop", "LOOP"),
        (r"_SelectorSocketTransport|StreamTransport", "TRANSPORT"),
        (r"_SelectorDatagramTransport|DatagramTransport", "DATAGRAMS"),
        (r"\('127\.0\.0\.1', \d+\)", "ADDRESS"),
        (r"Task-\d+", "Task"),
        (r"took [\d.]+ seconds", "took SECONDS"),
        (r"when=[\d.]+", "when=TIME"),
        # Where asyncio's own lines stand between, in debug mode.
        (r"created at \(most recent call last\):?(\n  .*)+", "created at PLACES"),
        (r"'source_traceback': \[[^\]]*\]", "'source_traceback': PLACES"),
        (r"created at [^ >]+:\d+", "created at PLACE"),
        (r"(fd=|descriptor )\d+", r"\1N"),
    ):
        text = re.sub(pattern, replacement, text)
    return text


TAKES_LONG = re.compile(r"Executing <(Handle \S*\.long|Task \w+ name='long')")


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Executing") and not TAKES_LONG.match(message):
            return  # it took long because others use this machine, too
        kind = record.exc_info[0] if record.exc_info else None
        self.records.append((record.levelname, plain(record.getMessage()), repr(kind)))


def result_of(call: Callable[[], Any]) -> Any:
    try:
        return "returned", plain(repr(call()))
    except (Exception, asyncio.CancelledError) as exc:
        inner = getattr(exc, "exceptions", ())
        return type(exc), plain(str(exc)), [plain(repr(each)) for each in inner]


def everything_said(factory: Factory, call: Callable[[Any], Any]) -> tuple[Any, ...]:
    """What a program ends with, what it logs, and the warnings that it gives."""
    handler = Records()
    logger = logging.getLogger("asyncio")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    unraisable: list[tuple[type[BaseException], str]] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda each: unraisable.append((each.exc_type, plain(str(each.exc_value))))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop: Any = factory()
            try:
                result = result_of(lambda: call(loop))
                if not loop.is_closed():
                    loop.call_soon(loop.stop)
                    loop.run_forever()
            finally:
                loop.close()
                loop = None
                gc.collect()
        said = {
            (each.category, plain(str(each.message)))
            for each in caught
            if "unclosed <socket" not in str(each.message)
        }
        return result, handler.records, said, unraisable
    finally:
        sys.unraisablehook = hook
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


async def finish(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def compare(call: Callable[[Any], Any]) -> None:
    theirs, ours = (everything_said(factory, call) for factory in FACTORIES)
    assert ours[0] == theirs[0]
    assert ours == theirs


def compare_inside(program: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
    compare(lambda loop: loop.run_until_complete(program(loop)))


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    compare(CALLS[name])


@pytest.mark.parametrize("name", AWAITS)
def test_inside_of_the_loop(name: str) -> None:
    async def program(loop: Any) -> Any:
        with Things() as things:
            return await finish(AWAITS[name](loop, things))

    compare_inside(program)


# On 3.11 asyncio joins the lines for write(), sends what has no dimension and then raises, and
# lets a socket have two transports.
SINCE_3_12 = {
    "write: no dimension",
    "writelines: a number",
    "writelines: texts",
    "writelines: released",
    "writelines after write_eof",
    "create_connection again",
}


@pytest.mark.parametrize("name", ON_TRANSPORT)
def test_on_a_transport(name: str) -> None:
    if sys.version_info < (3, 12) and name in SINCE_3_12:
        pytest.skip("pyloop does what asyncio does since 3.12")

    async def program(loop: Any) -> Any:
        with Things() as things:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=things.connected())
            try:
                return await finish(ON_TRANSPORT[name](loop, transport, things))
            finally:
                transport.abort()
                await asyncio.sleep(0)

    compare_inside(program)


@pytest.mark.parametrize("name", ON_SERVER)
def test_on_a_server(name: str) -> None:
    async def program(loop: Any) -> Any:
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        try:
            return await finish(ON_SERVER[name](server))
        finally:
            server.close()

    compare_inside(program)


@pytest.mark.parametrize("name", ON_DATAGRAMS)
def test_on_a_datagram_endpoint(name: str) -> None:
    async def program(loop: Any) -> Any:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        try:
            return await finish(ON_DATAGRAMS[name](transport))
        finally:
            transport.abort()
            await asyncio.sleep(0)

    compare_inside(program)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_records_and_warnings(program: Callable[[Any], Any]) -> None:
    compare_inside(program)


def test_an_unclosed_loop() -> None:
    said = []
    for factory in FACTORIES:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop: Any = factory()
            del loop
            gc.collect()
        said.append(
            [
                (each.category, plain(str(each.message)))
                for each in caught
                if "event loop" in str(each.message)
            ]
        )
    assert said[0] == said[1]
    assert said[1]


def test_no_method_of_the_interface_is_left_out() -> None:
    """Each method of AbstractEventLoop is somebody's else than its own."""
    for name, member in vars(asyncio.AbstractEventLoop).items():
        if callable(member):
            assert getattr(pyloop.EventLoop, name) is not member, name
            source = inspect.unwrap(getattr(pyloop.EventLoop, name))
            with contextlib.suppress(TypeError, OSError):  # those in C have no source
                assert "raise NotImplementedError" not in inspect.getsource(source), name
