"""Arguments are bound as the signature that help() shows says, for every function that has one.

The measure is a Python function of that signature (inspect.Signature.bind of 3.13.0 takes some
positional-only arguments as keywords).  The calls give values of the right types, too many and too
few, under right and wrong names: TypeError must come where Python raises it, and nowhere else.
There are few enough of them to make all, so none is left to chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import io
import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from samples import SAMPLES, TYPES, World, generator, nothing

import pyloop
from pyloop import _core

pytestmark = pytest.mark.filterwarnings("ignore:pyloop operation:RuntimeWarning")

# A value of the right type for each name of a parameter.
VALUES: dict[str, Callable[[World], Any]] = {
    "address": lambda world: "/nowhere",
    "args": lambda world: 1,
    "backend": lambda world: "poll",
    "buf": lambda world: bytearray(10),
    "buffer": lambda world: bytearray(10),
    "bufsize": lambda world: 10,
    "callback": lambda world: nothing,
    "capacity": lambda world: 3,
    "context": lambda world: contextvars.copy_context(),
    "coro": lambda world: generator(),
    "data": lambda world: b"data",
    "delay": lambda world: 1000,
    "encoding": lambda world: "latin-1",
    "fd": lambda world: world.left,
    "file": lambda world: io.StringIO(),
    "fn": lambda world: nothing,
    "item": lambda world: int,
    "limit": lambda world: 3,
    "max_line": lambda world: 10,
    "may_wait": lambda world: False,
    "msg": lambda world: "message",
    "n": lambda world: 10,
    "name": lambda world: "name",
    "nbytes": lambda world: 10,
    "number": lambda world: world.left.fileno(),
    "root": lambda world: False,
    "seconds": lambda world: 1000,
    "signum": lambda world: signal.SIGUSR1,
    "sock": lambda world: world.left,
    "task": lambda world: world.loop._create_native_task(generator()),
    "traceback": lambda world: None,
    "type": lambda world: KeyError,
    "value": lambda world: None,
    "when": lambda world: 1e9,
}

# The states in which a method does most.
STATES = {
    "Channel": "buffered",
    "Operation": "driven_recv",
    "Task": "waiting",
    "Lines": "new",
    "Handle": "new",
    "TimerHandle": "new",
    "LoopCore": "initialised",
    "EventLoop": "new",
}


def method_of(kind: str, name: str) -> Callable[[World], Any]:
    return lambda world: getattr(SAMPLES[kind][STATES[kind]](world), name)


def functions() -> dict[str, Callable[[World], Any]]:
    """Name -> what gives the callable: all that C gives a signature."""
    found: dict[str, Callable[[World], Any]] = {"Channel": lambda world: pyloop.Channel}
    for name, value in vars(_core).items():
        if inspect.isbuiltin(value):
            found[name] = lambda world, value=value: value  # type: ignore[misc]
    for kind in STATES:
        for name, value in vars(TYPES[kind]).items():
            if not name.startswith("__") and inspect.ismethoddescriptor(value):
                found[f"{kind}.{name}"] = method_of(kind, name)
    return found


FUNCTIONS = functions()


def value_for(name: str, world: World) -> Any:
    return VALUES[name](world) if name in VALUES else None


def python_function(signature: inspect.Signature) -> Callable[..., None]:
    function: Callable[..., None] = eval(f"lambda {str(signature)[1:-1]}: None")
    return function


def binds(function: Callable[..., None], args: list[Any], kwargs: dict[str, Any]) -> bool:
    try:
        function(*args, **kwargs)
    except TypeError:
        return False
    return True


def call(function: Any, args: list[Any], kwargs: dict[str, Any]) -> TypeError | None:
    """The TypeError, if that is how the call ended."""
    try:
        result = function(*args, **kwargs)
    except TypeError as error:
        return error
    except (Exception, asyncio.CancelledError):
        return None  # it got past its arguments
    if inspect.iscoroutine(result) or isinstance(result, _core.Operation):
        result.close()
    return None


def test_the_functions_are_found() -> None:
    assert {"recv", "sendall", "Channel.send", "spawn", "lines", "Task.cancel"} <= set(FUNCTIONS)
    assert len(FUNCTIONS) > 60


def calls(signature: inspect.Signature) -> Iterator[tuple[list[str], list[str]]]:
    """All of them: every number of positional arguments with every set of keywords.

    As names of parameters, "" for a positional argument too many.
    """
    parameters = signature.parameters.values()
    positional = [p.name for p in parameters if p.kind <= inspect.Parameter.VAR_POSITIONAL]
    names = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    names.add("context")
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        names |= {"nonsense", ""}  # elsewhere they are refused by who gets them in the end
    for n_args in range(len(positional) + 3):
        args = (positional + [""] * 3)[:n_args]
        for n_keywords in range(len(names) + 1):
            for keywords in itertools.combinations(sorted(names), n_keywords):
                yield args, [*keywords]
                if n_keywords > 1:
                    yield args, [*reversed(keywords)]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_binds_as_the_signature_says(name: str) -> None:
    world = World()
    with contextlib.closing(world):
        signature = inspect.signature(FUNCTIONS[name](world))
    reference = python_function(signature)
    for positional, keywords in calls(signature):
        world = World()
        with contextlib.closing(world):
            function = FUNCTIONS[name](world)
            args = [value_for(key, world) for key in positional]
            kwargs = {key: value_for(key, world) for key in keywords}
            world.loop.stop()  # for run_forever
            error = call(function, args, kwargs)
            if binds(reference, args, kwargs):
                assert error is None, f"{name}{signature} refuses {args}, {kwargs}: {error}"
            else:
                assert error is not None, f"{name}{signature} takes {args}, {kwargs}"


@pytest.mark.parametrize("name", ["recv", "spawn", "lines", "Channel.send", "Task.cancel"])
def test_messages_name_the_function_and_the_argument(name: str) -> None:
    world = World()
    with contextlib.closing(world):
        function = FUNCTIONS[name](world)
        short = name.split(".")[-1]
        with pytest.raises(TypeError, match=rf"{short}\(\).*'nonsense'"):
            function(nonsense=1)
        with pytest.raises(TypeError, match=rf"{short}\(\).* \(20 given\)"):
            function(*(None,) * 20)


def test_each_value_goes_to_its_parameter() -> None:
    async def main() -> None:
        names = [
            (await pyloop.spawn(generator(), name="by keyword")).get_name(),
            (await pyloop.spawn(coro=generator(), name="both")).get_name(),
        ]
        assert names == ["by keyword", "both"]

    pyloop.run(main())
    assert pyloop.Channel(3).capacity == pyloop.Channel(capacity=3).capacity == 3
