"""The assignment's own code blocks, taken from its text and run on pyloop as they stand.

What a block leaves to its reader (`...`) comes from pyloop; each test says what it puts in. Two
places cannot be left as they are: the placeholder `def run(*coros): ...`, which would hide
pyloop's, and a typing error in the block with ping and pong, see `PING_PONG_TYPO`.
"""

from __future__ import annotations

import ast
import asyncio
import queue
import random
import re
import socket
import textwrap
import threading
import types
from collections.abc import Callable, Generator, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Any

import pytest

import pyloop

SEEDS = Path(__file__).parents[1].parent / "shared" / "seeds"
TEXTS = sorted(SEEDS.glob("000*.txt"))

pytestmark = pytest.mark.skipif(not TEXTS, reason="the assignment's text is not there")

RUN_PLACEHOLDER = "def run(*coros):\n    ...\n"
PING_PONG_TYPO = ("asyn:c def pong(chan)\n", "async def pong(chan):\n")


def block(*marks: str) -> str:
    """The one code block of the assignment that has all these pieces of text in it."""
    text = TEXTS[0].read_text(encoding="utf-8")
    blocks = re.findall(r"^``` ?\n(.*?)^``` ?$", text, re.DOTALL | re.MULTILINE)
    found = [code for code in blocks if all(mark in code for mark in marks)]
    assert len(found) == 1, f"{len(found)} blocks have {marks}"
    return found[0]


def execute(code: str, **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "assignment", **names}
    exec(compile(code, str(TEXTS[0]), "exec"), namespace)
    return namespace


class Done(Exception):
    """What a test's own root raises to end a server that would go on for ever."""


class SocketModule:
    """`socket` as the blocks see it: listeners are noted, so that port 0 can be found again."""

    AF_INET = socket.AF_INET
    SOCK_STREAM = socket.SOCK_STREAM

    def __init__(self) -> None:
        self.made: list[socket.socket] = []
        self.connected: list[socket.socket] = []
        self.redirect: Any = None

    def socket(self, *arguments: Any) -> socket.socket:
        self.made.append(socket.socket(*arguments))
        return self.made[-1]

    def create_connection(self, address: Any) -> socket.socket:
        # The client's block has port 8080 in it, which may be somebody else's here.
        self.connected.append(socket.create_connection(self.redirect or address, timeout=10))
        return self.connected[-1]

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.made[0].getsockname()[1])


async def until_listening(module: SocketModule) -> tuple[str, int]:
    while not module.made or not module.made[0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        await pyloop.pause()
    return module.address


PYLOOP_NAMES = {
    name: getattr(pyloop, name)
    for name in ("accept", "recv", "send", "spawn", "run", "pause", "lines", "sendall")
}


def quiet(*values: object) -> None:
    """`print` for the blocks whose output is not what is tested."""


# --- exercise 1 a: pause and run ---------------------------------------------------------------


@pytest.mark.parametrize("whose", ["pyloop's pause", "the assignment's pause"])
def test_silly(whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = block("async def silly", RUN_PLACEHOLDER).replace(RUN_PLACEHOLDER, "")
    if whose == "pyloop's pause":
        pause = pyloop.pause
    else:
        pause = execute(block("def pause():", "Event.Pause"))["pause"]
    execute(code, run=pyloop.run, pause=pause)
    assert capsys.readouterr().out == "a b c a b c a b c "


# --- exercise 1 b, c: accept, recv, send -------------------------------------------------------


def assignments_accept() -> dict[str, Any]:
    """What its block with `accept` defines, where the block before has done the imports."""
    return execute(block("def accept(sock):", "Event.Accept"), Enum=Enum, auto=auto, types=types)


def reader_made_calls() -> dict[str, Any]:
    """The assignment's accept, and beside it recv, send and spawn as its reader writes them."""
    namespace = assignments_accept()
    extended = Enum("Event", [*namespace["Event"].__members__, "Send", "Recv", "Spawn"])
    namespace["Event"] = extended

    @types.coroutine
    def recv(sock: socket.socket, bufsize: int = 1024) -> Generator[Any, Any, bytes]:
        yield (extended["Recv"], sock)
        return sock.recv(bufsize)

    @types.coroutine
    def send(sock: socket.socket, data: bytes) -> Generator[Any, Any, int]:
        yield (extended["Send"], sock)
        return sock.send(data)

    @types.coroutine
    def spawn(coro: Any) -> Generator[Any, Any, Any]:
        return (yield (extended["Spawn"], coro))

    return {"accept": namespace["accept"], "recv": recv, "send": send, "spawn": spawn}


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "pyloop's calls": lambda: PYLOOP_NAMES,
    "the reader's traps": reader_made_calls,
}

calls = pytest.mark.parametrize("whose", CALLS)


def run_server(server: Any, module: SocketModule, clients: Any, backend: str) -> None:
    async def testing() -> None:
        await clients(await until_listening(module))
        raise Done

    with pytest.raises(Done):
        pyloop.run(server, testing(), backend=backend)
    assert module.made[0].fileno() == -1, "the listener was left open"


async def ask(address: tuple[str, int], numbers: list[int]) -> list[bytes]:
    with socket.socket() as sock:
        sock.setblocking(False)
        await pyloop.connect(sock, address)
        answers = []
        for number in numbers:
            await pyloop.sendall(sock, b"%d\n" % number)
            answers.append(await pyloop.recv(sock))
        return answers


@calls
def test_the_accept_of_the_assignment(whose: str, backend: str) -> None:
    """Exercise 1 b: its `accept` alone, `(Event.Accept, sock)` from an Enum of two members."""
    accept = assignments_accept()["accept"] if whose == "the reader's traps" else pyloop.accept

    async def client(address: Any) -> Any:
        with socket.socket() as sock:
            sock.setblocking(False)
            await pyloop.connect(sock, address)
            return sock.getsockname()

    async def server(sock: socket.socket) -> Any:
        conn, addr = await accept(sock)
        assert conn.gettimeout() == 0.0
        conn.close()
        return addr

    with socket.socket() as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        addr, name = pyloop.run(server(sock), client(sock.getsockname()), backend=backend)
    assert addr == name


@calls
def test_the_server_for_one_client(whose: str, backend: str) -> None:
    module = SocketModule()
    namespace = execute(
        block("await doubling_connection(conn, addr)\n            \nasync def"),
        socket=module,
        print=quiet,
        **CALLS[whose](),
    )

    async def clients(address: tuple[str, int]) -> None:
        # This block answers with the number itself.
        for _ in range(3):
            assert await ask(address, [1, 2, 3]) == [b"1\n", b"2\n", b"3\n"]

    run_server(namespace["doubling_server"](port=0), module, clients, backend)


def test_the_assignments_own_client(backend: str) -> None:
    """Exercise 1 c: its server for one client with its client, which runs in a thread."""
    module = SocketModule()
    names = dict(PYLOOP_NAMES, socket=module, print=quiet)
    server = execute(
        block("await doubling_connection(conn, addr)\n            \nasync def"), **names
    )
    printed: list[tuple[int, str]] = []
    rounds = 5

    class Time:
        """Its pause between two questions: none, and the end after some rounds."""

        @staticmethod
        def sleep(seconds: float) -> None:
            assert 0 <= seconds <= 2
            if len(printed) == rounds:
                raise Done

    client = execute(
        block("def doubling_client("),
        socket=module,
        random=random,
        time=Time,
        print=lambda *values: printed.append(values),
        **{name: value for name, value in names.items() if name not in ("socket", "print")},
    )

    async def clients(address: tuple[str, int]) -> None:
        with pytest.raises(Done):
            await asyncio.to_thread(client["doubling_client"], address)
        # The block closes the file that it made of its socket, and not the socket.
        module.connected[0].close()

    run_server(server["doubling_server"](port=0), module, clients, backend)
    assert len(printed) == rounds
    assert all(answer == f"{number}\n" for number, answer in printed)


# --- exercise 1 d: spawn -----------------------------------------------------------------------


@calls
def test_the_server_for_many_clients(whose: str, backend: str) -> None:
    module = SocketModule()
    namespace = execute(
        block("async def doubling_server", "await spawn(doubling_connection"),
        socket=module,
        print=quiet,
        **CALLS[whose](),
    )

    async def clients(address: tuple[str, int]) -> None:
        # Five at a time: the block listens with a backlog of five.
        for first in range(0, 20, 5):
            numbers = range(first, first + 5)
            tasks = [await pyloop.spawn(ask(address, [number, 100])) for number in numbers]
            for number, task in zip(numbers, tasks, strict=True):
                assert await task == [b"%d\n" % (2 * number), b"200\n"]

    run_server(namespace["doubling_server"](port=0), module, clients, backend)


@calls
def test_the_accepting_loop_alone(whose: str, backend: str) -> None:
    """Exercise 1 d shows the loop without its function; it is put into one."""
    code = block("while True:\n    conn, addr = await accept(s)")
    assert code.startswith("while True:")
    served: list[Any] = []

    async def doubling_connection(conn: socket.socket, addr: Any) -> None:
        with conn:
            served.append(addr)
            async for line in pyloop.lines(conn):
                await pyloop.sendall(conn, f"{int(line) * 2}\n".encode())

    namespace = execute(
        "async def loop(s):\n" + textwrap.indent(code, "    "),
        doubling_connection=doubling_connection,
        **CALLS[whose](),
    )
    module = SocketModule()

    async def server() -> None:
        with module.socket() as s:
            s.setblocking(False)
            s.bind(("127.0.0.1", 0))
            s.listen(5)
            await namespace["loop"](s)

    async def clients(address: tuple[str, int]) -> None:
        tasks = [await pyloop.spawn(ask(address, [number])) for number in range(5)]
        for number, task in enumerate(tasks):
            assert await task == [b"%d\n" % (2 * number)]

    run_server(server(), module, clients, backend)
    assert len(served) == 5


# --- exercise 3: the channel -------------------------------------------------------------------


def readers_channel() -> Any:
    """The assignment's class Channel with the two methods that it asks its reader for."""
    event = Enum("Event", ["Pause", "ChanSend", "ChanRecv"])
    base = execute(block("class Channel:", "self._sender = self._receiver = None"))["Channel"]

    class Channel(base):  # type: ignore[misc]
        @types.coroutine
        def send(self, value: Any = None) -> Generator[Any, Any, None]:
            self._value = value
            yield (event["ChanSend"], self)

        @types.coroutine
        def recv(self) -> Generator[Any, Any, Any]:
            yield (event["ChanRecv"], self)
            return self._value

    return Channel


@pytest.mark.parametrize("whose", ["pyloop's Channel", "the assignment's Channel"])
def test_ping_and_pong(whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = block('print("ping")', 'print("pong")')
    with pytest.raises(SyntaxError):
        ast.parse(code)
    assert PING_PONG_TYPO[0] in code
    code = code.replace(*PING_PONG_TYPO)
    channel = pyloop.Channel if whose == "pyloop's Channel" else readers_channel()
    execute(code, run=pyloop.run, Channel=channel)
    assert capsys.readouterr().out == "ping\npong\nping\npong\n"


@pytest.mark.parametrize("receiver_first", [False, True])
def test_messages_through_the_assignments_channel(receiver_first: bool) -> None:
    chan = readers_channel()()

    async def sender() -> None:
        for number in range(50):
            await chan.send(number)

    async def receiver() -> list[int]:
        return [await chan.recv() for _ in range(50)]

    if receiver_first:
        got = pyloop.run(receiver(), sender())[0]
    else:
        got = pyloop.run(sender(), receiver())[1]
    assert got == list(range(50))


# --- exercise 4: Thundergram -------------------------------------------------------------------


class Stdin:
    """The lines that a user types, one by one, as the test gives them."""

    def __init__(self) -> None:
        self.typed: queue.Queue[str | None] = queue.Queue()

    def __iter__(self) -> Iterator[str]:
        while (line := self.typed.get(timeout=10)) is not None:
            yield line + "\n"


class Terminal:
    """The assignment's client, in a thread, with a keyboard and a screen of its own."""

    def __init__(self, module: SocketModule) -> None:
        self.stdin = Stdin()
        self.screen: list[str] = []
        self.threads: list[threading.Thread] = []
        self.client = execute(
            block("def thundergram_client"),
            socket=module,
            sys=types.SimpleNamespace(stdin=self.stdin),
            threading=types.SimpleNamespace(Thread=self.make_thread),
            print=self.screen.append,
        )["thundergram_client"]
        self.make_thread(target=self.client).start()

    def make_thread(self, **options: Any) -> threading.Thread:
        self.threads.append(threading.Thread(**options))
        return self.threads[-1]

    def types_in(self, line: str | None) -> None:
        self.stdin.typed.put(line)

    def ended(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads)


def test_the_thundergram_client(backend: str) -> None:
    """Its client, twice, against a server by its algorithm out of pyloop's parts."""
    module = SocketModule()
    peers: dict[str, pyloop.Channel] = {}

    async def writer(conn: socket.socket, chan: pyloop.Channel) -> None:
        async for author, message in chan:
            await pyloop.sendall(conn, f"{author}: {message}\n".encode())

    async def connection(conn: socket.socket, addr: Any) -> None:
        with conn:
            lines = pyloop.lines(conn)
            login = await lines.__anext__()
            peers[login] = pyloop.Channel()
            await pyloop.spawn(writer(conn, peers[login]))
            async for line in lines:
                names, message = line.split(": ", 1)
                for name in names.split(","):
                    if name in peers:
                        await peers[name].send((login, message))

    async def server() -> None:
        with module.socket() as s:
            s.setblocking(False)
            s.bind(("127.0.0.1", 0))
            s.listen(5)
            while True:
                conn, addr = await pyloop.accept(s)
                await pyloop.spawn(connection(conn, addr))

    terminals: list[Terminal] = []

    async def until(condition: Callable[[], bool]) -> None:
        async with pyloop.timeout(10):
            while not condition():
                await pyloop.sleep(0.001)

    async def clients(address: tuple[str, int]) -> None:
        module.redirect = address
        bob, alice = Terminal(module), Terminal(module)
        terminals.extend([bob, alice])
        bob.types_in("bob")
        alice.types_in("alice")
        await until(lambda: len(peers) == 2)
        bob.types_in("alice,robert: Hi, this is bob.")
        bob.types_in("alice: how are you?")
        await until(lambda: len(alice.screen) == 2)
        alice.types_in("bob,alice: привет")
        await until(lambda: len(bob.screen) == 1 and len(alice.screen) == 3)
        assert alice.screen == [
            "bob: Hi, this is bob.\n",
            "bob: how are you?\n",
            "alice: привет\n",
        ]
        assert bob.screen == ["alice: привет\n"]
        for terminal in terminals:
            terminal.types_in(None)
        # The threads that read the keyboards end; the clients read on until the server is gone.
        await until(lambda: all(not t.threads[1].is_alive() for t in terminals))

    try:
        run_server(server(), module, clients, backend)
    finally:
        for terminal in terminals:
            terminal.types_in(None)
            for thread in terminal.threads:
                thread.join(10)
    assert all(terminal.ended() for terminal in terminals)
