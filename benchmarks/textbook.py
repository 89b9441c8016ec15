"""The assignment's ``run`` in plain Python, as a textbook would write it.

A queue of ready coroutines, a selector with ``(reader, writer)`` pairs, and a scheduler that is
told by each coroutine, as ``(event, value)``, what it waits for.  It is the peer that shows what
moving the scheduler to C is worth, and an independent second opinion on what the public names
mean; so it is meant to be right and plainly written, and takes no short cuts that a reader would
not take, nor any detours.

Where the assignment leaves a hole, it is filled in the simplest way that loses nothing:

- any number of senders and receivers may wait on a channel, first in, first out;
- coroutines that only pause do not keep the others from their sockets;
- a readiness that proves false (another task was faster) is waited for again;
- a root that raises ends ``run`` with its exception, a spawned coroutine that raises is printed;
- roots that can never go on raise ``Deadlock``, spawned coroutines in that state are closed.

It has no timers, no cancellation and no join, and that a socket was closed on which another
coroutine waits it sees only when the descriptor's number is given to a new one.
"""

import errno
import selectors
import socket
import sys
import traceback
import types
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Generator
from enum import Enum, auto
from typing import Any

Buffer = bytes | bytearray | memoryview
Coro = Coroutine[Any, Any, Any]


class Event(Enum):
    Pause = auto()
    Accept = auto()
    Send = auto()
    Recv = auto()
    Spawn = auto()
    ChanSend = auto()
    ChanRecv = auto()


class Deadlock(RuntimeError):
    """Every coroutine waits for another one."""


Trap = Generator[tuple[Event, Any], Any, Any]


@types.coroutine
def pause() -> Trap:
    """Let every other ready coroutine take a step."""
    yield (Event.Pause, None)


@types.coroutine
def accept(sock: socket.socket) -> Trap:
    """Wait for a connection; return it, non-blocking, with the peer's address."""
    while True:
        yield (Event.Accept, sock)
        try:
            conn, addr = sock.accept()
        except BlockingIOError:
            continue
        conn.setblocking(False)
        return conn, addr


@types.coroutine
def recv(sock: socket.socket, bufsize: int = 1024) -> Trap:
    """Wait for data; return at most ``bufsize`` bytes, none at the end of the stream."""
    while True:
        yield (Event.Recv, sock)
        try:
            return sock.recv(bufsize)
        except BlockingIOError:
            continue


@types.coroutine
def send(sock: socket.socket, data: Buffer) -> Trap:
    """Wait until the socket takes data; return how many bytes it took."""
    while True:
        yield (Event.Send, sock)
        try:
            return sock.send(data)
        except BlockingIOError:
            continue


async def sendall(sock: socket.socket, data: Buffer) -> None:
    """Send all of ``data``."""
    with memoryview(data) as view, view.cast("B") as rest:
        sent = 0
        while sent < len(rest):
            sent += await send(sock, rest[sent:])


@types.coroutine
def spawn(coro: Coro) -> Trap:
    """Start ``coro`` beside the caller."""
    yield (Event.Spawn, coro)


async def lines(sock: socket.socket) -> AsyncIterator[str]:
    """Yield the lines of a UTF-8 stream, without their ends.

    No byte of a longer UTF-8 sequence equals a newline, so splitting may precede decoding.
    """
    rest = b""
    while data := await recv(sock, 65536):
        *complete, rest = (rest + data).split(b"\n")
        for line in complete:
            yield line.decode()
    if rest:
        yield rest.decode()


class Channel:
    """A rendezvous: ``send`` returns when a receiver has taken the value.

    The scheduler keeps the waiting coroutines here.  ``_values[i]`` belongs to ``_senders[i]``:
    nothing can run between the append in ``send`` and the scheduler's own.
    """

    def __init__(self) -> None:
        self._senders: deque[Coro] = deque()
        self._values: deque[Any] = deque()
        self._receivers: deque[Coro] = deque()

    @property
    def _sender(self) -> Coro | None:
        return self._senders[0] if self._senders else None

    @property
    def _receiver(self) -> Coro | None:
        return self._receivers[0] if self._receivers else None

    @property
    def _value(self) -> Any:
        return self._values[0] if self._values else None

    @types.coroutine
    def send(self, value: Any = None) -> Trap:
        self._values.append(value)
        yield (Event.ChanSend, self)

    @types.coroutine
    def recv(self) -> Trap:
        return (yield (Event.ChanRecv, self))


class EventLoop:
    """The scheduler: who is ready, and who waits for which side of which socket."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        # What to resume, with which value, or with which exception.
        self._ready: deque[tuple[Coro, Any, BaseException | None]] = deque()
        self._alive: set[Coro] = set()
        self._results: dict[Coro, Any] = {}
        self._waiting_roots = 0

    def run(self, *coros: Coro) -> Any:
        """Run until all coroutines have ended; return one result, or the list of several."""
        self._results = dict.fromkeys(coros)
        self._waiting_roots = len(coros)
        for coro in coros:
            self._start(coro)
        try:
            while self._alive:
                if self._selector.get_map():
                    self._poll(timeout=0 if self._ready else None)
                elif not self._ready:
                    break
                self._run_ready()
            if self._waiting_roots:
                raise Deadlock(f"{self._waiting_roots} coroutines wait for ever")
        finally:
            self._close()
        results = list(self._results.values())
        return results[0] if len(results) == 1 else results

    def _start(self, coro: Coro) -> None:
        self._alive.add(coro)
        self._ready.append((coro, None, None))

    def _close(self) -> None:
        self._ready.clear()
        for coro in list(self._alive):
            coro.close()
        self._alive.clear()
        self._selector.close()

    def _run_ready(self) -> None:
        """Take one step with each coroutine that is ready now."""
        ready = self._ready
        for _ in range(len(ready)):
            coro, value, error = ready.popleft()
            try:
                trap = coro.send(value) if error is None else coro.throw(error)
            except StopIteration as stop:
                self._end(coro, stop.value)
            except BaseException as failure:
                self._fail(coro, failure)
            else:
                self._block(coro, trap)

    def _end(self, coro: Coro, result: Any) -> None:
        self._alive.remove(coro)
        if coro in self._results:
            self._results[coro] = result
            self._waiting_roots -= 1

    def _fail(self, coro: Coro, failure: BaseException) -> None:
        self._alive.remove(coro)
        if coro in self._results or not isinstance(failure, Exception):
            raise failure
        print(f"{coro!r} failed:", file=sys.stderr)
        traceback.print_exception(failure)

    def _block(self, coro: Coro, trap: Any) -> None:
        """Put ``coro`` where the event that it waits for will find it."""
        try:
            event, value = trap
        except (TypeError, ValueError):
            self._refuse(coro, trap)
            return
        if event is Event.Pause:
            self._ready.append((coro, None, None))
        elif event is Event.Recv or event is Event.Accept:
            self._wait(coro, value, selectors.EVENT_READ)
        elif event is Event.Send:
            self._wait(coro, value, selectors.EVENT_WRITE)
        elif event is Event.ChanSend:
            value._senders.append(coro)
            self._meet(value)
        elif event is Event.ChanRecv:
            value._receivers.append(coro)
            self._meet(value)
        elif event is Event.Spawn:
            self._start(value)
            self._ready.append((coro, None, None))
        else:
            self._refuse(coro, trap)

    def _refuse(self, coro: Coro, trap: Any) -> None:
        self._ready.append((coro, None, RuntimeError(f"cannot wait for {trap!r}")))

    def _meet(self, chan: Channel) -> None:
        if chan._senders and chan._receivers:
            self._ready.append((chan._receivers.popleft(), chan._values.popleft(), None))
            self._ready.append((chan._senders.popleft(), None, None))

    def _wait(self, coro: Coro, sock: socket.socket, side: int) -> None:
        pair = (coro, None) if side == selectors.EVENT_READ else (None, coro)
        try:
            # Not asked beforehand: that a socket is not in get_map() is a KeyError inside, whose
            # text costs four system calls.
            try:
                self._selector.register(sock, side, pair)
            except KeyError:
                self._wait_too(sock, side, pair)
        except Exception as error:
            self._ready.append((coro, None, error))

    def _wait_too(
        self, sock: socket.socket, side: int, pair: tuple[Coro | None, Coro | None]
    ) -> None:
        """Wait for the other side of a socket that is registered already."""
        key = self._selector.get_map()[sock]
        if key.fileobj is not sock:
            self._forget(key)
            self._selector.register(sock, side, pair)
        elif key.events & side:
            raise RuntimeError(f"another coroutine waits for {sock!r} already")
        else:
            reader, writer = key.data
            self._selector.modify(sock, key.events | side, (reader or pair[0], writer or pair[1]))

    def _forget(self, key: selectors.SelectorKey) -> None:
        """Wake those who waited on a socket that was closed and whose number was given anew."""
        for coro in filter(None, key.data):
            self._ready.append((coro, None, OSError(errno.EBADF, "closed while waiting")))
        self._selector.unregister(key.fileobj)

    def _poll(self, timeout: float | None) -> None:
        """Make ready whoever waits for a side of a socket on which something happened."""
        for key, mask in self._selector.select(timeout):
            reader, writer = key.data
            if mask & selectors.EVENT_READ:
                self._ready.append((reader, None, None))
                reader = None
            if mask & selectors.EVENT_WRITE:
                self._ready.append((writer, None, None))
                writer = None
            if reader is None and writer is None:
                self._selector.unregister(key.fileobj)
            else:
                self._selector.modify(key.fileobj, key.events & ~mask, (reader, writer))


def run(*coros: Coro) -> Any:
    """Run the coroutines, and all that they spawn, to their ends."""
    return EventLoop().run(*coros)
