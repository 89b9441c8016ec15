"""Datagram transports: asyncio's semantics, shown by running each test on asyncio's own loop too.

Where pyloop does what asyncio promises and does not do, a test runs on pyloop alone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from asyncio_support import Noting, Run, make_loop, runner, turns
from face_support import Reports
from support import fill_socket, socketpair, while_collecting

import pyloop
from pyloop._transport import DatagramTransport


class Recorder(Noting, asyncio.DatagramProtocol):
    def __init__(self, **on: Callable[..., Any]) -> None:
        super().__init__(**on)
        self.got: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))
        self.note("received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.note("error", exc)

    async def close(self) -> None:
        self.transport.abort()
        await self.lost
        await asyncio.sleep(0)


async def endpoint(on: dict[str, Callable[..., Any]] | None = None, **options: Any) -> Recorder:
    if not options:
        options = {"local_addr": ("127.0.0.1", 0)}
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(lambda: Recorder(**(on or {})), **options)
    return protocol


def name(protocol: Recorder) -> Any:
    return protocol.transport.get_extra_info("sockname")


async def full(**on: Callable[..., Any]) -> tuple[Recorder, socket.socket, list[bytes]]:
    """A transport on a Unix socket that takes no more, its peer, and what fills it."""
    mine, peer = socketpair(socket.SOCK_DGRAM)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    # asyncio must be told where to send to: a pair has no names.
    protocol = await endpoint(on, sock=mine)
    sent = 0
    try:
        while True:
            mine.send(b"filling")
            sent += 1
    except BlockingIOError:
        pass
    return protocol, peer, [b"filling"] * sent


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_there_and_back(run: Run, host: str) -> None:
    async def main() -> None:
        server = await endpoint(
            {"received": lambda self, data, addr: self.transport.sendto(data.upper(), addr)},
            local_addr=(host, 0),
        )
        clients = [await endpoint(remote_addr=name(server)[:2]) for _ in range(3)]
        clients.append(await endpoint(local_addr=(host, 0)))
        for i, client in enumerate(clients):
            to = name(server) if i == 3 else None
            for data in (b"one", bytearray(b"two"), memoryview(b"three"), b"x" * 60_000):
                client.transport.sendto(data, to)
            await client.until(lambda client=client: len(client.got) == 4)
            assert client.got == [
                (data, name(server)) for data in (b"ONE", b"TWO", b"THREE", b"X" * 60_000)
            ]
        assert {addr for _, addr in server.got} == {name(client) for client in clients}
        for protocol in (server, *clients):
            await protocol.close()
            assert protocol.calls.count("lost") == 1

    run(main())


def test_more_peers_than_are_remembered(run: Run) -> None:
    """Each gets its own answer, whatever table of addresses there is."""

    async def main() -> None:
        server = await endpoint(
            {"received": lambda self, data, addr: self.transport.sendto(data, addr)}
        )
        clients = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(400)]
        try:
            for i, client in enumerate(clients * 2):
                client.sendto(b"%d" % i, name(server))
                if i % 50 == 49:  # so that none is dropped
                    await server.until(lambda i=i: len(server.got) == i + 1)
            for i, client in enumerate(clients * 2):
                client.settimeout(30)
                assert client.recv(100) == b"%d" % i
            expected = [client.getsockname()[1] for client in clients] * 2
            assert [addr[1] for _, addr in server.got] == expected
        finally:
            for client in clients:
                client.close()
        await server.close()

    run(main())


def test_a_scope_id_comes_and_goes(run: Run) -> None:
    async def main() -> None:
        server = await endpoint(local_addr=("::1", 0))
        client = await endpoint(local_addr=("::1", 0))
        client.transport.sendto(b"x", ("::1", name(server)[1], 0, 0))
        await server.until(lambda: server.got)
        assert server.got == [(b"x", name(client))]
        assert len(server.got[0][1]) == 4
        await server.close()
        await client.close()

    run(main())


def test_an_empty_datagram_arrives(run: Run) -> None:
    async def main() -> None:
        server = await endpoint()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"", name(server))
            await server.until(lambda: server.got)
            assert server.got == [(b"", client_name(client))]
        await server.close()

    def client_name(client: socket.socket) -> Any:
        return ("127.0.0.1", client.getsockname()[1])

    run(main())


def test_an_empty_datagram_is_sent(run_ours: Run) -> None:
    """asyncio drops it, up to 3.12."""

    async def main() -> None:
        server = await endpoint()
        client = await endpoint(remote_addr=name(server))
        client.transport.sendto(b"")
        client.transport.sendto(b"after")
        await server.until(lambda: len(server.got) == 2)
        assert [data for data, _ in server.got] == [b"", b"after"]
        await server.close()
        await client.close()

    run_ours(main())


def test_unix_datagrams(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "server")
        server = await endpoint(local_addr=path, family=socket.AF_UNIX)
        named = await endpoint(local_addr=str(tmp_path / "client"), family=socket.AF_UNIX)
        named.transport.sendto(b"from a name", path)
        await server.until(lambda: server.got)
        assert server.got == [(b"from a name", str(tmp_path / "client"))]
        server.transport.sendto(b"answer", server.got[0][1])
        await named.until(lambda: named.got)
        assert named.got == [(b"answer", path)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            nameless.sendto(b"from nobody", path)
            await server.until(lambda: len(server.got) == 2)
        assert server.got[1] == (b"from nobody", None)
        await server.close()
        await named.close()

    run(main())


def test_an_abstract_name(run: Run) -> None:
    async def main() -> None:
        path = f"\0pyloop-{os.getpid()}-{id(object())}"
        server = await endpoint(local_addr=path, family=socket.AF_UNIX)
        client = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        client.transport.sendto(b"x")
        await server.until(lambda: server.got)
        await server.close()
        await client.close()

    run(main())


def test_a_pair_without_names(run_ours: Run) -> None:
    """asyncio takes a peer without a name for none, and gives up."""

    async def main() -> None:
        left, right = socketpair(socket.SOCK_DGRAM)
        protocol = await endpoint(sock=left)
        protocol.transport.sendto(b"there")
        assert right.recv(100) == b"there"
        right.send(b"back")
        await protocol.until(lambda: protocol.got)
        assert protocol.got == [(b"back", None)]
        right.close()
        await protocol.close()

    run_ours(main())


def test_a_host_name_is_looked_up(run: Run) -> None:
    async def main() -> None:
        server = await endpoint()
        client = await endpoint()
        client.transport.sendto(b"x", ("localhost", name(server)[1]))
        await server.until(lambda: server.got)
        client.transport.sendto(b"x", ("no host has this name.invalid", 9))
        await client.until(lambda: client.errors)
        assert isinstance(client.errors[0], socket.gaierror)
        assert not client.transport.is_closing()
        await server.close()
        await client.close()

    run(main())


# --- what is known --------------------------------------------------------------------------------


def test_extra_info(run: Run) -> None:
    async def main() -> None:
        server = await endpoint()
        client = await endpoint(remote_addr=name(server))
        transport = client.transport
        assert transport.get_extra_info("peername") == name(server)
        assert server.transport.get_extra_info("peername") is None
        sock = transport.get_extra_info("socket")
        assert type(sock).__name__ == "TransportSocket"
        assert sock.type == socket.SOCK_DGRAM
        assert transport.get_extra_info("nothing", 7) == 7
        assert transport._address == name(server)
        assert server.transport._address is None
        assert transport.get_protocol() is client
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert transport.is_reading()
        with pytest.raises(NotImplementedError):
            transport.write(b"x")
        with pytest.raises(NotImplementedError):
            transport.writelines([b"x"])
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        with pytest.raises(NotImplementedError):
            transport.can_write_eof()
        await server.close()
        await client.close()
        assert transport.get_extra_info("sockname") is not None

    run(main())


def test_repr(run: Run) -> None:
    async def main() -> None:
        protocol = await endpoint()
        await turns(1)
        fd = protocol.transport._sock_fd
        kind = type(protocol.transport).__name__
        assert repr(protocol.transport) == (
            f"<{kind} fd={fd} read=polling write=<idle, bufsize=0>>"
        )
        protocol.transport.close()
        assert repr(protocol.transport) == (
            f"<{kind} closing fd={fd} read=idle write=<idle, bufsize=0>>"
        )
        await protocol.close()
        assert repr(protocol.transport) == f"<{kind} closed fd={fd}>"

    run(main())


def test_contexts(run: Run) -> None:
    var: ContextVar[str] = ContextVar("var", default="unset")
    seen: list[str] = []

    def received(self: Recorder, data: bytes, addr: Any) -> None:
        seen.append(var.get())
        var.set("received")

    async def main() -> None:
        var.set("maker")
        protocol = await endpoint({"received": received})
        var.set("later")
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for i in range(2):
                client.sendto(b"x", name(protocol))
                await protocol.until(lambda i=i: len(protocol.got) == i + 1)
        await protocol.close()

    run(main())
    assert seen == ["maker", "received"]


# --- bad arguments --------------------------------------------------------------------------------


def test_what_is_no_data(run: Run) -> None:
    async def main() -> None:
        protocol = await endpoint()
        for data in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError, match="data argument must be a bytes-like object, not"):
                protocol.transport.sendto(data, name(protocol))
        with pytest.raises(TypeError):
            protocol.transport.sendto()
        protocol.transport.sendto(addr=name(protocol), data=b"by keyword")
        await protocol.until(lambda: protocol.got)
        await protocol.close()

    run(main())


def test_another_address_than_the_own(run: Run) -> None:
    async def main() -> None:
        server = await endpoint()
        client = await endpoint(remote_addr=name(server))
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            client.transport.sendto(b"x", ("127.0.0.1", 9))
        client.transport.sendto(b"x", name(server))
        await server.until(lambda: server.got)
        await server.close()
        await client.close()

    run(main())


@pytest.mark.parametrize("address", [None, 5, ("127.0.0.1",), ("127.0.0.1", 70000)])
def test_an_address_that_is_none_is_fatal(run: Run, address: Any) -> None:
    async def main() -> None:
        reports = Reports()
        protocol = await endpoint()
        protocol.transport.sendto(b"x", address)
        assert protocol.transport.is_closing()
        exc = await protocol.lost
        assert isinstance(exc, (TypeError, OverflowError))
        (context,) = reports.contexts
        assert context["message"] == "Fatal write error on datagram transport"
        assert context["exception"] is exc
        assert context["transport"] is protocol.transport
        assert context["protocol"] is protocol
        await asyncio.sleep(0)

    run(main())


# --- errors ---------------------------------------------------------------------------------------


@pytest.fixture
def refusing_address() -> Iterator[Any]:
    """Taken by a socket that listens to nobody but itself."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        yield sock.getsockname()


def test_nobody_listens(run: Run, refusing_address: Any) -> None:
    async def main() -> None:
        client = await endpoint(remote_addr=refusing_address)
        client.transport.sendto(b"x")
        await client.until(lambda: client.errors)
        assert isinstance(client.errors[0], ConnectionRefusedError)
        # By the next sendto(), when the loop has not seen it before.
        client.transport.sendto(b"x")
        client.transport.sendto(b"x")
        await client.until(lambda: len(client.errors) > 1)
        assert not client.transport.is_closing()
        await client.close()

    run(main())


def test_too_long(run: Run) -> None:
    async def main() -> None:
        protocol = await endpoint()
        protocol.transport.sendto(bytes(70_000), name(protocol))
        assert protocol.calls[-1] == "error"
        assert isinstance(protocol.errors[0], OSError)
        assert not protocol.transport.is_closing()
        await protocol.close()

    run(main())


def test_error_received_that_raises(run: Run, refusing_address: Any) -> None:
    """From sendto() to its caller, from the loop to the exception handler."""

    def error(self: Recorder, exc: Exception) -> None:
        raise ZeroDivisionError("on purpose")

    async def main() -> None:
        reports = Reports()
        client = await endpoint({"error": error}, remote_addr=refusing_address)
        client.transport.sendto(b"x")
        await client.until(lambda: client.errors)
        await turns(2)
        (context,) = reports.contexts
        assert isinstance(context["exception"], ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            client.transport.sendto(bytes(70_000))
        await client.close()

    run(main())


def test_datagram_received_that_raises(run: Run) -> None:
    """One bad packet is reported, and does not close the port."""

    def received(self: Recorder, data: bytes, addr: Any) -> None:
        if data == b"bad":
            raise ZeroDivisionError("on purpose")

    async def main() -> None:
        reports = Reports()
        protocol = await endpoint({"received": received})
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for data in (b"bad", b"good", b"bad", b"good"):
                client.sendto(data, name(protocol))
            await protocol.until(lambda: len(protocol.got) == 4)
        await turns(2)
        assert len(reports.contexts) == 2
        for context in reports.contexts:
            assert isinstance(context["exception"], ZeroDivisionError)
            assert "_read_ready" in context["message"]
        assert not protocol.transport.is_closing()
        await protocol.close()

    run(main())


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_must_end_the_loop_passes_through(exception: type[BaseException]) -> None:
    def received(self: Recorder, data: bytes, addr: Any) -> None:
        raise exception

    for kind in ("epoll", "asyncio"):
        loop = make_loop(kind)
        protocol: Any = None

        async def start() -> None:
            nonlocal protocol
            protocol = await endpoint({"received": received})

        loop.run_until_complete(start())
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"x", name(protocol))
            with pytest.raises(exception):
                loop.run_forever()
        loop.run_until_complete(protocol.close())
        loop.close()


# --- a full socket --------------------------------------------------------------------------------


def test_what_waits_is_sent_in_order(run_ours: Run) -> None:
    async def main() -> None:
        protocol, peer, filling = await full()
        data = bytearray(b"changed later")
        protocol.transport.sendto(data)
        data[:] = b"CHANGED LATER"
        protocol.transport.sendto(b"")
        protocol.transport.sendto(memoryview(b"last"))
        header = 8 if sys.version_info >= (3, 13) else 0
        assert protocol.transport.get_write_buffer_size() == 17 + 3 * header
        assert protocol.transport._buffer[0] == (b"changed later", None)
        got = []
        loop = asyncio.get_running_loop()
        while not got or got[-1] != b"last":
            got.append(await loop.sock_recv(peer, 100))
        assert got == [*filling, b"changed later", b"", b"last"]
        assert protocol.transport.get_write_buffer_size() == 0
        assert protocol.calls == ["made"]
        peer.close()
        await protocol.close()

    run_ours(main())


def test_flow_control(run_ours: Run) -> None:
    async def main() -> None:
        protocol, peer, filling = await full()
        transport = protocol.transport
        for _ in range(64):
            transport.sendto(bytes(1000))
        assert protocol.calls == ["made"]
        transport.sendto(bytes(2000))
        assert protocol.calls == ["made", "pause"]
        loop = asyncio.get_running_loop()
        n = 0
        while "resume" not in protocol.calls:
            if n == len(filling) + 65:
                await protocol.changed.wait()
            else:
                n += len(await loop.sock_recv(peer, 5000)) > 0
        assert transport.get_write_buffer_size() <= 16384
        assert protocol.calls == ["made", "pause", "resume"]
        peer.close()
        await protocol.close()

    run_ours(main())


def test_limits_that_are_set(run_ours: Run) -> None:
    async def main() -> None:
        protocol, peer, _ = await full()
        protocol.transport.set_write_buffer_limits(high=10)
        protocol.transport.sendto(b"x" * 11)
        assert protocol.calls == ["made", "pause"]
        peer.close()
        await protocol.close()

    run_ours(main())


def test_close_sends_what_waits(run_ours: Run) -> None:
    async def main() -> None:
        protocol, peer, filling = await full()
        protocol.transport.sendto(b"one")
        protocol.transport.close()
        protocol.transport.close()
        await turns(3)
        assert protocol.calls == ["made"]
        got = []
        loop = asyncio.get_running_loop()
        while len(got) < len(filling) + 1:
            got.append(await loop.sock_recv(peer, 100))
        assert got[-1] == b"one"
        assert await protocol.lost is None
        await turns(2)
        assert protocol.calls == ["made", "lost"]
        assert protocol.transport._sock is None
        peer.close()

    run_ours(main())


def test_abort_drops_what_waits(run_ours: Run) -> None:
    async def main() -> None:
        protocol, peer, filling = await full()
        protocol.transport.sendto(b"one")
        protocol.transport.abort()
        protocol.transport.abort()
        assert await protocol.lost is None
        await turns(2)
        assert protocol.calls == ["made", "lost"]
        for _ in filling:
            assert peer.recv(100) == b"filling"
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        peer.close()

    run_ours(main())


def test_the_peer_goes_while_something_waits(run_ours: Run) -> None:
    async def main() -> None:
        protocol, peer, _ = await full()
        protocol.transport.sendto(b"one")
        protocol.transport.sendto(b"two")
        peer.close()
        await protocol.until(lambda: len(protocol.errors) == 2)
        assert isinstance(protocol.errors[0], ConnectionError)
        assert protocol.transport.get_write_buffer_size() == 0
        await protocol.close()

    run_ours(main())


def test_resume_writing_may_send_and_close(run_ours: Run) -> None:
    def resume(self: Recorder) -> None:
        self.transport.sendto(b"sent in resume_writing")
        self.transport.close()

    async def main() -> None:
        protocol, peer, filling = await full(resume=resume)
        protocol.transport.set_write_buffer_limits(high=0)
        protocol.transport.sendto(b"one")
        loop = asyncio.get_running_loop()
        got = [await loop.sock_recv(peer, 100) for _ in range(len(filling) + 2)]
        assert got[-2:] == [b"one", b"sent in resume_writing"]
        assert await protocol.lost is None
        peer.close()

    run_ours(main())


class Awkward(tuple[Any, ...]):
    """An address whose end runs code."""

    on_end: Callable[[], None]

    def __del__(self) -> None:
        self.on_end()


def test_an_address_whose_end_sends_again(run_ours: Run) -> None:
    """What is queued may be anything, and dropping it may call back."""

    async def main() -> None:
        protocol, peer, _ = await full()
        ended: list[int] = []

        def on_end() -> None:
            ended.append(1)
            protocol.transport.sendto(b"from the end", None)

        protocol.transport.sendto(b"first")
        for _ in range(20):
            address = Awkward()
            address.on_end = on_end
            protocol.transport.sendto(b"x", address)
            del address
        protocol.transport.abort()
        await protocol.lost
        await turns(3)
        assert len(ended) == 20
        peer.close()

    run_ours(main())


def test_nothing_is_queued_once_the_connection_is_lost(run_ours: Run) -> None:
    """Not even by what drops the queue."""

    async def main() -> None:
        def again() -> None:
            protocol.transport.sendto(b"from the end", None)

        def lost(protocol: Recorder, exc: Exception | None) -> None:
            protocol.transport.sendto(b"x")
            for _ in range(5):
                address = Awkward()
                address.on_end = again
                protocol.transport.sendto(b"x", address)

        protocol, peer, _ = await full(lost=lost)
        transport = protocol.transport
        transport.abort()
        await protocol.lost
        assert transport._queued_size == 0
        assert transport._buffer == []
        assert transport._polling == (False, False)
        peer.close()

    run_ours(main())


def test_an_own_address_whose_end_asks_for_the_transport(run_ours: Run) -> None:
    """Who asks which transport has a number never gets one that is being freed."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        mine, peer = socketpair(socket.SOCK_DGRAM)
        fd = mine.fileno()
        found = []
        address = Awkward()
        address.on_end = lambda: found.append(loop._transport_at(fd))
        transport = DatagramTransport(loop, mine, asyncio.DatagramProtocol(), address)
        del address
        await turns(2)
        transport.pause_reading()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del transport
        assert found == [None]
        mine.close()
        peer.close()

    run_ours(main())


def test_what_is_queued_goes_while_it_is_shown(run_ours: Run) -> None:
    """The collector may run then, and end the transport."""

    async def main() -> None:
        protocol, peer, _ = await full()
        for _ in range(5):
            protocol.transport.sendto(b"x")
        queued = while_collecting(lambda: protocol.transport._buffer, protocol.transport.abort)
        assert set(queued) <= {(b"x", None)}
        await turns(1)
        gc.collect()
        await protocol.lost
        assert protocol.transport._buffer == []
        peer.close()

    run_ours(main())


# --- reading --------------------------------------------------------------------------------------


def test_pause_reading_stops_at_once(run: Run) -> None:
    """Also in the middle of what has arrived already."""

    def received(self: Recorder, data: bytes, addr: Any) -> None:
        if len(self.got) in (20, 25):
            self.transport.pause_reading()

    async def main() -> None:
        protocol = await endpoint({"received": received})
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for i in range(40):
                client.sendto(b"%d" % i, name(protocol))
            for expected in (20, 25):
                await protocol.until(lambda expected=expected: len(protocol.got) == expected)
                await turns(3)
                assert len(protocol.got) == expected
                assert not protocol.transport.is_reading()
                protocol.transport.resume_reading()
            await protocol.until(lambda: len(protocol.got) == 40)
        assert [data for data, _ in protocol.got] == [b"%d" % i for i in range(40)]
        await protocol.close()

    run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_closed_in_datagram_received(run: Run, end: str) -> None:
    def received(self: Recorder, data: bytes, addr: Any) -> None:
        if len(self.got) == 20:
            getattr(self.transport, end)()

    async def main() -> None:
        protocol = await endpoint({"received": received})
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for i in range(40):
                client.sendto(b"%d" % i, name(protocol))
            assert await protocol.lost is None
        assert len(protocol.got) == 20
        await turns(2)
        assert protocol.calls[-1] == "lost"

    run(main())


def test_another_protocol_from_the_next_on(run: Run) -> None:
    async def main() -> None:
        second = Recorder()
        first = await endpoint(
            {"received": lambda self, data, addr: self.transport.set_protocol(second)}
        )
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for data in (b"1", b"2"):
                client.sendto(data, name(first))
            await second.until(lambda: second.got)
        assert [data for data, _ in first.got] == [b"1"]
        assert [data for data, _ in second.got] == [b"2"]
        first.transport.abort()
        assert await second.lost is None
        await turns(1)

    run(main())


def test_a_flood_does_not_starve_others(run_ours: Run) -> None:
    """A transport that sends to itself always has something to read."""

    def received(self: Recorder, data: bytes, addr: Any) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(data, addr)

    async def main() -> None:
        protocol = await endpoint({"received": received})
        for _ in range(64):
            protocol.transport.sendto(b"round", name(protocol))
        counts = []
        for _ in range(50):
            await asyncio.sleep(0)
            counts.append(len(protocol.got))
        assert max(b - a for a, b in zip(counts, counts[1:], strict=False)) <= 32
        await protocol.close()

    run_ours(main())


# --- the end --------------------------------------------------------------------------------------


def test_sent_after_the_end_is_quiet(run_ours: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        reports = Reports()
        server = await endpoint()
        client = await endpoint(remote_addr=name(server))
        for protocol in (server, client):
            to = name(protocol)
            await protocol.close()
            with caplog.at_level(logging.WARNING, logger="asyncio"):
                for _ in range(7):
                    protocol.transport.sendto(b"x", to if protocol is server else None)
            assert caplog.messages[-1] == "socket.send() raised exception."
            caplog.clear()
            protocol.transport.close()
            protocol.transport.abort()
            assert protocol.calls == ["made", "lost"]
        assert reports.contexts == []

    run_ours(main())


def test_left_open_it_warns(run_ours: Run) -> None:
    async def main() -> None:
        protocol = await endpoint()
        await turns(2)
        transport = protocol.transport
        reference = weakref.ref(transport)
        fd = transport._sock_fd
        transport.pause_reading()
        await turns(2)
        protocol.transport = None
        with pytest.warns(ResourceWarning, match="unclosed transport <DatagramTransport fd="):
            del transport
        assert reference() is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    run_ours(main())


def test_many_come_and_go(run_ours: Run) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(300):
            protocol = await endpoint()
            protocol.transport.sendto(b"x", name(protocol))
            await protocol.until(lambda protocol=protocol: protocol.got)
            await protocol.close()
        assert len(os.listdir("/proc/self/fd")) == before

    run_ours(main())


def test_the_loop_closed_first() -> None:
    loop = pyloop.EventLoop()
    protocol = loop.run_until_complete(endpoint())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        protocol.transport.close()
    transport = protocol.transport
    protocol.transport = None
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport


def test_a_forked_child_may_not_send() -> None:
    async def main() -> None:
        protocol = await endpoint()
        to = name(protocol)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                protocol.transport.sendto(b"from the child", to)
            except RuntimeError as exc:
                status = 0 if "forked" in str(exc) else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        protocol.transport.sendto(b"from the parent", to)
        await protocol.until(lambda: protocol.got)
        assert [data for data, _ in protocol.got] == [b"from the parent"]
        await protocol.close()

    runner("epoll")(main())


def test_debug_mode(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        protocol = await endpoint()
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()
        protocol.transport.sendto(b"x", name(protocol))
        await protocol.until(lambda: protocol.got)
        await protocol.close()

    for kind in ("epoll", "asyncio"):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="asyncio"):
            runner(kind, debug=True)(main())
        assert any("pauses reading" in text for text in caplog.messages)
        assert any("resumes reading" in text for text in caplog.messages)


def test_its_type(run_ours: Run) -> None:
    async def main() -> None:
        protocol = await endpoint()
        assert type(protocol.transport) is DatagramTransport
        assert isinstance(protocol.transport, asyncio.DatagramTransport)
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(protocol.transport._sock_fd, print)
        await protocol.close()

    run_ours(main())


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="Linux")
def test_a_family_that_only_the_socket_module_knows(run_ours: Run) -> None:
    async def main() -> None:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
        sock.setblocking(False)
        protocol = await endpoint(sock=sock)
        assert not isinstance(protocol.transport, DatagramTransport)
        await protocol.close()

    run_ours(main())


# --- sock_recvfrom_into() -------------------------------------------------------------------------


def test_recvfrom_into(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(type=socket.SOCK_DGRAM) as server,
            socket.socket(type=socket.SOCK_DGRAM) as client,
        ):
            server.bind(("127.0.0.1", 0))
            client.bind(("127.0.0.1", 0))
            server.setblocking(False)
            to, sender = server.getsockname(), client.getsockname()
            buffer = bytearray(10)
            for send_first in (True, False):
                if send_first:
                    client.sendto(b"hello", to)
                else:
                    loop.call_soon(client.sendto, b"HELLO", to)
                assert await loop.sock_recvfrom_into(server, buffer) == (5, sender)
            assert buffer == b"HELLO" + bytes(5)
            client.sendto(b"longer", to)
            assert await loop.sock_recvfrom_into(server, buffer, 3) == (3, sender)
            client.sendto(b"longer", to)
            assert await loop.sock_recvfrom_into(sock=server, buf=memoryview(buffer)[5:]) == (
                5,
                sender,
            )
            assert buffer == b"lonLOlonge"
            client.sendto(b"", to)
            assert await loop.sock_recvfrom_into(server, buffer, 0) == (0, sender)
            with pytest.raises(ValueError, match="nbytes is greater than the length"):
                await loop.sock_recvfrom_into(server, buffer, 11)
            with pytest.raises(ValueError, match="negative buffersize in recvfrom_into"):
                await loop.sock_recvfrom_into(server, buffer, -1)
            with pytest.raises(TypeError, match="read-write bytes-like object, not bytes"):
                await loop.sock_recvfrom_into(server, b"bytes")  # type: ignore[arg-type]
            waiting = asyncio.ensure_future(loop.sock_recvfrom_into(server, buffer))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            client.sendto(b"kept", to)
            assert await loop.sock_recvfrom_into(server, buffer) == (4, sender)

    run(main())


def test_recvfrom_into_of_a_stream(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socketpair()
        with left, right:
            right.send(b"abc")
            buffer = bytearray(2)
            count, address = await loop.sock_recvfrom_into(left, buffer)
            assert (count, bytes(buffer)) == (2, b"ab")
            assert not address
            fill_socket(right)
            assert (await loop.sock_recvfrom_into(left, buffer))[0] == 2

    run(main())
