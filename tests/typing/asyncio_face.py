"""What a type checker makes of the asyncio face.  Checked by mypy, never run."""

import asyncio
import signal
import socket
from collections.abc import Generator
from typing import Any, assert_type

import pyloop


async def number() -> int:
    return 1


def generator() -> Generator[Any, Any, bytes]:
    yield None
    return b""


def report(what: str, how_often: int) -> None: ...


async def awaitables(sock: socket.socket, task: pyloop.Task[int]) -> None:
    assert_type(asyncio.create_task(pyloop.recv(sock)), asyncio.Task[bytes])
    assert_type(await asyncio.wait_for(pyloop.recv(sock), 1), bytes)
    assert_type(await asyncio.wait_for(task, 1), int)
    assert_type(await asyncio.shield(task), int)
    assert_type(await asyncio.gather(task, pyloop.recv(sock)), tuple[int, bytes])
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(pyloop.recv(sock)), asyncio.Task[bytes])


def loops() -> None:
    loop = pyloop.new_event_loop()
    assert_type(loop, pyloop.EventLoop)
    any_loop: asyncio.AbstractEventLoop = loop
    any_loop.close()
    assert_type(loop.create_task(number()), asyncio.Task[int])
    assert_type(loop.create_task(generator(), name="g"), pyloop.Task[bytes])
    assert_type(loop.run_until_complete(number()), int)
    assert_type(loop.backend, str | None)
    with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
        assert_type(runner.run(number()), int)


async def socket_calls(loop: pyloop.EventLoop, sock: socket.socket) -> None:
    assert_type(await loop.sock_recv(sock, 10), bytes)
    assert_type(await loop.sock_recv_into(sock, bytearray(10)), int)
    assert_type(await loop.sock_sendto(sock, b"", ("localhost", 1)), int)
    await loop.sock_connect(sock, ("localhost", 1))
    conn, _ = await loop.sock_accept(sock)
    assert_type(conn, socket.socket)


def callbacks(loop: pyloop.EventLoop) -> None:
    handle: asyncio.Handle = loop.call_soon(report, "a", 1)
    handle.cancel()
    timer: asyncio.TimerHandle = loop.call_later(0.5, report, "a", 1)
    assert_type(timer.when(), float)
    loop.call_at(loop.time(), report, "a", 1)
    loop.call_soon_threadsafe(report, "a", 1)
    loop.add_signal_handler(signal.SIGTERM, report, "a", 1)
    loop.add_reader(0, report, "a", 1)
