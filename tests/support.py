"""Helpers that several test modules share."""

import contextlib
import gc
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def small_heap() -> Iterator[None]:
    """For tests that have the collector run often: it looks only at what is made meanwhile."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def no_log() -> Iterator[None]:
    """For tests of which asyncio's log would say at length what it thinks."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Cycle:
    """Garbage whose end runs code."""

    def __init__(self, on_end: Callable[[], object]) -> None:
        self.on_end = on_end
        self.itself = self

    def __del__(self) -> None:
        self.on_end()


def while_collecting(make: Callable[[], Any], on_end: Callable[[], object]) -> Any:
    """make(), with on_end() called by the collector at its first allocation.

    That is so in CPython 3.11; later ones collect between two instructions only.
    """
    gc.collect()
    gc.disable()
    thresholds = gc.get_threshold()
    try:
        Cycle(on_end)
        # Allocations are then not served from a free list.
        held = [(i, i) for i in range(2500)], [[] for _ in range(200)]
        gc.set_threshold(1, 1, 1)
        gc.enable()
        return make()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
        del held


def socketpair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """Two connected non-blocking Unix sockets."""
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def listener(host: str = "127.0.0.1", backlog: int = 128) -> socket.socket:
    """A non-blocking TCP socket that listens on a free port of the loopback interface."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind((host, 0))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def fill_socket(sock: socket.socket) -> int:
    """Send until the kernel takes no more; the number of bytes that it took.

    Tries with single bytes last: a Unix socket that refuses a large piece may still take a
    small one.
    """
    sent = 0
    for piece in (bytes(65536), b"\0"):
        while True:
            try:
                sent += sock.send(piece, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
    return sent


def drain_socket(sock: socket.socket) -> bytes:
    """Everything that can be read without waiting; the rest, where the peer has closed."""
    pieces = []
    while True:
        try:
            piece = sock.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


def run_python(
    code: str,
    *args: str,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    input: str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter, with `args` as its sys.argv[1:], and wait for its end.

    `env` changes the environment: a value of None removes a variable. The result has the exit
    status and what the program printed; raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    environment = dict(os.environ)
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    # -P: the current directory may hold a folder named as an installed package.
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *args],
        env=environment,
        cwd=cwd,
        input=input,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def tls_contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the server, with that certificate, and for a client that trusts it alone."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    return server, client
