"""Servers: accepting, on pyloop's loop and, where the semantics are asyncio's, on asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import sys
from asyncio import constants
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from asyncio_support import Run, runner
from support import listener, tls_contexts

import pyloop
from pyloop._transport import StreamTransport


class Served(asyncio.Protocol):
    """Notes its transport and its end."""

    made: list[Served]

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.append(self)
        event.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


event: asyncio.Event


@contextlib.asynccontextmanager
async def serving(factory: Callable[[], Any] | None = None, **options: Any) -> Any:
    """A server on a free port, and the protocols that it has made so far."""
    global event
    event = asyncio.Event()
    made: list[Served] = []
    kind = type("OfThisServer", (Served,), {"made": made})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory or kind, "127.0.0.1", 0, **options)
    try:
        yield server, made
    finally:
        server.close()
        for protocol in made:
            protocol.transport.abort()
        await server.wait_closed()


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        event.clear()
        await event.wait()


def connect(server: asyncio.Server) -> socket.socket:
    return socket.create_connection(server.sockets[0].getsockname()[:2])


class Reports:
    """What the exception handler is told; `event` is set each time."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(self.note)

    def note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.contexts.append(context)
        event.set()


# --- what a connection knows --------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_addresses_and_socket(run: Run, host: str) -> None:
    async def main() -> None:
        global event
        event = asyncio.Event()
        made: list[Served] = []
        kind = type("Here", (Served,), {"made": made})
        server = await asyncio.get_running_loop().create_server(kind, host, 0)
        with connect(server) as client:
            await until(lambda: made)
            transport = made[0].transport
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_extra_info("peername") == client.getsockname()
            assert transport.get_extra_info("sockname") == client.getpeername()
            sock = transport.get_extra_info("socket")
            assert sock.fileno() == transport._sock_fd
            assert sock.family == client.family
            assert sock.gettimeout() == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not os.get_inheritable(sock.fileno())
            assert transport.get_extra_info("socket") is sock
            assert transport.get_extra_info("nothing", 5) == 5
            transport.abort()
            await made[0].lost
        server.close()

    run(main())


def test_what_a_lost_connection_still_knows(run: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server) as client:
                await until(lambda: made)
                mine, theirs = client.getpeername(), client.getsockname()
            transport = made[0].transport
            await made[0].lost
            await asyncio.sleep(0)
            assert transport.get_extra_info("peername") == theirs
            assert transport.get_extra_info("sockname") == mine
            sock = transport.get_extra_info("socket")
            assert sock.fileno() == -1
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)

    run(main())


def test_the_socket_asked_for_while_it_reads(run: Run) -> None:
    """The socket object takes the place of what stood for it: reading goes on, and so does EOF."""

    async def main() -> None:
        async with serving() as (server, made):
            with connect(server) as client:
                await until(lambda: made)
                await asyncio.sleep(0)
                transport = made[0].transport
                got: list[bytes] = []
                made[0].data_received = lambda data: (got.append(data), event.set())
                client.sendall(b"before")
                await until(lambda: b"".join(got) == b"before")
                sock = transport.get_extra_info("socket")
                transport.pause_reading()
                transport.resume_reading()
                client.sendall(b"after")
                await until(lambda: b"".join(got) == b"beforeafter")
                transport.write(b"answer")
                await asyncio.sleep(0)
                assert client.recv(100) == b"answer"
            await made[0].lost
            assert sock.fileno() == -1

    run(main())


def test_a_unix_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        global event
        event = asyncio.Event()
        made: list[Served] = []
        kind = type("Here", (Served,), {"made": made})
        path = str(tmp_path / "socket")
        server = await asyncio.get_running_loop().create_unix_server(kind, path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            await until(lambda: made)
            assert made[0].transport.get_extra_info("peername") == ""
            assert made[0].transport.get_extra_info("sockname") == path
        await made[0].lost
        server.close()
        await server.wait_closed()

    run(main())


def test_each_connection_has_a_context_of_its_own(run: Run) -> None:
    var: ContextVar[str] = ContextVar("var", default="unset")
    seen: list[str] = []

    class Protocol(Served):
        def __init__(self) -> None:
            super().__init__()
            seen.append(f"factory {var.get()}")
            var.set("factory")

        def connection_made(self, transport: Any) -> None:
            seen.append(f"made {var.get()}")
            var.set("made")
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            seen.append(f"data {var.get()}")
            var.set("data")
            event.set()

    async def main() -> None:
        var.set("server")
        made: list[Served] = []
        Protocol.made = made
        async with serving(Protocol) as (server, _):
            var.set("later")
            for i in range(2):
                with connect(server) as client:
                    await until(lambda i=i: len(made) > i)
                    client.sendall(b"x")
                    await until(lambda i=i: len(seen) == 4 * i + 3)
                    client.sendall(b"x")
                    await until(lambda i=i: len(seen) == 4 * i + 4)
                await made[i].lost
            made.clear()

    run(main())
    assert seen == ["factory server", "made factory", "data factory", "data data"] * 2


# --- many ---------------------------------------------------------------------------------------


def test_a_full_queue_is_accepted(run: Run) -> None:
    async def main() -> None:
        async with serving(backlog=300) as (server, made):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(connect(server)) for _ in range(200)]
                await until(lambda: len(made) == 200)
                names = [client.getsockname() for client in clients]
                # In the order of the queue.
                assert [p.transport.get_extra_info("peername") for p in made] == names
            await asyncio.gather(*[protocol.lost for protocol in made])

    run(main())


def test_others_get_their_turn_while_a_queue_is_accepted(run_ours: Run) -> None:
    async def main() -> None:
        turns: list[int] = []

        async def ticker(made: list[Served]) -> None:
            while len(made) < 200:
                turns.append(len(made))
                await asyncio.sleep(0)

        async with serving(backlog=300) as (server, made):
            with contextlib.ExitStack() as stack:
                for _ in range(200):
                    stack.enter_context(connect(server))
                await ticker(made)
                steps = [after - before for before, after in zip(turns, turns[1:], strict=False)]
                assert max(steps) <= 32

    run_ours(main())


def test_no_descriptor_stays_of_a_thousand_connections(run_ours: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            await asyncio.sleep(0)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(1000):
                with connect(server):
                    await until(lambda: made)
                await made[0].lost
                made.clear()
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) == before

    run_ours(main())


# --- errors -------------------------------------------------------------------------------------


def test_a_factory_that_raises_costs_one_connection(run_ours: Run) -> None:
    async def main() -> None:
        failures = iter([ZeroDivisionError("on purpose")])
        kept: list[Served] = []
        Served.made = kept

        def factory() -> Served:
            for exc in failures:
                raise exc
            return Served()

        async with serving(factory) as (server, _):
            reports = Reports()
            with connect(server) as first, connect(server):
                await until(lambda: kept)
                first.settimeout(30)
                assert first.recv(1) == b""
            await kept[0].lost
        (context,) = reports.contexts
        assert context["message"] == "Error on transport creation for incoming connection"
        assert isinstance(context["exception"], ZeroDivisionError)

    run_ours(main())


def test_a_factory_that_raises_in_debug_mode() -> None:
    async def main() -> dict[str, Any]:
        def factory() -> Served:
            raise ZeroDivisionError("on purpose")

        async with serving(factory) as (server, _):
            reports = Reports()
            with connect(server):
                await until(lambda: reports.contexts)
        return reports.contexts[0]

    context = runner("epoll", debug=True)(main())
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], ZeroDivisionError)


def test_a_protocol_that_is_none(run_ours: Run) -> None:
    """The transport cannot be made: the connection is closed and nothing stays attached."""

    async def main() -> None:
        protocol = object()
        async with serving(lambda: protocol) as (server, _):
            reports = Reports()
            with connect(server) as client:
                await until(lambda: reports.contexts)
                client.settimeout(30)
                assert client.recv(1) == b""
            (context,) = reports.contexts
            assert context["message"] == "Error on transport creation for incoming connection"
            assert context["protocol"] is protocol
            assert isinstance(context["exception"], AttributeError)

    run_ours(main())


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_must_end_the_loop_passes_through(exception: type[BaseException]) -> None:
    loop = pyloop.EventLoop()

    def factory() -> Any:
        raise exception

    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    with connect(server) as client:
        with pytest.raises(exception):
            loop.run_forever()
        client.settimeout(30)
        assert client.recv(1) == b""
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


def test_connection_made_that_raises_is_reported(run: Run) -> None:
    async def main() -> None:
        class Bad(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                transports.append(transport)
                raise ZeroDivisionError("on purpose")

            def data_received(self, data: bytes) -> None:
                received.append(data)
                event.set()

        transports: list[asyncio.Transport] = []
        received: list[bytes] = []
        async with serving(Bad) as (server, _):
            reports = Reports()
            with connect(server) as client:
                client.sendall(b"x")
                # As in asyncio the connection goes on.
                await until(lambda: received)
            transports[0].close()
        (context,) = reports.contexts
        assert "connection_made" in context["message"]
        assert isinstance(context["exception"], ZeroDivisionError)
        assert isinstance(context["handle"], asyncio.Handle)

    run(main())


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leaves the process none, but for those that it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    filling = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filling:
            os.close(fd)


def test_without_descriptors_it_waits_and_loses_nothing(
    run_ours: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.05)

    async def main() -> None:
        async with serving() as (server, made):
            reports = Reports()
            with connect(server) as client:
                with no_descriptors():
                    await until(lambda: reports.contexts)
                    turns = 0
                    while len(reports.contexts) < 2:
                        event.clear()
                        await event.wait()
                        turns += 1
                    # Once per delay, not once per turn of a loop that spins.
                    assert turns == 1
                await until(lambda: made)
                assert made[0].transport.get_extra_info("peername") == client.getsockname()
            for context in reports.contexts:
                assert context["message"] == "socket.accept() out of system resource"
                assert context["exception"].errno == errno.EMFILE
                assert context["socket"].getsockname() == server.sockets[0].getsockname()
            await made[0].lost

    run_ours(main())


@pytest.mark.parametrize("close_in_handler", [True, False])
def test_closed_while_it_waits_for_descriptors(
    run_ours: Run, monkeypatch: pytest.MonkeyPatch, close_in_handler: bool
) -> None:
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.01)

    async def main() -> None:
        async with serving() as (server, made):
            contexts: list[dict[str, Any]] = []

            def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
                contexts.append(context)
                if close_in_handler:
                    server.close()
                event.set()

            asyncio.get_running_loop().set_exception_handler(note)
            with connect(server):
                with no_descriptors():
                    await until(lambda: contexts)
                    server.close()
                await asyncio.sleep(0.03)
            assert len(contexts) == 1
            assert not made

    run_ours(main())


def test_an_interrupt_while_it_reports_the_lack_does_not_end_accepting() -> None:
    loop = pyloop.EventLoop()

    def interrupt(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    async def serve() -> None:
        global event
        event = asyncio.Event()
        servers.append(await loop.create_server(Served, "127.0.0.1", 0))

    async def accepted() -> None:
        await until(lambda: made)

    servers: list[asyncio.Server] = []
    made = Served.made = []
    try:
        loop.run_until_complete(serve())
        with connect(servers[0]):
            loop.set_exception_handler(interrupt)
            with no_descriptors(), pytest.raises(KeyboardInterrupt):
                loop.run_forever()
            loop.run_until_complete(asyncio.wait_for(accepted(), 60))
            made[0].transport.abort()
            loop.run_until_complete(made[0].lost)
        servers[0].close()
    finally:
        loop.close()


# --- closing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epoll", "poll"])
def test_closed_in_the_factory(kind: str) -> None:
    """Not in debug mode: there asyncio's coroutine makes the transport, and reports the lack."""

    async def main() -> None:
        servers: list[asyncio.Server] = []

        def factory() -> Served:
            calls.append(1)
            servers[0].close()
            event.set()
            return Served()

        calls: list[int] = []
        Served.made = []
        async with serving(factory) as (server, _):
            reports = Reports()
            servers.append(server)
            with connect(server) as first, connect(server):
                await until(lambda: calls)
                await asyncio.sleep(0)
                first.settimeout(30)
                assert first.recv(1) == b""
            await server.wait_closed()
        assert calls == [1]
        assert reports.contexts == []

    runner(kind, debug=False)(main())


@pytest.mark.parametrize("kind", ["epoll", "poll"])
def test_closed_in_the_factory_in_debug_mode(kind: str) -> None:
    """No transport comes of it, and the protocol never hears of one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def factory() -> Served:
            server.close()
            return Served()

        made = Served.made = []
        async with serving(factory) as (server, _):
            reports = Reports()
            with connect(server) as client:
                client.setblocking(False)
                assert await loop.sock_recv(client, 1) == b""
            await until(lambda: reports.contexts)
            await asyncio.sleep(0)
        message = "Error on transport creation for incoming connection"
        assert [context["message"] for context in reports.contexts] == [message]
        assert made == []

    runner(kind, debug=True)(main())


def test_a_socket_that_fails_to_close_does_not_keep_the_server(
    run_ours: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(sock: socket.socket) -> None:
        close(sock)
        raise OSError(errno.EIO, "on purpose")

    close = socket.socket.close

    async def main() -> None:
        async with serving() as (server, made):
            reports = Reports()
            with connect(server):
                await until(lambda: made)
                made[0].transport.get_extra_info("socket")
                monkeypatch.setattr(socket.socket, "close", fail)
                made[0].transport.abort()
                await until(lambda: reports.contexts)
                monkeypatch.undo()
            assert [context["exception"].errno for context in reports.contexts] == [errno.EIO]
            server.close()
            await server.wait_closed()

    run_ours(main())


def test_closed_between_the_event_and_its_turn(run: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server):
                # The next turn sees the connection and then runs this, which comes first.
                asyncio.get_running_loop().call_soon(server.close)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert len(made) <= 1

    run(main())


def test_the_socket_closed_behind_the_servers_back(run_ours: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        global event
        event = asyncio.Event()
        sock = listener()
        address = sock.getsockname()
        Served.made = []
        server = await loop.create_server(Served, sock=sock)
        reports = Reports()
        with socket.create_connection(address):
            # Its event comes in the same turn as this.
            loop.call_soon(sock.close)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with listener() as other, socket.create_connection(other.getsockname()):
            # Whoever has its number now is not accepted from.
            conn, _ = await loop.sock_accept(other)
            conn.close()
        server.close()
        assert not Served.made
        for context in reports.contexts:
            assert context["exception"].errno == errno.EBADF

    run_ours(main())


def test_a_socket_that_cannot_accept_does_not_spin(run_ours: Run) -> None:
    async def main() -> None:
        async with serving() as (server, _):
            reports = Reports()
            server.sockets[0]._sock.shutdown(socket.SHUT_RDWR)
            await until(lambda: reports.contexts)
            for _ in range(5):
                await asyncio.sleep(0)
            (context,) = reports.contexts
            assert context["exception"].errno == errno.EINVAL

    run_ours(main())


def test_remove_reader_stops_accepting(run: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            loop = asyncio.get_running_loop()
            fd = server.sockets[0].fileno()
            assert loop.remove_reader(fd)
            assert not loop.remove_reader(fd)
            with connect(server):
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not made
                loop.add_reader(fd, event.set)
                event.clear()
                await event.wait()
                loop.remove_reader(fd)

    run(main())


def test_served_again_after_a_pause(run: Run) -> None:
    """start_serving=False, and a socket that is given to a second server."""

    async def main() -> None:
        async with serving(start_serving=False) as (server, made):
            assert not server.is_serving()
            await server.start_serving()
            with connect(server):
                await until(lambda: made)
            await made[0].lost
            made.clear()

    run(main())


def test_the_loop_closed_while_it_serves() -> None:
    loop = pyloop.EventLoop()

    async def start() -> asyncio.Server:
        return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)

    server = loop.run_until_complete(start())
    with connect(server):
        loop.close()
    for sock in server.sockets:
        sock._sock.close()


def test_a_transport_is_refused_a_number_that_another_has(run: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server):
                await until(lambda: made)
                fd = made[0].transport._sock_fd
                loop = asyncio.get_running_loop()
                with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by"):
                    loop.add_reader(fd, print)
                with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by"):
                    loop.remove_writer(fd)
                with pytest.raises(ValueError, match="Invalid file object"):
                    loop.add_reader(object(), print)  # type: ignore[arg-type]
            await made[0].lost
            await asyncio.sleep(0)
            read, write = os.pipe()
            loop.add_reader(read, print)
            loop.remove_reader(read)
            os.close(read)
            os.close(write)

    run(main())


def test_dropped_while_open_it_warns(run_ours: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server) as client:
                await until(lambda: made)
                protocol = made.pop()
                protocol.transport.pause_reading()
                await asyncio.sleep(0)
                with pytest.warns(ResourceWarning, match="unclosed transport"):
                    del protocol.transport
                client.settimeout(30)
                assert client.recv(1) == b""

    run_ours(main())


# --- debug mode, TLS ----------------------------------------------------------------------------


def test_debug_mode_says_who_came(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server):
                await until(lambda: made)
            await made[0].lost

    for kind in ("epoll", "asyncio"):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="asyncio"):
            runner(kind, debug=True)(main())
        assert any("got a new connection from ('127.0.0.1'" in text for text in caplog.messages)


def test_closed_before_the_accepting_task_runs() -> None:
    """As in debug mode: the connection is closed, and nobody is told of an error."""

    async def main() -> None:
        def factory(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
            if coro.__name__ == "accept":
                server.close()
                event.set()
            return asyncio.Task(coro, loop=loop, **kwargs)

        async with serving() as (server, made):
            reports = Reports()
            asyncio.get_running_loop().set_task_factory(factory)
            with connect(server) as client:
                await until(lambda: not server.is_serving())
                await asyncio.sleep(0)
                client.settimeout(30)
                assert client.recv(1) == b""
            assert made == []
            assert reports.contexts == []

    runner("epoll", debug=True)(main())


def test_a_bad_handshake_is_told_in_debug_mode_only(certificate: Path) -> None:
    for_server, _ = tls_contexts(certificate)

    async def main() -> list[dict[str, Any]]:
        async with serving(ssl=for_server) as (server, made):
            reports = Reports()
            with connect(server) as client:
                client.sendall(b"this is not TLS\r\n\r\n")
                client.setblocking(False)
                with contextlib.suppress(ConnectionError):
                    while await asyncio.get_running_loop().sock_recv(client, 1000):
                        pass
            for _ in range(5):
                await asyncio.sleep(0)
            assert not made
            return reports.contexts

    for kind in ("epoll", "asyncio"):
        assert runner(kind, debug=False)(main()) == []
        (context,) = runner(kind, debug=True)(main())
        assert context["message"] == "Error on transport creation for incoming connection"
        assert isinstance(context["exception"], ssl.SSLError)


def test_tls(run: Run, certificate: Path) -> None:
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        async with serving(ssl=for_server) as (server, made):
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(
                *address, ssl=for_client, server_hostname="localhost"
            )
            await until(lambda: made)
            transport = made[0].transport
            assert transport.get_extra_info("peername") == writer.get_extra_info("sockname")
            assert transport.get_extra_info("sslcontext") is for_server
            transport.write(b"over TLS")
            assert await reader.readexactly(8) == b"over TLS"
            writer.close()
            await writer.wait_closed()
            await made[0].lost

    run(main())


def test_tls_connections_share_one_buffer(run_ours: Run, certificate: Path) -> None:
    """Twenty at once, each with data of its own, and one of start_tls() among them."""
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        buffers: list[Any] = []

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.readexactly(1) == b"S":
                writer.write(b"S")
                await writer.start_tls(for_server)
            await echo_all(reader, writer)

        async def echo_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            buffers.append(writer.transport._ssl_protocol._ssl_buffer)  # type: ignore[attr-defined]
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def check(number: int) -> None:
            data = os.urandom(300_000)
            if number == 0:
                reader, writer = await asyncio.open_connection(*plain.sockets[0].getsockname())
                writer.write(b"S")
                assert await reader.readexactly(1) == b"S"
                await writer.start_tls(for_client, server_hostname="localhost")
            else:
                reader, writer = await asyncio.open_connection(
                    *secure.sockets[0].getsockname(), ssl=for_client, server_hostname="localhost"
                )
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()

        plain = await asyncio.start_server(echo, "127.0.0.1", 0)
        secure = await asyncio.start_server(echo_all, "127.0.0.1", 0, ssl=for_server)
        await asyncio.gather(*[check(number) for number in range(20)])
        assert len(buffers) == 20
        assert all(buffer is loop._tls_buffer for buffer in buffers)
        for server in (plain, secure):
            server.close()
            await server.wait_closed()

    run_ours(main())


# --- the server's books -------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
def test_close_clients(run: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server), connect(server):
                await until(lambda: len(made) == 2)
                server.close()
                server.close_clients()
                await server.wait_closed()
                assert all(protocol.transport.is_closing() for protocol in made)

    run(main())


def test_the_transports_are_of_our_type(run_ours: Run) -> None:
    async def main() -> None:
        async with serving() as (server, made):
            with connect(server):
                await until(lambda: made)
                assert type(made[0].transport) is StreamTransport
                assert made[0].transport._server is server
            await made[0].lost

    run_ours(main())
