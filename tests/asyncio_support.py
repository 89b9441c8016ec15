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


class Noting(asyncio.BaseProtocol):
    """Notes each call; where `on` has something under its name, that is called too."""

    def __init__(self, **on: Callable[..., Any]) -> None:
        self.on = on
        self.calls: list[str] = []
        self.transport: Any = None
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()

    def note(self, name: str, *args: Any) -> Any:
        self.calls.append(name)
        self.changed.set()
        return self.on[name](self, *args) if name in self.on else None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        try:
            self.note("lost", exc)
        finally:
            self.lost.set_result(exc)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for what a call brings about."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Recorder(Noting, asyncio.Protocol):
    """Keeps what has come, too."""

    def __init__(self, **on: Callable[..., Any]) -> None:
        super().__init__(**on)
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data", data)

    def eof_received(self) -> Any:
        return self.note("eof")


class ActsInOne(asyncio.Protocol):
    """Calls `act` in the method that `where` names."""

    PLACES = (
        *("connection_made", "connection_lost", "data_received", "eof_received", "keeps open"),
        *("pause_writing", "resume_writing"),
    )

    def __init__(self, where: str) -> None:
        self.where = where

    def act(self) -> None:
        raise NotImplementedError

    def at(self, where: str) -> None:
        if self.where == where:
            self.act()

    def connection_made(self, transport: Any) -> None:
        self.at("connection_made")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.at("connection_lost")

    def data_received(self, data: bytes) -> None:
        self.at("data_received")

    def eof_received(self) -> bool:
        self.at("eof_received")
        return self.where == "keeps open"

    def pause_writing(self) -> None:
        self.at("pause_writing")

    def resume_writing(self) -> None:
        self.at("resume_writing")


async def turns(n: int) -> None:
    """Let the loop go round n times."""
    for _ in range(n):
        await asyncio.sleep(0)
