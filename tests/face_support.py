"""What the tests of the coroutine face share: sockets in a known state, and waits for a state."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Iterator
from typing import Any

from support import socketpair

import pyloop

Pair = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def pair(kind: int = socket.SOCK_STREAM) -> Iterator[Pair]:
    """Two connected non-blocking Unix sockets, closed at the end."""
    left, right = socketpair(kind)
    with left, right:
        yield left, right


@contextlib.contextmanager
def tcp_pair() -> Iterator[Pair]:
    """Two connected non-blocking TCP sockets, closed at the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


async def settle(turns: int = 8) -> None:
    """Let every ready task run until it waits for something that only we can bring about."""
    for _ in range(turns):
        await pyloop.pause()


async def expect(error: type[BaseException], awaitable: Awaitable[Any]) -> None:
    """As pytest.raises, which keeps the exception.

    The traceback of a failed task's exception holds this frame and those that called it, so
    they must not hold the task: that would be a cycle of the test's own making.
    """
    try:
        await awaitable
    except error:
        return
    finally:
        del awaitable
    raise AssertionError(f"{error.__name__} was not raised")


def task_name() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


class Reports:
    """Collects what the loop's exception handler is told."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(self._handle)

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.contexts.append(context)

    @property
    def exceptions(self) -> list[Any]:
        return [context.get("exception") for context in self.contexts]
