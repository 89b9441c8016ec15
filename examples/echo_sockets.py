"""Echo with asyncio on plain sockets: `loop.sock_accept`, `sock_recv`, `sock_sendall`.

    python -m pyloop.examples.echo_sockets        # listens on 127.0.0.1:8000

Also how to end: at SIGINT or SIGTERM no more clients are accepted, those connected may go on for
GRACE seconds, and what is left then is cancelled. And what becomes of an error in a task: a line
`boom` raises one, which is logged and ends that connection alone. (`nc 127.0.0.1 8000` is a
client.)
"""

import asyncio
import logging
import signal
import socket
import sys

from pyloop.examples._cli import (
    SHORTAGE,
    SHORTAGE_PAUSE,
    STILLBORN,
    exit_status,
    listen,
    name_of,
    options,
    run_on_asyncio,
)

PIECE = 64 * 1024  # bytes that are read at once
GRACE = 1.5  # seconds: the program has ended within 2

log = logging.getLogger(__name__)


async def echo_server(port: int = 8000, *, host: str = "127.0.0.1") -> None:
    """Serve until a signal comes."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    echoes: set[asyncio.Task[None]] = set()
    with listen(host, port) as sock:
        print(f"Echo, with sockets: listening on {name_of(sock)}", flush=True)
        accepting = asyncio.create_task(accept_clients(sock, echoes))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({accepting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if accepting.done():
            accepting.result()  # raises what went wrong
        accepting.cancel()
        await asyncio.wait({accepting})
    if echoes:
        log.info("%d clients have %g seconds to leave", len(echoes), GRACE)
        await asyncio.wait(echoes, timeout=GRACE)
    # Whoever is left is cancelled at the end of the program, by asyncio.Runner.


async def accept_clients(sock: socket.socket, echoes: set[asyncio.Task[None]]) -> None:
    """Start a task for each client, and keep it in `echoes` until it ends."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            conn, addr = await loop.sock_accept(sock)
        except OSError as error:
            if error.errno not in SHORTAGE | STILLBORN:
                raise
            log.warning("cannot accept: %s", error)
            if error.errno in SHORTAGE:
                await asyncio.sleep(SHORTAGE_PAUSE)
        else:
            log.info("connected by %s", addr)
            echo = asyncio.create_task(echo_connection(conn))
            echoes.add(echo)
            echo.add_done_callback(echoes.discard)


async def echo_connection(conn: socket.socket) -> None:
    """Send back what one client sends, until it closes its side; closes `conn`."""
    loop = asyncio.get_running_loop()
    with conn:
        try:
            while data := await loop.sock_recv(conn, PIECE):
                if data.rstrip(b"\r\n") == b"boom":
                    raise RuntimeError("the client said boom")
                await loop.sock_sendall(conn, data)
        except OSError as error:
            log.info("lost a client: %s", error)
        except Exception:
            # Nobody awaits this task: what it does not handle, nobody would see in time.
            log.exception("an echo failed")


def main() -> int:
    parser = options("echo_sockets", "An echo server on asyncio's socket calls.", port=8000)
    args = parser.parse_args()
    server = echo_server(args.port, host=args.host)
    return exit_status(parser, lambda: run_on_asyncio(server), verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
