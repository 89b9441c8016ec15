"""aiohttp, server and client, on our loop."""

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

pytest.importorskip("aiohttp", reason="aiohttp is not installed")

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from conftest import Run

MIB = 1 << 20
BIG = 20  # of them

Handler = Any


@contextlib.asynccontextmanager
async def serving(
    handlers: dict[str, Handler], *, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[str]:
    """A server for "METHOD /path" -> handler; gives the address that it listens on."""
    app = web.Application(client_max_size=32 * MIB)
    for route, handler in handlers.items():
        app.router.add_route(*route.split(), handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site: web.BaseSite
        if path is not None:
            site = web.UnixSite(runner, str(path), ssl_context=tls)
        else:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        if path is not None:
            yield "http://localhost"
        else:
            port = runner.addresses[0][1]
            # A name and not a number, so that the client's resolver has work to do.
            yield f"{'https' if tls else 'http'}://localhost:{port}"
    finally:
        await runner.cleanup()


def client(tls: ssl.SSLContext | None = None, **options: Any) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=tls if tls else True)
    return aiohttp.ClientSession(connector=connector, **options)


async def doubled(request: web.Request) -> web.Response:
    if request.method == "GET":
        return web.Response(text=request.query["word"] * 2)
    numbers = await request.json()
    return web.json_response([2 * number for number in numbers])


def test_get_and_post(run: Run) -> None:
    async def main() -> None:
        async with serving({"GET /": doubled, "POST /": doubled}) as url, client() as session:
            async with session.get(url, params={"word": "ü/&"}) as response:
                assert (response.status, await response.text()) == (200, "ü/&ü/&")
            async with session.post(url, json=[1, 2.5]) as response:
                assert await response.json() == [2, 5.0]
            async with session.put(url) as response:
                assert response.status == 405

    run(main())


def test_connections_are_kept(run: Run) -> None:
    """Requests one after the other use one connection; those at the same time one each."""

    async def peer(request: web.Request) -> web.Response:
        assert request.transport is not None
        if "meet" in request.query:
            await meeting.wait()
        return web.Response(text=str(request.transport.get_extra_info("peername")))

    async def fetch(session: aiohttp.ClientSession, url: str) -> str:
        async with session.get(url) as response:
            return await response.text()

    async def main() -> None:
        async with serving({"GET /": peer}) as url, client() as session:
            assert len({await fetch(session, url) for _ in range(20)}) == 1
            peers = await asyncio.gather(*(fetch(session, url + "/?meet") for _ in range(50)))
            assert len(set(peers)) == 50

    meeting = asyncio.Barrier(50)
    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_20_mib_each_way(run: Run, secure: bool, request: pytest.FixtureRequest) -> None:
    server_tls = request.getfixturevalue("server_tls") if secure else None
    client_tls = request.getfixturevalue("client_tls") if secure else None
    upload, download = os.urandom(MIB), os.urandom(MIB)

    def digest(piece: bytes) -> str:
        return hashlib.sha256(piece * BIG).hexdigest()

    async def exchange(request: web.Request) -> web.StreamResponse:
        received = hashlib.sha256()
        async for data in request.content.iter_any():
            received.update(data)
        response = web.StreamResponse(headers={"X-Received": received.hexdigest()})
        await response.prepare(request)
        for _ in range(BIG):
            await response.write(download)
        await response.write_eof()
        return response

    async def body() -> AsyncIterator[bytes]:
        for _ in range(BIG):
            yield upload

    async def main() -> None:
        async with (
            serving({"POST /": exchange}, tls=server_tls) as url,
            client(client_tls) as session,
            session.post(url, data=body()) as response,
        ):
            assert response.headers["X-Received"] == digest(upload)
            received = hashlib.sha256()
            async for data in response.content.iter_any():
                received.update(data)
            assert received.hexdigest() == digest(download)

    run(main())


def test_a_file_is_sent(run: Run, tmp_path: Path) -> None:
    """FileResponse goes through loop.sendfile()."""
    content = os.urandom(3 * MIB + 17)
    path = tmp_path / "file"
    path.write_bytes(content)

    async def send(request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    async def main() -> None:
        async with serving({"GET /": send}) as url, client() as session:
            async with session.get(url) as response:
                assert await response.read() == content
            async with session.get(url, headers={"Range": "bytes=100-199"}) as response:
                assert (response.status, await response.read()) == (206, content[100:200])

    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_websocket(run: Run, secure: bool, request: pytest.FixtureRequest) -> None:
    server_tls = request.getfixturevalue("server_tls") if secure else None
    client_tls = request.getfixturevalue("client_tls") if secure else None

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data[::-1])
            else:
                await socket.send_bytes(message.data)
        closed.set_result(socket.close_code)
        return socket

    async def main() -> None:
        nonlocal closed
        closed = asyncio.get_running_loop().create_future()
        async with serving({"GET /": echo}, tls=server_tls) as url, client(client_tls) as session:
            async with session.ws_connect(url, compress=15) as socket:
                await socket.send_str("abc")
                assert await socket.receive_str() == "cba"
                data = os.urandom(MIB)
                await socket.send_bytes(data)
                assert await socket.receive_bytes() == data
                for number in range(200):
                    await socket.send_str(f"{number:03}")
                for number in range(200):
                    assert (await socket.receive_str())[::-1] == f"{number:03}"
                await socket.close(code=4321)
            assert await closed == 4321

    closed: asyncio.Future[int | None]
    run(main())


def test_tls_is_verified(run: Run, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async with serving({"GET /": doubled}, tls=server_tls) as url:
            async with client(client_tls) as session:
                async with session.get(url, params={"word": "a"}) as response:
                    assert await response.text() == "aa"
            # In debug mode a loop reports each handshake that fails.
            asyncio.get_running_loop().set_debug(False)
            async with client(ssl.create_default_context()) as session:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(url)

    run(main())


def test_unix_socket(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        async with (
            serving({"GET /": doubled}, path=path) as url,
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.get(url, params={"word": "a"}) as response,
        ):
            assert await response.text() == "aa"

    run(main())


def test_timeout_and_disconnect(run: Run) -> None:
    """A client that gives up; the server's handler is told, and the next request is served."""

    async def hang(request: web.Request) -> web.Response:
        try:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody sets it")
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def main() -> None:
        # From the request on: until then a slow machine may take its time.
        timeout = aiohttp.ClientTimeout(sock_read=0.5)
        async with serving({"GET /hang": hang, "GET /": doubled}) as url, client() as session:
            with pytest.raises(TimeoutError):
                await session.get(url + "/hang", timeout=timeout)
            await cancelled.wait()
            async with session.get(url, params={"word": "a"}) as response:
                assert await response.text() == "aa"

    cancelled = asyncio.Event()
    run(main())


def test_refused(run: Run) -> None:
    async def main() -> None:
        async with serving({"GET /": doubled}) as url:
            pass
        async with client() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as raised:
                await session.get(url)
            assert isinstance(raised.value.os_error, ConnectionRefusedError)

    run(main())
