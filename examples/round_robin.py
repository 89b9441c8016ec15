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


def server(host: str, port: int) -> Steps:
    """Serve until closed."""
    loop = asyncio.get_running_loop()
    with listen(host, port) as s:
        print(f"Round robin: listening on {name_of(s)}", flush=True)
        while True:
            yield "read", s
            try:
                conn, addr = s.accept()
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


def main() -> int:
    parser = options("round_robin", "A server made of generators.", port=8000)
    args = parser.parse_args()

    def program() -> None:
        with closing(EventLoop(main=server(args.host, args.port))) as loop:
            loop.run()

    return exit_status(parser, program, verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
