"""Cancellation is asyncio's: CancelledError at the await, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from face_support import pair, settle
from support import drain_socket, fill_socket, listener

import pyloop

Start = Callable[[Any], Any]


class Stage:
    """Sockets in the states in which each call has to wait."""

    def __init__(self, left: socket.socket, full: socket.socket, listening: socket.socket):
        self.left = left
        self.full = full
        self.listening = listening


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    with pair() as (left, _), pair() as (full, _), listener() as listening:
        fill_socket(full)
        yield Stage(left, full, listening)


async def join_of_a_stuck_task() -> None:
    await (await pyloop.spawn(pyloop.sleep(1000)))


async def stuck_channel(side: str) -> None:
    chan = pyloop.Channel()
    await (chan.recv() if side == "recv" else chan.send(1))


async def next_line(sock: socket.socket) -> str:
    return await pyloop.lines(sock).__anext__()


async def next_value() -> None:
    async for _ in pyloop.Channel():
        pass


async def limited() -> None:
    async with pyloop.timeout(1000):
        await pyloop.sleep(1000)


async def bare_future() -> None:
    await asyncio.get_running_loop().create_future()


async def always_pausing() -> None:
    while True:
        await pyloop.pause()


WAITS: dict[str, Callable[[Stage], Awaitable[Any]]] = {
    "pause": lambda stage: always_pausing(),
    "sleep": lambda stage: pyloop.sleep(1000),
    "recv": lambda stage: pyloop.recv(stage.left),
    "recv_into": lambda stage: pyloop.recv_into(stage.left, bytearray(10)),
    "recvfrom": lambda stage: pyloop.recvfrom(stage.left, 10),
    "accept": lambda stage: pyloop.accept(stage.listening),
    "send": lambda stage: pyloop.send(stage.full, b"x"),
    "sendall": lambda stage: pyloop.sendall(stage.full, b"x" * 1000),
    "wait_readable": lambda stage: pyloop.wait_readable(stage.left),
    "wait_writable": lambda stage: pyloop.wait_writable(stage.full),
    "lines": lambda stage: next_line(stage.left),
    "channel send": lambda stage: stuck_channel("send"),
    "channel recv": lambda stage: stuck_channel("recv"),
    "channel async for": lambda stage: next_value(),
    "join": lambda stage: join_of_a_stuck_task(),
    "timeout": lambda stage: limited(),
    "asyncio.sleep": lambda stage: asyncio.sleep(1000),
    "future": lambda stage: bare_future(),
}


async def start(kind: str, coro: Any) -> Any:
    return asyncio.create_task(coro) if kind == "asyncio" else await pyloop.spawn(coro)


both_kinds = pytest.mark.parametrize("kind", ["pyloop", "asyncio"])


@both_kinds
@pytest.mark.parametrize("name", WAITS)
def test_cancel_at_each_kind_of_await(name: str, kind: str, backend: str) -> None:
    seen: list[Any] = []

    async def waiter(here: Stage) -> None:
        try:
            await WAITS[name](here)
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise
        finally:
            await pyloop.pause()
            seen.append("finally")

    async def root() -> None:
        with stage() as here:
            for _ in range(2):
                task = await start(kind, waiter(here))
                await settle()
                assert not task.done()
                assert task.cancel("a reason") is True
                assert task.cancelling() == 1
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert task.cancelled()
                assert task.cancel() is False

    pyloop.run(root(), backend=backend)
    assert seen == [("a reason",), "finally"] * 2


@both_kinds
def test_our_awaitables_can_be_tasks_and_be_cancelled(kind: str, backend: str) -> None:
    async def root() -> None:
        with stage() as here:
            for name in ("sleep", "recv", "sendall", "accept"):
                task = await start(kind, WAITS[name](here))
                await settle()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    pyloop.run(root(), backend=backend)


def test_the_message_reaches_who_joins() -> None:
    async def root() -> None:
        task = await pyloop.spawn(pyloop.sleep(1000))
        await settle()
        task.cancel("the reason")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("the reason",)
        with pytest.raises(asyncio.CancelledError):
            task.result()
        with pytest.raises(asyncio.CancelledError):
            task.exception()

    pyloop.run(root())


def test_cancelled_before_its_first_step() -> None:
    started: list[str] = []

    async def never() -> None:
        started.append("started")

    async def root() -> None:
        task = await pyloop.spawn(never())
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert not started

    pyloop.run(root())


def test_a_task_may_refuse() -> None:
    async def stubborn() -> str:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await pyloop.sleep(1000)
        return "refused twice"

    async def root() -> None:
        task = await pyloop.spawn(stubborn())
        await settle()
        task.cancel()
        await settle()
        assert not task.done()
        assert task.cancelling() == 1
        task.cancel()
        assert task.cancelling() == 2
        assert await task == "refused twice"
        assert not task.cancelled()

    pyloop.run(root())


def test_cancelling_counts_and_uncancel_takes_back() -> None:
    async def root() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert task.uncancel() == 0
        task.cancel()
        task.cancel()
        assert task.cancelling() == 2
        with pytest.raises(asyncio.CancelledError):
            await pyloop.sleep(1000)
        assert task.uncancel() == 1
        assert task.uncancel() == 0
        assert task.uncancel() == 0
        await pyloop.pause()
        await pyloop.sleep(0)

    pyloop.run(root())


@pytest.mark.parametrize("kind", ["pyloop", "asyncio"])
@pytest.mark.parametrize("name", ["sleep", "wait_readable", "recv"])
@pytest.mark.parametrize("itself", [False, True])
def test_uncancel_does_not_let_a_wait_end_early(name: str, kind: str, itself: bool) -> None:
    """A wait that cancel() has ended raises, whatever uncancel() says before it does."""

    async def root() -> None:
        with pair() as (left, _):
            make = {
                "sleep": lambda: pyloop.sleep(1000),
                "wait_readable": lambda: pyloop.wait_readable(left),
                "recv": lambda: pyloop.recv(left),
            }[name]

            async def wait() -> None:
                if itself:
                    task.cancel()
                await make()

            loop: Any = asyncio.get_running_loop()
            create = loop.create_task if kind == "asyncio" else loop._create_native_task
            task = create(wait())
            if itself:
                await pyloop.pause()
            else:
                await settle()
                task.cancel()
            task.uncancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    pyloop.run(root())


def test_a_task_that_cancels_itself_gets_it_at_its_next_await() -> None:
    seen: list[str] = []

    async def root() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("by myself")
        seen.append("still running")
        try:
            await pyloop.pause()
        except asyncio.CancelledError as error:
            seen.append(error.args[0])
        await pyloop.pause()
        seen.append("once only")

    pyloop.run(root())
    assert seen == ["still running", "by myself", "once only"]


def test_a_cancelled_join_leaves_the_joined_task_to_be_cancelled() -> None:
    # As in asyncio: cancelling a task that awaits another task cancels that one.
    async def join(task: pyloop.Task) -> None:
        await task

    async def root() -> None:
        inner = await pyloop.spawn(pyloop.sleep(1000))
        outer = await pyloop.spawn(join(inner))
        await settle()
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert inner.cancelled()

    pyloop.run(root())


def test_an_exception_instead_of_the_cancellation() -> None:
    async def converts() -> None:
        try:
            await pyloop.sleep(1000)
        except asyncio.CancelledError:
            raise ValueError("instead") from None

    async def root() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        task = await pyloop.spawn(converts())
        await settle()
        task.cancel()
        with pytest.raises(ValueError, match="instead"):
            await task
        assert not task.cancelled()

    pyloop.run(root())


# --- nothing is lost ---------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "wait_readable"])
def test_a_cancelled_recv_leaves_the_bytes_in_the_socket(
    name: str, kind: str, backend: str
) -> None:
    async def root() -> None:
        with pair() as (left, right), pair() as (full, _), listener() as listening:
            here = Stage(left, full, listening)
            task = await start(kind, WAITS[name](here))
            await settle()
            task.cancel()
            right.send(b"kept")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await pyloop.recv(left) == b"kept"

    pyloop.run(root(), backend=backend)


@both_kinds
@pytest.mark.parametrize("turns", range(6))
def test_bytes_that_arrive_around_the_cancellation(turns: int, kind: str, backend: str) -> None:
    """Whoever is first, the cancellation or the bytes: the bytes are with the task or still there.

    A recv that has taken them returns them, and the task is cancelled at a later await.
    """

    async def root() -> None:
        got = b""

        async def reader(sock: socket.socket) -> None:
            nonlocal got
            got += await pyloop.recv(sock)
            await pyloop.sleep(1000)

        with pair() as (left, right):
            task = await start(kind, reader(left))
            await settle()
            right.send(b"kept")
            await settle(turns)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert got + drain_socket(left) == b"kept"

    pyloop.run(root(), backend=backend)


@both_kinds
@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_arrives_around_the_cancellation(
    turns: int, kind: str, backend: str
) -> None:
    async def root() -> None:
        accepted: list[socket.socket] = []

        async def acceptor(sock: socket.socket) -> None:
            conn, _ = await pyloop.accept(sock)
            accepted.append(conn)
            await pyloop.sleep(1000)

        with listener() as listening:
            task = await start(kind, acceptor(listening))
            await settle()
            with socket.create_connection(listening.getsockname()) as client:
                await settle(turns)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if not accepted:
                    accepted.append(listening.accept()[0])
                accepted[0].sendall(b"hello")
                assert client.recv(10) == b"hello"
                accepted[0].close()

    pyloop.run(root(), backend=backend)


def test_a_cancelled_sendall_has_sent_a_prefix(backend: str) -> None:
    async def root() -> None:
        data = bytes(range(256)) * 8192
        with pair() as (left, right):
            task = await pyloop.spawn(pyloop.sendall(left, data))
            await settle()
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            received = drain_socket(right)
            assert 0 < len(received) < len(data)
            assert data.startswith(received)
            await pyloop.sendall(left, b"and on")
            assert drain_socket(right) == b"and on"

    pyloop.run(root(), backend=backend)


def test_a_cancelled_line_is_kept(backend: str) -> None:
    async def root() -> None:
        with pair() as (left, right):
            lines = pyloop.lines(left)
            right.send(b"first half, ")
            task = await pyloop.spawn(lines.__anext__())
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            right.send(b"second half\n")
            assert await lines.__anext__() == "first half, second half"

    pyloop.run(root(), backend=backend)


def test_a_cancelled_accept_leaves_the_listener_usable(backend: str) -> None:
    async def root() -> None:
        with listener() as listening:
            task = await pyloop.spawn(pyloop.accept(listening))
            await settle()
            task.cancel()
            await settle()
            with socket.create_connection(listening.getsockname()):
                conn, _ = await pyloop.accept(listening)
                conn.close()

    pyloop.run(root(), backend=backend)


def test_a_cancelled_connect_to_a_listener_that_does_not_answer(backend: str) -> None:
    async def root() -> None:
        with listener(backlog=0) as listening, contextlib.ExitStack() as clients:
            # A full backlog lets a further connect hang.
            tasks = []
            socks = []
            for _ in range(4):
                sock = clients.enter_context(socket.socket())
                sock.setblocking(False)
                socks.append(sock)
                tasks.append(await pyloop.spawn(pyloop.connect(sock, listening.getsockname())))
            await pyloop.sleep(0.02)
            waiting = [task for task in tasks if not task.done()]
            assert waiting
            for task in waiting:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    pyloop.run(root(), backend=backend)


# --- timeout -----------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("name", WAITS)
def test_timeout_ends_each_kind_of_await(name: str, kind: str, backend: str) -> None:
    async def waiter() -> str:
        loop = asyncio.get_running_loop()
        with stage() as here:
            before = loop.time()
            with pytest.raises(TimeoutError):
                async with pyloop.timeout(0.004):
                    await WAITS[name](here)
            assert loop.time() - before >= 0.004
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await pyloop.pause()
        return "went on"

    async def root() -> None:
        assert await (await start(kind, waiter())) == "went on"

    pyloop.run(root(), backend=backend)


def test_inside_the_block_a_timeout_is_a_cancellation() -> None:
    seen: list[str] = []

    async def root() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with pyloop.timeout(0.002):
                try:
                    await pyloop.sleep(1000)
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise
                finally:
                    seen.append("finally")
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)

    pyloop.run(root())
    assert seen == ["cancelled", "finally"]


def test_a_timeout_that_is_not_reached() -> None:
    async def root() -> None:
        for seconds in (None, 1000, 0.005):
            async with pyloop.timeout(seconds):
                await pyloop.sleep(0.001)
        # The last one's time is over now: it must not reach who is out of the block.
        await pyloop.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    pyloop.run(root())


def test_a_timeout_of_zero_ends_the_first_await() -> None:
    async def root() -> None:
        with pytest.raises(TimeoutError):
            async with pyloop.timeout(0):
                await pyloop.sleep(1000)
        async with pyloop.timeout(0):
            pass

    pyloop.run(root())


def test_nested_timeouts() -> None:
    seen: list[str] = []

    async def root() -> None:
        with pytest.raises(TimeoutError):
            async with pyloop.timeout(0.004):
                try:
                    async with pyloop.timeout(1000):
                        await pyloop.sleep(1000)
                except TimeoutError:
                    seen.append("the inner one took it")
        async with pyloop.timeout(1000):
            with pytest.raises(TimeoutError):
                async with pyloop.timeout(0.002):
                    await pyloop.sleep(1000)
            await pyloop.pause()
            seen.append("the outer block goes on")

    pyloop.run(root())
    assert seen == ["the outer block goes on"]


def test_other_exceptions_pass_through_a_timeout() -> None:
    async def root() -> None:
        with pytest.raises(ValueError, match="mine"):
            async with pyloop.timeout(1000):
                await pyloop.pause()
                raise ValueError("mine")

    pyloop.run(root())


def test_a_cancellation_from_outside_is_no_timeout() -> None:
    async def limited_long() -> None:
        async with pyloop.timeout(1000):
            await pyloop.sleep(1000)

    async def root() -> None:
        task = await pyloop.spawn(limited_long())
        await settle()
        task.cancel("from outside")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    pyloop.run(root())


def test_a_timeout_swallowed_inside_the_block() -> None:
    async def root() -> None:
        async with pyloop.timeout(0.002):
            with contextlib.suppress(asyncio.CancelledError):
                await pyloop.sleep(1000)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await pyloop.pause()

    with contextlib.suppress(TimeoutError):
        pyloop.run(root())
