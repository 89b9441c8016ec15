"""Thundergram: a chat server and its terminal client.

    python -m pyloop.examples.thundergram              # the server, on 127.0.0.1:8080
    python -m pyloop.examples.thundergram client bob   # a client; type `alice: hello`

The protocol is lines of UTF-8. A client's first line is its login. Each further line is
`login1,login2: message`, and each of those logins gets the line `author: message`, once. What the
server itself has to say comes as `server: ...`, to the one it concerns and to nobody else.

Each connection has two coroutines, since it reads and writes at the same time: the reader puts
messages into the addressees' channels, the writer takes them out of its own. What is promised:

- Messages from one author to one addressee arrive in order. No acknowledgement is sent.
- A login is 1 to MAX_LOGIN printable characters without `:` and `,`, is not "server" and not in
  use. Any other is refused with a reason and the connection is closed; so is one that sends no
  login for `login_limit` seconds.
- A bad line (no `:`, nobody addressed, longer than MAX_LINE bytes, not UTF-8) gets a reason, and
  so does one with addressees who are not connected. The connection goes on.
- QUEUE messages may wait for each peer; whoever sends it one more waits. The writer takes all that
  is there and must be able to send it within `stuck_limit` seconds, or the peer is disconnected
  and what waited for it is lost. So a peer that does not read costs two times QUEUE messages
  beside the kernel's buffers, and holds a sender up for about `stuck_limit` seconds at most.
- A client that only closes its sending side still gets all that is already on its way to it.
"""

import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pyloop import Channel, ChannelClosed, lines, sendall, spawn, timeout
from pyloop.examples._cli import (
    accept_next,
    dial,
    last_words,
    listen,
    name_of,
    options,
    run_program,
    seconds,
)
from pyloop.examples._terminal import talk

SERVER = "server"  # the author of what the server says
MAX_LOGIN = 32  # characters
MAX_LINE = 4096  # bytes, without the newline
QUEUE = 100  # messages: a burst of a few screens passes without anybody waiting
LOGIN_LIMIT = 30.0  # seconds
STUCK_LIMIT = 10.0  # seconds

Inbox = Channel[tuple[str, str]]  # author and message

log = logging.getLogger(__name__)


async def thundergram_server(
    port: int = 8080,
    *,
    host: str = "127.0.0.1",
    login_limit: float = LOGIN_LIMIT,
    stuck_limit: float = STUCK_LIMIT,
) -> None:
    """Serve until cancelled."""
    peers: dict[str, Inbox] = {}
    with listen(host, port) as s:
        print(f"Thundergram: listening on {name_of(s)}", flush=True)
        while True:
            conn, addr = await accept_next(s)
            await spawn(
                thundergram_connecton(
                    peers, conn, addr, login_limit=login_limit, stuck_limit=stuck_limit
                )
            )


async def thundergram_connecton(
    peers: dict[str, Inbox],
    conn: socket.socket,
    addr: Any,
    *,
    login_limit: float = LOGIN_LIMIT,
    stuck_limit: float = STUCK_LIMIT,
) -> None:
    """Serve one client until it leaves; closes `conn`, and is in `peers` only meanwhile."""
    log.info("connected by %s", addr)
    with conn, suppress(OSError):  # a connection that breaks is one that ends
        text = lines(conn, max_line=MAX_LINE)
        try:
            async with timeout(login_limit):
                line = await anext(text)
            login = check_login(line, peers)
        except StopAsyncIteration:
            return
        except TimeoutError:
            await refuse(conn, f"no login came within {login_limit:g} seconds")
            return
        except ValueError as error:  # also UnicodeDecodeError and LineTooLong
            await refuse(conn, str(error))
            return
        # No await since the check, so nobody else can have taken the login.
        inbox = peers[login] = Inbox(QUEUE)
        writer = await spawn(write_messages(conn, inbox, stuck_limit), name=f"to {login}")
        try:
            await forward_messages(peers, login, text)
        finally:
            del peers[login]
            inbox.close()
            await writer  # which still sends what is queued, for stuck_limit at most
            log.info("%s left", login)


def check_login(line: str, peers: dict[str, Inbox]) -> str:
    """Return the login in `line`; raises ValueError with the reason if it cannot be used."""
    login = line.strip()
    if not login:
        raise ValueError("the login is empty")
    if len(login) > MAX_LOGIN:
        raise ValueError(f"the login is longer than {MAX_LOGIN} characters")
    if ":" in login or "," in login or not login.isprintable():
        raise ValueError("a login is printable characters without ':' and ','")
    if login.casefold() == SERVER:
        raise ValueError(f"the login {login!r} is reserved")
    if login in peers:
        raise ValueError(f"the login {login!r} is already taken")
    return login


async def refuse(conn: socket.socket, reason: str) -> None:
    """Tell the client why it cannot stay."""
    log.info("refused: %s", reason)
    await last_words(conn, f"{SERVER}: {reason}\n".encode())


async def write_messages(conn: socket.socket, inbox: Inbox, stuck_limit: float) -> None:
    """Send what comes into `inbox` until it is closed or the peer no longer takes it."""
    try:
        async for author, message in inbox:
            batch = [f"{author}: {message}\n"]
            while len(inbox):
                author, message = inbox.recv_nowait()
                batch.append(f"{author}: {message}\n")
            async with timeout(stuck_limit):
                await sendall(conn, "".join(batch).encode())
    except OSError as error:  # TimeoutError is one
        log.info("cannot write to a peer: %s", str(error) or "it does not read")
    finally:
        inbox.close()  # wakes the senders who wait for room
        with suppress(OSError):
            conn.shutdown(socket.SHUT_RDWR)  # wakes our reader with the end of the input


async def forward_messages(peers: dict[str, Inbox], login: str, text: AsyncIterator[str]) -> None:
    """Deliver each line of `text` until it ends or nothing more can be said to its author."""
    inbox = peers[login]
    with suppress(ChannelClosed):
        while True:
            # A loop over anext() and not `async for`, for that ends with the first error.
            try:
                names, message = split_message(await anext(text))
            except StopAsyncIteration:
                return
            except ValueError as error:  # also UnicodeDecodeError and LineTooLong
                await inbox.send((SERVER, str(error)))
                continue
            missing = []
            for name in names:
                try:
                    await peers[name].send((login, message))
                except (KeyError, ChannelClosed):
                    missing.append(name)
            if missing:
                await inbox.send((SERVER, f"not connected: {', '.join(missing)}"))


def split_message(line: str) -> tuple[list[str], str]:
    """Return addressees, each once, and message; raises ValueError with what is wrong."""
    addressees, colon, message = line.removesuffix("\r").partition(":")
    if not colon:
        raise ValueError("no ':' in the line; write 'login1,login2: message'")
    names = [name for name in dict.fromkeys(map(str.strip, addressees.split(","))) if name]
    if not names:
        raise ValueError("no addressee before the ':'")
    return names, message.removeprefix(" ")


async def thundergram_client(login: str, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Be `login` at the terminal until the server closes the connection."""
    with await dial(host, port) as sock:
        await sendall(sock, f"{login}\n".encode())
        await talk(sock)


def main() -> int:
    parser = options("thundergram", "A chat server, and its terminal client.")
    parser.add_argument("role", nargs="?", choices=("server", "client"), default="server")
    parser.add_argument("login", nargs="?", help="for the client: who you are")
    for option, limit in (("--login-limit", LOGIN_LIMIT), ("--stuck-limit", STUCK_LIMIT)):
        parser.add_argument(
            option, type=seconds, default=limit, metavar="SECONDS", help="default: %(default)g"
        )
    args = parser.parse_intermixed_args()
    if args.role == "client":
        if args.login is None:
            parser.error("the client needs a login")
        client = thundergram_client(args.login, host=args.host, port=args.port)
        return run_program(parser, client, verbose=args.verbose)
    if args.login is not None:
        parser.error("a login is for the client")
    server = thundergram_server(
        args.port, host=args.host, login_limit=args.login_limit, stuck_limit=args.stuck_limit
    )
    return run_program(parser, server, verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
