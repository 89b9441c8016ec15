"""The socket calls one by one, and waiting for other descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from face_support import pair, settle, tcp_pair
from support import drain_socket, fill_socket, listener

import pyloop


@pytest.fixture
def udp() -> Iterator[tuple[socket.socket, socket.socket]]:
    left = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    right = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with left, right:
        for sock in (left, right):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        yield left, right


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """The two ends; a test that closes one puts -1 in its place."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end >= 0:
            os.close(end)


# --- accept and connect ------------------------------------------------------------------------


def test_accept_gives_a_non_blocking_connection_and_the_address(backend: str) -> None:
    async def root(sock: socket.socket) -> None:
        task = await pyloop.spawn(pyloop.accept(sock))
        await settle()
        assert not task.done()
        with socket.create_connection(sock.getsockname()) as client:
            conn, addr = await task
            with conn:
                assert isinstance(conn, socket.socket)
                assert conn.gettimeout() == 0.0
                assert not conn.getblocking()
                assert not conn.get_inheritable()
                assert conn.family == socket.AF_INET
                assert conn.type == socket.SOCK_STREAM
                assert addr == client.getsockname()
                assert conn.getpeername() == addr
                client.sendall(b"hello")
                assert await pyloop.recv(conn) == b"hello"

    with listener() as sock:
        pyloop.run(root(sock), backend=backend)


def test_an_accepted_connection_is_non_blocking_whatever_the_default_timeout() -> None:
    async def root(sock: socket.socket) -> None:
        with socket.create_connection(sock.getsockname()):
            conn, _ = await pyloop.accept(sock)
            with conn:
                assert conn.gettimeout() == 0.0

    with listener() as sock:
        socket.setdefaulttimeout(5)
        try:
            pyloop.run(root(sock))
        finally:
            socket.setdefaulttimeout(None)


def test_accept_many_that_wait_already(backend: str) -> None:
    async def root(sock: socket.socket) -> None:
        clients = [socket.create_connection(sock.getsockname()) for _ in range(50)]
        addresses = []
        for _ in clients:
            conn, addr = await pyloop.accept(sock)
            addresses.append(addr)
            conn.close()
        assert sorted(addresses) == sorted(client.getsockname() for client in clients)
        for client in clients:
            client.close()

    with listener() as sock:
        pyloop.run(root(sock), backend=backend)


def test_connect_and_accept(backend: str) -> None:
    async def client(address: Any) -> bytes:
        with socket.socket() as sock:
            sock.setblocking(False)
            await pyloop.connect(sock, address)
            assert sock.getpeername() == address
            await pyloop.sendall(sock, b"ping")
            return await pyloop.recv(sock)

    async def server(sock: socket.socket) -> None:
        conn, _ = await pyloop.accept(sock)
        with conn:
            await pyloop.sendall(conn, b"pong to " + await pyloop.recv(conn))

    with listener() as sock:
        results = pyloop.run(client(sock.getsockname()), server(sock), backend=backend)
    assert results[0] == b"pong to ping"


def test_unix_sockets(tmp_path: Path, backend: str) -> None:
    path = str(tmp_path / "socket")

    async def root() -> None:
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
            listening.setblocking(False)
            listening.bind(path)
            listening.listen()
            client.setblocking(False)
            await pyloop.connect(client, path)
            conn, _ = await pyloop.accept(listening)
            with conn:
                assert conn.family == socket.AF_UNIX
                assert conn.gettimeout() == 0.0
                await pyloop.sendall(client, b"hello")
                assert await pyloop.recv(conn) == b"hello"

    pyloop.run(root(), backend=backend)


def test_ipv6(backend: str) -> None:
    try:
        listening = listener("::1")
    except OSError:
        pytest.skip("no IPv6 loopback")

    async def root() -> None:
        with socket.socket(socket.AF_INET6) as client:
            client.setblocking(False)
            await pyloop.connect(client, listening.getsockname())
            conn, addr = await pyloop.accept(listening)
            with conn:
                assert addr == client.getsockname()

    with listening:
        pyloop.run(root(), backend=backend)


def test_connect_to_a_name_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    release = threading.Event()
    threads: list[int] = []
    real = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.get_ident())
        assert release.wait(10)
        return real(*args, **kwargs)

    async def client(port: int) -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await pyloop.connect(sock, ("localhost", port))

    async def root(sock: socket.socket) -> None:
        task = await pyloop.spawn(client(sock.getsockname()[1]))
        while not threads:
            await pyloop.sleep(0.001)
        await settle()
        assert not task.done()
        release.set()
        conn, _ = await pyloop.accept(sock)
        conn.close()
        await task

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with listener() as sock:
        pyloop.run(root(sock), backend=backend)
    assert threading.get_ident() not in threads


def test_connect_to_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def root() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(socket.gaierror):
                await pyloop.connect(sock, ("no.such.name", 80))
        await pyloop.pause()

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    pyloop.run(root())


def test_an_address_literal_needs_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    async def root(sock: socket.socket) -> None:
        with socket.socket() as client:
            client.setblocking(False)
            await pyloop.connect(client, sock.getsockname())
        conn, _ = await pyloop.accept(sock)
        conn.close()
        assert threading.active_count() == before

    before = threading.active_count()
    with listener() as sock:
        pyloop.run(root(sock))


def test_connect_refused(backend: str) -> None:
    async def root() -> None:
        with listener() as sock:
            address = sock.getsockname()
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await pyloop.connect(client, address)
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await pyloop.connect(client, "/nonexistent/socket")
        await pyloop.pause()

    pyloop.run(root(), backend=backend)


# --- recv, recv_into, recvfrom -----------------------------------------------------------------


def test_recv(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        right.send(b"x" * 2000)
        assert await pyloop.recv(left) == b"x" * 1024
        assert await pyloop.recv(left, 10) == b"x" * 10
        assert await pyloop.recv(left, bufsize=66) == b"x" * 66
        assert await pyloop.recv(left, 1 << 24) == b"x" * 900
        right.close()
        for _ in range(3):
            assert await pyloop.recv(left) == b""

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_recv_of_the_last_bytes_and_then_the_end(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        task = await pyloop.spawn(pyloop.recv(left))
        await settle()
        right.send(b"last")
        right.shutdown(socket.SHUT_WR)
        assert await task == b"last"
        assert await pyloop.recv(left) == b""
        # The other direction still works.
        await pyloop.sendall(left, b"answer")
        assert await pyloop.recv(right) == b"answer"

    with tcp_pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_a_short_recv_does_not_hide_what_comes_later(backend: str) -> None:
    # After a short read the socket is taken to be drained: the next recv waits for an event. What
    # arrived in between has had its event already with some pollers.
    async def root(left: socket.socket, right: socket.socket) -> None:
        for number in range(300):
            right.send(b"%03d" % number)
            assert await pyloop.recv(left, 1024) == b"%03d" % number
            right.send(b"more")
            if number % 3:
                await settle(number % 5)
            assert await pyloop.recv(left, 1024) == b"more"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_recv_after_a_full_read_that_emptied_the_socket(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        for _ in range(50):
            right.send(b"12345678")
            assert await pyloop.recv(left, 8) == b"12345678"
        task = await pyloop.spawn(pyloop.recv(left, 8))
        await settle()
        assert not task.done()
        right.send(b"x")
        assert await task == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_the_socket_may_be_read_directly_in_between(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        for _ in range(20):
            right.send(b"a")
            assert await pyloop.recv(left) == b"a"
            right.send(b"b")
            assert left.recv(10) == b"b"
            task = await pyloop.spawn(pyloop.recv(left))
            await settle(3)
            assert not task.done()
            right.send(b"c")
            assert await task == b"c"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_a_reset_is_an_error(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        task = await pyloop.spawn(pyloop.recv(left))
        await settle()
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        with pytest.raises(ConnectionResetError):
            await task
        assert await pyloop.recv(left) == b""

    with tcp_pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("make", [bytearray, lambda size: memoryview(bytearray(size))])
def test_recv_into(make: Any, backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        buffer = make(8)
        right.send(b"hello")
        assert await pyloop.recv_into(left, buffer) == 5
        assert bytes(buffer) == b"hello\0\0\0"
        right.send(b"0123456789")
        assert await pyloop.recv_into(left, buffer) == 8
        assert bytes(buffer) == b"01234567"
        assert await pyloop.recv_into(left, memoryview(buffer)[2:]) == 2
        assert bytes(buffer) == b"01894567"
        task = await pyloop.spawn(pyloop.recv_into(left, buffer))
        await settle()
        assert not task.done()
        right.close()
        assert await task == 0

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_the_buffer_of_recv_into_is_locked_while_it_waits(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        buffer = bytearray(100)
        task = await pyloop.spawn(pyloop.recv_into(left, buffer))
        await settle()
        with pytest.raises(BufferError):
            buffer.clear()
        right.send(b"x" * 100)
        assert await task == 100
        assert buffer == b"x" * 100
        buffer.clear()

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_datagrams(udp: tuple[socket.socket, socket.socket], backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        task = await pyloop.spawn(pyloop.recvfrom(right, 100))
        await settle()
        assert not task.done()
        assert await pyloop.sendto(left, b"hello", right.getsockname()) == 5
        data, addr = await task
        assert data == b"hello"
        assert addr == left.getsockname()
        assert await pyloop.sendto(right, b"", addr) == 0
        assert await pyloop.recvfrom(left, 100) == (b"", right.getsockname())
        await pyloop.sendto(left, b"longer than the buffer", right.getsockname())
        assert await pyloop.recvfrom(right, 6) == (b"longer", left.getsockname())
        for number in range(20):
            await pyloop.sendto(left, b"%d" % number, right.getsockname())
        for number in range(20):
            assert (await pyloop.recvfrom(right, 10))[0] == b"%d" % number

    pyloop.run(root(*udp), backend=backend)


def test_sendto_waits_for_room(tmp_path: Path, backend: str) -> None:
    path = str(tmp_path / "datagrams")

    async def root() -> None:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer,
        ):
            reader.setblocking(False)
            writer.setblocking(False)
            reader.bind(path)
            count = 0
            try:
                while True:
                    writer.sendto(b"filler", path)
                    count += 1
            except BlockingIOError:
                pass
            # A datagram socket's room depends on its peer, which a poller sees when connected.
            writer.connect(path)
            task = await pyloop.spawn(pyloop.sendto(writer, b"at last", path))
            await settle()
            assert not task.done()
            for _ in range(count):
                assert await pyloop.recv(reader) == b"filler"
            assert await task == 7
            assert await pyloop.recv(reader) == b"at last"

    pyloop.run(root(), backend=backend)


def test_a_refused_datagram_is_an_error(
    udp: tuple[socket.socket, socket.socket], backend: str
) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        address = right.getsockname()
        right.close()
        left.connect(address)
        await pyloop.send(left, b"to nobody")
        with pytest.raises(ConnectionRefusedError):
            await pyloop.recv(left)

    pyloop.run(root(*udp), backend=backend)


# --- wait_readable and wait_writable -----------------------------------------------------------


class Holder:
    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


@pytest.mark.parametrize("wrap", [int, Holder], ids=["number", "object"])
def test_wait_on_a_pipe(wrap: Any, pipe: list[int], backend: str) -> None:
    async def root() -> None:
        await pyloop.wait_writable(wrap(pipe[1]))
        task = await pyloop.spawn(pyloop.wait_readable(wrap(pipe[0])))
        await settle()
        assert not task.done()
        os.write(pipe[1], b"x")
        await task
        # Still readable: the wait took nothing.
        await pyloop.wait_readable(wrap(pipe[0]))
        assert os.read(pipe[0], 10) == b"x"

    pyloop.run(root(), backend=backend)


def test_an_error_after_one_of_asyncios_calls_names_the_operation(backend: str) -> None:
    """Operations are used again, and those of loop.sock_recv() speak as asyncio does."""

    async def root(left: socket.socket, right: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        right.send(b"x" * 10)
        for _ in range(10):
            assert await loop.sock_recv(left, 1) == b"x"
        right.close()
        for _ in range(10):
            with pytest.raises(BrokenPipeError, match=r"send\(\) on descriptor \d+: Broken pipe"):
                await pyloop.send(left, b"x")
            with pytest.raises(BrokenPipeError, match=r"^\[Errno 32\] Broken pipe$"):
                await loop.sock_sendall(left, b"x")

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def polled() -> set[int]:
    """The descriptors that epoll instances of this process know."""
    found = set()
    for info in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = info.read_text().splitlines()
            found |= {int(line.split()[1]) for line in lines if line.startswith("tfd:")}
    return found


def test_a_socket_with_room_is_not_registered_to_wait_for_room() -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        for _ in range(3):
            await pyloop.wait_writable(left)
            await settle()
        assert left.fileno() not in polled()
        fill_socket(left)
        task = await pyloop.spawn(pyloop.wait_writable(left))
        while left.fileno() not in polled():
            assert not task.done()
            await pyloop.sleep(0.001)
        drain_socket(right)
        await task

    with pair() as (left, right):
        pyloop.run(root(left, right), backend="epoll")


def test_the_end_of_a_pipe_is_readable(pipe: list[int], backend: str) -> None:
    async def root() -> None:
        task = await pyloop.spawn(pyloop.wait_readable(pipe[0]))
        await settle()
        assert not task.done()
        os.close(pipe[1])
        pipe[1] = -1
        await task
        assert os.read(pipe[0], 10) == b""

    pyloop.run(root(), backend=backend)


def test_a_pipe_without_its_reader_is_writable(pipe: list[int], backend: str) -> None:
    async def root() -> None:
        os.set_blocking(pipe[1], False)
        try:
            while True:
                os.write(pipe[1], b"x" * 4096)
        except BlockingIOError:
            pass
        task = await pyloop.spawn(pyloop.wait_writable(pipe[1]))
        await settle()
        assert not task.done()
        os.close(pipe[0])
        pipe[0] = -1
        await task
        with pytest.raises(BrokenPipeError):
            os.write(pipe[1], b"x")

    pyloop.run(root(), backend=backend)


def test_wait_on_sockets(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        await pyloop.wait_writable(left)
        fill_socket(left)
        task = await pyloop.spawn(pyloop.wait_writable(left))
        await settle()
        assert not task.done()
        drain_socket(right)
        await task
        right.send(b"x")
        await pyloop.wait_readable(left)
        assert left.recv(10) == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


# --- the awaitables ----------------------------------------------------------------------------


def test_an_awaitable_is_a_coroutine_for_those_who_ask() -> None:
    with pair() as (left, _):
        operation = pyloop.recv(left)
        assert isinstance(operation, Coroutine)
        assert asyncio.iscoroutine(operation)
        operation.close()


def test_an_awaitable_serves_once(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        right.send(b"one")
        operation = pyloop.recv(left)
        assert await operation == b"one"
        right.send(b"two")
        with pytest.raises(RuntimeError):
            await operation
        assert await pyloop.recv(left) == b"two"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("call", ["recv", "recv_into", "recvfrom", "send"])
def test_blocking_sockets_do_not_stop_the_others(call: str, backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        operations: dict[str, Any] = {
            "recv": lambda: pyloop.recv(left),
            "recv_into": lambda: pyloop.recv_into(left, bytearray(10)),
            "recvfrom": lambda: pyloop.recvfrom(left, 10),
            "send": lambda: pyloop.send(left, b"x"),
        }
        if call == "send":
            fill_socket(left)
        task = await pyloop.spawn(operations[call]())
        await settle()
        assert not task.done()
        if call == "send":
            drain_socket(right)
        else:
            right.send(b"hello")
        result = await task
        assert result in (b"hello", 5, (b"hello", None), 1)
        assert left.getblocking()

    left, right = socket.socketpair()
    with left, right:
        pyloop.run(root(left, right), backend=backend)
