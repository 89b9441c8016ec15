"""The loop as asyncio's programs use it: descriptors, handles, timers, other threads, fork."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import selectors
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from face_support import pair
from support import run_python

import pyloop

Factory = Callable[[], asyncio.AbstractEventLoop]


@contextlib.contextmanager
def new_loop(factory: Factory = pyloop.EventLoop) -> Iterator[Any]:
    loop = factory()
    try:
        yield loop
    finally:
        loop.close()


def run_turns(loop: asyncio.AbstractEventLoop, turns: int = 5) -> None:
    """Let the loop look at its descriptors a few times, without sleeping."""
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()


def run_until(loop: asyncio.AbstractEventLoop, state: Callable[[], bool]) -> None:
    """Run until `state()` holds; the test's time limit is the limit."""
    while not state():
        run_turns(loop, 1)


# --------------------------------------------------------------------------------- descriptors


class NoFileno:
    def __repr__(self) -> str:
        return "<no fileno>"


class OddFileno:
    def __init__(self, number: Any) -> None:
        self._number = number

    def fileno(self) -> Any:
        return self._number

    def __repr__(self) -> str:
        return "<odd fileno>"


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call ends in, as far as programs look at it."""
    try:
        return ("returned", call())
    except OSError as exc:
        return (type(exc), exc.errno)
    except Exception as exc:
        return (type(exc), str(exc))


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize(
    "fileobj",
    [-1, -5, 1_000_000, "x", None, 1.5, NoFileno(), OddFileno(-1), OddFileno("x")],
    ids=repr,
)
def test_what_is_no_descriptor_is_refused_as_asyncio_refuses_it(method: str, fileobj: Any) -> None:
    outcomes = []
    for factory in (asyncio.SelectorEventLoop, pyloop.EventLoop):
        with new_loop(factory) as loop:
            args = (print,) if method.startswith("add") else ()
            outcomes.append(outcome(lambda: getattr(loop, method)(fileobj, *args)))  # noqa: B023
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
@pytest.mark.parametrize("number", [2**31, 2**63, 2**70])
def test_a_number_too_large_for_a_descriptor(method: str, number: int) -> None:
    with new_loop() as loop:
        with pytest.raises(ValueError, match=f"Invalid file descriptor: {number}"):
            getattr(loop, method)(number, print)


def test_an_object_whose_fileno_is_like_an_integer(backend: str) -> None:
    class Number:
        def __init__(self, value: int) -> None:
            self._value = value

        def __int__(self) -> int:
            return self._value

    with pair() as (left, right), new_loop() as loop:
        fileobj = OddFileno(Number(left.fileno()))
        loop.add_reader(fileobj, loop.stop)
        right.send(b"x")
        loop.run_forever()
        assert loop.remove_reader(fileobj)
        assert not loop.remove_reader(fileobj)


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_a_closed_socket_and_a_closed_number(method: str, backend: str) -> None:
    with new_loop() as loop:
        with pair() as (left, right):
            number = left.fileno()
            getattr(loop, method)(right, print)
            assert getattr(loop, method.replace("add", "remove"))(right)
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            getattr(loop, method)(left, print)
        with pytest.raises(OSError, match="descriptor") as caught:
            getattr(loop, method)(number, print)
        assert type(caught.value) is OSError


def odd_file(kind: str, folder: str) -> int:
    """A descriptor of something that is no socket; some pollers refuse some of them."""
    paths = {
        "regular file": (os.path.join(folder, "f"), os.O_RDWR | os.O_CREAT),
        "directory": (folder, os.O_RDONLY),
        "path only": (folder, os.O_PATH),
        "file of /proc": ("/proc/self/status", os.O_RDONLY),
        "file that tells of changes": ("/proc/self/mounts", os.O_RDONLY),
        "/dev/null": ("/dev/null", os.O_RDWR),
        "/dev/zero": ("/dev/zero", os.O_RDWR),
        "terminal": ("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
    }
    return os.open(*paths[kind])


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
@pytest.mark.parametrize(
    "kind",
    [
        "regular file",
        "directory",
        "path only",
        "file of /proc",
        "file that tells of changes",
        "/dev/null",
        "/dev/zero",
        "terminal",
    ],
)
@pytest.mark.parametrize("driven", [False, True], ids=["", "selector"])
def test_what_the_poller_refuses_is_refused_at_once(
    kind: str, method: str, driven: bool, backend: str, tmp_path: Path
) -> None:
    """As asyncio does it on the same poller, and what it takes is watched as there."""
    make = {"epoll": selectors.EpollSelector, "poll": selectors.PollSelector}[backend]

    def try_it(loop: asyncio.AbstractEventLoop) -> list[tuple[Any, ...]]:
        calls: list[str] = []
        fd = odd_file(kind, str(tmp_path))
        try:
            outcomes = [outcome(lambda: getattr(loop, method)(fd, calls.append, "called"))]
            run_turns(loop, 4)
            remove = getattr(loop, method.replace("add", "remove"))
            outcomes += [(len(calls) > 1,), outcome(lambda: remove(fd))]
            run_turns(loop)
            return outcomes
        finally:
            os.close(fd)

    with new_loop(lambda: asyncio.SelectorEventLoop(make())) as loop:
        theirs = try_it(loop)
    with new_loop(lambda: pyloop.EventLoop(selector=make() if driven else None)) as loop:
        assert try_it(loop) == theirs


def test_the_text_of_a_refusal_is_asyncios() -> None:
    texts = []
    epoll = functools.partial(pyloop.EventLoop, backend="epoll")
    for factory in (asyncio.SelectorEventLoop, epoll):
        with new_loop(factory) as loop, open("/dev/null") as null:
            for fd in (null, null.fileno(), 1_000_000):
                for method in (loop.add_reader, loop.add_writer):
                    with pytest.raises(OSError) as caught:
                        method(fd, print)
                    texts.append((type(caught.value), str(caught.value)))
    assert texts[: len(texts) // 2] == texts[len(texts) // 2 :]


def test_an_error_of_a_selectors_register_is_the_callers() -> None:
    class Picky(selectors.DefaultSelector):
        def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
            if data is not None and data[0] is not None and refuses:
                raise LookupError("not this one")
            return super().register(fileobj, events, data)

    refuses = False
    fd, peer = os.openpty()
    try:
        with new_loop(lambda: pyloop.EventLoop(selector=Picky())) as loop:
            refuses = True
            with pytest.raises(LookupError, match="not this one"):
                loop.add_reader(fd, print)
            assert not loop.remove_reader(fd)
            refuses = False
            loop.add_reader(fd, loop.stop)
            os.write(peer, b"x")
            loop.run_forever()
    finally:
        os.close(fd)
        os.close(peer)


def test_a_socket_closed_after_add_reader_is_known_by_its_object(backend: str) -> None:
    """As a selector knows it: clean-up code may close first and remove later."""
    with new_loop() as loop:
        with pair() as (left, right):
            loop.add_reader(left, print)
            loop.add_writer(left, print)
            left.close()
            assert loop.remove_reader(left)
            assert loop.remove_writer(left)
            with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
                loop.remove_reader(left)
            right.close()
        run_turns(loop)


def test_a_descriptor_closed_before_the_next_wait(backend: str) -> None:
    """Its callback meets the error in its own system call; the loop goes on."""
    reports: list[Any] = []
    with new_loop() as loop, pair() as (left, _):
        loop.set_exception_handler(lambda loop, context: reports.append(context["exception"]))
        number = left.fileno()
        loop.add_reader(number, os.read, number, 1)
        left.close()
        run_until(loop, lambda: bool(reports))
        assert [type(exc) for exc in reports] == [OSError]
        assert not loop.remove_reader(number)
        run_turns(loop)
        assert len(reports) == 1


def test_a_descriptor_closed_while_the_loop_knows_it(backend: str) -> None:
    with new_loop() as loop, pair() as (left, right):
        number = left.fileno()
        loop.add_reader(number, print)
        run_turns(loop)
        left.close()
        run_turns(loop)
        loop.remove_reader(number)
        run_turns(loop)
        assert right.recv(1) == b""


def test_a_number_that_another_file_has_taken_over(backend: str) -> None:
    """A callback that was left behind is not called for the file that came after."""
    calls: list[str] = []
    with new_loop() as loop:
        with pair() as (old, _):
            number = old.fileno()
            loop.add_reader(old, calls.append, "old")
            run_turns(loop)
        with pair() as (left, right):
            new, peer = (left, right) if left.fileno() == number else (right, left)
            assert new.fileno() == number
            loop.add_reader(new, calls.append, "new")
            peer.send(b"x")
            run_until(loop, lambda: bool(calls))
            assert set(calls) == {"new"}
            assert loop.remove_reader(new)
            calls.clear()
            run_turns(loop)
            assert calls == []


def test_a_duplicate_keeps_the_file_open(backend: str) -> None:
    """epoll goes on to report a closed number whose file lives on: it must not make us spin."""
    calls: list[str] = []
    with new_loop() as loop, pair() as (left, right):
        with contextlib.closing(left.dup()):
            number = left.fileno()
            loop.add_reader(number, calls.append, "gone")
            run_turns(loop)
            loop.remove_reader(number)
            left.close()
            right.send(b"x")
            run_turns(loop)
            loop.call_later(0.1, loop.stop)
            used = time.process_time()
            loop.run_forever()
            assert time.process_time() - used < 0.05
            assert calls == []


def test_a_second_callback_takes_the_place_of_the_first(backend: str) -> None:
    calls: list[str] = []
    with new_loop() as loop, pair() as (left, right):
        first = loop._add_reader(left, calls.append, "first")
        loop.add_reader(left, calls.append, "second")
        assert first.cancelled()
        right.send(b"x")
        run_until(loop, lambda: bool(calls))
        assert set(calls) == {"second"}


def test_sock_calls_take_what_acts_like_a_socket(backend: str) -> None:
    """A wrapper that counts, or a test's double: its own methods are called."""

    class Wrapper:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self.calls: list[str] = []

        def __getattr__(self, name: str) -> Any:
            self.calls.append(name)
            return getattr(self._sock, name)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pair() as (left, right):
            wrapped: Any = Wrapper(left)
            receive = asyncio.ensure_future(loop.sock_recv(wrapped, 10))
            await asyncio.sleep(0)
            right.send(b"hello")
            assert await receive == b"hello"
            assert wrapped.calls.count("recv") >= 1
            await loop.sock_sendall(wrapped, b"bye")
            assert right.recv(10) == b"bye"
            assert "send" in wrapped.calls

    with new_loop() as loop:
        loop.run_until_complete(main())


def test_the_repr_of_a_transport_says_what_it_waits_for(backend: str) -> None:
    async def main() -> None:
        with pair() as (left, right):
            reader, writer = await asyncio.open_connection(sock=left)
            assert "read=polling" in repr(writer.transport)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            assert "read=idle" in repr(writer.transport)
            writer.close()
            await writer.wait_closed()
            assert "closed" in repr(writer.transport)

    with new_loop() as loop:
        loop.run_until_complete(main())


def test_a_thousand_connections_leave_no_descriptor(backend: str) -> None:
    """Without a garbage collection: closing a transport closes its descriptor."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()
            await writer.wait_closed()
            nonlocal served
            served += 1

        served = 0
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            opened = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(10)))
            for _, writer in opened:
                writer.write(b"hello\n")
            for reader, writer in opened:
                assert await reader.read() == b"hello\n"
                writer.close()
                await writer.wait_closed()
        while served < 1000:
            await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before
        server.close()
        await server.wait_closed()

    with new_loop() as loop:
        gc.disable()
        try:
            loop.run_until_complete(main())
        finally:
            gc.enable()


def test_connect_read_pipe_closes_its_descriptor_once(backend: str) -> None:
    """The number is taken again by another file at once: a second close would close that one."""

    class Lost(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost = asyncio.get_running_loop().create_future()

        def connection_lost(self, exc: BaseException | None) -> None:
            self.lost.set_result(exc)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read_fd, write_fd = os.pipe()
        transport, protocol = await loop.connect_read_pipe(Lost, os.fdopen(read_fd, "rb", 0))
        os.close(write_fd)
        assert await protocol.lost is None
        with pytest.raises(OSError):
            os.fstat(read_fd)
        taken = os.open("/dev/null", os.O_RDONLY)
        if taken != read_fd:
            os.dup2(taken, read_fd)
            os.close(taken)
        transport.close()
        del transport, protocol
        gc.collect()
        await asyncio.sleep(0)
        os.fstat(read_fd)
        os.close(read_fd)

    with new_loop() as loop:
        loop.run_until_complete(main())


def test_no_descriptor_to_accept_with(backend: str) -> None:
    """EMFILE: the server neither spins nor loses the connection that waits."""
    done = run_python(
        """
import asyncio, os, resource, socket, time
import pyloop

async def main():
    accepted = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        writer.close()
        accepted.set_result(None)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = socket.socket()
    client.setblocking(False)
    spare = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            spare.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
    used = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - used < 0.15, "it spins"
    assert not accepted.done()
    for fd in spare:
        os.close(fd)
    await asyncio.wait_for(accepted, 30)
    client.close()
    server.close()
    print("accepted")

loop = pyloop.EventLoop()
loop.run_until_complete(main())
loop.close()
"""
    )
    assert (done.returncode, done.stdout) == (0, "accepted\n"), done.stderr


# ------------------------------------------------------------------------------------- handles


def target(*args: Any) -> None:
    """What the handles below call."""


def test_a_task_of_an_operation_shows_its_name() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pair() as (left, _):
            operation: Any = loop.sock_recv(left, 10)
            assert operation.__name__ == operation.__qualname__ == "recv"
            task = asyncio.ensure_future(operation)
            await asyncio.sleep(0)
            assert "coro=<recv()> wait_for=<pyloop operation recv on descriptor" in repr(task)
            task.cancel()
            await asyncio.wait([task])
        nap = asyncio.ensure_future(pyloop.sleep(1000))
        assert "coro=<sleep()>" in repr(nap)
        nap.cancel()
        await asyncio.wait([nap])

    with new_loop() as loop:
        loop.run_until_complete(main())


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_handles_look_as_asyncios(timed: bool, debug: bool) -> None:
    texts = []
    for factory in (asyncio.SelectorEventLoop, pyloop.EventLoop):
        with new_loop(factory) as loop:
            loop.set_debug(debug)
            for args in ((), (1,), (1, "two", 3.0, None)):
                for cancel in (False, True):
                    make = loop.call_at if timed else loop.call_soon
                    handle = make(1e9, target, *args) if timed else make(target, *args)
                    kind = asyncio.TimerHandle if timed else asyncio.Handle
                    assert isinstance(handle, kind)
                    assert handle._callback is target
                    assert handle._args == args
                    assert handle.cancelled() is False
                    if cancel:
                        assert handle.cancel() is None
                        assert handle.cancel() is None
                        assert handle.cancelled() is True
                        assert handle._callback is None
                        assert handle._args is None
                    texts.append(repr(handle))
    half = len(texts) // 2
    assert texts[half:] == texts[:half]
    assert ("created at" in texts[0]) == debug


@pytest.mark.parametrize("debug", [False, True])
def test_a_cancelled_handle_lets_go_of_what_it_would_have_called(debug: bool) -> None:
    class Argument:
        def __repr__(self) -> str:
            return "<argument>"

    texts = []
    for factory in (asyncio.SelectorEventLoop, pyloop.EventLoop):
        with new_loop(factory) as loop:
            loop.set_debug(debug)
            for make in (lambda *call: loop.call_at(1e9, *call), loop.call_soon):  # noqa: B023
                argument = Argument()
                alive = weakref.ref(argument)
                handle = make(target, argument)
                del argument
                assert alive() is not None
                handle.cancel()
                assert alive() is None
                texts.append(repr(handle).replace(" created at", ""))
            handles: list[asyncio.Handle] = []

            def cancels(argument: object) -> None:
                handles[0].cancel()  # noqa: B023
                assert repr(argument) == "<argument>"

            handles.append(loop.call_soon(cancels, Argument()))
            run_turns(loop, 1)
            texts.append(repr(handles[0]))
    half = len(texts) // 2
    assert texts[half:] == texts[:half]
    assert ("<argument>" in texts[0]) == debug


def test_timer_handles_compare_as_asyncios() -> None:
    results = []
    for factory in (asyncio.SelectorEventLoop, pyloop.EventLoop):
        with new_loop(factory) as loop:
            timers = [
                loop.call_at(when, callback, *args)
                for when in (1e9, 2e9)
                for callback, args in ((target, ()), (target, (1,)), (print, ()), (target, ()))
            ]
            timers[0].cancel()
            timers[4].cancel()
            timers[5].cancel()
            results.append(
                [
                    (a < b, a <= b, a > b, a >= b, a == b, a != b, hash(a) == hash(b))
                    for a in timers
                    for b in timers
                ]
            )
            assert timers[0] != 1e9
            with pytest.raises(TypeError):
                timers[0] < 1e9  # noqa: B015
    assert results[0] == results[1]


def test_the_report_of_a_failed_callback_is_asyncios() -> None:
    def fail(*args: Any) -> None:
        raise ValueError("no")

    reports = []
    for factory in (asyncio.SelectorEventLoop, pyloop.EventLoop):
        with new_loop(factory) as loop:
            contexts: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda loop, context: contexts.append(context))  # noqa: B023
            for debug in (False, True):
                loop.set_debug(debug)
                loop.call_soon(fail, 1, "two")
                loop.call_later(0, fail)
                run_until(loop, lambda: len(contexts) >= 2 * debug + 2)  # noqa: B023
            reports.append(
                [
                    (
                        sorted(context),
                        context["message"],
                        repr(context["exception"]),
                        repr(context["handle"]).split("when=")[0],
                    )
                    for context in contexts
                ]
            )
    assert reports[0] == reports[1]
    assert "Exception in callback" in reports[1][0][1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_through(kind: type[BaseException], backend: str) -> None:
    def fail() -> None:
        raise kind

    reports: list[Any] = []
    with new_loop() as loop, pair() as (left, right):
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        loop.call_soon(fail)
        with pytest.raises(kind):
            loop.run_forever()
        loop.call_later(0, fail)
        with pytest.raises(kind):
            loop.run_forever()
        loop.add_reader(left, fail)
        right.send(b"x")
        with pytest.raises(kind):
            loop.run_forever()
        loop.remove_reader(left)
        assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"
        assert reports == []


def test_debug_mode_checks_what_asyncio_checks() -> None:
    async def coroutine_function() -> None:
        """Never called: given to call_soon by mistake."""

    outcomes = []
    for factory in (asyncio.SelectorEventLoop, pyloop.EventLoop):
        with new_loop(factory) as loop:
            loop.set_debug(True)
            found: list[Any] = []

            def from_another_thread(loop: Any = loop, found: Any = found) -> None:
                found.append(outcome(lambda: loop.call_soon(target)))
                found.append(outcome(lambda: loop.call_later(1, target)))
                found.append(outcome(lambda: loop.call_at(1, target)))
                loop.call_soon_threadsafe(loop.stop)

            found.append(outcome(lambda: loop.call_soon(coroutine_function)))  # noqa: B023
            found.append(outcome(lambda: loop.call_soon(None)))  # noqa: B023
            found.append(outcome(lambda: loop.call_later(1, coroutine_function)))  # noqa: B023
            found.append(outcome(lambda: loop.call_later(None, target)))  # noqa: B023
            found.append(outcome(lambda: loop.call_at(None, target)))  # noqa: B023
            found.append(
                outcome(lambda: loop.call_soon_threadsafe(coroutine_function))  # noqa: B023
            )
            thread = threading.Thread(target=from_another_thread)
            loop.call_soon(thread.start)
            loop.run_forever()
            thread.join()
            outcomes.append(found)
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[1]) == 9


def test_a_slow_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with new_loop() as loop:
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0
        loop.call_soon(target, "slow")
        with caplog.at_level("WARNING", logger="asyncio"):
            run_turns(loop, 1)
    texts = [record.getMessage() for record in caplog.records]
    assert any(
        text.startswith("Executing <Handle target('slow')") and text.endswith(" seconds")
        for text in texts
    ), texts


# -------------------------------------------------------------------------------------- timers


def test_call_at_and_call_later_with_equal_times_keep_their_order(backend: str) -> None:
    fired: list[int] = []
    with new_loop() as loop:
        when = loop.time() + 0.01
        for number in range(200):
            loop.call_at(when, fired.append, number)
        loop.call_at(when, loop.stop)
        loop.run_forever()
    assert fired == list(range(200))


def test_short_timers_are_neither_early_nor_late(backend: str) -> None:
    """0.2 ms means 0.2 to 0.35 ms; the quickest of many tells what the loop itself adds."""
    lateness = []
    with new_loop() as loop:

        def due(when: float) -> None:
            lateness.append(loop.time() - when)
            loop.stop()

        for _ in range(100):
            when = loop.time() + 0.0002
            loop.call_at(when, due, when)
            loop.run_forever()
    assert min(lateness) >= 0
    assert min(lateness) < 0.00015


# ------------------------------------------------------------------------------- other threads


def test_many_threads_call_into_one_loop(backend: str) -> None:
    """Nothing is lost, nothing is called twice, and each thread's calls keep their order."""
    threads, calls = 8, 2000
    seen: list[list[int]] = [[] for _ in range(threads)]
    with new_loop() as loop:
        start = threading.Barrier(threads)

        def work(number: int) -> None:
            start.wait()
            for call in range(calls):
                loop.call_soon_threadsafe(seen[number].append, call)
            loop.call_soon_threadsafe(one_has_ended)

        left = threads

        def one_has_ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                loop.stop()

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        loop.run_forever()
        for worker in workers:
            worker.join()
    assert seen == [list(range(calls))] * threads


def test_a_call_wakes_a_loop_that_sleeps(backend: str) -> None:
    """One call at a time, each from a thread that waits until the one before has run."""
    with new_loop() as loop:
        ran = threading.Semaphore(0)

        def work() -> None:
            for _ in range(500):
                loop.call_soon_threadsafe(ran.release)
                assert ran.acquire(timeout=30)
            loop.call_soon_threadsafe(loop.stop)

        worker = threading.Thread(target=work)
        worker.start()
        loop.run_forever()
        worker.join()


def test_run_coroutine_threadsafe_on_several_loops(backend: str) -> None:
    """Each loop runs in a thread of its own, and all are asked from this one."""

    async def where(number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return number, threading.get_ident()

    loops = [pyloop.EventLoop() for _ in range(4)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        for number in range(100):
            futures = [asyncio.run_coroutine_threadsafe(where(number), loop) for loop in loops]
            for future, thread in zip(futures, threads, strict=True):
                assert future.result(30) == (number, thread.ident)
    finally:
        for loop, thread in zip(loops, threads, strict=True):
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def test_threads_that_call_while_the_loop_is_closed() -> None:
    """They get RuntimeError, as asyncio has it, and nothing worse."""
    for _ in range(5):
        loop = pyloop.EventLoop()
        errors: list[str] = []

        def work(loop: Any = loop, errors: Any = errors) -> None:
            with contextlib.suppress(RuntimeError):
                while True:
                    loop.call_soon_threadsafe(target)
            errors.append(str(outcome(lambda: loop.call_soon_threadsafe(target))[1]))

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        run_turns(loop, 2)
        loop.close()
        for worker in workers:
            worker.join()
        assert errors == ["Event loop is closed"] * 2


@pytest.mark.heavy
def test_ten_thousand_loops_leave_nothing() -> None:
    done = run_python(
        """
import asyncio, gc, os, pyloop

async def main():
    await asyncio.sleep(0)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def rounds(n):
    for _ in range(n):
        loop = pyloop.EventLoop()
        loop.run_until_complete(main())
        loop.close()

rounds(1000)
gc.collect()
before = resident(), len(os.listdir("/proc/self/fd"))
rounds(10_000)
gc.collect()
after = resident(), len(os.listdir("/proc/self/fd"))
print(after[0] - before[0], after[1] - before[1])
"""
    )
    grown, descriptors = map(int, done.stdout.split())
    assert descriptors == 0
    assert grown < 1_000_000, f"{grown} bytes"


# ---------------------------------------------------------------------------------------- fork

# In a process of its own: pytest's has threads, and a child of it must not come back to pytest.
FORK = """
import asyncio, logging, os, signal, socket, sys, warnings
import pyloop

# In debug mode a fork may be a callback that took long.
logging.getLogger("asyncio").setLevel(logging.ERROR)

def child_says(function):
    # What a forked child returns or raises, as a string.
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                text = repr(function())
            except BaseException as exc:
                text = f"{type(exc).__name__}: {exc}"
            os.write(write_fd, text.encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text

FOREIGN = (
    "RuntimeError: the event loop belongs to the parent of this forked process; "
    "make a new one here"
)
"""


def run_forking(code: str, backend: str) -> None:
    done = run_python(FORK + code, env={"PYLOOP_BACKEND": backend})
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_a_forked_child_cannot_use_the_parents_loop(backend: str) -> None:
    run_forking(
        """
left, right = socket.socketpair()
left.setblocking(False)
loop = pyloop.EventLoop()

async def main():
    for touch in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.add_reader(left, print),
        lambda: loop.add_writer(left, print),
        lambda: loop.run_forever(),
    ):
        text = child_says(touch)
        assert text == FOREIGN, text

loop.run_until_complete(main())
assert child_says(lambda: loop.run_forever()) == FOREIGN
assert child_says(lambda: loop.call_soon(print)) == FOREIGN
loop.close()
left.close()
right.close()
print("ok")
""",
        backend,
    )


def test_a_forked_child_has_loops_of_its_own(backend: str) -> None:
    run_forking(
        """
loop = pyloop.EventLoop()

async def inner():
    await asyncio.sleep(0.001)
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.send(b"x")
        return await pyloop.recv(left)

def own_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return "a loop is running"
    own = pyloop.EventLoop()
    try:
        return own.run_until_complete(inner())
    finally:
        own.close()

async def main():
    assert child_says(own_loop) == "b'x'"
    assert child_says(lambda: pyloop.run(inner())) == "b'x'"
    assert await inner() == b"x"

loop.run_until_complete(main())
assert child_says(own_loop) == "b'x'"
loop.close()
print("ok")
""",
        backend,
    )


@pytest.mark.parametrize("selector", ["None", "selectors.EpollSelector()"])
def test_the_parent_loses_no_event_to_its_child(selector: str, backend: str) -> None:
    """Whatever the child closes or removes, the parent's descriptors are still watched."""
    run_forking(
        f"""
import selectors
loop = pyloop.EventLoop(selector={selector})
"""
        """
pairs = [socket.socketpair() for _ in range(20)]
got = []

def readable(number, sock):
    got.append((number, sock.recv(1)))
    if len(got) == 3 * len(pairs):
        loop.stop()

def leave():
    for left, right in pairs:
        loop.remove_reader(left)
        left.close()
        right.close()
    return None

def close_sockets():
    for left, right in pairs:
        try:
            loop.close_socket(left)
        except RuntimeError as exc:
            assert f"RuntimeError: {exc}" == FOREIGN
            left.close()
        else:
            return "no error"

def end():
    assert not loop.is_running()
    loop.close()
    assert loop.is_closed()

for number, (left, right) in enumerate(pairs):
    left.setblocking(False)
    loop.add_reader(left, readable, number, left)

def send_all():
    for left, right in pairs:
        right.send(b"x")

loop.call_soon(loop.stop)
loop.run_forever()
assert child_says(leave) == "None"
assert child_says(close_sockets) == "None"
assert child_says(loop.close) == "None"
send_all()

def inside():
    assert loop.is_running()
    assert child_says(leave) == "None"
    assert child_says(close_sockets) == "None"
    assert child_says(end) == "None"
    send_all()
    send_all()

loop.call_soon(inside)
loop.run_forever()
assert sorted(got) == sorted(
    (number, b"x") for number in range(len(pairs)) for _ in range(3)
), got
for left, right in pairs:
    left.close()
    right.close()
loop.close()
print("ok")
""",
        backend,
    )


def test_a_child_that_returns_into_the_parents_loop(backend: str) -> None:
    """It leaves run_forever() with RuntimeError, and runs none of the parent's callbacks."""
    run_forking(
        """
loop = pyloop.EventLoop()
read_fd, write_fd = os.pipe()
parent = os.getpid()
pid = None

def fork():
    global pid
    pid = os.fork()

def ran():
    os.write(write_fd, b"p" if os.getpid() == parent else b"c")

for how in (loop.call_soon, lambda callback: loop.call_later(0, callback)):
    how(fork)
    loop.call_soon(ran)
    loop.call_later(0.01, ran)
    loop.call_later(0.02, loop.stop)
    try:
        loop.run_forever()
    except RuntimeError as exc:
        assert os.getpid() != parent
        os.write(write_fd, b"E" if f"RuntimeError: {exc}" == FOREIGN else b"?")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
os.close(write_fd)
with os.fdopen(read_fd, "rb") as file:
    text = file.read()
# The child of the second round may have come back before or after the others were ready.
assert sorted(text) == sorted(b"EppEpp") or sorted(text) == sorted(b"EpEpp"), text
loop.close()
print("ok")
""",
        backend,
    )


def test_a_child_of_a_running_task_closes_the_parents_loop(backend: str) -> None:
    """What is above it on the stack then ends with RuntimeError."""
    run_forking(
        """
async def forks():
    await asyncio.sleep(0)
    if os.fork() == 0:
        # It says of each task that it was destroyed, which is so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        loop = running[0]
        assert not loop.is_running()
        loop.close()
        async def inner():
            await asyncio.sleep(0.001)
        try:
            pyloop.run(inner())
            os.write(write_fd, b"ran ")
        except BaseException as exc:
            os.write(write_fd, repr(exc).encode())
            os._exit(1)

async def other():
    for _ in range(10):
        await asyncio.sleep(0)

async def in_asyncio():
    running.append(asyncio.get_running_loop())
    waits = asyncio.ensure_future(other())
    await asyncio.ensure_future(forks())
    await waits

async def in_pyloop():
    running.append(asyncio.get_running_loop())
    waits = await pyloop.spawn(other())
    await (await pyloop.spawn(forks()))
    await waits

parent = os.getpid()
for main in (in_asyncio, in_pyloop):
    running = []
    read_fd, write_fd = os.pipe()
    try:
        pyloop.run(main())
    except RuntimeError as exc:
        assert os.getpid() != parent
        os.write(write_fd, str(exc).encode())
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as file:
        text = file.read()
    assert text == "ran Event loop is closed", text
    os.wait()
print("ok")
""",
        backend,
    )


def test_a_child_that_leaves_run_does_not_wait_for_the_parents_threads(backend: str) -> None:
    """Nor does it complain of them."""
    run_forking(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads

async def main():
    await asyncio.to_thread(int)
    pid = os.fork()
    if pid == 0:
        raise SystemExit
    return os.waitpid(pid, 0)[1]

parent = os.getpid()
try:
    assert pyloop.run(main()) == 0
except RuntimeError as exc:
    assert os.getpid() != parent
    text = f"RuntimeError: {exc}"
    os._exit(0 if text == FOREIGN and isinstance(exc.__context__, SystemExit) else 1)
print("ok")
""",
        backend,
    )


def test_a_signal_to_the_child_is_not_the_parents(backend: str) -> None:
    run_forking(
        """
loop = pyloop.EventLoop()
signals = []
loop.add_signal_handler(signal.SIGUSR1, signals.append, "usr1")

def to_itself():
    os.kill(os.getpid(), signal.SIGUSR1)
    return signals

async def main():
    assert child_says(to_itself) == "[]"
    await asyncio.sleep(0.01)
    assert signals == [], "the child's signal came to the parent"
    os.kill(os.getpid(), signal.SIGUSR1)
    while not signals:
        await asyncio.sleep(0)
    assert signals == ["usr1"]

loop.run_until_complete(main())
loop.close()
print("ok")
""",
        backend,
    )


def test_multiprocessing_by_fork_from_a_running_loop(backend: str) -> None:
    run_forking(
        """
import multiprocessing

async def inner(value):
    await asyncio.sleep(0)
    return value * 2

def work(queue, value):
    loop = pyloop.EventLoop()
    queue.put(loop.run_until_complete(inner(value)))
    loop.close()

async def main():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=work, args=(queue, n)) for n in range(3)]
    for process in processes:
        process.start()
    loop = asyncio.get_running_loop()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(queue.get() for _ in processes) == [0, 2, 4]
    queue.close()
    assert await inner(4) == 8

loop = pyloop.EventLoop()
loop.run_until_complete(main())
loop.close()
print("ok")
""",
        backend,
    )


# --------------------------------------------------------------------------------- throughput


@pytest.mark.heavy
def test_a_socket_that_always_has_data_leaves_the_ticker_its_time() -> None:
    """65 of 70 ticks of 10 ms, while more than half of what asyncio's own loop moves is moved."""

    def move(loop: asyncio.AbstractEventLoop) -> tuple[int, int]:
        moved = ticks = 0
        chunk = bytes(65536)

        def fill() -> None:
            with contextlib.suppress(BlockingIOError):
                right.send(chunk)

        def drain() -> None:
            nonlocal moved
            with contextlib.suppress(BlockingIOError):
                moved += len(left.recv(65536))

        def tick(number: int) -> None:
            nonlocal ticks
            # One that comes when the next is due is missed.
            ticks += loop.time() < start + (number + 1) * 0.01
            if number < 70:
                loop.call_at(start + (number + 1) * 0.01, tick, number + 1)
            else:
                loop.stop()

        with pair() as (left, right):
            loop.add_writer(right, fill)
            loop.add_reader(left, drain)
            start = loop.time()
            loop.call_at(start + 0.01, tick, 1)
            loop.run_forever()
            loop.remove_reader(left)
            loop.remove_writer(right)
        return moved, ticks

    tries = []
    for _ in range(5):  # others use this machine too: one good try tells what the loop can do
        with new_loop(asyncio.SelectorEventLoop) as loop:
            theirs, _ = move(loop)
        with new_loop() as loop:
            ours, ticks = move(loop)
        if ticks >= 65 and ours > theirs / 2:
            return
        tries.append((theirs, ours, ticks))
    pytest.fail(f"bytes moved by asyncio, by pyloop, ticks: {tries}")


def test_closing_a_loop_with_readers_closes_none_of_their_files(backend: str) -> None:
    with pair() as (left, right):
        with new_loop() as loop:
            loop.add_reader(left, print)
            loop.add_writer(left.fileno(), print)
            run_turns(loop)
        right.send(b"x")
        assert left.recv(1) == b"x"
        assert isinstance(left, socket.socket)


def test_the_last_signal_reaches_its_handler() -> None:
    seen: list[int] = []
    loop = pyloop.EventLoop()
    try:
        loop.add_signal_handler(signal.SIGRTMAX, lambda: (seen.append(1), loop.stop()))
        loop.call_soon(signal.raise_signal, signal.SIGRTMAX)
        loop.run_forever()
    finally:
        loop.close()
    assert seen == [1]
