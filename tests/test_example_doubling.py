"""The doubling example: a real server process, and its clients."""

import asyncio
import errno
import inspect
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from example_process import LIMIT, LineClient, Program, Server, command, descriptor_limit

from pyloop.examples import doubling


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("doubling", "server") as process:
        yield process


@pytest.fixture
def client(server: Server) -> Iterator[LineClient]:
    with LineClient(server.address) as connection:
        yield connection


def test_signatures() -> None:
    assert inspect.iscoroutinefunction(doubling.doubling_server)
    assert inspect.iscoroutinefunction(doubling.doubling_connection)
    assert inspect.signature(doubling.doubling_server).bind().args == ()
    assert inspect.signature(doubling.doubling_server).parameters["port"].default == 8080
    inspect.signature(doubling.doubling_connection).bind("conn", "addr")


@pytest.mark.parametrize(
    ("line", "answer"),
    [("21", "42"), ("0", "0"), ("-5", "-10"), (" 7\r", "14"), ("9" * 30, str(2 * 10**30 - 2))],
)
def test_doubles(client: LineClient, line: str, answer: str) -> None:
    assert client.ask(line) == answer


def test_works_on_each_backend(backend: str) -> None:
    with Server("doubling", "server") as server, LineClient(server.address) as client:
        assert client.ask("21") == "42"


def test_line_in_pieces_and_many_lines_in_one(client: LineClient) -> None:
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in (b"1", b"2", b"3\n4\n5", b"6\n"):
        client.sock.sendall(piece)
    assert [client.recv() for _ in range(3)] == ["246", "8", "112"]


def test_order_of_pipelined_answers(client: LineClient) -> None:
    client.send(*map(str, range(2000)))
    assert [client.recv() for _ in range(2000)] == [str(2 * n) for n in range(2000)]


def test_last_line_without_newline_is_answered(client: LineClient) -> None:
    client.sock.sendall(b"1\n20")
    client.end()
    assert client.rest() == ["2", "40"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "invalid literal"),
        (b"ten", "invalid literal"),
        (b"1.5", "invalid literal"),
        (b"1 2", "invalid literal"),
        (b"\xff\xfe1", "utf-8"),
        (b"1" * 5000, str(doubling.MAX_LINE)),
        (b"1" * 1_000_000, str(doubling.MAX_LINE)),
    ],
)
def test_bad_line_gets_an_error_and_the_connection_goes_on(
    client: LineClient, line: bytes, complaint: str
) -> None:
    answer = client.ask(line)
    assert answer.startswith("error: ")
    assert complaint in answer
    assert client.ask("4") == "8"


def test_longest_integer(client: LineClient) -> None:
    longest = "9" * doubling.MAX_LINE
    assert client.ask(longest) == str(2 * int(longest))


@pytest.mark.parametrize("digits", [640, 641])
def test_digit_limit_of_the_interpreter(digits: int) -> None:
    """At 640 digits it is the answer, one digit longer, that passes the limit."""
    with (
        Server("doubling", "server", env={"PYTHONINTMAXSTRDIGITS": "640"}) as server,
        LineClient(server.address) as client,
    ):
        assert client.ask("9" * digits).startswith("error: Exceeds the limit")
        assert client.ask("1" * 640) == "2" * 640


def test_broken_connections_do_not_stop_the_server(server: Server) -> None:
    idle = server.descriptors()
    with LineClient(server.address) as witness:
        assert witness.ask("1") == "2"
        for sent in (b"", b"1", b"1\n", b"\xff", b"1\n" * 1000):
            broken = LineClient(server.address)
            broken.sock.sendall(sent)
            broken.reset()
            assert witness.ask("2") == "4"
    with LineClient(server.address) as last:
        # Accepted in order, and their ends seen in order: all the others have been closed.
        while server.descriptors() > idle + 1:
            assert last.ask("3") == "6"


def test_client_that_does_not_read_disturbs_nobody(server: Server, client: LineClient) -> None:
    with LineClient(server.address, receive_buffer=4096) as deaf:
        deaf.sock.setblocking(False)
        with suppress(BlockingIOError):  # the server stops reading what it cannot answer
            while True:
                deaf.sock.send(b"1\n" * 4096)
        assert client.ask("5") == "10"


def test_out_of_descriptors_is_survived() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))

    with Server("doubling", "server", preexec=few) as server, ExitStack() as stack:
        clients = [stack.enter_context(LineClient(server.address)) for _ in range(24)]
        for client in clients:
            client.send("3")
        for client in clients:  # each that leaves makes room for one that waits
            assert client.recv() == "6"
            client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        complaints = server.stderr().splitlines()
        assert complaints
        for line in complaints:
            assert line.startswith(f"cannot accept: [Errno {errno.EMFILE}]")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_server_with_connections_open(backend: str, number: int) -> None:
    with Server("doubling", "server") as server, LineClient(server.address) as client:
        assert client.ask("1") == "2"
        server.process.send_signal(number)
        assert server.wait(2) == 0
        assert server.stderr() == ""
        assert client.rest() == []


def test_client_prints_numbers_and_answers(server: Server) -> None:
    with Program("doubling", "client", "--port", str(server.port), "1", "-2", "21") as client:
        assert [client.readline() for _ in range(4)] == ["1 2", "-2 -4", "21 42", ""]
        assert client.wait() == 0
        assert client.stderr() == ""


def test_client_without_numbers_goes_on_until_interrupted(server: Server) -> None:
    with Program("doubling", "client", "--port", str(server.port)) as client:
        for _ in range(2):
            n, answer = map(int, client.readline().split())
            assert answer == 2 * n
        client.process.send_signal(signal.SIGINT)
        assert client.wait() == 0
        assert client.stderr() == ""


def test_client_whose_reader_leaves(server: Server) -> None:
    with Program("doubling", "client", "--port", str(server.port)) as client:
        assert client.readline()
        assert client.process.stdout is not None
        client.process.stdout.close()
        assert client.wait() == 0
        assert client.stderr() == ""


def test_client_without_server_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        port = unused.getsockname()[1]
        with Program("doubling", "client", "--port", str(port), "1") as client:
            assert client.wait() == 1
            assert f"127.0.0.1 port {port}: {os.strerror(errno.ECONNREFUSED)}" in client.stderr()
            assert "Traceback" not in client.stderr()


def test_client_left_by_the_server_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        port = listener.getsockname()[1]
        with Program("doubling", "client", "--port", str(port), "1") as client:
            conn, _ = listener.accept()
            with conn:
                assert conn.recv(100) == b"1\n"
            assert client.wait() == 1
            assert "closed the connection" in client.stderr()
            assert "Traceback" not in client.stderr()


def test_client_that_finds_a_broken_connection_says_so() -> None:
    """A reset after the server's end makes a broken pipe, which is not that of stdout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        port = listener.getsockname()[1]
        with Program("doubling", "client", "--port", str(port)) as client:
            conn = LineClient.of(listener.accept()[0])
            conn.send(str(2 * int(conn.recv())))
            conn.end()
            conn.reset()  # while the client pauses
            assert client.readline()
            assert client.wait() == 1
            assert client.stderr()
            assert "Traceback" not in client.stderr()


def test_port_in_use_is_told(server: Server) -> None:
    with Program("doubling", "server", "--port", str(server.port)) as second:
        assert second.wait() == 1
        assert os.strerror(errno.EADDRINUSE) in second.stderr()
        assert "Traceback" not in second.stderr()


@pytest.mark.parametrize(
    "args", [(), ("neither",), ("server", "1"), ("client", "x"), ("server", "--port", "65536")]
)
def test_wrong_arguments(args: tuple[str, ...]) -> None:
    result = subprocess.run(
        command("doubling", *args), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "usage: python -m pyloop.examples.doubling" in result.stderr


def test_help() -> None:
    text = subprocess.check_output(command("doubling", "--help"), text=True, timeout=LIMIT)
    for word in ("--host", "--port", "8080", "server", "client"):
        assert word in text


@pytest.mark.heavy
def test_a_thousand_concurrent_clients() -> None:
    count, rounds = 1000, 5

    async def one(address: tuple[str, int], number: int, all_connected: asyncio.Barrier) -> int:
        reader, writer = await asyncio.open_connection(*address)
        await all_connected.wait()
        right = 0
        for i in range(rounds):
            writer.write(f"{number + i}\n".encode())
            right += await reader.readline() == f"{2 * (number + i)}\n".encode()
        await all_connected.wait()
        writer.close()
        await writer.wait_closed()
        return right

    async def all_of(server: Server) -> list[int]:
        # Nobody asks before all are connected, and nobody leaves before all are done.
        barrier = asyncio.Barrier(count)
        work = (one(server.address, number, barrier) for number in range(count))
        return await asyncio.wait_for(asyncio.gather(*work), 60)

    with descriptor_limit(count + 200), Server("doubling", "server") as server:
        assert asyncio.run(all_of(server)) == [rounds] * count
