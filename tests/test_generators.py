"""Generator tasks: generators that yield what they wait for, and make the calls themselves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from face_support import pair, settle
from support import drain_socket, fill_socket

import pyloop
from pyloop import EventLoop, TaskType

Steps = Generator[Any, Any, Any]

READ = [TaskType.TO_READ, "to_read", "read"]
WRITE = [TaskType.TO_WRITE, "to_write", "write"]


@pytest.fixture
def loop(backend: str) -> Iterator[EventLoop]:
    with contextlib.closing(EventLoop(backend=backend)) as loop:
        yield loop


@pytest.fixture
def reports(loop: EventLoop) -> list[BaseException | None]:
    """What the loop's exception handler is told."""
    exceptions: list[BaseException | None] = []
    loop.set_exception_handler(lambda _, context: exceptions.append(context.get("exception")))
    return exceptions


@contextlib.contextmanager
def blocking_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


# --- starting and ending -----------------------------------------------------------------------


def test_main_runs_to_its_end(backend: str) -> None:
    steps: list[int] = []

    def main() -> Steps:
        for step in range(3):
            steps.append(step)
            yield None

    with contextlib.closing(EventLoop(main=main(), backend=backend)) as loop:
        assert loop.run() is None
        assert steps == [0, 1, 2]
        assert loop.run() is None  # there is nothing left to do


def test_positional_as_in_the_seed() -> None:
    ran: list[bool] = []

    def main() -> Steps:
        ran.append(True)
        return
        yield

    with contextlib.closing(EventLoop(main())) as loop:
        loop.run()
    assert ran == [True]


def test_run_takes_generators_and_returns_their_results(loop: EventLoop) -> None:
    def answer(value: int) -> Steps:
        yield None
        return value

    assert loop.run(answer(1)) == 1
    assert loop.run(answer(1), answer(2)) == [1, 2]
    assert pyloop.run(answer(3)) == 3


def test_create_task_before_and_during_the_run(loop: EventLoop) -> None:
    order: list[str] = []

    def child(name: str) -> Steps:
        order.append(name)
        yield None
        order.append(name)

    def parent() -> Steps:
        order.append("parent")
        loop.create_task(child("late"))
        yield None
        order.append("parent")

    loop.create_task(parent())
    loop.create_task(child("early"))
    loop.run()
    assert order == ["parent", "early", "late", "parent", "early", "late"]


def test_create_task_gives_a_task(loop: EventLoop) -> None:
    def child() -> Steps:
        yield None
        return "result"

    generator = child()
    task = loop.create_task(generator, name="nice")
    assert isinstance(task, pyloop.Task)
    assert task.get_name() == "nice"
    assert task.get_coro() is generator
    loop.run()
    assert task.result() == "result"


def test_tasks_take_turns(loop: EventLoop) -> None:
    """The carousel of seeds/004: the first in the queue does a step and goes to its end."""
    order: list[str] = []

    def task(letters: str) -> Steps:
        for letter in letters:
            order.append(letter)
            yield

    for letters in ("abc", "12", "x"):
        loop.create_task(task(letters))
    loop.run()
    assert "".join(order) == "a1xb2c"


@pytest.mark.parametrize("main", [7, "text", [], print, lambda: None, range(3)])
def test_main_that_is_no_generator(main: Any) -> None:
    with pytest.raises(TypeError):
        EventLoop(main=main)


def test_a_running_or_finished_generator_is_refused(loop: EventLoop) -> None:
    refused: list[BaseException] = []

    def main() -> Steps:
        try:
            loop.create_task(generator)
        except RuntimeError as error:
            refused.append(error)
        yield None

    generator = main()
    loop.create_task(generator)
    loop.run()
    assert len(refused) == 1


def test_main_that_never_runs_is_closed_with_the_loop() -> None:
    def main() -> Steps:
        yield None

    generator = main()
    EventLoop(main=generator).close()
    gc.collect()
    with pytest.raises(StopIteration):
        next(generator)


# --- what may be yielded -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", READ, ids=repr)
def test_read(kind: str, loop: EventLoop) -> None:
    received: list[bytes] = []

    def reader(sock: socket.socket) -> Steps:
        while True:
            assert (yield kind, sock) is None
            data = sock.recv(100)
            if not data:
                break
            received.append(data)

    def writer(sock: socket.socket) -> Steps:
        for sent, data in enumerate((b"one", b"two")):
            while len(received) < sent:
                yield None
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    with blocking_pair() as (left, right):
        loop.create_task(reader(left))
        loop.create_task(writer(right))
        loop.run()
    assert received == [b"one", b"two"]


@pytest.mark.parametrize("kind", WRITE, ids=repr)
def test_write(kind: str, loop: EventLoop) -> None:
    order: list[str] = []

    def writer(sock: socket.socket) -> Steps:
        assert (yield kind, sock) is None
        order.append("writable")

    def reader(sock: socket.socket) -> Steps:
        for _ in range(5):
            yield None
        order.append("drain")
        drain_socket(sock)

    with pair() as (left, right):
        fill_socket(left)
        loop.create_task(writer(left))
        loop.create_task(reader(right))
        loop.run()
    assert order == ["drain", "writable"]


def test_descriptor_number(loop: EventLoop) -> None:
    received: list[bytes] = []

    def reader(sock: socket.socket) -> Steps:
        yield "read", sock.fileno()
        received.append(sock.recv(10))

    with blocking_pair() as (left, right):
        loop.create_task(reader(left))
        right.send(b"x")
        loop.run()
    assert received == [b"x"]


def test_reader_and_writer_of_one_socket(loop: EventLoop) -> None:
    order: list[str] = []

    def reader(sock: socket.socket) -> Steps:
        yield TaskType.TO_READ, sock
        order.append("read " + sock.recv(10).decode())

    def writer(sock: socket.socket) -> Steps:
        yield TaskType.TO_WRITE, sock
        order.append("write")

    def other(sock: socket.socket) -> Steps:
        for _ in range(5):
            yield
        drain_socket(sock)
        while order != ["write"]:
            yield
        sock.send(b"x")

    with pair() as (left, right):
        fill_socket(left)
        loop.create_task(reader(left))
        loop.create_task(writer(left))
        loop.create_task(other(right))
        loop.run()
    assert order == ["write", "read x"]


def test_yield_from(loop: EventLoop) -> None:
    """Seeds/004: what a subgenerator yields reaches the loop, its result the delegating one."""

    def read_exactly(sock: socket.socket, length: int) -> Steps:
        data = b""
        while len(data) < length:
            yield "read", sock
            data += sock.recv(length - len(data))
        return data

    def read_message(sock: socket.socket) -> Steps:
        length = yield from read_exactly(sock, 1)
        return (yield from read_exactly(sock, length[0]))

    def reader(sock: socket.socket) -> Steps:
        first = yield from read_message(sock)
        second = yield from read_message(sock)
        return first, second

    def writer(sock: socket.socket) -> Steps:
        for byte in b"\x03one\x05three":
            yield "write", sock
            sock.send(bytes([byte]))

    with blocking_pair() as (left, right):
        task = loop.create_task(reader(left))
        loop.create_task(writer(right))
        loop.run()
        assert task.result() == (b"one", b"three")


WRONG: list[tuple[Callable[[socket.socket], Any], str]] = [
    (lambda sock: 7, "7"),
    (lambda sock: "read", "'read'"),
    (lambda sock: sock, "socket"),
    (lambda sock: (), "()"),
    (lambda sock: ("read",), "('read',)"),
    (lambda sock: ("read", sock, 1), "'read'"),
    (lambda sock: ["read", sock], "['read'"),
    (lambda sock: ("reed", sock), "'reed'"),
    (lambda sock: ("READ", sock), "'READ'"),
    (lambda sock: (b"read", sock), "b'read'"),
    (lambda sock: (1, sock), "1"),
    (lambda sock: (sock, "read"), "socket"),
    (lambda sock: ("to_accept", sock), "'to_accept'"),
]


@pytest.mark.parametrize(("make", "named"), WRONG, ids=[named for _, named in WRONG])
def test_something_else_is_an_error_at_its_yield(
    loop: EventLoop, make: Callable[[socket.socket], Any], named: str
) -> None:
    errors: list[RuntimeError] = []

    def nested(sock: socket.socket) -> Steps:
        try:
            yield make(sock)
        except RuntimeError as error:
            errors.append(error)
        return "goes on"

    def main(sock: socket.socket) -> Steps:
        result = yield from nested(sock)
        yield None
        return result

    with blocking_pair() as (left, right):
        assert loop.run(main(left)) == "goes on"
    assert len(errors) == 1
    assert named in str(errors[0])


@pytest.mark.filterwarnings("ignore:pyloop operation 'sleep' was never awaited:RuntimeWarning")
def test_an_awaitable_that_is_yielded_as_it_is(loop: EventLoop) -> None:
    def main() -> Steps:
        with pytest.raises(RuntimeError, match="yield was used instead of await or yield from"):
            yield pyloop.sleep(0)
        yield from pyloop.sleep(0)
        return "goes on"

    assert loop.run(main()) == "goes on"


@pytest.mark.parametrize("target", [None, "sock", 1.5, object(), -1])
def test_what_is_no_socket_is_an_error_at_its_yield(loop: EventLoop, target: Any) -> None:
    def main() -> Steps:
        with pytest.raises((TypeError, ValueError, OSError)):
            yield "read", target
        return "goes on"

    assert loop.run(main()) == "goes on"


def test_closed_socket_is_an_error_at_its_yield(loop: EventLoop) -> None:
    def main(sock: socket.socket) -> Steps:
        sock.close()
        with pytest.raises((OSError, ValueError)):
            yield "read", sock
        return "goes on"

    with blocking_pair() as (left, right):
        assert loop.run(main(left)) == "goes on"


def test_second_reader_is_refused_and_the_first_undisturbed(loop: EventLoop) -> None:
    received: list[bytes] = []

    def first(sock: socket.socket) -> Steps:
        yield "read", sock
        received.append(sock.recv(10))

    def second(sock: socket.socket, other: socket.socket) -> Steps:
        with pytest.raises(RuntimeError):
            yield "read", sock
        other.send(b"x")

    with blocking_pair() as (left, right):
        loop.create_task(first(left))
        loop.create_task(second(left, right))
        loop.run()
    assert received == [b"x"]


# --- blocking sockets --------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_sockets_are_left_in_their_mode(loop: EventLoop, timeout: float | None) -> None:
    def main(left: socket.socket, right: socket.socket) -> Steps:
        yield TaskType.TO_WRITE, left
        left.send(b"x")
        yield TaskType.TO_READ, right
        assert right.recv(10) == b"x"
        return left.gettimeout(), right.gettimeout(), left.getblocking()

    with blocking_pair() as (left, right):
        left.settimeout(timeout)
        right.settimeout(timeout)
        assert loop.run(main(left, right)) == (timeout, timeout, timeout != 0.0)


def test_makefile(loop: EventLoop) -> None:
    """Seeds/001, exercise 5: readline and write on files made of a blocking connection."""

    def connection(conn: socket.socket) -> Steps:
        with conn:
            yield TaskType.TO_READ, conn
            with conn.makefile("rb") as stream:
                lines = []
                while (line := stream.readline(100)) not in (b"\r\n", b""):
                    lines.append(line)
            yield TaskType.TO_WRITE, conn
            with conn.makefile("wb") as out:
                out.write(b"".join(reversed(lines)))

    def server(sock: socket.socket, clients: int) -> Steps:
        for _ in range(clients):
            yield TaskType.TO_READ, sock
            conn, _ = sock.accept()
            assert conn.gettimeout() is None
            loop.create_task(connection(conn))

    def client(address: Any) -> None:
        with socket.create_connection(address, timeout=20) as sock:
            sock.sendall(b"one\r\ntwo\r\n\r\n")
            with sock.makefile("rb") as stream:
                answers.append(stream.read())

    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        threads = [threading.Thread(target=client, args=[sock.getsockname()]) for _ in range(5)]
        for thread in threads:
            thread.start()
        loop.create_task(server(sock, len(threads)))
        loop.run()
        for thread in threads:
            thread.join()
    assert answers == [b"two\r\none\r\n"] * len(threads)


# --- errors ------------------------------------------------------------------------------------


def test_a_task_that_raises_is_reported_and_the_others_go_on(
    loop: EventLoop, reports: list[BaseException | None]
) -> None:
    mistake = ZeroDivisionError("a mistake")
    steps: list[int] = []

    def bad() -> Steps:
        yield None
        raise mistake

    def good() -> Steps:
        for step in range(5):
            steps.append(step)
            yield None

    loop.create_task(good())
    loop.create_task(bad())
    loop.create_task(good())
    loop.run()
    gc.collect()
    assert sorted(steps) == sorted([*range(5), *range(5)])
    assert reports == [mistake]


def test_main_that_raises_is_reported_and_the_others_go_on(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The default handler writes to asyncio's log."""
    steps: list[int] = []

    def bad() -> Steps:
        yield None
        raise ZeroDivisionError("a mistake")

    def good() -> Steps:
        for step in range(5):
            steps.append(step)
            yield None

    with caplog.at_level(logging.ERROR, "asyncio"):
        with contextlib.closing(EventLoop(main=bad(), backend=backend)) as loop:
            loop.create_task(good())
            loop.run()
        gc.collect()
    assert steps == [0, 1, 2, 3, 4]
    assert "ZeroDivisionError: a mistake" in caplog.text


def test_unhandled_wrong_yield_is_reported(
    loop: EventLoop, reports: list[BaseException | None]
) -> None:
    def bad() -> Steps:
        yield "nonsense"

    def good() -> Steps:
        yield None
        return "done"

    loop.create_task(bad())
    task = loop.create_task(good())
    loop.run()
    gc.collect()
    assert task.result() == "done"
    assert [type(error) for error in reports] == [RuntimeError]
    assert "'nonsense'" in str(reports[0])


def test_stop_iteration_of_a_subgenerators_user(
    loop: EventLoop, reports: list[BaseException | None]
) -> None:
    """PEP 479: a StopIteration that escapes is a mistake, not an end."""

    def bad() -> Steps:
        yield None
        next(iter(()))

    loop.create_task(bad())
    loop.run()
    gc.collect()
    assert [type(error) for error in reports] == [RuntimeError]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_ends_the_run_and_closes_the_others(
    loop: EventLoop, kind: type[BaseException]
) -> None:
    closed: list[bool] = []

    def waits(sock: socket.socket) -> Steps:
        try:
            yield "read", sock
        finally:
            closed.append(True)

    def raises() -> Steps:
        yield None
        raise kind

    with blocking_pair() as (left, right):
        loop.create_task(waits(left))
        loop.create_task(raises())
        with pytest.raises(kind):
            loop.run()
    assert closed == [True]


def test_cancelled_task_sees_it_at_its_yield(loop: EventLoop) -> None:
    seen: list[str] = []

    def waits(sock: socket.socket) -> Steps:
        try:
            yield "read", sock
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    def cancels(task: Any) -> Steps:
        yield None
        assert task.cancel()

    with blocking_pair() as (left, right):
        task = loop.create_task(waits(left))
        loop.create_task(cancels(task))
        loop.run()
    assert seen == ["cancelled"]
    assert task.cancelled()


def test_cancelled_wait_frees_the_socket(loop: EventLoop) -> None:
    def waits(sock: socket.socket) -> Steps:
        yield "read", sock
        return sock.recv(10)

    def main(left: socket.socket, right: socket.socket) -> Steps:
        task = loop.create_task(waits(left))
        yield None
        task.cancel()
        while not task.done():
            yield None
        again = loop.create_task(waits(left))
        yield None
        right.send(b"x")
        while not again.done():
            yield None
        return again.result()

    with blocking_pair() as (left, right):
        assert loop.run(main(left, right)) == b"x"


def test_root_that_waits_for_ever_is_a_deadlock(loop: EventLoop) -> None:
    chan: pyloop.Channel[int] = pyloop.Channel()

    def main() -> Steps:
        yield from chan.recv().__await__()

    with pytest.raises(pyloop.Deadlock, match="recv"):
        loop.run(main())


# --- side by side with coroutines and asyncio --------------------------------------------------


def test_generators_coroutines_and_asyncio_on_one_loop(loop: EventLoop) -> None:
    """One generator, one coroutine of ours and one asyncio task serve the same three clients."""

    def by_generator(conn: socket.socket) -> Steps:
        with conn:
            yield TaskType.TO_READ, conn
            data = conn.recv(100)
            yield TaskType.TO_WRITE, conn
            conn.sendall(b"generator " + data)

    async def by_coroutine(conn: socket.socket) -> None:
        with conn:
            await pyloop.sendall(conn, b"coroutine " + await pyloop.recv(conn))

    async def by_asyncio(conn: socket.socket) -> None:
        with conn:
            data = await loop.sock_recv(conn, 100)
            await loop.sock_sendall(conn, b"asyncio " + data)

    def server(sock: socket.socket) -> Steps:
        for number in range(3):
            yield TaskType.TO_READ, sock
            conn, _ = sock.accept()
            if number > 0:
                conn.setblocking(False)
            if number == 1:
                yield pyloop.Event.Spawn, by_coroutine(conn)
            else:
                loop.create_task((by_generator, None, by_asyncio)[number](conn))  # type: ignore

    async def clients(address: Any) -> list[bytes]:
        socks = [await connected(address) for _ in range(3)]
        for sock in reversed(socks):
            await pyloop.sendall(sock, b"hello")
        answers = [await pyloop.recv(sock) for sock in socks]
        for sock in socks:
            sock.close()
        return answers

    async def connected(address: Any) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await pyloop.connect(sock, address)
        return sock

    with socket.create_server(("127.0.0.1", 0)) as sock:
        _, answers = loop.run(server(sock), clients(sock.getsockname()))
    assert answers == [b"generator hello", b"coroutine hello", b"asyncio hello"]


def test_in_a_loop_that_asyncio_runs(backend: str) -> None:
    def child(sock: socket.socket) -> Steps:
        yield "read", sock
        return sock.recv(10)

    async def main() -> bytes:
        with blocking_pair() as (left, right):
            task = asyncio.get_running_loop().create_task(child(left))
            await asyncio.sleep(0.001)
            right.send(b"x")
            result: bytes = await task
            return result

    with asyncio.Runner(loop_factory=lambda: EventLoop(backend=backend)) as runner:
        assert runner.run(main()) == b"x"


def test_awaited_by_coroutines_of_both_kinds(loop: EventLoop) -> None:
    def child(value: int) -> Steps:
        for _ in range(value):
            yield None
        return value

    async def of_ours() -> Any:
        return await loop.create_task(child(3))

    async def of_asyncio() -> Any:
        return await asyncio.gather(*(loop.create_task(child(n)) for n in range(3)))

    async def main() -> Any:
        return await asyncio.create_task(of_asyncio())

    assert loop.run(of_ours(), main()) == [3, [0, 1, 2]]


def test_exception_of_an_awaited_generator_goes_to_who_awaits(
    loop: EventLoop, reports: list[BaseException | None]
) -> None:
    def child() -> Steps:
        yield None
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await loop.create_task(child())

    loop.run(main())
    gc.collect()
    assert reports == []


def test_spawned_generator(loop: EventLoop) -> None:
    def child(sock: socket.socket) -> Steps:
        yield "read", sock
        return sock.recv(10)

    async def main() -> Any:
        with blocking_pair() as (left, right):
            task = await pyloop.spawn(child(left))
            await settle()
            right.send(b"x")
            return await task

    assert loop.run(main()) == b"x"


def test_sleep_event_and_coroutine_functions_in_generators(loop: EventLoop) -> None:
    async def coroutine(value: int) -> int:
        await pyloop.pause()
        await asyncio.sleep(0)
        return value

    def main() -> Steps:
        start = loop.time()
        yield pyloop.Event.Sleep, 0.005
        assert loop.time() - start >= 0.005
        return (yield from coroutine(7).__await__())

    assert loop.run(main()) == 7


def test_asyncio_tasks_are_finished_before_run_returns(loop: EventLoop) -> None:
    done: list[str] = []

    async def coroutine() -> None:
        await asyncio.sleep(0.005)
        done.append("asyncio")

    def main() -> Steps:
        loop.create_task(coroutine())
        yield None
        done.append("generator")

    loop.create_task(main())
    loop.run()
    assert done == ["generator", "asyncio"]


def test_many_tasks(loop: EventLoop) -> None:
    count, rounds = 200, 5
    echoed: list[bytes] = []

    def echo(sock: socket.socket) -> Steps:
        with sock:
            while True:
                yield "read", sock
                data = sock.recv(100)
                if not data:
                    break
                yield "write", sock
                sock.sendall(data)

    def client(sock: socket.socket, number: int) -> Steps:
        with sock:
            for i in range(rounds):
                message = b"%d %d" % (number, i)
                yield "write", sock
                sock.sendall(message)
                yield "read", sock
                assert sock.recv(100) == message
                echoed.append(message)

    for number in range(count):
        left, right = socket.socketpair()
        loop.create_task(echo(left))
        loop.create_task(client(right, number))
    loop.run()
    assert len(set(echoed)) == count * rounds
