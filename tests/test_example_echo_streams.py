"""The echo example with asyncio's streams: a real server process, and its clients."""

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator

import pytest
from example_process import LIMIT, LineClient, Program, Server

import pyloop
from pyloop.examples._cli import run_on_asyncio


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("echo_streams", "server") as process:
        yield process


@pytest.fixture
def client(server: Server) -> Iterator[LineClient]:
    with LineClient(server.address) as connection:
        yield connection


def test_bytes_come_back_as_they_were(client: LineClient) -> None:
    data = bytes(range(256)) * 4000
    sending = threading.Thread(target=client.sock.sendall, args=[data])
    sending.start()
    received = b""
    while len(received) < len(data):
        received += client.sock.recv(1 << 20)
    sending.join()
    assert received == data
    client.end()
    assert client.rest() == []


def test_client_that_does_not_read_disturbs_nobody(server: Server, client: LineClient) -> None:
    with LineClient(server.address, receive_buffer=4096) as deaf:
        deaf.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # the server stops reading what it cannot send back
            while True:
                deaf.sock.sendall(bytes(1 << 16))
        assert client.ask("hello") == "hello"


def test_many_clients(server: Server) -> None:
    clients = [LineClient(server.address) for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(str(number))
    for number, client in enumerate(clients):
        assert client.recv() == str(number)
        client.close()


@pytest.mark.parametrize("message", ["Hello, world", "Привет", "", "x" * 100_000])
def test_client(server: Server, message: str) -> None:
    with Program("echo_streams", "client", "--port", str(server.port), message) as client:
        assert client.readline() == message
        assert client.wait() == 0
        assert client.stderr() == ""


def test_client_without_server_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        with Program("echo_streams", "client", "--port", str(unused.getsockname()[1])) as client:
            assert client.wait(LIMIT) == 1
            assert str(errno.ECONNREFUSED) in client.stderr()
            assert "Traceback" not in client.stderr()


def test_it_runs_on_pyloop() -> None:
    loops: list[object] = []

    async def main() -> None:
        loops.append(type(asyncio.get_running_loop()))

    run_on_asyncio(main())
    assert loops == [pyloop.EventLoop]
