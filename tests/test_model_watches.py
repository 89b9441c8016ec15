"""The table of (reader, writer) pairs against a plain model, under random operations."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import selectors
import socket
from collections.abc import Callable
from typing import Any

import pytest
from model_support import few_and_many, play
from support import drain_socket, fill_socket, socketpair

import pyloop

STEPS = 80
READ, WRITE = 0, 1
Side = int


class Watcher:
    """Whoever is on one side of a socket: a callback or a task."""

    def __init__(self, number: int, side: Side) -> None:
        self.number = number
        self.side = side
        self.handle: Any = None
        self.task: Any = None
        self.calls = 0
        self.outcome: str | None = None


class Place:
    """A socket in the model: what it is ready for, and who waits for that."""

    def __init__(self, *, by_number: bool = False) -> None:
        self.by_number = by_number  # the loop never sees the object
        self.sock, self.peer = socketpair()
        for sock in (self.sock, self.peer):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.ready = [False, True]
        self.waiting: list[Watcher | None] = [None, None]


class Driver:
    def __init__(self, chance: random.Random, trace: list[str], loop: pyloop.EventLoop) -> None:
        self.chance = chance
        self.trace = trace
        self.loop: Any = loop
        self.places = [Place(by_number=by_number) for by_number in (False, False, True)]
        self.n_watchers = 0
        self.open_files: list[socket.socket] = []

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                place = self.chance.choice(self.places)
                step, n = self.chance.choice(self.STEPS)
                self.trace.append(f"{step.__name__} {self.places.index(place)} {n}")
                step(self, place, n)
                # What is not looked at yet may change once more.
                if self.chance.random() < 0.7:
                    self.rest()
            self.rest()
        finally:
            for place in self.places:
                for watcher in place.waiting:
                    if watcher is not None and watcher.task is not None:
                        watcher.task.cancel()
            self.turns()
            for place in self.places:
                self.loop.close_socket(place.sock)
                place.peer.close()
            for sock in self.open_files:
                sock.close()
            self.turns()

    def turns(self) -> None:
        for _ in range(5):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def rest(self) -> None:
        """Let everything happen that can, and compare."""
        callbacks = [
            watcher
            for place in self.places
            for watcher in place.waiting
            if watcher is not None and watcher.handle is not None
        ]
        for watcher in callbacks:
            watcher.calls = 0
        self.turns()
        for place in self.places:
            for side in (READ, WRITE):
                watcher = place.waiting[side]
                if watcher is None:
                    continue
                if watcher.handle is not None:
                    assert (watcher.calls > 0) == place.ready[side], self.text(place, side)
                elif place.ready[side]:
                    assert watcher.outcome == "ready", self.text(place, side)
                    place.waiting[side] = None
                else:
                    assert watcher.outcome is None, self.text(place, side)
        for place in self.places:
            for asked in (place.sock, place.sock.fileno()):
                for watcher, found in zip(place.waiting, self.loop._waiters(asked), strict=True):
                    if watcher is None:
                        assert found is None
                    elif watcher.handle is not None:
                        assert found is watcher.handle
                    else:
                        assert type(found).__name__ == "Operation"

    def name(self, place: Place, side: Side) -> socket.socket | int:
        """What stands for it. A bare number names what the loop knows under it already."""
        known = place.waiting[1 - side] is not None
        if place.by_number or (known and self.chance.random() < 0.5):
            return place.sock.fileno()
        return place.sock

    def text(self, place: Place, side: Side) -> str:
        watcher = place.waiting[side]
        assert watcher is not None
        return f"place {self.places.index(place)}, {('reader', 'writer')[side]} {watcher.number}"

    # --- the operations ---

    def wait(self, place: Place, side: Side) -> None:
        """A task that waits; the second one on a side is refused."""
        watcher = self.new(side)
        if place.waiting != [None, None]:
            # What it would meet may be over before it comes.
            self.rest()
        taken = place.waiting[side] is not None
        target = self.name(place, side)
        wait = pyloop.wait_writable if side == WRITE else pyloop.wait_readable
        coro = self.waiter(watcher, wait, target)
        if self.chance.random() < 0.5:
            watcher.task = self.loop.create_task(coro)
        else:
            watcher.task = self.loop._create_native_task(coro)
        if not taken:
            place.waiting[side] = watcher
            if isinstance(target, int):
                self.rest()  # or what the number is known by may be gone before it waits
            return
        self.rest()
        assert watcher.outcome == "refused"

    async def waiter(self, watcher: Watcher, wait: Callable[[Any], Any], target: Any) -> None:
        try:
            await wait(target)
            watcher.outcome = "ready"
        except asyncio.CancelledError:
            watcher.outcome = "cancelled"
        except RuntimeError:
            watcher.outcome = "refused"
        except OSError as exc:
            watcher.outcome = "closed" if exc.errno == errno.EBADF else repr(exc)

    def cancel(self, place: Place, side: Side) -> None:
        self.rest()
        watcher = place.waiting[side]
        if watcher is not None and watcher.task is not None:
            place.waiting[side] = None
            watcher.task.cancel()
            self.turns()
            assert watcher.outcome == "cancelled"

    def add(self, place: Place, side: Side) -> None:
        """A callback takes the place of another one, but not of a task."""
        self.rest()
        old = place.waiting[side]
        watcher = self.new(side)
        target = self.name(place, side)
        add = self.loop._add_writer if side == WRITE else self.loop._add_reader
        try:
            watcher.handle = add(target, self.called, watcher)
        except RuntimeError:
            assert old is not None
            assert old.task is not None
            return
        assert old is None or old.handle is not None
        assert old is None or old.handle.cancelled()
        place.waiting[side] = watcher

    def called(self, watcher: Watcher) -> None:
        assert not watcher.handle.cancelled()
        watcher.calls += 1

    def remove(self, place: Place, side: Side) -> None:
        old = place.waiting[side]
        removed = (self.loop.remove_writer if side == WRITE else self.loop.remove_reader)(
            place.sock
        )
        assert removed == (old is not None and old.handle is not None)
        if removed:
            assert old is not None
            assert old.handle.cancelled()
            place.waiting[side] = None

    def cancel_handle(self, place: Place, side: Side) -> None:
        """A cancelled handle is not called; it stays until it is removed."""
        old = place.waiting[side]
        if old is not None and old.handle is not None:
            old.handle.cancel()
            calls = old.calls
            self.turns()
            assert old.calls == calls
            self.remove(place, side)

    def make_ready(self, place: Place, side: Side) -> None:
        if side == WRITE:
            drain_socket(place.peer)
        else:
            try:
                place.peer.send(b"x")
            except BlockingIOError:
                pass  # full, so it can be read from
        place.ready[side] = True

    def make_unready(self, place: Place, side: Side) -> None:
        # A task that waits for it may have seen it, or not.
        self.rest()
        if side == WRITE:
            fill_socket(place.sock)
        else:
            drain_socket(place.sock)
        place.ready[side] = False

    def close_socket(self, place: Place, side: Side) -> None:
        """Waiting tasks learn of it, callbacks are dropped, and the number is free again."""
        self.rest()
        self.loop.close_socket(place.sock)
        self.check_end(place, "closed")
        self.replace(place)

    def close_behind_its_back(self, place: Place, side: Side) -> None:
        """The number goes to a new socket, whose waiters are not taken for the old one's."""
        self.rest()
        if place.by_number and place.waiting != [None, None]:
            return  # nobody can know
        number = place.sock.fileno()
        place.sock.close()
        new = Place(by_number=place.by_number)
        if new.peer.fileno() == number:
            new.sock, new.peer = new.peer, new.sock
        elif new.sock.fileno() != number:
            moved = socket.socket(fileno=os.dup2(new.sock.fileno(), number))
            moved.setblocking(False)
            new.sock.close()
            new.sock = moved
        place.peer.close()
        self.places[self.places.index(place)] = new
        old, place.waiting = place.waiting, [None, None]
        if old == [None, None]:
            return
        # The first who waits for the new one by the object tells the loop.
        side = READ if old[WRITE] is None else WRITE
        watcher = self.new(side)
        wait = pyloop.wait_writable if side == WRITE else pyloop.wait_readable
        watcher.task = self.loop.create_task(self.waiter(watcher, wait, new.sock))
        new.waiting[side] = watcher
        self.turns()
        for gone in old:
            if gone is not None and gone.task is not None:
                # By the end of the old file, or by the first look at the new one.
                assert gone.outcome in ("closed", "ready")
            elif gone is not None:
                calls = gone.calls
                self.turns()
                assert gone.calls == calls

    def check_end(self, place: Place, outcome: str) -> None:
        old, place.waiting = place.waiting, [None, None]
        for watcher in old:
            if watcher is not None:
                watcher.calls = 0
        self.turns()
        for watcher in old:
            if watcher is not None and watcher.task is not None:
                assert watcher.outcome == outcome
            elif watcher is not None:
                assert watcher.calls == 0

    def replace(self, place: Place) -> None:
        place.peer.close()
        self.places[self.places.index(place)] = Place(by_number=place.by_number)

    def new(self, side: Side) -> Watcher:
        self.n_watchers += 1
        return Watcher(self.n_watchers, side)

    STEPS = [
        (step, side)
        for step in (
            *(wait, wait, add, add, remove, cancel, cancel_handle),
            *(make_ready, make_ready, make_unready, make_unready),
            *(close_socket, close_behind_its_back),
        )
        for side in (READ, WRITE)
    ]


LOOPS: dict[str, Callable[[], pyloop.EventLoop]] = {
    "epoll": lambda: pyloop.EventLoop(backend="epoll"),
    "poll": lambda: pyloop.EventLoop(backend="poll"),
    "own Selector": lambda: pyloop.EventLoop(selector=pyloop.Selector()),
    "EpollSelector": lambda: pyloop.EventLoop(selector=selectors.EpollSelector()),
    "PollSelector": lambda: pyloop.EventLoop(selector=selectors.PollSelector()),
}


def one_round(chance: random.Random, trace: list[str], kind: str) -> int:
    loop = LOOPS[kind]()
    try:
        Driver(chance, trace, loop).run()
    finally:
        loop.close()
    return STEPS


@few_and_many
@pytest.mark.parametrize("kind", LOOPS)
def test_the_watches_are_their_model(operations: int, kind: str) -> None:
    play(lambda chance, trace: one_round(chance, trace, kind), operations)
