"""Round robin: generators that take turns. Each says what it waits for by yielding it.

    python -m pyloop.examples.round_robin        # listens on 127.0.0.1:8000

The server answers each request, which is whatever arrives at once, with "Hello world". There is no
`async` and no `await`: `yield "read", sock` gives the turn away until `sock` can be read, and the
calls are those of the socket itself. (`nc 127.0.0.1 8000` is a client.)
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any

from pyloop import Event, EventLoop
from pyloop.examples._cli import (
    SHORTAGE,
    SHORTAGE_PAUSE,
    STILLBORN,
    exit_status,
    listen,
    name_of,
    options,
)

ANSWER = b"Hello world\n"
MAX_REQUEST = 4096  # bytes

Steps = Generator[tuple[str | Event, Any], None, None]

log = logging.getLogger(__name__)


def server(listener: socket.socket) -> Steps:
    """Serve until closed."""
    loop = asyncio.get_running_loop()
    while True:
        yield "read", listener
        try:
            conn, addr = listener.accept()
        except BlockingIOError:  # the client has changed its mind
            continue
        except OSError as error:
            if error.errno not in SHORTAGE | STILLBORN:
                raise
            log.warning("cannot accept: %s", error)
            if error.errno in SHORTAGE:
                yield Event.Sleep, SHORTAGE_PAUSE
            continue
        log.info("connected by %s", addr)
        conn.setblocking(False)
        loop.create_task(client(conn))


def client(conn: socket.socket) -> Steps:
    """Answer one client until it closes its side; closes `conn`."""
    with conn, suppress(ConnectionError):
        while True:
            yield "read", conn
            if not conn.recv(MAX_REQUEST):
                break
            yield from send_all(conn, ANSWER)


def send_all(conn: socket.socket, data: bytes) -> Steps:
    while data:
        yield "write", conn
        data = data[conn.send(data) :]


def serve(host: str, port: int) -> None:
    """Serve until KeyboardInterrupt."""
    with listen(host, port) as listener, closing(EventLoop(main=server(listener))) as loop:
        print(f"Round robin: listening on {name_of(listener)}", flush=True)
        loop.run()


def main() -> int:
    parser = options("round_robin", "A server made of generators.", port=8000)
    args = parser.parse_args()

    return exit_status(parser, lambda: serve(args.host, args.port), verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
