"""Ctrl-C and signals: a sleeping loop wakes at once, and run ends by KeyboardInterrupt."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest
from face_support import settle

import pyloop

# Each program says "ready" when it is in the state that the signal shall meet. Its peer's end of
# a socket, if it has one, is inherited as descriptor 0.
PROGRAMS = {
    "sleep": "await pyloop.sleep(1000)",
    "long sleep in a spawned task": """
        await (await pyloop.spawn(pyloop.sleep(1000)))
    """,
    "recv": "await pyloop.recv(sock)",
    "accept": "await pyloop.accept(listening)",
    "busy with pauses": """
        while True:
            await pyloop.pause()
    """,
    "busy with recv and send": """
        left, right = socket.socketpair()
        with left, right:
            while True:
                await pyloop.sendall(left, b"x")
                await pyloop.recv(right)
    """,
    "asyncio sleep": "await asyncio.sleep(1000)",
    "lines": """
        async for line in pyloop.lines(sock):
            pass
    """,
}

TEMPLATE = """
import asyncio
import pyloop
import socket

sock = socket.socket(fileno=0)
sock.setblocking(False)
listening = socket.socket()
listening.setblocking(False)
listening.bind(("127.0.0.1", 0))
listening.listen()


async def waits():
    with sock:
        try:
            asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
{body}
        except asyncio.CancelledError:
            print("root cancelled")
            raise
        finally:
            await pyloop.pause()
            await pyloop.sleep(0.001)
            print("root finally")


async def neighbour():
    try:
        await pyloop.sleep(1000)
    finally:
        await pyloop.pause()
        print("neighbour finally")


async def child():
    try:
        await pyloop.Channel().recv()
    finally:
        await pyloop.pause()
        print("child finally")


async def root():
    await pyloop.spawn(child())
    await waits()


try:
    pyloop.run(root(), neighbour(), backend={backend!r})
except KeyboardInterrupt:
    print("KeyboardInterrupt")
print("socket closed:", sock.fileno() == -1)
listening.close()


async def after():
    await pyloop.sleep(0)
    return "another run works"

print(pyloop.run(after()), flush=True)
"""


@pytest.fixture
def peer() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


def start(source: str, theirs: socket.socket) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    return process


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c(program: str, backend: str, peer: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = peer
    body = textwrap.indent(textwrap.dedent(PROGRAMS[program]).strip(), " " * 12)
    with start(TEMPLATE.format(body=body, backend=backend), theirs) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()
            process.send_signal(signal.SIGINT)
            before = time.monotonic()
            assert ours.recv(1) == b"", "the socket was not closed"
            output, errors = process.communicate(timeout=10)
            assert time.monotonic() - before < 2
        finally:
            process.kill()
    assert errors == ""
    assert process.returncode == 0
    lines = output.splitlines()
    for line in (
        "root cancelled",
        "root finally",
        "neighbour finally",
        "child finally",
        "KeyboardInterrupt",
        "socket closed: True",
        "another run works",
    ):
        assert lines.count(line) == 1, output
    assert lines.index("neighbour finally") < lines.index("KeyboardInterrupt")
    assert lines.index("root finally") < lines.index("KeyboardInterrupt")
    assert lines.index("child finally") < lines.index("KeyboardInterrupt")


def test_nobody_catches_it(peer: tuple[socket.socket, socket.socket]) -> None:
    _, theirs = peer
    source = textwrap.dedent("""
        import asyncio, pyloop
        async def root():
            asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
            await pyloop.sleep(1000)
        pyloop.run(root())
    """)
    with start(source, theirs) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_task_that_never_awaits_can_be_stopped(
    peer: tuple[socket.socket, socket.socket],
) -> None:
    _, theirs = peer
    source = textwrap.dedent("""
        import pyloop
        async def root():
            try:
                print("ready", flush=True)
                while True:
                    pass
            finally:
                print("finally")
        try:
            pyloop.run(root())
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
    """)
    with start(source, theirs) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                # The first one may ask politely, as asyncio does; the second one insists.
                process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert output.splitlines() == ["finally", "KeyboardInterrupt"], errors


def test_a_task_that_swallows_the_first_is_stopped_by_another(
    peer: tuple[socket.socket, socket.socket],
) -> None:
    _, theirs = peer
    source = textwrap.dedent("""
        import asyncio, pyloop
        async def root():
            for _ in range(1000):
                try:
                    asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
                    await pyloop.sleep(1000)
                except asyncio.CancelledError:
                    print("swallowed", flush=True)
        try:
            pyloop.run(root())
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
    """)
    with start(source, theirs) as process:
        output: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line.strip())
                if line == "ready\n":
                    process.send_signal(signal.SIGINT)
            process.wait(10)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in output


def test_the_sigint_handler_is_put_back() -> None:
    async def root() -> None:
        await pyloop.pause()

    before = signal.getsignal(signal.SIGINT)
    pyloop.run(root())
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_at_the_very_end_is_not_lost(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the last task has ended, when run is about to put the old handler back."""
    put = signal.signal
    calls = 0

    def interrupted(number: int, handler: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first installs run's handler
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return put(number, handler)  # type: ignore[arg-type]

    async def root() -> None:
        await pyloop.pause()

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pyloop.run(root())
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loop_that_was_never_made_ends_quietly() -> None:
    """Ctrl-C may come between the making of the object and its __init__, or within that."""
    loop = pyloop.EventLoop.__new__(pyloop.EventLoop)
    loop.close()
    assert loop.is_closed()
    loop.close()


def test_a_sigint_handler_of_the_program_is_left_alone() -> None:
    seen: list[int] = []

    async def root() -> str:
        signal.raise_signal(signal.SIGINT)
        await pyloop.sleep(0.001)
        await settle()
        return "went on"

    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        assert pyloop.run(root()) == "went on"
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_ctrl_c_inside_the_process() -> None:
    ended: list[str] = []

    async def root() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await pyloop.sleep(1000)
        finally:
            ended.append("root")

    with pytest.raises(KeyboardInterrupt):
        pyloop.run(root())
    assert ended == ["root"]


def test_a_signal_handler_runs_while_the_loop_sleeps(backend: str) -> None:
    seen: list[float] = []

    async def root() -> float:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        await pyloop.sleep(0.5)
        return time.monotonic()

    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(time.monotonic()))
    try:
        end = pyloop.run(root(), backend=backend)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == 1
    assert end - seen[0] > 0.25, "the handler ran only when the sleep was over"


def test_a_signal_handler_that_raises_ends_the_run() -> None:
    class Alarm(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Alarm

    async def root() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        await pyloop.sleep(1000)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Alarm):
            pyloop.run(root())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_add_signal_handler_of_asyncio(backend: str) -> None:
    async def root() -> str:
        loop = asyncio.get_running_loop()
        chan = pyloop.Channel(1)
        loop.add_signal_handler(signal.SIGUSR1, chan.send_nowait, "signalled")
        try:
            loop.call_later(0.005, signal.raise_signal, signal.SIGUSR1)
            return await chan.recv()
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    assert pyloop.run(root(), backend=backend) == "signalled"
