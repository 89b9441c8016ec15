"""The echo example with asyncio's socket calls: errors in tasks, signals, a graceful end."""

import signal
import socket
import time
from collections.abc import Iterator

import pytest
from example_process import LineClient, Server, until

from pyloop.examples import echo_sockets


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("echo_sockets", "--verbose") as process:
        yield process
        if process.process.returncode is None:
            process.process.terminate()
            assert process.wait(4) == 0


@pytest.fixture
def client(server: Server) -> Iterator[LineClient]:
    with LineClient(server.address) as connection:
        yield connection


def test_bytes_come_back_as_they_were(client: LineClient) -> None:
    client.sock.settimeout(5)
    data = bytes(range(256)) * 200
    for _ in range(20):
        client.sock.sendall(data)
        received = b""
        while len(received) < len(data):
            received += client.sock.recv(1 << 20)
        assert received == data


@pytest.mark.parametrize("text", [b"boom\r\n", b"boom\n", b"boom"])
def test_boom_ends_its_own_connection(server: Server, client: LineClient, text: bytes) -> None:
    with LineClient(server.address) as reckless:
        assert reckless.ask("boom!") == "boom!"
        reckless.sock.sendall(text)
        assert reckless.rest() == []
    assert client.ask("hello") == "hello"
    assert "RuntimeError: the client said boom" in server.stderr()


def test_client_that_does_not_read_disturbs_nobody(server: Server, client: LineClient) -> None:
    with LineClient(server.address, receive_buffer=4096) as deaf:
        deaf.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # the server stops reading what it cannot send back
            while True:
                deaf.sock.sendall(bytes(1 << 16))
        assert client.ask("hello") == "hello"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_those_connected_may_finish(server: Server, client: LineClient, number: int) -> None:
    assert client.ask("before") == "before"
    start = time.monotonic()
    server.process.send_signal(number)
    until(lambda: refused(server))
    assert client.ask("after") == "after"
    client.end()
    assert client.rest() == []
    assert server.wait() == 0
    assert time.monotonic() - start < echo_sockets.GRACE  # nobody was left to wait for


def refused(server: Server) -> bool:
    try:
        socket.create_connection(server.address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it closed the listener with this connection still in its queue
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_those_who_stay_are_cut_off(server: Server, client: LineClient, number: int) -> None:
    assert client.ask("hello") == "hello"
    start = time.monotonic()
    server.process.send_signal(number)
    assert client.rest() == []
    assert server.wait() == 0
    assert time.monotonic() - start >= echo_sockets.GRACE


def test_the_grace_is_within_two_seconds() -> None:
    assert echo_sockets.GRACE < 2


def test_without_clients_the_end_comes_at_once(server: Server) -> None:
    start = time.monotonic()
    server.process.terminate()
    assert server.wait() == 0
    assert time.monotonic() - start < echo_sockets.GRACE
