"""TCP sockets are watched by edges: whatever comes, in whatever way it is read, is heard of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asyncio_support import Run

import pyloop

if not hasattr(socket, "MSG_DONTWAIT"):
    pytest.skip("needs Linux", allow_module_level=True)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection that do not block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return ours, theirs


def until_there(sock: socket.socket, n: int) -> None:
    """Return when n bytes can be read up to the mark of urgent data."""
    while True:
        try:
            if len(sock.recv(n, socket.MSG_PEEK)) == n:
                return
        except BlockingIOError:
            pass
        time.sleep(0)


async def waiting(awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    """A task that waits for what it awaits, as the poller has been told."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def take_urgent(sock: socket.socket) -> bytes:
    """Urgent data, as a program that heard of them by a signal takes them."""
    while True:
        try:
            return sock.recv(1, socket.MSG_OOB)
        except (BlockingIOError, OSError):
            time.sleep(0)  # not there yet


def test_bytes_behind_urgent_data_that_were_taken_already_are_received(run_ours: Run) -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        with ours, theirs:
            task = await waiting(loop.sock_recv(ours, 100))
            theirs.send(b"x")
            assert await task == b"x"
            task = await waiting(loop.sock_recv(ours, 100))
            theirs.send(b"abc")
            theirs.send(b"!", socket.MSG_OOB)
            theirs.send(b"def")
            until_there(ours, 3)
            assert take_urgent(ours) == b"!"
            got: bytes = await task
            while len(got) < 6:
                got += await loop.sock_recv(ours, 100)
            return got

    assert run_ours(main()) == b"abcdef"


def test_a_transport_gets_what_is_behind_urgent_data_that_were_taken(run_ours: Run) -> None:
    class Collects(asyncio.Protocol):
        def __init__(self) -> None:
            self.got = b""
            self.enough = asyncio.get_running_loop().create_future()
            self.first = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            self.got += data
            self.first.set()
            if len(self.got) == 7:
                self.enough.set_result(None)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        with theirs:
            transport, protocol = await loop.create_connection(Collects, sock=ours)
            theirs.send(b"x")
            await protocol.first.wait()
            await asyncio.sleep(0)
            theirs.send(b"abc")
            theirs.send(b"!", socket.MSG_OOB)
            theirs.send(b"def")
            until_there(ours, 3)
            assert take_urgent(ours) == b"!"
            await protocol.enough
            transport.close()
            return protocol.got

    assert run_ours(main()) == b"xabcdef"


def test_each_packet_of_a_raw_socket_that_came_with_others_is_received(run_ours: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        address = ("127.0.0.77", 0)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sniffer,
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sender,
        ):
            sniffer.bind(address)
            sniffer.setblocking(False)
            sender.bind(address)
            with contextlib.suppress(BlockingIOError):
                while True:  # what came before it had an address
                    sniffer.recv(4096)
            for _ in range(3):
                task = await waiting(loop.sock_recv(sniffer, 4096))
                for _ in range(3):
                    sender.sendto(b"p" * 20, address)
                assert len(await task) == 40
                for _ in range(2):
                    assert len(await loop.sock_recv(sniffer, 4096)) == 40

    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close()
    except PermissionError:
        pytest.skip("raw sockets are for the administrator")
    run_ours(main())


class Stop(Exception):
    """What the signal handler of the next test raises."""


def test_events_at_hand_when_a_signal_handler_raises_are_heard_of_later(backend: str) -> None:
    def handler(signum: int, frame: Any) -> None:
        # Nowhere but in the loop, or right before or after it: what the signal interrupts else is
        # a program that does not expect it.
        if is_running and frame.f_code.co_name == here:
            is_running.clear()
            raise Stop

    async def read(sock: socket.socket, got: bytearray) -> None:
        loop = asyncio.get_running_loop()
        while len(got) < rounds:
            got += await loop.sock_recv(sock, 100)
        loop.stop()

    def peer() -> None:
        for _ in range(rounds):
            done.wait(0.001)
            theirs.send(b"x")
            os.kill(os.getpid(), signal.SIGUSR1)

    here = "test_events_at_hand_when_a_signal_handler_raises_are_heard_of_later"
    is_running: list[bool] = []
    rounds = 50
    done = threading.Event()
    ours, theirs = pair()
    got = bytearray()
    loop = pyloop.EventLoop(backend=backend)
    thread = threading.Thread(target=peer)
    old = signal.signal(signal.SIGUSR1, handler)
    try:
        task = loop.create_task(read(ours, got))
        thread.start()
        while not task.done():
            try:
                is_running.append(True)
                loop.run_forever()
                is_running.clear()
            except Stop:
                pass
        assert len(got) == rounds
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, old)
        loop.close()
        ours.close()
        theirs.close()


# --- random peers, random readers ---

SIZES = (1, 2, 4, 8, 64, 1024, 65536, 262144)


class Peer(threading.Thread):
    """Sends what it notes in `sent`, in pieces, and ends the connection in one of some ways."""

    def __init__(self, rng: random.Random, sock: socket.socket, read: Any) -> None:
        super().__init__()
        self.rng, self.sock = rng, sock
        self.lines = read is read_by_lines
        self.largest = 10_000 if read is read_by_calls else 300_000
        self.sent = bytearray()
        self.resets = not self.lines and rng.random() < 0.15
        self.is_urgent = not self.lines and rng.random() < 0.4

    def send(self, n: int) -> None:
        data = self.rng.randbytes(n)
        if self.lines:
            data = data.hex().encode() + b"\n" * self.rng.randrange(2)
        self.sent += data
        self.sock.sendall(data)

    def run(self) -> None:
        rng, sock = self.rng, self.sock
        sock.settimeout(50)
        pieces = rng.randrange(1, 20)
        urgent_at = rng.randrange(pieces) if self.is_urgent else -1
        for i in range(pieces):
            self.send(
                rng.choice(SIZES[:5]) if rng.random() < 0.8 else rng.randrange(1, self.largest)
            )
            if i == urgent_at:
                sock.send(b"!", socket.MSG_OOB)
                self.send(rng.choice(SIZES[:5]))
            if rng.random() < 0.5:
                time.sleep(rng.random() / 500)
        if self.resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            if rng.random() < 0.5:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                self.send(3)
            sock.shutdown(socket.SHUT_WR)  # in one packet with the last bytes
            try:
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass
        sock.close()


async def patiently(rng: random.Random, make: Callable[[], Awaitable[Any]]) -> Any:
    """What make() makes, awaited again when it was cancelled at some moment."""

    async def one() -> Any:
        return await make()

    while rng.random() < 0.3:
        task = asyncio.ensure_future(one())
        if rng.random() < 0.5:
            await asyncio.wait([task], timeout=rng.random() / 500)
        else:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            pass
    return await make()


async def read_by_calls(rng: random.Random, sock: socket.socket, got: bytearray) -> None:
    """By all the calls that receive, in turn, or always by one of them."""
    loop = asyncio.get_running_loop()

    async def into(n: int) -> bytes:
        buffer = bytearray(n)
        return bytes(buffer[: await pyloop.recv_into(sock, buffer)])

    async def own(n: int) -> bytes:
        while True:
            try:
                return sock.recv(n)
            except BlockingIOError:
                await pyloop.wait_readable(sock)

    def recv(n: int) -> Awaitable[bytes]:
        return pyloop.recv(sock, n)

    def sock_recv(n: int) -> Awaitable[bytes]:
        return loop.sock_recv(sock, n)

    calls: list[Callable[[int], Awaitable[bytes]]] = [recv, sock_recv, into, own]
    if rng.random() < 0.5:
        calls = [rng.choice(calls[:3])]
    sizes = SIZES if rng.random() < 0.5 else [rng.choice(SIZES[3:])]
    while True:
        call, n = rng.choice(calls), rng.choice(sizes)
        data = await patiently(rng, lambda call=call, n=n: call(n))  # type: ignore[misc]
        if not data:
            return
        got += data
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() / 1000 if rng.random() < 0.3 else 0)


async def read_by_lines(rng: random.Random, sock: socket.socket, got: bytearray) -> None:
    lines = pyloop.lines(sock, max_line=1 << 24)
    while True:
        try:
            line = await patiently(rng, lines.__anext__)
        except StopAsyncIteration:
            return
        got += line.encode() + b"\n"


class Reads(asyncio.Protocol):
    """Pauses and resumes reading at any moment."""

    def __init__(self, rng: random.Random, got: bytearray) -> None:
        self.rng, self.got = rng, got
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.lost.set_result(None)
        else:
            self.lost.set_exception(exc)

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.meddle()

    def meddle(self) -> None:
        loop, chance = asyncio.get_running_loop(), self.rng.random()
        if chance < 0.2:
            loop.call_later(self.rng.random() / 500, self.pause)
        elif chance < 0.6:
            self.pause()

    def pause(self) -> None:
        self.transport.pause_reading()
        chance = self.rng.random()
        if chance < 0.3:
            self.transport.resume_reading()
        elif chance < 0.6:
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)
        else:
            asyncio.get_running_loop().call_later(
                self.rng.random() / 500, self.transport.resume_reading
            )


class ReadsIntoBuffers(asyncio.BufferedProtocol):
    """The same, into buffers that are filled to the last byte now and then."""

    def __init__(self, rng: random.Random, got: bytearray) -> None:
        self.other = Reads(rng, got)
        self.lost = self.other.lost
        self.connection_made = self.other.connection_made  # type: ignore[method-assign]
        self.connection_lost = self.other.connection_lost  # type: ignore[method-assign]
        self.buffer = bytearray()

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(self.other.rng.choice(SIZES))
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.other.data_received(bytes(self.buffer[:nbytes]))


async def read_by(make: Any, rng: random.Random, sock: socket.socket, got: bytearray) -> None:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: make(rng, got), sock=sock)
    await protocol.lost


async def read_by_protocol(rng: random.Random, sock: socket.socket, got: bytearray) -> None:
    await read_by(Reads, rng, sock, got)


async def read_by_buffers(rng: random.Random, sock: socket.socket, got: bytearray) -> None:
    await read_by(ReadsIntoBuffers, rng, sock, got)


async def read_by_stream(rng: random.Random, sock: socket.socket, got: bytearray) -> None:
    reader, writer = await asyncio.open_connection(sock=sock, limit=rng.choice(SIZES[:6]))
    try:
        while data := await patiently(rng, lambda: reader.read(rng.choice(SIZES))):
            got += data
    finally:
        writer.close()


READERS = [read_by_calls, read_by_lines, read_by_protocol, read_by_buffers, read_by_stream]


@pytest.mark.parametrize("read", READERS)
def test_every_byte_and_the_end_arrive(run_ours: Run, read: Any) -> None:
    async def one(seed: int) -> None:
        rng = random.Random(seed)
        ours, theirs = pair()
        peer = Peer(random.Random(seed + 1), theirs, read)
        got, was_reset = bytearray(), False
        peer.start()
        try:
            await read(rng, ours, got)
        except ConnectionResetError:
            was_reset = True
        finally:
            ours.close()
        await asyncio.to_thread(peer.join)
        assert was_reset == peer.resets, seed
        if read is read_by_lines and not peer.sent.endswith(b"\n"):
            peer.sent += b"\n"
        assert peer.sent.startswith(got), seed
        assert len(got) == len(peer.sent) or was_reset, seed

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(0, 24, 2):
                group.create_task(one(seed))

    run_ours(main())
