"""What a type checker makes of the coroutine face.  Checked by mypy, never run."""

import socket
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from typing import Any, assert_type

import pyloop


async def number() -> int:
    return 1


async def text() -> str:
    return ""


def generator() -> Generator[Any, Any, bytes]:
    yield pyloop.TaskType.TO_READ, 0
    return b""


def takes_awaitable(what: Awaitable[bytes]) -> None: ...


def takes_coroutine(what: Coroutine[Any, Any, bytes]) -> None: ...


async def sockets(sock: socket.socket, buffer: bytearray) -> None:
    assert_type(await pyloop.recv(sock), bytes)
    assert_type(await pyloop.recv(sock, bufsize=10), bytes)
    assert_type(await pyloop.recv_into(sock, buffer), int)
    assert_type(await pyloop.recv_into(sock, memoryview(buffer)[3:]), int)
    data, address = await pyloop.recvfrom(sock, 1500)
    assert_type(data, bytes)
    assert_type(await pyloop.send(sock, buffer), int)
    assert_type(await pyloop.sendto(sock, b"", address), int)
    conn, address = await pyloop.accept(sock)
    assert_type(conn, socket.socket)
    await pyloop.sendall(conn, memoryview(b""))
    await pyloop.connect(sock, ("localhost", 8080))
    await pyloop.connect(sock, "/a/path")
    await pyloop.wait_readable(sock)
    await pyloop.wait_writable(3)
    takes_awaitable(pyloop.recv(sock))
    takes_coroutine(pyloop.recv(sock))


async def tasks() -> None:
    task = await pyloop.spawn(number(), name="one")
    assert_type(task, pyloop.Task[int])
    assert_type(await task, int)
    assert_type(task.result(), int)
    assert_type(task.exception(), BaseException | None)
    assert_type(task.get_loop(), pyloop.EventLoop)
    assert_type(await (await pyloop.spawn(generator())), bytes)
    await pyloop.pause()
    await pyloop.sleep(0.5)
    assert_type(await (await pyloop.spawn(pyloop.sleep(1))), None)


def done(task: pyloop.Task[int]) -> None:
    task.remove_done_callback(done)


async def callbacks(task: pyloop.Task[int]) -> None:
    task.add_done_callback(done)


async def channels(integers: pyloop.Channel[int], nothing: pyloop.Channel[None]) -> None:
    await integers.send(1)
    integers.send_nowait(1)
    assert_type(await integers.recv(), int)
    assert_type(integers.recv_nowait(), int)
    async for value in integers:
        assert_type(value, int)
    await nothing.send()
    nothing.send_nowait()
    assert_type(len(integers), int)
    buffered: pyloop.Channel[str | None] = pyloop.Channel(capacity=8)
    await buffered.send()
    await buffered.send("text")
    assert_type(await buffered.recv(), str | None)


async def lines(sock: socket.socket) -> None:
    reader = pyloop.lines(sock, encoding="latin-1", max_line=100)
    async for line in reader:
        assert_type(line, str)
    iterator: AsyncIterator[str] = reader
    assert_type(await anext(iterator), str)
    await reader.aclose()


async def limits(sock: socket.socket) -> bytes:
    async with pyloop.timeout(2.5):
        return await pyloop.recv(sock)


def results(many: list[Coroutine[Any, Any, int]]) -> None:
    assert_type(pyloop.run(number()), int)
    assert_type(pyloop.run(generator(), backend="poll"), bytes)
    assert_type(pyloop.run(pyloop.sleep(1), debug=True), None)
    assert_type(pyloop.run(number(), text()), list[int | str])
    assert_type(pyloop.run(number(), number()), list[int])
    assert_type(pyloop.run(number(), number(), number(), number()), list[int])
    assert_type(pyloop.run(*many), list[int])
    loop = pyloop.EventLoop(generator())
    assert_type(loop.run(number()), int)
    assert_type(loop.run(number(), text()), list[int | str])
    loop.run()
