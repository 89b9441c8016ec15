"""Bad input: a precise exception, the loop still usable, nothing leaked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from face_support import Reports, pair, settle
from support import drain_socket, listener

import pyloop

NAN = float("nan")

Call = Callable[[socket.socket], Any]


def address(sock: Any) -> Any:
    """Where nobody listens, of the socket's family."""
    return "/none" if getattr(sock, "family", None) == socket.AF_UNIX else ("127.0.0.1", 9)


# A call of every kind that takes a socket, on a socket that is good but for what the test does.
SOCKET_CALLS: dict[str, Callable[[Any], Any]] = {
    "accept": lambda sock: pyloop.accept(sock),
    "connect": lambda sock: pyloop.connect(sock, address(sock)),
    "recv": lambda sock: pyloop.recv(sock),
    "recv_into": lambda sock: pyloop.recv_into(sock, bytearray(10)),
    "recvfrom": lambda sock: pyloop.recvfrom(sock, 10),
    "send": lambda sock: pyloop.send(sock, b"x"),
    "sendall": lambda sock: pyloop.sendall(sock, b"x"),
    "sendto": lambda sock: pyloop.sendto(sock, b"x", address(sock)),
    "wait_readable": lambda sock: pyloop.wait_readable(sock),
    "wait_writable": lambda sock: pyloop.wait_writable(sock),
    "lines": lambda sock: pyloop.lines(sock).__anext__(),
}


async def call(make: Callable[[], Any]) -> Any:
    """Make the call and await it: it may refuse at either moment."""
    return await make()


def check(make: Callable[[], Any], error: Any, match: str | None = None) -> None:
    """The call raises in a task of either kind, and the loop works afterwards."""

    async def root() -> None:
        with pytest.raises(error, match=match):
            await call(make)
        with pytest.raises(error, match=match):
            await asyncio.create_task(call(make))
        await still_usable()

    pyloop.run(root())


async def still_usable() -> None:
    await pyloop.pause()
    await pyloop.sleep(0.0001)
    with pair() as (left, right):
        await pyloop.sendall(right, b"works")
        assert await pyloop.recv(left) == b"works"


# --- sockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOCKET_CALLS)
@pytest.mark.parametrize("value", [None, "socket", 1.5, object(), b"", []], ids=repr)
def test_what_is_not_a_socket(name: str, value: Any) -> None:
    check(lambda: SOCKET_CALLS[name](value), TypeError)


class Unpresentable(int):
    """Neither a socket nor a number that is good for anything, and without a repr."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise KeyError("no repr")


BAD = Unpresentable(-1)
TOO_LONG = -(10**5000)  # Python refuses to make text of it

REFUSED: dict[str, tuple[Callable[[socket.socket], Any], Any]] = {
    "socket": (lambda sock: pyloop.recv(BAD), TypeError),  # type: ignore[arg-type]
    "long socket": (lambda sock: pyloop.recv("x" * 10**6), TypeError),  # type: ignore[arg-type]
    "size": (lambda sock: pyloop.recv(sock, TOO_LONG), ValueError),
    "seconds": (lambda sock: pyloop.sleep(TOO_LONG), ValueError),
    "bad seconds": (lambda sock: pyloop.sleep(BAD), ValueError),
    "descriptor": (lambda sock: pyloop.wait_readable(TOO_LONG), ValueError),
    "bad descriptor": (lambda sock: pyloop.wait_writable(BAD), ValueError),
    "coroutine": (lambda sock: pyloop.spawn(BAD), TypeError),  # type: ignore[arg-type]
    "name": (lambda sock: pyloop.spawn(pyloop.pause(), name=BAD), TypeError),  # type: ignore[arg-type]
    "capacity": (lambda sock: pyloop.Channel(TOO_LONG), ValueError),
    "max_line": (lambda sock: pyloop.lines(sock, max_line=TOO_LONG), ValueError),
    "encoding": (lambda sock: pyloop.lines(sock, encoding=BAD), TypeError),  # type: ignore[arg-type]
    "address": (lambda sock: pyloop.connect(sock, BAD), TypeError),  # type: ignore[arg-type]
}


@pytest.mark.filterwarnings("ignore:pyloop operation 'pause' was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_cannot_be_shown_does_not_hide_the_error(name: str) -> None:
    make, error = REFUSED[name]
    with pair() as (left, _), pytest.raises(error) as caught:
        make(left)
    assert "Exceeds the limit" not in str(caught.value)
    assert len(str(caught.value)) < 2000
    gc.collect()


@pytest.mark.parametrize("name", sorted(set(SOCKET_CALLS) - {"wait_readable", "wait_writable"}))
def test_a_descriptor_number_is_not_a_socket(name: str) -> None:
    with pair() as (left, _):
        number = left.fileno()
        check(lambda: SOCKET_CALLS[name](number), TypeError)


@pytest.mark.parametrize("name", SOCKET_CALLS)
def test_a_closed_socket(name: str, backend: str) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()

    async def root() -> None:
        for _ in range(2):
            with pytest.raises((OSError, ValueError)):
                await call(lambda: SOCKET_CALLS[name](sock))
        await still_usable()

    pyloop.run(root(), backend=backend)


@pytest.mark.parametrize("name", sorted(set(SOCKET_CALLS) - {"connect", "sendto"}))
def test_a_socket_closed_between_the_call_and_the_await(name: str, backend: str) -> None:
    async def root() -> None:
        with listener() if name == "accept" else socket.socket() as sock:
            sock.setblocking(False)
            operation = SOCKET_CALLS[name](sock)
            sock.close()
            with pytest.raises((OSError, ValueError)):
                await operation
        await still_usable()

    pyloop.run(root(), backend=backend)


@pytest.mark.parametrize("number", [-1, -100, 1 << 40, 1 << 80], ids=str)
@pytest.mark.parametrize("wait", [pyloop.wait_readable, pyloop.wait_writable])
def test_a_number_that_is_no_descriptor(number: int, wait: Any) -> None:
    check(lambda: wait(number), (ValueError, OSError, OverflowError))


@pytest.mark.parametrize("wait", [pyloop.wait_readable, pyloop.wait_writable])
def test_a_descriptor_that_is_closed(wait: Any, backend: str) -> None:
    async def root() -> None:
        # Closed only here: the loop's own descriptors would take the free numbers.
        reading, writing = os.pipe()
        os.close(reading)
        os.close(writing)
        with pytest.raises((ValueError, OSError)):
            await wait(reading)
        await still_usable()

    pyloop.run(root(), backend=backend)


class BadFileno:
    def __init__(self, result: Any) -> None:
        self.result = result

    def fileno(self) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ("3", TypeError),
        (None, TypeError),
        (2.0, TypeError),
        (-1, (ValueError, OSError)),
        (KeyError("mine"), KeyError),
    ],
    ids=repr,
)
def test_a_fileno_that_misbehaves(result: Any, error: Any) -> None:
    check(lambda: pyloop.wait_readable(BadFileno(result)), error)


@pytest.mark.parametrize("name", ["accept", "connect", "connect by name"])
def test_a_blocking_socket_that_cannot_be_served(name: str) -> None:
    with listener() as listening, socket.socket() as client:
        where = listening.getsockname()
        sock = listening if name == "accept" else client
        sock.setblocking(True)
        calls: dict[str, Callable[[], Any]] = {
            "accept": lambda: pyloop.accept(sock),
            "connect": lambda: pyloop.connect(sock, where),
            "connect by name": lambda: pyloop.connect(sock, ("localhost", where[1])),
        }
        check(calls[name], ValueError, match="block")
        assert sock.getblocking()
        assert sock.gettimeout() is None


def test_sockets_with_a_timeout_are_served() -> None:
    """To the system they are non-blocking: Python does the waiting, and we do not ask it to."""

    async def root() -> None:
        with listener() as listening, socket.socket() as client:
            listening.settimeout(5)
            client.settimeout(5)
            task = await pyloop.spawn(pyloop.accept(listening))
            await settle()
            assert not task.done()
            await pyloop.connect(client, listening.getsockname())
            conn, _ = await task
            with conn:
                await pyloop.sendall(client, b"hello")
                assert await pyloop.recv(conn) == b"hello"
            assert listening.gettimeout() == client.gettimeout() == 5

    pyloop.run(root())


@pytest.mark.parametrize("name", ["recv", "send", "sendall", "lines"])
def test_a_socket_that_is_not_connected(name: str, backend: str) -> None:
    async def root() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(OSError):
                await SOCKET_CALLS[name](sock)
        await still_usable()

    pyloop.run(root(), backend=backend)


def test_accept_on_what_does_not_listen() -> None:
    with pair() as (left, _):
        check(lambda: pyloop.accept(left), OSError)


# --- other arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recv", "recvfrom"])
@pytest.mark.parametrize(
    ("size", "error"),
    [
        (-1, ValueError),
        (-(1 << 70), ValueError),
        (1 << 70, OverflowError),
        ("10", TypeError),
        (10.0, TypeError),
        (None, TypeError),
    ],
    ids=repr,
)
def test_bad_sizes(name: str, size: Any, error: Any) -> None:
    with pair() as (left, right):
        right.send(b"kept")
        named = rf"^{name}\(\): bufsize must .*{re.escape(repr(size))}"
        check(lambda: getattr(pyloop, name)(left, size), error, named)
        assert drain_socket(left) == b"kept"


@pytest.mark.parametrize("data", ["text", None, 42, [1, 2], object()], ids=repr)
@pytest.mark.parametrize("name", ["send", "sendall", "sendto"])
def test_data_that_is_no_buffer(name: str, data: Any) -> None:
    with pair() as (left, right):
        arguments = (left, data, "address") if name == "sendto" else (left, data)
        kind = type(data).__name__
        match = rf"^{name}\(\): a bytes-like object is required, not '{kind}'"
        check(lambda: getattr(pyloop, name)(*arguments), TypeError, match)
        assert drain_socket(right) == b""


def test_data_that_is_no_buffer_is_refused_before_a_name_is_looked_up() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with pytest.raises(TypeError, match=r"^sendto\(\): a bytes-like object is required"):
            pyloop.sendto(sock, "text", ("no-such-host.invalid", 9))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "buffer", [b"constant", memoryview(b"constant"), "text", None, 10], ids=repr
)
def test_recv_into_what_cannot_be_written(buffer: Any) -> None:
    with pair() as (left, right):
        right.send(b"kept")
        check(lambda: pyloop.recv_into(left, buffer), (TypeError, BufferError))
        assert drain_socket(left) == b"kept"


@pytest.mark.parametrize(
    "address",
    [None, 42, "not for inet", ("127.0.0.1",), ("127.0.0.1", "80x"), ("127.0.0.1", 70000), ()],
    ids=repr,
)
def test_bad_addresses(address: Any) -> None:
    async def root() -> None:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.setblocking(False)
            datagram.setblocking(False)
            with pytest.raises((TypeError, ValueError, OverflowError, OSError)):
                await call(lambda: pyloop.connect(stream, address))
            with pytest.raises((TypeError, ValueError, OverflowError, OSError)):
                await call(lambda: pyloop.sendto(datagram, b"x", address))
        await still_usable()

    pyloop.run(root())


@pytest.mark.parametrize("make", [pyloop.sleep], ids=["sleep"])
@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (-1, ValueError),
        (-0.001, ValueError),
        (NAN, ValueError),
        (-float("inf"), ValueError),
        ("1", TypeError),
        (None, TypeError),
        (1j, TypeError),
        ([], TypeError),
    ],
    ids=repr,
)
def test_bad_sleeps(make: Any, seconds: Any, error: Any) -> None:
    check(lambda: make(seconds), error)


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (-1, ValueError),
        (-Fraction(10**400), ValueError),
        (NAN, ValueError),
        ("1", TypeError),
        (1j, TypeError),
        ([], TypeError),
    ],
    ids=repr,
)
def test_bad_timeouts(seconds: Any, error: Any) -> None:
    async def limited() -> None:
        async with pyloop.timeout(seconds):
            pytest.fail("the block was entered")

    check(limited, error)


class Index:
    def __index__(self) -> int:
        return 3600


@pytest.mark.parametrize(
    "seconds",
    [3600, 3600.0, True, Fraction(7200, 2), Decimal(3600), Index(), 10**400, Fraction(10**400)],
    ids=repr,
)
def test_timeout_takes_the_numbers_that_sleep_takes(seconds: Any) -> None:
    async def root() -> None:
        pyloop.sleep(seconds).close()
        async with pyloop.timeout(seconds) as limit:
            when = limit.when()
        assert when is not None
        assert when > asyncio.get_running_loop().time()

    pyloop.run(root())


@pytest.mark.parametrize(
    ("capacity", "error"),
    [(-1, ValueError), ("1", TypeError), (1.5, TypeError), (None, TypeError)],
    ids=repr,
)
def test_bad_capacities(capacity: Any, error: Any) -> None:
    with pytest.raises(error):
        pyloop.Channel(capacity)
    with pytest.raises(error):
        pyloop.Channel(capacity=capacity)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"encoding": 42}, TypeError),
        ({"encoding": None}, TypeError),
        ({"encoding": "no-such-encoding"}, LookupError),
        ({"max_line": -1}, ValueError),
        ({"max_line": 0}, ValueError),
        ({"max_line": "10"}, TypeError),
        ({"max_line": 1.5}, TypeError),
        ({"max_line": None}, TypeError),
        ({"separator": "\r\n"}, TypeError),
    ],
    ids=repr,
)
def test_bad_options_of_lines(options: dict[str, Any], error: Any) -> None:
    with pair() as (left, _):
        check(lambda: pyloop.lines(left, **options).__anext__(), error)


@pytest.mark.parametrize(
    "make",
    [
        lambda sock: pyloop.pause(1),
        lambda sock: pyloop.sleep(),
        lambda sock: pyloop.sleep(1, 2),
        lambda sock: pyloop.sleep(secs=1),
        lambda sock: pyloop.recv(),
        lambda sock: pyloop.recv(sock, 1, 2),
        lambda sock: pyloop.recv(sock, 10, bufsize=10),
        lambda sock: pyloop.recv(sock, size=10),
        lambda sock: pyloop.recv_into(sock),
        lambda sock: pyloop.recvfrom(),
        lambda sock: pyloop.send(sock),
        lambda sock: pyloop.send(sock, b"x", 0, 1),
        lambda sock: pyloop.sendall(sock),
        lambda sock: pyloop.sendto(sock, b"x"),
        lambda sock: pyloop.accept(),
        lambda sock: pyloop.accept(sock, sock),
        lambda sock: pyloop.connect(sock),
        lambda sock: pyloop.wait_readable(),
        lambda sock: pyloop.wait_writable(sock, sock),
        lambda sock: pyloop.spawn(),
        lambda sock: pyloop.lines(),
        lambda sock: pyloop.lines(sock, "utf-8"),
        lambda sock: pyloop.timeout(),
        lambda sock: pyloop.Channel(1, 2),
        lambda sock: pyloop.Channel(size=1),
        lambda sock: pyloop.Channel().send(1, 2),
        lambda sock: pyloop.Channel().recv(1),
        lambda sock: pyloop.Channel().send_nowait(1, 2),
    ],
)
def test_wrong_numbers_and_names_of_arguments(make: Call) -> None:
    with pair() as (left, _), pytest.raises(TypeError):
        make(left)


# --- coroutines --------------------------------------------------------------------------------


async def nothing() -> None:
    pass


def generator_function() -> Iterator[None]:
    yield


NOT_COROUTINES = [None, 42, "coro", nothing, len, object(), [], generator_function]


@pytest.mark.parametrize("value", NOT_COROUTINES, ids=repr)
def test_run_takes_coroutines(value: Any) -> None:
    with pytest.raises(TypeError):
        pyloop.run(value)
    other = nothing()
    with pytest.raises(TypeError):
        pyloop.run(other, value)
    # Nothing of a run that is refused was started, or it was closed.
    other.close()
    pyloop.run(still_usable())


@pytest.mark.parametrize("value", NOT_COROUTINES, ids=repr)
def test_spawn_takes_coroutines(value: Any) -> None:
    check(lambda: pyloop.spawn(value), TypeError)


@pytest.mark.parametrize("value", NOT_COROUTINES, ids=repr)
def test_a_loop_takes_coroutines(value: Any) -> None:
    loop = pyloop.EventLoop()
    try:
        with pytest.raises(TypeError):
            loop.run(value)
        with pytest.raises(TypeError):
            loop.create_task(value)
        loop.run(still_usable())
    finally:
        loop.close()


@pytest.mark.parametrize("name", [42, b"bytes", object()], ids=["42", "bytes", "object"])
def test_a_task_name_that_is_no_string(name: Any) -> None:
    # asyncio makes a string of it; a TypeError would be as good. What matters is a usable name.
    async def root() -> None:
        coro = nothing()
        try:
            task = await pyloop.spawn(coro, name=name)
        except TypeError:
            coro.close()
        else:
            assert task.get_name() == str(name)
            await task
        await still_usable()

    pyloop.run(root())


def test_a_coroutine_given_twice_to_run() -> None:
    coro = settle()
    with pytest.raises((RuntimeError, ValueError)):
        pyloop.run(coro, coro)
    coro.close()
    pyloop.run(still_usable())


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_coroutine_that_another_task_runs(turns: int) -> None:
    """Refused at once or when the second task starts; the first is not disturbed."""

    async def counting() -> list[int]:
        seen = []
        for number in range(10):
            seen.append(number)
            await pyloop.sleep(0.0005)
        return seen

    async def root() -> None:
        Reports()
        coro = counting()
        task = await pyloop.spawn(coro)
        await settle(turns)
        with pytest.raises((RuntimeError, ValueError)):
            await (await pyloop.spawn(coro))
        assert await task == list(range(10))
        await still_usable()

    pyloop.run(root())


def test_a_coroutine_that_is_running() -> None:
    async def root() -> None:
        with pytest.raises((RuntimeError, ValueError)):
            await pyloop.spawn(coro)
        await still_usable()

    coro = root()
    pyloop.run(coro)


def test_a_coroutine_that_has_ended() -> None:
    async def root() -> None:
        Reports()
        coro = nothing()
        await coro
        with pytest.raises((RuntimeError, ValueError)):
            await (await pyloop.spawn(coro))
        await still_usable()

    ended = root()
    pyloop.run(ended)
    with pytest.raises((RuntimeError, ValueError)):
        pyloop.run(ended)
    pyloop.run(still_usable())


def test_a_task_is_not_awaited_by_itself() -> None:
    async def root() -> None:
        me: Any = asyncio.current_task()
        with pytest.raises(RuntimeError):
            await me
        await still_usable()

    pyloop.run(root())


def test_run_inside_run() -> None:
    async def root() -> None:
        coro = nothing()
        with pytest.raises(RuntimeError):
            pyloop.run(coro)
        coro.close()
        loop: Any = asyncio.get_running_loop()
        coro = nothing()
        with pytest.raises(RuntimeError):
            loop.run(coro)
        coro.close()
        other = pyloop.EventLoop()
        coro = nothing()
        with pytest.raises(RuntimeError):
            other.run(coro)
        coro.close()
        other.close()
        await still_usable()

    pyloop.run(root())


def test_run_inside_asyncios_run() -> None:
    async def main() -> None:
        coro = nothing()
        with pytest.raises(RuntimeError):
            pyloop.run(coro)
        coro.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "backend_value", ["no-such-backend", "", "epoll\0", 42, b"epoll"], ids=repr
)
def test_a_backend_that_is_none(backend_value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        pyloop.EventLoop(backend=backend_value)
    coro = nothing()
    with pytest.raises((ValueError, TypeError)):
        pyloop.run(coro, backend=backend_value)
    coro.close()


@pytest.mark.parametrize(
    "arguments",
    [{"colour": "red"}, {"backend": "none"}, {"selector": 42}, {"main": 42}],
    ids=str,
)
def test_a_loop_that_was_not_made_is_not_complained_about(arguments: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # in __del__ it would be an unraisable exception
        with pytest.raises((TypeError, ValueError)):
            pyloop.EventLoop(**arguments)
        gc.collect()


def test_a_closed_loop() -> None:
    loop = pyloop.EventLoop()
    loop.close()
    loop.close()
    coro = nothing()
    with pytest.raises(RuntimeError):
        loop.run(coro)
    with pytest.raises(RuntimeError):
        loop.run_until_complete(coro)
    with pytest.raises(RuntimeError):
        loop.call_soon(print)
    coro.close()


def test_closing_a_running_loop() -> None:
    async def root() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop().close()
        await still_usable()

    pyloop.run(root())


@pytest.mark.parametrize("value", [None, 42, "sock", object()], ids=["None", "42", "str", "object"])
def test_close_socket_of_what_is_no_socket(value: Any) -> None:
    async def root() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises((TypeError, ValueError, OSError)):
            loop.close_socket(value)
        await still_usable()

    pyloop.run(root())


# --- another thread, another loop --------------------------------------------------------------


def in_thread(function: Callable[[], None]) -> None:
    """Run it in a thread, and raise here what it raised there."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_another_thread_cannot_run_a_running_loop() -> None:
    async def root() -> None:
        loop: Any = asyncio.get_running_loop()

        def intrude() -> None:
            coro = nothing()
            with pytest.raises(RuntimeError):
                loop.run(coro)
            with pytest.raises(RuntimeError):
                loop.run_until_complete(coro)
            with pytest.raises(RuntimeError):
                loop.close()
            coro.close()

        in_thread(intrude)
        await still_usable()

    pyloop.run(root())


def test_an_awaitable_driven_in_another_thread() -> None:
    async def root() -> None:
        def intrude() -> None:
            with pair() as (left, _):
                for operation in (pyloop.sleep(0), pyloop.recv(left), pyloop.pause()):
                    with pytest.raises(RuntimeError):
                        operation.send(None)
                    operation.close()

        in_thread(intrude)
        await still_usable()

    pyloop.run(root())


def test_two_threads_run_a_loop_each(backend: str) -> None:
    results: list[int] = []

    async def root(number: int) -> int:
        await still_usable()
        await pyloop.sleep(0.001)
        return number

    def body() -> None:
        results.extend(pyloop.run(*(root(number) for number in range(5)), backend=backend))

    threads = [threading.Thread(target=body) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(list(range(5)) * 4)


@pytest.mark.parametrize("side", ["recv", "send"])
def test_a_channel_that_another_running_loop_uses(side: str) -> None:
    chan = pyloop.Channel()

    async def intruder() -> None:
        for operation in (chan.recv, chan.send):
            with pytest.raises(RuntimeError):
                await operation()
        await still_usable()

    async def root() -> None:
        task = await pyloop.spawn(chan.recv() if side == "recv" else chan.send("value"))
        await settle()
        in_thread(lambda: pyloop.run(intruder()))
        # The waiting side was not disturbed.
        assert not task.done()
        if side == "recv":
            await chan.send("value")
            assert await task == "value"
        else:
            assert await chan.recv() == "value"
            await task
        await still_usable()

    pyloop.run(root())


@pytest.mark.parametrize("operation", ["send_nowait", "recv_nowait", "close"])
def test_nowait_on_a_channel_that_another_running_loop_waits_on(operation: str) -> None:
    chan = pyloop.Channel()

    async def root() -> None:
        waiting = chan.recv() if operation == "send_nowait" else chan.send("value")
        task = await pyloop.spawn(waiting)
        await settle()

        def intrude() -> None:
            with pytest.raises(RuntimeError):
                getattr(chan, operation)()

        in_thread(intrude)
        assert not task.done()
        task.cancel()
        await settle()
        await still_usable()

    pyloop.run(root())


def test_a_task_of_another_loop() -> None:
    loop = pyloop.EventLoop()
    tasks: list[Any] = []

    async def owner() -> None:
        tasks.append(await pyloop.spawn(nothing()))
        tasks.append(await pyloop.spawn(settle(1)))

    async def intruder() -> Any:
        # An ended task has its result for everyone.
        await tasks[0]

    try:
        loop.run(owner())
        pyloop.run(intruder())
    finally:
        loop.close()


# --- outside of a pyloop loop ------------------------------------------------------------------


OUTSIDE: dict[str, Callable[[socket.socket], Any]] = {
    **SOCKET_CALLS,
    "pause": lambda sock: pyloop.pause(),
    "sleep": lambda sock: pyloop.sleep(0),
    "channel recv": lambda sock: pyloop.Channel().recv(),
    "channel send": lambda sock: pyloop.Channel().send(1),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_awaited_under_plain_asyncio(name: str) -> None:
    async def main(sock: socket.socket) -> None:
        with pytest.raises(RuntimeError, match="pyloop"):
            await OUTSIDE[name](sock)
        await asyncio.sleep(0)

    with pair() as (left, _):
        asyncio.run(main(left))


def test_spawn_under_plain_asyncio() -> None:
    async def main() -> None:
        coro = nothing()
        with pytest.raises(RuntimeError):
            await pyloop.spawn(coro)
        coro.close()

    asyncio.run(main())


@pytest.mark.parametrize("name", OUTSIDE)
def test_driven_without_any_loop(name: str) -> None:
    with pair() as (left, _):
        operation = OUTSIDE[name](left)
        with pytest.raises(RuntimeError):
            operation.send(None)
        operation.close()


# --- never awaited -----------------------------------------------------------------------------


DROPPED: dict[str, Callable[[socket.socket], Any]] = {
    name: make for name, make in OUTSIDE.items() if name not in ("lines", "connect")
}


@pytest.mark.parametrize("name", DROPPED)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside a task"])
def test_dropped_unawaited(name: str, inside: bool) -> None:
    def drop(sock: socket.socket) -> None:
        with pytest.warns(RuntimeWarning, match="was never awaited"):
            DROPPED[name](sock)

    async def root(sock: socket.socket) -> None:
        drop(sock)
        await still_usable()

    with pair() as (left, _):
        if inside:
            pyloop.run(root(left))
        else:
            drop(left)


@pytest.mark.parametrize("name", DROPPED)
def test_dropped_unawaited_where_an_operation_was_collected_before(name: str) -> None:
    # A collected object's finalizer has run; if it is used again, it must run again.
    with pair() as (left, _):
        for _ in range(50):
            operation = DROPPED[name](left)
            operation.close()
            cycle: list[Any] = [operation]
            cycle.append(cycle)
            del operation, cycle
        gc.collect()
        for _ in range(50):
            with pytest.warns(RuntimeWarning, match="was never awaited"):
                DROPPED[name](left)


def test_a_dropped_spawn() -> None:
    async def root() -> None:
        with pytest.warns(RuntimeWarning, match="was never awaited"):
            pyloop.spawn(nothing())
        await still_usable()

    pyloop.run(root())


@pytest.mark.parametrize("name", DROPPED)
def test_closed_instead_of_awaited(name: str) -> None:
    with warnings.catch_warnings(), pair() as (left, _):
        warnings.simplefilter("error")
        operation = DROPPED[name](left)
        operation.close()
        operation.close()
        with pytest.raises(RuntimeError):
            operation.send(None)
        del operation
        gc.collect()


# --- nothing leaked ----------------------------------------------------------------------------


def test_refused_calls_keep_nothing() -> None:
    class Marked(bytearray):
        pass

    async def root() -> None:
        with pair() as (left, _):
            data = Marked(b"data")
            value = object()
            sock_before = sys.getrefcount(left)
            data_before = sys.getrefcount(data)
            value_before = sys.getrefcount(value)
            chan = pyloop.Channel()
            chan.close()
            holder = await pyloop.spawn(pyloop.recv(left))
            await settle()
            held = sys.getrefcount(left)
            for _ in range(200):
                with contextlib.suppress(ValueError):
                    await call(lambda: pyloop.recv(left, -1))
                with contextlib.suppress(TypeError):
                    await call(lambda: pyloop.recv(left, value))
                with contextlib.suppress(TypeError):
                    await call(lambda: pyloop.send(value, data))
                for make in (pyloop.send, pyloop.sendall, pyloop.recv_into, pyloop.connect):
                    with contextlib.suppress(TypeError):
                        await call(lambda make=make: make(left, value))  # type: ignore[misc]
                for bad in (value, "/" * 200):
                    with contextlib.suppress(TypeError, OSError):
                        await call(lambda bad=bad: pyloop.sendto(left, data, bad))  # type: ignore[misc]
                with contextlib.suppress(TypeError):
                    await call(lambda: pyloop.spawn(value))
                with contextlib.suppress(RuntimeError):
                    await pyloop.recv(left)
                with contextlib.suppress(RuntimeError):
                    await pyloop.recv_into(left, data)
                with contextlib.suppress(pyloop.ChannelClosed):
                    await chan.send(value)
                with contextlib.suppress(pyloop.ChannelClosed):
                    chan.send_nowait(value)
                pyloop.sendall(left, data).close()
            gc.collect()
            assert sys.getrefcount(left) <= held + 1
            assert sys.getrefcount(data) == data_before
            assert sys.getrefcount(value) <= value_before + 1
            holder.cancel()
            await settle()
            del holder
            # The loop may hold the socket while it stays registered, and not more than once.
            assert sys.getrefcount(left) <= sock_before + 2

    pyloop.run(root())
