"""One waiting reader and one waiting writer per socket; closing and reuse of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from face_support import Pair, pair, settle, tcp_pair
from support import drain_socket, fill_socket, listener

import pyloop

Wait = Callable[[socket.socket], Coroutine[Any, Any, Any]]

READERS: dict[str, Wait] = {
    "recv": lambda sock: pyloop.recv(sock),
    "recv_into": lambda sock: pyloop.recv_into(sock, bytearray(10)),
    "recvfrom": lambda sock: pyloop.recvfrom(sock, 10),
    "wait_readable": lambda sock: pyloop.wait_readable(sock),
}
WRITERS: dict[str, Wait] = {
    "send": lambda sock: pyloop.send(sock, b"x"),
    "sendall": lambda sock: pyloop.sendall(sock, b"x"),
    "wait_writable": lambda sock: pyloop.wait_writable(sock),
}


async def wait(make: Wait, sock: socket.socket) -> Any:
    return await make(sock)


def test_a_reader_and_a_writer_wait_on_one_socket(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        filled = fill_socket(left)
        reader = await pyloop.spawn(wait(READERS["recv"], left))
        writer = await pyloop.spawn(wait(WRITERS["sendall"], left))
        await settle()
        assert not reader.done()
        assert not writer.done()
        right.send(b"for the reader")
        assert await reader == b"for the reader"
        assert not writer.done()
        received = len(drain_socket(right))
        await writer
        assert received + len(drain_socket(right)) == filled + 1

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_the_writer_wakes_first_and_the_reader_waits_on(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        fill_socket(left)
        reader = await pyloop.spawn(wait(READERS["recv"], left))
        writer = await pyloop.spawn(wait(WRITERS["wait_writable"], left))
        await settle()
        drain_socket(right)
        await writer
        await settle()
        assert not reader.done()
        right.send(b"later")
        assert await reader == b"later"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("second", READERS)
@pytest.mark.parametrize("first", READERS)
def test_a_second_reader_gets_the_error_and_the_first_is_not_disturbed(
    first: str, second: str, backend: str
) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        holder = await pyloop.spawn(wait(READERS[first], left), name="the-first-reader")
        await settle()
        with pytest.raises(RuntimeError, match="the-first-reader"):
            await READERS[second](left)
        await settle()
        assert not holder.done()
        right.send(b"hello")
        result = await holder
        if first == "recv":
            assert result == b"hello"
        elif first == "recv_into":
            assert result == 5
        elif first == "recvfrom":
            assert result[0] == b"hello"
        else:
            assert left.recv(10) == b"hello"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
def test_a_second_writer_gets_the_error_and_the_first_is_not_disturbed(
    first: str, second: str, backend: str
) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        fill_socket(left)
        holder = await pyloop.spawn(wait(WRITERS[first], left), name="the-first-writer")
        await settle()
        with pytest.raises(RuntimeError, match="the-first-writer"):
            await WRITERS[second](left)
        await settle()
        assert not holder.done()
        drain_socket(right)
        await holder

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_accept_too_has_one_waiter(backend: str) -> None:
    async def root(sock: socket.socket) -> None:
        holder = await pyloop.spawn(pyloop.accept(sock), name="the-first-acceptor")
        await settle()
        with pytest.raises(RuntimeError, match="the-first-acceptor"):
            await pyloop.accept(sock)
        with socket.create_connection(sock.getsockname()):
            conn, _ = await holder
            conn.close()

    with listener() as sock:
        pyloop.run(root(sock), backend=backend)


def test_the_second_waiter_may_be_an_asyncio_task(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        holder = await pyloop.spawn(wait(READERS["recv"], left), name="the-first-reader")
        await settle()
        with pytest.raises(RuntimeError, match="the-first-reader"):
            await asyncio.create_task(wait(READERS["recv"], left))
        right.send(b"x")
        assert await holder == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_the_first_waiter_may_be_an_asyncio_task(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        holder = asyncio.create_task(wait(READERS["recv"], left), name="the-first-reader")
        await settle()
        with pytest.raises(RuntimeError, match="the-first-reader"):
            await pyloop.recv(left)
        right.send(b"x")
        assert await holder == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_after_the_first_is_gone_another_may_wait(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        for number in range(20):
            holder = await pyloop.spawn(wait(READERS["recv"], left))
            await settle(3)
            if number % 2:
                holder.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await holder
            else:
                right.send(b"x")
                assert await holder == b"x"

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


@pytest.mark.parametrize("kind", READERS)
def test_close_socket_wakes_the_reader_with_an_error(kind: str, backend: str) -> None:
    async def root(left: socket.socket) -> None:
        reader = await pyloop.spawn(wait(READERS[kind], left))
        await settle()
        asyncio.get_running_loop().close_socket(left)
        with pytest.raises(OSError):
            await reader
        assert left.fileno() == -1

    with pair() as (left, _):
        pyloop.run(root(left), backend=backend)


@pytest.mark.parametrize("kind", WRITERS)
def test_close_socket_wakes_the_writer_with_an_error(kind: str, backend: str) -> None:
    async def root(left: socket.socket) -> None:
        fill_socket(left)
        writer = await pyloop.spawn(wait(WRITERS[kind], left))
        await settle()
        asyncio.get_running_loop().close_socket(left)
        with pytest.raises(OSError):
            await writer
        assert left.fileno() == -1

    with pair() as (left, _):
        pyloop.run(root(left), backend=backend)


def test_close_socket_wakes_both_sides_and_whoever_waits_in_accept(backend: str) -> None:
    async def root(left: socket.socket, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        fill_socket(left)
        tasks = [
            await pyloop.spawn(wait(READERS["recv"], left)),
            await pyloop.spawn(wait(WRITERS["sendall"], left)),
            await pyloop.spawn(pyloop.accept(sock)),
        ]
        await settle()
        loop.close_socket(left)
        loop.close_socket(sock)
        for task in tasks:
            with pytest.raises(OSError):
                await task

    with pair() as (left, _), listener() as sock:
        pyloop.run(root(left, sock), backend=backend)


def test_close_socket_of_a_socket_that_nobody_waits_on(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        right.send(b"x")
        assert await pyloop.recv(left) == b"x"
        asyncio.get_running_loop().close_socket(left)
        assert left.fileno() == -1
        assert await pyloop.recv(right) == b""

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def reuse(number: int) -> Pair:
    """A fresh pair whose left half has this (free) descriptor number."""
    left, right = socket.socketpair()
    if left.fileno() == number:
        pass
    elif right.fileno() == number:
        left, right = right, left
    else:
        os.dup2(left.fileno(), number, inheritable=False)
        left.close()
        left = socket.socket(fileno=number)
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def test_a_new_socket_with_the_number_of_a_closed_one(backend: str) -> None:
    async def root() -> None:
        left, right = socket.socketpair()
        left.setblocking(False)
        number = left.fileno()
        for turn in range(200):
            right.send(b"%d" % turn)
            assert await pyloop.recv(left) == b"%d" % turn
            reader = await pyloop.spawn(pyloop.recv(left))
            await settle(2)
            right.send(b"again")
            assert await reader == b"again"
            left.close()
            right.close()
            left, right = reuse(number)
        left.close()
        right.close()

    pyloop.run(root(), backend=backend)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "ticking"])
def test_a_socket_that_is_closed_while_tasks_wait_for_it(busy: bool, backend: str) -> None:
    async def tick() -> None:
        while True:
            await pyloop.sleep(0.05)

    async def root(left: socket.socket, still_open: socket.socket) -> None:
        fill_socket(left)
        ticker = await pyloop.spawn(tick()) if busy else None
        reader = await pyloop.spawn(wait(READERS["recv"], left))
        writer = await pyloop.spawn(wait(WRITERS["sendall"], left))
        other = await pyloop.spawn(wait(READERS["recv"], still_open))
        await pyloop.sleep(0.001)
        kept = os.dup(left.fileno())  # so that the peer sees nothing
        left.close()
        for waiter in (reader, writer):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await waiter
        assert not other.done()
        for task in (other, ticker):
            if task is not None:
                task.cancel()
        os.close(kept)

    with pair() as (left, _), pair() as (still_open, _):
        pyloop.run(root(left, still_open), backend=backend)


def test_a_number_does_not_join_those_who_wait_for_a_socket_that_had_it(backend: str) -> None:
    async def root() -> None:
        left, right = socket.socketpair()
        with right:
            left.setblocking(False)
            number = left.fileno()
            old = await pyloop.spawn(pyloop.recv(left))
            await settle()
            left.close()
            new, peer = reuse(number)
            with new, peer:
                waiter = await pyloop.spawn(pyloop.wait_readable(number))
                with pytest.raises(OSError, match="Bad file descriptor"):
                    await old
                assert not waiter.done()
                peer.send(b"x")
                await waiter

    pyloop.run(root(), backend=backend)


def test_a_waiter_of_a_closed_socket_never_gets_the_data_of_its_successor(backend: str) -> None:
    async def root() -> None:
        old_left, old_right = socket.socketpair()
        old_left.setblocking(False)
        with old_right:
            number = old_left.fileno()
            old = await pyloop.spawn(pyloop.recv(old_left), name="old")
            await settle()
            old_left.close()
            left, right = reuse(number)
            with left, right:
                new = await pyloop.spawn(pyloop.recv(left), name="new")
                await settle()
                assert not new.done()
                right.send(b"for the new one")
                assert await new == b"for the new one"
                await settle()
                old.cancel()
                with pytest.raises((OSError, asyncio.CancelledError)):
                    await old
                # And the new one's place is not disturbed by the end of the old one.
                right.send(b"more")
                assert await pyloop.recv(left) == b"more"

    pyloop.run(root(), backend=backend)


def test_events_of_a_duplicate_are_not_taken_for_those_of_a_successor(backend: str) -> None:
    # epoll watches the open file, not the number: a duplicate keeps a closed socket's
    # registration alive, and its events carry the number of the closed one.
    async def root() -> None:
        old_left, old_right = socket.socketpair()
        old_left.setblocking(False)
        number = old_left.fileno()
        old_right.send(b"x")
        assert await pyloop.recv(old_left) == b"x"
        old = await pyloop.spawn(pyloop.recv(old_left))
        await settle()
        old.cancel()
        await settle()
        with old_left.dup(), old_right:
            old_left.close()
            left, right = reuse(number)
            with left, right:
                new = await pyloop.spawn(pyloop.wait_readable(left))
                await settle()
                old_right.send(b"for nobody")
                await pyloop.sleep(0.005)
                await settle()
                assert not new.done()
                right.send(b"for the new one")
                await new

    pyloop.run(root(), backend=backend)


class Reconnecting:
    """Has a fileno(), which names another file under the same number after reconnect()."""

    def __init__(self) -> None:
        self.ends = os.pipe()

    def fileno(self) -> int:
        return self.ends[0]

    def reconnect(self) -> None:
        before = self.ends
        self.close()
        self.ends = os.pipe()
        if self.ends[0] != before[0]:
            os.dup2(self.ends[0], before[0], inheritable=False)
            os.close(self.ends[0])
            self.ends = (before[0], self.ends[1])

    def close(self) -> None:
        for end in self.ends:
            os.close(end)


@pytest.mark.parametrize("way", ["coroutine", "add_reader"])
def test_an_object_that_has_opened_another_file_under_its_number(way: str, backend: str) -> None:
    async def readable(conn: Reconnecting) -> None:
        if way == "coroutine":
            await pyloop.wait_readable(conn)
            return
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(conn, lambda: ready.done() or ready.set_result(None))
        await ready
        loop.remove_reader(conn)

    async def root(conn: Reconnecting) -> None:
        for _ in range(5):
            os.write(conn.ends[1], b"x")
            async with pyloop.timeout(30):
                await readable(conn)
            conn.reconnect()

    with contextlib.closing(Reconnecting()) as conn:
        pyloop.run(root(conn), backend=backend)


@pytest.mark.parametrize("first", ["socket", "file"])
def test_two_objects_that_stand_for_one_descriptor(first: str, backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        with left.makefile("rb") as file:
            filled = fill_socket(left)
            one: Any = left if first == "socket" else file
            two: Any = file if first == "socket" else left
            reader = await pyloop.spawn(pyloop.wait_readable(one))
            await settle()
            writer = await pyloop.spawn(pyloop.wait_writable(two))
            await settle()
            assert not reader.done()
            with pytest.raises(RuntimeError, match="another task waits already"):
                await pyloop.wait_readable(two)
            right.send(b"x")
            await reader
            assert not writer.done()
            assert len(drain_socket(right)) == filled
            await writer

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_a_full_duplex_conversation_of_many_rounds(backend: str) -> None:
    rounds = 500

    async def say(sock: socket.socket) -> None:
        for number in range(rounds):
            await pyloop.sendall(sock, b"%08d" % number)

    async def hear(sock: socket.socket) -> int:
        count = 0
        pending = b""
        while count < rounds:
            pending += await pyloop.recv(sock, 20)
            while len(pending) >= 8:
                assert pending[:8] == b"%08d" % count
                pending = pending[8:]
                count += 1
        return count

    with tcp_pair() as (left, right):
        results = pyloop.run(say(left), hear(left), say(right), hear(right), backend=backend)
    assert results == [None, rounds, None, rounds]


def test_many_sockets_wait_at_once(backend: str) -> None:
    async def root() -> None:
        pairs = [socket.socketpair() for _ in range(100)]
        for left, right in pairs:
            left.setblocking(False)
            right.setblocking(False)
        tasks = [await pyloop.spawn(pyloop.recv(left)) for left, _ in pairs]
        await settle()
        order = list(range(0, 100, 3)) + list(range(1, 100, 3)) + list(range(2, 100, 3))
        for number in order:
            pairs[number][1].send(b"%d" % number)
        for number, task in enumerate(tasks):
            assert await task == b"%d" % number
        for left, right in pairs:
            left.close()
            right.close()

    pyloop.run(root(), backend=backend)
