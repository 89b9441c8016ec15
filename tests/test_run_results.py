"""What run returns and raises, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
from face_support import Reports, pair, settle

import pyloop


class Boom(Exception):
    pass


class BaseBoom(BaseException):
    pass


async def value(result: Any, turns: int = 0) -> Any:
    await settle(turns)
    return result


async def fail(error: BaseException, turns: int = 0) -> None:
    await settle(turns)
    raise error


def test_one_coroutine_gives_its_result(backend: str) -> None:
    assert pyloop.run(value("result"), backend=backend) == "result"
    assert pyloop.run(value(None)) is None


def test_several_give_the_list_of_their_results(backend: str) -> None:
    assert pyloop.run(value("a", 3), value("b", 1), value(None), backend=backend) == [
        "a",
        "b",
        None,
    ]


def test_our_awaitables_can_be_roots() -> None:
    chan = pyloop.Channel()
    assert pyloop.run(chan.recv(), chan.send("value")) == ["value", None]


def test_a_root_that_raises_before_its_first_await() -> None:
    error = Boom("at once")
    with pytest.raises(Boom) as caught:
        pyloop.run(fail(error))
    assert caught.value is error


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_root_that_raises_ends_the_others_and_the_exception_is_unchanged(
    position: int, backend: str
) -> None:
    ended: list[str] = []
    error = Boom("unchanged")

    async def other(name: str, sock: socket.socket) -> None:
        try:
            await pyloop.recv(sock)
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise
        finally:
            await pyloop.pause()
            await pyloop.sleep(0)
            ended.append(f"{name} finally")

    with pair() as (left, right):
        roots: list[Any] = [other("left", left), other("right", right)]
        roots.insert(position, fail(error, 3))
        with pytest.raises(Boom) as caught:
            pyloop.run(*roots, backend=backend)
    assert caught.value is error
    assert caught.value.args == ("unchanged",)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "fail" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert sorted(ended) == [
        "left cancelled",
        "left finally",
        "right cancelled",
        "right finally",
    ]


def test_spawned_tasks_are_cancelled_too_when_a_root_raises() -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await pyloop.sleep(1000)
        finally:
            await pyloop.pause()
            ended.append("child")

    async def root() -> None:
        await pyloop.spawn(child())
        await pyloop.pause()
        raise Boom

    with pytest.raises(Boom):
        pyloop.run(root())
    assert ended == ["child"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, BaseBoom, GeneratorExit])
def test_base_exceptions_of_a_root_pass_through(kind: type[BaseException]) -> None:
    ended: list[str] = []
    error = kind("as it is")

    async def other() -> None:
        try:
            await pyloop.sleep(1000)
        finally:
            ended.append("other")

    with pytest.raises(kind) as caught:
        pyloop.run(other(), fail(error, 3))
    assert caught.value is error
    assert ended == ["other"]


def test_a_second_root_that_raises_while_it_is_cancelled() -> None:
    first = Boom("first")

    async def sore_loser() -> None:
        try:
            await pyloop.sleep(1000)
        except asyncio.CancelledError:
            raise second from None

    async def root() -> None:
        reports.append(Reports())
        await fail(first, 3)

    second = ValueError("second")
    reports: list[Reports] = []
    with pytest.raises(Boom) as caught:
        pyloop.run(sore_loser(), root())
    assert caught.value is first
    assert reports[0].exceptions == [second]


@pytest.mark.parametrize("ending", ["root", "deadlock", "interrupt"])
def test_what_a_root_raises_at_the_end_of_another_is_reported(
    ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def sore_loser() -> None:
        try:
            await pyloop.Channel[None]().recv()
        finally:
            raise OSError("while cleaning up")

    async def ends() -> None:
        await pyloop.pause()
        if ending == "root":
            raise Boom
        if ending == "interrupt":
            signal.raise_signal(signal.SIGINT)
        await pyloop.Channel[None]().recv()

    kinds = {"root": Boom, "deadlock": pyloop.Deadlock, "interrupt": KeyboardInterrupt}
    with pytest.raises(kinds[ending]):
        pyloop.run(sore_loser(), ends())
    assert caplog.text.count("unhandled exception during run() shutdown") == 1
    assert caplog.text.count("OSError: while cleaning up") == 1


def test_a_root_that_is_cancelled_from_within() -> None:
    async def root() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await pyloop.pause()

    with pytest.raises(asyncio.CancelledError):
        pyloop.run(root())


def test_run_waits_for_the_spawned_tasks() -> None:
    ended: list[str] = []

    async def child(depth: int) -> None:
        await pyloop.sleep(0.002)
        if depth:
            await pyloop.spawn(child(depth - 1))
        ended.append(f"child {depth}")

    async def root() -> str:
        await pyloop.spawn(child(3))
        return "root"

    assert pyloop.run(root()) == "root"
    assert sorted(ended) == ["child 0", "child 1", "child 2", "child 3"]


def test_a_spawned_task_can_be_joined() -> None:
    async def root() -> None:
        task = await pyloop.spawn(value("result", 3), name="by name")
        assert isinstance(task, pyloop.Task)
        assert task.get_name() == "by name"
        assert not task.done()
        assert await task == "result"
        assert task.done()
        assert task.result() == "result"
        assert task.exception() is None
        assert not task.cancelled()
        assert await task == "result"

    pyloop.run(root())


def test_several_tasks_join_one() -> None:
    async def join(task: pyloop.Task) -> Any:
        return await task

    async def root() -> None:
        task = await pyloop.spawn(value("result", 5))
        joins = [await pyloop.spawn(join(task)) for _ in range(5)]
        assert [await other for other in joins] == ["result"] * 5

    pyloop.run(root())


def test_a_spawned_task_that_raises_is_raised_where_it_is_awaited() -> None:
    async def root() -> None:
        Reports()
        error = Boom("of the child")
        task = await pyloop.spawn(fail(error, 3))
        with pytest.raises(Boom) as caught:
            await task
        assert caught.value is error
        assert task.exception() is error

    pyloop.run(root())


def test_a_spawned_task_that_raises_is_reported_and_the_others_go_on() -> None:
    error = Boom("of the child")
    went_on: list[str] = []

    async def sibling() -> None:
        await pyloop.sleep(0.002)
        went_on.append("sibling")

    async def root() -> Reports:
        reports = Reports()
        await pyloop.spawn(fail(error, 1), name="the failing child")
        await pyloop.spawn(sibling())
        await pyloop.sleep(0.001)
        went_on.append("root")
        return reports

    reports = pyloop.run(root())
    assert went_on == ["root", "sibling"]
    assert reports.exceptions == [error]
    context = reports.contexts[0]
    assert isinstance(context["message"], str)
    assert any(isinstance(item, pyloop.Task) for item in context.values())


def test_without_a_handler_a_failed_child_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def root() -> str:
        await pyloop.spawn(fail(Boom("seen in the log")))
        await settle()
        return "went on"

    assert pyloop.run(root()) == "went on"
    assert "seen in the log" in caplog.text


def test_a_spawned_task_that_is_cancelled_is_not_reported() -> None:
    async def root() -> Reports:
        reports = Reports()
        task = await pyloop.spawn(pyloop.sleep(1000))
        await settle()
        task.cancel()
        await settle()
        assert task.cancelled()
        return reports

    assert pyloop.run(root()).contexts == []


def test_stuck_spawned_tasks_are_cancelled_when_all_else_has_ended() -> None:
    ended: list[str] = []

    async def stuck(name: str) -> None:
        try:
            await pyloop.Channel().recv()
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise
        finally:
            await pyloop.pause()
            ended.append(f"{name} finally")

    async def slow() -> None:
        await pyloop.sleep(0.005)
        ended.append("slow")

    async def root() -> str:
        await pyloop.spawn(stuck("a"))
        await pyloop.spawn(slow())
        await pyloop.spawn(stuck("b"))
        return "root"

    assert pyloop.run(root()) == "root"
    assert ended[0] == "slow"
    assert sorted(ended[1:]) == ["a cancelled", "a finally", "b cancelled", "b finally"]


def test_asyncio_tasks_still_open_at_the_end_are_cancelled() -> None:
    ended: list[str] = []

    async def open_ended() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            ended.append("asyncio task")

    kept: list[Any] = []

    async def root() -> str:
        kept.append(asyncio.create_task(open_ended()))
        await pyloop.pause()
        return "root"

    assert pyloop.run(root()) == "root"
    assert ended == ["asyncio task"]
    assert kept[0].cancelled()


def test_async_generators_still_open_at_the_end_are_closed() -> None:
    ended: list[str] = []
    kept: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await pyloop.pause()
            ended.append("generator")

    async def root() -> int:
        kept.append(numbers())
        return await anext(kept[0])

    assert pyloop.run(root()) == 1
    assert ended == ["generator"]


def test_run_after_run(backend: str) -> None:
    for number in range(20):
        assert pyloop.run(value(number, 2), backend=backend) == number


def test_asynchronous_generators_in_a_second_run_of_a_loop() -> None:
    """Without the ResourceWarning of one that is used after shutdown_asyncgens()."""
    ended: list[str] = []
    kept: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def root() -> int:
        kept.append(numbers())
        return await anext(kept[-1])

    with contextlib.closing(pyloop.EventLoop()) as loop:
        assert [loop.run(root()), loop.run(root())] == [1, 1]
    assert ended == ["generator"] * 2


@pytest.mark.parametrize("where", ["asyncio task", "generator"])
def test_what_a_finally_block_spawns_at_the_end_runs_to_its_own_end(where: str) -> None:
    ended: list[str] = []

    async def say_goodbye() -> None:
        await settle()
        ended.append("said")

    async def generate() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await pyloop.spawn(say_goodbye())

    async def wait() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await pyloop.spawn(say_goodbye())

    open_at_the_end: list[Any] = []

    async def root() -> None:
        if where == "generator":
            open_at_the_end.append(generate())
            await anext(open_at_the_end[0])
        else:
            open_at_the_end.append(asyncio.create_task(wait()))
            await settle()

    pyloop.run(root())
    assert ended == ["said"]


def test_no_loop_is_running_or_set_afterwards() -> None:
    pyloop.run(value(1))
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


# --- EventLoop.run -------------------------------------------------------------------------------


def test_a_loop_may_run_again_and_stays_open(backend: str) -> None:
    loop = pyloop.EventLoop(backend=backend)
    try:
        assert loop.run(value("one", 1)) == "one"
        assert not loop.is_closed()
        assert not loop.is_running()
        assert loop.run(value("a", 2), value("b")) == ["a", "b"]
        with pytest.raises(Boom):
            loop.run(fail(Boom(), 2))
        assert loop.run(value("three")) == "three"
        assert not loop.is_closed()
    finally:
        loop.close()
    assert loop.is_closed()


def test_run_without_arguments_runs_main_and_what_create_task_gave() -> None:
    ended: list[str] = []

    async def note(name: str, turns: int) -> None:
        await settle(turns)
        ended.append(name)

    loop = pyloop.EventLoop(main=note("main", 3))
    try:
        loop.create_task(note("created", 1))
        loop.create_task(note("created later", 5))
        loop.run()
        assert ended == ["created", "main", "created later"]
        loop.create_task(note("again", 1))
        loop.run()
        assert ended[-1] == "again"
    finally:
        loop.close()


def test_main_may_be_given_by_position() -> None:
    ended: list[str] = []

    async def note() -> None:
        ended.append("main")

    loop = pyloop.EventLoop(note())
    try:
        loop.run()
    finally:
        loop.close()
    assert ended == ["main"]


def test_the_loop_is_the_running_loop_of_asyncio() -> None:
    async def root() -> None:
        assert asyncio.get_running_loop() is loop
        assert loop.is_running()

    loop = pyloop.EventLoop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    try:
        loop.run(root())
    finally:
        loop.close()


def test_debug_is_passed_to_the_loop() -> None:
    async def root() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert pyloop.run(root(), debug=True) is True
    assert pyloop.run(root(), debug=False) is False


def test_done_callbacks_of_the_last_task_run() -> None:
    ended: list[str] = []

    async def root() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda done: ended.append(done.result()))
        return "root"

    assert pyloop.run(root()) == "root"
    assert ended == ["root"]


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_run_waits_for_what_its_threads_are_at(fails: bool) -> None:
    begun, finish, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        finish.wait(60)
        finished.set()

    async def root() -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, work)
        begun.wait(60)
        # When the loop has no task left, and waits for the thread.
        loop.call_later(0.01, finish.set)
        if fails:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        pyloop.run(root())
    assert finished.is_set()
