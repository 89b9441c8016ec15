"""pyloop.Selector: a selectors.BaseSelector in C."""

from __future__ import annotations

import abc
import asyncio
import collections.abc
import contextlib
import errno
import gc
import math
import os
import selectors
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import small_heap, socketpair, while_collecting

import pyloop

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def selector(backend: str) -> Iterator[pyloop.Selector]:
    with pyloop.Selector(backend) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socketpair()
    with left, right:
        yield left, right


@contextlib.contextmanager
def pairs(n: int) -> Iterator[list[Pair]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(n):
            left, right = socketpair()
            stack.enter_context(left)
            stack.enter_context(right)
            made.append((left, right))
        yield made


class Unfriendly:
    """An object whose fileno() does not do what one expects."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fileno(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def __repr__(self) -> str:
        return "<unfriendly>"


def wait_until_waiting(thread: threading.Thread, selector: pyloop.Selector) -> None:
    """Until `thread` is inside select(): a second one is refused."""
    deadline = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < deadline:
        try:
            selector.select(0)
        except RuntimeError:
            return
    pytest.fail("the thread never waited")


# --- what it is ---


def test_it_is_a_base_selector(selector: pyloop.Selector) -> None:
    assert isinstance(selector, selectors.BaseSelector)
    assert issubclass(pyloop.Selector, selectors.BaseSelector)
    assert pyloop.Selector.__mro__ == (pyloop.Selector, object)


def test_the_interface_is_whole() -> None:
    names = {name for name in dir(selectors.BaseSelector) if not name.startswith("_")}
    assert names <= set(dir(pyloop.Selector))


def test_backend(backend: str) -> None:
    with pyloop.Selector() as by_environment, pyloop.Selector(backend=backend) as by_name:
        assert by_environment.backend == by_name.backend == backend
        assert repr(by_name) == f"<pyloop.Selector {backend}, 0 registered>"
    assert by_name.backend is None
    assert repr(by_name) == "<pyloop.Selector closed>"


@pytest.mark.parametrize("name", ["", "select", "EPOLL"])
def test_no_such_backend(name: str) -> None:
    with pytest.raises(ValueError, match=f"got '{name}'"):
        pyloop.Selector(name)


def test_backend_of_another_type() -> None:
    with pytest.raises(TypeError):
        pyloop.Selector(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pyloop.Selector("epoll", "poll")  # type: ignore[call-arg]


def test_fileno_is_there_where_the_poller_has_one(pair: Pair) -> None:
    with pyloop.Selector("epoll") as selector, selectors.SelectSelector() as outer:
        outer.register(selector, READ)
        assert outer.select(0) == []
        selector.register(pair[0], WRITE)
        assert [key.fileobj for key, _ in outer.select(0)] == [selector]
    with pytest.raises(ValueError, match="closed"):
        selector.fileno()
    with pyloop.Selector("poll") as selector:
        assert not hasattr(selector, "fileno")


def test_attributes_can_be_set(selector: pyloop.Selector) -> None:
    selector.owner = "me"  # type: ignore[attr-defined]
    assert vars(selector) == {"owner": "me"}


def test_the_type_is_immutable() -> None:
    with pytest.raises(TypeError):
        pyloop.Selector.register = None  # type: ignore[assignment, method-assign]


def test_a_subclass(pair: Pair) -> None:
    class Counting(pyloop.Selector):
        closed = 0

        def close(self) -> None:
            self.closed += 1
            super().close()

    with Counting() as selector:
        selector.register(pair[0], WRITE)
        assert len(selector.select(0)) == 1
        assert isinstance(selector, selectors.BaseSelector)
    assert selector.closed == 1


def test_without_init() -> None:
    selector = pyloop.Selector.__new__(pyloop.Selector)
    with pytest.raises(ValueError, match="not initialised"):
        selector.register(0, READ)
    with pytest.raises(ValueError, match="not initialised"):
        selector.select(0)
    with pytest.raises(KeyError):
        selector.unregister(0)
    with pytest.raises(RuntimeError):
        selector.get_key(0)
    assert selector.get_map() is None
    selector.close()


def test_init_twice(selector: pyloop.Selector) -> None:
    with pytest.raises(RuntimeError, match="initialised already"):
        selector.__init__()  # type: ignore[misc]


# --- registering ---


def test_key(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], READ | WRITE, "data")
    assert type(key) is selectors.SelectorKey
    assert tuple(key) == (pair[0], pair[0].fileno(), READ | WRITE, "data")
    assert key.fileobj is pair[0]
    assert hash(key._replace(data=None)) == hash((pair[0], pair[0].fileno(), READ | WRITE, None))
    assert selector.get_key(pair[0]) is key
    assert selector.get_key(pair[0].fileno()) is key
    assert selector.unregister(pair[0]) is key
    assert selector.register(fileobj=pair[0], events=READ, data=1).data == 1


@pytest.mark.parametrize("events", [0, 4, 7, -1, 1 << 70, None, False])
def test_invalid_events(selector: pyloop.Selector, pair: Pair, events: Any) -> None:
    selector.register(pair[1], READ)
    for call in (selector.register, selector.modify):
        with pytest.raises(ValueError, match=r"Invalid events: "):
            call(pair[1], events)
    assert selector.get_key(pair[1]).events == READ
    with pytest.raises(TypeError):
        selector.register(pair[0], "read")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fileobj",
    [
        object(),
        None,
        "stdin",
        1.0,
        Unfriendly(AttributeError()),
        Unfriendly(TypeError()),
        Unfriendly(ValueError()),
        Unfriendly(None),
    ],
)
def test_no_file_object(selector: pyloop.Selector, fileobj: Any) -> None:
    calls: list[Any] = [
        lambda: selector.register(fileobj, READ),
        lambda: selector.unregister(fileobj),
        lambda: selector.modify(fileobj, READ),
        lambda: selector.get_key(fileobj),
        lambda: selector.get_map()[fileobj],
        lambda: fileobj in selector.get_map(),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="Invalid file object: ") as caught:
            call()
        assert caught.value.__context__ is None


def test_other_errors_of_fileno_pass(selector: pyloop.Selector) -> None:
    with pytest.raises(ZeroDivisionError):
        selector.register(Unfriendly(ZeroDivisionError()), READ)


def test_fileno_may_be_anything_that_int_takes(selector: pyloop.Selector, pair: Pair) -> None:
    class Number:
        def __int__(self) -> int:
            return pair[0].fileno()

    key = selector.register(Unfriendly(Number()), READ)
    assert key.fd == pair[0].fileno()


def test_negative_and_huge_numbers(selector: pyloop.Selector) -> None:
    for negative in (-1, -(1 << 40), -(1 << 70)):
        with pytest.raises(ValueError, match=f"Invalid file descriptor: {negative}"):
            selector.register(negative, READ)
    with pytest.raises(OSError):
        selector.register((1 << 31) - 1, READ)
    for huge in (1 << 31, 1 << 40, 1 << 70):
        with pytest.raises(OverflowError):
            selector.register(huge, READ)
        with pytest.raises(KeyError):
            selector.unregister(huge)
        assert huge not in selector.get_map()
    assert len(selector.get_map()) == 0


def test_registered_already(selector: pyloop.Selector, pair: Pair) -> None:
    selector.register(pair[0], READ)
    with pytest.raises(KeyError) as caught:
        selector.register(pair[0].fileno(), WRITE)
    fd = pair[0].fileno()
    assert caught.value.args == (f"{fd} (FD {fd}) is already registered",)


def test_not_registered(selector: pyloop.Selector, pair: Pair) -> None:
    calls: list[Any] = [
        lambda: selector.unregister(pair[0]),
        lambda: selector.modify(pair[0], READ),
        lambda: selector.get_key(pair[0]),
        lambda: selector.get_map()[pair[0]],
    ]
    for call in calls:
        with pytest.raises(KeyError) as caught:
            call()
        assert caught.value.args == (f"{pair[0]!r} is not registered",)


def test_a_closed_descriptor_is_refused(selector: pyloop.Selector) -> None:
    left, right = socketpair()
    fd = left.fileno()
    left.close()
    right.close()
    with pytest.raises(OSError) as caught:
        selector.register(fd, READ)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        selector.register(left, READ)


def test_a_regular_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        with pyloop.Selector("epoll") as selector:
            with pytest.raises(PermissionError):
                selector.register(file, READ)
            assert file not in selector.get_map()
        with pyloop.Selector("poll") as selector:
            key = selector.register(file, READ)
            assert selector.select(0) == [(key, READ)]


def test_a_closed_socket_is_found_by_search(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], READ)
    other = selector.register(pair[1], READ)
    pair[0].close()
    assert selector.get_key(pair[0]) is key
    assert selector.get_map()[pair[0]] is key
    assert selector.unregister(pair[0]) is key
    with pytest.raises(ValueError):
        selector.unregister(pair[0])
    assert list(selector.get_map().values()) == [other]


def test_modify(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], READ, "a")
    assert selector.modify(pair[0], READ, "a") is key
    assert selector.select(0) == []
    key = selector.modify(pair[0].fileno(), WRITE, "b")
    assert key == (pair[0], pair[0].fileno(), WRITE, "b")
    assert selector.get_key(pair[0]) is key
    assert selector.select(0) == [(key, WRITE)]
    assert selector.modify(pair[0], WRITE).data is None


def test_modify_takes_equal_data_that_is_not_the_same(
    selector: pyloop.Selector, pair: Pair
) -> None:
    first: list[int] = []
    second: list[int] = []
    selector.register(pair[0], READ, first)
    assert selector.modify(pair[0], READ, second).data is second


def test_a_modify_that_fails_unregisters(selector: pyloop.Selector) -> None:
    left, right = socketpair()
    with right:
        fd = left.fileno()
        selector.register(fd, READ)
        left.close()
        with pytest.raises(OSError):
            selector.modify(fd, WRITE)
        assert fd not in selector.get_map()


def test_a_reused_number(selector: pyloop.Selector) -> None:
    """What was registered under the number before is forgotten with its unregister()."""
    with pairs(1) as made:
        new, peer = made[0]
        left, right = socketpair()
        selector.register(left, READ)
        number = left.fileno()
        duplicate = left.dup()  # keeps the open file, and with epoll the old registration
        left.close()
        with right, duplicate:
            selector.unregister(left)
            os.dup2(new.fileno(), number)
            try:
                key = selector.register(number, READ)
                right.send(b"for the old one")
                assert selector.select(0) == []
                peer.send(b"for the new one")
                assert selector.select(0) == [(key, READ)]
            finally:
                os.close(number)


# --- selecting ---


def test_events_are_masked(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], READ)
    assert selector.select(0) == []
    pair[1].send(b"x")
    assert selector.select(0) == [(key, READ)]
    key = selector.modify(pair[0], READ | WRITE)
    assert selector.select(0) == [(key, READ | WRITE)]


def test_a_hang_up_is_what_was_asked_for(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], WRITE)
    pair[1].close()
    assert selector.select(0) == [(key, WRITE)]


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5, -math.inf, False])
def test_no_wait(selector: pyloop.Selector, pair: Pair, timeout: float) -> None:
    selector.register(pair[0], READ)
    assert selector.select(timeout) == []


def test_no_limit(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], WRITE)
    for timeout in (None, math.inf, 1e300, 10**15):
        assert selector.select(timeout) == [(key, WRITE)]
    assert selector.select(timeout=None) == [(key, WRITE)]


@pytest.mark.parametrize("timeout", ["1", b"", object(), []])
def test_timeout_of_another_type(selector: pyloop.Selector, timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout must be a real number or None"):
        selector.select(timeout)


def test_timeout_is_a_number(selector: pyloop.Selector) -> None:
    with pytest.raises(ValueError, match="NaN"):
        selector.select(math.nan)


@pytest.mark.parametrize("seconds", [1e-9, 0.0001, 0.0015, 0.02])
def test_never_early(selector: pyloop.Selector, pair: Pair, seconds: float) -> None:
    selector.register(pair[0], READ)
    start = time.monotonic_ns()
    assert selector.select(seconds) == []
    assert time.monotonic_ns() - start >= seconds * 1e9


@pytest.mark.parametrize("n", [1, 100, 1500])
def test_all_that_is_ready_in_one_list(selector: pyloop.Selector, n: int) -> None:
    with pairs(n) as made:
        keys = [selector.register(left, READ) for left, _ in made]
        for _, right in made:
            right.send(b"x")
        for _ in range(3):
            ready = selector.select(0)
            assert len(ready) == n
            assert sorted(key.fd for key, _ in ready) == sorted(key.fd for key in keys)
        made[0][0].recv(1)
        assert len(selector.select(0)) == n - 1


def test_a_signal_handler_runs_and_the_wait_goes_on(selector: pyloop.Selector) -> None:
    came: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        start = time.monotonic()
        assert selector.select(0.1) == []
        assert time.monotonic() - start >= 0.1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert came


def test_a_signal_handler_may_raise_and_close(selector: pyloop.Selector, pair: Pair) -> None:
    selector.register(pair[0], READ)

    def close_it(number: int, frame: Any) -> None:
        selector.close()
        raise ZeroDivisionError

    old = signal.signal(signal.SIGALRM, close_it)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(ZeroDivisionError):
            selector.select(60)
        signal.signal(signal.SIGALRM, lambda number, frame: other.close())
        with pyloop.Selector(os.environ["PYLOOP_BACKEND"]) as other:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert other.select(60) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert selector.get_map() is None


# --- the map ---


def test_map(selector: pyloop.Selector) -> None:
    mapping = selector.get_map()
    assert isinstance(selector.get_map(), collections.abc.Mapping)
    assert selector.get_map() is mapping
    assert not mapping
    with pairs(3) as made:
        socks = [made[2][0], made[0][0], made[1][0]]
        keys = [selector.register(sock, READ) for sock in socks]
        fds = [sock.fileno() for sock in socks]
        assert len(mapping) == 3
        assert list(mapping) == list(mapping.keys()) == fds
        assert list(mapping.values()) == keys
        assert list(mapping.items()) == list(zip(fds, keys, strict=True))
        assert mapping[socks[0]] is mapping[fds[0]] is mapping.get(socks[0]) is keys[0]
        assert socks[0] in mapping
        assert socks[0] in mapping.keys()
        assert keys[0] in mapping.values()
        assert made[0][1] not in mapping
        assert mapping.get(made[0][1]) is None
        assert mapping.get(made[0][1], default=5) == 5
        assert mapping == dict(mapping)
        assert dict(mapping) == mapping
        assert mapping != {}
        assert mapping.__eq__(3) is NotImplemented
        assert repr(mapping) == f"<SelectorMap {dict(mapping)!r}>"
        with pytest.raises(TypeError):
            hash(mapping)


def test_map_is_read_only(selector: pyloop.Selector, pair: Pair) -> None:
    mapping: Any = selector.get_map()
    key = selector.register(pair[0], READ)
    with pytest.raises(TypeError):
        mapping[pair[0]] = key
    with pytest.raises(TypeError):
        del mapping[pair[0]]
    for name in ("clear", "pop", "update", "setdefault"):
        assert not hasattr(mapping, name)
    with pytest.raises(TypeError):
        type(mapping)()


def test_map_changes_while_it_is_iterated(selector: pyloop.Selector, pair: Pair) -> None:
    selector.register(pair[0], READ)
    with pytest.raises(RuntimeError):
        for _ in selector.get_map():
            selector.register(pair[1], READ)


def test_map_outlives_the_selector(backend: str, pair: Pair) -> None:
    selector = pyloop.Selector(backend)
    mapping = selector.get_map()
    selector.register(pair[0], READ)
    selector.close()
    assert len(mapping) == 0
    assert pair[0] not in mapping
    del selector
    with pytest.raises(KeyError):
        mapping[pair[0]]


# --- closing ---


def test_closed(backend: str, pair: Pair) -> None:
    selector = pyloop.Selector(backend)
    selector.register(pair[0], READ)
    selector.close()
    selector.close()
    assert selector.get_map() is None
    with pytest.raises(RuntimeError, match="Selector is closed"):
        selector.get_key(pair[0])
    with pytest.raises(ValueError, match="closed selector"):
        selector.register(pair[0], READ)
    with pytest.raises(ValueError, match="closed selector"):
        selector.select(0)
    with pytest.raises(KeyError):
        selector.unregister(pair[0])
    with pytest.raises(KeyError):
        selector.modify(pair[0], WRITE)


def test_data_that_closes_the_selector_when_it_dies(backend: str, pair: Pair) -> None:
    class Closes:
        def __init__(self, selector: pyloop.Selector) -> None:
            self.selector = selector

        def __del__(self) -> None:
            self.selector.close()

    for how in ("modify", "unregister", "close"):
        selector = pyloop.Selector(backend)
        selector.register(pair[0], WRITE, Closes(selector))
        selector.register(pair[1], WRITE, None)
        if how == "modify":
            selector.modify(pair[0], WRITE, None)
        elif how == "unregister":
            selector.unregister(pair[0])
        else:
            selector.close()
        assert selector.get_map() is None


def test_garbage_collection_in_the_middle(backend: str) -> None:
    """Collections that run inside register, modify and select change the selector."""
    with pairs(30) as made, pyloop.Selector(backend) as selector:

        class Meddles:
            def __init__(self, sock: socket.socket) -> None:
                self.sock = sock
                self.me = self

            def __del__(self) -> None:
                with contextlib.suppress(KeyError):
                    selector.unregister(self.sock)

        old = gc.get_threshold()
        gc.set_threshold(1, 1, 1)
        try:
            for _ in range(20):
                for left, _right in made:
                    Meddles(left)
                    with contextlib.suppress(KeyError):
                        selector.register(left, WRITE)
                    with contextlib.suppress(KeyError):
                        selector.modify(left, READ | WRITE, object())
                for key, events in selector.select(0):
                    assert events == WRITE
                    assert key.events & WRITE
        finally:
            gc.set_threshold(*old)
        gc.collect()
        assert {key.fd for key, _ in selector.select(0)} == set(selector.get_map())


def test_registered_anew_by_the_collector_while_it_is_modified(
    selector: pyloop.Selector, pair: Pair
) -> None:
    """The key that goes is found no more by what its end runs."""
    mine, _ = pair
    found: list[Any] = []

    class Data:
        def __del__(self) -> None:
            with contextlib.suppress(KeyError):
                found.append(selector.get_key(mine).data)

    def register_anew() -> None:
        selector.unregister(mine)
        selector.register(mine, selectors.EVENT_READ, Data())

    with small_heap():
        selector.register(mine, selectors.EVENT_READ)
        while_collecting(lambda: selector.modify(mine, selectors.EVENT_WRITE, "new"), register_anew)
        gc.collect()
    selector.unregister(mine)
    assert set(found) <= {"new"}


# --- references ---


def test_collected_with_its_cycle(backend: str, pair: Pair) -> None:
    selector = pyloop.Selector(backend)
    selector.register(pair[0], READ, selector)
    selector.mapping = selector.get_map()  # type: ignore[attr-defined]
    gone = weakref.ref(selector)
    map_gone = weakref.ref(selector.get_map())
    del selector
    gc.collect()
    assert gone() is None
    assert map_gone() is None


def test_no_cycle_without_data(backend: str) -> None:
    gc.disable()
    try:
        selector = pyloop.Selector(backend)
        gone = weakref.ref(selector)
        selector.get_map()
        del selector
        assert gone() is None
    finally:
        gc.enable()


def test_references_are_given_back(selector: pyloop.Selector, pair: Pair) -> None:
    data = object()
    left, right = pair
    right.send(b"x")

    def use() -> None:
        selector.register(left, READ, data)
        selector.modify(left, READ | WRITE, data)
        selector.modify(left, READ, None)
        selector.modify(left, READ, data)
        selector.select(0)
        selector.get_key(left)
        assert left in selector.get_map()
        with contextlib.suppress(KeyError):
            selector.register(left, READ, data)
        with contextlib.suppress(ValueError):
            selector.register(data, READ)  # type: ignore[arg-type]
        selector.unregister(left)
        with contextlib.suppress(KeyError):
            selector.unregister(left)

    use()
    watched = (data, left, selector, pyloop.Selector, selectors.SelectorKey)
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(100):
        use()
    assert [sys.getrefcount(thing) for thing in watched] == before


def test_memory_stays_flat(backend: str) -> None:
    def use() -> None:
        with pyloop.Selector(backend) as selector, pairs(4) as made:
            for left, right in made:
                selector.register(left, READ | WRITE, [])
                selector.register(right, READ, selector)
            selector.select(0)
            selector.get_map().items()

    def measure(rounds: int) -> tuple[int, int]:
        for _ in range(rounds):
            use()
        gc.collect()
        return sys.getallocatedblocks(), sys.getrefcount(pyloop.Selector)

    measure(300)  # the interpreter's own caches fill first
    before = measure(1)
    after = measure(300)
    assert after[0] - before[0] < 100
    assert after[1] - before[1] < 100


# --- threads ---


def start_waiting(
    selector: pyloop.Selector, timeout: float
) -> tuple[threading.Thread, list[list[Any]]]:
    results: list[list[Any]] = []
    thread = threading.Thread(target=lambda: results.append(selector.select(timeout)))
    thread.start()
    wait_until_waiting(thread, selector)
    return thread, results


def test_one_select_at_a_time(selector: pyloop.Selector, pair: Pair) -> None:
    key = selector.register(pair[0], READ)
    thread, results = start_waiting(selector, 60)
    with pytest.raises(RuntimeError, match="another select"):
        selector.select(0)
    pair[1].send(b"x")
    thread.join()
    assert results == [[(key, READ)]]
    assert selector.select(0) == [(key, READ)]


def test_register_while_another_thread_waits(backend: str, pair: Pair) -> None:
    with pyloop.Selector(backend) as selector:
        selector.register(pair[0], READ)
        thread, results = start_waiting(selector, 60)
        key = selector.register(pair[1], WRITE)
        if backend == "poll":  # which learns of it when the wait is over
            pair[1].send(b"x")
        thread.join()
        assert [key.fileobj for key, _ in results[0]] == [pair[backend == "epoll"]]
        selector.unregister(pair[0])
        assert selector.select(0) == [(key, WRITE)]


def test_change_everything_while_another_thread_waits(backend: str) -> None:
    with pyloop.Selector(backend) as selector, pairs(40) as made:
        wake, waker = made[0]
        selector.register(wake, READ)
        dropped, _ = made[1]
        selector.register(dropped, READ)
        thread, results = start_waiting(selector, 60)
        with pytest.raises(OSError) as caught:
            selector.register((1 << 31) - 1, READ)
        assert caught.value.errno == errno.EBADF
        for left, _right in made[2:]:
            selector.register(left, READ)
        for left, _right in made[2:20]:
            selector.unregister(left)
        for left, _right in made[20:]:
            selector.modify(left, READ, "modified")
        selector.unregister(dropped)
        waker.send(b"x")
        thread.join()
        assert [key.fileobj for key, _ in results[0]] == [wake]
        for _left, right in made:
            right.send(b"x")
        expected = {left.fileno() for left, _ in [made[0], *made[20:]]}
        assert {key.fd for key, _ in selector.select(0)} == set(selector.get_map()) == expected


def test_close_while_another_thread_waits(backend: str) -> None:
    selector = pyloop.Selector(backend)
    left, right = socketpair()
    with left, right:
        selector.register(left, READ)
        thread, results = start_waiting(selector, 60)
        selector.close()
        assert selector.get_map() is None
        with pytest.raises(ValueError, match="closed"):
            selector.select(0)
        with pytest.raises(ValueError, match="closed"):
            selector.register(left, READ)
        right.send(b"x")
        thread.join()
        assert results == [[]]


def test_many_threads_at_once(selector: pyloop.Selector) -> None:
    done = threading.Event()
    problems: list[BaseException] = []

    def churn(left: socket.socket) -> None:
        try:
            for i in range(300):
                selector.register(left, WRITE if i % 2 else READ)
                selector.modify(left, READ | WRITE, i)
                selector.unregister(left)
        except BaseException as error:
            problems.append(error)

    def select() -> None:
        try:
            while not done.is_set():
                for key, events in selector.select(0.001):
                    assert events & key.events
        except BaseException as error:
            problems.append(error)

    with pairs(4) as made:
        waiter = threading.Thread(target=select)
        waiter.start()
        threads = [threading.Thread(target=churn, args=(left,)) for left, _ in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        waiter.join()
    assert problems == []
    assert len(selector.get_map()) == 0


# --- in asyncio ---


def test_asyncio_runs_on_it(selector: pyloop.Selector) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> list[bytes]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            lines = []
            for word in (b"one\n", b"two\n", b"x" * 50000 + b"\n"):
                writer.write(word)
                lines.append(await reader.readline())
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.001)
        return lines

    loop = asyncio.SelectorEventLoop(selector)
    try:
        lines = loop.run_until_complete(asyncio.wait_for(main(), 30))
        assert lines == [b"one\n", b"two\n", b"x" * 50000 + b"\n"]
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert selector.get_map() is None


def test_registered_through_the_metaclass() -> None:
    """Not by inheritance: an immutable C type may not have a Python class as a base."""
    assert type(selectors.BaseSelector) is abc.ABCMeta
    assert selectors.BaseSelector not in pyloop.Selector.__mro__
