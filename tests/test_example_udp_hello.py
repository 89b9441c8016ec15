"""The example with datagrams: a real server process, and its clients."""

import socket
from collections.abc import Iterator

import pytest
from example_process import LIMIT, Program, Server

from pyloop.examples import udp_hello


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("udp_hello", "server") as process:
        yield process


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        yield sock


@pytest.mark.parametrize(
    ("sent", "printed"),
    [
        (b"Hello server", "Hello server"),
        (b"", ""),
        ("Привет".encode(), "Привет"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"two\nlines\x1b[2J", "two\ufffdlines\ufffd[2J"),
        (b"x" * 60000, "x" * udp_hello.MAX_DATAGRAM),
    ],
)
def test_greeting_is_printed_and_answered(
    server: Server, sock: socket.socket, sent: bytes, printed: str
) -> None:
    sock.sendto(sent, server.address)
    assert sock.recvfrom(1024) == (b"Hello client", server.address)
    assert server.readline() == printed


def test_many_clients(server: Server, sock: socket.socket) -> None:
    for number in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"gone", server.address)
        sock.sendto(str(number).encode(), server.address)
        assert sock.recv(1024) == b"Hello client"
        assert [server.readline(), server.readline()] == ["gone", str(number)]


def test_client(server: Server) -> None:
    with Program("udp_hello", "client", "--port", str(server.port), "Good day") as client:
        assert client.readline() == "Hello client"
        assert client.wait() == 0
        assert client.stderr() == ""
    assert server.readline() == "Good day"


def test_client_asks_again(sock: socket.socket) -> None:
    sock.bind(("127.0.0.1", 0))
    with Program("udp_hello", "client", "--port", str(sock.getsockname()[1])) as client:
        assert sock.recvfrom(100)[0] == b"Hello server"  # lost, as it were
        again, addr = sock.recvfrom(100)
        assert again == b"Hello server"
        sock.sendto(b"at last\xff", addr)
        assert client.readline() == "at last\ufffd"
        assert client.wait() == 0


def test_client_without_server_says_so(sock: socket.socket) -> None:
    sock.bind(("127.0.0.1", 0))
    sock.connect(sock.getsockname())  # and hears nobody else
    with Program("udp_hello", "client", "--port", str(sock.getsockname()[1])) as client:
        assert client.wait() == 1
        assert "refused" in client.stderr()
        assert "Traceback" not in client.stderr()


def test_client_that_gets_no_answer_says_so(sock: socket.socket) -> None:
    sock.bind(("127.0.0.1", 0))
    with Program("udp_hello", "client", "--port", str(sock.getsockname()[1])) as client:
        assert client.wait() == 1
        assert "no answer" in client.stderr()
