"""The examples callbacks and round_robin: the same server, once of each kind."""

import socket
from collections.abc import Iterator

import pytest
from example_process import LineClient, Server


@pytest.fixture(params=["callbacks", "round_robin"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as process:
        yield process


@pytest.fixture
def client(server: Server) -> Iterator[LineClient]:
    with LineClient(server.address) as connection:
        yield connection


@pytest.mark.parametrize("request_text", [b"hello", b"\xff\0", b"\n", b"x" * 4096])
def test_each_request_is_answered(client: LineClient, request_text: bytes) -> None:
    for _ in range(3):
        client.sock.sendall(request_text)
        assert client.recv() == "Hello world"
    client.end()
    assert client.rest() == []


def test_large_request(client: LineClient) -> None:
    client.sock.sendall(b"x" * 1_000_000)
    client.end()
    answers = client.rest()
    assert len(answers) >= 1_000_000 // 4096
    assert set(answers) == {"Hello world"}


def test_clients_take_turns(server: Server) -> None:
    clients = [LineClient(server.address) for _ in range(50)]
    for _ in range(3):
        for client in clients:
            client.sock.sendall(b"?")
        for client in reversed(clients):
            assert client.recv() == "Hello world"
    for client in clients:
        client.close()


def test_client_that_does_not_read_disturbs_nobody(server: Server, client: LineClient) -> None:
    with LineClient(server.address, receive_buffer=4096) as deaf:
        deaf.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        deaf.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # the server stops reading what it cannot answer
            while True:
                deaf.sock.sendall(b"?" * 65536)
        client.sock.sendall(b"?")
        assert client.recv() == "Hello world"
        deaf.sock.settimeout(20)
        assert deaf.recv() == "Hello world"  # and goes on


def test_connections_are_closed(server: Server, client: LineClient) -> None:
    client.sock.sendall(b"?")
    assert client.recv() == "Hello world"  # the server has accepted it
    before = server.descriptors()
    for number in range(20):
        with LineClient(server.address) as other:
            if number % 2:
                other.sock.sendall(b"?")
            if number % 3:
                other.reset()
    while server.descriptors() > before:
        client.sock.sendall(b"?")
        assert client.recv() == "Hello world"
