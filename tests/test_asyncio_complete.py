"""What of asyncio's interface no other module shows: each test runs on asyncio's loop and on ours.

The tests of CPython (tests/stdlib) have more; here is what an issue or a user has asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asyncio_support import Recorder, Run, make_loop, runner
from support import fill_socket, run_python, socketpair, tls_contexts

import pyloop


@pytest.fixture(params=["asyncio", "epoll"])
def run(request: pytest.FixtureRequest) -> Run:
    return runner(request.param)


async def until(state: Callable[[], Any]) -> None:
    """Let the loop go on until `state()` holds; the test's time limit is the limit."""
    while not state():
        await asyncio.sleep(0.001)


# --- tasks and factories ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"name": "n"}, {"context": None}, {"name": None, "context": None}, {"name": 5}],
    ids=repr,
)
def test_a_task_factory_gets_what_it_gets_from_asyncio(kwargs: dict[str, Any]) -> None:
    calls: list[Any] = []

    async def coroutine() -> str:
        return "done"

    def factory(loop: Any, coro: Any, **given: Any) -> asyncio.Task[Any]:
        calls.append(dict(given))
        given.pop("eager_start", None)
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **given)
        return task

    names = []
    for name in ("asyncio", "epoll"):
        loop: Any = make_loop(name)
        try:
            loop.set_task_factory(factory)
            assert loop.get_task_factory() is factory
            task = loop.create_task(coroutine(), **kwargs)
            assert loop.run_until_complete(task) == "done"
            names.append(task.get_name().startswith("Task-") or task.get_name())
        finally:
            loop.close()
    assert calls[0] == calls[1]
    assert names[0] == names[1]


def test_a_task_factory_may_refuse_the_context() -> None:
    """Factories of before 3.11 take two arguments, and get two unless a context is given."""

    async def coroutine() -> int:
        return 7

    for name in ("asyncio", "epoll"):
        loop: Any = make_loop(name)
        try:
            loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
            assert loop.run_until_complete(loop.create_task(coroutine(), name="named")) == 7
        finally:
            loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        steps: list[str] = []

        async def at_once() -> int:
            steps.append("ran")
            assert asyncio.current_task() is not main_task
            return 1

        async def waits() -> int:
            steps.append("began")
            await asyncio.sleep(0.001)
            return 2

        main_task = asyncio.current_task()
        task = loop.create_task(at_once())
        assert steps == ["ran"]
        assert task.done()
        assert await task == 1
        slow = asyncio.create_task(waits(), name="slow")
        assert steps == ["ran", "began"]
        assert slow.get_name() == "slow"
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
        assert await slow == 2
        assert asyncio.current_task() is main_task

    run(main())


def test_a_generator_task_is_not_made_a_root() -> None:
    """The keyword belongs to run(): whatever asyncio does not know is refused."""

    def generator() -> Any:
        yield

    loop = pyloop.EventLoop()
    try:
        with pytest.raises(TypeError, match="root"):
            loop.create_task(generator(), root=True)  # type: ignore[call-overload]
        task = loop.create_task(generator(), name="kept")
        assert task.get_name() == "kept"
        assert not loop._is_root(task)
        loop.run()
    finally:
        loop.close()


def test_many_keyword_arguments_reach_asyncio() -> None:
    async def coroutine() -> None:
        pass

    texts = []
    for name in ("asyncio", "epoll"):
        loop: Any = make_loop(name)
        coro = coroutine()
        try:
            with pytest.raises(TypeError) as caught:
                loop.create_task(coro, **{f"k{i}": i for i in range(20)})
            texts.append(str(caught.value))
        finally:
            coro.close()
            loop.close()
    assert texts[0] == texts[1]


# --- connections --------------------------------------------------------------------------------


def with_addresses(loop: Any, *hosts: str) -> None:
    """Let every name stand for these addresses."""

    async def getaddrinfo(host: Any, port: Any, **_: Any) -> list[Any]:
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (each, port, 0, 0) if ":" in each else (each, port),
            )
            for each in hosts
        ]

    loop.getaddrinfo = getaddrinfo


@pytest.mark.parametrize("delay", [None, 0.01])
def test_the_first_address_that_answers_is_taken(delay: float | None, run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with_addresses(loop, "127.0.0.2", "127.0.0.3", "127.0.0.1")
        transport, _ = await loop.create_connection(
            Recorder, "many.example", port, happy_eyeballs_delay=delay
        )
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_happy_eyeballs_does_not_wait_for_the_silent_address(run: Run) -> None:
    """The first address never answers: its queue of connections is full."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with socket.socket() as silent, contextlib.ExitStack() as stack:
            silent.bind(("127.0.0.2", port))
            silent.listen(0)
            for _ in range(4):  # until the kernel answers no more
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.2", port))
            with_addresses(loop, "127.0.0.2", "127.0.0.1")
            transport, _ = await loop.create_connection(
                Recorder, "many.example", port, happy_eyeballs_delay=0.05
            )
            assert transport.get_extra_info("peername") == ("127.0.0.1", port)
            transport.close()
            server.close()
            await server.wait_closed()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors came with 3.12")
def test_all_errors(run: Run) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with_addresses(loop, "127.0.0.2", "127.0.0.3")
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.2", 0))
            port = first.getsockname()[1]
            second.bind(("127.0.0.3", port))  # and neither listens
            with pytest.raises(ExceptionGroup) as caught:
                await loop.create_connection(Recorder, "many.example", port, all_errors=True)
        assert [str(each) for each in caught.value.exceptions] == [
            f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.{n}', {port})"
            for n in (2, 3)
        ]

    run(main())


def test_an_address_literal_takes_no_thread(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class NoThreads(ThreadPoolExecutor):
            def submit(self, *args: Any, **kwargs: Any) -> Any:
                raise AssertionError("a look-up in a thread")

        executor = NoThreads(1)
        loop.set_default_executor(executor)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(Recorder, *address)
        transport.close()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        datagrams, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=address
        )
        datagrams.close()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_sock_connect_and_sock_accept_take_a_socket_in_blocking_mode(run: Run, host: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(False)  # where it is refused
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            await loop.sock_connect(sock, (host, listener.getsockname()[1]))
            conn, address = await loop.sock_accept(listener)
            with conn:
                assert address == sock.getsockname()
                assert sock.getblocking()
                assert listener.getblocking()
                assert os.get_blocking(sock.fileno())
                assert os.get_blocking(listener.fileno())
                assert not conn.getblocking()
                sock.sendall(b"hello")
                assert await loop.sock_recv(conn, 10) == b"hello"

    run(main())


def test_a_blocking_socket_does_not_hold_up_the_loop() -> None:
    """As it does on asyncio's loop, where sock_accept() waits in accept(2)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(False)
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await loop.sock_connect(sock, listener.getsockname())
            conn, _ = await accepting
            conn.close()

    runner("epoll")(main())


def test_the_zone_of_an_ipv6_address_is_kept(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked: list[tuple[Any, ...]] = []

        class Spy(socket.socket):
            def bind(self, address: Any) -> None:
                asked.append(address)
                super().bind(("::1", 0, 0, 0))

        index, name = socket.if_nameindex()[0]
        try:
            infos = await loop.getaddrinfo(f"fe80::1%{name}", 80, type=socket.SOCK_STREAM)
        except socket.gaierror:
            pytest.skip("no IPv6 here")
        assert infos[0][4] == ("fe80::1", 80, 0, index)
        resolved = await loop._ensure_resolved(  # type: ignore[attr-defined]
            ("fe80::1", 80, 0, index), type=socket.SOCK_STREAM, loop=loop
        )
        assert resolved[0][4] == ("fe80::1", 80, 0, index)
        with socket.socket(socket.AF_INET6) as sock:
            sock.setblocking(False)
            # Nobody has this address; what is asked is the zone that the kernel was given.
            with contextlib.suppress(OSError):
                await asyncio.wait_for(loop.sock_connect(sock, ("fe80::1", 9, 0, index)), 0.01)
            with contextlib.suppress(OSError):
                assert sock.getpeername()[3] == index

    run(main())


def free_port(host: str) -> int:
    """A port of this address that was free a moment ago."""
    with socket.create_server((host, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


# Where a port is asked for, by addresses that no other test uses: nobody takes it in between.
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", None, ["127.0.1.1", "127.0.1.2"]])
def test_a_server_on_several_addresses(host: Any, run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        port = free_port(host[0]) if isinstance(host, list) else 0
        server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        if isinstance(host, list):
            assert sorted(sock.getsockname()[0] for sock in server.sockets) == host
        for sock in server.sockets:
            transport, _ = await loop.create_connection(Recorder, *sock.getsockname()[:2])
            transport.abort()
        server.close()
        await server.wait_closed()
        assert not server.is_serving()

    run(main())


def test_options_of_a_server(run: Run) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        more = {"keep_alive": True} if sys.version_info >= (3, 13) else {}
        server = await loop.create_server(
            asyncio.Protocol, "127.0.0.1", 0, reuse_port=True, reuse_address=True, **more
        )
        sock = server.sockets[0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        if more:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        second = await loop.create_server(
            asyncio.Protocol, "127.0.0.1", sock.getsockname()[1], reuse_port=True
        )
        for each in (server, second):
            each.close()
            await each.wait_closed()

    run(main())


def test_connect_accepted_socket(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            accepted, address = listening.accept()
        with client:
            transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
            assert transport.get_extra_info("peername") == address
            client.send(b"hello")
            await until(lambda: protocol.data == b"hello")
            transport.close()
            assert await protocol.lost is None

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="it waits since 3.12.1")
def test_wait_closed_waits_for_the_connections(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocols: list[Recorder] = []

        def factory() -> Recorder:
            protocols.append(Recorder())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        client, mine = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        await until(lambda: protocols and protocols[0].transport)
        waits = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0.001)
        assert not waits.done()  # nobody has closed it
        server.close()
        await asyncio.sleep(0.001)
        assert not waits.done()  # a connection is left
        client.close()
        await waits
        assert protocols[0].calls[-1] == "lost"
        await server.wait_closed()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_a_server_ends_its_connections(method: str, run: Run) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        protocols: list[Recorder] = []

        def factory() -> Recorder:
            protocols.append(Recorder())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [(await loop.create_connection(Recorder, *address))[1] for _ in range(3)]
        await until(lambda: len(protocols) == 3 and all(each.transport for each in protocols))
        data = bytes(10_000_000)
        protocols[0].transport.write(data)
        server.close()
        getattr(server, method)()
        for each in protocols:
            assert await each.lost is None
        await server.wait_closed()
        for client in clients:
            exc = await client.lost
            assert exc is None or isinstance(exc, ConnectionResetError)
        assert (len(clients[0].data) == len(data)) >= (method == "close_clients")

    run(main())


# --- Unix sockets -------------------------------------------------------------------------------


def test_abstract_names(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        name = f"\0pyloop-{os.getpid()}-{time.monotonic_ns()}"
        accepted: list[Recorder] = []

        def factory() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_unix_server(factory, name)
        transport, _ = await loop.create_unix_connection(Recorder, name)
        assert transport.get_extra_info("peername") in (name.encode(), name)
        transport.write(b"hello")
        transport.close()
        await until(lambda: accepted and accepted[0].lost.done())
        assert accepted[0].data == b"hello"
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")
@pytest.mark.parametrize("cleanup", [True, False, None])
def test_cleanup_socket(cleanup: bool | None, run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        path = tmp_path / "socket"
        more = {} if cleanup is None else {"cleanup_socket": cleanup}
        server = await loop.create_unix_server(asyncio.Protocol, path, **more)
        assert path.exists()
        server.close()
        await server.wait_closed()
        assert path.exists() == (cleanup is False)
        # A file that another server has put there is not this one's to remove.
        server = await loop.create_unix_server(asyncio.Protocol, path, **more)
        path.unlink()
        path.touch()
        server.close()
        await server.wait_closed()
        assert path.exists()
        path.unlink()

    run(main())


def test_unix_datagrams(run: Run, tmp_path: Path) -> None:
    class Datagrams(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: list[tuple[bytes, Any]] = []

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.append((data, addr))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = str(tmp_path / "one"), str(tmp_path / "two")
        receiver, got = await loop.create_datagram_endpoint(
            Datagrams, family=socket.AF_UNIX, local_addr=one
        )
        sender, _ = await loop.create_datagram_endpoint(
            Datagrams, family=socket.AF_UNIX, local_addr=two, remote_addr=one
        )
        sender.sendto(b"hello")
        await until(lambda: got.got)
        assert got.got == [(b"hello", two)]
        for each in (receiver, sender):
            each.close()
        await asyncio.sleep(0)

    run(main())


# --- transports ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(factory: Callable[[], Any] = Recorder) -> Any:
    """A transport with its protocol, and the other end of its socket."""
    left, right = socketpair()
    with right:
        transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=left)
        try:
            yield transport, protocol, right
        finally:
            if not transport.is_closing():
                transport.abort()
            await asyncio.sleep(0)


def test_flow_control_at_its_exact_limits(run: Run) -> None:
    """Writing pauses above 64 KiB and resumes at 16 KiB."""

    async def main() -> None:
        async with connected() as (transport, protocol, peer):
            assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
            fill_socket(transport._sock)
            transport.write(bytes(64 * 1024))
            assert transport.get_write_buffer_size() == 64 * 1024
            assert protocol.calls == ["made"]
            transport.write(b"x")
            assert protocol.calls == ["made", "pause"]
            sizes = []
            while "resume" not in protocol.calls:
                sizes.append(transport.get_write_buffer_size())
                with contextlib.suppress(BlockingIOError):
                    peer.recv(4096)
                await asyncio.sleep(0)
            assert min(sizes) > 16 * 1024
            assert transport.get_write_buffer_size() <= 16 * 1024
            assert protocol.calls == ["made", "pause", "resume"]

    run(main())


def test_half_close(run: Run) -> None:
    """After write_eof() the other direction goes on."""

    async def main() -> None:
        async with connected() as (transport, protocol, peer):
            transport.write(b"last")
            transport.write_eof()
            await until(lambda: not transport.get_write_buffer_size())
            assert peer.recv(10) == b"last"
            assert peer.recv(10) == b""
            peer.send(b"still")
            await until(lambda: protocol.data == b"still")
            assert not transport.is_closing()

    run(main())


class Buffered(asyncio.BufferedProtocol):
    """Hands out a few bytes at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray(7)
        self.data = b""
        self.lost = False

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True


def test_protocols_are_exchanged_in_the_middle_of_a_stream(run: Run) -> None:
    """Of either kind, also from inside of a call of the one before: no byte is lost."""

    async def main() -> None:
        async with connected() as (transport, first, peer):
            second, third = Buffered(), Recorder()

            class Exchanging(Recorder):
                def data_received(self, data: bytes) -> None:
                    super().data_received(data)
                    self.transport.set_protocol(second)

            exchanging = Exchanging()
            exchanging.transport = transport
            peer.send(b"one")
            await until(lambda: first.data == b"one")
            transport.set_protocol(exchanging)
            peer.send(b"two")
            await until(lambda: exchanging.data == b"two")
            assert transport.get_protocol() is second
            peer.send(b"a longer line than its buffer")
            await until(lambda: second.data == b"a longer line than its buffer")
            transport.set_protocol(third)
            peer.send(b"four")
            await until(lambda: third.data == b"four")
            peer.close()
            await third.lost
            assert first.data + exchanging.data == b"onetwo"
            assert not second.lost

    run(main())


@pytest.mark.parametrize("offset", [0, 1, 4096])
@pytest.mark.parametrize("count", [None, 1, 5000, 10**9])
def test_counts_of_sendfile(offset: int, count: int | None, run: Run, tmp_path: Path) -> None:
    """Of both kinds: what they return is what came, and where the file stands."""
    content = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    expected = content[offset:] if count is None else content[offset : offset + count]

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def receive(sock: socket.socket) -> bytes:
            pieces = []
            while piece := await loop.sock_recv(sock, 1 << 20):
                pieces.append(piece)
            return b"".join(pieces)

        async with connected() as (transport, _, peer):
            with path.open("rb") as file:
                receiving = asyncio.ensure_future(receive(peer))
                transport.write(b"head")
                assert await loop.sendfile(transport, file, offset, count) == len(expected)
                assert file.tell() == offset + len(expected)
                transport.write(b"tail")
                transport.close()
                assert await receiving == b"head" + expected + b"tail"
        left, right = socketpair()
        with left, right, path.open("rb") as file:
            receiving = asyncio.ensure_future(receive(right))
            assert await loop.sock_sendfile(left, file, offset, count) == len(expected)
            assert file.tell() == offset + len(expected)
            left.shutdown(socket.SHUT_WR)
            assert await receiving == expected

    run(main())


def test_sendfile_of_what_is_no_file(run: Run) -> None:
    """By the fallback; without it an error."""
    import io

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected() as (transport, _, peer):
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(transport, io.BytesIO(b"data"), fallback=False)
            assert await loop.sendfile(transport, io.BytesIO(b"data"), 1) == 3
            assert await loop.sock_recv(peer, 10) == b"ata"

    run(main())


def test_sendfile_to_a_peer_that_goes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(50_000_000))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected() as (transport, _, peer):
            with path.open("rb") as file:
                sending = asyncio.ensure_future(loop.sendfile(transport, file))
                await loop.sock_recv(peer, 1000)
                peer.close()
                with pytest.raises(ConnectionError):
                    await sending

    run(main())


# --- TLS ----------------------------------------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


async def check_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = os.urandom(300_000)
    writer.write(data)
    received = await reader.readexactly(len(data))
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    writer.close()
    with contextlib.suppress(ssl.SSLError):
        await writer.wait_closed()


def test_tls_over_unix_sockets(run: Run, certificate: Path, tmp_path: Path) -> None:
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        path = tmp_path / "socket"
        server = await asyncio.start_unix_server(echo, path, ssl=for_server)
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=for_client, server_hostname="localhost"
        )
        assert writer.get_extra_info("cipher")
        await check_echo(reader, writer)
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="StreamWriter.start_tls() twice: 3.12")
def test_tls_in_tls(run: Run, certificate: Path) -> None:
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"inner\n"
            writer.write(b"go\n")
            await writer.start_tls(for_server)
            await echo(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=for_server)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=for_client, server_hostname="localhost"
        )
        writer.write(b"inner\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(for_client, server_hostname="localhost")
        await check_echo(reader, writer)
        server.close()
        await server.wait_closed()

    run(main())


def test_a_handshake_that_takes_too_long(run: Run, certificate: Path) -> None:
    """On either side: the peer says nothing."""
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
                await loop.create_connection(
                    Recorder,
                    *silent.getsockname(),
                    ssl=for_client,
                    server_hostname="localhost",
                    ssl_handshake_timeout=0.05,
                )
        made: list[Recorder] = []
        server = await loop.create_server(
            lambda: made.append(Recorder()) or made[-1],  # type: ignore[func-returns-value]
            "127.0.0.1",
            0,
            ssl=for_server,
            ssl_handshake_timeout=0.05,
        )
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            assert await loop.sock_recv(client, 10) == b""
        assert [each.calls for each in made] == [[]]
        server.close()
        await server.wait_closed()

    run(main())


def test_a_shutdown_that_takes_too_long(run: Run, certificate: Path) -> None:
    """The peer never answers close_notify: the connection is cut."""
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()

            def serve() -> None:
                sock, _ = listening.accept()
                with for_server.wrap_socket(sock, server_side=True) as tls:
                    tls.send(b"x")
                    ended.wait(30)

            ended = threading.Event()
            thread = threading.Thread(target=serve)
            thread.start()
            try:
                transport, protocol = await loop.create_connection(
                    Recorder,
                    *address,
                    ssl=for_client,
                    server_hostname="localhost",
                    ssl_shutdown_timeout=0.05,
                )
                await until(lambda: protocol.data)
                transport.close()
                exc = await protocol.lost
                assert exc is None or isinstance(exc, TimeoutError)
            finally:
                ended.set()
                thread.join()

    run(main())


# --- executors, pipes, processes ----------------------------------------------------------------


def test_shutdown_default_executor_with_a_timeout(run: Run) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        if sys.version_info < (3, 13) and not isinstance(loop, pyloop.EventLoop):
            pytest.skip("asyncio's of 3.12.1 has the timeout, and ignores it")
        release = threading.Event()
        waits = loop.run_in_executor(None, release.wait)
        try:
            with pytest.warns(RuntimeWarning, match="did not finish"):
                await loop.shutdown_default_executor(timeout=0.01)
        finally:
            release.set()
        await waits
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, print)

    run(main())


def test_shutdown_default_executor_in_time(run: Run) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        has_timeout = sys.version_info >= (3, 12) or isinstance(loop, pyloop.EventLoop)
        await loop.run_in_executor(None, threading.get_ident)
        await loop.shutdown_default_executor(*[60] * has_timeout)
        threads = loop._default_executor._threads
        assert not any(thread.is_alive() for thread in threads)

    run(main())


def test_an_executor_that_fails_to_shut_down_is_not_waited_for() -> None:
    class Fails(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait, cancel_futures=cancel_futures)
            if wait:
                raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Fails())
        await loop.run_in_executor(None, threading.get_ident)

    with pytest.raises(ZeroDivisionError):
        pyloop.run(main())


def test_pipes(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read_fd, write_fd = os.pipe()
        reading, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(read_fd, "rb", 0))
        writing, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(write_fd, "wb", 0)
        )
        data = os.urandom(300_000)
        writing.write(data)
        await until(lambda: len(protocol.data) == len(data))
        assert protocol.data == data
        writing.close()
        assert await protocol.lost is None
        reading.close()

    run(main())


def test_subprocesses(run: Run) -> None:
    async def main() -> None:
        code = "import sys; sys.stdout.write(sys.stdin.read()[::-1]); sys.exit(3)"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate(b"hello")
        assert (output, process.returncode) == (b"olleh", 3)
        processes = [await asyncio.create_subprocess_shell(f"exit {n}") for n in range(5)]
        assert await asyncio.gather(*(each.wait() for each in processes)) == list(range(5))

    run(main())


# --- what the others get wrong ------------------------------------------------------------------


def test_connection_lost_comes_once(run: Run) -> None:
    """Whatever comes together: an end of file, a reset, close() and abort()."""

    async def main() -> None:
        for ends in (
            lambda transport, peer: (peer.close(), transport.close(), transport.abort()),
            lambda transport, peer: (transport.close(), transport.close(), peer.close()),
            lambda transport, peer: (transport.write(bytes(1 << 22)), peer.close()),
            lambda transport, peer: (transport.abort(), transport.abort()),
            lambda transport, peer: (transport.write_eof(), transport.close(), peer.close()),
        ):
            async with connected() as (transport, protocol, peer):
                ends(transport, peer)
                await protocol.lost
                for _ in range(5):
                    await asyncio.sleep(0)
                assert protocol.calls.count("lost") == 1

    run(main())


def test_close_sends_all_and_then_closes_the_descriptor(run: Run) -> None:
    """Without the garbage collector, and although somebody holds the transport."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gc.collect()
        gc.disable()
        try:
            async with connected() as (transport, protocol, peer):
                number = transport._sock.fileno()
                data = os.urandom(3_000_000)
                transport.write(data)
                transport.close()
                received = b""
                while piece := await loop.sock_recv(peer, 1 << 20):
                    received += piece
                assert received == data
                assert await protocol.lost is None
                await asyncio.sleep(0)
                with pytest.raises(OSError):
                    os.fstat(number)
        finally:
            gc.enable()

    run(main())


def test_a_reset_connection_is_reported_once(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            transport, protocol = await loop.create_connection(Recorder, *listening.getsockname())
            peer, _ = listening.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.calls == ["made", "lost"]

    run(main())


def test_the_import_leaves_for_later_what_may_not_be_needed() -> None:
    done = run_python(
        """
import asyncio, sys
before = set(sys.modules)
import pyloop
print(*sorted(set(sys.modules) - before))
"""
    )
    modules = ["pyloop", "pyloop._core", "pyloop._loop"]
    if sys.version_info < (3, 14):
        modules.append("pyloop._policy")
    assert done.stdout.split() == modules


def test_the_import_is_silent_and_makes_nothing() -> None:
    """With every warning an error: no loop, no descriptor, no thread, no policy."""
    done = run_python(
        """
import warnings
warnings.simplefilter("error")
import asyncio, os, threading
before = len(os.listdir("/proc/self/fd"))
import pyloop
assert len(os.listdir("/proc/self/fd")) == before
assert threading.active_count() == 1
assert asyncio.events._event_loop_policy is None
loop = pyloop.EventLoop()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
print("silent")
""",
        env={"PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "silent\n", "")


# --- threads and the collector ------------------------------------------------------------------


def test_frozen_objects(run: Run) -> None:
    """gc.freeze() with a loop in use, as pre-forking servers do it."""

    async def main() -> None:
        async with connected() as (_, protocol, peer):
            later = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.001, later.set_result, "fired")
            gc.collect()
            gc.freeze()
            try:
                peer.send(b"hello")
                assert await later == "fired"
                await until(lambda: protocol.data == b"hello")
                gc.collect()
            finally:
                gc.unfreeze()

    run(main())


def test_loops_in_threads_call_each_other(run: Run) -> None:
    """Each runs coroutines on the others, all at the same time."""

    async def main() -> None:
        n = 3
        loops: list[asyncio.AbstractEventLoop] = []
        ready = threading.Barrier(n + 1)

        def thread() -> None:
            loop = type(here)()
            loops.append(loop)
            ready.wait(30)
            loop.run_forever()
            loop.close()

        async def answer(number: int) -> tuple[int, asyncio.AbstractEventLoop]:
            await asyncio.sleep(0)
            return number, asyncio.get_running_loop()

        async def ask(number: int) -> None:
            futures = [asyncio.run_coroutine_threadsafe(answer(i), loops[i % n]) for i in range(50)]
            for i, future in enumerate(futures):
                assert await asyncio.wrap_future(future) == (i, loops[i % n])

        here = asyncio.get_running_loop()
        threads = [threading.Thread(target=thread) for _ in range(n)]
        for each in threads:
            each.start()
        await asyncio.to_thread(ready.wait, 30)
        asked = [asyncio.run_coroutine_threadsafe(ask(i), loop) for i, loop in enumerate(loops)]
        await asyncio.gather(ask(n), *map(asyncio.wrap_future, asked))
        for loop in loops:
            loop.call_soon_threadsafe(loop.stop)
        for each in threads:
            await asyncio.to_thread(each.join, 30)
        assert all(loop.is_closed() for loop in loops)

    run(main())
