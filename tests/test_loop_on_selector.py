"""EventLoop(selector=...): the loop drives a selector of the user's, which shows who waits."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from face_support import pair, settle, tcp_pair
from support import drain_socket, fill_socket, socketpair

import pyloop

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

KINDS: dict[str, Callable[[], selectors.BaseSelector]] = {
    "EpollSelector": selectors.EpollSelector,
    "PollSelector": selectors.PollSelector,
    "SelectSelector": selectors.SelectSelector,
    "pyloop-epoll": lambda: pyloop.Selector("epoll"),
    "pyloop-poll": lambda: pyloop.Selector("poll"),
}


class Recorder(selectors.EpollSelector):
    """Counts what it is asked for, and raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.failures: dict[str, BaseException] = {}
        self.is_closed = 0

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]

    def register(self, *args: Any) -> selectors.SelectorKey:
        self._note("register")
        return super().register(*args)

    def unregister(self, *args: Any) -> selectors.SelectorKey:
        self._note("unregister")
        return super().unregister(*args)

    def modify(self, *args: Any) -> selectors.SelectorKey:
        self._note("modify")
        return super().modify(*args)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._note("select")
        return super().select(timeout)

    def close(self) -> None:
        self.is_closed += 1
        super().close()


@pytest.fixture(params=KINDS)
def selector(request: pytest.FixtureRequest) -> Iterator[selectors.BaseSelector]:
    made = KINDS[request.param]()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def loop(selector: selectors.BaseSelector) -> Iterator[pyloop.EventLoop]:
    with contextlib.closing(pyloop.EventLoop(selector=selector)) as made:
        yield made


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    with contextlib.closing(made):
        yield made


def watched(selector: selectors.BaseSelector) -> dict[Any, tuple[int, Any]]:
    """File object -> events and data, without the loop's own wake-up."""
    return {
        key.fileobj: (key.events, key.data)
        for key in selector.get_map().values()
        if not isinstance(key.fileobj, int) or key.data != (None, None)
    }


# --- the argument ---


def test_the_selector_is_closed_with_the_loop(selector: selectors.BaseSelector) -> None:
    loop = pyloop.EventLoop(selector=selector)
    assert loop.backend == "selector"
    assert len(selector.get_map()) == 1
    (wakeup,) = selector.get_map().values()
    assert wakeup.events == READ
    assert wakeup.data == (None, None)
    loop.close()
    assert selector.get_map() is None
    loop.close()


@pytest.mark.parametrize("wrong", [3, "epoll", object(), selectors.EpollSelector])
def test_what_is_no_selector(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"selector must be a selectors\.BaseSelector or None"):
        pyloop.EventLoop(selector=wrong)


def test_a_selector_and_a_backend(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="not both"):
        pyloop.EventLoop(selector=recorder, backend="poll")
    assert recorder.is_closed == 0
    assert recorder.calls == []


def test_a_closed_selector(selector: selectors.BaseSelector) -> None:
    if isinstance(selector, (selectors.SelectSelector, selectors.PollSelector)):
        pytest.skip("the standard library does not mind")
    selector.close()
    with pytest.raises(ValueError, match="closed"):
        pyloop.EventLoop(selector=selector)


def test_a_selector_that_refuses_the_loop(recorder: Recorder) -> None:
    recorder.failures["register"] = ZeroDivisionError("on purpose")
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        pyloop.EventLoop(selector=recorder)
    assert recorder.is_closed == 0


def test_positional_as_in_asyncio(selector: selectors.BaseSelector) -> None:
    async def main() -> str:
        await asyncio.sleep(0)
        return "done"

    with contextlib.closing(pyloop.EventLoop(None, selector)) as loop:
        assert loop.run(main()) == "done"


def test_init_twice(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    with pytest.raises(RuntimeError, match="initialised already"):
        loop._init_on_selector(selector)


# --- who waits ---


def test_the_pair(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def write(sock: socket.socket) -> int:
        return await pyloop.send(sock, b"x")

    async def root(left: socket.socket, right: socket.socket) -> None:
        fill_socket(left)
        reader = read(left)
        reading = await pyloop.spawn(reader)
        await pyloop.pause()
        assert watched(selector) == {left: (READ, (reader, None))}
        writer = write(left)
        writing = await pyloop.spawn(writer)
        await pyloop.pause()
        assert watched(selector) == {left: (READ | WRITE, (reader, writer))}
        assert len(selector.get_map()) == 2
        right.send(b"for the reader")
        assert await reading == b"for the reader"
        assert watched(selector) == {left: (WRITE, (None, writer))}
        drain_socket(right)
        assert await writing == 1
        assert watched(selector) == {}

    with pair() as (left, right):
        loop.run(root(left, right))
    assert len(selector.get_map()) == 1


def test_the_next_task_sees_it_already(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    """As with the assignment's own scheduler, which registers when a task yields."""

    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def look(sock: socket.socket, peer: socket.socket) -> Any:
        seen = watched(selector)
        peer.send(b"x")
        return seen

    with pair() as (left, right):
        coro = read(left)
        data, seen = loop.run(coro, look(left, right))
        assert data == b"x"
        assert seen == {left: (READ, (coro, None))}


def test_tasks_take_turns_on_one_socket(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    """The events stay the same; only the data changes."""
    seen = []

    async def read(sock: socket.socket) -> None:
        await pyloop.recv(sock)

    async def root(left: socket.socket, right: socket.socket) -> None:
        for _ in range(5):
            coro = read(left)
            task = await pyloop.spawn(coro)
            await pyloop.pause()
            seen.append(watched(selector) == {left: (READ, (coro, None))})
            right.send(b"x")
            await task

    with pair() as (left, right):
        loop.run(root(left, right))
    assert seen == [True] * 5


def test_a_callback_that_stays_is_registered_once(recorder: Recorder) -> None:
    async def main(left: socket.socket, right: socket.socket) -> None:
        driver.add_reader(left, left.recv, 1)
        for _ in range(50):
            right.send(b"x")
            await asyncio.sleep(0)
        driver.remove_reader(left)

    with contextlib.closing(pyloop.EventLoop(selector=recorder)) as driver, pair() as (left, right):
        recorder.calls.clear()
        driver.run_until_complete(main(left, right))
    changes = [call for call in recorder.calls if call != "select"]
    assert changes == ["register", "unregister"]


def test_a_task_is_out_of_it_before_it_runs_again(recorder: Recorder) -> None:
    """It may close the socket: what is registered then could not be taken out any more."""

    async def read(sock: socket.socket) -> int:
        total = 0
        while data := await pyloop.recv(sock):
            assert watched(recorder) == {}
            total += len(data)
        return total

    async def write(sock: socket.socket) -> None:
        for _ in range(50):
            sock.send(b"x")
            await pyloop.sleep(0.0001)
        sock.shutdown(socket.SHUT_WR)

    with contextlib.closing(pyloop.EventLoop(selector=recorder)) as loop, pair() as (left, right):
        assert loop.run(read(left), write(right)) == [50, None]


@pytest.mark.parametrize("how", ["callback", "cancelled", "resumed"])
def test_a_duplicate_keeps_the_file_open(selector: selectors.BaseSelector, how: str) -> None:
    """epoll goes on to report a closed number whose file lives on: it must not make us spin."""

    async def read(sock: socket.socket) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await pyloop.wait_readable(sock)
        sock.close()

    async def main(left: socket.socket, right: socket.socket) -> None:
        if how == "callback":
            driver.add_reader(left, print)
            await pyloop.sleep(0.001)
            driver.remove_reader(left)
            left.close()
        else:
            task = await pyloop.spawn(read(left))
            await settle()
            if how == "cancelled":
                task.cancel()
            else:
                right.send(b"x")
            await task
        right.send(b"for the duplicate")
        used = time.process_time()
        await pyloop.sleep(0.1)
        assert time.process_time() - used < 0.05

    with (
        contextlib.closing(pyloop.EventLoop(selector=selector)) as driver,
        pair() as (left, right),
        left.dup(),
    ):
        driver.run(main(left, right))


def test_a_callback_is_shown_as_its_handle(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        called = asyncio.Event()
        loop.add_reader(left, called.set)
        loop.add_writer(left.fileno(), lambda: None)
        await pyloop.pause()
        (key,) = (key for key in selector.get_map().values() if key.fd == left.fileno())
        assert key.events == READ | WRITE
        assert all(isinstance(who, asyncio.Handle) for who in key.data)
        assert key.data[0]._callback == called.set
        loop.remove_writer(left)
        right.send(b"x")
        await called.wait()
        loop.remove_reader(left)
        await pyloop.pause()
        assert watched(selector) == {}

    with pair() as (left, right):
        loop.run(root(left, right))


def test_an_asyncio_task_is_shown_as_its_coroutine(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def root(left: socket.socket, right: socket.socket) -> None:
        coro = read(left)
        task = asyncio.create_task(coro)
        await settle()
        assert watched(selector) == {left: (READ, (coro, None))}
        right.send(b"x")
        assert await task == b"x"

    with pair() as (left, right):
        loop.run(root(left, right))


def test_a_generator_is_shown_itself(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    seen = []

    def read(sock: socket.socket) -> Generator[Any, Any, None]:
        yield pyloop.TaskType.TO_READ, sock
        sock.recv(10)

    def look(peer: socket.socket) -> Generator[Any, Any, None]:
        yield None
        seen.append(watched(selector))
        peer.send(b"x")

    with pair() as (left, right):
        reader = read(left)
        loop.create_task(reader)
        loop.create_task(look(right))
        loop.run()
        assert seen == [{left: (READ, (reader, None))}]


# --- what holds on every backend, holds on a selector ---


def test_second_waiter(loop: pyloop.EventLoop) -> None:
    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def root(left: socket.socket, right: socket.socket) -> None:
        first = await pyloop.spawn(read(left), name="the first")
        await settle()
        with pytest.raises(RuntimeError, match="the first"):
            await pyloop.recv(left)
        right.send(b"x")
        assert await first == b"x"

    with pair() as (left, right):
        loop.run(root(left, right))


def test_cancellation(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    async def root(left: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            async with pyloop.timeout(0.005):
                await pyloop.recv(left)
        await pyloop.pause()
        assert watched(selector) == {}

    with pair() as (left, _right):
        loop.run(root(left))


def test_deadlock(loop: pyloop.EventLoop) -> None:
    async def root() -> None:
        await pyloop.Channel().recv()

    with pytest.raises(pyloop.Deadlock):
        loop.run(root())


def test_close_socket(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def root(left: socket.socket) -> None:
        task = await pyloop.spawn(read(left))
        await settle()
        loop.close_socket(left)
        with pytest.raises(OSError):
            await task
        assert watched(selector) == {}

    with pair() as (left, _right):
        loop.run(root(left))


def test_a_reused_number(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    """A socket that is closed behind the loop's back, and another under its number."""

    async def root() -> None:
        for i in range(10):
            left, right = socketpair()
            with right:
                right.send(b"%d" % i)
                await pyloop.wait_readable(left)
                assert await pyloop.recv(left) == b"%d" % i
                left.close()
        left, right = socketpair()
        with left, right:
            task = await pyloop.spawn(read(left))
            await settle()
            duplicate = left.dup()
            loop.close_socket(left)
            with pytest.raises(OSError):
                await task
            duplicate.close()
            new, peer = socketpair()
            with new, peer:
                task = await pyloop.spawn(read(new))
                await settle()
                peer.send(b"new")
                assert await task == b"new"

    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    loop.run(root())
    assert watched(selector) == {}


def test_a_regular_file_is_refused(tmp_path: Any, recorder: Recorder) -> None:
    async def root(file: Any) -> None:
        with pytest.raises(PermissionError):
            await pyloop.wait_readable(file)

    with (
        contextlib.closing(pyloop.EventLoop(selector=recorder)) as loop,
        (tmp_path / "file").open("w") as file,
    ):
        loop.run(root(file))


def test_a_number_that_somebody_else_registered(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        mine = selector.register(left, READ, "mine")
        with pytest.raises(FileExistsError):
            await pyloop.recv(left)
        assert selector.get_key(left) is mine
        right.send(b"x")  # reported, and not the loop's business
        await pyloop.sleep(0.001)
        selector.unregister(left)
        assert await pyloop.recv(left) == b"x"

    with pair() as (left, right):
        loop.run(root(left, right))


def test_many_sockets(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    n = 200

    async def read(sock: socket.socket, rounds: int) -> int:
        total = 0
        for _ in range(rounds):
            total += len(await pyloop.recv(sock, 1))
        return total

    async def root(socks: list[tuple[socket.socket, socket.socket]]) -> int:
        tasks = [await pyloop.spawn(read(left, 3)) for left, _ in socks]
        for _ in range(3):
            for _, right in socks:
                right.send(b"x")
            await pyloop.sleep(0.0001)
        return sum([await task for task in tasks])

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(pair()) for _ in range(n)]
        assert loop.run(root(socks)) == 3 * n
    assert watched(selector) == {}


def test_blocked_sender(loop: pyloop.EventLoop) -> None:
    data = os.urandom(1 << 20)

    async def receive(sock: socket.socket) -> bytes:
        pieces = []
        while piece := await pyloop.recv(sock, 65536):
            pieces.append(piece)
        return b"".join(pieces)

    async def send(sock: socket.socket) -> None:
        await pyloop.sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    with tcp_pair() as (left, right):
        assert loop.run(receive(left), send(right)) == [data, None]


def test_asyncio_streams(loop: pyloop.EventLoop, selector: selectors.BaseSelector) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        assert "read=polling" in repr(writer.transport)
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line

    assert loop.run_until_complete(main()) == b"hello\n"


# --- waking up ---


def test_call_soon_threadsafe_wakes_it(loop: pyloop.EventLoop) -> None:
    async def main() -> None:
        done = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(done.set))
        loop.call_soon(thread.start)
        await asyncio.wait_for(done.wait(), 30)
        thread.join()

    loop.run_until_complete(main())


def test_other_threads_run_while_it_waits(loop: pyloop.EventLoop) -> None:
    async def main() -> int:
        return await asyncio.to_thread(lambda: sum(range(1000)))

    assert loop.run_until_complete(main()) == 499500


def test_a_signal_wakes_it(loop: pyloop.EventLoop) -> None:
    async def main() -> None:
        came = asyncio.Event()
        loop.add_signal_handler(signal.SIGALRM, came.set)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        await asyncio.wait_for(came.wait(), 30)
        loop.remove_signal_handler(signal.SIGALRM)

    loop.run_until_complete(main())


def test_ctrl_c(loop: pyloop.EventLoop) -> None:
    cleaned = []

    async def main() -> None:
        try:
            await pyloop.sleep(60)
        finally:
            cleaned.append(True)

    old = signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            loop.run(main())
    finally:
        signal.signal(signal.SIGALRM, old)
    assert cleaned == [True]


def test_timers_are_never_early(loop: pyloop.EventLoop) -> None:
    async def main() -> None:
        for seconds in (0.0001, 0.001, 0.01):
            start = time.monotonic()
            await pyloop.sleep(seconds)
            assert time.monotonic() - start >= seconds

    loop.run(main())


# --- a selector that raises ---


@pytest.mark.parametrize("method", ["select", "register", "modify", "unregister"])
@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_its_exceptions_come_out_of_run(
    recorder: Recorder, method: str, kind: type[BaseException]
) -> None:
    error = kind("on purpose")

    async def read(sock: socket.socket) -> None:
        await pyloop.recv(sock)

    async def root(left: socket.socket, right: socket.socket) -> None:
        fill_socket(left)
        task = await pyloop.spawn(read(left))
        await settle()
        recorder.failures[method] = error
        writer = await pyloop.spawn(wait_writable(left))
        if method == "register":
            await pyloop.wait_readable(right)
        await pyloop.pause()
        task.cancel()
        writer.cancel()
        await pyloop.sleep(60)

    async def wait_writable(sock: socket.socket) -> None:
        await pyloop.wait_writable(sock)

    with contextlib.closing(pyloop.EventLoop(selector=recorder)) as loop, pair() as (left, right):
        with pytest.raises(kind) as caught:
            try:
                loop.run(root(left, right))
            finally:
                recorder.failures.clear()
        assert caught.value is error


def test_an_os_error_of_select_comes_out(recorder: Recorder) -> None:
    error = InterruptedError(4, "not by a signal")
    recorder.failures["select"] = error

    async def root() -> None:
        await pyloop.sleep(60)

    with contextlib.closing(pyloop.EventLoop(selector=recorder)) as loop:
        with pytest.raises(InterruptedError) as caught:
            try:
                loop.run(root())
            finally:
                recorder.failures.clear()
        assert caught.value is error


@pytest.mark.parametrize("result", [None, 3, [3], [(1, 2, 3)], [(object(), 1)], [("x", "y")]])
def test_a_select_that_returns_nonsense(result: Any) -> None:
    class Nonsense(selectors.SelectSelector):
        answer: Any = []

        def select(self, timeout: float | None = None) -> Any:
            answer, self.answer = self.answer, []
            return answer

    async def root() -> None:
        nonsense.answer = result
        await pyloop.sleep(0.01)

    nonsense = Nonsense()
    with contextlib.closing(pyloop.EventLoop(selector=nonsense)) as loop:
        with pytest.raises((TypeError, AttributeError)):
            loop.run(root())


def test_keys_may_be_other_objects() -> None:
    """Any sequence of (key, mask), where a key has `fd`."""

    class Key:
        def __init__(self, fd: int) -> None:
            self.fd = fd

    class Other(selectors.SelectSelector):
        def select(self, timeout: float | None = None) -> Any:
            return tuple([Key(key.fd), mask] for key, mask in super().select(timeout))

    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def write(sock: socket.socket) -> None:
        sock.send(b"x")

    with contextlib.closing(pyloop.EventLoop(selector=Other())) as loop, pair() as (left, right):
        assert loop.run(read(left), write(right)) == [b"x", None]


def test_a_selector_that_closes_the_loop() -> None:
    problems: list[str] = []

    class Closes(selectors.EpollSelector):
        def unregister(self, fileobj: Any) -> selectors.SelectorKey:
            try:
                driver._release_core()
            except RuntimeError as error:
                problems.append(str(error))
            return super().unregister(fileobj)

    with contextlib.closing(pyloop.EventLoop(selector=Closes())) as driver:
        left, right = socketpair()
        with left, right:
            driver.add_reader(left, print)
            driver.call_soon(driver.stop)
            driver.run_forever()
            driver.close_socket(left)
    assert problems == ["Cannot close the event loop from within its selector"]


def test_a_selector_that_changes_watches_while_it_is_told() -> None:
    left, right = socketpair()

    class Meddles(selectors.EpollSelector):
        depth = 0

        def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
            if fileobj is left and not self.depth:
                self.depth += 1
                driver.add_reader(right, called.append, "right")
                driver.close_socket(left)
            return super().register(fileobj, events, data)

    called: list[str] = []
    with left, right, contextlib.closing(pyloop.EventLoop(selector=Meddles())) as driver:
        driver.add_reader(left, called.append, "left")
        driver.call_later(0.01, driver.stop)
        driver.run_forever()
        driver.remove_reader(right)
        assert "right" in called
        assert "left" not in called


class Asked(asyncio.tasks._PyTask):  # type: ignore[name-defined, misc]
    """A task that runs code where a selector is to be told whose it is."""

    on_ask: list[Callable[[], None]] = []

    def get_coro(self) -> Any:
        while self.on_ask:
            self.on_ask.pop()()
        return super().get_coro()


def recv_in_asked_task(driver: Any, on_ask: Callable[[], None]) -> bytes:
    """Has on_ask() called when a task begins to wait for a byte."""

    async def read(sock: socket.socket) -> bytes:
        Asked.on_ask.append(on_ask)
        driver.call_soon(right.send, b"x")
        data: bytes = await driver.sock_recv(sock, 10)
        return data

    driver.set_task_factory(lambda loop, coro, **options: Asked(coro, loop=loop, **options))
    with pair() as (left, right):
        try:
            result: bytes = driver.run_until_complete(read(left))
        finally:
            assert not Asked.on_ask
    return result


def test_a_task_that_adds_a_high_number_when_asked_whose_it_is() -> None:
    """What is known of each number moves to another place then."""
    number = os.eventfd(0)
    high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 300)
    os.close(number)
    with contextlib.closing(pyloop.EventLoop(selector=selectors.SelectSelector())) as driver:
        assert recv_in_asked_task(driver, lambda: driver.add_reader(high, print)) == b"x"
        assert driver.remove_reader(high)
    os.close(high)


def test_ctrl_c_while_a_task_is_asked_whose_it_is() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with contextlib.closing(pyloop.EventLoop(selector=selectors.SelectSelector())) as driver:
        with pytest.raises(KeyboardInterrupt):
            recv_in_asked_task(driver, interrupt)
        for task in asyncio.all_tasks(driver):
            task.cancel()
        driver.call_soon(driver.stop)
        driver.run_forever()


# --- references ---


def test_collected_with_its_selector(selector: selectors.BaseSelector) -> None:
    selector.loop = loop = pyloop.EventLoop(selector=selector)  # type: ignore[attr-defined]

    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def write(sock: socket.socket) -> None:
        sock.send(b"x")

    with pair() as (left, right):
        assert loop.run(read(left), write(right)) == [b"x", None]
    gone = weakref.ref(loop)
    loop.close()
    del selector.loop, loop  # type: ignore[attr-defined]
    gc.collect()
    assert gone() is None


def test_references_are_given_back(
    loop: pyloop.EventLoop, selector: selectors.BaseSelector
) -> None:
    async def read(sock: socket.socket) -> bytes:
        return await pyloop.recv(sock)

    async def root(left: socket.socket, right: socket.socket) -> None:
        for _ in range(20):
            task = await pyloop.spawn(read(left))
            await pyloop.pause()
            right.send(b"x")
            await task

    with pair() as (left, right):
        loop.run(root(left, right))
        things = (left, right, selector)
        before = [sys.getrefcount(thing) for thing in things]
        for _ in range(10):
            loop.run(root(left, right))
        assert [sys.getrefcount(thing) for thing in things] == before
