"""Selector beside the standard library's: the same calls give the same answers."""

from __future__ import annotations

import random
import selectors
import socket
from collections.abc import Callable
from typing import Any

from model_support import few_and_many, play
from support import drain_socket, fill_socket, socketpair

import pyloop

STEPS = 80
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Driver:
    def __init__(self, chance: random.Random, trace: list[str], ours: Any, theirs: Any) -> None:
        self.chance = chance
        self.trace = trace
        self.ours = ours
        self.theirs = theirs
        self.map = ours.get_map()
        self.their_map = theirs.get_map()
        self.pairs = [self.new_pair() for _ in range(5)]

    def new_pair(self) -> list[socket.socket]:
        pair = list(socketpair())
        for sock in pair:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return pair

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                self.chance.choice(self.OPERATIONS)(self)
                self.compare_maps()
        finally:
            for pair in self.pairs:
                for sock in pair:
                    sock.close()

    def both(self, name: str, call: Callable[[Any], Any]) -> Any:
        """The same call on both: the same result, or the same exception."""
        self.trace.append(name)
        answers = []
        for selector in (self.ours, self.theirs):
            try:
                answers.append((call(selector), None))
            except Exception as exc:
                answers.append((None, (type(exc), exc.args)))
        (ours, our_error), (theirs, their_error) = answers
        if our_error is None or their_error is None:
            assert our_error == their_error
        else:
            assert our_error[0] is their_error[0]
            if issubclass(our_error[0], OSError):
                assert our_error[1][0] == their_error[1][0]  # errno
            elif our_error[0] is KeyError:
                assert our_error[1] == their_error[1]
        assert ours == theirs
        return ours

    def compare_maps(self) -> None:
        assert (self.ours.get_map() is None) == (self.theirs.get_map() is None)
        assert len(self.map) == len(self.their_map)
        # In the same order: that in which they were registered.
        assert list(self.map) == list(self.their_map)
        assert list(self.map.values()) == list(self.their_map.values())
        fileobj = self.fileobj()
        self.both(f"is {fileobj} there", lambda selector: fileobj in selector.get_map())

    def fileobj(self) -> Any:
        dice = self.chance.random()
        if dice < 0.02:
            # 100,000: closed, which poll() alone does not refuse.
            bad = (-1, "text", None, object(), 100_000)
            return self.chance.choice(bad if self.ours.backend == "epoll" else bad[:-1])
        sock = self.chance.choice(self.chance.choice(self.pairs))
        return sock.fileno() if dice < 0.3 else sock

    def events(self) -> int:
        return self.chance.choice((READ, WRITE, READ | WRITE))

    # --- the operations ---

    def register(self) -> None:
        fileobj, events, data = self.fileobj(), self.events(), self.data()
        if self.chance.random() < 0.03:
            events = self.chance.choice((0, 4, 7, -1))  # theirs does not ask in modify()
        self.both(
            f"register {fileobj} {events} {data}",
            lambda selector: selector.register(fileobj, events, data),
        )

    def data(self) -> Any:
        return self.chance.choice((None, 1, (1, 2), "x"))

    def modify(self) -> None:
        fileobj, events, data = self.fileobj(), self.events(), self.data()
        self.both(
            f"modify {fileobj} {events} {data}",
            lambda selector: selector.modify(fileobj, events, data),
        )

    def unregister(self) -> None:
        self.unregister_it(self.fileobj())

    def get_key(self) -> None:
        fileobj = self.fileobj()
        self.both(f"get_key {fileobj}", lambda selector: selector.get_key(fileobj))
        self.both(f"map[{fileobj}]", lambda selector: selector.get_map()[fileobj])

    def select(self) -> None:
        timeout = self.chance.choice((0, -1, 0.0))
        self.both("select", lambda selector: by_descriptor(selector.select(timeout)))

    def make_readable(self) -> None:
        left, right = self.chance.choice(self.pairs)
        self.trace.append(f"send to {left}")
        try:
            right.send(b"x")
        except BlockingIOError:
            pass

    def drain(self) -> None:
        left, _ = self.chance.choice(self.pairs)
        self.trace.append(f"drain {left}")
        drain_socket(left)

    def fill(self) -> None:
        left, right = self.chance.choice(self.pairs)
        self.trace.append(f"fill {left}")
        fill_socket(left)

    def hang_up(self) -> None:
        """What a peer that is gone makes of a socket, and then its unregistering."""
        pair = self.chance.choice(self.pairs)
        left, right = pair
        self.trace.append(f"hang up {right}")
        right.shutdown(socket.SHUT_RDWR)
        self.select()
        self.end(pair)

    def end(self, pair: list[socket.socket]) -> None:
        for sock in pair:
            if sock.fileno() >= 0 and sock in self.map:
                self.unregister_it(sock)
            sock.close()
        pair[:] = self.new_pair()

    def unregister_it(self, fileobj: Any) -> None:
        self.both(f"unregister {fileobj}", lambda selector: selector.unregister(fileobj))

    def close_while_registered(self) -> None:
        """It is found by a search for the object."""
        left, right = pair = self.chance.choice(self.pairs)
        if left in self.map and self.map[left].fileobj is not left:
            # By its number alone nobody could find it.
            self.unregister_it(left)
        self.trace.append(f"close {left}")
        left.close()
        self.both("its key", lambda selector: selector.get_key(left))
        self.unregister_it(left)
        self.end(pair)

    OPERATIONS = (
        *(register,) * 4,
        *(modify,) * 3,
        *(unregister,) * 2,
        *(select,) * 4,
        *(get_key, make_readable, make_readable, drain, fill, hang_up, close_while_registered),
    )


def by_descriptor(ready: list[tuple[selectors.SelectorKey, int]]) -> Any:
    return sorted(ready, key=lambda pair: pair[0].fd)


THEIRS = {"epoll": selectors.EpollSelector, "poll": selectors.PollSelector}


def one_round(chance: random.Random, trace: list[str], backend: str) -> int:
    with pyloop.Selector(backend) as ours, THEIRS[backend]() as theirs:
        Driver(chance, trace, ours, theirs).run()
    return STEPS


@few_and_many
def test_the_selector_answers_as_the_standard_librarys(operations: int, backend: str) -> None:
    play(lambda chance, trace: one_round(chance, trace, backend), operations)
