"""Small chat servers for the fan-out bench, one for each interface: ``chat_servers NAME``.

The lines are Thundergram's: the first one is a login, each further one is ``a,b: text``, and a
and b get ``author: text``.  Each connection has a reader and, where the interface has no buffer to
write into, a writer that a channel feeds.  There are no limits and no time-outs; those has
pyloop.examples.thundergram, which takes part beside these.
"""

import asyncio
import contextlib
import importlib
import socket
import sys
from typing import Any, cast

from benchmarks.servers import BACKLOG, announce, listen, serve_on, set_nodelay, settle_malloc
from benchmarks.workloads import run_asyncio


def split(line: str) -> tuple[list[str], str]:
    names, _, text = line.partition(": ")
    return names.split(","), text


def coroutine_server(library: Any) -> None:
    """pyloop, and the textbook: a channel and two coroutines for each member."""
    inboxes: dict[str, Any] = {}

    async def write(conn: socket.socket, inbox: Any) -> None:
        with contextlib.suppress(OSError):
            while (message := await inbox.recv()) is not None:
                await library.sendall(conn, message)

    async def serve_one(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            text = library.lines(conn)
            login = await anext(text)
            inbox = inboxes[login] = library.Channel()
            await library.spawn(write(conn, inbox))
            async for line in text:
                names, message = split(line)
                data = f"{login}: {message}\n".encode()
                for name in names:
                    if name in inboxes:
                        await inboxes[name].send(data)
            del inboxes[login]
            await inbox.send(None)

    async def serve() -> None:
        with listen() as listener:
            announce(listener)
            while True:
                conn, _ = await library.accept(listener)
                set_nodelay(conn)
                await library.spawn(serve_one(conn))

    library.run(serve())


async def stream_server() -> None:
    writers: dict[str, asyncio.StreamWriter] = {}

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            login = (await reader.readline()).decode().rstrip("\n")
            writers[login] = writer
            async for line in reader:
                names, message = split(line.decode().rstrip("\n"))
                data = f"{login}: {message}\n".encode()
                for name in names:
                    if name in writers:
                        writers[name].write(data)
                        await writers[name].drain()
            del writers[login]
        writer.close()

    await serve_on(await asyncio.start_server(serve_one, "127.0.0.1", 0, backlog=BACKLOG))


class Member(asyncio.Protocol):
    members: dict[str, "Member"] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.rest = b""
        self.login = ""

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if self.login:
                names, message = split(line.decode())
                answer = f"{self.login}: {message}\n".encode()
                for name in names:
                    if name in self.members:
                        self.members[name].transport.write(answer)
            else:
                self.login = line.decode()
                self.members[self.login] = self

    def connection_lost(self, exc: Exception | None) -> None:
        self.members.pop(self.login, None)


async def protocol_server() -> None:
    loop = asyncio.get_running_loop()
    await serve_on(await loop.create_server(Member, "127.0.0.1", 0, backlog=BACKLOG))


def main(name: str) -> None:
    settle_malloc()
    library, _, face = name.partition(" ")
    if face == "coroutine":
        coroutine_server(importlib.import_module(library))
    elif library == "textbook":
        coroutine_server(importlib.import_module("benchmarks.textbook"))
    else:
        run_asyncio(library, {"streams": stream_server, "protocol": protocol_server}[face]())


if __name__ == "__main__":
    main(sys.argv[1])
