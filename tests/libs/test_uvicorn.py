"""uvicorn with httptools: as a program with --loop pyloop:new_event_loop, and inside a loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httptools", reason="httptools is not installed")

import uvicorn

if TYPE_CHECKING:
    from conftest import Run

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# ------------------------------------------------------- in a loop of ours


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def respond(send: Send, *pieces: bytes) -> None:
    length = str(sum(map(len, pieces))).encode()
    headers = [(b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number, piece in enumerate(pieces, 1):
        more = number < len(pieces)
        await send({"type": "http.response.body", "body": piece, "more_body": more})


async def digests(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the digest of the body."""
    assert scope["type"] == "http"
    await respond(send, hashlib.sha256(await read_body(receive)).hexdigest().encode())


@contextlib.asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    """uvicorn's Server in this loop; gives its port."""
    config = uvicorn.Config(
        app, http="httptools", lifespan="off", access_log=False, log_config=None, **options
    )
    server = uvicorn.Server(config)
    # asyncio turns Nagle's algorithm off only where the protocol is said to be TCP.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    # Clients may connect at once: until the server accepts, the kernel keeps them waiting.
    task = asyncio.create_task(server.serve([sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        sock.close()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return int(head.split()[1]), await reader.readexactly(int(length[1]))


def request(body: bytes) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_keep_alive_and_pipelining(run: Run) -> None:
    async def main() -> None:
        async with serving(digests) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            bodies = [b"%d" % number * number for number in range(100)]
            for body in bodies:
                writer.write(request(body))
                await writer.drain()
                answer = (200, hashlib.sha256(body).hexdigest().encode())
                assert await read_response(reader) == answer
            writer.writelines(map(request, bodies))
            for body in bodies:
                answer = (200, hashlib.sha256(body).hexdigest().encode())
                assert await read_response(reader) == answer
            writer.close()
            await writer.wait_closed()

    run(main())


def test_20_mib_each_way(run: Run) -> None:
    block = os.urandom(1 << 20)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_body(receive) == block * 20
        await respond(send, *[block[::-1]] * 20)

    async def main() -> None:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(block * 20))
            status, body = await read_response(reader)
            assert status == 200
            assert hashlib.sha256(body).digest() == hashlib.sha256(block[::-1] * 20).digest()
            writer.close()
            await writer.wait_closed()

    run(main())


def test_many_clients(run: Run) -> None:
    async def fetch(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(5):
            body = b"%d %d" % (number, turn)
            writer.write(request(body))
            answer = (200, hashlib.sha256(body).hexdigest().encode())
            assert await read_response(reader) == answer
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with serving(digests) as port, asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(fetch(port, number))

    run(main())


def test_tls(run: Run, certificate: tuple[Path, Path], client_tls: Any) -> None:
    cert, key = map(str, certificate)

    async def main() -> None:
        async with serving(digests, ssl_certfile=cert, ssl_keyfile=key) as port:
            reader, writer = await asyncio.open_connection("localhost", port, ssl=client_tls)
            writer.write(request(b"secret"))
            answer = (200, hashlib.sha256(b"secret").hexdigest().encode())
            assert await read_response(reader) == answer
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(main())


def test_websocket(run: Run) -> None:
    websockets = pytest.importorskip("websockets.asyncio.client", reason="no websockets")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"][::-1]})
        assert message == {"type": "websocket.disconnect", "code": 1000, "reason": ""}

    async def main() -> None:
        # Not the default: that one uses what websockets has deprecated.
        async with serving(app, ws="websockets-sansio") as port:
            async with websockets.connect(f"ws://127.0.0.1:{port}/") as client:
                for word in ("drawer", "ä" * 70000):
                    await client.send(word)
                    assert await client.recv() == word[::-1]

    run(main())


# ------------------------------------------------------- as a program

# The gate is a FIFO: to read it takes until the test writes to it.
APP = """
import asyncio
import pathlib

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"], flush=True)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/wait":
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        body = await asyncio.to_thread(pathlib.Path("gate").read_bytes)
    else:
        body = type(asyncio.get_running_loop()).__module__.encode()
    await send({"type": "http.response.body", "body": body})
"""


class Log:
    """The lines that a program writes, read by a thread so that it never waits for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches; an AssertionError if that does not happen."""
        with self._news:
            self._news.wait_for(lambda: self._ended or re.search(pattern, self.text()), 30)
            found = re.search(pattern, self.text())
            assert found is not None, f"no {pattern!r} in:\n{self.text()}"
            return found

    def text(self) -> str:
        return "".join(self._lines)

    def close(self) -> None:
        self._thread.join()
        self._stream.close()


@contextlib.contextmanager
def program(folder: Path, loop: str) -> Iterator[tuple[subprocess.Popen[str], Log, int]]:
    """The command uvicorn in a folder of its own; gives the process, its log and its port."""
    (folder / "program.py").write_text(APP)
    os.mkfifo(folder / "gate")
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "program:app", "--loop", loop, "--http", "httptools"]
        + ["--port", "0", "--no-use-colors", "--lifespan", "on"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = Log(process)
    try:
        yield process, log, int(log.wait_for(r"running on http://127\.0\.0\.1:(\d+)")[1])
    finally:
        process.kill()
        process.wait()
        log.close()


def get(connection: http.client.HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    return connection.getresponse().read().decode()


LOOPS = {"asyncio": "asyncio", "uvloop": "uvloop", "pyloop": "pyloop:new_event_loop"}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_program_ends_gracefully(loop_name: str, sent: signal.Signals, tmp_path: Path) -> None:
    """Keep-alive; after the signal a request that was there is answered, and none is accepted."""
    with program(tmp_path, LOOPS[loop_name]) as (process, log, port):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as idle:
            assert get(idle, "/").partition(".")[0] == loop_name
            kept = idle.sock
            assert get(idle, "/").partition(".")[0] == loop_name
            assert idle.sock is kept is not None
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as waiting:
                waiting.request("GET", "/wait")
                response = waiting.getresponse()
                assert response.read(6) == b"first "
                process.send_signal(sent)
                log.wait_for("Waiting for connections to close")
                assert kept.recv(1) == b""
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port))
                (tmp_path / "gate").write_text("second")
                assert response.read() == b"second"
        # uvicorn sends itself the signal again, once it has tidied up, and expects Ctrl-C.
        ends_with = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0}
        status = process.wait(30)
        log.close()
        text = log.text()
        assert (status, "Traceback" in text) == (ends_with[sent], False), text
        assert re.search(r"(?s)Waiting for.*lifespan\.shutdown.*Finished server process", text)
