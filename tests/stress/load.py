"""What the load tests share: their size, server processes, and many connections at once.

The clients are plain sockets and epoll, so that nothing of what is tested is on their side. Their
source addresses are several of 127.0.0.0/8, for one has 28,000 ports, and a port rests a minute
after its connection.
"""

import errno
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from example_process import LIMIT, Process

SERVERS = Path(__file__).with_name("load_servers.py")
SOURCES = [f"127.0.0.{n}" for n in range(2, 10)]
AT_ONCE = 250  # connections that are being made; a listener's queue is longer

IP_BIND_ADDRESS_NO_PORT = 24
TCP_REPAIR = 19
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: on, 0 seconds


def size(name: str, default: int) -> int:
    """The size of a test: the environment variable `name`, or `default`."""
    return int(os.environ.get(name, default))


def seed() -> int:
    """What the random decisions are made from: PYLOOP_STRESS_SEED, or always the same."""
    return size("PYLOOP_STRESS_SEED", 20000)


class LoadServer(Process):
    """One of load_servers.py."""

    def __init__(self, kind: str, env: dict[str, str] | None = None) -> None:
        super().__init__(sys.executable, "-P", str(SERVERS), kind, env=env)
        match = re.fullmatch(r"listening on (\S+):(\d+)", self.readline())
        assert match is not None, self.stderr()
        self.address = match[1], int(match[2])

    def finish(self) -> dict[str, Any]:
        """End it by SIGTERM; what it has counted."""
        self.process.terminate()
        report: dict[str, Any] = json.loads(self.readline() or "null")
        status = self.wait()
        assert (status, self.stderr()) == (0, ""), self.stderr()
        assert report["broken_rules"] == []
        assert report["opened"] == report["closed"]
        return report


def new_socket(number: int, receive_buffer: int | None = None) -> socket.socket:
    """A non-blocking socket; its source address depends on `number`."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        # Else bind() takes a port that is then free for no other destination.
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((SOURCES[number % len(SOURCES)], 0))
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_many(
    address: tuple[str, int], count: int, *, receive_buffer: int | None = None
) -> list[socket.socket]:
    """`count` connections, AT_ONCE of them being made at a time."""
    made: list[socket.socket] = []
    pending: dict[int, socket.socket] = {}
    end = time.monotonic() + LIMIT + count / 100
    try:
        with select.epoll() as poll:
            while len(made) < count:
                while len(pending) < AT_ONCE and len(made) + len(pending) < count:
                    sock = new_socket(len(made) + len(pending), receive_buffer)
                    pending[sock.fileno()] = sock
                    code = sock.connect_ex(address)
                    if code not in (0, errno.EINPROGRESS):
                        raise OSError(code, os.strerror(code))
                    poll.register(sock, select.EPOLLOUT)
                for fd, _ in poll.poll(LIMIT):
                    code = pending[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        raise OSError(code, os.strerror(code))
                    poll.unregister(fd)
                    made.append(pending.pop(fd))
                if time.monotonic() > end:
                    raise TimeoutError(f"{len(made)} of {count} connections were made")
    except BaseException:
        for sock in (*made, *pending.values()):
            sock.close()
        raise
    return made


def exchange(socks: Sequence[socket.socket], messages: Sequence[bytes]) -> None:
    """Send a short message over each connection; all must come back as they were sent."""
    answers = {sock.fileno(): bytearray() for sock in socks}
    expected = {sock.fileno(): message for sock, message in zip(socks, messages, strict=True)}
    waiting = len(socks)
    with select.epoll() as poll:
        by_number = {}
        for sock, message in zip(socks, messages, strict=True):
            assert sock.send(message) == len(message)
            poll.register(sock, select.EPOLLIN)
            by_number[sock.fileno()] = sock
        while waiting:
            events = poll.poll(LIMIT)
            if not events:
                raise TimeoutError(f"{waiting} of {len(socks)} answers are missing")
            for fd, _ in events:
                data = by_number[fd].recv(65536)
                answers[fd] += data
                if len(answers[fd]) >= len(expected[fd]) or not data:
                    assert bytes(answers[fd]) == expected[fd]
                    poll.unregister(fd)
                    waiting -= 1


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def vanish(sock: socket.socket) -> bool:
    """Close so that the other side hears nothing, as when a cable is cut; False if not allowed.

    The connection then is half open: the other side may only notice when it sends.
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        return False
    sock.close()
    return True


def end(sock: socket.socket) -> None:
    """Close our sending side, read to the end, close."""
    sock.settimeout(LIMIT)
    try:
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    finally:
        sock.close()


def close_all(socks: Iterable[socket.socket], how: random.Random) -> None:
    """Leave in all ways there are."""
    ways: list[Callable[[socket.socket], object]] = [reset, end, socket.socket.close]
    for sock in socks:
        how.choice(ways)(sock)
