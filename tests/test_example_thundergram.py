"""The Thundergram example: a real server process, plain clients and terminal clients."""

import asyncio
import errno
import fcntl
import inspect
import os
import pty
import random
import resource
import select
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from example_process import LIMIT, LineClient, Program, Server, command, descriptor_limit

from pyloop.examples import thundergram


class Peer(LineClient):
    """A client whose login the server has accepted: it has had an answer from itself."""

    def __init__(self, server: Server, login: str, *, receive_buffer: int | None = None) -> None:
        super().__init__(server.address, receive_buffer=receive_buffer)
        self.login = login
        self.send(login)
        self.sync()

    def __enter__(self) -> Self:
        return self

    def sync(self) -> None:
        """Return when the server has done all that we have sent, and nothing else has come."""
        assert self.ask(f"{self.login}: sync") == f"{self.login}: sync"

    def until_gone(self, login: str) -> None:
        """Return when `login` is no longer connected."""
        gone = f"server: not connected: {login}"
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            self.send(f"{login}: still there?", f"{self.login}: asked")
            line = self.recv()
            if line == gone:
                assert self.recv() == f"{self.login}: asked"
                return
            assert line == f"{self.login}: asked"
        raise TimeoutError(f"{login} is still connected")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("thundergram") as process:
        yield process


@pytest.fixture
def alice(server: Server) -> Iterator[Peer]:
    with Peer(server, "alice") as peer:
        yield peer


@pytest.fixture
def bob(server: Server) -> Iterator[Peer]:
    with Peer(server, "bob") as peer:
        yield peer


def test_signatures() -> None:
    assert inspect.iscoroutinefunction(thundergram.thundergram_server)
    assert inspect.iscoroutinefunction(thundergram.thundergram_connecton)
    assert inspect.signature(thundergram.thundergram_server).bind().args == ()
    assert inspect.signature(thundergram.thundergram_server).parameters["port"].default == 8080
    inspect.signature(thundergram.thundergram_connecton).bind({}, "conn", "addr")


def test_session_of_the_assignment(backend: str) -> None:
    with (
        Server("thundergram") as server,
        Peer(server, "alice") as alice,
        Peer(server, "robert") as robert,
        Peer(server, "bob") as bob,
    ):
        bob.send("alice,robert: Hi, this is bob.")
        assert alice.recv() == "bob: Hi, this is bob."
        assert robert.recv() == "bob: Hi, this is bob."
        alice.send("bob: Hello from Alice.")
        assert bob.recv() == "alice: Hello from Alice."
        robert.send("bob: Hi! ")
        assert bob.recv() == "robert: Hi! "
        bob.send("alice: how are you?")
        assert alice.recv() == "bob: how are you?"
        alice.send("bob: I am fine!")
        assert bob.recv() == "alice: I am fine!"
        for peer in (alice, robert, bob):
            peer.sync()


def test_login_and_messages_in_one_piece(server: Server, alice: Peer) -> None:
    with LineClient(server.address) as bob:
        bob.send("bob", "alice: one", "bob,alice: two")
        assert bob.recv() == "bob: two"
        assert [alice.recv(), alice.recv()] == ["bob: one", "bob: two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bob:no space", "no space"),
        ("bob:  two spaces", " two spaces"),
        (" bob : spaces around", "spaces around"),
        ("bob: a: b, c: d", "a: b, c: d"),
        ("bob:", ""),
        ("bob: привет, ☃ 🐍", "привет, ☃ 🐍"),
        ("bob: from telnet\r", "from telnet"),
        ("bob,bob, bob : once", "once"),
        (",bob,,: no empty names", "no empty names"),
        ("bob: " + "x" * (thundergram.MAX_LINE - 5), "x" * (thundergram.MAX_LINE - 5)),
    ],
)
def test_forms_of_a_message(alice: Peer, bob: Peer, line: str, message: str) -> None:
    alice.send(line)
    assert bob.recv() == f"alice: {message}"
    alice.sync()
    bob.sync()


def test_character_split_between_two_pieces(alice: Peer, bob: Peer) -> None:
    data = "bob: привет\n".encode()
    for cut in range(1, len(data)):
        alice.sock.sendall(data[:cut])
        bob.sync()  # so that the pieces do not travel together
        alice.sock.sendall(data[cut:])
        assert bob.recv() == "alice: привет"


def test_message_to_oneself(alice: Peer) -> None:
    assert alice.ask("alice: remember") == "alice: remember"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"hello", "no ':' in the line"),
        (b"", "no ':' in the line"),
        (b": hello", "no addressee"),
        (b" , ,: hello", "no addressee"),
        (b"carol: hello", "not connected: carol"),
        (b"carol,dave,carol: hello", "not connected: carol, dave"),
        (b"server: hello", "not connected: server"),
        (b"bob: \xff", "utf-8"),
        (b"\xd0", "utf-8"),
        (b"bob: " + b"x" * thundergram.MAX_LINE, str(thundergram.MAX_LINE)),
        (b"bob: " + b"x" * 1_000_000, str(thundergram.MAX_LINE)),
    ],
)
def test_bad_line_is_told_to_its_author_alone(
    alice: Peer, bob: Peer, line: bytes, complaint: str
) -> None:
    answer = alice.ask(line)
    assert answer.startswith("server: ")
    assert complaint in answer
    alice.sync()
    bob.sync()  # would fail on anything that had come before


def test_known_addressees_get_what_unknown_ones_cannot(alice: Peer, bob: Peer) -> None:
    assert alice.ask("carol,bob: hello") == "server: not connected: carol"
    assert bob.recv() == "alice: hello"
    bob.sync()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "the login is empty"),
        (b" \t\r", "the login is empty"),
        (b"al:ice", "without ':' and ','"),
        (b"al,ice", "without ':' and ','"),
        (b"al\x1b[2Jice", "printable"),
        (b"server", "reserved"),
        (b"Server", "reserved"),
        (b"alice", "already taken"),
        (b" alice ", "already taken"),
        (b"x" * (thundergram.MAX_LOGIN + 1), str(thundergram.MAX_LOGIN)),
        (b"x" * (thundergram.MAX_LINE + 1), str(thundergram.MAX_LINE)),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_login_refused(server: Server, alice: Peer, line: bytes, complaint: str) -> None:
    """The reason arrives also where the client has sent more than its login."""
    for more in ([], ["alice: hello"] * 100_000):
        with LineClient(server.address) as client:
            client.send(line, *more)
            client.end()
            (answer,) = client.rest()
            assert answer.startswith("server: ")
            assert complaint in answer
    alice.sync()


def test_refused_client_that_stays_is_closed(server: Server, alice: Peer) -> None:
    idle = server.descriptors()
    with LineClient(server.address) as client:
        client.send("alice")
        assert len(client.rest()) == 1
        assert server.descriptors() == idle + 1  # for now the server reads what we still send
        while server.descriptors() > idle:
            alice.sync()


def test_longest_login_and_any_alphabet(server: Server, alice: Peer) -> None:
    for login in ("x" * thundergram.MAX_LOGIN, "Ёжик", "two words", "аlice"):
        with Peer(server, login) as peer:
            peer.send("alice: hello")
            assert alice.recv() == f"{login}: hello"


def test_no_login_in_time_is_told_and_closed() -> None:
    with Server("thundergram", "--login-limit", "0.2") as server:
        idle = server.descriptors()
        with LineClient(server.address) as silent, LineClient(server.address) as slow:
            slow.sock.sendall(b"no newline")
            for client in (silent, slow):
                assert client.rest() == ["server: no login came within 0.2 seconds"]
        with Peer(server, "bob") as bob:  # the limit is for the login alone
            while server.descriptors() > idle + 1:
                bob.sync()
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                bob.sync()


@pytest.mark.parametrize("how", ["close", "reset", "end", "unread input"])
def test_peer_that_leaves_is_removed(server: Server, alice: Peer, how: str) -> None:
    idle = server.descriptors()
    for _ in range(3):  # the login is free again each time
        bob = Peer(server, "bob")
        if how == "reset":
            bob.reset()
        elif how == "end":
            bob.end()
            assert bob.rest() == []
            bob.close()
        else:
            if how == "unread input":
                bob.send("bob: I do not read this")
            bob.close()
        alice.until_gone("bob")
    while server.descriptors() > idle:
        alice.sync()


def test_clients_that_leave_before_the_login_is_complete(server: Server, alice: Peer) -> None:
    idle = server.descriptors()
    for sent in (b"", b"bo", b"\xff", b"x" * 10_000):
        for leave in (LineClient.close, LineClient.reset):
            client = LineClient(server.address)
            client.sock.sendall(sent)
            leave(client)
            alice.sync()
    while server.descriptors() > idle:
        alice.sync()
    Peer(server, "bob").close()


def test_what_is_on_its_way_still_arrives_after_the_end_of_input(bob: Peer, alice: Peer) -> None:
    for i in range(50):
        alice.send(f"alice,bob: {i}")
    alice.sock.sendall(b"carol: and a last one without newline")
    alice.end()
    assert alice.rest() == [
        *(f"alice: {i}" for i in range(50)),
        "server: not connected: carol",
    ]
    assert [bob.recv() for _ in range(50)] == [f"alice: {i}" for i in range(50)]
    bob.sync()


def test_burst_to_a_peer_that_reads_loses_nothing(alice: Peer, bob: Peer) -> None:
    count = 50 * thundergram.QUEUE
    alice.send(*(f"bob: {i}" for i in range(count)))
    assert [bob.recv() for _ in range(count)] == [f"alice: {i}" for i in range(count)]
    alice.sync()


def blocked(sender: Peer, addressee: str) -> bytes:
    """Send to a peer that does not read, until the server in turn does not read from `sender`.

    Returns the rest of the line that the kernel has taken only in part.
    """
    line = f"{addressee}: ".encode() + b"x" * 4000 + b"\n"
    rest = line
    sender.sock.setblocking(False)
    while select.select([], [sender.sock], [], 0.5)[1]:
        with suppress(BlockingIOError):
            while True:
                rest = rest[sender.sock.send(rest) :] or line
    sender.sock.settimeout(LIMIT)
    return rest


def test_stuck_peer_holds_up_only_who_writes_to_it(server: Server, alice: Peer, bob: Peer) -> None:
    with Peer(server, "carol") as carol, Peer(server, "stuck", receive_buffer=4096) as stuck:
        rest = blocked(alice, "stuck")
        bob.send("stuck, carol: hello")
        for _ in range(100):
            carol.sync()  # bob waits for room for `stuck`, nobody else does
        stuck.close()
        assert carol.recv() == "bob: hello"
        assert bob.recv() == "server: not connected: stuck"
        alice.sock.sendall(rest)
        alice.send("carol: done")
        assert carol.recv() == "alice: done"
        alice.end()
        assert set(alice.rest()) == {"server: not connected: stuck"}


def test_stuck_peer_is_disconnected() -> None:
    with (
        Server("thundergram", "--stuck-limit", "0.5", "--verbose") as server,
        Peer(server, "alice") as alice,
        Peer(server, "bob") as bob,
        Peer(server, "stuck", receive_buffer=4096) as stuck,
    ):
        megabytes = ["stuck: " + "x" * 4000] * 5000  # more than kernel and queue hold
        sender = threading.Thread(target=alice.send, args=(*megabytes, "bob: done"))
        sender.start()
        try:
            assert bob.recv() == "alice: done"
        finally:
            sender.join()
        alice.end()
        assert set(alice.rest()) == {"server: not connected: stuck"}
        with Peer(server, "stuck") as again:
            again.sync()
        received = stuck.rest()
        assert 0 < len(received) < len(megabytes)
        bob.sync()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "cannot write to a peer: it does not read\n" in server.stderr()
        assert "Traceback" not in server.stderr()


def test_client_that_does_not_read_its_complaints_is_disconnected() -> None:
    with (
        Server("thundergram", "--stuck-limit", "0.5") as server,
        Peer(server, "bob") as bob,
        Peer(server, "deaf", receive_buffer=4096) as deaf,
    ):
        with pytest.raises(ConnectionError):
            while True:
                deaf.sock.sendall(b"\n" * 4096)
        bob.until_gone("deaf")


def test_two_hundred_clients() -> None:
    """Each message arrives once, and those of one author in the order of their sending."""
    count, messages = 200, 20
    rng = random.Random(7)
    logins = [f"user{n}" for n in range(count)]
    plan = {
        login: [rng.choices(logins, k=rng.randint(1, 8)) for _ in range(messages)]
        for login in logins
    }
    expected: dict[str, dict[str, list[int]]] = {login: {} for login in logins}
    for author, addressees_of in plan.items():
        for number, addressees in enumerate(addressees_of):
            for addressee in set(addressees):
                expected[addressee].setdefault(author, []).append(number)

    async def client(
        address: tuple[str, int], login: str, everybody: asyncio.Barrier
    ) -> dict[str, list[int]]:
        received: dict[str, list[int]] = {}
        reader, writer = await asyncio.open_connection(*address)

        async def line() -> str:
            return (await reader.readline()).decode().removesuffix("\n")

        writer.write(f"{login}\n{login}: ready\n".encode())
        assert await line() == f"{login}: ready"
        await everybody.wait()
        for number, addressees in enumerate(plan[login]):
            writer.write(f"{','.join(addressees)}: {number}\n".encode())
            await writer.drain()
        for _ in range(sum(map(len, expected[login].values()))):
            author, number_text = (await line()).split(": ")
            received.setdefault(author, []).append(int(number_text))
        await everybody.wait()
        writer.write(f"{login}: all\n".encode())
        assert await line() == f"{login}: all"  # and nothing more before it
        writer.close()
        await writer.wait_closed()
        return received

    async def session(address: tuple[str, int]) -> list[dict[str, list[int]]]:
        everybody = asyncio.Barrier(count)
        clients = (client(address, login, everybody) for login in logins)
        return await asyncio.wait_for(asyncio.gather(*clients), 60)

    with descriptor_limit(count + 100), Server("thundergram") as server:
        results = asyncio.run(session(server.address))
    assert dict(zip(logins, results, strict=True)) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_server_with_connections_open(backend: str, number: int) -> None:
    with (
        Server("thundergram") as server,
        Peer(server, "alice") as alice,
        Peer(server, "bob") as bob,
        Peer(server, "stuck", receive_buffer=4096) as stuck,
        LineClient(server.address) as nobody,
    ):
        blocked(alice, "stuck")
        server.process.send_signal(number)
        assert server.wait(2) == 0
        assert server.stderr() == ""
        assert bob.rest() == []
        assert nobody.rest() == []
        assert stuck.rest()


def test_out_of_descriptors_is_survived() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))

    with Server("thundergram", preexec=few) as server, ExitStack() as stack:
        clients = [stack.enter_context(LineClient(server.address)) for _ in range(24)]
        for n, client in enumerate(clients):
            client.send(f"user{n}", f"user{n}: hello")
        for n, client in enumerate(clients):  # each that leaves makes room for one that waits
            assert client.recv() == f"user{n}: hello"
            client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        complaints = server.stderr().splitlines()
        assert complaints
        for line in complaints:
            assert line.startswith(f"cannot accept: [Errno {errno.EMFILE}]")


def test_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with (
        Server("thundergram", "--host", "::1") as server,
        Program(
            "thundergram",
            "client",
            "alice",
            *("--host", "::1", "--port", str(server.port)),
            stdin=subprocess.PIPE,
        ) as client,
    ):
        client.write("alice:hello\n")
        assert client.readline() == "alice: hello"
        client.close_stdin()
        assert client.wait() == 0


def test_verbose_tells_of_connections() -> None:
    with Server("thundergram", "--verbose") as server:
        with Peer(server, "alice") as alice:
            alice.end()
            assert alice.rest() == []
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "connected by ('127.0.0.1', " in server.stderr()
        assert "alice left" in server.stderr()


def test_port_in_use_is_told(server: Server) -> None:
    with Program("thundergram", "--port", str(server.port)) as second:
        assert second.wait() == 1
        assert os.strerror(errno.EADDRINUSE) in second.stderr()
        assert "Traceback" not in second.stderr()


@pytest.mark.parametrize(
    "args",
    [
        ("neither",),
        ("client",),
        ("server", "bob"),
        ("--port", "65536"),
        ("--port", "http"),
        ("--stuck-limit", "0"),
        ("--login-limit", "nan"),
        ("--login-limit", "-1"),
    ],
)
def test_wrong_arguments(args: tuple[str, ...]) -> None:
    result = subprocess.run(
        command("thundergram", *args), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "usage: python -m pyloop.examples.thundergram" in result.stderr


def test_help() -> None:
    text = subprocess.check_output(command("thundergram", "--help"), text=True, timeout=LIMIT)
    for word in ("--host", "--port", "8080", "client", "login", "--login-limit", "--stuck-limit"):
        assert word in text


class Terminal(Program):
    """A terminal client with a terminal of its own."""

    def __init__(self, server: Server, login: str) -> None:
        self.screen = ""
        self.master, slave = pty.openpty()

        def make_controlling() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        try:
            super().__init__(
                "thundergram",
                *("client", login, "--port", str(server.port)),
                stdin=slave,
                stdout=slave,
                preexec=make_controlling,
            )
        finally:
            os.close(slave)

    def __exit__(self, *details: Any) -> None:
        try:
            super().__exit__(*details)
        finally:
            os.close(self.master)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, line: str) -> None:
        """Return when `line` has appeared."""
        while f"{line}\r\n" not in self.screen:
            if not select.select([self.master], [], [], LIMIT)[0]:
                raise TimeoutError(f"no {line!r} in {self.screen!r}; stderr: {self.stderr()}")
            self.screen += os.read(self.master, 4096).decode()


def test_two_terminals_talk(server: Server) -> None:
    with Terminal(server, "alice") as alice, Terminal(server, "bob") as bob:
        for terminal, login in ((alice, "alice"), (bob, "bob")):
            terminal.type(f"{login}:myself\n")  # echoed without the space that comes back
            terminal.expect(f"{login}: myself")
        alice.type("bob:привет\n")
        bob.expect("alice: привет")
        bob.type("alice,bob:both of us\n")
        alice.expect("bob: both of us")
        bob.expect("bob: both of us")
        alice.type("carol:hello\n")
        alice.expect("server: not connected: carol")
        alice.type("\x04")  # Ctrl-D
        assert alice.wait() == 0
        bob.type("\x03")  # Ctrl-C
        assert bob.wait() == 0
        assert alice.stderr() == bob.stderr() == ""


def start_client(
    server: Server, login: str, env: dict[str, str] | None = None, stdin: int = subprocess.PIPE
) -> Program:
    return Program("thundergram", "client", "--port", str(server.port), login, stdin=stdin, env=env)


def test_client_ends_with_its_input(server: Server, alice: Peer) -> None:
    with start_client(server, "bob") as bob:
        bob.write("alice,bob:one\nalice,bob:no newline at the end")
        bob.close_stdin()
        assert [bob.readline() for _ in range(3)] == ["bob: one", "bob: no newline at the end", ""]
        assert bob.wait() == 0
        assert bob.stderr() == ""
    assert [alice.recv() for _ in range(2)] == ["bob: one", "bob: no newline at the end"]


def test_client_reads_a_plain_file(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("".join(f"bob:{n}\n" for n in range(10_000)))
    with script.open("rb") as file, start_client(server, "bob", stdin=file.fileno()) as bob:
        assert [bob.readline() for _ in range(10_000)] == [f"bob: {n}" for n in range(10_000)]
        assert bob.readline() == ""
        assert bob.wait() == 0
        assert bob.stderr() == ""


def test_client_without_input(server: Server) -> None:
    with start_client(server, "bob", stdin=subprocess.DEVNULL) as bob:
        assert bob.wait() == 0
        assert (bob.readline(), bob.stderr()) == ("", "")


def test_client_ends_with_the_server(server: Server) -> None:
    with start_client(server, "bob") as bob:
        bob.write("bob:here\n")
        assert bob.readline() == "bob: here"
        server.process.send_signal(signal.SIGTERM)
        assert bob.wait() == 0
        assert (bob.readline(), bob.stderr()) == ("", "")
        assert server.wait() == 0


def test_client_shows_why_it_was_refused(server: Server, alice: Peer) -> None:
    with start_client(server, "alice") as second:
        assert second.readline() == "server: the login 'alice' is already taken"
        assert second.wait() == 0
        assert second.stderr() == ""
    alice.sync()


def test_client_shows_no_control_characters(server: Server, alice: Peer) -> None:
    with start_client(server, "bob") as bob:
        bob.write("alice:ready\n")
        assert alice.recv() == "bob: ready"
        alice.send("bob: \x1b]0;title\x07\ttab\x7f\x9b")
        assert bob.readline() == "alice: \ufffd]0;title\ufffd\ttab\ufffd\ufffd"


def test_client_in_a_terminal_without_unicode(server: Server, alice: Peer) -> None:
    with start_client(server, "bob", {"PYTHONIOENCODING": "ascii"}) as bob:
        bob.write("alice:ready\n")
        assert alice.recv() == "bob: ready"
        alice.send("bob: привет")
        assert bob.readline() == "alice: ??????"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_client(server: Server, alice: Peer, number: int) -> None:
    with start_client(server, "bob") as bob:
        bob.write("bob:here\n")
        assert bob.readline() == "bob: here"
        bob.process.send_signal(number)
        assert bob.wait(2) == 0
        assert bob.stderr() == ""
    alice.until_gone("bob")


def test_client_whose_reader_leaves(server: Server, alice: Peer) -> None:
    with start_client(server, "bob") as bob:
        bob.write("bob:here\n")
        assert bob.readline() == "bob: here"
        assert bob.process.stdout is not None
        bob.process.stdout.close()
        alice.send("bob: hello")
        assert bob.wait() == 0
        assert bob.stderr() == ""


def test_client_without_server_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        port = unused.getsockname()[1]
        with Program("thundergram", "client", "bob", "--port", str(port)) as client:
            assert client.wait() == 1
            assert f"127.0.0.1 port {port}: {os.strerror(errno.ECONNREFUSED)}" in client.stderr()
            assert "Traceback" not in client.stderr()
