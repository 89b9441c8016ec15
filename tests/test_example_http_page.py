"""The web page example: a real server process, and browsers good and bad."""

import http.client
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_process import LIMIT, LineClient, Program, Server, until

from pyloop.examples import _http, http_page

PAGE = "<!doctype html><title>Страница</title><p>Привет"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("secret")
    folder = outside / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    (folder / "sub" / "index.html").write_text("sub")
    (folder / "sub" / "a b.css").write_text("p {}")
    (folder / "picture.png").write_bytes(bytes(range(256)) * 1000)
    (folder / "data.tar.gz").write_bytes(b"\x1f\x8b")
    (folder / "plain").write_bytes(b"plain")
    (folder / ".hidden").write_text("hidden")
    (folder / "link.txt").symlink_to("../secret.txt")
    (folder / "inside.css").symlink_to("sub/a b.css")
    (folder / "circle").symlink_to("circle")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "fifo")
    with (folder / "large").open("wb") as file:
        file.truncate(http_page.MAX_FILE + 1)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server("http_page", str(folder), "--patience", "1") as process:
        yield process


@pytest.fixture
def browser(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*server.address, timeout=LIMIT)
    yield connection
    connection.close()


def get(
    browser: http.client.HTTPConnection, path: str, method: str = "GET"
) -> tuple[int, str | None, bytes]:
    browser.request(method, path)
    response = browser.getresponse()
    return response.status, response.getheader("Content-Type"), response.read()


def exchange(server: Server, data: bytes) -> bytes:
    """What comes back for `data` until the server closes."""
    with socket.create_connection(server.address, timeout=LIMIT) as sock:
        sock.sendall(data)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


def status_of(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n", answer)
    assert match is not None, answer
    return int(match[1])


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/", "text/html; charset=utf-8", PAGE.encode()),
        ("/index.html", "text/html; charset=utf-8", PAGE.encode()),
        ("/?query=/../", "text/html; charset=utf-8", PAGE.encode()),
        ("http://example.org/", "text/html; charset=utf-8", PAGE.encode()),
        ("/sub/", "text/html; charset=utf-8", b"sub"),
        ("//sub//", "text/html; charset=utf-8", b"sub"),
        ("/sub/a%20b.css", "text/css; charset=utf-8", b"p {}"),
        ("/inside.css", "text/css; charset=utf-8", b"p {}"),
        ("/picture.png", "image/png", bytes(range(256)) * 1000),
        ("/plain", "application/octet-stream", b"plain"),
        ("/data.tar.gz", "application/octet-stream", b"\x1f\x8b"),
    ],
)
def test_files(browser: http.client.HTTPConnection, path: str, kind: str, body: bytes) -> None:
    assert get(browser, path) == (200, kind, body)
    assert get(browser, path, "HEAD") == (200, kind, b"")
    assert get(browser, path) == (200, kind, body)  # on the same connection


def test_what_goes_over_the_wire(server: Server) -> None:
    head, _, body = exchange(server, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert body == PAGE.encode()
    status, *headers = head.split(b"\r\n")
    assert status == b"HTTP/1.1 200 OK"
    assert b"\n" not in head.replace(b"\r\n", b"")
    assert b"Content-Length: %d" % len(body) in headers
    assert b"Connection: close" in headers
    assert any(re.fullmatch(rb"Date: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", h) for h in headers)


def test_keep_alive_and_requests_at_once(server: Server) -> None:
    request = b"GET /sub/ HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /sub/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(server, request * 3 + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert answer.count(b"\r\n\r\nsub") == 4
    assert answer.count(b"Connection: keep-alive\r\n") == 3
    assert answer.count(b"Connection: close\r\n") == 1


def test_http_1_0_with_keep_alive(server: Server) -> None:
    answer = exchange(
        server, b"GET /sub/ HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /sub/ HTTP/1.0\r\n\r\n"
    )
    assert answer.count(b"\r\n\r\nsub") == 2


def test_line_ends_of_old_clients(server: Server) -> None:
    assert status_of(exchange(server, b"\r\nGET / HTTP/1.0\nAccept: *\n\n")) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/missing",
        "/missing/",
        "/sub",
        "/index.html/",
        "/index.html/x",
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/sub/%2e%2e/index.html",
        "//../secret.txt",
        "/link.txt",
        "/up/secret.txt",
        "/up/site/../secret.txt",
        "/.hidden",
        "/./index.html",
        "/circle",
        "/fifo",
        "/large",
        "/" + "x" * 5000,
        "/" + "x/" * 5000,
        "/..\\secret.txt",
        "/%252e%252e/secret.txt",
    ],
)
def test_404(browser: http.client.HTTPConnection, path: str) -> None:
    status, _, body = get(browser, path)
    assert status == 404
    assert body != b"secret"
    assert get(browser, "/sub/")[2] == b"sub"  # the connection goes on


@pytest.mark.parametrize("path", ["secret.txt", "*", "../secret.txt", "/%00", "/%ff", "/a%00/b"])
def test_bad_path(browser: http.client.HTTPConnection, path: str) -> None:
    assert get(browser, path)[0] == 400
    assert get(browser, "/sub/")[2] == b"sub"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_405(browser: http.client.HTTPConnection, method: str) -> None:
    browser.request(method, "/")
    response = browser.getresponse()
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")
    assert response.read()
    assert get(browser, "/sub/")[2] == b"sub"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / / HTTP/1.1\r\n\r\n", 400),
        (b"GET\t/\tHTTP/1.1\r\n\r\n", 400),
        (b"G\xcbT / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /\x1b[2J HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTX/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: no name\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname : space\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 10000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /" + b"x" * 10**6 + b" HTTP/1.1\r\n\r\n", 431),
        (b"x" * 10**6, 431),
        (b"GET / HTTP/1.1\r\nname: " + b"x" * 10**6 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"name: value\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"name: value\r\n" * 10**5, 431),
    ],
)
def test_bad_request_ends_the_connection(server: Server, request_text: bytes, status: int) -> None:
    answer = exchange(server, request_text + b"GET / HTTP/1.1\r\n\r\n")
    assert status_of(answer) == status
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in answer


def test_limits_are_not_below_what_they_say(server: Server) -> None:
    line = b"GET /%s HTTP/1.0\r\n"
    path = b"x" * (_http.MAX_LINE - len(line % b""))
    assert status_of(exchange(server, line % path + b"\r\n")) == 404
    assert status_of(exchange(server, line % (path + b"x") + b"\r\n")) == 431
    headers = b"name: value\r\n" * _http.MAX_HEADERS
    assert status_of(exchange(server, b"GET / HTTP/1.0\r\n" + headers + b"\r\n")) == 200
    headers = b"".join(b"name: %s\r\n" % (b"x" * size) for size in (60_000, 60_000, 0))
    room = _http.MAX_HEAD - len(b"GET / HTTP/1.0") - (len(headers) - 3 * len(b"\r\n"))
    head = b"GET / HTTP/1.0\r\n" + headers.removesuffix(b"\r\n") + b"x" * room
    assert status_of(exchange(server, head + b"\r\n\r\n")) == 200
    assert status_of(exchange(server, head + b"x\r\n\r\n")) == 431


def test_slow_clients_are_disconnected_and_hold_up_nobody(
    server: Server, browser: http.client.HTTPConnection
) -> None:
    before = server.descriptors()
    with (
        LineClient(server.address) as silent,
        LineClient(server.address) as slow,
        LineClient(server.address, receive_buffer=4096) as deaf,
    ):
        slow.sock.sendall(b"GET / HT")
        deaf.sock.sendall(b"GET /picture.png HTTP/1.1\r\n\r\n" * 100)
        assert get(browser, "/sub/")[2] == b"sub"
        assert silent.rest() == []
        assert slow.recv() == "HTTP/1.1 408 Request Timeout\r"
        until(lambda: server.descriptors() <= before)  # the deaf one, too, is gone


def test_broken_off_requests(server: Server, browser: http.client.HTTPConnection) -> None:
    for text in (b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nx"):
        assert exchange_and_end(server, text) == b""
    assert get(browser, "/sub/")[2] == b"sub"


def exchange_and_end(server: Server, data: bytes) -> bytes:
    with socket.create_connection(server.address, timeout=LIMIT) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(65536)


def test_a_new_page_is_seen(
    server: Server, browser: http.client.HTTPConnection, folder: Path
) -> None:
    page = folder / "new.html"
    assert get(browser, "/new.html")[0] == 404
    page.write_text("first")
    assert get(browser, "/new.html")[2] == b"first"
    page.write_text("second")
    assert get(browser, "/new.html")[2] == b"second"
    page.unlink()
    assert get(browser, "/new.html")[0] == 404


@pytest.mark.parametrize("name", ["missing", "plain"])
def test_wrong_directory_is_told(folder: Path, name: str) -> None:
    with Program("http_page", str(folder / name), "--port", "0") as program:
        assert program.wait() == 1
        assert name in program.stderr()
        assert "Traceback" not in program.stderr()
