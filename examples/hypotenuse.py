"""Hypotenuse: send the two legs of a right triangle as JSON, get the third side back.

    python -m pyloop.examples.hypotenuse server        # listens on 127.0.0.1:8000
    python -m pyloop.examples.hypotenuse client 3 4    # prints 5.0

A request is a JSON object, `{"a": 3, "b": 4}`, which ends with its closing brace or with the line,
so a client may leave the newline out. The answer is one line of JSON: the length, or
`{"error": "what is wrong"}`. What is promised:

- Each object gets its answer, in order. A wrong one gets an error and the connection goes on: bad
  syntax, bad UTF-8, a leg that is missing, no number, negative or NaN, or a length that no float
  can hold.
- The connection ends with an error when nobody can tell where the next object starts: after text
  that is not an object, and after an object longer than MAX_REQUEST bytes.
"""

import json
import logging
import math
import re
import socket
import sys
from typing import Any, NoReturn

from pyloop import lines, recv, sendall, spawn
from pyloop.examples._cli import (
    accept_next,
    dial,
    last_words,
    listen,
    name_of,
    options,
    run_program,
)

MAX_REQUEST = 4096  # bytes

# What decides where an object ends: braces, but not those in strings.
TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"?|[{}\n]')

log = logging.getLogger(__name__)


def hypotenuse(request: bytes) -> float:
    """Return the length that `request` asks for; raises ValueError with what is wrong with it."""
    try:
        legs = json.loads(request.decode(), parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    try:
        length = math.hypot(leg(legs, "a"), leg(legs, "b"))
    except OverflowError:  # of an integer
        length = math.inf
    if math.isinf(length):
        raise ValueError("too large")
    return length


def leg(legs: dict[str, Any], name: str) -> float:
    if name not in legs:
        raise ValueError(f"leg {name!r} is missing")
    value = legs[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"leg {name!r} is not a number")
    if value < 0:
        raise ValueError(f"leg {name!r} is negative")
    return float(value)


def refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def end_of_request(data: bytes) -> int:
    """Return where the object, or the line, that `data` starts with ends; 0 if it does not."""
    depth = 0
    for token in TOKEN.finditer(data):
        depth += (token[0] == b"{") - (token[0] == b"}")
        if token[0] == b"\n" or (token[0] == b"}" and depth == 0):
            return token.end()
    return 0


async def hypotenuse_server(port: int = 8000, *, host: str = "127.0.0.1") -> None:
    """Serve until cancelled."""
    with listen(host, port) as s:
        print(f"Hypotenuse: listening on {name_of(s)}", flush=True)
        while True:
            conn, addr = await accept_next(s)
            await spawn(hypotenuse_connection(conn, addr))


async def hypotenuse_connection(conn: socket.socket, addr: Any) -> None:
    """Answer one client until it closes its side; closes `conn`."""
    log.info("connected by %s", addr)
    with conn:
        try:
            await answer_requests(conn)
        except OSError as error:
            log.info("lost %s: %s", addr, error)
    log.info("disconnected by %s", addr)


async def answer_requests(conn: socket.socket) -> None:
    data = b""
    while piece := await recv(conn, MAX_REQUEST):
        data = (data + piece).lstrip()
        while data:
            end = end_of_request(data)
            if not data.startswith(b"{"):
                await last_words(conn, failure("not a JSON object"))
                return
            if (end or len(data)) > MAX_REQUEST:
                await last_words(conn, failure(f"longer than {MAX_REQUEST} bytes"))
                return
            if not end:
                break
            await sendall(conn, answer(data[:end]))
            data = data[end:].lstrip()
    if data:
        await sendall(conn, answer(data))


def answer(request: bytes) -> bytes:
    try:
        return f"{hypotenuse(request)}\n".encode()
    except ValueError as error:  # also JSONDecodeError and UnicodeDecodeError
        return failure(str(error))


def failure(reason: str) -> bytes:
    return json.dumps({"error": reason}).encode() + b"\n"


async def hypotenuse_client(
    a: float, b: float, *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Ask for one hypotenuse and print it.

    Raises OSError when the server cannot be reached, leaves early or answers with an error.
    """
    with await dial(host, port) as sock:
        await sendall(sock, json.dumps({"a": a, "b": b}).encode() + b"\n")
        line = await anext(lines(sock), None)
    if line is None:
        raise ConnectionError("the server closed the connection")
    try:
        length = json.loads(line)
    except ValueError:
        raise ConnectionError(f"the server does not answer in JSON: {line!r}") from None
    if isinstance(length, dict):
        raise OSError(f"the server answers: {length.get('error')}")
    print(length, flush=True)


def main() -> int:
    parser = options("hypotenuse", "A server that knows Pythagoras, and its client.", port=8000)
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("leg", nargs="*", type=float, help="for the client: two numbers")
    args = parser.parse_intermixed_args()
    if args.role == "client":
        if len(args.leg) != 2:
            parser.error("the client needs two legs")
        client = hypotenuse_client(*args.leg, host=args.host, port=args.port)
        return run_program(parser, client, verbose=args.verbose)
    if args.leg:
        parser.error("legs are for the client")
    server = hypotenuse_server(args.port, host=args.host)
    return run_program(parser, server, verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
