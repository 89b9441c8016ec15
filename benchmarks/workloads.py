"""The work of the micro-benchmarks, run in a process of its own: ``workloads PEER BENCH SECONDS``.

Each workload is an async function that does ``n`` units of work inside a loop that already runs,
and returns the nanoseconds that they took; ``settle`` finds an ``n`` that takes long enough.
Starting and ending a loop is never timed.  Prints one JSON object.
"""

import asyncio
import importlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

Work = Callable[[int], Awaitable[int]]
Workloads = dict[str, Work]

TASKS = 100  # that take turns in "switch"
BATCH = 1000  # tasks, callbacks or timers alive at a time where they are made in bulk
MESSAGE = b"x" * 1024

clock = time.perf_counter_ns


async def settle(work: Work, seconds: float) -> dict[str, float]:
    """Let ``work`` grow until one call takes ``seconds``; report that call alone."""
    target_ns = int(seconds * 1e9)
    count = TASKS
    while True:
        cpu_ns = time.process_time_ns()
        elapsed_ns = await work(count)
        cpu_ns = time.process_time_ns() - cpu_ns
        if elapsed_ns >= target_ns:
            break
        count = int(count * min(10.0, 1.1 * target_ns / elapsed_ns)) + 1
    return {
        "ns": elapsed_ns / count,
        "count": count,
        "elapsed_ns": elapsed_ns,
        "cpu_ns": cpu_ns,
    }


async def noop() -> None:
    pass


def pair() -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def tcp_listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def tcp_client() -> socket.socket:
    """Closes by a reset: thousands of connections would leave as many in TIME_WAIT."""
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return client


async def connections(count: int, connect: Any, accept: Any) -> int:
    """One after the other, made and accepted by what is used as sock_connect and sock_accept."""
    with tcp_listener() as listener:
        address = listener.getsockname()
        start = clock()
        for _ in range(count):
            with tcp_client() as client:
                await connect(client, address)
                conn, _ = await accept(listener)
                conn.close()
        return clock() - start


def coroutine_face(library: Any) -> Workloads:
    """pyloop's own face, and the textbook's, which has the same names."""
    pause, spawn, channel = library.pause, library.spawn, library.Channel
    recv, sendall = library.recv, library.sendall

    async def switch(count: int) -> int:
        done = channel()
        left = TASKS

        async def worker() -> None:
            nonlocal left
            for _ in range(count // TASKS):
                await pause()
            left -= 1
            if left == 0:
                await done.send()

        start = clock()
        for _ in range(TASKS):
            await spawn(worker())
        await done.recv()
        return clock() - start

    async def spawn_end(count: int) -> int:
        ended = 0

        async def last() -> None:
            nonlocal ended
            ended += BATCH

        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            for _ in range(BATCH - 1):
                await spawn(noop())
            await spawn(last())
            await pause()
        elapsed = clock() - start
        if ended != batches * BATCH:
            raise RuntimeError("a spawned coroutine had not run after a pause")
        return elapsed * count // ended

    async def spawn_join(count: int) -> int:
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            for task in [await spawn(noop()) for _ in range(BATCH)]:
                await task
        return (clock() - start) * count // (batches * BATCH)

    async def message(count: int) -> int:
        chan = channel()

        async def sender() -> None:
            for number in range(count):
                await chan.send(number)

        start = clock()
        await spawn(sender())
        for number in range(count):
            if await chan.recv() != number:
                raise RuntimeError("a message was lost")
        return clock() - start

    async def pingpong(count: int) -> int:
        left, right = pair()

        async def answer() -> None:
            while data := await recv(right, len(MESSAGE)):
                await sendall(right, data)
            right.close()

        start = clock()
        await spawn(answer())
        for _ in range(count):
            await sendall(left, MESSAGE)
            if len(await recv(left, len(MESSAGE))) != len(MESSAGE):
                raise RuntimeError("a message came back in parts")
        elapsed = clock() - start
        left.close()
        return elapsed

    work: Workloads = {
        "switch": switch,
        "spawn": spawn_end,
        "channel": message,
        "pingpong": pingpong,
    }
    if hasattr(library, "Task"):
        work["spawn_join"] = spawn_join
        work["connect"] = lambda count: connections(count, library.connect, library.accept)
    return work


def asyncio_face() -> Workloads:
    """asyncio's interface, on whichever loop runs."""
    sleep, create_task, gather = asyncio.sleep, asyncio.create_task, asyncio.gather

    async def switch(count: int) -> int:
        async def worker() -> None:
            for _ in range(count // TASKS):
                await sleep(0)

        start = clock()
        await gather(*[worker() for _ in range(TASKS)])
        return clock() - start

    async def spawn_end(count: int) -> int:
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            await gather(*[create_task(noop()) for _ in range(BATCH)])
        return (clock() - start) * count // (batches * BATCH)

    async def spawn_join(count: int) -> int:
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            for task in [create_task(noop()) for _ in range(BATCH)]:
                await task
        return (clock() - start) * count // (batches * BATCH)

    async def message(count: int) -> int:
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def sender() -> None:
            for number in range(count):
                await queue.put(number)

        start = clock()
        task = create_task(sender())
        for number in range(count):
            if await queue.get() != number:
                raise RuntimeError("a message was lost")
        elapsed = clock() - start
        await task
        return elapsed

    async def pingpong(count: int) -> int:
        loop = asyncio.get_running_loop()
        left, right = pair()

        async def answer() -> None:
            while data := await loop.sock_recv(right, len(MESSAGE)):
                await loop.sock_sendall(right, data)
            right.close()

        start = clock()
        task = create_task(answer())
        for _ in range(count):
            await loop.sock_sendall(left, MESSAGE)
            if len(await loop.sock_recv(left, len(MESSAGE))) != len(MESSAGE):
                raise RuntimeError("a message came back in parts")
        elapsed = clock() - start
        left.close()
        await task
        return elapsed

    def callbacks(schedule: str) -> Work:
        async def work(count: int) -> int:
            called = 0

            def last() -> None:
                nonlocal called
                called += BATCH

            def callback() -> None:
                pass

            call = getattr(asyncio.get_running_loop(), schedule)
            batches = -(-count // BATCH)
            start = clock()
            for _ in range(batches):
                for _ in range(BATCH - 1):
                    call(callback)
                call(last)
                await sleep(0)
            elapsed = clock() - start
            if called != batches * BATCH:
                raise RuntimeError(f"{schedule}: a callback had not run one turn later")
            return elapsed * count // called

        return work

    async def call_later(count: int) -> int:
        def callback() -> None:
            raise RuntimeError("a cancelled timer fired")

        loop = asyncio.get_running_loop()
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            for _ in range(BATCH):
                loop.call_later(60, callback).cancel()
            await sleep(0)
        return (clock() - start) * count // (batches * BATCH)

    async def timer(count: int) -> int:
        loop = asyncio.get_running_loop()
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            ended = loop.create_future()
            left = BATCH

            def callback(ended: asyncio.Future[None] = ended) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    ended.set_result(None)

            for _ in range(BATCH):
                loop.call_later(0, callback)
            await ended
        return (clock() - start) * count // (batches * BATCH)

    async def wakeup(count: int) -> int:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        turn = threading.Semaphore()

        def wake() -> None:
            for _ in range(count):
                turn.acquire()
                loop.call_soon_threadsafe(turn.release)
            loop.call_soon_threadsafe(ended.set_result, None)

        thread = threading.Thread(target=wake)
        start = clock()
        thread.start()
        await ended
        elapsed = clock() - start
        thread.join()
        return elapsed

    def connect(count: int) -> Awaitable[int]:
        loop = asyncio.get_running_loop()
        return connections(count, loop.sock_connect, loop.sock_accept)

    return {
        "switch": switch,
        "spawn": spawn_end,
        "spawn_join": spawn_join,
        "channel": message,
        "pingpong": pingpong,
        "timer": timer,
        "wakeup": wakeup,
        "connect": connect,
        "call_soon": callbacks("call_soon"),
        "call_later": call_later,
        "threadsafe": callbacks("call_soon_threadsafe"),
    }


def trio_face() -> Workloads:
    trio = importlib.import_module("trio")

    async def switch(count: int) -> int:
        async def worker() -> None:
            for _ in range(count // TASKS):
                await trio.sleep(0)

        start = clock()
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(worker)
        return clock() - start

    async def spawn_end(count: int) -> int:
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            async with trio.open_nursery() as nursery:
                for _ in range(BATCH):
                    nursery.start_soon(noop)
        return (clock() - start) * count // (batches * BATCH)

    async def message(count: int) -> int:
        sending, receiving = trio.open_memory_channel(0)

        async def sender() -> None:
            for number in range(count):
                await sending.send(number)

        async with trio.open_nursery() as nursery:
            start = clock()
            nursery.start_soon(sender)
            for number in range(count):
                if await receiving.receive() != number:
                    raise RuntimeError("a message was lost")
            elapsed = clock() - start
        return elapsed

    async def pingpong(count: int) -> int:
        left, right = trio.socket.socketpair()

        async def answer() -> None:
            while data := await right.recv(len(MESSAGE)):
                await right.send(data)
            right.close()

        async with trio.open_nursery() as nursery:
            start = clock()
            nursery.start_soon(answer)
            for _ in range(count):
                await left.send(MESSAGE)
                if len(await left.recv(len(MESSAGE))) != len(MESSAGE):
                    raise RuntimeError("a message came back in parts")
            elapsed = clock() - start
            left.close()
        return elapsed

    async def connect(count: int) -> int:
        listener = trio.socket.from_stdlib_socket(tcp_listener())
        with listener:
            address = listener.getsockname()
            start = clock()
            for _ in range(count):
                with trio.socket.from_stdlib_socket(tcp_client()) as client:
                    await client.connect(address)
                    conn, _ = await listener.accept()
                    conn.close()
            return clock() - start

    return {
        "connect": connect,
        "switch": switch,
        "spawn": spawn_end,
        "spawn_join": spawn_end,
        "channel": message,
        "pingpong": pingpong,
    }


def curio_face() -> Workloads:
    curio = importlib.import_module("curio")
    curio_socket = importlib.import_module("curio.socket")

    async def switch(count: int) -> int:
        async def worker() -> None:
            for _ in range(count // TASKS):
                await curio.sleep(0)

        start = clock()
        for task in [await curio.spawn(worker) for _ in range(TASKS)]:
            await task.join()
        return clock() - start

    async def spawn_join(count: int) -> int:
        batches = -(-count // BATCH)
        start = clock()
        for _ in range(batches):
            for task in [await curio.spawn(noop) for _ in range(BATCH)]:
                await task.join()
        return (clock() - start) * count // (batches * BATCH)

    async def message(count: int) -> int:
        queue = curio.Queue(1)

        async def sender() -> None:
            for number in range(count):
                await queue.put(number)

        start = clock()
        task = await curio.spawn(sender)
        for number in range(count):
            if await queue.get() != number:
                raise RuntimeError("a message was lost")
        elapsed = clock() - start
        await task.join()
        return elapsed

    async def pingpong(count: int) -> int:
        left, right = curio_socket.socketpair()

        async def answer() -> None:
            while data := await right.recv(len(MESSAGE)):
                await right.sendall(data)
            await right.close()

        start = clock()
        task = await curio.spawn(answer)
        for _ in range(count):
            await left.sendall(MESSAGE)
            if len(await left.recv(len(MESSAGE))) != len(MESSAGE):
                raise RuntimeError("a message came back in parts")
        elapsed = clock() - start
        await left.close()
        await task.join()
        return elapsed

    return {
        "switch": switch,
        "spawn": spawn_join,
        "spawn_join": spawn_join,
        "channel": message,
        "pingpong": pingpong,
    }


def loop_factory(library: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """How the library makes an asyncio loop."""
    module = importlib.import_module(library)
    factory: Callable[[], asyncio.AbstractEventLoop] = (
        module.EventLoop if library == "pyloop" else module.new_event_loop
    )
    return factory


def run_asyncio(library: str, main: Awaitable[Any]) -> Any:
    async def call() -> Any:
        return await main

    with asyncio.Runner(loop_factory=loop_factory(library)) as runner:
        return runner.run(call())


def main(peer: str, bench: str, seconds: float) -> None:
    answer: dict[str, float]
    if peer in ("pyloop", "textbook"):
        name = "benchmarks.textbook" if peer == "textbook" else peer
        library = importlib.import_module(name)
        answer = library.run(settle(coroutine_face(library)[bench], seconds))
    elif peer == "trio":
        answer = importlib.import_module("trio").run(settle, trio_face()[bench], seconds)
    elif peer == "curio":
        answer = importlib.import_module("curio").run(settle, curio_face()[bench], seconds)
    else:
        library_name = peer.removesuffix(" asyncio")
        answer = run_asyncio(library_name, settle(asyncio_face()[bench], seconds))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
