"""asyncio's things in our tasks, and ours in asyncio's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import sys
import threading
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from face_support import Reports, pair, settle
from support import listener

import pyloop


def asyncio_run(coro: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
        return runner.run(coro)


RUNS = pytest.mark.parametrize("run", [pyloop.run, asyncio_run], ids=["pyloop.run", "Runner"])


async def value(result: Any, turns: int = 0) -> Any:
    await settle(turns)
    return result


async def fail(error: BaseException, turns: int = 0) -> None:
    await settle(turns)
    raise error


# --- who am I ----------------------------------------------------------------------------------


def test_current_task_is_the_pyloop_task() -> None:
    async def child(seen: list[Any]) -> None:
        seen.append(asyncio.current_task())
        await pyloop.pause()
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    async def root() -> None:
        me = asyncio.current_task()
        assert isinstance(me, pyloop.Task)
        seen: list[Any] = []
        task = await pyloop.spawn(child(seen))
        await task
        assert seen == [task] * 3
        assert asyncio.current_task() is me
        seen = []
        other = asyncio.create_task(child(seen))
        await other
        assert seen == [other] * 3
        assert isinstance(other, asyncio.Task)
        assert asyncio.current_task() is me

    pyloop.run(root())


def test_no_current_task_in_a_callback() -> None:
    async def root() -> None:
        seen: list[Any] = []
        asyncio.get_running_loop().call_soon(lambda: seen.append(asyncio.current_task()))
        await pyloop.pause()
        assert seen == [None]

    pyloop.run(root())


def test_a_task_that_was_current_is_not_kept() -> None:
    async def asks() -> None:
        assert isinstance(asyncio.current_task(), pyloop.Task)

    async def root() -> None:
        ended = weakref.ref(await pyloop.spawn(asks()))
        await pyloop.sleep(0)
        await pyloop.sleep(0)
        assert asyncio.current_task() is not None
        assert ended() is None

    pyloop.run(root())


def test_no_current_task_between_two_steps() -> None:
    """Asked by a destructor, when the task goes that asked before."""
    seen: list[Any] = []
    loop = pyloop.EventLoop()

    class Asks:
        def __del__(self) -> None:
            seen.append(asyncio.current_task(loop))

    async def asks() -> Asks:
        seen.append(isinstance(asyncio.current_task(), pyloop.Task))
        return Asks()  # the result goes with the task

    async def root() -> None:
        await pyloop.spawn(asks())
        await pyloop.pause()
        await pyloop.pause()

    loop.run(root())
    assert seen == [True, None]
    loop.close()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio has no such dictionary any more")
def test_an_ended_step_leaves_nothing_in_asyncios_dictionary() -> None:
    tasks: dict[Any, Any] = asyncio.tasks._current_tasks  # type: ignore[attr-defined]
    kept: list[Any] = []

    def look() -> None:
        kept.extend(tasks.values())

    async def other() -> None:
        kept.extend(tasks.values())

    async def root() -> None:
        loop = asyncio.get_running_loop()
        assert asyncio.current_task() in tasks.values()
        loop.call_soon(look)
        await pyloop.pause()
        assert kept == []
        task = asyncio.create_task(other())
        await task
        assert kept == [task]

    pyloop.run(root())
    assert not tasks


def test_a_loop_with_a_hash_of_its_own_has_a_current_task() -> None:
    class Odd(pyloop.EventLoop):
        def __hash__(self) -> int:
            return 7

    async def child() -> Any:
        await pyloop.pause()
        return asyncio.current_task()

    async def root() -> None:
        me = asyncio.current_task()
        task = await pyloop.spawn(child())
        assert await task is task
        assert asyncio.current_task() is me
        other: asyncio.Task[Any] = asyncio.create_task(child())
        assert await other is other

    loop = Odd()
    assert hash(loop) == 7
    loop.run(root())
    assert asyncio.current_task(loop) is None
    loop.close()


def test_another_thread_may_ask_for_the_current_task() -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(asyncio.current_task(loop)))
        thread.start()
        thread.join()
        assert seen == [me]

    pyloop.run(root())


def test_the_hash_of_a_loop_is_an_objects() -> None:
    loop = pyloop.EventLoop()

    async def root() -> None:
        assert hash(loop) == object.__hash__(loop)

    before = hash(loop)
    assert before == object.__hash__(loop)
    loop.run(root())
    loop.close()
    assert hash(loop) == before


def test_each_task_has_a_context_of_its_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def child() -> str:
        before = variable.get()
        variable.set("child's")
        await pyloop.pause()
        assert variable.get() == "child's"
        return before

    async def root() -> None:
        variable.set("root's")
        task = await pyloop.spawn(child())
        variable.set("root's, later")
        assert await task == "root's"
        assert variable.get() == "root's, later"
        assert task.get_context()[variable] == "child's"

    pyloop.run(root())
    assert variable.get() == "unset"


# --- asyncio in our tasks ----------------------------------------------------------------------


def test_asyncio_sleep(backend: str) -> None:
    async def root() -> str:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(0)
        result = await asyncio.sleep(0.005, "result")
        assert loop.time() - before >= 0.005
        return result

    assert pyloop.run(root(), backend=backend) == "result"


def test_asyncio_timeout() -> None:
    async def root() -> None:
        task = asyncio.current_task()
        assert task is not None
        for forever in (
            pyloop.sleep(1000),
            asyncio.sleep(1000),
            pyloop.Channel().recv(),
            asyncio.Event().wait(),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await forever
            assert task.cancelling() == 0
        async with asyncio.timeout(1000) as limit:
            await pyloop.pause()
            limit.reschedule(None)
        async with asyncio.timeout(None):
            await pyloop.sleep(0.001)
        assert not limit.expired()

    pyloop.run(root())


def test_our_timeout_around_asyncio_things() -> None:
    async def root() -> None:
        for forever in (asyncio.sleep(1000), asyncio.Event().wait(), asyncio.Queue().get()):
            with pytest.raises(TimeoutError):
                async with pyloop.timeout(0.002):
                    await forever

    pyloop.run(root())
    asyncio_run(root())


def test_task_group(backend: str) -> None:
    async def root() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(number, number)) for number in range(5)]
        assert [task.result() for task in tasks] == list(range(5))

        ended: list[str] = []

        async def sleeper() -> None:
            try:
                await pyloop.sleep(1000)
            finally:
                ended.append("cancelled")

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(sleeper())
                group.create_task(fail(ValueError("in the group"), 3))
                await pyloop.sleep(1000)
        assert [str(error) for error in caught.value.exceptions] == ["in the group"]
        assert ended == ["cancelled"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await pyloop.sleep(0)

    pyloop.run(root(), backend=backend)


def test_gather() -> None:
    async def root() -> None:
        chan = pyloop.Channel()
        spawned = await pyloop.spawn(value("spawned", 3))
        results = await asyncio.gather(
            value("coroutine", 1),
            asyncio.create_task(value("task", 2)),
            spawned,
            chan.send("through the channel"),
            chan.recv(),
            pyloop.sleep(0.001),
            asyncio.sleep(0.001, "slept"),
        )
        assert results == [
            "coroutine",
            "task",
            "spawned",
            None,
            "through the channel",
            None,
            "slept",
        ]
        errors = await asyncio.gather(
            fail(ValueError("gathered"), 1), value("fine", 2), return_exceptions=True
        )
        assert isinstance(errors[0], ValueError)
        assert errors[1] == "fine"

    pyloop.run(root())


def test_wait_for() -> None:
    async def root() -> None:
        assert await asyncio.wait_for(value("result", 2), 1000) == "result"
        assert await asyncio.wait_for(await pyloop.spawn(value("spawned", 2)), 1000) == "spawned"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pyloop.sleep(1000), 0.002)
        task = await pyloop.spawn(pyloop.sleep(1000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.002)
        assert task.cancelled()
        with pair() as (left, right):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pyloop.recv(left), 0.002)
            right.send(b"kept")
            assert await asyncio.wait_for(pyloop.recv(left), 1000) == b"kept"

    pyloop.run(root())
    asyncio_run(root())


def test_wait_and_as_completed() -> None:
    async def root() -> None:
        tasks = [await pyloop.spawn(value(number, 5 - number)) for number in range(3)]
        done, pending = await asyncio.wait(tasks)
        assert done == set(tasks)
        assert not pending
        tasks = [
            await pyloop.spawn(pyloop.sleep(1000)),
            await pyloop.spawn(value("first", 2)),
        ]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert done == {tasks[1]}
        tasks[0].cancel()
        order = [
            await future for future in asyncio.as_completed([value("slow", 10), value("fast", 1)])
        ]
        assert order == ["fast", "slow"]

    pyloop.run(root())


def test_shield() -> None:
    async def root() -> None:
        inner = await pyloop.spawn(value("survives", 10))

        async def outer() -> None:
            await asyncio.shield(inner)

        task = await pyloop.spawn(outer())
        await settle(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not inner.cancelled()
        assert await inner == "survives"

    pyloop.run(root())


def test_to_thread_and_executor(backend: str) -> None:
    async def root() -> None:
        me = threading.get_ident()
        assert await asyncio.to_thread(threading.get_ident) != me
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, pow, 2, 10) == 1024
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        results = await asyncio.gather(*(asyncio.to_thread(pow, n, 2) for n in range(20)))
        assert results == [number**2 for number in range(20)]

    pyloop.run(root(), backend=backend)


def test_queue_lock_event_and_others() -> None:
    async def root() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        lock = asyncio.Lock()
        event = asyncio.Event()
        semaphore = asyncio.Semaphore(2)
        barrier = asyncio.Barrier(3)
        condition = asyncio.Condition()
        got: list[int] = []
        inside = 0

        async def producer() -> None:
            for number in range(20):
                await queue.put(number)

        async def consumer() -> None:
            for _ in range(20):
                got.append(await queue.get())
                queue.task_done()

        async def critical() -> None:
            nonlocal inside
            await event.wait()
            async with semaphore, lock:
                inside += 1
                assert inside == 1
                await pyloop.pause()
                await asyncio.sleep(0)
                inside -= 1
            await barrier.wait()
            async with condition:
                condition.notify_all()

        tasks: list[Any] = [await pyloop.spawn(producer()), asyncio.create_task(consumer())]
        tasks += [await pyloop.spawn(critical()), asyncio.create_task(critical())]
        tasks += [await pyloop.spawn(critical())]
        await settle(3)
        event.set()
        for task in tasks:
            await task
        await queue.join()
        assert got == list(range(20))

    pyloop.run(root())
    asyncio_run(root())


def test_futures() -> None:
    async def wait(future: asyncio.Future[str]) -> str:
        return await future

    async def root() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        tasks = [await pyloop.spawn(wait(future)) for _ in range(3)]
        await settle()
        future.set_result("set")
        assert [await task for task in tasks] == ["set"] * 3
        assert await future == "set"

        future = loop.create_future()
        task = await pyloop.spawn(wait(future))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()

        future = loop.create_future()
        task = await pyloop.spawn(wait(future))
        await settle()
        future.set_exception(ValueError("set"))
        loop.set_exception_handler(lambda loop, context: None)
        with pytest.raises(ValueError, match="set"):
            await task

        future = loop.create_future()
        task = await pyloop.spawn(wait(future))
        await settle()
        future.cancel("by its owner")
        with pytest.raises(asyncio.CancelledError):
            await task

    pyloop.run(root())


def test_asyncio_streams_in_our_tasks(backend: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def root() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            with socket.socket() as sock:
                sock.setblocking(False)
                await pyloop.connect(sock, address)
                await pyloop.sendall(sock, b"one\ntwo\n")
                lines = pyloop.lines(sock)
                assert [await anext(lines), await anext(lines)] == ["ONE", "TWO"]
                sock.shutdown(socket.SHUT_WR)
                assert await anext(lines, None) is None

    pyloop.run(root(), backend=backend)


def test_done_callbacks_and_the_task_interface() -> None:
    async def root() -> None:
        seen: list[Any] = []
        coro = value("result", 2)
        task = await pyloop.spawn(coro, name="a name")
        assert task.get_coro() is coro
        assert task.get_name() == "a name"
        task.set_name("another")
        assert task.get_name() == "another"
        assert task.get_loop() is asyncio.get_running_loop()
        assert asyncio.isfuture(task)
        task.add_done_callback(seen.append)
        task.add_done_callback(seen.append)

        def dropped(task: object) -> None:
            seen.append("dropped")

        task.add_done_callback(dropped)
        assert task.remove_done_callback(dropped) == 1
        with pytest.raises(asyncio.InvalidStateError):
            task.result()
        with pytest.raises(asyncio.InvalidStateError):
            task.exception()
        await task
        await settle(2)
        assert seen == [task, task]

    pyloop.run(root())


# --- ours in asyncio's tasks -------------------------------------------------------------------


@RUNS
def test_our_calls_in_an_asyncio_task(run: Any) -> None:
    async def server(sock: socket.socket) -> None:
        conn, _ = await pyloop.accept(sock)
        with conn:
            async for line in pyloop.lines(conn):
                await pyloop.sendall(conn, f"{int(line) * 2}\n".encode())

    async def client(address: Any) -> list[bytes]:
        with socket.socket() as sock:
            sock.setblocking(False)
            await pyloop.connect(sock, address)
            answers = []
            for number in range(10):
                assert await pyloop.send(sock, b"%d\n" % number) == 2
                answers.append(await pyloop.recv(sock))
            return answers

    async def root() -> None:
        with listener() as sock:
            serving = asyncio.create_task(server(sock))
            answers = await asyncio.create_task(client(sock.getsockname()))
            assert answers == [b"%d\n" % (2 * number) for number in range(10)]
            await serving

    run(root())


@RUNS
def test_pause_sleep_spawn_and_timeout_in_an_asyncio_task(run: Any) -> None:
    async def body() -> str:
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await pyloop.sleep(0.002) is None
        assert loop.time() - before >= 0.002
        await pyloop.pause()
        task = await pyloop.spawn(value("spawned", 2))
        assert isinstance(task, pyloop.Task)
        assert await task == "spawned"
        with pytest.raises(TimeoutError):
            async with pyloop.timeout(0.002):
                await pyloop.sleep(1000)
        me = asyncio.current_task()
        assert isinstance(me, asyncio.Task)
        assert me.cancelling() == 0
        return "done"

    async def root() -> None:
        assert await asyncio.create_task(body()) == "done"

    run(root())


@RUNS
@pytest.mark.parametrize("sender", ["pyloop", "asyncio"])
@pytest.mark.parametrize("receiver", ["pyloop", "asyncio"])
@pytest.mark.parametrize("capacity", [0, 2])
def test_a_channel_between_kinds(run: Any, sender: str, receiver: str, capacity: int) -> None:
    async def start(kind: str, coro: Any) -> Any:
        return asyncio.create_task(coro) if kind == "asyncio" else await pyloop.spawn(coro)

    async def send(chan: pyloop.Channel) -> None:
        for number in range(100):
            await chan.send(number)
        chan.close()

    async def receive(chan: pyloop.Channel) -> list[int]:
        return [number async for number in chan]

    async def root() -> None:
        chan = pyloop.Channel(capacity)
        receiving = await start(receiver, receive(chan))
        sending = await start(sender, send(chan))
        assert await receiving == list(range(100))
        await sending

    run(root())


@RUNS
def test_our_awaitables_as_asyncio_tasks(run: Any) -> None:
    async def root() -> None:
        with pair() as (left, right):
            reading = asyncio.create_task(pyloop.recv(left))
            await asyncio.sleep(0)
            await asyncio.create_task(pyloop.sendall(right, b"hello"))
            assert await reading == b"hello"
            both = await asyncio.gather(pyloop.recv(left), pyloop.sendall(right, b"again"))
            assert both == [b"again", None]

    run(root())


@RUNS
def test_cancellation_crosses_the_kinds(run: Any) -> None:
    ended: list[str] = []

    async def inner(name: str) -> None:
        try:
            await pyloop.sleep(1000)
        finally:
            ended.append(name)

    async def join(task: Any) -> None:
        await task

    async def root() -> None:
        spawned = await pyloop.spawn(inner("pyloop inside asyncio"))
        outer: Any = asyncio.create_task(join(spawned))
        await settle()
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert spawned.cancelled()

        created = asyncio.create_task(inner("asyncio inside pyloop"))
        outer = await pyloop.spawn(join(created))
        await settle()
        outer.cancel("across")
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert created.cancelled()

    run(root())
    assert ended == ["pyloop inside asyncio", "asyncio inside pyloop"]


@RUNS
def test_exceptions_cross_the_kinds(run: Any) -> None:
    async def join(task: Any) -> None:
        await task

    async def root() -> None:
        Reports()
        error = ValueError("crosses")
        spawned = await pyloop.spawn(fail(error, 1))
        with pytest.raises(ValueError, match="crosses") as caught:
            await asyncio.create_task(join(spawned))
        assert caught.value is error
        created = asyncio.create_task(fail(error, 1))
        with pytest.raises(ValueError, match="crosses") as caught:
            await (await pyloop.spawn(join(created)))
        assert caught.value is error

    run(root())


def test_loop_create_task_gives_asyncios_task() -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(value(1))
        assert isinstance(task, asyncio.Task)
        assert task in asyncio.all_tasks()
        await task

    pyloop.run(root())
    asyncio_run(root())


def test_run_until_complete_and_run_forever(backend: str) -> None:
    loop = pyloop.EventLoop(backend=backend)
    try:
        assert loop.run_until_complete(value("result", 3)) == "result"
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert loop.run(value("run", 3)) == "run"
        assert loop.run_until_complete(pyloop.sleep(0.001)) is None
        with pytest.raises(ValueError, match="boom"):
            loop.run_until_complete(fail(ValueError("boom"), 2))
    finally:
        loop.close()


def test_threads_reach_the_loop(backend: str) -> None:
    async def root() -> None:
        loop = asyncio.get_running_loop()
        chan = pyloop.Channel(1000)

        def thread(number: int) -> None:
            for turn in range(50):
                loop.call_soon_threadsafe(chan.send_nowait, (number, turn))

        threads = [await pyloop.spawn(asyncio.to_thread(thread, number)) for number in range(4)]
        got = [await chan.recv() for _ in range(200)]
        for number in range(4):
            assert [turn for who, turn in got if who == number] == list(range(50))
        for each in threads:
            await each

        future: list[Any] = []

        def submit() -> None:
            future.append(asyncio.run_coroutine_threadsafe(value("from a thread", 2), loop))
            future.append(future[0].result(10))

        await asyncio.to_thread(submit)
        assert future[1] == "from a thread"

    pyloop.run(root(), backend=backend)


def test_a_comparison_that_removes_another_callback() -> None:
    async def root() -> None:
        called: list[str] = []
        task = await pyloop.spawn(value(None, 3))

        def first(_: Any) -> None:
            called.append("first")

        class Meddler:
            """Takes the first callback off when it is compared for the first time."""

            has_been_asked = False

            def __call__(self, _: Any) -> None:
                called.append("meddler")

            def __eq__(self, other: object) -> bool:
                if not self.has_been_asked:
                    self.has_been_asked = True
                    task.remove_done_callback(first)
                return other is unlike

            __hash__ = None  # type: ignore[assignment]

        unlike = object()
        meddler = Meddler()
        task.add_done_callback(first)
        task.add_done_callback(meddler)
        task.add_done_callback(lambda _: called.append("last"))
        assert task.remove_done_callback(unlike) == 1
        await task
        await settle()
        assert called == ["last"]

    pyloop.run(root())


class Compiled(Coroutine[Any, Any, Any]):
    """A coroutine that is not Python's own, as those of Cython."""

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._coro = coro

    def send(self, value: Any) -> Any:
        return self._coro.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coro.throw(*args)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Any:
        return self._coro.__await__()


def test_a_coroutine_that_is_not_pythons_own() -> None:
    async def child(chan: pyloop.Channel[str]) -> str:
        await asyncio.sleep(0)
        try:
            return await chan.recv()
        except asyncio.CancelledError:
            return "cancelled"

    async def root() -> None:
        chan: pyloop.Channel[str] = pyloop.Channel()
        task = await pyloop.spawn(Compiled(child(chan)))
        await chan.send("value")
        assert await task == "value"
        task = await pyloop.spawn(Compiled(child(chan)))
        await settle()
        task.cancel()
        assert await task == "cancelled"
        with pytest.raises(ZeroDivisionError):
            await (await pyloop.spawn(Compiled(fail(ZeroDivisionError()))))

    assert pyloop.run(Compiled(root()), Compiled(value(3))) == [None, 3]
    with pytest.raises(TypeError, match="needs a coroutine or generator"):
        pyloop.spawn(object())  # type: ignore[arg-type]


class Insistent:
    """A future of somebody's that calls its callbacks again and again."""

    _asyncio_future_blocking = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.callbacks: list[Any] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, fn: Any, *, context: Any) -> None:
        self.callbacks.append(fn)
        self.finish()

    def finish(self) -> None:
        for fn in self.callbacks:
            self._loop.call_soon(fn, self)
            fn(self)

    def result(self) -> str:
        return "result"

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self
        return self.result()


def test_a_future_that_calls_back_twice_does_not_break_into_the_next_wait() -> None:
    async def root() -> None:
        future = Insistent()
        chan: pyloop.Channel[str] = pyloop.Channel()

        async def child() -> tuple[Any, Any]:
            return await future, await chan.recv()

        task = await pyloop.spawn(child())
        await settle()
        future.finish()
        await settle()
        assert not task.done()
        await chan.send("value")
        assert await task == ("result", "value")

    pyloop.run(root())


def test_async_context_managers_of_the_standard_library() -> None:
    async def root() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(pyloop.timeout(1000))
            stack.push_async_callback(pyloop.sleep, 0)
            await pyloop.pause()

    pyloop.run(root())
