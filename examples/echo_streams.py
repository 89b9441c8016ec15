"""Echo with asyncio's streams: what comes is sent back. All of asyncio runs on pyloop's loop.

    python -m pyloop.examples.echo_streams server            # listens on 127.0.0.1:8000
    python -m pyloop.examples.echo_streams client            # prints "Hello, world"
    python -m pyloop.examples.echo_streams client "Good day"

Nothing here but `run_on_asyncio`, two lines in _cli.py, knows which loop it runs on. A client that
does not read is not read either: `drain` waits until it does.
"""

import asyncio
import logging
import sys
from contextlib import suppress

from pyloop.examples._cli import listen, name_of, options, run_on_asyncio, run_program
from pyloop.examples._terminal import printable

PIECE = 64 * 1024  # bytes that are read at once

log = logging.getLogger(__name__)


async def echo_server(port: int = 8000, *, host: str = "127.0.0.1") -> None:
    """Serve until cancelled."""
    echoes: set[asyncio.Task[None]] = set()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: streams of some versions of Python report it as an error when theirs is
        # cancelled. One that is cancelled before it begins does not close anything itself.
        echo = asyncio.create_task(handle_echo(reader, writer))
        echoes.add(echo)
        echo.add_done_callback(echoes.discard)
        echo.add_done_callback(lambda _: writer.close())

    with listen(host, port) as sock:
        server = await asyncio.start_server(welcome, sock=sock)
        print(f"Echo, with streams: listening on {name_of(sock)}", flush=True)
        try:
            # Not serve_forever(): when it is cancelled, it waits until the last client has left.
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()


async def handle_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what one client sends, until it closes its side."""
    addr = writer.get_extra_info("peername")
    log.info("connected by %s", addr)
    try:
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    except asyncio.CancelledError:  # the server ends
        writer.transport.abort()
        raise
    except OSError as error:
        log.info("lost %s: %s", addr, error)
    finally:
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
    log.info("disconnected by %s", addr)


async def echo_client(
    message: str = "Hello, world", *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Send a message and print what comes back."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(message.encode())
        writer.write_eof()
        answer = await reader.read()
    finally:
        writer.close()
    await writer.wait_closed()
    print(printable(answer.decode(errors="replace")), flush=True)


def main() -> int:
    parser = options("echo_streams", "An echo server on asyncio's streams.", port=8000)
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("message", nargs="?", help="for the client (default: Hello, world)")
    args = parser.parse_intermixed_args()
    if args.role == "server" and args.message is not None:
        parser.error("a message is for the client")
    if args.role == "server":
        program = echo_server(args.port, host=args.host)
    else:
        message = "Hello, world" if args.message is None else args.message
        program = echo_client(message, host=args.host, port=args.port)
    return run_program(parser, program, verbose=args.verbose, runner=run_on_asyncio)


if __name__ == "__main__":
    sys.exit(main())
