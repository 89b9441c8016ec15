"""Channel against a plain model, under random operations."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from face_support import settle
from model_support import few_and_many, play

import pyloop
from pyloop import Event

STEPS = 100


class Receiver:
    """One that takes up to `wanted` values; how it ends is in `outcome`."""

    def __init__(self, number: int, wanted: int, iterates: bool) -> None:
        self.number = number
        self.wanted = wanted
        self.iterates = iterates
        self.values: list[int] = []
        self.outcome: str | None = None


class Sender:
    def __init__(self, number: int, value: int) -> None:
        self.number = number
        self.value = value
        self.outcome: str | None = None


class Model:
    """What a channel does, where nothing happens before all is at rest again."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.closed = False
        self.buffer: collections.deque[int] = collections.deque()
        self.senders: collections.deque[Sender] = collections.deque()
        self.receivers: collections.deque[Receiver] = collections.deque()

    def take(self) -> int:
        """The oldest value; IndexError where there is none."""
        if self.buffer:
            value = self.buffer.popleft()
            if self.senders:
                self.buffer.append(self.finish_sender())
            return value
        return self.finish_sender()

    def finish_sender(self) -> int:
        sender = self.senders.popleft()
        sender.outcome = "sent"
        return sender.value

    def give(self, receiver: Receiver, value: int) -> None:
        receiver.values.append(value)
        if len(receiver.values) == receiver.wanted:
            receiver.outcome = "got all"
        else:
            self.recv(receiver)

    def recv(self, receiver: Receiver) -> None:
        if self.buffer or self.senders:
            self.give(receiver, self.take())
        elif self.closed:
            receiver.outcome = "ended" if receiver.iterates else "closed"
        else:
            self.receivers.append(receiver)

    def put(self, value: int) -> bool:
        if self.receivers:
            self.give(self.receivers.popleft(), value)
            return True
        if len(self.buffer) < self.capacity and not self.senders:
            self.buffer.append(value)
            return True
        return False

    def send(self, sender: Sender) -> None:
        if self.closed:
            sender.outcome = "closed"
        elif self.put(sender.value):
            sender.outcome = "sent"
        else:
            self.senders.append(sender)

    def close(self) -> None:
        self.closed = True
        for sender in self.senders:
            sender.outcome = "closed"
        self.senders.clear()
        for receiver in self.receivers:
            receiver.outcome = "ended" if receiver.iterates else "closed"
        self.receivers.clear()

    def cancel(self, waiting: Sender | Receiver) -> None:
        waiting.outcome = "cancelled"
        if isinstance(waiting, Sender):
            self.senders.remove(waiting)
        else:
            self.receivers.remove(waiting)


class Driver:
    """The same operations on a channel, by tasks of every kind."""

    def __init__(self, chance: random.Random, trace: list[str]) -> None:
        self.chance = chance
        self.trace = trace
        capacity = chance.choice((0, 0, 1, 2, 5))
        self.model = Model(capacity)
        self.channel: pyloop.Channel[int] = pyloop.Channel(capacity)
        self.outcomes: dict[int, str] = {}
        self.got: dict[int, list[int]] = collections.defaultdict(list)
        self.tasks: dict[int, Any] = {}
        self.everybody: list[Sender | Receiver] = []
        self.n_values = 0

    async def run(self) -> None:
        steps = [
            *(self.send,) * 4,
            *(self.recv,) * 4,
            *(self.iterate, self.send_nowait, self.recv_nowait, self.drop) * 2,
            *(self.cancel,) * 3,
        ]
        for step in range(STEPS):
            late = step > STEPS * 2 // 3 and self.chance.random() < 0.03
            await (self.close if late else self.chance.choice(steps))()
            await settle(10)
            self.compare()
        for task in self.tasks.values():
            task.cancel()
        await settle(10)
        assert all(task.done() for task in self.tasks.values())
        assert "senders=0 receivers=0" in repr(self.channel)

    def compare(self) -> None:
        model, channel = self.model, self.channel
        assert repr(channel).endswith(
            f" capacity={model.capacity} buffered={len(model.buffer)} "
            f"senders={len(model.senders)} receivers={len(model.receivers)}"
            f"{' closed' if model.closed else ''}>"
        )
        assert len(channel) == len(model.buffer)
        assert channel.closed == model.closed
        assert (channel._sender is None) == (not model.senders)
        assert (channel._receiver is None) == (not model.receivers)
        for one in self.everybody:
            assert self.outcomes.get(one.number) == one.outcome, one.number
            if isinstance(one, Receiver):
                assert self.got[one.number] == one.values, one.number
        self.everybody = [one for one in self.everybody if one.outcome is None]

    async def start(self, one: Sender | Receiver, coro: Any) -> None:
        self.everybody.append(one)
        if isinstance(coro, Generator) or self.chance.random() < 0.5:
            self.tasks[one.number] = await pyloop.spawn(coro)
        else:
            self.tasks[one.number] = asyncio.create_task(coro)

    @contextlib.contextmanager
    def noting(self, one: Sender | Receiver) -> Iterator[None]:
        """Notes the end of the block where the channel or a cancellation brings it about."""
        try:
            yield
        except pyloop.ChannelClosed:
            self.outcomes[one.number] = "closed"
        except asyncio.CancelledError:
            self.outcomes[one.number] = "cancelled"
            raise

    # --- the operations ---

    async def send(self) -> None:
        one = Sender(len(self.tasks), self.n_values)
        self.n_values += 1
        trap = self.chance.random() < 0.3
        self.trace.append(f"send {one.value} by task {one.number}{' (trap)' if trap else ''}")
        await self.start(one, self.trap_sender(one) if trap else self.sender(one))
        self.model.send(one)

    async def sender(self, one: Sender) -> None:
        with self.noting(one):
            await self.channel.send(one.value)
            self.outcomes[one.number] = "sent"

    def trap_sender(self, one: Sender) -> Generator[Any, Any, None]:
        with self.noting(one):
            self.channel._value = one.value
            yield (Event.ChanSend, self.channel)
            self.outcomes[one.number] = "sent"

    async def recv(self) -> None:
        one = Receiver(len(self.tasks), self.chance.choice((1, 1, 2, 4)), iterates=False)
        trap = self.chance.random() < 0.3
        self.trace.append(f"recv {one.wanted} by task {one.number}{' (trap)' if trap else ''}")
        await self.start(one, self.trap_receiver(one) if trap else self.receiver(one))
        self.model.recv(one)

    async def receiver(self, one: Receiver) -> None:
        with self.noting(one):
            while len(self.got[one.number]) < one.wanted:
                self.got[one.number].append(await self.channel.recv())
            self.outcomes[one.number] = "got all"

    def trap_receiver(self, one: Receiver) -> Generator[Any, Any, None]:
        with self.noting(one):
            while len(self.got[one.number]) < one.wanted:
                value = yield (Event.ChanRecv, self.channel)
                assert self.channel._value == value
                self.got[one.number].append(value)
            self.outcomes[one.number] = "got all"

    async def iterate(self) -> None:
        one = Receiver(len(self.tasks), self.chance.randint(1, 5), iterates=True)
        self.trace.append(f"async for, {one.wanted} values, by task {one.number}")
        await self.start(one, self.iterator(one))
        self.model.recv(one)

    async def iterator(self, one: Receiver) -> None:
        with self.noting(one):
            async for value in self.channel:
                self.got[one.number].append(value)
                if len(self.got[one.number]) == one.wanted:
                    self.outcomes[one.number] = "got all"
                    break
            else:
                self.outcomes[one.number] = "ended"

    async def send_nowait(self) -> None:
        self.trace.append(f"send_nowait {self.n_values}")
        try:
            self.channel.send_nowait(self.n_values)
        except pyloop.ChannelClosed:
            assert self.model.closed
        except asyncio.QueueFull:
            assert not self.model.put(self.n_values)
        else:
            assert not self.model.closed
            assert self.model.put(self.n_values)
        self.n_values += 1

    async def recv_nowait(self) -> None:
        self.trace.append("recv_nowait")
        can = bool(self.model.buffer or self.model.senders)
        try:
            value = self.channel.recv_nowait()
        except pyloop.ChannelClosed:
            assert not can
            assert self.model.closed
        except asyncio.QueueEmpty:
            assert not can
            assert not self.model.closed
        else:
            assert value == self.model.take()

    async def drop(self) -> None:
        """Operations that are not awaited do nothing."""
        self.trace.append("drop")
        self.channel.recv().close()
        self.channel.send(-1).close()

    async def cancel(self) -> None:
        waiting = [*self.model.senders, *self.model.receivers]
        if waiting:
            one = self.chance.choice(waiting)
            self.trace.append(f"cancel task {one.number}")
            self.tasks[one.number].cancel()
            self.model.cancel(one)

    async def close(self) -> None:
        self.trace.append("close")
        self.channel.close()
        self.model.close()


def one_round(chance: random.Random, trace: list[str]) -> int:
    pyloop.run(Driver(chance, trace).run())
    return STEPS


@few_and_many
def test_at_rest_a_channel_is_its_model(operations: int) -> None:
    play(one_round, operations)


# --- without rest --------------------------------------------------------------------------------


async def burst(chance: random.Random, trace: list[str]) -> None:
    """Several operations before anybody runs: what must hold in whichever order they do."""
    channel: pyloop.Channel[int] = pyloop.Channel(chance.choice((0, 0, 1, 2, 5)))
    arrived: list[int] = []  # values, as their senders came to the channel
    received: list[int] = []  # as they were taken
    sent: set[int] = set()
    refused: set[int] = set()
    cancelled: set[int] = set()
    came: list[int] = []  # receivers, as they came to the channel
    served: list[int] = []
    tasks: list[Any] = []
    n_values = 0

    async def send(value: int) -> None:
        arrived.append(value)
        try:
            await channel.send(value)
            sent.add(value)
        except asyncio.CancelledError:
            cancelled.add(value)
        except pyloop.ChannelClosed:
            refused.add(value)

    async def recv(number: int) -> None:
        came.append(number)
        value = await channel.recv()
        received.append(value)
        served.append(number)

    async def start(coro: Any) -> None:
        own = chance.random() < 0.5
        tasks.append(await pyloop.spawn(coro) if own else asyncio.create_task(coro))

    for step in range(STEPS):
        what = chance.choice(("send", "send", "recv", "recv", "cancel", "nowait", "rest"))
        trace.append(what)
        if what == "send":
            await start(send(n_values))
            n_values += 1
        elif what == "recv":
            await start(recv(step))
        elif what == "cancel" and tasks:
            number = chance.randrange(max(0, len(tasks) - 8), len(tasks))
            trace[-1] += f" {number}"
            tasks[number].cancel()
        elif what == "nowait" and chance.random() < 0.5:
            try:
                channel.send_nowait(n_values)
            except asyncio.QueueFull:
                pass
            else:
                arrived.append(n_values)
                sent.add(n_values)
                n_values += 1
        elif what == "nowait":
            try:
                received.append(channel.recv_nowait())
            except asyncio.QueueEmpty:
                pass
        elif what == "rest":
            await settle(chance.randint(1, 4))
    await settle(10)
    if chance.random() < 0.5:
        channel.close()
        await settle(10)
    for task in tasks:
        task.cancel()
    await settle(10)
    while True:
        try:
            received.append(channel.recv_nowait())
        except (asyncio.QueueEmpty, pyloop.ChannelClosed):
            break

    assert all(task.done() for task in tasks)
    assert len(set(received)) == len(received), "delivered twice"
    assert sent <= set(received), "lost"
    assert not refused & set(received), "received although its sender was refused"
    assert set(received) <= sent | cancelled
    assert received == [value for value in arrived if value in set(received)], "overtaken"
    assert served == [number for number in came if number in set(served)], "a receiver overtook"


def one_burst(chance: random.Random, trace: list[str]) -> int:
    # The exceptions of receivers that the end of the channel met are nobody's.
    loop = pyloop.EventLoop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        loop.run(burst(chance, trace))
    finally:
        loop.close()
    return STEPS


@few_and_many
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_nothing_is_lost_or_overtaken_in_any_order(operations: int) -> None:
    play(one_burst, operations)
