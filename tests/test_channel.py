"""Channel: a rendezvous by default, first in first out, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Generator
from typing import Any

import pytest
from face_support import settle
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloop


async def ping(chan: pyloop.Channel) -> None:
    print("ping")
    await chan.send()


async def pong(chan: pyloop.Channel) -> None:
    await chan.recv()
    print("pong")


def test_ping_is_printed_before_pong_in_two_successive_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chan = pyloop.Channel()
    pyloop.run(ping(chan), pong(chan))
    assert capsys.readouterr().out == "ping\npong\n"
    pyloop.run(pong(chan), ping(chan))
    assert capsys.readouterr().out == "ping\npong\n"


def test_send_returns_only_when_a_receiver_took_the_value() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        sender = await pyloop.spawn(chan.send("value"))
        await settle()
        assert not sender.done()
        assert await chan.recv() == "value"
        assert await sender is None

    pyloop.run(root())


def test_recv_waits_for_a_sender() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        receiver = await pyloop.spawn(chan.recv())
        await settle()
        assert not receiver.done()
        await chan.send("value")
        assert await receiver == "value"

    pyloop.run(root())


@pytest.mark.parametrize("value", [None, 0, False, "", (), [1], ValueError("as a value")], ids=repr)
@pytest.mark.parametrize("capacity", [0, 1])
def test_any_object_passes_as_it_is(value: Any, capacity: int) -> None:
    async def root() -> None:
        chan = pyloop.Channel(capacity)
        sender = await pyloop.spawn(chan.send(value))
        assert await chan.recv() is value
        await sender

    pyloop.run(root())


def test_send_without_a_value_sends_none() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        sender = await pyloop.spawn(chan.send())
        assert await chan.recv() is None
        await sender
        sender = await pyloop.spawn(chan.send(value="by name"))
        assert await chan.recv() == "by name"
        await sender

    pyloop.run(root())


@pytest.mark.parametrize("capacity", [0, 1, 3, 1000])
def test_many_senders_are_served_in_order_and_none_is_overwritten(capacity: int) -> None:
    async def root() -> list[int]:
        chan = pyloop.Channel(capacity)
        for number in range(100):
            await pyloop.spawn(chan.send(number))
        await settle()
        return [await chan.recv() for _ in range(100)]

    assert pyloop.run(root()) == list(range(100))


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_many_receivers_are_served_in_order(capacity: int) -> None:
    got: list[tuple[int, int]] = []

    async def receiver(number: int, chan: pyloop.Channel) -> None:
        got.append((number, await chan.recv()))

    async def root() -> None:
        chan = pyloop.Channel(capacity)
        for number in range(100):
            await pyloop.spawn(receiver(number, chan))
        await settle()
        for number in range(100):
            await chan.send(number)

    pyloop.run(root())
    assert got == [(number, number) for number in range(100)]


def test_a_newcomer_does_not_overtake_a_receiver_that_is_about_to_run() -> None:
    got: list[tuple[str, int]] = []

    async def receiver(chan: pyloop.Channel[int], name: str) -> None:
        got.append((name, await chan.recv()))

    async def root() -> None:
        chan: pyloop.Channel[int] = pyloop.Channel(2)
        first = await pyloop.spawn(receiver(chan, "first"))
        await settle()
        # Runs before `first` does, which the values make ready only now.
        second = asyncio.create_task(receiver(chan, "second"))
        chan.send_nowait(1)
        chan.send_nowait(2)
        await first
        await second

    pyloop.run(root())
    assert got == [("first", 1), ("second", 2)]


@pytest.mark.parametrize("receiver_first", [False, True])
@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_a_stream_of_values_between_two_tasks(receiver_first: bool, capacity: int) -> None:
    chan = pyloop.Channel(capacity)

    async def sender() -> None:
        for number in range(1000):
            await chan.send(number)

    async def receiver() -> list[int]:
        return [await chan.recv() for _ in range(1000)]

    if receiver_first:
        got, _ = pyloop.run(receiver(), sender())
    else:
        _, got = pyloop.run(sender(), receiver())
    assert got == list(range(1000))


def test_capacity_is_how_many_values_wait_without_a_receiver() -> None:
    async def root() -> None:
        chan = pyloop.Channel(2)
        assert len(chan) == 0
        await chan.send("a")
        assert len(chan) == 1
        await chan.send("b")
        assert len(chan) == 2
        third = await pyloop.spawn(chan.send("c"))
        await settle()
        assert not third.done()
        assert await chan.recv() == "a"
        await settle()
        assert third.done()
        assert len(chan) == 2
        assert await chan.recv() == "b"
        assert await chan.recv() == "c"
        assert len(chan) == 0

    pyloop.run(root())


def test_a_rendezvous_channel_holds_nothing() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        assert len(chan) == 0
        receiver = await pyloop.spawn(chan.recv())
        await settle()
        assert len(chan) == 0
        await chan.send(1)
        assert await receiver == 1
        assert len(chan) == 0

    pyloop.run(root())


def test_buffered_values_outlive_the_run_that_sent_them() -> None:
    chan = pyloop.Channel(2)

    async def sender() -> None:
        await chan.send("a")
        await chan.send("b")

    async def receiver() -> list[str]:
        return [await chan.recv(), await chan.recv()]

    pyloop.run(sender())
    assert len(chan) == 2
    assert pyloop.run(receiver()) == ["a", "b"]


def test_the_heads_of_the_queue_can_be_seen() -> None:
    async def send(chan: pyloop.Channel, value: Any) -> None:
        await chan.send(value)

    async def recv(chan: pyloop.Channel) -> Any:
        return await chan.recv()

    async def root() -> None:
        chan = pyloop.Channel()
        assert chan._sender is None
        assert chan._receiver is None

        first, second = send(chan, "one"), send(chan, "two")
        senders = [await pyloop.spawn(first), await pyloop.spawn(second)]
        await settle()
        assert chan._sender is first
        assert chan._receiver is None
        assert chan._value == "one"
        assert await chan.recv() == "one"
        assert chan._sender is second
        assert chan._value == "two"
        assert await chan.recv() == "two"
        assert chan._sender is None
        for task in senders:
            await task

        first_receiver, second_receiver = recv(chan), recv(chan)
        receivers = [await pyloop.spawn(first_receiver), await pyloop.spawn(second_receiver)]
        await settle()
        assert chan._receiver is first_receiver
        assert chan._sender is None
        await chan.send("three")
        assert chan._receiver is second_receiver
        await chan.send("four")
        assert chan._receiver is None
        assert [await task for task in receivers] == ["three", "four"]

    pyloop.run(root())


# --- send_nowait, recv_nowait --------------------------------------------------------------------


def test_send_nowait_fills_the_buffer_and_then_raises() -> None:
    async def root() -> None:
        chan = pyloop.Channel(2)
        chan.send_nowait("a")
        chan.send_nowait("b")
        with pytest.raises(asyncio.QueueFull):
            chan.send_nowait("c")
        assert len(chan) == 2
        assert chan.recv_nowait() == "a"
        assert chan.recv_nowait() == "b"
        with pytest.raises(asyncio.QueueEmpty):
            chan.recv_nowait()

    pyloop.run(root())


def test_send_nowait_to_a_waiting_receiver() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        with pytest.raises(asyncio.QueueFull):
            chan.send_nowait("nobody is there")
        receivers = [await pyloop.spawn(chan.recv()) for _ in range(2)]
        await settle()
        chan.send_nowait("a")
        chan.send_nowait("b")
        with pytest.raises(asyncio.QueueFull):
            chan.send_nowait("c")
        assert [await task for task in receivers] == ["a", "b"]

    pyloop.run(root())


@pytest.mark.parametrize("capacity", [0, 2])
def test_recv_nowait_takes_from_waiting_senders_in_order(capacity: int) -> None:
    async def root() -> None:
        chan = pyloop.Channel(capacity)
        with pytest.raises(asyncio.QueueEmpty):
            chan.recv_nowait()
        senders = [await pyloop.spawn(chan.send(number)) for number in range(5)]
        await settle()
        assert [chan.recv_nowait() for _ in range(5)] == list(range(5))
        with pytest.raises(asyncio.QueueEmpty):
            chan.recv_nowait()
        for task in senders:
            await task

    pyloop.run(root())


def test_nowait_outside_of_any_loop() -> None:
    chan = pyloop.Channel(1)
    chan.send_nowait("value")
    with pytest.raises(asyncio.QueueFull):
        chan.send_nowait("one too many")
    assert chan.recv_nowait() == "value"
    with pytest.raises(asyncio.QueueEmpty):
        chan.recv_nowait()


# --- close -------------------------------------------------------------------------------------


def test_close_wakes_waiting_receivers_with_channel_closed() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        receivers = [await pyloop.spawn(chan.recv()) for _ in range(3)]
        await settle()
        chan.close()
        for task in receivers:
            with pytest.raises(pyloop.ChannelClosed):
                await task

    pyloop.run(root())


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_wakes_waiting_senders_and_keeps_what_is_buffered(capacity: int) -> None:
    async def root() -> None:
        chan = pyloop.Channel(capacity)
        for number in range(capacity):
            await chan.send(number)
        senders = [await pyloop.spawn(chan.send("late")) for _ in range(3)]
        await settle()
        chan.close()
        for task in senders:
            with pytest.raises(pyloop.ChannelClosed):
                await task
        for number in range(capacity):
            assert await chan.recv() == number
        with pytest.raises(pyloop.ChannelClosed):
            await chan.recv()

    pyloop.run(root())


def test_a_closed_channel_refuses() -> None:
    async def root() -> None:
        chan = pyloop.Channel(3)
        chan.close()
        with pytest.raises(pyloop.ChannelClosed):
            await chan.send(1)
        with pytest.raises(pyloop.ChannelClosed):
            chan.send_nowait(1)
        with pytest.raises(pyloop.ChannelClosed):
            await chan.recv()
        with pytest.raises(pyloop.ChannelClosed):
            chan.recv_nowait()
        chan.close()

    pyloop.run(root())
    assert issubclass(pyloop.ChannelClosed, Exception)


class Named(pyloop.Channel[Any]):
    """As one subclasses asyncio.Queue: some arguments are the subclass's own."""

    def __init__(self, name: str, *, capacity: int = 0) -> None:
        super().__init__(capacity)
        self.name = name


class Rendezvous(pyloop.Channel[Any]):
    """With an __init__ that leaves the channel's alone."""

    def __init__(self, name: str) -> None:
        self.name = name


class Doubled(pyloop.Channel[Any]):
    """With a __new__ instead: the arguments are taken there, and not once more."""

    def __new__(cls, name: str, capacity: int) -> Doubled:
        return super().__new__(cls, 2 * capacity)


def test_a_subclass_has_an_init_of_its_own() -> None:
    named = Named("orders", capacity=2)
    assert (named.name, named.capacity) == ("orders", 2)
    named.send_nowait(1)
    assert named.recv_nowait() == 1
    plain = Rendezvous("plain")
    assert (plain.name, plain.capacity) == ("plain", 0)
    assert Doubled("doubled", 3).capacity == 6
    with pytest.raises(ValueError, match="capacity must be between 0 and 2147483647, got -1"):
        Named("orders", capacity=-1)


def test_the_capacity_of_a_subclass_stays_while_it_is_in_use() -> None:
    async def root() -> None:
        chan = Named("orders", capacity=1)
        chan.send_nowait("kept")
        sender = await pyloop.spawn(chan.send("waits"))
        await settle()
        with pytest.raises(RuntimeError, match="is in use: its capacity stays as it is"):
            pyloop.Channel.__init__(chan, 0)
        assert (chan.capacity, await chan.recv(), await chan.recv()) == (1, "kept", "waits")
        await sender

    pyloop.run(root())


def test_recv_nowait_of_what_is_left_after_close() -> None:
    async def root() -> None:
        chan = pyloop.Channel(2)
        chan.send_nowait("left")
        chan.close()
        assert chan.recv_nowait() == "left"
        with pytest.raises(pyloop.ChannelClosed):
            chan.recv_nowait()

    pyloop.run(root())


@pytest.mark.parametrize("capacity", [0, 1, 5])
def test_async_for_ends_when_the_channel_is_closed(capacity: int) -> None:
    async def sender(chan: pyloop.Channel) -> None:
        for number in range(20):
            await chan.send(number)
        chan.close()

    async def receiver(chan: pyloop.Channel) -> list[int]:
        return [value async for value in chan]

    chan = pyloop.Channel(capacity)
    assert pyloop.run(sender(chan), receiver(chan))[1] == list(range(20))


def test_async_for_that_waits_ends_when_the_channel_is_closed() -> None:
    async def receiver(chan: pyloop.Channel) -> list[int]:
        return [value async for value in chan]

    async def root() -> None:
        chan = pyloop.Channel()
        tasks = [await pyloop.spawn(receiver(chan)) for _ in range(3)]
        await settle()
        chan.close()
        assert [await task for task in tasks] == [[], [], []]

    pyloop.run(root())


def test_several_async_for_share_the_values() -> None:
    async def receiver(chan: pyloop.Channel) -> list[int]:
        got = []
        async for value in chan:
            got.append(value)
            await pyloop.pause()
        return got

    async def sender(chan: pyloop.Channel) -> None:
        for number in range(30):
            await chan.send(number)
        chan.close()

    chan = pyloop.Channel()
    results = pyloop.run(*(receiver(chan) for _ in range(3)), sender(chan))
    shares = results[:3]
    assert sorted(sum(shares, [])) == list(range(30))
    assert all(share == sorted(share) and share for share in shares)


# --- cancellation ------------------------------------------------------------------------------


def test_a_cancelled_recv_takes_nothing() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        first = await pyloop.spawn(chan.recv())
        second = await pyloop.spawn(chan.recv())
        await settle()
        first.cancel()
        await chan.send("value")
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == "value"
        assert chan._receiver is None

    pyloop.run(root())


def test_a_cancelled_send_delivers_nothing() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        first = await pyloop.spawn(chan.send("first"))
        second = await pyloop.spawn(chan.send("second"))
        await settle()
        first.cancel()
        await settle()
        assert await chan.recv() == "second"
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(asyncio.QueueEmpty):
            chan.recv_nowait()

    pyloop.run(root())


def test_a_cancelled_send_to_a_full_channel_leaves_the_buffer_alone() -> None:
    async def root() -> None:
        chan = pyloop.Channel(1)
        await chan.send("buffered")
        waiting = await pyloop.spawn(chan.send("cancelled"))
        last = await pyloop.spawn(chan.send("last"))
        await settle()
        waiting.cancel()
        await settle()
        assert await chan.recv() == "buffered"
        assert await chan.recv() == "last"
        await last
        assert len(chan) == 0

    pyloop.run(root())


@pytest.mark.parametrize("kind", ["pyloop", "asyncio"])
def test_a_value_handed_over_in_the_turn_of_the_cancellation_is_not_lost(kind: str) -> None:
    async def receive(chan: pyloop.Channel, got: list[Any]) -> None:
        got.append(await chan.recv())

    async def root() -> None:
        chan = pyloop.Channel()
        got: list[Any] = []
        coro = receive(chan, got)
        receiver = asyncio.create_task(coro) if kind == "asyncio" else await pyloop.spawn(coro)
        await settle()
        chan.send_nowait("value")
        receiver.cancel()
        await settle()
        rest: list[Any] = []
        late = await pyloop.spawn(receive(chan, rest))
        await settle()
        late.cancel()
        await settle()
        assert got + rest == ["value"]

    pyloop.run(root())


def test_an_operation_that_waits_or_has_ended_cannot_become_another_task() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        operation = chan.recv()
        task = await pyloop.spawn(operation)
        await settle()
        with pytest.raises(RuntimeError, match="is being awaited already"):
            pyloop.spawn(operation)
        chan.send_nowait("value")
        assert await task == "value"
        with pytest.raises(RuntimeError, match="has already ended"):
            pyloop.spawn(operation)

    pyloop.run(root())


async def receive_by_event(chan: pyloop.Channel) -> Any:
    @types.coroutine
    def event() -> Generator[Any, Any, Any]:
        return (yield (pyloop.Event.ChanRecv, chan))

    return await event()


def test_a_receiver_by_event_that_is_cancelled_passes_its_turn_on() -> None:
    async def receive(chan: pyloop.Channel, got: list[Any]) -> None:
        got.append(await receive_by_event(chan))

    async def root() -> None:
        chan = pyloop.Channel()
        got: list[Any] = []
        first = await pyloop.spawn(receive(chan, got))
        second = await pyloop.spawn(receive(chan, got))
        await settle()
        chan.send_nowait("value")
        first.cancel()
        await settle()
        assert got == ["value"]
        assert second.done()
        assert chan._receiver is None

    pyloop.run(root())


@pytest.mark.parametrize("capacity", [0, 1])
def test_a_receiver_by_event_that_is_cancelled_leaves_a_value_that_was_there(
    capacity: int,
) -> None:
    async def root() -> None:
        chan = pyloop.Channel(capacity)
        sender = await pyloop.spawn(chan.send("value"))
        await settle()
        receiver = await pyloop.spawn(receive_by_event(chan))
        await pyloop.pause()
        receiver.cancel()
        await settle()
        assert receiver.cancelled()
        assert sender.done() is (capacity > 0)
        assert await chan.recv() == "value"

    pyloop.run(root())


def test_a_receiver_by_event_that_is_closed_with_its_loop_leaves_the_channel() -> None:
    chan = pyloop.Channel()

    def receive() -> Generator[Any, Any, None]:
        yield (pyloop.Event.ChanRecv, chan)

    loop = pyloop.EventLoop()
    loop.set_exception_handler(lambda *_: None)
    with contextlib.closing(loop):
        loop.create_task(receive())
        loop.run_until_complete(settle())
        chan.send_nowait("value")
    assert chan._receiver is None
    assert chan.recv_nowait() == "value"


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.booleans()),
        st.tuples(st.just("recv"), st.booleans()),
        st.tuples(st.just("send_nowait"), st.just(False)),
        st.tuples(st.just("recv_nowait"), st.just(False)),
        st.tuples(st.just("cancel sender"), st.integers(0, 5)),
        st.tuples(st.just("cancel receiver"), st.integers(0, 5)),
        st.tuples(st.just("pause"), st.integers(1, 3)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(operations=OPERATIONS, capacity=st.integers(0, 3))
def test_any_interleaving_delivers_each_value_once_and_in_order(
    operations: list[tuple[str, int]], capacity: int
) -> None:
    async def root() -> None:
        chan = pyloop.Channel(capacity)
        order: list[int] = []
        received: list[int] = []
        accepted: set[int] = set()
        cancelled: set[int] = set()
        cancelled_in_time: set[int] = set()
        senders: dict[int, Any] = {}
        receivers: list[Any] = []
        started = 0

        async def send(value: int) -> None:
            order.append(value)
            try:
                await chan.send(value)
            except asyncio.CancelledError:
                cancelled.add(value)
                raise
            accepted.add(value)

        async def recv() -> None:
            received.append(await chan.recv())

        async def start(coro: Any, asyncio_kind: int) -> Any:
            return asyncio.create_task(coro) if asyncio_kind else await pyloop.spawn(coro)

        for name, argument in operations:
            if name == "send":
                senders[started] = await start(send(started), argument)
                started += 1
            elif name == "recv":
                receivers.append(await start(recv(), argument))
            elif name == "send_nowait":
                try:
                    chan.send_nowait(started)
                except asyncio.QueueFull:
                    pass
                else:
                    order.append(started)
                    accepted.add(started)
                    started += 1
            elif name == "recv_nowait":
                try:
                    received.append(chan.recv_nowait())
                except asyncio.QueueEmpty:
                    pass
            elif name == "cancel sender" and senders:
                value = list(senders)[argument % len(senders)]
                if senders[value].cancel() and value not in received:
                    cancelled_in_time.add(value)
            elif name == "cancel receiver" and receivers:
                receivers[argument % len(receivers)].cancel()
            elif name == "pause":
                await settle(argument)

        await settle()
        for task in receivers:
            task.cancel()
        await settle()
        while True:
            try:
                received.append(chan.recv_nowait())
            except asyncio.QueueEmpty:
                break
            await settle()
        await settle()
        assert all(task.done() for task in [*senders.values(), *receivers])

        assert len(set(received)) == len(received), "a value was delivered twice"
        assert accepted <= set(received), "a value was lost"
        assert set(range(started)) - accepted <= cancelled | cancelled_in_time
        assert received == [value for value in order if value in received], "one overtook another"
        if capacity == 0:
            # A value in the buffer is sent, whatever its sender learns of it.
            arrived = cancelled_in_time & set(received) - accepted
            assert not arrived, "a value arrived whose send was cancelled before it was taken"

    pyloop.run(root())


@settings(deadline=None, max_examples=200)
@given(operations=OPERATIONS, capacity=st.integers(0, 3))
def test_settled_interleavings_follow_a_queue(
    operations: list[tuple[str, int]], capacity: int
) -> None:
    """With the loop at rest after each step, the channel does what a plain model does."""

    async def root() -> None:
        chan = pyloop.Channel(capacity)
        got: dict[int, int] = {}
        expected: dict[int, int] = {}
        waiting_values: list[int] = []
        waiting_receivers: list[int] = []
        senders: dict[int, Any] = {}
        receivers: dict[int, Any] = {}
        values = 0

        async def recv(number: int) -> None:
            got[number] = await chan.recv()

        def match() -> None:
            while waiting_values and waiting_receivers:
                expected[waiting_receivers.pop(0)] = waiting_values.pop(0)

        for name, argument in operations:
            if name in ("send", "send_nowait"):
                senders[values] = await pyloop.spawn(chan.send(values))
                waiting_values.append(values)
                values += 1
            elif name in ("recv", "recv_nowait"):
                number = len(receivers)
                receivers[number] = await pyloop.spawn(recv(number))
                waiting_receivers.append(number)
            elif name == "cancel sender" and len(waiting_values) > capacity:
                blocked = waiting_values[capacity:]
                value = blocked[argument % len(blocked)]
                senders[value].cancel()
                waiting_values.remove(value)
            elif name == "cancel receiver" and waiting_receivers:
                number = waiting_receivers[argument % len(waiting_receivers)]
                receivers[number].cancel()
                waiting_receivers.remove(number)
            match()
            await settle()
            assert got == expected
            assert len(chan) == min(capacity, len(waiting_values))
            for value, task in senders.items():
                assert task.done() == (value not in waiting_values[capacity:])
            heads = (chan._sender is not None, chan._receiver is not None)
            assert heads == (len(waiting_values) > capacity, bool(waiting_receivers))

        for task in [*senders.values(), *receivers.values()]:
            task.cancel()
        await settle()

    pyloop.run(root())
