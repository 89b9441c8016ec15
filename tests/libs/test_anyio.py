"""anyio: its own run() on our loop, and its primitives where a pyloop.Task is the current task."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("anyio", reason="anyio is not installed")

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from anyio.streams.tls import TLSListener, TLSStream

import pyloop

if TYPE_CHECKING:
    from conftest import Run

MIB = 1 << 20
LIMIT = 20


def test_run(loop_name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """anyio.run() takes the loop from us; most of the rest is done with `run`."""

    async def child(number: int, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        task_status.started(number)
        done.append(number)

    async def main(argument: str) -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, pyloop.EventLoop) == (loop_name == "pyloop")
        async with anyio.create_task_group() as group:
            assert [await group.start(child, number) for number in range(3)] == [0, 1, 2]
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
        return argument

    done: list[int] = []
    options = {"loop_factory": loop_factory}
    assert anyio.run(main, "value", backend="asyncio", backend_options=options) == "value"
    assert done == [0, 1, 2]


def test_task_group(run: Run) -> None:
    """One task fails: its siblings are cancelled, run their finally, and the group raises it."""

    async def wait(number: int) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            log.append(number)
            raise

    async def fail() -> None:
        await anyio.sleep(0)
        raise ValueError("broken")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(wait, number)
                group.start_soon(fail)
        assert [str(error) for error in raised.value.exceptions] == ["broken"]
        assert sorted(log) == [0, 1, 2]
        await anyio.sleep(0)  # the current task is not left cancelled
        async with anyio.create_task_group() as group:
            group.start_soon(wait, 3)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert log[-1] == 3

    log: list[int] = []
    run(main())


def test_start_that_fails(run: Run) -> None:
    async def fails(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await anyio.sleep(0)
        raise ValueError("before it started")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            with pytest.raises(ValueError, match="before it started"):
                await group.start(fails)

    run(main())


def test_cancel_scopes(run: Run) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.01) as outer, anyio.move_on_after(10) as inner:
            await anyio.sleep_forever()
        assert (outer.cancelled_caught, inner.cancelled_caught) == (True, False)

        with anyio.move_on_after(10) as outer:
            with anyio.move_on_after(0.01) as inner:
                await anyio.sleep_forever()
            await anyio.sleep(0)
        assert (outer.cancelled_caught, inner.cancelled_caught) == (False, True)

        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep_forever()

        # A shield holds until its own deadline, and then the outer scope is cancelled.
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.move_on_after(0.02, shield=True) as inner:
                await anyio.sleep_forever()
            log.append("after the shield")
            await anyio.sleep_forever()
        assert (outer.cancelled_caught, inner.cancelled_caught) == (True, True)
        assert log == ["after the shield"]

        # A cancelled scope cancels every wait in it, not only the first.
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                with pytest.raises(anyio.get_cancelled_exc_class()):
                    await anyio.sleep_forever()
                log.append("again")
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert log[1:] == ["again"] * 3
        assert anyio.current_effective_deadline() == math.inf
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    log: list[str] = []
    run(main())


def test_scopes_and_asyncio_cancellation(run: Run) -> None:
    """asyncio's timeout and cancel() around and inside anyio's scopes."""

    async def waits() -> str:
        with anyio.CancelScope():
            await anyio.sleep_forever()
        return "not cancelled"

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                with anyio.CancelScope() as scope:
                    await anyio.sleep_forever()
        assert not scope.cancelled_caught
        with anyio.move_on_after(0.01) as scope:
            async with asyncio.timeout(10):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        task = asyncio.create_task(waits())
        await anyio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with anyio.move_on_after(0.01) as scope:
            async with asyncio.TaskGroup() as group:
                child = group.create_task(waits())
        assert scope.cancelled_caught
        assert child.cancelled()

    run(main())


def test_synchronisation(run: Run) -> None:
    async def main() -> None:
        log: list[int] = []
        lock, event = anyio.Lock(), anyio.Event()
        limiter = anyio.CapacityLimiter(2)
        send, receive = anyio.create_memory_object_stream[int](1)

        async def worker(number: int) -> None:
            async with lock:
                await anyio.sleep(0)
                log.append(number)
            async with limiter:
                assert limiter.borrowed_tokens <= 2
                await anyio.sleep(0)
            await event.wait()
            async with send.clone() as mine:
                await mine.send(number)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(worker, number)
            await anyio.wait_all_tasks_blocked()
            assert log == list(range(10))
            event.set()
            async with receive:
                got = [await receive.receive() for _ in range(10)]
            assert sorted(got) == log
        send.close()
        with anyio.move_on_after(0.01) as scope:
            async with lock:
                with pytest.raises(RuntimeError):
                    await lock.acquire()  # it is ours already
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert not lock.locked()

    run(main())


def test_threads(run: Run) -> None:
    async def double(number: int) -> int:
        await anyio.sleep(0)
        return 2 * number

    def in_thread(number: int) -> int:
        here = anyio.from_thread.run(double, number)
        return here + anyio.from_thread.run_sync(lambda: 1)

    async def main() -> None:
        results: dict[int, int] = {}

        async def call(number: int) -> None:
            results[number] = await anyio.to_thread.run_sync(in_thread, number)

        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(call, number)
        assert results == {number: 2 * number + 1 for number in range(30)}
        with pytest.raises(ZeroDivisionError):
            await anyio.to_thread.run_sync(lambda: 1 // 0)

        gate = threading.Event()
        with anyio.move_on_after(0.01) as scope:
            await anyio.to_thread.run_sync(gate.wait, LIMIT, abandon_on_cancel=True)
        gate.set()
        assert scope.cancelled_caught

    run(main())


def test_a_portal_from_another_thread(run: Run) -> None:
    async def double(number: int) -> int:
        await anyio.sleep(0)
        return 2 * number

    async def main() -> None:
        async with anyio.from_thread.BlockingPortal() as portal:

            def outside() -> list[int]:
                futures = [portal.start_task_soon(double, number) for number in range(20)]
                return [future.result() for future in futures]

            assert await anyio.to_thread.run_sync(outside) == list(range(0, 40, 2))

    run(main())


async def receive_all(stream: anyio.abc.ByteStream) -> bytes:
    return b"".join([part async for part in stream])


async def echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        async for part in stream:
            await stream.send(part)


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_streams(run: Run, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """20 clients send 1 MiB each through an echo server, and end their side."""
    tls: list[ssl.SSLContext] = []
    if kind == "tls":
        tls += [request.getfixturevalue("server_tls"), request.getfixturevalue("client_tls")]
    data = os.urandom(MIB)

    async def connect(port: int) -> anyio.abc.ByteStream:
        if kind == "unix":
            return await anyio.connect_unix(str(tmp_path / "socket"))
        if kind == "tcp":
            return await anyio.connect_tcp("127.0.0.1", port)
        return await anyio.connect_tcp("127.0.0.1", port, ssl_context=tls[1])

    async def talk(port: int) -> None:
        async with await connect(port) as stream:
            async with anyio.create_task_group() as group:
                group.start_soon(stream.send, data)
                received = b""
                while len(received) < len(data):
                    received += await stream.receive()
            assert received == data
            if not isinstance(stream, TLSStream):
                await stream.send_eof()
                assert await receive_all(stream) == b""

    async def main() -> None:
        listener: Any
        port = 0
        if kind == "unix":
            listener = await anyio.create_unix_listener(str(tmp_path / "socket"))
        else:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            if kind == "tls":
                listener = TLSListener(listener, tls[0])
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with anyio.create_task_group() as clients:
                for _ in range(20):
                    clients.start_soon(talk, port)
            group.cancel_scope.cancel()

    run(main())


def test_datagrams(run: Run) -> None:
    async def main() -> None:
        async with (
            await anyio.create_udp_socket(family=socket.AF_INET, local_host="127.0.0.1") as one,
            await anyio.create_udp_socket(family=socket.AF_INET, local_host="127.0.0.1") as two,
        ):
            address = two.extra(anyio.abc.SocketAttribute.local_address)
            for number in range(100):
                await one.sendto(b"%d" % number, *address)
                data, source = await two.receive()
                assert data == b"%d" % number
                assert source == one.extra(anyio.abc.SocketAttribute.local_address)

    run(main())


def test_waiting_for_sockets(run: Run) -> None:
    """wait_readable() uses add_reader(); a close elsewhere ends the wait."""

    async def main() -> None:
        left, right = socket.socketpair()
        left.setblocking(False)
        with left, right:
            await anyio.wait_writable(left)
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.wait_readable, left)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(anyio.BusyResourceError):
                    await anyio.wait_readable(left)
                right.send(b"x")
            assert left.recv(1) == b"x"
            with anyio.move_on_after(0.01) as scope:
                await anyio.wait_readable(left)
            assert scope.cancelled_caught
            async with anyio.create_task_group() as group:

                async def closed() -> None:
                    with pytest.raises(anyio.ClosedResourceError):
                        await anyio.wait_readable(left)

                group.start_soon(closed)
                await anyio.wait_all_tasks_blocked()
                anyio.notify_closing(left)

    run(main())


def test_processes_and_signals(run: Run) -> None:
    async def main() -> None:
        done = await anyio.run_process(
            [sys.executable, "-c", "print(input()[::-1])"], input=b"drawer\n"
        )
        assert (done.returncode, done.stdout) == (0, b"reward\n")
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                assert number == signal.SIGUSR1
                break

    run(main())


def test_files(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = anyio.Path(tmp_path) / "file"
        await path.write_text("one\ntwo\n")
        async with await anyio.open_file(path) as file:
            assert [line async for line in file] == ["one\n", "two\n"]

    run(main())


def test_from_a_spawned_task() -> None:
    """Task groups in tasks that pyloop.spawn() made, with our own awaitables in anyio's scopes."""

    async def member(number: int) -> None:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            with anyio.move_on_after(0.01) as scope:
                await pyloop.recv(left)
            assert scope.cancelled_caught
            await pyloop.send(right, b"%d" % number)
            got.append(int(await pyloop.recv(left)))

    async def spawned() -> str:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(member, number)
        return "joined"

    async def main() -> None:
        task = await pyloop.spawn(spawned())
        with anyio.fail_after(LIMIT):
            assert await task == "joined"
        # Cancelled from outside, as any task.
        task = await pyloop.spawn(anyio.sleep_forever())
        await pyloop.pause()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    got: list[int] = []
    pyloop.run(main())
    assert sorted(got) == [0, 1, 2, 3, 4]
