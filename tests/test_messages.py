"""Received messages are made of those that nobody has any more: nobody may notice."""

import asyncio
import gc
import random
import socket
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyloop

SIZES = (1, 2, 3, 100, 479, 480, 1024, 2047, 2048, 2049, 5000)

Keep = list[tuple[bytes, bytearray, int]]


def remember(kept: Keep, data: bytes, sent: bytes) -> None:
    kept.append((data, bytearray(sent), hash(sent)))


def check(kept: Keep) -> None:
    for data, content, number in kept:
        assert data == content
        assert len(data) == len(content)
        assert hash(data) == number
        assert bytes(memoryview(data)) == content


@given(st.lists(st.tuples(st.sampled_from(SIZES), st.integers(0, 3)), max_size=60))
def test_message_that_is_kept_never_changes(steps: list[tuple[int, int]]) -> None:
    kept: Keep = []

    async def main() -> None:
        ours, peer = socket.socketpair()
        with ours, peer:
            for i, (size, what) in enumerate(steps):
                sent = bytes([i]) * size
                peer.send(sent)
                data = await pyloop.recv(ours, 65536)
                assert data == sent
                assert {data: i}[sent] == i  # hashed, which a later message must not inherit
                if what == 0:
                    remember(kept, data, sent)
                elif what == 1 and kept:
                    kept.pop(len(kept) // 2)
                elif what == 2:
                    check(kept)
            check(kept)

    pyloop.run(main())
    check(kept)


def test_more_messages_are_kept_than_a_loop_makes_again() -> None:
    kept: Keep = []
    seed = random.Random(1)

    async def main() -> None:
        ours, peer = socket.socketpair()
        with ours, peer:
            for i in range(2000):
                sent = i.to_bytes(2, "little") * seed.choice((50, 500))
                peer.send(sent)
                remember(kept, await pyloop.recv(ours, 65536), sent)
                if len(kept) > 300 or (i // 100) % 3 == 0:
                    kept.pop(seed.randrange(len(kept)))
            check(kept)

    pyloop.run(main())
    check(kept)


def test_view_of_a_message_keeps_it() -> None:
    async def main() -> None:
        ours, peer = socket.socketpair()
        views = []
        with ours, peer:
            for i in range(300):
                peer.send(bytes([i % 256]) * 600)
                views.append(memoryview(await pyloop.recv(ours, 65536)))
            assert all(view == bytes([i % 256]) * 600 for i, view in enumerate(views))

    pyloop.run(main())


class Stream(asyncio.Protocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.take = take

    def data_received(self, data: bytes) -> None:
        self.take(data)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.take = take

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.take(data)


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_protocol_may_keep_what_it_is_given(kind: str) -> None:
    kept: Keep = []

    async def main() -> None:
        transport: asyncio.BaseTransport
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        type_ = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
        ours, peer = socket.socketpair(socket.AF_UNIX, type_)
        with peer:
            if kind == "stream":
                transport, _ = await loop.create_connection(
                    lambda: Stream(arrived.put_nowait), sock=ours
                )
            else:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: Datagrams(arrived.put_nowait), sock=ours
                )
            for i in range(400):
                sent = bytes([i % 256]) * (2 + i * 7 % 2500)
                peer.send(sent)
                data = await arrived.get()
                while len(data) < len(sent):
                    data += await arrived.get()
                if i % 3:
                    remember(kept, data, sent)
                del data
            transport.close()

    with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
        runner.run(main())
    check(kept)


def test_loop_keeps_no_message_when_it_has_run() -> None:
    async def main() -> bytes:
        ours, peer = socket.socketpair()
        with ours, peer:
            peer.send(b"x" * 700)
            return await pyloop.recv(ours, 65536)

    with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
        data = runner.run(main())
        gc.collect()
        assert sys.getrefcount(data) <= 2
        assert data == b"x" * 700
