"""Callbacks: a selector, a loop of three lines, and what to call when a socket is ready.

    python -m pyloop.examples.callbacks        # listens on 127.0.0.1:8000

The server answers each request, which is whatever arrives at once, with "Hello world". Here is no
event loop but the one in `Server.run`: what is ready says in its `data` what is to be called.
Compare round_robin.py, which does the same and keeps the state of a client in a generator; here
it has to be an object. (`nc 127.0.0.1 8000` is a client.)
"""

import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector

from pyloop import Selector
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

log = logging.getLogger(__name__)


@contextmanager
def signals_as_input() -> Iterator[socket.socket]:
    """Ctrl-C and SIGTERM make the socket that this gives readable, instead of raising.

    An exception could come between any two lines, say after accept() and before somebody knows
    of the connection. So a signal becomes one more event (D. J. Bernstein's self-pipe trick).
    """
    ours, python = socket.socketpair()
    with ours, python:
        ours.setblocking(False)
        python.setblocking(False)
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        outer = signal.set_wakeup_fd(python.fileno())
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(outer)
            for number, handler in before.items():
                signal.signal(number, handler)


class Server:
    """Accepts clients; a Client looks after each."""

    def __init__(
        self, selector: BaseSelector, listener: socket.socket, signals: socket.socket
    ) -> None:
        self.selector = selector
        self.listener = listener
        self.signals = signals
        self.running = True
        self.resume_at: float | None = None

    def run(self) -> None:
        """Serve until a signal."""
        self.selector.register(self.listener, EVENT_READ, self.accept)
        self.selector.register(self.signals, EVENT_READ, self.stop)
        while self.running:
            for key, _ in self.selector.select(self.seconds_to_wait()):
                key.data()

    def stop(self) -> None:
        self.running = False

    def accept(self) -> None:
        try:
            conn, addr = self.listener.accept()
        except BlockingIOError:  # the client has changed its mind
            return
        except OSError as error:
            if error.errno not in SHORTAGE | STILLBORN:
                raise
            log.warning("cannot accept: %s", error)
            if error.errno in SHORTAGE:
                self.selector.unregister(self.listener)
                self.resume_at = time.monotonic() + SHORTAGE_PAUSE
            return
        log.info("connected by %s", addr)
        conn.setblocking(False)
        Client(self.selector, conn)

    def seconds_to_wait(self) -> float | None:
        """How long to wait if no socket is ready: as long as accepting has a pause, or for ever."""
        if self.resume_at is not None:
            seconds = self.resume_at - time.monotonic()
            if seconds > 0:
                return seconds
            self.resume_at = None
            self.selector.register(self.listener, EVENT_READ, self.accept)
        return None


class Client:
    """A connection: waits for a request or, until all of an answer is sent, to go on sending."""

    def __init__(self, selector: BaseSelector, conn: socket.socket) -> None:
        self.selector = selector
        self.conn = conn
        self.unsent = b""
        selector.register(conn, EVENT_READ, self.read)

    def read(self) -> None:
        try:
            request = self.conn.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            request = b""
        if request:
            self.unsent = ANSWER
            self.write()
        else:
            self.close()

    def write(self) -> None:
        try:
            self.unsent = self.unsent[self.conn.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self.unsent:
            self.selector.modify(self.conn, EVENT_WRITE, self.write)
        else:
            self.selector.modify(self.conn, EVENT_READ, self.read)

    def close(self) -> None:
        self.selector.unregister(self.conn)
        self.conn.close()


def serve(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    with (
        signals_as_input() as signals,
        Selector() as selector,
        listen(host, port) as listener,
    ):
        print(f"Callbacks: listening on {name_of(listener)}", flush=True)
        try:
            Server(selector, listener, signals).run()
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


def main() -> int:
    parser = options("callbacks", "A server made of callbacks.", port=8000)
    args = parser.parse_args()
    return exit_status(parser, lambda: serve(args.host, args.port), verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
