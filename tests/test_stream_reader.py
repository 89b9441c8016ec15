"""asyncio's StreamReader fed by a stream transport: what every state of it does with what comes.

Each test runs on asyncio's own loop too, which feeds it by calling its methods.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from collections.abc import Iterator
from typing import Any

import face_support
import pytest
from asyncio_support import Run
from face_support import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    with face_support.pair() as ends:
        yield ends


class Reports(face_support.Reports):
    async def first(self) -> dict[str, Any]:
        while not self.contexts:
            await asyncio.sleep(0.001)
        return self.contexts[0]


async def buffered(reader: Any, n: int) -> None:
    """Until the reader has that many bytes, which nobody takes."""
    while len(reader._buffer) < n:
        await asyncio.sleep(0.001)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_what_is_sent_is_read_however_it_is_cut(run: Run, pair: Pair) -> None:
    chance = random.Random(1)
    sent = chance.randbytes(300_000)

    async def write(writer: asyncio.StreamWriter) -> None:
        rest = sent
        while rest:
            n = chance.randrange(1, 9000)
            writer.write(rest[:n])
            rest = rest[n:]
            await writer.drain()
        await end(writer)

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection(sock=pair[0], limit=2000)
        _, other = await asyncio.open_connection(sock=pair[1])
        task = asyncio.create_task(write(other))
        got = []
        while block := await reader.read(chance.randrange(1, 5000)):
            got.append(block)
        await task
        await end(writer)
        return b"".join(got)

    assert run(main()) == sent


def test_a_full_reader_pauses_its_transport(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=pair[0], limit=10)
        peer = pair[1]
        peer.send(b"x" * 20)
        await buffered(reader, 20)
        assert writer.transport.is_reading()  # type: ignore[attr-defined]
        peer.send(b"x")
        await buffered(reader, 21)
        assert not writer.transport.is_reading()  # type: ignore[attr-defined]
        assert await reader.readexactly(11) == b"x" * 11
        assert writer.transport.is_reading()  # type: ignore[attr-defined]
        await end(writer)

    run(main())


def test_a_reader_that_was_cancelled_loses_nothing(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=pair[0])
        task = asyncio.create_task(reader.read(100))
        await asyncio.sleep(0)
        # Its waiter is cancelled, and there is no turn in which it could say so.
        task.cancel()
        pair[1].send(b"one")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await reader.readexactly(3) == b"one"
        await end(writer)

    run(main())


def test_a_cancelled_waiter_is_passed_over(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reports = Reports()
        reader: Any
        reader, writer = await asyncio.open_connection(sock=pair[0])
        waiter = asyncio.get_running_loop().create_future()
        waiter.cancel()
        reader._waiter = waiter
        pair[1].send(b"one")
        await buffered(reader, 3)
        assert reader._waiter is None
        assert await reader.read(100) == b"one"
        assert not reports.contexts
        await end(writer)

    run(main())


def test_a_waiter_that_is_done_is_an_error(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reports = Reports()
        reader: Any
        reader, writer = await asyncio.open_connection(sock=pair[0])
        reader._waiter = asyncio.get_running_loop().create_future()
        reader._waiter.set_result(None)
        pair[1].send(b"one")
        context = await reports.first()
        assert context["message"] == "Fatal error: protocol.data_received() call failed."
        assert type(context["exception"]) is asyncio.InvalidStateError
        assert str(context["exception"]) == "invalid state"
        await asyncio.sleep(0)
        assert writer.is_closing()

    run(main())


def test_data_after_the_end_was_fed_is_an_error(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reports = Reports()
        reader, writer = await asyncio.open_connection(sock=pair[0])
        reader.feed_eof()
        pair[1].send(b"one")
        context = await reports.first()
        assert type(context["exception"]) is AssertionError
        assert str(context["exception"]) == "feed_data after feed_eof"
        assert writer.is_closing()

    run(main())


def test_a_buffer_that_somebody_looks_at_cannot_grow(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reports = Reports()
        reader: Any
        reader, writer = await asyncio.open_connection(sock=pair[0])
        pair[1].send(b"one")
        await buffered(reader, 3)
        with memoryview(reader._buffer) as view:
            pair[1].send(b"two")
            context = await reports.first()
            assert bytes(view) == b"one"
        assert type(context["exception"]) is BufferError
        assert writer.is_closing()

    run(main())


def test_what_comes_for_a_reader_that_is_gone_is_dropped(run: Run, pair: Pair) -> None:
    async def main() -> None:
        reports = Reports()
        reader, writer = await asyncio.open_connection(sock=pair[0])
        del reader
        writer._reader = None  # type: ignore[attr-defined]
        gc.collect()
        pair[1].send(b"one")
        with pytest.raises(BlockingIOError):
            while pair[0].recv(1, socket.MSG_PEEK):
                await asyncio.sleep(0.001)
        assert not reports.contexts
        assert not writer.is_closing()
        await end(writer)

    run(main())


@pytest.mark.parametrize("place", ["class", "object"])
@pytest.mark.parametrize("method", ["data_received", "feed_data"])
def test_methods_of_the_users_own_are_called(
    place: str, method: str, run: Run, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=pair[0])
        obj: Any = reader if method == "feed_data" else writer.transport.get_protocol()
        pair[1].send(b"one")
        assert await reader.read(100) == b"one"

        called = []
        original = getattr(obj, method)
        if place == "object":

            def of_object(data: bytes) -> None:
                called.append(data)
                original(data.upper())

            setattr(obj, method, of_object)
        else:
            function = getattr(type(obj), method)

            def of_class(self: Any, data: bytes) -> None:
                called.append(data)
                function(self, data.upper())

            monkeypatch.setattr(type(obj), method, of_class)
        pair[1].send(b"two")
        assert await reader.read(100) == b"TWO"
        assert called == [b"two"]
        if place == "object":
            delattr(obj, method)
        else:
            monkeypatch.undo()
        pair[1].send(b"three")
        assert await reader.read(100) == b"three"
        await end(writer)

    run(main())


@pytest.mark.parametrize("method", ["data_received", "feed_data"])
def test_methods_of_another_object_are_called(method: str, run: Run, pair: Pair) -> None:
    """They are the same functions, bound to who is to get the data instead."""

    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=pair[0])
        other = asyncio.StreamReader()
        subject: Any = reader
        instead: Any = other
        if method == "data_received":
            subject = writer.transport.get_protocol()
            instead = asyncio.StreamReaderProtocol(other)
        setattr(subject, method, getattr(instead, method))
        pair[1].send(b"data")
        assert await other.readexactly(4) == b"data"
        assert not reader._buffer  # type: ignore[attr-defined]
        await end(writer)

    run(main())


@pytest.mark.parametrize("attribute", ["_buffer", "_limit", "_waiter", "_eof"])
def test_a_reader_that_is_not_as_it_was_made(attribute: str, run: Run, pair: Pair) -> None:
    async def main() -> None:
        reports = Reports()
        reader, writer = await asyncio.open_connection(sock=pair[0])
        delattr(reader, attribute)
        pair[1].send(b"one")
        context = await reports.first()
        assert type(context["exception"]) is AttributeError
        assert attribute in str(context["exception"])
        assert writer.is_closing()

    run(main())


def test_a_buffer_of_another_type(run: Run, pair: Pair) -> None:
    class Loud(bytearray):
        extended = 0

        def extend(self, data: Any) -> None:
            self.extended += 1
            super().extend(data)

    async def main() -> None:
        reader: Any
        reader, writer = await asyncio.open_connection(sock=pair[0])
        loud = reader._buffer = Loud()
        pair[1].send(b"one")
        assert await reader.read(100) == b"one"
        assert loud.extended == 1
        await end(writer)

    run(main())


def test_derived_classes_keep_their_methods(run: Run, pair: Pair) -> None:
    class Shouting(asyncio.StreamReader):
        def feed_data(self, data: Any) -> None:
            super().feed_data(data.upper())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader = Shouting()
        transport, _ = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader), sock=pair[0]
        )
        pair[1].send(b"one")
        assert await reader.read(100) == b"ONE"
        transport.close()

    run(main())
