"""Stream transports: asyncio's semantics, shown by running each test on asyncio's own loop too.

What holds for pyloop alone (one system call for a turn's writes, a copy of what may change) is
at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import logging
import os
import socket
import struct
import sys
import warnings
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from asyncio_support import Recorder, Run, make_loop, turns
from support import fill_socket, listener, socketpair, tls_contexts

import pyloop
from pyloop._transport import StreamTransport

Contexts = list[dict[str, Any]]


class Pair:
    """A protocol with a transport, and the bare socket at the other end."""

    def __init__(self, **on: Callable[..., Any]) -> None:
        self.mine, self.peer = socketpair()
        self.on = on
        self.contexts: Contexts = []

    async def __aenter__(self) -> Pair:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: self.contexts.append(context))
        self.protocol: Recorder
        self.transport: Any
        self.transport, self.protocol = await loop.create_connection(
            lambda: Recorder(**self.on), sock=self.mine
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.protocol.lost.done():
            self.transport.abort()
            await self.protocol.lost
        self.peer.close()
        await turns(2)

    async def received(self, n: int) -> bytes:
        """n bytes, or what came before the end."""
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < n:
            piece = await loop.sock_recv(self.peer, n - len(data))
            if not piece:
                break
            data += piece
        return data


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def tcp_pair(protocol: Recorder) -> tuple[Any, socket.socket]:
    """A transport for protocol over TCP, and the accepted socket of its peer."""
    loop = asyncio.get_running_loop()
    with listener() as listening:
        transport, _ = await loop.create_connection(lambda: protocol, *listening.getsockname())
        peer, _ = await loop.sock_accept(listening)
    return transport, peer


# --- making -------------------------------------------------------------------------------------


def test_it_is_ours_and_an_asyncio_transport(run_ours: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            bases = type(pair.transport).__mro__
            assert bases[0] is StreamTransport
            assert asyncio.Transport in bases
            pair.transport.mark = 1  # libraries keep things there
            wrapped = pair.transport.write
            pair.transport.write = lambda data: wrapped(data * 2)
            pair.transport.write(b"ab")
            assert await pair.received(4) == b"abab"
            assert weakref.ref(pair.transport)() is pair.transport

    run_ours(main())


def test_connection_made_comes_first_then_data_and_the_waiter(run: Run) -> None:
    async def main() -> list[str]:
        order = []
        async with Pair(
            made=lambda p: order.append("made"), data=lambda p, d: order.append("data")
        ) as pair:
            order.append("created")
            pair.peer.send(b"x")
            await pair.protocol.until(lambda: pair.protocol.data)
        return order

    assert run(main()) == ["made", "created", "data"]


def test_a_transport_paused_in_connection_made_reads_nothing(run: Run) -> None:
    async def main() -> None:
        async with Pair(made=lambda p: p.transport.pause_reading()) as pair:
            pair.peer.send(b"x")
            await turns(5)
            assert pair.protocol.data == b""
            assert not pair.transport.is_reading()
            pair.transport.resume_reading()
            pair.transport.resume_reading()
            await pair.protocol.until(lambda: pair.protocol.data)

    run(main())


def test_nodelay_is_set(run: Run) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tcp_pair(protocol)
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        transport.close()
        await protocol.lost
        peer.close()

    run(main())


def test_extra_info(run: Run) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tcp_pair(protocol)
        assert isinstance(transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        assert transport.get_extra_info("sockname") == peer.getpeername()
        assert transport.get_extra_info("peername") == peer.getsockname()
        assert transport.get_extra_info("nothing", 5) == 5
        transport.close()
        await protocol.lost
        peer.close()

    run(main())


def test_extra_info_is_there_after_the_end(run: Run) -> None:
    async def main() -> None:
        seen = []
        protocol = Recorder(lost=lambda p, exc: seen.append(p.transport.get_extra_info("peername")))
        transport, peer = await tcp_pair(protocol)
        names = peer.getsockname(), peer.getpeername()
        reset(peer)
        assert isinstance(await protocol.lost, ConnectionResetError)
        await turns(1)
        assert seen == [names[0]]
        assert transport.get_extra_info("sockname") == names[1]
        assert transport.get_extra_info("socket").fileno() == -1

    run(main())


def test_private_names(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            transport = pair.transport
            assert transport._loop is asyncio.get_running_loop()
            assert transport._protocol is pair.protocol is transport.get_protocol()
            assert transport._sock is pair.mine
            assert transport._sock_fd == pair.mine.fileno()
            assert transport._extra["peername"] == ""
            assert (transport._server, transport._conn_lost) == (None, 0)
            assert (transport._eof, transport._paused, transport._closing) == (False,) * 3
            assert len(transport._buffer) == 0
            transport.close()
            await pair.protocol.lost
            await turns(1)
            assert [transport._loop, transport._protocol, transport._sock] == [None] * 3

    run(main())


def test_repr(run: Run) -> None:
    async def main() -> list[str]:
        async with Pair() as pair:
            reprs = [repr(pair.transport)]
            pair.transport.pause_reading()
            reprs.append(repr(pair.transport))
            pair.transport.resume_reading()
            free = bytes(4_000_000)
            pair.transport.write(free)
            reprs.append(repr(pair.transport).split(", bufsize")[0])
            pair.transport.close()
            reprs.append(repr(pair.transport).split(", bufsize")[0])
            pair.transport.abort()
            await pair.protocol.lost
            await turns(1)
            reprs.append(repr(pair.transport))
            fd = pair.transport._sock_fd
        return [text.replace(f"fd={fd}", "fd").split(maxsplit=1)[1] for text in reprs]

    assert run(main()) == [
        "fd read=polling write=<idle, bufsize=0>>",
        "fd read=idle write=<idle, bufsize=0>>",
        "fd read=polling write=<polling",
        "closing fd read=idle write=<polling",
        "closed fd>",
    ]


def test_the_descriptor_is_taken(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Pair() as pair:
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(pair.mine, print)
            if sys.version_info >= (3, 12) or isinstance(loop, pyloop.EventLoop):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await loop.create_connection(Recorder, sock=pair.mine)

    run(main())


# --- reading ------------------------------------------------------------------------------------


def test_eof_closes_unless_the_protocol_keeps_it_open(run: Run) -> None:
    async def main(keep: bool) -> list[Any]:
        async with Pair(eof=lambda p: keep) as pair:
            pair.peer.shutdown(socket.SHUT_WR)
            await pair.protocol.until(lambda: "eof" in pair.protocol.calls)
            await turns(3)
            closing = pair.transport.is_closing()
            if keep:
                pair.transport.write(b"answer")
                assert await pair.received(6) == b"answer"
            return [closing, list(pair.protocol.calls)]

    assert run(main(True)) == [False, ["made", "eof"]]
    assert run(main(False)) == [True, ["made", "eof", "lost"]]


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.data = b""
        self.hints: list[int] = []
        self.changed = asyncio.Event()
        self.lost: BaseException | str | None = "not yet"

    def get_buffer(self, sizehint: int) -> bytearray:
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        self.changed.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = exc
        self.changed.set()


def test_set_protocol_switches_between_the_kinds(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            plain, buffered = pair.protocol, Buffered(3)
            pair.peer.send(b"one")
            await plain.until(lambda: plain.data == b"one")
            pair.transport.set_protocol(buffered)
            assert pair.transport.get_protocol() is buffered
            pair.peer.send(b"two and three")
            while buffered.data != b"two and three":
                buffered.changed.clear()
                await buffered.changed.wait()
            assert set(buffered.hints) == {-1}
            pair.transport.set_protocol(plain)
            pair.peer.send(b"four")
            await plain.until(lambda: plain.data == b"onefour")

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no buffers in Python")
def test_a_buffer_that_ends_the_connection_gets_no_bytes_of_the_next(run_ours: Run) -> None:
    """Whose socket has the same number."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        mine, peer = socketpair()
        number = mine.fileno()
        others: list[socket.socket] = []

        class Buffer:
            def __init__(self) -> None:
                self.bytes = bytearray(100)

            def __len__(self) -> int:
                return 100

            def __buffer__(self, flags: int) -> memoryview:
                loop.close_socket(mine)
                others.extend(socketpair())
                others[1].send(b"for another")
                return memoryview(self.bytes)

        class Protocol(Buffered):
            def get_buffer(self, sizehint: int) -> Any:
                return Buffer()

        protocol = Protocol(1)
        transport = StreamTransport(loop, mine, protocol)
        peer.send(b"x")
        while protocol.lost == "not yet":
            protocol.changed.clear()
            await protocol.changed.wait()
        assert isinstance(protocol.lost, OSError)
        assert protocol.lost.errno == errno.EBADF
        assert others[0].fileno() == number
        assert others[0].recv(100) == b"for another"
        assert transport.is_closing()
        for sock in (peer, *others):
            sock.close()

    run_ours(main())


def test_a_protocol_may_change_its_methods(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            got: list[bytes] = []
            done = asyncio.Event()

            def instead(data: bytes) -> None:
                got.append(data)
                done.set()

            pair.protocol.data_received = instead  # type: ignore[method-assign]
            pair.peer.send(b"x")
            await done.wait()
            assert got == [b"x"]
            assert pair.protocol.data == b""

    run(main())


def test_the_protocol_keeps_its_context(run: Run) -> None:
    number: ContextVar[int] = ContextVar("number", default=0)
    seen: list[int] = []

    def count(protocol: Recorder, data: bytes) -> None:
        seen.append(number.get())
        number.set(number.get() + 1)

    async def main() -> None:
        number.set(10)
        async with Pair(data=count) as pair:
            number.set(20)
            for n in (1, 2, 3):
                pair.peer.send(b"x")
                await pair.protocol.until(lambda n=n: len(seen) == n)  # type: ignore[misc]

    run(main())
    assert seen == [10, 11, 12]


# --- exceptions in the protocol -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("data", "Fatal error: protocol.data_received() call failed."),
        ("eof", "Fatal error: protocol.eof_received() call failed."),
    ],
)
def test_an_error_in_the_protocol_closes_that_transport_only(
    run: Run, call: str, message: str
) -> None:
    error = ZeroDivisionError("on purpose")

    def fail(*args: Any) -> None:
        raise error

    async def main() -> None:
        async with Pair() as other, Pair(**{call: fail}) as pair:
            pair.peer.send(b"x")
            pair.peer.shutdown(socket.SHUT_WR)
            assert await pair.protocol.lost is error
            [context] = pair.contexts
            assert context["message"] == message
            assert context["exception"] is error
            assert context["transport"] is pair.transport
            assert context["protocol"] is pair.protocol
            other.peer.send(b"y")
            await other.protocol.until(lambda: other.protocol.data == b"y")

    run(main())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("get_buffer", "Fatal error: protocol.get_buffer() call failed."),
        ("buffer_updated", "Fatal error: protocol.buffer_updated() call failed."),
    ],
)
def test_an_error_in_a_buffered_protocol(run: Run, name: str, message: str) -> None:
    error = ZeroDivisionError("on purpose")

    def fail(*args: Any) -> None:
        raise error

    async def main() -> None:
        async with Pair() as pair:
            buffered = Buffered(10)
            setattr(buffered, name, fail)
            pair.transport.set_protocol(buffered)
            pair.peer.send(b"x")
            while buffered.lost == "not yet":
                buffered.changed.clear()
                await buffered.changed.wait()
            assert buffered.lost is error
            assert [context["message"] for context in pair.contexts] == [message]
            pair.protocol.lost.set_result(None)

    run(main())


@pytest.mark.parametrize(
    "buffer", [b"constant", memoryview(bytearray(10))[::2]], ids=["bytes", "view"]
)
def test_a_buffer_that_cannot_be_received_into_is_an_error(run: Run, buffer: Any) -> None:
    async def main() -> None:
        async with Pair() as pair:
            buffered = Buffered(0)
            buffered.buffer = buffer
            pair.transport.set_protocol(buffered)
            pair.peer.send(b"x")
            while buffered.lost == "not yet":
                buffered.changed.clear()
                await buffered.changed.wait()
            assert type(buffered.lost) is TypeError
            assert str(buffered.lost) == (
                "recv_into() argument 1 must be read-write bytes-like object, "
                f"not {type(buffer).__name__}"
            )
            message = "Fatal read error on socket transport"
            assert [context["message"] for context in pair.contexts] == [message]
            pair.protocol.lost.set_result(None)

    run(main())


def test_an_empty_buffer_is_an_error(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            buffered = Buffered(0)
            pair.transport.set_protocol(buffered)
            pair.peer.send(b"x")
            while buffered.lost == "not yet":
                buffered.changed.clear()
                await buffered.changed.wait()
            assert str(buffered.lost) == "get_buffer() returned an empty buffer"
            pair.protocol.lost.set_result(None)

    run(main())


@pytest.mark.parametrize("call", ["made", "lost"])
def test_an_error_at_the_beginning_or_end_is_reported(run: Run, call: str) -> None:
    error = ZeroDivisionError("on purpose")

    def fail(*args: Any) -> None:
        raise error

    async def main() -> None:
        async with Pair(**{call: fail}) as pair:
            pair.transport.close()
            assert await pair.protocol.lost is None
            await turns(1)
            [context] = pair.contexts
            assert context["exception"] is error
            assert context["message"].startswith("Exception in callback ")
            assert pair.mine.fileno() == -1

    run(main())


@pytest.mark.parametrize("kind", ["epoll", "poll", "asyncio"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_through(kind: str, error: type[BaseException]) -> None:
    def end(*args: Any) -> None:
        raise error

    loop = make_loop(kind)
    with contextlib.closing(loop):
        pair = Pair(data=end)
        loop.run_until_complete(pair.__aenter__())
        pair.peer.send(b"x")
        with pytest.raises(error):
            loop.run_forever()
        assert pair.contexts == []
        loop.run_until_complete(pair.__aexit__())


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
def test_write_refuses_what_is_not_bytes(run: Run, data: Any) -> None:
    async def main() -> str:
        async with Pair() as pair:
            with pytest.raises(TypeError) as caught:
                pair.transport.write(data)
            pair.transport.write(b"")
            pair.transport.write(b"fine")
            assert await pair.received(4) == b"fine"
        return str(caught.value)

    name = type(data).__name__
    assert run(main()) == f"data argument must be a bytes-like object, not {name!r}"


def test_writelines(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.writelines([b"ab", bytearray(b"cd"), memoryview(b"ef"), b""])
            pair.transport.writelines([])
            assert await pair.received(6) == b"abcdef"
            with pytest.raises(TypeError):
                pair.transport.writelines([b"not sent", "text"])
            pair.transport.writelines(bytes([n]) for n in range(200))
            assert await pair.received(200) == bytes(range(200))

    run(main())


def test_the_socket_object_of_a_connection_is_made_once(run_ours: Run) -> None:
    """Also if the code that runs while it is made, as a signal handler may, asks for it."""
    inner: list[Any] = []

    async def main() -> None:
        def ask(frame: Any, event: str, arg: Any) -> None:
            if not inner and frame.f_code is socket.socket.__init__.__code__:
                inner.append(None)
                inner.append(protocol.transport._kept_sock)

        loop = asyncio.get_running_loop()
        loop.set_debug(False)  # what is logged there shows the socket
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[0]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            while not made or made[0].transport is None:
                await asyncio.sleep(0)
            (protocol,) = made
            sys.setprofile(ask)
            outer = protocol.transport._kept_sock
            sys.setprofile(None)
            assert inner == [None, outer]
            protocol.transport.abort()
            await protocol.lost
        inner.clear()
        server.close()
        await turns(2)

    run_ours(main())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a family of which we know nothing")
def test_a_transport_that_was_not_made_does_nothing(run_ours: Run) -> None:
    class Refusing(socket.socket):
        def getpeername(self) -> Any:
            raise ValueError("not to be told")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport: Any = StreamTransport.__new__(StreamTransport)
        with Refusing(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
            with pytest.raises(ValueError, match="not to be told"):
                transport.__init__(loop, sock, asyncio.Protocol())
            assert transport._loop is None
            assert transport.is_closing()
            transport.write(b"x")
            assert transport.get_write_buffer_size() == 0
            transport.close()

    run_ours(main())


def test_what_pause_writing_writes_comes_after_the_lines(run_ours: Run) -> None:
    """Not between those before which there was room and the others."""

    def pause(protocol: Recorder) -> None:
        protocol.transport.write(b"paused")

    async def main() -> None:
        async with Pair(pause=pause) as pair:
            lines = [b"a" * 100_000, bytearray(b"b" * 100_000)] * 3
            pair.transport.writelines([*lines, b"end"])
            assert pair.protocol.calls == ["made", "pause"]
            data = await pair.received(600_009)
            assert data == b"".join(lines) + b"endpaused"

    run_ours(main())


def test_after_write_eof(run: Run) -> None:
    async def main() -> list[str]:
        messages = []
        async with Pair(eof=lambda p: True) as pair:
            assert pair.transport.can_write_eof()
            pair.transport.write(b"last")
            pair.transport.write_eof()
            pair.transport.write_eof()
            assert await pair.received(5) == b"last"
            for call in (pair.transport.write, pair.transport.writelines):
                with pytest.raises(RuntimeError) as caught:
                    call([b"x"] if call == pair.transport.writelines else b"x")
                messages.append(str(caught.value))
            pair.peer.send(b"still heard")
            await pair.protocol.until(lambda: pair.protocol.data == b"still heard")
        return messages

    first, second = run(main())
    assert first == "Cannot call write() after write_eof()"
    assert second in (first, "Cannot call writelines() after write_eof()")


def test_write_eof_waits_for_what_was_written(run: Run) -> None:
    async def main() -> None:
        data = os.urandom(3_000_000)
        async with Pair(eof=lambda p: True) as pair:
            pair.transport.write(data)
            pair.transport.write_eof()
            assert pair.transport.get_write_buffer_size() > 0
            assert await pair.received(len(data) + 1) == data

    run(main())


def test_close_sends_what_was_written(run: Run) -> None:
    async def main() -> None:
        data = os.urandom(3_000_000)
        async with Pair() as pair:
            pair.transport.write(data)
            pair.transport.close()
            pair.transport.close()
            assert pair.transport.is_closing()
            assert not pair.protocol.lost.done()
            assert await pair.received(len(data) + 1) == data
            assert await pair.protocol.lost is None
            await turns(2)
            assert pair.protocol.calls.count("lost") == 1
            assert pair.mine.fileno() == -1

    run(main())


def test_write_after_close_while_it_flushes(run: Run) -> None:
    async def main() -> None:
        data = bytes(3_000_000)
        async with Pair() as pair:
            pair.transport.write(data)
            pair.transport.close()
            pair.transport.write(b"end")
            assert (await pair.received(len(data) + 4))[-3:] == b"end"

    run(main())


def test_abort_drops_what_the_socket_has_not_taken(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.write(b"head")
            pair.transport.write(bytes(8_000_000))
            pair.transport.abort()
            assert pair.transport.is_closing()
            assert pair.transport.get_write_buffer_size() == 0
            assert await pair.protocol.lost is None
            got = await pair.received(9_000_000)
            assert got.startswith(b"head")
            assert len(got) < 8_000_000
            assert pair.protocol.calls.count("lost") == 1

    run(main())


def test_write_then_abort_sends_what_fits(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.write(b"short")
            pair.transport.abort()
            assert await pair.received(10) == b"short"

    run(main())


def test_connection_lost_is_called_soon_not_at_once(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.close()
            assert pair.protocol.calls == ["made"]
            await turns(2)
            assert pair.protocol.calls == ["made", "lost"]

    run(main())


def test_writes_to_a_lost_connection_are_quiet(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.close()
            for _ in range(4):
                pair.transport.write(b"x")
            assert caplog.messages == []
            pair.transport.write(b"x")
            pair.transport.write(b"x")
            await pair.protocol.lost
            assert pair.contexts == []

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.messages == ["socket.send() raised exception."] * 2


def test_a_write_that_fails_closes(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.pause_reading()
            pair.peer.close()
            pair.transport.write(b"x")
            exc = await pair.protocol.lost
            assert isinstance(exc, BrokenPipeError)
            assert exc.args == BrokenPipeError(32, "Broken pipe").args
            assert pair.contexts == []

    run(main())


def test_reset_by_the_peer(run: Run) -> None:
    async def main() -> None:
        protocol = Recorder()
        transport, peer = await tcp_pair(protocol)
        reset(peer)
        exc = await protocol.lost
        assert isinstance(exc, ConnectionResetError)
        assert exc.args == (104, "Connection reset by peer")
        assert transport.is_closing()

    run(main())


# --- flow control -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "low", "size", "pauses"),
    [
        (1e3, None, 1000, False),
        (1e3, None, 1001, True),
        (1.5, 1.25, 1, False),
        (1.5, 1.25, 2, True),
        (2**70, None, 1_000_000, False),
        (float("inf"), 0, 1_000_000, False),
    ],
)
def test_limits_may_be_any_number(
    run: Run, high: float, low: float | None, size: int, pauses: bool
) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.set_write_buffer_limits(high=high, low=low)
            fill_socket(pair.mine)
            pair.transport.write(bytes(size))
            assert pair.transport.get_write_buffer_size() == size
            assert ("pause" in pair.protocol.calls) is pauses

    run(main())


def test_limits(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            limits = pair.transport.get_write_buffer_limits
            assert limits() == (16 * 1024, 64 * 1024)
            pair.transport.set_write_buffer_limits(low=100)
            assert limits() == (100, 400)
            pair.transport.set_write_buffer_limits(high=400)
            assert limits() == (100, 400)
            pair.transport.set_write_buffer_limits(high=5, low=5)
            assert limits() == (5, 5)
            with pytest.raises(ValueError, match="must be >= low"):
                pair.transport.set_write_buffer_limits(high=1, low=2)
            with pytest.raises(ValueError, match="must be >= low"):
                pair.transport.set_write_buffer_limits(low=-1)

    run(main())


def test_pause_and_resume_writing(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            filled = fill_socket(pair.mine)
            pair.transport.write(bytes(64 * 1024))
            assert pair.protocol.calls == ["made"]
            assert pair.transport.get_write_buffer_size() == 64 * 1024
            pair.transport.write(b"x")
            assert pair.protocol.calls == ["made", "pause"]
            pair.transport.write(b"x")
            assert pair.protocol.calls == ["made", "pause"]
            assert pair.transport.get_write_buffer_size() == 64 * 1024 + 2
            assert pair.transport._buffer
            await pair.received(filled + 64 * 1024 + 2)
            await pair.protocol.until(lambda: "resume" in pair.protocol.calls)
            assert pair.protocol.calls == ["made", "pause", "resume"]
            assert pair.transport.get_write_buffer_size() == 0

    run(main())


def test_a_large_write_pauses_before_it_returns(run: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            for data in (bytes(8_000_000), bytearray(8_000_000), memoryview(bytes(8_000_000))):
                pair.protocol.calls.clear()
                pair.transport.write(data)
                assert pair.protocol.calls == ["pause"]
                await pair.received(8_000_000)
                await pair.protocol.until(lambda: "resume" in pair.protocol.calls)

    run(main())


def test_resume_writing_may_write_and_close(run: Run) -> None:
    def go_on(protocol: Recorder) -> None:
        protocol.transport.write(b"the rest")
        protocol.transport.close()

    async def main() -> None:
        async with Pair(resume=go_on) as pair:
            pair.transport.write(bytes(4_000_000))
            got = await pair.received(4_000_100)
            assert got[4_000_000:] == b"the rest"
            assert await pair.protocol.lost is None

    run(main())


def test_errors_in_flow_control_are_reported(run: Run) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    async def main() -> list[str]:
        async with Pair(pause=fail, resume=fail) as pair:
            pair.transport.write(bytes(4_000_000))
            await pair.received(4_000_000)
            await pair.protocol.until(lambda: "resume" in pair.protocol.calls)
            await turns(1)
            return [context["message"] for context in pair.contexts]

    assert run(main()) == ["protocol.pause_writing() failed", "protocol.resume_writing() failed"]


def test_drain_holds_a_fast_writer_back(run: Run) -> None:
    async def main() -> int:
        mine, peer = socketpair()
        reader, writer = await asyncio.open_connection(sock=mine)
        written = 0

        async def produce() -> None:
            nonlocal written
            while True:
                writer.write(bytes(10_000))
                await writer.drain()
                written += 10_000

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(produce(), 0.05)
        size = writer.transport.get_write_buffer_size()
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        peer.close()
        return int(size)

    assert 64 * 1024 < run(main()) <= 64 * 1024 + 10_000


# --- life ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epoll", "poll", "asyncio"])
def test_an_unclosed_transport_warns(kind: str) -> None:
    loop = make_loop(kind)
    pair = Pair()
    with contextlib.closing(loop):
        loop.run_until_complete(pair.__aenter__())
        mine = pair.mine
    del pair.protocol, pair.transport, pair.mine
    with pytest.warns(ResourceWarning, match="unclosed transport <.*fd="):
        gc.collect()
    assert mine.fileno() == -1
    pair.peer.close()


def test_a_server_counts_its_transports(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        _, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        server.close()
        if sys.version_info >= (3, 12):
            waiting = asyncio.ensure_future(server.wait_closed())
            await turns(5)
            assert not waiting.done()
        protocol.transport.close()
        if sys.version_info >= (3, 12):
            await waiting

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="servers have it from 3.13 on")
def test_close_clients(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        for call in ("close_clients", "abort_clients"):
            _, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
            protocol.transport.write(b"x")
            await turns(10)
            getattr(server, call)()
            await protocol.lost
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.heavy
def test_a_thousand_connections_leave_no_descriptor(run: Run) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        gc.disable()
        try:
            before = None
            for _ in range(1000):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"hello")
                assert await reader.read() == b"hello"
                writer.close()
                await writer.wait_closed()
                await turns(3)
                now = len(os.listdir("/proc/self/fd"))
                before = now if before is None else before
                assert now <= before + 1
        finally:
            gc.enable()
        server.close()
        await server.wait_closed()

    run(main())


def test_twenty_megabytes_both_ways(run: Run) -> None:
    size = 20_000_000
    data = os.urandom(1_000_003) * 20
    data = data[:size]
    expected = hashlib.sha256(data).digest()

    async def digest(reader: asyncio.StreamReader) -> bytes:
        found = hashlib.sha256()
        left = size
        while left:
            piece = await reader.read(min(left, 100_000))
            assert piece
            found.update(piece)
            left -= len(piece)
        return found.digest()

    async def send(writer: asyncio.StreamWriter) -> None:
        for start in range(0, size, 77_777):
            writer.write(data[start : start + 77_777])
            await writer.drain()

    async def main() -> None:
        results: list[bytes] = []
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            results.append((await asyncio.gather(digest(reader), send(writer)))[0])
            writer.close()
            await writer.wait_closed()
            done.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        results.append((await asyncio.gather(digest(reader), send(writer)))[0])
        writer.close()
        await writer.wait_closed()
        await done.wait()
        server.close()
        await server.wait_closed()
        assert results == [expected, expected]

    run(main())


# --- TLS, sendfile ------------------------------------------------------------------------------


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def echo_by(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = os.urandom(1_000_000)
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()


def test_tls(run: Run, certificate: Path) -> None:
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        server = await asyncio.start_server(echo_stream, "127.0.0.1", 0, ssl=for_server)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(
            *address, ssl=for_client, server_hostname="localhost"
        )
        assert writer.get_extra_info("peercert")
        assert writer.get_extra_info("peername") == address
        raw = writer.transport._ssl_protocol._transport  # type: ignore[attr-defined]
        is_ours = isinstance(asyncio.get_running_loop(), pyloop.EventLoop)
        assert (type(raw) is StreamTransport) is is_ours
        await echo_by(reader, writer)
        server.close()
        await server.wait_closed()

    run(main())


def test_start_tls(run: Run, certificate: Path) -> None:
    for_server, for_client = tls_contexts(certificate)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.start_tls(for_server)
            await echo_stream(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(for_client, server_hostname="localhost")
        await echo_by(reader, writer)
        server.close()
        await server.wait_closed()

    run(main())


def test_sendfile(run: Run, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)

    async def main() -> None:
        async with Pair() as pair:
            loop = asyncio.get_running_loop()
            pair.transport.write(b"before")
            with path.open("rb") as file:
                sending = asyncio.ensure_future(loop.sendfile(pair.transport, file))
                await turns(1)
                with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                    pair.transport.write(b"x")
                got = await pair.received(6 + len(content))
                assert await sending == len(content)
            assert got == b"before" + content
            pair.transport.write(b"after")
            assert await pair.received(5) == b"after"

    run(main())


def test_a_second_sendfile_does_not_disturb_the_first(run: Run, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)

    async def main() -> None:
        async with Pair() as pair:
            loop = asyncio.get_running_loop()
            with path.open("rb") as file, path.open("rb") as other:
                sending = asyncio.ensure_future(loop.sendfile(pair.transport, file))
                await turns(3)
                with pytest.raises((RuntimeError, KeyError)):
                    await loop.sendfile(pair.transport, other)
                assert await pair.received(len(content)) == content
                assert await sending == len(content)
            assert pair.contexts == []
            assert pair.transport.is_reading()

    run(main())


# --- what asyncio does not promise --------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_close_socket_is_the_loss_of_its_connection(run_ours: Run, kind: socket.SocketKind) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        mine, peer = socketpair(kind)
        with peer:
            made: Any
            if kind == socket.SOCK_STREAM:
                transport, made = await loop.create_connection(Recorder, sock=mine)
                transport.write(b"last")
            else:
                _, made = await loop.create_datagram_endpoint(Recorder, sock=mine)
                mine.send(b"last")
            loop.close_socket(mine)
            assert mine.fileno() == -1
            exc = await made.lost
            assert isinstance(exc, OSError)
            assert exc.errno == errno.EBADF
            assert peer.recv(10) == b"last"

    run_ours(main())


@pytest.mark.parametrize("n", [2, 5, 600])
def test_what_one_callback_writes_leaves_together(run_ours: Run, n: int) -> None:
    """Seen from the other end: all of it is there as soon as anything is."""

    async def main() -> None:
        async with Pair() as pair:
            received: list[int] = []
            loop = asyncio.get_running_loop()

            def write() -> None:
                for i in range(n):
                    pair.transport.write(bytes([i % 256]))
                with contextlib.suppress(BlockingIOError):
                    received.append(len(pair.peer.recv(n)))

            loop.call_soon(write)
            await turns(2)
            if n < 256:
                assert received == []  # not piece by piece
            assert await pair.received(n - sum(received)) is not None

    run_ours(main())


def segments_sent(sock: socket.socket) -> int:
    """How many segments with data the kernel has sent (tcpi_data_segs_out)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    if len(info) < 160:
        pytest.skip("this kernel does not count segments")
    return int.from_bytes(info[156:160], sys.byteorder)


def test_two_writes_are_one_system_call(run_ours: Run) -> None:
    """With TCP_NODELAY each send() of few bytes is a segment."""

    async def main() -> None:
        transport, peer = await tcp_pair(Recorder())
        with peer:
            # Counted on the connection itself: two calls are two segments.
            for _ in range(2):
                transport._sock.send(b"x")
            assert segments_sent(transport._sock) == 2
            transport.write(b"one")
            transport.write(b"two")
            await turns(2)
            assert segments_sent(transport._sock) == 3
            transport.close()

    run_ours(main())


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_bytearray_may_change_after_write(run_ours: Run, size: int) -> None:
    async def main() -> None:
        async with Pair() as pair:
            data = bytearray(b"a" * size)
            pair.transport.write(data)
            data[:] = b"b" * size
            data.clear()  # nor is it locked
            assert await pair.received(size) == b"a" * size

    run_ours(main())


def test_a_turn_that_ends_the_program_still_sends() -> None:
    loop = pyloop.EventLoop()
    with contextlib.closing(loop):
        pair = Pair()
        loop.run_until_complete(pair.__aenter__())

        def end() -> None:
            pair.transport.write(b"last words")
            raise SystemExit

        loop.call_soon(end)
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert pair.peer.recv(100) == b"last words"
        pair.transport.write(b"outside of a turn")
        assert pair.peer.recv(100) == b"outside of a turn"
        loop.run_until_complete(pair.__aexit__())


def test_a_forked_child_may_not_touch_it(run_ours: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.transport.write(b"written by the parent")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                refused = 0
                for call in (
                    lambda: pair.transport.write(b"written by the child"),
                    pair.transport.close,
                    pair.transport.abort,
                    pair.transport.pause_reading,
                    pair.transport.get_write_buffer_size,
                    lambda: pair.transport._call_connection_lost(None),
                ):
                    try:
                        call()
                    except RuntimeError:
                        refused += 1
                os._exit(refused)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 6
            assert await pair.received(21) == b"written by the parent"
            pair.peer.send(b"answer")
            await pair.protocol.until(lambda: pair.protocol.data == b"answer")

    run_ours(main())


def test_remove_writer_leaves_a_closing_transport_alone(run_ours: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            data = bytes(4_000_000)
            pair.transport.write(data)
            pair.transport.close()
            assert not asyncio.get_running_loop().remove_writer(pair.mine)
            assert len(await pair.received(len(data))) == len(data)
            assert await pair.protocol.lost is None

    run_ours(main())


def test_a_socket_closed_behind_its_back(run_ours: Run) -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.mine.close()
            pair.transport.write(b"x")
            exc = await pair.protocol.lost
            assert isinstance(exc, OSError)

    run_ours(main())


def test_a_transport_that_cannot_be_made_leaves_the_socket(run_ours: Run) -> None:
    async def main() -> None:
        left, right = socketpair()
        loop = asyncio.get_running_loop()
        with pytest.raises(AttributeError):
            StreamTransport(loop, left, object())  # type: ignore[arg-type]
        gc.collect()
        assert left.fileno() >= 0
        left.close()
        right.close()

    run_ours(main())


def test_closed_without_the_garbage_collector(run_ours: Run) -> None:
    async def main() -> None:
        pair = Pair()
        await pair.__aenter__()
        pair.transport.close()
        await pair.protocol.lost
        alive = weakref.ref(pair.transport)
        gc.collect()
        gc.disable()
        try:
            pair.transport = pair.protocol.transport = None
            await turns(2)
            assert alive() is None
        finally:
            gc.enable()
        pair.peer.close()

    run_ours(main())
