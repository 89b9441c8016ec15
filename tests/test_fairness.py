"""Nobody starves: counted in turns, not in time.

Each test has a greedy party that could go on for ever and someone who needs its turn; the test
ends because that one gets it.
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from face_support import pair
from support import fill_socket

import pyloop

# A budget of ready operations before a task goes to the queue's end: other loops take about 100.
LARGEST_BUDGET = 1000


class Ticker:
    def __init__(self) -> None:
        self.ticks = 0
        self.stop = False

    async def run(self) -> None:
        while not self.stop:
            self.ticks += 1
            await pyloop.pause()


@pytest.mark.parametrize("call", ["recv", "recv_into", "recvfrom", "wait_readable"])
def test_a_socket_that_always_has_data(call: str, backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> int:
        assert fill_socket(right) > 10 * LARGEST_BUDGET
        buffer = bytearray(1)
        operations = {
            "recv": lambda: pyloop.recv(left, 1),
            "recv_into": lambda: pyloop.recv_into(left, buffer),
            "recvfrom": lambda: pyloop.recvfrom(left, 1),
            "wait_readable": lambda: pyloop.wait_readable(left),
        }
        ticker = Ticker()
        await pyloop.spawn(ticker.run())
        for _ in range(10 * LARGEST_BUDGET):
            await operations[call]()
        ticker.stop = True
        return ticker.ticks

    with pair() as (left, right):
        ticks = pyloop.run(root(left, right), backend=backend)
    assert ticks >= 10


@pytest.mark.parametrize("call", ["send", "sendall", "wait_writable"])
def test_a_socket_that_always_has_room(call: str, backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> int:
        ticker = Ticker()
        await pyloop.spawn(ticker.run())
        for _ in range(10 * LARGEST_BUDGET):
            if call == "send":
                await pyloop.send(left, b"x")
            elif call == "sendall":
                await pyloop.sendall(left, b"x")
            else:
                await pyloop.wait_writable(left)
            if call != "wait_writable":
                right.recv(1)
        ticker.stop = True
        return ticker.ticks

    with pair() as (left, right):
        ticks = pyloop.run(root(left, right), backend=backend)
    assert ticks >= 10


def test_two_sockets_that_always_have_data_share(backend: str) -> None:
    counts = [0, 0]

    async def greedy(sock: socket.socket, number: int) -> int:
        while max(counts) < 10 * LARGEST_BUDGET:
            await pyloop.recv(sock, 1)
            counts[number] += 1
        return min(counts)

    with pair() as (one, one_peer), pair() as (two, two_peer):
        for sock in (one_peer, two_peer):
            assert fill_socket(sock) > 10 * LARGEST_BUDGET
        pyloop.run(greedy(one, 0), greedy(two, 1), backend=backend)
    assert min(counts) >= 8 * LARGEST_BUDGET


def test_tasks_that_always_spawn_do_not_starve_the_others(backend: str) -> None:
    """Each child spawns the next one, for ever; pausing, sleeping and I/O still get their turn."""
    done: list[str] = []

    async def weed() -> None:
        if len(done) < 3:
            await pyloop.spawn(weed())

    async def pausing() -> None:
        for _ in range(100):
            await pyloop.pause()
        done.append("pauses")

    async def sleeping() -> None:
        for _ in range(3):
            await pyloop.sleep(0.001)
        done.append("sleep")

    async def reading(left: socket.socket, right: socket.socket) -> None:
        for _ in range(100):
            await pyloop.sendall(right, b"x")
            await pyloop.recv(left)
        done.append("recv")

    with pair() as (left, right):
        pyloop.run(weed(), weed(), pausing(), sleeping(), reading(left, right), backend=backend)
    assert sorted(done) == ["pauses", "recv", "sleep"]


def test_tasks_that_always_pause_do_not_starve_timers_and_sockets(backend: str) -> None:
    done: list[str] = []

    async def pausing() -> None:
        while len(done) < 3:
            await pyloop.pause()

    async def sleeping() -> None:
        await pyloop.sleep(0.002)
        done.append("sleep")

    async def reading(sock: socket.socket) -> None:
        await pyloop.recv(sock)
        done.append("recv")

    async def writing(sock: socket.socket) -> None:
        await pyloop.sleep(0.001)
        await pyloop.sendall(sock, b"x")
        done.append("sendall")

    with pair() as (left, right):
        pyloop.run(
            *(pausing() for _ in range(5)),
            sleeping(),
            reading(left),
            writing(right),
            backend=backend,
        )
    assert sorted(done) == ["recv", "sendall", "sleep"]


def test_callbacks_that_always_call_soon_do_not_starve_tasks(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        going = True

        def again() -> None:
            if going:
                loop.call_soon(again)

        again()
        for _ in range(50):
            await pyloop.pause()
        await pyloop.sleep(0.001)
        right.send(b"x")
        assert await pyloop.recv(left) == b"x"
        going = False

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_a_chatty_pair_on_a_channel_leaves_the_others_their_turns() -> None:
    async def sender(chan: pyloop.Channel, ticker: Ticker) -> None:
        while ticker.ticks < 200:
            await chan.send(1)
        chan.close()

    async def receiver(chan: pyloop.Channel) -> None:
        async for _ in chan:
            pass

    async def watch(ticker: Ticker) -> None:
        while ticker.ticks < 200:
            ticker.ticks += 1
            await pyloop.pause()

    chan = pyloop.Channel()
    ticker = Ticker()
    pyloop.run(sender(chan, ticker), receiver(chan), watch(ticker))
    assert ticker.ticks == 200


def test_timers_that_are_always_due_do_not_starve_the_ready() -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        going = True

        def again() -> None:
            if going:
                loop.call_at(loop.time() - 1, again)

        again()
        for _ in range(50):
            await pyloop.pause()
        going = False

    pyloop.run(root())


def test_lines_from_a_socket_that_is_never_empty(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> int:
        ticker = Ticker()
        await pyloop.spawn(ticker.run())

        async def feed() -> None:
            while not ticker.stop:
                await pyloop.sendall(right, b"line\n" * 1000)

        feeder = await pyloop.spawn(feed())
        count = 0
        async for _ in pyloop.lines(left):
            count += 1
            if ticker.ticks >= 50:
                break
        ticker.stop = True
        feeder.cancel()
        return count

    with pair() as (left, right):
        assert pyloop.run(root(left, right), backend=backend) > 0
