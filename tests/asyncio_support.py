"""What the tests of asyncio's interface share: loops by name, asyncio's own among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pyloop

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def make_loop(kind: str) -> asyncio.AbstractEventLoop:
    """asyncio's own loop for "asyncio", else pyloop's with that backend."""
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    return pyloop.EventLoop(backend=kind)


def runner(kind: str, debug: bool | None = None) -> Run:
    """What runs a coroutine on a new loop of that kind, and ends it after a minute."""

    def run_on(coro: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=lambda: make_loop(kind), debug=debug) as one:
            return one.run(asyncio.wait_for(coro, 60))

    return run_on


async def turns(n: int) -> None:
    """Let the loop go round n times."""
    for _ in range(n):
        await asyncio.sleep(0)
