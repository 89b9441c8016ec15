"""TLS: what an established connection does with data, each test on asyncio's own loop, too.

The other end is a bare socket with an SSLObject, so that a test decides what arrives together.
What holds for pyloop alone is at the end.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from asyncio import sslproto
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from asyncio_support import Noting, Run, make_loop, turns
from support import socketpair, tls_contexts

from pyloop._tls import SSLProtocol, SSLTransport

RECORD = 16 * 1024  # what a record holds at most


class Taking(Noting):
    """Keeps what has come."""

    def __init__(self, **on: Callable[[Any], Any]) -> None:
        super().__init__(**on)
        self.data = b""

    async def until_data(self, data: bytes) -> None:
        await self.until(lambda: len(self.data) >= len(data))
        assert self.data == data

    def eof_received(self) -> Any:
        return self.note("eof")


class Plain(Taking, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        self.note("data")


class Buffered(Taking, asyncio.BufferedProtocol):
    """Reads into `buffer`, a memoryview unless a test puts something else there."""

    buffer: Any = None

    def get_buffer(self, sizehint: int) -> Any:
        if self.buffer is None:
            self.buffer = memoryview(bytearray(100_000))
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += bytes(self.buffer[:nbytes])
        self.note("data")


both_kinds = pytest.mark.parametrize("kind", [Plain, Buffered])


class Pair:
    """A protocol with its TLS transport, the server, and the other end, a client."""

    def __init__(self, certificate: Path, protocol: type[Taking] = Plain, **on: Any) -> None:
        self.for_server, for_client = tls_contexts(certificate)
        self.mine, self.peer = socketpair()
        self.factory = lambda: protocol(**on)
        self.contexts: list[dict[str, Any]] = []
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = for_client.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    async def __aenter__(self) -> Pair:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: self.contexts.append(context))
        (self.transport, self.protocol), _ = cast(
            tuple[tuple[Any, Any], None],
            await asyncio.gather(
                self.loop.connect_accepted_socket(
                    cast(Any, self.factory), self.mine, ssl=self.for_server
                ),
                self.repeat(self.tls.do_handshake),
            ),
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.transport.abort()
        await self.protocol.lost
        self.peer.close()
        await turns(2)

    async def repeat(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call it until nothing more has to arrive for that."""
        while True:
            try:
                result = call(*args)
            except ssl.SSLWantReadError:
                await self.send_raw(self.outgoing.read())
                data = await self.loop.sock_recv(self.peer, 65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
                continue
            await self.send_raw(self.outgoing.read())
            return result

    def encrypt(self, *pieces: bytes) -> bytes:
        """What goes over the wire for them, a record for each."""
        for piece in pieces:
            assert self.tls.write(piece) == len(piece)
        return self.outgoing.read()

    async def send_raw(self, data: bytes) -> None:
        if data:
            await self.loop.sock_sendall(self.peer, data)

    async def send(self, *pieces: bytes) -> None:
        """A record for each, at once."""
        await self.send_raw(self.encrypt(*pieces))

    async def receive(self, n: int) -> bytes:
        """n bytes, or what came before the end."""
        data = b""
        while len(data) < n:
            try:
                piece = await self.repeat(self.tls.read, n - len(data))
            except ssl.SSLError:
                break
            if not piece:
                break
            data += piece
        return data

    async def records(self) -> list[int]:
        """The sizes of the next records that have arrived, as they are on the wire."""
        data = await self.loop.sock_recv(self.peer, 1_000_000)
        sizes = []
        while data:
            sizes.append(int.from_bytes(data[3:5], "big"))
            data = data[5 + sizes[-1] :]
        return sizes


# --- reading ------------------------------------------------------------------------------------


@both_kinds
def test_records_that_arrive_together_are_one_call(
    run: Run, certificate: Path, kind: type[Taking]
) -> None:
    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            await pair.send(b"one")
            await pair.protocol.until_data(b"one")
            await pair.send(b"two", b"three", b"four")
            await pair.protocol.until_data(b"onetwothreefour")
            assert pair.protocol.calls == ["made", "data", "data"]

    run(main())


@both_kinds
def test_a_record_in_pieces(run: Run, certificate: Path, kind: type[Taking]) -> None:
    """Cut in its header, in the middle, and with the start of the next."""

    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            wire = pair.encrypt(b"first" * 100, b"second")
            end = wire.index(b"\x17\x03\x03", 5)
            start = 0
            for cut in (3, 5, 200, end, end + 2, len(wire)):
                assert not pair.protocol.data or start >= end
                await pair.send_raw(wire[start:cut])
                await turns(5)
                start = cut
            await pair.protocol.until_data(b"first" * 100 + b"second")
            assert pair.protocol.calls == ["made", "data", "data"]

    run(main())


@both_kinds
def test_byte_by_byte(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            for byte in pair.encrypt(b"slowly", b"!"):
                await pair.send_raw(bytes([byte]))
                await turns(2)
            await pair.protocol.until_data(b"slowly!")

    run(main())


@both_kinds
@pytest.mark.parametrize("size", [RECORD - 1, RECORD, 5 * RECORD + 7])
def test_full_records(run: Run, certificate: Path, kind: type[Taking], size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]

    def echo(protocol: Taking) -> None:
        protocol.transport.write(protocol.data[-new_bytes(protocol) :])

    def new_bytes(protocol: Taking) -> int:
        new = len(protocol.data) - sum(sent)
        sent.append(new)
        return new

    sent: list[int] = []

    async def main() -> None:
        async with Pair(certificate, kind, data=echo) as pair:
            pieces = [data[i : i + RECORD] for i in range(0, size, RECORD)]
            received, _ = await asyncio.gather(pair.receive(size), pair.send(*pieces))
            assert received == data
            await pair.protocol.until_data(data)

    run(main())


@both_kinds
def test_the_end_comes_with_the_data(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            wire = pair.encrypt(b"last")
            with pytest.raises(ssl.SSLWantReadError):
                pair.tls.unwrap()
            await pair.send_raw(wire + pair.outgoing.read())
            assert await pair.protocol.lost is None
            assert pair.protocol.data == b"last"
            assert pair.protocol.calls == ["made", "data", "eof", "lost"]
            assert not pair.contexts

    run(main())


@both_kinds
def test_the_end_comes_alone(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            await pair.repeat(pair.tls.unwrap)
            assert await pair.protocol.lost is None
            assert pair.protocol.calls == ["made", "eof", "lost"]

    run(main())


@both_kinds
def test_the_peer_is_gone_without_a_word(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            await pair.send(b"last")
            pair.peer.close()
            await pair.protocol.lost
            assert pair.protocol.data == b"last"
            assert pair.protocol.calls[:2] == ["made", "data"]
            assert pair.protocol.calls[-1] == "lost"

    run(main())


@both_kinds
def test_bytes_that_are_no_record(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        async with Pair(certificate, kind) as pair:
            await pair.send(b"good")
            await pair.protocol.until_data(b"good")
            await pair.send_raw(b"GET / HTTP/1.1\r\n\r\n")
            assert isinstance(await pair.protocol.lost, ssl.SSLError)
            assert pair.protocol.calls == ["made", "data", "lost"]

    run(main())


@both_kinds
def test_close_while_data_arrives(run: Run, certificate: Path, kind: type[Taking]) -> None:
    def answer_and_close(protocol: Taking) -> None:
        protocol.transport.write(b"bye")
        protocol.transport.close()
        protocol.transport.write(b"too late")

    async def main() -> None:
        async with Pair(certificate, kind, data=answer_and_close) as pair:
            await pair.send(b"one", b"two")
            assert await pair.receive(100) == b"bye"
            await pair.repeat(pair.tls.unwrap)
            assert await pair.protocol.lost is None
            assert pair.protocol.data == b"onetwo"
            assert pair.protocol.calls[:2] == ["made", "data"]
            assert not pair.contexts

    run(main())


@both_kinds
def test_abort_while_data_arrives(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        async with Pair(certificate, kind, data=lambda p: p.transport.abort()) as pair:
            await pair.send(b"one")
            assert await pair.protocol.lost is None
            assert pair.protocol.calls == ["made", "data", "lost"]
            assert not pair.contexts

    run(main())


@both_kinds
def test_pause_reading_while_data_arrives(run: Run, certificate: Path, kind: type[Taking]) -> None:
    """What comes meanwhile is delivered at once when reading goes on."""

    async def main() -> None:
        async with Pair(certificate, kind, data=lambda p: p.transport.pause_reading()) as pair:
            await pair.send(b"one")
            await pair.protocol.until_data(b"one")
            assert not pair.transport.is_reading()
            await pair.send(b"two")
            await pair.send(b"three")
            await turns(10)
            assert pair.protocol.calls == ["made", "data"]
            assert pair.transport.get_read_buffer_size() > 0
            pair.transport.resume_reading()
            await pair.protocol.until_data(b"onetwothree")
            assert pair.protocol.calls == ["made", "data", "data"]

    run(main())


@both_kinds
def test_a_protocol_that_raises(run: Run, certificate: Path, kind: type[Taking]) -> None:
    error = ValueError("no")

    def fail(protocol: Taking) -> None:
        raise error

    async def main() -> None:
        async with Pair(certificate, kind, data=fail) as pair:
            await pair.send(b"one")
            assert await pair.protocol.lost is error
            assert pair.protocol.calls == ["made", "data", "lost"]
            (context,) = pair.contexts
            assert context["message"] == "Fatal error on SSL protocol"
            assert context["exception"] is error
            assert isinstance(context["protocol"], sslproto.SSLProtocol)

    run(main())


@both_kinds
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("loop_kind", ["epoll", "asyncio"])
def test_what_ends_the_loop_passes_through(
    certificate: Path, kind: type[Taking], error: type[BaseException], loop_kind: str
) -> None:
    def interrupt(protocol: Taking) -> None:
        raise error

    async def exchange(pair: Pair) -> None:
        await pair.send(b"one")
        await pair.protocol.lost

    loop = make_loop(loop_kind)
    try:
        pair = Pair(certificate, kind, data=interrupt)
        loop.run_until_complete(pair.__aenter__())
        task = loop.create_task(exchange(pair))
        with pytest.raises(error):
            loop.run_until_complete(task)
        assert not pair.contexts
        loop.run_until_complete(pair.__aexit__())
        loop.run_until_complete(task)
    finally:
        loop.close()


def test_another_protocol_while_data_arrives(run: Run, certificate: Path) -> None:
    """From one kind to the other and back; each gets what came while it was set."""

    async def main() -> None:
        buffered = Buffered()
        plain = Plain()

        async with Pair(certificate, data=lambda p: p.transport.set_protocol(buffered)) as pair:
            buffered.on["data"] = lambda p: pair.transport.set_protocol(plain)
            await pair.send(b"one")
            await pair.protocol.until_data(b"one")
            await pair.send(b"two")
            await buffered.until_data(b"two")
            await pair.send(b"three")
            await plain.until_data(b"three")
            assert pair.protocol.calls == ["made", "data"]
            pair.transport.set_protocol(pair.protocol)

    run(main())


def test_a_buffer_smaller_than_a_record(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async with Pair(certificate, Buffered) as pair:
            pair.protocol.buffer = memoryview(bytearray(1000))
            data = bytes(range(250)) * 20
            await pair.send(data[:3500], data[3500:])
            await pair.protocol.until_data(data)
            assert pair.protocol.calls == ["made"] + ["data"] * 5

    run(main())


def test_reading_stops_at_the_high_water_mark(run: Run, certificate: Path) -> None:
    """Where the application takes less at a time than arrives."""

    async def main() -> None:
        async with Pair(certificate, Buffered) as pair:
            raw = pair.transport._ssl_protocol._transport
            reads: list[bool] = []
            pair.protocol.on["data"] = lambda p: reads.append(raw.is_reading())
            pair.protocol.buffer = memoryview(bytearray(1000))
            pair.transport.set_read_buffer_limits(1000)
            data = bytes(range(250)) * 20
            await pair.send(data[:1000], data[1000:2000], data[2000:])
            await pair.protocol.until_data(data)
            # The last record leaves the buffer as a whole.
            assert reads == [True, False, False, True, True]
            await pair.send(b"and so on")
            await pair.protocol.until_data(data + b"and so on")

    run(main())


class Answering(ssl.SSLObject):
    """Has something to send of its own when something has arrived, as after a request for new
    keys."""

    def read(self, *args: Any) -> Any:
        result = super().read(*args)
        self.write(b"yes")
        return result


@both_kinds
def test_what_reading_has_to_send(run: Run, certificate: Path, kind: type[Taking]) -> None:
    async def main() -> None:
        pair = Pair(certificate, kind)
        pair.for_server.sslobject_class = Answering
        async with pair:
            await pair.send(b"one")
            assert await pair.receive(3) == b"yes"
            await pair.protocol.until_data(b"one")

    run(main())


def test_an_empty_buffer_ends_the_connection(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async with Pair(certificate, Buffered) as pair:
            pair.protocol.buffer = bytearray()
            await pair.send(b"one")
            await pair.protocol.until(lambda: "eof" in pair.protocol.calls)
            assert pair.transport.is_closing()

    run(main())


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [1, RECORD, RECORD + 1, 300_000])
def test_write(run: Run, certificate: Path, kind: Callable[[bytes], Any], size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]

    async def main() -> None:
        async with Pair(certificate) as pair:
            pair.transport.write(kind(data))
            pair.transport.write(kind(b"more"))
            assert await pair.receive(size + 4) == data + b"more"
            assert pair.transport.get_write_buffer_size() == 0

    run(main())


def test_writelines(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async with Pair(certificate) as pair:
            pair.transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three")])
            pair.transport.writelines(iter([b" four"]))
            pair.transport.writelines([])
            assert await pair.receive(18) == b"one two three four"

    run(main())


def test_what_cannot_be_written(run: Run, certificate: Path) -> None:
    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.num_tickets = 0
        async with pair:
            for bad in ("text", 5, None, [b"bytes"]):
                with pytest.raises(TypeError, match="expecting a bytes-like instance, got"):
                    pair.transport.write(bad)
            for empty in (b"", bytearray(), memoryview(b"")):
                pair.transport.write(empty)
            await turns(5)
            with pytest.raises(BlockingIOError):
                pair.peer.recv(1)
            pair.transport.write(b"good")
            assert await pair.receive(4) == b"good"

    run(main())


def test_write_after_the_end_is_quiet(
    run: Run, certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Pair(certificate) as pair:
            pair.transport.abort()
            pair.transport.write(b"lost")
            await pair.protocol.lost
            for _ in range(10):
                pair.transport.write(b"lost")
                pair.transport.writelines([b"lost"])
            assert not pair.contexts

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        run(main())
    assert {record.message for record in caplog.records} == {"SSL connection is closed"}


def test_the_writer_is_paused_while_the_peer_does_not_read(run: Run, certificate: Path) -> None:
    """The transport below refuses first, then what is encrypted piles up to the high-water mark."""

    async def main() -> None:
        async with Pair(certificate) as pair:
            piece = bytes(50_000)
            written = 0
            while "pause" not in pair.protocol.calls:
                pair.transport.write(piece)
                written += len(piece)
            assert pair.transport.get_write_buffer_size() >= 512 * 1024
            pair.transport.write(b"while paused")
            assert await pair.receive(written + 12) == bytes(written) + b"while paused"
            await pair.protocol.until(lambda: "resume" in pair.protocol.calls)
            assert pair.protocol.calls == ["made", "pause", "resume"]
            pair.transport.write(b"after it")
            assert await pair.receive(8) == b"after it"

    run(main())


class Reluctant(ssl.SSLObject):
    """Writes `records` more, one at a time, and then cannot for a while, as in the middle of a new
    negotiation."""

    records = sys.maxsize

    def write(self, data: Any) -> int:
        if Reluctant.records == 0:
            raise ssl.SSLWantReadError
        Reluctant.records -= 1
        return super().write(memoryview(data)[:RECORD])


@pytest.fixture
def reluctant(monkeypatch: pytest.MonkeyPatch) -> type[Reluctant]:
    monkeypatch.setattr(Reluctant, "records", sys.maxsize)
    return Reluctant


def test_what_cannot_be_written_yet_goes_when_something_has_arrived(
    run: Run, certificate: Path, reluctant: type[Reluctant]
) -> None:
    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.sslobject_class = reluctant
        async with pair:
            pair.transport.write(b"one ")
            assert await pair.receive(4) == b"one "
            reluctant.records = 0
            pair.transport.write(b"two ")
            pair.transport.writelines([b"three ", b"four "])
            await turns(5)
            assert pair.transport.get_write_buffer_size() == 15
            reluctant.records = sys.maxsize
            pair.transport.write(b"five ")  # not before the others
            await pair.send(b"go on")
            assert await pair.receive(20) == b"two three four five "
            assert pair.transport.get_write_buffer_size() == 0
            pair.transport.write(b"six")
            assert await pair.receive(3) == b"six"

    run(main())


def test_a_long_write_that_stops_half_way(
    run: Run, certificate: Path, reluctant: type[Reluctant]
) -> None:
    data = bytes(range(200)) * 200

    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.sslobject_class = reluctant
        async with pair:
            reluctant.records = 1
            pair.transport.write(data)
            assert pair.transport.get_write_buffer_size() == len(data) - RECORD
            assert await pair.receive(RECORD) == data[:RECORD]
            reluctant.records = sys.maxsize
            await pair.send(b"go on")
            assert await pair.receive(len(data) - RECORD) == data[RECORD:]
            assert pair.transport.get_write_buffer_size() == 0

    run(main())


def test_what_was_written_goes_before_the_end(
    run: Run, certificate: Path, reluctant: type[Reluctant]
) -> None:
    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.sslobject_class = reluctant
        async with pair:
            reluctant.records = 0
            pair.transport.write(b"kept back")
            reluctant.records = sys.maxsize
            pair.transport.close()
            assert await pair.receive(100) == b"kept back"

    run(main())


class Broken(ssl.SSLObject):
    def write(self, data: Any) -> int:
        raise ssl.SSLError("broken")


def test_an_error_in_writing_closes(run: Run, certificate: Path) -> None:
    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.sslobject_class = Broken
        async with pair:
            pair.transport.write(b"one")
            pair.transport.write(b"two")
            assert isinstance(await pair.protocol.lost, ssl.SSLError)
            assert pair.protocol.calls == ["made", "lost"]

    run(main())


# --- ours alone ---------------------------------------------------------------------------------


def test_every_way_to_tls_is_the_short_one(run_ours: Run, certificate: Path) -> None:
    async def main() -> None:
        for_server, for_client = tls_contexts(certificate)
        made: list[Any] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made.append(writer.transport)
            await reader.read()
            writer.close()

        async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await writer.start_tls(for_server)
            await serve(reader, writer)

        name = "localhost"
        for server in (
            await asyncio.start_server(serve, "127.0.0.1", 0, ssl=for_server),
            await asyncio.start_server(upgrade, "127.0.0.1", 0),
        ):
            address = server.sockets[0].getsockname()
            if len(made) == 0:
                _, writer = await asyncio.open_connection(
                    *address, ssl=for_client, server_hostname=name
                )
            else:
                _, writer = await asyncio.open_connection(*address)
                await writer.start_tls(for_client, server_hostname=name)
            made.append(writer.transport)
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
        assert len(made) == 4
        assert {type(transport) for transport in made} == {SSLTransport}

    run_ours(main())


def test_a_read_stops_where_nothing_more_can_have_come(run_ours: Run, certificate: Path) -> None:
    """One call for a record, where asking until SSLWantReadError makes two."""

    class Counting(ssl.SSLObject):
        def read(self, *args: Any) -> Any:
            reads.append(args)
            return super().read(*args)

    reads: list[Any] = []

    async def main(kind: type[Taking]) -> None:
        pair = Pair(certificate, kind)
        pair.for_server.sslobject_class = Counting
        async with pair:
            for n, records in enumerate(([b"one"], [bytes(RECORD)], [b"two", b"three"]), 1):
                reads.clear()
                await pair.send(*records)
                await pair.protocol.until(lambda n=n: pair.protocol.calls.count("data") == n)
                assert len(reads) == len(records)

    run_ours(main(Plain))
    run_ours(main(Buffered))


def test_pieces_of_writelines_share_a_record(run_ours: Run, certificate: Path) -> None:
    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.num_tickets = 0
        async with pair:
            pair.transport.writelines([b"head", b"body" * 10, b"tail"])
            (size,) = await pair.records()
            assert size < 100

    run_ours(main())


def test_writelines_writes_all_or_nothing(run_ours: Run, certificate: Path) -> None:
    """asyncio queues what comes before a bad item, and the item, which then ends the connection."""

    async def main() -> None:
        async with Pair(certificate) as pair:
            for bad in (5, "text", None):
                with pytest.raises(TypeError, match="expected a bytes-like object"):
                    pair.transport.writelines([b"one", bad])
            pair.transport.writelines([b"good"])
            assert await pair.receive(4) == b"good"

    run_ours(main())


def test_a_plain_bytearray_as_buffer_for_several_records(run_ours: Run, certificate: Path) -> None:
    """A slice of it is a copy: asyncio reads the second record into that."""

    async def main() -> None:
        async with Pair(certificate, Buffered) as pair:
            pair.protocol.buffer = bytearray(100_000)
            await pair.send(b"one", b"two", b"three")
            await pair.protocol.until_data(b"onetwothree")
            assert pair.protocol.calls == ["made", "data"]

    run_ours(main())


def test_what_waits_to_be_written_does_not_change(
    run_ours: Run, certificate: Path, reluctant: type[Reluctant]
) -> None:
    async def main() -> None:
        pair = Pair(certificate)
        pair.for_server.sslobject_class = reluctant
        async with pair:
            data = bytearray(b"before")
            reluctant.records = 0
            pair.transport.write(data)
            pair.transport.write(memoryview(data))
            data[:] = b"AFTER!"
            reluctant.records = sys.maxsize
            await pair.send(b"go on")
            assert await pair.receive(12) == b"beforebefore"

    run_ours(main())


def test_a_high_water_mark_of_zero(run_ours: Run, certificate: Path) -> None:
    """Pauses when something is queued, as documented, and not when nothing is, as in asyncio."""

    async def main() -> None:
        async with Pair(certificate) as pair:
            pair.transport.set_write_buffer_limits(0)
            pair.transport.set_read_buffer_limits(0)
            for _ in range(3):
                pair.transport.write(b"data")
                assert await pair.receive(4) == b"data"
            await pair.send(b"still read")
            await pair.protocol.until_data(b"still read")
            assert pair.protocol.calls == ["made", "data"]
            written = 0
            while "pause" not in pair.protocol.calls:
                pair.transport.write(bytes(50_000))
                written += 50_000
            assert await pair.receive(written) == bytes(written)
            await pair.protocol.until(lambda: pair.protocol.calls[-1] == "resume")

    run_ours(main())


def test_what_others_have_made_of_a_connection_is_left_alone(
    run_ours: Run, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Theirs(sslproto.SSLProtocol):
        pass

    async def main() -> None:
        for_server, for_client = tls_contexts(certificate)

        async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await writer.start_tls(for_server)
            writer.write(await reader.readexactly(4))
            await reader.read()
            writer.close()

        server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
        monkeypatch.setattr(sslproto, "SSLProtocol", Theirs)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await writer.start_tls(for_client, server_hostname="localhost")
        protocol: Any = writer.transport._ssl_protocol  # type: ignore[attr-defined]
        assert type(protocol) is Theirs
        assert not isinstance(protocol, SSLProtocol)
        writer.write(b"echo")
        assert await reader.readexactly(4) == b"echo"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run_ours(main())
