"""Group chat: choose a room by one byte, and everybody in it reads what anybody there writes.

    python -m pyloop.examples.group_chat server      # listens on 127.0.0.1:8000
    python -m pyloop.examples.group_chat reader A    # prints what is said in room A
    python -m pyloop.examples.group_chat sender A    # says there what is typed; `exit` leaves

The first byte that a client sends is its room; all that follows are messages. There is no framing:
what arrives at once is one message, and so is each line of it. Reading and writing are apart, in
the clients, which are two programs, and in the server, where each connection has a coroutine for
either. What is promised:

- A message goes to all in the room, its author included, as it came; what is not UTF-8 in it is
  replaced. Messages of one author arrive in order, those of several are not mixed up.
- The message `exit` disconnects its author. It must come alone, or as a line.
- QUEUE messages may wait for each member. Whoever writes one more waits, PATIENCE seconds at most;
  then the member counts as deaf, and until it reads again it loses what does not fit, and nobody
  waits for it. It is not disconnected: a sender never reads.
- A client that has named no room for ROOM_LIMIT seconds is disconnected.
"""

import asyncio
import codecs
import logging
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from pyloop import Channel, ChannelClosed, recv, sendall, spawn, timeout
from pyloop.examples._cli import accept_next, dial, listen, name_of, options, run_program
from pyloop.examples._terminal import printable, send_stdin

EXIT = "exit"
MAX_MESSAGE = 1024  # bytes that are read at once
QUEUE = 100  # messages
PATIENCE = 1.0  # seconds
ROOM_LIMIT = 30.0  # seconds
FAREWELL_LIMIT = 2.0  # seconds to take what is still queued

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """One who is in a room: what waits for it, and whether it reads."""

    inbox: Channel[bytes] = field(default_factory=lambda: Channel(QUEUE))
    deaf: bool = False

    async def tell(self, message: bytes) -> None:
        with suppress(ChannelClosed):  # it left while we waited
            try:
                self.inbox.send_nowait(message)
                self.deaf = False
            except asyncio.QueueFull:
                if not self.deaf:
                    await self.wait_and_tell(message)

    async def wait_and_tell(self, message: bytes) -> None:
        try:
            async with timeout(PATIENCE):
                await self.inbox.send(message)
        except TimeoutError:
            self.deaf = True


Rooms = dict[bytes, set[Member]]


async def group_chat_server(port: int = 8000, *, host: str = "127.0.0.1") -> None:
    """Serve until cancelled."""
    rooms: Rooms = {}
    with listen(host, port) as s:
        print(f"Group chat: listening on {name_of(s)}", flush=True)
        while True:
            conn, addr = await accept_next(s)
            await spawn(group_chat_connection(rooms, conn, addr))


async def group_chat_connection(rooms: Rooms, conn: socket.socket, addr: Any) -> None:
    """Serve one client until it leaves; closes `conn`, and is in `rooms` only meanwhile."""
    log.info("connected by %s", addr)
    with conn, suppress(OSError):  # a connection that breaks is one that ends
        async with timeout(ROOM_LIMIT):
            room = await recv(conn, 1)
        if not room:
            return
        member = Member()
        members = rooms.setdefault(room, set())
        members.add(member)
        writer = await spawn(write_messages(conn, member.inbox))
        try:
            await forward_messages(conn, members)
        finally:
            members.remove(member)
            if not members:
                del rooms[room]
            member.inbox.close()
            log.info("disconnected by %s", addr)
            try:
                async with timeout(FAREWELL_LIMIT):
                    await writer
            finally:
                writer.cancel()


async def write_messages(conn: socket.socket, inbox: Channel[bytes]) -> None:
    """Send what comes into `inbox` until it is closed or the connection breaks."""
    with suppress(OSError):  # the reader sees it, too
        async for message in inbox:
            await sendall(conn, message)


async def forward_messages(conn: socket.socket, members: set[Member]) -> None:
    """Pass on what the client says until it leaves."""
    # A character may be split over two pieces; whoever decodes what we send shall not stumble.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := await recv(conn, MAX_MESSAGE):
        text = decoder.decode(data)
        said = takewhile(lambda line: line.strip() != EXIT, text.splitlines(keepends=True))
        message = "".join(said)
        if message.strip():
            for member in list(members):
                await member.tell(message.encode())
        if message != text:
            return


async def reader_client(room: bytes, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Print what is said in the room until the server closes the connection."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with await dial(host, port) as sock:
        await sendall(sock, room)
        while data := await recv(sock, MAX_MESSAGE):
            for message in decoder.decode(data).splitlines():
                print(printable(message), flush=True)


async def sender_client(room: bytes, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Say in the room what is typed, until its end or until the server closes the connection."""
    with await dial(host, port) as sock:
        await sendall(sock, room)
        typing = await spawn(send_stdin(sock))
        try:
            while await recv(sock, 65536):  # what is said is for the reader
                pass
        finally:
            typing.cancel()


def room_name(text: str) -> bytes:
    """Read a room for argparse."""
    room = text.encode()
    if len(room) != 1:
        raise ValueError(text)
    return room


def main() -> int:
    parser = options("group_chat", "A chat with rooms: server, reader and sender.", port=8000)
    parser.add_argument("role", choices=("server", "reader", "sender"))
    parser.add_argument("room", nargs="?", type=room_name, help="for the clients: one byte")
    args = parser.parse_intermixed_args()
    if args.role == "server":
        if args.room is not None:
            parser.error("a room is for the clients")
        server = group_chat_server(args.port, host=args.host)
        return run_program(parser, server, verbose=args.verbose)
    if args.room is None:
        parser.error("the clients need a room")
    client = reader_client if args.role == "reader" else sender_client
    return run_program(
        parser, client(args.room, host=args.host, port=args.port), verbose=args.verbose
    )


if __name__ == "__main__":
    sys.exit(main())
