"""What every example program needs around its coroutines: options, sockets, a clean end.

Nothing here is about any one protocol. In short:

- `options` makes the parser with `--host`, `--port` and `--verbose`;
- `listen`, `accept_next` and `dial` are the TCP set-up of servers and clients, `last_words` is how
  a server disconnects a client;
- `run_program` runs the main coroutine, `exit_status` a program that has none; both turn its end
  into an exit status: 0 when the work is done or somebody asked for the end (Ctrl-C, SIGTERM, the
  reader of our output left), 1 with one line on stderr when it failed. argparse itself exits with
  2.
"""

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from pyloop import EventLoop, LineTooLong, accept, connect, recv, run, sendall, sleep, timeout

# accept() fails with these while descriptors or memory are short. The connection stays in the
# kernel's queue, so asking again at once would spin.
SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
SHORTAGE_PAUSE = 0.1  # seconds: soon enough for the client, rare enough for the processor

# The connection broke before it was accepted: its own misfortune, nobody else's.
STILLBORN = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH}

FAREWELL_LIMIT = 2.0  # seconds for a disconnected client to take the reason

log = logging.getLogger(__name__)


def port_number(text: str) -> int:
    """Read a TCP port for argparse."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def seconds(text: str) -> float:
    """Read a time limit for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def options(name: str, description: str, *, port: int = 8080) -> argparse.ArgumentParser:
    """Make the parser of example `name`; the caller adds what is the example's own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m pyloop.examples.{name}",
        description=description,
        epilog="Ctrl-C or SIGTERM ends the program with exit status 0.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address of the server (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=port_number,
        default=port,
        help="port of the server; a server given 0 takes a free one and says which"
        " (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="log each connection to stderr")
    return parser


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def dial(host: str, port: int) -> socket.socket:
    """Connect to a server; raises OSError with a message for people."""
    sock = socket.socket(family_of(host), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await connect(sock, (host, port))
    except BaseException as error:
        sock.close()
        code = error.errno if isinstance(error, OSError) else None
        if code is None or code not in errno.errorcode:
            raise
        reason = os.strerror(code)
        raise OSError(f"cannot connect to {host} port {port}: {reason}") from error
    return sock


def listen(host: str, port: int) -> socket.socket:
    """Open the server's socket."""
    sock = socket.create_server((host, port), family=family_of(host), backlog=1024)
    sock.setblocking(False)
    return sock


def name_of(sock: socket.socket) -> str:
    """Return `host:port` of our end of `sock`, with the port that the kernel chose for 0."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def accept_next(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Accept the next connection; what goes wrong with one does not end the server.

    Raises OSError only for what will not pass, such as a closed listener.
    """
    while True:
        try:
            conn, addr = await accept(listener)
        except OSError as error:
            if error.errno not in SHORTAGE | STILLBORN:
                raise
            log.warning("cannot accept: %s", error)
            if error.errno in SHORTAGE:
                await sleep(SHORTAGE_PAUSE)
        else:
            # Short lines must not wait for the acknowledgement of the ones before.
            with suppress(OSError):  # the client may have gone already
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return conn, addr


async def last_words(conn: socket.socket, data: bytes) -> None:
    """Send `data` and the end of the connection; returns when the client has it, or may have.

    What it sends meanwhile is read and dropped: closing a socket with unread input resets the
    connection, and the last words could be lost on the way. Raises OSError when they are.
    """
    async with timeout(FAREWELL_LIMIT):
        await sendall(conn, data)
        conn.shutdown(socket.SHUT_WR)
        while await recv(conn, 65536):
            pass


async def end_on_sigterm(main: Coroutine[Any, Any, None]) -> None:
    """Run `main`; SIGTERM cancels it, as Ctrl-C does in `pyloop.run` without our help."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await main


def run_on_asyncio(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` as `asyncio.run` does, but on pyloop's loop."""
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main)


def output_is_lost() -> bool:
    """Whether nobody reads our stdout any more, as in `... | head -1`."""
    try:
        sys.stdout.flush()  # what could not be written is still in the buffer
    except BrokenPipeError:
        # Python will try once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def run_program(
    parser: argparse.ArgumentParser,
    main: Coroutine[Any, Any, None],
    *,
    verbose: bool,
    runner: Callable[[Coroutine[Any, Any, None]], object] = run,
) -> int:
    """Run `main` to its end and return the exit status of the process."""
    return exit_status(parser, lambda: runner(end_on_sigterm(main)), verbose=verbose)


def exit_status(
    parser: argparse.ArgumentParser, program: Callable[[], object], *, verbose: bool
) -> int:
    """Call `program`, which runs until its end, and return the exit status of the process."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    # As Ctrl-C, where no loop has a handler of its own for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        program()
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    except (OSError, LineTooLong, UnicodeDecodeError) as error:
        # A broken pipe may also be the connection.
        if not (isinstance(error, BrokenPipeError) and output_is_lost()):
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 1
    return 0
