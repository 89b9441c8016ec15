"""The websockets library, server and client, on our loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("websockets", reason="websockets is not installed")

from websockets.asyncio.client import connect, unix_connect
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

if TYPE_CHECKING:
    from conftest import Run

MIB = 1 << 20


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncIterator[str]:
    """A server in this loop; gives its address."""
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"{'wss' if options.get('ssl') else 'ws'}://localhost:{port}/"


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_echo(
    run: Run, secure: bool, compression: str | None, request: pytest.FixtureRequest
) -> None:
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None
    if secure:
        server_tls = request.getfixturevalue("server_tls")
        client_tls = request.getfixturevalue("client_tls")

    async def main() -> None:
        options: dict[str, Any] = {"compression": compression, "max_size": 4 * MIB}
        async with (
            serving(echo, ssl=server_tls, **options) as address,
            connect(address, ssl=client_tls, **options) as client,
        ):
            for message in ("", "abcä", b"", b"\x00" * 70000, os.urandom(3 * MIB)):
                await client.send(message)
                assert await client.recv() == message

    run(main())


def test_many_messages_under_way(run: Run) -> None:
    """One task sends and another one receives, on the same connection."""
    count = 2000

    async def main() -> None:
        async with serving(echo) as address, connect(address) as client:

            async def send_all() -> None:
                for number in range(count):
                    await client.send(str(number))

            async with asyncio.TaskGroup() as group:
                group.create_task(send_all())
                for number in range(count):
                    assert await client.recv() == str(number)

    run(main())


def test_20_mib_in_fragments(run: Run) -> None:
    piece = os.urandom(MIB)

    async def fragments() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield piece

    async def swallow(connection: ServerConnection) -> None:
        received = hashlib.sha256()
        async for part in connection.recv_streaming(decode=False):
            received.update(part)
        await connection.send(received.hexdigest())

    async def main() -> None:
        options: dict[str, Any] = {"compression": None, "max_size": None}
        async with serving(swallow, **options) as address, connect(address, **options) as client:
            await client.send(fragments())
            assert await client.recv() == hashlib.sha256(piece * 20).hexdigest()

    run(main())


def test_many_clients(run: Run) -> None:
    async def talk(address: str, number: int) -> None:
        async with connect(address) as client:
            for turn in range(5):
                await client.send(f"{number} {turn}")
                assert await client.recv() == f"{number} {turn}"

    async def main() -> None:
        async with serving(echo) as address, asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(talk(address, number))

    run(main())


def test_ping_and_close_codes(run: Run) -> None:
    async def refuse(connection: ServerConnection) -> None:
        assert await connection.recv() == "go"
        await connection.close(4000, "enough")

    async def fail(connection: ServerConnection) -> None:
        await connection.close(1011, "broken")

    async def main() -> None:
        async with serving(refuse) as address, connect(address) as client:
            assert await (await client.ping()) >= 0
            await client.send("go")
            with pytest.raises(ConnectionClosedError) as error:
                await client.recv()
            assert error.value.rcvd is not None
            assert (error.value.rcvd.code, error.value.rcvd.reason) == (4000, "enough")
        async with serving(fail) as address, connect(address) as client:
            with pytest.raises(ConnectionClosedError, match="broken"):
                await client.recv()

    run(main())


def test_the_server_closes_with_clients_connected(run: Run) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with serving(echo) as address:
                clients = [await stack.enter_async_context(connect(address)) for _ in range(10)]
                waiting = [asyncio.create_task(client.recv()) for client in clients]
                await clients[0].send("x")
                assert await waiting[0] == "x"
            for task in waiting[1:]:
                with pytest.raises(ConnectionClosedOK, match="1001"):
                    await task
            with pytest.raises(ConnectionRefusedError):
                await connect(address)

    run(main())


def test_recv_is_cancelled(run: Run) -> None:
    """A message that comes after the cancellation is not lost."""

    async def main() -> None:
        async with serving(echo) as address, connect(address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.recv()
            await client.send("kept")
            assert await client.recv() == "kept"

    run(main())


def test_unix_socket(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def main() -> None:
        async with unix_serve(echo, path), unix_connect(path) as client:
            await client.send("abc")
            assert await client.recv() == "abc"

    run(main())
