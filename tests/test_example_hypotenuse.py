"""The hypotenuse example: a real server process, and its clients."""

import json
import socket
from collections.abc import Iterator

import pytest
from example_process import LineClient, Program, Server

from pyloop.examples import hypotenuse


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("hypotenuse", "server") as process:
        yield process


@pytest.fixture
def client(server: Server) -> Iterator[LineClient]:
    with LineClient(server.address) as connection:
        yield connection


def error(answer: str) -> str:
    value = json.loads(answer)
    assert list(value) == ["error"]
    assert isinstance(value["error"], str)
    return value["error"]


@pytest.mark.parametrize(
    ("request_text", "length"),
    [
        ('{"a": 3, "b": 4}', 5.0),
        ('{"b": 4.0, "a": 3}', 5.0),
        ('{"a":0,"b":0}', 0.0),
        ('  {"a": 3e200, "b": 4e200}  ', 5e200),
        ('{"a": 1e-320, "b": 0}', 1e-320),
        ('{"a": 3, "b": 4, "note": "}{\\"}"}', 5.0),
        ('{"a": 3, "b": 4, "nested": {"a": {}}}', 5.0),
        ('{"a": ' + "0" * 0 + str(3 * 10**300) + ', "b": ' + str(4 * 10**300) + "}", 5e300),
    ],
)
def test_length(client: LineClient, request_text: str, length: float) -> None:
    assert json.loads(client.ask(request_text)) == pytest.approx(length)


@pytest.mark.parametrize(
    ("request_text", "complaint"),
    [
        (b'{"a": 3, "b": }', "Expecting value"),
        (b'{"a": 3', "Expecting"),
        (b'{"a": 3, "b": 4', "Expecting"),
        (b"{'a': 3, 'b': 4}", "property name"),
        (b'{"a": "3, "b": 4}', "Expecting"),
        (b'{"a": \xff\xfe, "b": 4}', "utf-8"),
        (b"{}", "'a' is missing"),
        (b'{"a": 3}', "'b' is missing"),
        (b'{"b": 3}', "'a' is missing"),
        (b'{"a": "3", "b": 4}', "'a' is not a number"),
        (b'{"a": 3, "b": null}', "'b' is not a number"),
        (b'{"a": true, "b": 4}', "'a' is not a number"),
        (b'{"a": [3], "b": 4}', "'a' is not a number"),
        (b'{"a": NaN, "b": 4}', "NaN is not JSON"),
        (b'{"a": 3, "b": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": -3, "b": 4}', "negative"),
        (b'{"a": 1e999, "b": 4}', "too large"),
        (b'{"a": 1.7e308, "b": 1.7e308}', "too large"),
        (b'{"a": 1' + b"0" * 1000 + b', "b": 4}', "too large"),
        (b'{"a": ' + b'{"a":' * 500 + b"1" + b"}" * 501, "'a' is not a number"),
    ],
)
def test_error_and_the_connection_goes_on(
    client: LineClient, request_text: bytes, complaint: str
) -> None:
    assert complaint in error(client.ask(request_text))
    assert client.ask('{"a": 3, "b": 4}') == "5.0"


def test_nesting_without_end(client: LineClient) -> None:
    assert error(client.ask(b'{"a": ' + b"[" * 4000 + b"}"))
    assert client.ask('{"a": 3, "b": 4}') == "5.0"


@pytest.mark.parametrize("text", [b"hello", b"[3, 4]", b'"{}"', b"3", b"\xff", b"}"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_what_is_no_object_ends_the_connection(server: Server, text: bytes, end: bytes) -> None:
    with LineClient(server.address) as client:
        client.sock.sendall(text + end)
        assert "not a JSON object" in error(client.recv())
        assert client.rest() == []


@pytest.mark.parametrize("text", [b"{" + b" " * 10**6, b'{"' + b"x" * 10**6 + b'"}'])
def test_endless_object_ends_the_connection(server: Server, text: bytes) -> None:
    with LineClient(server.address) as client:
        client.sock.sendall(text)
        assert str(hypotenuse.MAX_REQUEST) in error(client.recv())
        assert client.rest() == []


def test_longest_object(client: LineClient) -> None:
    text = '{"a": 3, "b": 4, "c": "%s"}'
    longest = text % ("x" * (hypotenuse.MAX_REQUEST - len(text % "")))
    assert client.ask(longest) == "5.0"
    assert "longer" in error(client.ask(longest.replace("xx", "xxx", 1)))


def test_pieces_and_many_at_once(client: LineClient) -> None:
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b'{"a": 3, "}": "\\"}", "b": 4}':
        client.sock.sendall(bytes([byte]))
    assert client.recv() == "5.0"
    client.sock.sendall(b'{"a": 3, "b": 4} {"a": 6, "b": 8}{}\n\n\r\n{"a": 9, "b": 12}')
    assert [client.recv(), client.recv()] == ["5.0", "10.0"]
    assert error(client.recv())
    assert client.recv() == "15.0"


def test_unfinished_object_at_the_end_gets_an_error(client: LineClient) -> None:
    client.sock.sendall(b'{"a": 3, "b": 4}{"a": 3')
    client.end()
    first, second = client.rest()
    assert first == "5.0"
    assert error(second)


def test_client(server: Server) -> None:
    with Program("hypotenuse", "client", "--port", str(server.port), "3", "4") as client:
        assert client.readline() == "5.0"
        assert client.wait() == 0
        assert client.stderr() == ""


@pytest.mark.parametrize(
    ("legs", "status", "complaint"),
    [(("3", "-4"), 1, "negative"), (("3",), 2, "two legs"), (("3", "x"), 2, "invalid")],
)
def test_client_with_wrong_legs(
    server: Server, legs: tuple[str, ...], status: int, complaint: str
) -> None:
    with Program("hypotenuse", "client", "--port", str(server.port), *legs) as client:
        assert client.wait() == status
        assert complaint in client.stderr()
        assert "Traceback" not in client.stderr()
