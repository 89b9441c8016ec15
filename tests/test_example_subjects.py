"""The subjects example: a real server process with an HTTP interface."""

import http.client
import json
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from example_process import LIMIT, LineClient, Process, Server

from pyloop.examples import _http, subjects


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("subjects", "--patience", "1") as process:
        yield process


@pytest.fixture
def client(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*server.address, timeout=LIMIT)
    yield connection
    connection.close()


def ask(
    client: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, bytes]:
    client.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
    response = client.getresponse()
    return response.status, response.read()


def subjects_of(client: http.client.HTTPConnection, student: int) -> list[str]:
    status, body = ask(client, "GET", f"/subjects/{student}")
    assert status == 200
    value = json.loads(body)
    assert value["student"] == student
    found: list[str] = value["subjects"]
    return found


def test_get_and_post(client: http.client.HTTPConnection) -> None:
    assert subjects_of(client, 7) == []
    for subject in ("Algebra", "Физика", "Algebra", " Algebra "):
        status, _ = ask(client, "POST", "/subjects/7", {"subject": subject})
        assert status == 201
    assert subjects_of(client, 7) == ["Algebra", "Физика"]
    assert subjects_of(client, 8) == []
    client.request("GET", "/subjects/07?since=2020")
    response = client.getresponse()
    assert response.getheader("Content-Type") == "application/json"
    assert json.loads(response.read())["subjects"] == ["Algebra", "Физика"]
    status, body = ask(client, "HEAD", "/subjects/7")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/subjects",
        "/subjects/",
        "/subjects/x",
        "/subjects/-1",
        "/subjects/7/",
        "/subjects/7/8",
        "/subjects/%37",
        "/subjects/" + "7" * 5000,
        "/../subjects/7",
        "*",
    ],
)
def test_404(client: http.client.HTTPConnection, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert ask(client, method, path, {"subject": "Algebra"})[0] == 404
    assert subjects_of(client, 7) == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_405(client: http.client.HTTPConnection, method: str) -> None:
    client.request(method, "/subjects/7")
    response = client.getresponse()
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD, POST")
    response.read()
    assert subjects_of(client, 7) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Algebra",
        b"{",
        b'{"subject": "\xff"}',
        b"[" * 100_000,
        {},
        [],
        {"subject": None},
        {"subject": 7},
        {"subject": ""},
        {"subject": "  "},
        {"subject": "two\nlines"},
        {"subject": "x" * (subjects.MAX_NAME + 1)},
    ],
    ids=repr,
)
def test_400_for_a_body_without_a_subject(client: http.client.HTTPConnection, body: Any) -> None:
    status, reason = ask(client, "POST", "/subjects/7", body)
    assert status == 400
    assert reason
    assert subjects_of(client, 7) == []


def test_body_in_pieces(server: Server) -> None:
    body = b'{"subject": "Algebra"}'
    head = b"POST /subjects/7 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with LineClient(server.address) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + body:
            client.sock.sendall(bytes([byte]))
        assert client.recv() == "HTTP/1.1 201 Created\r"


def test_client_that_asks_before_it_sends_a_body(server: Server) -> None:
    with LineClient(server.address) as client:
        client.sock.sendall(
            b"POST /subjects/7 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 22\r\n\r\n"
        )
        assert [client.recv(), client.recv()] == ["HTTP/1.1 100 Continue\r", "\r"]
        client.sock.sendall(b'{"subject": "Algebra"}')
        assert client.recv() == "HTTP/1.1 201 Created\r"


def raw(server: Server, data: bytes) -> str:
    """The status line for `data`, after which the server closes."""
    with LineClient(server.address) as client:
        client.sock.sendall(data)
        first, *_ = client.rest()
        return first


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /subjects/7\r\n\r\n", 400),
        (b"GET /subjects/7 HTTP/1.1\r\nbad\r\n\r\n", 400),
        (b"GET /" + b"7" * _http.MAX_LINE, 431),
        (b"GET /subjects/7 HTTP/1.1\r\nname: " + b"x" * _http.MAX_LINE, 431),
        (b"GET /subjects/7 HTTP/1.1\r\n" + b"a: b\r\n" * (_http.MAX_HEADERS + 1), 431),
        (b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"POST /subjects/7 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ],
)
def test_bad_requests(server: Server, data: bytes, status: int) -> None:
    assert raw(server, data).startswith(f"HTTP/1.1 {status} ")


def test_500_and_the_server_goes_on() -> None:
    """The program with a mistake put into it."""
    code = (
        "import sys\n"
        "from pyloop.examples import subjects\n"
        "def add(self, student, subject): raise ZeroDivisionError\n"
        "subjects.Subjects.add = add\n"
        "sys.exit(subjects.main())\n"
    )
    with Process(sys.executable, "-P", "-c", code, "--port", "0") as process:
        port = int(process.readline().rpartition(":")[2])
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        status, body = ask(client, "POST", "/subjects/7", {"subject": "Algebra"})
        assert status == 500
        assert b"ZeroDivision" not in body
        assert subjects_of(client, 7) == []
        client.close()
        process.process.terminate()
        assert process.wait() == 0
        assert "ZeroDivisionError" in process.stderr()


def test_memory_is_bounded(client: http.client.HTTPConnection) -> None:
    for number in range(subjects.MAX_SUBJECTS):
        assert ask(client, "POST", "/subjects/7", {"subject": f"S{number}"})[0] == 201
    assert ask(client, "POST", "/subjects/7", {"subject": "S0"})[0] == 201
    assert ask(client, "POST", "/subjects/7", {"subject": "one more"})[0] == 507
    assert len(subjects_of(client, 7)) == subjects.MAX_SUBJECTS


def test_slow_clients_hold_up_nobody(server: Server, client: http.client.HTTPConnection) -> None:
    pieces = (
        b"",
        b"POST /subj",
        b"POST /subjects/7 HTTP/1.1\r\nna",
        b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 22\r\n\r\n{",
    )
    slow = [LineClient(server.address) for _ in pieces]
    for sleeper, piece in zip(slow, pieces, strict=True):
        sleeper.sock.sendall(piece)
    assert subjects_of(client, 7) == []
    assert slow[0].rest() == []
    for sleeper in slow[1:]:
        assert sleeper.recv() == "HTTP/1.1 408 Request Timeout\r"
    for sleeper in slow:
        sleeper.close()


def test_a_hundred_clients_at_once(server: Server) -> None:
    failed: list[BaseException] = []

    def student(number: int) -> None:
        client = http.client.HTTPConnection(*server.address, timeout=LIMIT)
        try:
            for subject in ("A", "B", "C"):
                assert ask(client, "POST", f"/subjects/{number}", {"subject": subject})[0] == 201
            assert subjects_of(client, number) == ["A", "B", "C"]
        except BaseException as error:
            failed.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=student, args=[number]) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
