"""The group chat example: a real server process, plain clients and its own."""

import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from example_process import LIMIT, Program, Server

from pyloop.examples import group_chat


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("group_chat", "server") as process:
        yield process


@contextmanager
def member(server: Server, room: bytes) -> Iterator[socket.socket]:
    """Somebody who is in the room: it has heard its own first word there."""
    with socket.create_connection(server.address, timeout=LIMIT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(room + b"!")
        assert sock.recv(1) == b"!"
        yield sock


@pytest.fixture
def rooms(server: Server) -> Iterator[dict[str, socket.socket]]:
    """alice, then bob in room A; carol in room B."""
    with member(server, b"A") as alice, member(server, b"A") as bob, member(server, b"B") as carol:
        assert alice.recv(1) == b"!"  # bob's
        yield {"alice": alice, "bob": bob, "carol": carol}


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        assert piece, data
        data += piece
    return data


def hears_nothing(sock: socket.socket) -> bool:
    """Whether nothing came before what the room's member says itself now."""
    sock.sendall(b"?")
    return sock.recv(1000) == b"?"


@pytest.mark.parametrize("text", ["hello", "привет", "two\nlines\n", " x ", "exited", "an exit"])
def test_message_goes_to_all_in_the_room(rooms: dict[str, socket.socket], text: str) -> None:
    rooms["alice"].sendall(text.encode())
    for name in ("alice", "bob"):
        assert receive(rooms[name], len(text.encode())).decode() == text
    assert hears_nothing(rooms["carol"])


@pytest.mark.parametrize("room", [b"\0", b"\xff", b"\n", b"e"])
def test_any_byte_is_a_room(server: Server, room: bytes) -> None:
    with member(server, room) as first, member(server, room) as second:
        assert first.recv(1) == b"!"
        first.sendall(b"hello")
        assert receive(second, 5) == b"hello"


@pytest.mark.parametrize("text", [b"exit", b"exit\n", b"exit\r\n", b"bye\nexit\nlost\n"])
def test_exit_leaves(rooms: dict[str, socket.socket], text: bytes) -> None:
    rooms["bob"].sendall(text)
    heard = b"bye\n" if text.startswith(b"bye") else b""
    assert receive(rooms["bob"], len(heard)) == heard
    assert rooms["bob"].recv(100) == b""
    assert receive(rooms["alice"], len(heard)) == heard
    assert hears_nothing(rooms["alice"])


def test_what_is_no_utf_8_is_replaced(rooms: dict[str, socket.socket]) -> None:
    rooms["alice"].sendall(b"a\xffb\xc3(")
    expected = "a\ufffdb\ufffd(".encode()
    assert receive(rooms["bob"], len(expected)) == expected


def test_character_in_pieces(rooms: dict[str, socket.socket]) -> None:
    for byte in "я€😀.".encode():
        rooms["alice"].sendall(bytes([byte]))
    heard = b""
    while not heard.endswith(b"."):
        piece = rooms["bob"].recv(1000)
        piece.decode()  # no piece ends within a character
        heard += piece
    assert heard.decode() == "я€😀."


def test_long_message_and_order(rooms: dict[str, socket.socket]) -> None:
    text = "".join(f"{number}," for number in range(20_000)).encode()
    rooms["alice"].sendall(text)
    for name in ("bob", "alice"):
        assert receive(rooms[name], len(text)) == text


def test_silence_and_empty_messages(rooms: dict[str, socket.socket]) -> None:
    rooms["alice"].sendall(b"\n \r\n")
    rooms["alice"].sendall(b"hello")
    heard = b""
    while not heard.endswith(b"hello"):
        heard += rooms["bob"].recv(100)
    assert heard.strip() == b"hello"


def test_one_who_does_not_read_is_not_waited_for_and_stays(
    rooms: dict[str, socket.socket],
) -> None:
    """Alice writes without reading, as a sender does; bob hears all of it."""
    alice, bob = rooms["alice"], rooms["bob"]
    piece = b"x" * 1000
    size = 12_000_000  # far more than the kernel keeps for her
    heard = 0
    for _ in range(size // len(piece)):
        alice.sendall(piece)
        heard += len(receive(bob, len(piece)))
    alice.sendall(b".")
    assert bob.recv(1) == b"."
    while not receive(alice, 1000).startswith(b"x"):
        pass
    bob.sendall(b"still there?")
    assert receive(bob, 12) == b"still there?"


def test_broken_connections_are_no_members_any_more(
    server: Server, rooms: dict[str, socket.socket]
) -> None:
    before = server.descriptors()
    with ExitStack() as stack:
        for _ in range(20):
            broken = stack.enter_context(member(server, b"B"))
            broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    carol = rooms["carol"]
    receive(carol, 20)
    while server.descriptors() > before:
        carol.sendall(b"x")
        assert receive(carol, 1) == b"x"


def test_its_own_clients(server: Server) -> None:
    port = ("--port", str(server.port))
    with (
        member(server, b"A") as witness,
        Program("group_chat", "reader", "A", *port) as reader,
        Program("group_chat", "sender", "A", *port, stdin=subprocess.PIPE) as sender,
    ):
        assert reader.process.stdout is not None
        # Until the reader is in the room, it hears nothing.
        while not select.select([reader.process.stdout], [], [], 0.01)[0]:
            witness.sendall(b"ready\n")
        sender.write("hello\nпривет\x1b[2J\n")
        while (line := reader.readline()) != "hello":
            assert line == "ready"
        assert reader.readline() == "привет\ufffd[2J"
        sender.write("exit\n")
        assert sender.wait() == 0
        assert sender.stderr() == ""


@pytest.mark.parametrize(
    "args", [(), ("reader",), ("reader", "AB"), ("sender", "я"), ("server", "A")]
)
def test_wrong_arguments(args: tuple[str, ...]) -> None:
    with Program("group_chat", *args) as program:
        assert program.wait() == 2


def test_limits_are_told() -> None:
    assert group_chat.__doc__ is not None
    for name in ("QUEUE", "PATIENCE", "ROOM_LIMIT"):
        assert name in group_chat.__doc__
        assert getattr(group_chat, name) > 0
