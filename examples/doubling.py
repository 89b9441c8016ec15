"""Doubling: send an integer on a line, get twice its value back on a line.

    python -m pyloop.examples.doubling server          # listens on 127.0.0.1:8080
    python -m pyloop.examples.doubling client 1 2 21   # prints "1 2", "2 4", "21 42"
    python -m pyloop.examples.doubling client          # random numbers until Ctrl-C

The smallest server that is still right about TCP: `lines` puts split lines together, `sendall`
sends all of an answer, each connection is a coroutine of its own. What it promises:

- An integer is what Python's int() takes. Anything else gets a line `error: ...`, and so does a
  line that is not UTF-8 or is longer than MAX_LINE bytes; the connection goes on. The bound is
  also what keeps one client from giving the process an hour of arithmetic.
- A client that does not read its answers is not read either, and holds up nobody but itself.
"""

import logging
import random
import socket
import sys
from collections.abc import Iterator
from typing import Any

from pyloop import lines, sendall, sleep, spawn
from pyloop.examples._cli import accept_next, dial, listen, name_of, options, run_program

MAX_LINE = 4096  # bytes; stays below 4300 digits, where int() and str() refuse by default

log = logging.getLogger(__name__)


async def doubling_server(port: int = 8080, *, host: str = "127.0.0.1") -> None:
    """Serve until cancelled."""
    with listen(host, port) as s:
        print(f"Doubling: listening on {name_of(s)}", flush=True)
        while True:
            conn, addr = await accept_next(s)
            await spawn(doubling_connection(conn, addr))


async def doubling_connection(conn: socket.socket, addr: Any) -> None:
    """Answer one client until it closes its side; closes `conn`."""
    log.info("connected by %s", addr)
    with conn:
        try:
            numbers = lines(conn, max_line=MAX_LINE)
            while True:
                # A loop over anext() and not `async for`, for that ends with the first error.
                try:
                    answer = str(int(await anext(numbers)) * 2)
                except StopAsyncIteration:
                    break
                except ValueError as error:  # also UnicodeDecodeError and LineTooLong
                    answer = f"error: {error}"
                await sendall(conn, f"{answer}\n".encode())
        except OSError as error:
            log.info("lost %s: %s", addr, error)
    log.info("disconnected by %s", addr)


def random_numbers() -> Iterator[int]:
    while True:
        yield random.randrange(10)


async def doubling_client(
    numbers: list[int] | None = None, *, host: str = "127.0.0.1", port: int = 8080
) -> None:
    """Have each of `numbers` doubled and print both; without them, ask at random for ever.

    Raises OSError when the server cannot be reached, ConnectionError when it leaves early.
    """
    with await dial(host, port) as sock:
        answers = lines(sock)
        for n in random_numbers() if numbers is None else numbers:
            await sendall(sock, f"{n}\n".encode())
            answer = await anext(answers, None)
            if answer is None:
                raise ConnectionError("the server closed the connection")
            print(n, answer, flush=True)
            if numbers is None:
                await sleep(random.random() * 2)


def main() -> int:
    parser = options("doubling", "A server that doubles integers, and its client.")
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("number", nargs="*", type=int, help="for the client (default: random ones)")
    args = parser.parse_intermixed_args()
    if args.role == "client":
        client = doubling_client(args.number or None, host=args.host, port=args.port)
        return run_program(parser, client, verbose=args.verbose)
    if args.number:
        parser.error("numbers are for the client")
    server = doubling_server(args.port, host=args.host)
    return run_program(parser, server, verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
