"""Python code that runs under pyloop may do anything: no crash, no lost task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import selectors
import signal
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from face_support import pair, settle
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from mischief import ACTION_NAMES, KINDS, PLACES, World, quiet
from model_support import play
from support import no_log, small_heap, while_collecting

import pyloop

# --- in any order --------------------------------------------------------------------------------

# How many rounds of the test marked `stress`: at 5 to 20 ms each.
ROUNDS = int(os.environ.get("PYLOOP_MISCHIEF_ROUNDS", "4000"))

SCRIPTS = st.lists(st.tuples(st.sampled_from(ACTION_NAMES), st.integers(0, 30)), max_size=4)


class Machine(RuleBasedStateMachine):
    """Scripts that do harm, given to pyloop in every place where it calls out."""

    def __init__(self) -> None:
        super().__init__()
        self.world: Any = None

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind: str) -> None:
        self.cleanup = contextlib.ExitStack()
        self.world = World(kind)
        self.cleanup.enter_context(quiet(self.world))
        self.cleanup.callback(self.world.close)

    @rule(place=st.sampled_from(sorted(PLACES)), script=SCRIPTS)
    def do_harm(self, place: str, script: list[tuple[str, int]]) -> None:
        self.world.place(place, script)

    @rule(n=st.integers(1, 3))
    def turn(self, n: int) -> None:
        self.world.turn(n)

    def teardown(self) -> None:
        if self.world is not None:
            with self.cleanup:
                self.world.end()


@pytest.fixture
def quiet_process() -> Iterator[None]:
    with small_heap(), no_log():
        yield


def run_machine(examples: int) -> None:
    class Test(Machine.TestCase):  # type: ignore[name-defined,misc]
        settings = settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )

    Test().runTest()


def test_harm_in_every_place(quiet_process: None) -> None:
    run_machine(25)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_much_harm_in_every_place(quiet_process: None) -> None:
    """Without hypothesis, which takes most of the time and would shorten what fails."""
    play(harmful_round, ROUNDS)


def harmful_round(chance: random.Random, trace: list[str]) -> int:
    world = World(chance.choice(KINDS))
    with quiet(world), contextlib.closing(world):
        for _ in range(chance.choice((3, 8, 30))):
            if chance.random() < 0.4:
                world.turn(chance.randint(1, 3))
                continue
            place = chance.choice(sorted(PLACES))
            script = [
                (chance.choice(ACTION_NAMES), chance.randint(0, 30))
                for _ in range(chance.randint(0, 4))
            ]
            trace.append(f"{place} {script}")
            world.place(place, script)
        world.end()
    return 1


@pytest.mark.stress
@pytest.mark.parametrize("place", sorted(PLACES))
def test_each_action_in_each_place(place: str, quiet_process: None) -> None:
    for action, kind in zip(ACTION_NAMES, itertools.cycle(KINDS), strict=False):
        world = World(kind)
        with quiet(world), contextlib.closing(world):
            world.place(place, [(action, 0), (action, 1)])
            world.turn(3)
            world.place("in_own_task", [])
            world.turn(2)
            world.end()


# --- what was found ------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[pyloop.EventLoop]:
    loop = pyloop.EventLoop()
    yield loop
    loop.close()


def start(coro: Any, kind: str) -> Any:
    if kind == "asyncio":
        return asyncio.create_task(coro)
    loop: Any = asyncio.get_running_loop()
    return loop._create_native_task(coro)


OPERATIONS = {
    "recv": lambda sock: pyloop.recv(sock),
    "sleep": lambda sock: pyloop.sleep(1000),
    "channel": lambda sock: pyloop.Channel().recv(),
    "send": lambda sock: pyloop.Channel().send(1),
}


@pytest.mark.parametrize("end", ["close", "throw"])
@pytest.mark.parametrize("kind", ["pyloop", "asyncio"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_ended_under_a_task(name: str, kind: str, end: str) -> None:
    async def wait(operation: Any) -> None:
        await operation

    async def root() -> None:
        with pair() as (left, _):
            operation: Any = OPERATIONS[name](left)
            task = start(wait(operation), kind)
            await settle()
            if end == "close":
                operation.close()
            else:
                with pytest.raises(KeyError):
                    operation.throw(KeyError("x"))
            with pytest.raises(RuntimeError, match="already awaited"):
                await task

    pyloop.run(root())


@pytest.mark.parametrize("kind", ["pyloop", "asyncio"])
def test_a_coroutine_that_is_closed_under_its_task(kind: str) -> None:
    async def wait() -> None:
        await pyloop.sleep(1000)

    async def root() -> None:
        coro = wait()
        task = start(coro, kind)
        await settle()
        coro.close()
        with pytest.raises(RuntimeError, match="already awaited"):
            await task

    pyloop.run(root())


class Closer:
    """Closes the loop wherever one can be made to run Python code."""

    def __init__(self, loop: pyloop.EventLoop, fd: int = -1) -> None:
        self.loop = loop
        self.fd = fd

    def fileno(self) -> int:
        self.loop.close()
        return self.fd

    def __float__(self) -> float:
        self.loop.close()
        return 1.0

    def __del__(self) -> None:
        self.loop.close()


def nothing(*args: Any) -> None:
    pass


def test_the_loop_is_closed_by_the_arguments_of_its_calls(loop: Any) -> None:
    with pair() as (left, _):
        closer = Closer(loop, left.fileno())
        for name in ("call_later", "call_at", "_add_reader", "_add_writer"):
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                getattr(loop, name)(closer, nothing)
            assert loop.is_closed()
            loop = closer.loop = pyloop.EventLoop()
        assert loop.remove_reader(closer) is False
        assert loop._waiters(closer) == (None, None)


@pytest.mark.parametrize("by", ["add", "remove", "close_socket", "cancel", "signal"])
def test_the_loop_is_closed_by_what_it_drops(loop: Any, by: str) -> None:
    with pair() as (left, right):
        if by == "signal":
            loop._add_signal(signal.SIGUSR1, nothing, Closer(loop))
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                loop._add_signal(signal.SIGUSR1, nothing)
        else:
            handle = loop._add_reader(left, nothing, Closer(loop))
            loop._add_writer(left, nothing)
            if by == "add":
                with pytest.raises(RuntimeError, match="Event loop is closed"):
                    loop._add_reader(left, nothing)
            elif by == "remove":
                loop.remove_reader(left)
            elif by == "cancel":
                handle.cancel()
            else:
                del handle
                loop.close_socket(left)
        assert loop.is_closed()


class ClosingSelector(selectors.DefaultSelector):
    loop: pyloop.EventLoop | None = None
    refused = 0

    def close_loop(self) -> None:
        if self.loop is not None:
            with pytest.raises(RuntimeError, match="Cannot close"):
                self.loop.close()
            self.refused += 1

    def register(self, *args: Any) -> Any:
        self.close_loop()
        return super().register(*args)

    def unregister(self, *args: Any) -> Any:
        self.close_loop()
        return super().unregister(*args)


def test_a_selector_cannot_close_the_loop_that_calls_it() -> None:
    selector = ClosingSelector()
    loop = pyloop.EventLoop(selector=selector)
    selector.loop = loop
    with contextlib.closing(loop), pair() as (left, right):

        async def root() -> bytes:
            loop.remove_reader(left)
            right.send(b"x")
            return await pyloop.recv(left)

        loop.add_reader(left, nothing)
        assert loop.run(root()) == b"x"
        loop.add_reader(left, nothing)
        loop.call_soon(loop.stop)
        loop.run_forever()
        before = selector.refused
        loop.remove_reader(left)
        assert selector.refused > before
        assert loop.run(root()) == b"x"
        selector.loop = None


class OwnChannel:
    """One whose attributes are properties that end who waits."""

    act: Any = staticmethod(nothing)

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {"_sender": None, "_receiver": None}

    def __getattr__(self, name: str) -> Any:
        if name not in ("_sender", "_receiver"):
            raise AttributeError(name)
        self.act("get")
        return self.fields[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_sender", "_receiver"):
            object.__setattr__(self, name, value)
            return
        self.act("set")
        self.fields[name] = value
        self.act("was set")


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("when", ["get", "set", "was set"])
@pytest.mark.parametrize("first", [pyloop.Event.ChanSend, pyloop.Event.ChanRecv])
@pytest.mark.parametrize("whose", [0, 1])
def test_a_channel_that_ends_who_comes(when: str, how: str, first: Any, whose: int) -> None:
    second = pyloop.Event.ChanRecv if first is pyloop.Event.ChanSend else pyloop.Event.ChanSend
    channel = OwnChannel()
    tasks: list[Any] = []

    def act(what: str) -> None:
        if what == when and tasks[whose]._fut_waiter is not None:
            if how == "cancel":
                tasks[whose].cancel()
            else:
                tasks[whose]._fut_waiter.close()

    def use(event: Any) -> Generator[Any, Any, None]:
        yield (event, channel)

    async def root() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        for event in (first, second):
            tasks.append(loop._create_native_task(use(event)))
            if len(tasks) > whose:
                channel.act = act
            await settle()
        channel.act = nothing
        await settle()
        # Who was not met can be cancelled, and leaves nothing behind.
        for task in tasks:
            task.cancel()
        await settle()
        assert all(task.done() for task in tasks)
        # The next two meet.
        channel.fields = {"_sender": None, "_receiver": None}
        tasks[:] = [loop._create_native_task(use(event)) for event in (first, second)]
        await settle()
        assert all(task.done() and not task.cancelled() for task in tasks)

    pyloop.run(root())


def test_a_ready_callback_that_the_end_of_a_task_cancels(loop: Any) -> None:
    """The task that ran last is let go before a callback is called, which its end takes off."""
    called: list[str] = []

    async def ends() -> None:
        pass

    def old() -> None:
        called.append("old")
        loop.stop()

    def new() -> None:
        called.append("new")
        loop.stop()

    with pair() as (left, right):
        right.send(b"x")
        reader = loop._add_reader(left, old)
        reference = weakref.ref(
            loop._create_native_task(ends()), lambda reference: loop.add_reader(left, new)
        )
        loop.run_forever()
        assert reference() is None
        assert reader.cancelled()
        assert called == ["new"]
        loop.remove_reader(left)


def test_what_a_signal_handler_held_may_close_the_loop() -> None:
    loop = pyloop.EventLoop()

    class Callback:
        def __call__(self) -> None:
            pass

        def __del__(self) -> None:
            loop.close()

    loop.add_signal_handler(signal.SIGUSR1, Callback())
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert loop.is_closed()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_handle_that_runs_itself_and_is_cancelled(loop: Any, quiet_process: None) -> None:
    seen: list[Any] = []

    class Argument:
        pass

    def callback(argument: Any) -> None:
        handle._run()
        handle.cancel()
        seen.append(argument)

    argument = Argument()
    reference = weakref.ref(argument)
    handle = loop.call_soon(callback, argument)
    del argument
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [reference()]
    seen.clear()
    assert reference() is None


def test_what_a_callback_raised_is_reported_whatever_its_repr_does(loop: Any) -> None:
    class Callback:
        def __call__(self) -> None:
            raise ValueError("by the callback")

        def __repr__(self) -> str:
            raise TypeError("by its repr")

    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    loop.call_soon(Callback())
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [str(report["exception"]) for report in reports] == ["by the callback"]
    assert [report["message"] for report in reports] == ["Exception in callback <Callback>"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no buffers in Python")
def test_a_buffer_in_a_cycle_is_given_back_before_anything_is_cleared() -> None:
    """What exports it is a function with a closure, which the collector takes apart, too."""
    released: list[str] = []

    def in_a_cycle(sock: Any) -> None:
        class Buffer:
            def __buffer__(self, flags: int) -> memoryview:
                return memoryview(bytearray(10))

            def __release_buffer__(self, view: memoryview) -> None:
                released.append(name)
                box.append(view)

        name = "buffer"
        box: list[Any] = [Buffer()]
        box.append(pyloop.recv_into(sock, box[0]))

    with pair() as (left, _), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # never awaited
        for _ in range(20):
            in_a_cycle(left)
        gc.collect()
    assert released == ["buffer"] * 20


def test_a_loop_that_begins_to_run_cannot_be_closed(loop: pyloop.EventLoop) -> None:
    """What it asks before its first turn may run Python code."""
    refused = []

    def close(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code.co_name == "main_thread":
            sys.setprofile(None)
            try:
                loop.close()
            except RuntimeError as exc:
                refused.append(str(exc))

    loop.call_soon(loop.stop)
    sys.setprofile(close)
    try:
        loop.run_forever()
    finally:
        sys.setprofile(None)
    assert refused == ["Cannot close a running event loop"]


@pytest.mark.parametrize("look", [repr, lambda handle: handle._args])
def test_a_handle_that_the_collector_cancels_while_it_is_shown(
    look: Callable[[Any], Any], loop: Any, quiet_process: None
) -> None:
    loop.set_debug(True)  # from 3.13 on arguments are shown in debug mode only
    handle = loop.call_later(1000, print, "an argument", "another")
    shown = while_collecting(lambda: look(handle), handle.cancel)
    assert "an argument" in str(shown)
    gc.collect()
    assert handle.cancelled()


def test_a_reader_that_the_collector_removes_while_it_is_shown(
    loop: Any, quiet_process: None
) -> None:
    with pair() as (left, _):
        loop.add_reader(left, print)
        shown = while_collecting(lambda: loop._waiters(left), lambda: loop.remove_reader(left))
        assert "Handle" in repr(shown)
        gc.collect()
        assert not loop.remove_reader(left)
