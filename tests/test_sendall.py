"""send and sendall: every byte, in order, whatever the socket takes at a time."""

from __future__ import annotations

import array
import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
from face_support import pair, settle, tcp_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from support import drain_socket, fill_socket

import pyloop


async def read_all(sock: socket.socket, sizes: list[int], turns: int = 0) -> bytes:
    """Read to the end, in pieces of the given sizes, over and over, with pauses between."""
    pieces = []
    number = 0
    while piece := await pyloop.recv(sock, sizes[number % len(sizes)]):
        pieces.append(piece)
        number += 1
        await settle(turns)
    return b"".join(pieces)


async def send_all(sock: socket.socket, *pieces: Any) -> None:
    for piece in pieces:
        assert await pyloop.sendall(sock, piece) is None
    sock.shutdown(socket.SHUT_WR)


def pattern(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 60_000), min_size=1, max_size=5),
    buffer=st.integers(1, 20_000),
    reads=st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
    turns=st.integers(0, 2),
    tcp=st.booleans(),
)
def test_any_pattern_of_partial_sends(
    sizes: list[int], buffer: int, reads: list[int], turns: int, tcp: bool
) -> None:
    # Many tiny reads of much data are slow and show nothing more.
    reads = [max(size, sum(sizes) // 300) for size in reads]
    data = pattern(sum(sizes))
    pieces = []
    place = 0
    for size in sizes:
        pieces.append(data[place : place + size])
        place += size
    with (tcp_pair if tcp else pair)() as (left, right):
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        if tcp:
            # A tiny receive buffer too would let TCP wait for its timers, seconds in all.
            left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, got = pyloop.run(send_all(left, *pieces), read_all(right, reads, turns))
    assert got == data


def test_twenty_megabytes_to_a_slow_reader(backend: str) -> None:
    size = 20_000_000
    data = pattern(size)

    async def reader(sock: socket.socket) -> tuple[str, int]:
        checksum = hashlib.sha256()
        total = 0
        while piece := await pyloop.recv(sock, 65536):
            checksum.update(piece)
            total += len(piece)
            await settle(2)
            if total // 4_000_000 != (total - len(piece)) // 4_000_000:
                await pyloop.sleep(0.002)
        return checksum.hexdigest(), total

    with tcp_pair() as (left, right):
        _, result = pyloop.run(send_all(left, data), reader(right), backend=backend)
    assert result == (hashlib.sha256(data).hexdigest(), size)


def test_nothing_to_send(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        await pyloop.sendall(left, b"")
        await pyloop.sendall(left, memoryview(b""))
        await pyloop.sendall(left, b"end")
        assert drain_socket(right) == b"end"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


BUFFERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: pattern(1_000_000),
    "bytearray": lambda: bytearray(pattern(1_000_000)),
    "memoryview": lambda: memoryview(pattern(1_000_000)),
    "slice of a memoryview": lambda: memoryview(pattern(1_000_008))[4:-4],
    "memoryview of items": lambda: memoryview(array.array("I", range(250_000))),
    "array": lambda: array.array("d", map(float, range(125_000))),
    "two dimensions": lambda: memoryview(pattern(1_000_000)).cast("B", [1000, 1000]),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_any_buffer(name: str, backend: str) -> None:
    data = BUFFERS[name]()
    with pair() as (left, right):
        _, got = pyloop.run(send_all(left, data), read_all(right, [65536]), backend=backend)
    assert got == memoryview(data).tobytes()


def test_a_buffer_with_gaps_is_refused() -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        for call in (pyloop.send, pyloop.sendall):
            with pytest.raises((BufferError, ValueError, TypeError)):
                await call(left, memoryview(b"abcdef")[::2])
        await pyloop.sendall(left, b"x")
        assert drain_socket(right) == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right))


def test_a_bytearray_is_locked_or_copied_while_sendall_waits(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        data = bytearray(pattern(4_000_000))
        expected = bytes(data)
        task = await pyloop.spawn(pyloop.sendall(left, data))
        await settle()
        assert not task.done()
        for change in (data.clear, lambda: data.extend(b"x" * 1_000_000), data.pop):
            with contextlib.suppress(BufferError):
                change()
        received = bytearray()
        while not task.done():
            received += drain_socket(right)
            await settle(1)
        await task
        received += drain_socket(right)
        assert received == expected
        # And it is free again.
        data.clear()
        data.extend(b"x")

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_a_cancelled_sendall_frees_its_buffer(backend: str) -> None:
    async def root(left: socket.socket) -> None:
        data = bytearray(4_000_000)
        task = await pyloop.spawn(pyloop.sendall(left, data))
        await settle()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        data.clear()

    with pair() as (left, _):
        pyloop.run(root(left), backend=backend)


def test_sendall_that_nobody_awaited_frees_its_buffer() -> None:
    data = bytearray(10)
    with pair() as (left, _):
        operation = pyloop.sendall(left, data)
        operation.close()
        del operation
        data.clear()


def test_send_returns_how_much_the_socket_took(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        assert await pyloop.send(left, b"hello") == 5
        assert await pyloop.send(left, bytearray(b"world")) == 5
        assert drain_socket(right) == b"helloworld"
        data = pattern(8_000_000)
        count = await pyloop.send(left, data)
        assert 0 < count < len(data)
        assert drain_socket(right) == data[:count]

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_send_waits_for_room(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        fill_socket(left)
        task = await pyloop.spawn(pyloop.send(left, b"x"))
        await settle()
        assert not task.done()
        drain_socket(right)
        assert await task == 1
        assert drain_socket(right) == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("call", [pyloop.send, pyloop.sendall], ids=lambda call: call.__name__)
def test_the_peer_is_gone(call: Callable[..., Any], backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        right.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(3):
                await call(left, b"x" * 100_000)

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_the_peer_leaves_while_sendall_waits(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        task = await pyloop.spawn(pyloop.sendall(left, bytes(8_000_000)))
        await settle()
        assert not task.done()
        right.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await task

    with tcp_pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_on_a_blocking_socket_only_the_task_waits(backend: str) -> None:
    data = pattern(3_000_000)

    left, right = socket.socketpair()
    with left, right:
        _, got = pyloop.run(send_all(left, data), read_all(right, [65536]), backend=backend)
        assert left.getblocking()
        assert right.getblocking()
    assert got == data
