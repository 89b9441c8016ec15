"""Hostile input for the example servers, and what each of them may answer.

`converse` sends whatever it is given and returns all that comes back. Of a client that has closed
its sending side and reads to the end, `CHECKS` know what it must have got.
"""

import errno
import json
import os
import re
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from example_process import LIMIT, Server

from pyloop.examples import callbacks, doubling

RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: on, 0 seconds

# Role, and options that make the limits short.
SERVERS: dict[str, tuple[str, ...]] = {
    "callbacks": (),
    "doubling": ("server",),
    "echo_sockets": (),
    "echo_streams": ("server",),
    "group_chat": ("server",),
    "http_page": ("--patience", "2"),
    "hypotenuse": ("server",),
    "round_robin": (),
    "subjects": ("--patience", "2"),
    "thundergram": ("server", "--login-limit", "2", "--stuck-limit", "2"),
}

# What a good client says, whole, and what it gets. Each is served while others misbehave.
GOOD = {
    "callbacks": (b"?", b"Hello world\n"),
    "doubling": (b"21\n", b"42\n"),
    "echo_sockets": (b"hello", b"hello"),
    "echo_streams": (b"hello", b"hello"),
    "group_chat": (b"Zhello", b"hello"),
    "http_page": (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    "hypotenuse": (b'{"a": 3, "b": 4}', b"5.0\n"),
    "round_robin": (b"?", b"Hello world\n"),
    "subjects": (b"GET /subjects/7 HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    "thundergram": (b"witness\nwitness: hello\n", b"witness: hello\n"),
}

PAGE = b"<!doctype html><title>page</title>"
SECRET = b"the secret beside the page"

GARBAGE = [
    b"",
    b"\0",
    b"\xff\xfe\0\n",
    b"\xc0\xaf\xed\xa0\x80\n",  # UTF-8 that is too long, a surrogate
    b"\xf0\x9f\x90",  # an end within a character
    b"\n" * 5000,
    b"\r\n" * 3000,
    b"\r" * 3000,
    b"\0" * 70_000 + b"\n",
    b"A" * 200_000,
    b"A" * 200_000 + b"\n" + b"1\n",
    bytes(range(256)) * 300,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),  # somebody speaks TLS
    b"\x1b[2J\x1b]0;owned\a\n",
    b"%s%n%x%p\n" * 100,
    b"-" + b"9" * 4095 + b"\n",
    b"1" * 4096 + b"\n" + b"1" * 4097 + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"{" * 3000,
    b"[" * 3000 + b"\n",
    b'{"a": ' * 500 + b"\n",
]

LEGS = [
    b'{"a": 3, "b": 4}{"a": 5, "b": 12}',
    b'{"a": 1' + b"0" * 4000 + b', "b": 1}',
    b'{"a": 1e999, "b": 1}{"a": NaN, "b": 1}{"a": Infinity, "b": 1}{"a": -0.0, "b": -1}',
    b'{"a": true, "b": null}{"a": [], "b": {}}{"a": "3", "b": "4"}{}',
    b'{"a": 3, "a": 4, "b": "}"}',
    b'{"\\ud800": "\\", "a": 3',
    b'{"a": 3, "b": 4, "c": "' + b"x" * 5000 + b'"}',
    b'{"a":' + b'{"a":' * 800 + b"1" + b"}" * 801,
    b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b', "b": 1}',
]

CHAT = [
    b"x\n" + b"x,x,x: to myself\n" * 100,
    b"x\n" + b",".join(b"u%d" % n for n in range(900)) + b": hello\n",
    b"x\n\xff: \xff\n" + b"y" * 5000 + b"\nx: after\n",
    b"x\n" + b"x: a\0b\x1b[2J\n" + b"x: \xe2\x80\xa8\xc2\x85\n",
    b"server\nx: y\n",
    b"a:b\n",
    b"x" * 33 + b"\n",
    "ａｂｃ\u202e\nx: y\n".encode(),
    b"x\n" + b"x:" + b"z" * 4094 + b"\n" + b"x:" + b"z" * 4095 + b"\n",
]

# Ways to write "/../secret.txt"; what is a way to another server is none here.
DOTS = [b"..", b"%2e%2e", b".%2E", b"%252e%252e", b"..%00", b"%c0%ae%c0%ae", b"\xc0\xae\xc0\xae"]
DOTS += [b"..%ef%bc%8f", b"....", b"..;", b"%uff0e%uff0e", b". .", b"..%0d%0a"]
SLASHES = [b"/", b"%2f", b"%5c", b"\\", b"//", b"/./", b"%252f", b"%c0%af", b"/sub/../"]
TRAVERSALS = [b"/" + dots + slash + b"secret.txt" for dots in DOTS for slash in SLASHES] + [
    b"/link.txt",
    b"/sub/../../secret.txt",
    b"//secret.txt",
    b"/up/secret.txt",
    b"/%2e",
    b"/.hidden",
    b"/%00",
    b"/index.html%00.txt",
    b"file:///etc/passwd",
    b"/etc/passwd",
    b"//etc/passwd",
    b"http://x/../secret.txt",
    b"/" + b"a/" * 20_000,
    b"/" + b"a" * 5000,
    b"/" + b"%41" * 5000,
    b"/fifo",
    b"/?" + b"x" * 60_000,
    b"*",
]

HTTP = [
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\n" + (b"a: " + b"b" * 60_000 + b"\r\n") * 99 + b"\r\n",
    b"GET / HTTP/1.1\r\na: " + b"b" * 100_000,
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"X" * 100_000 + b" / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n folded\r\n: empty\r\na\0: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nName : space\r\n\r\n",
    b"GET / HTTP/1.1\r\na: b\0c\r\n\r\n",
    b"GET / HTTP/1.1\r\na: b\rc: d\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET  /  HTTP/1.1\r\n\r\n",
    b"get / http/1.1\r\n\r\n",
    b"GET\t/\tHTTP/1.1\r\n\r\n",
    b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n" + b"x" * 100,
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: keep-alive, close, \xff\r\n\r\nrest",
    b"GET / HTTP/1.1\r\n\r\n" * 300,
    b"CONNECT example.org:80 HTTP/1.1\r\n\r\n",
    b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"[" * 1_000_000,
    b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"9" * 1_000_000,
    b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 13\r\n\r\n" + b'{"subject": \xff',
    b"GET /subjects/99999999999999999999999999 HTTP/1.1\r\n\r\n",
    "GET /subjects/٣ HTTP/1.1\r\n\r\n".encode(),
] + [b"GET " + path + b" HTTP/1.1\r\n\r\n" for path in TRAVERSALS]

OWN = {
    "group_chat": [b"R" + data for data in (b"exit", b" exit \n", b"a\x85exit\n", b"\xf0\x9f")],
    "http_page": HTTP,
    "hypotenuse": LEGS,
    "subjects": HTTP,
    "thundergram": CHAT,
}


def make_site(outside: Path) -> Path:
    """What http_page is to serve: a folder in `outside`, with a secret beside it."""
    (outside / "secret.txt").write_bytes(SECRET)
    site = outside / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_bytes(PAGE)
    (site / ".hidden").write_bytes(SECRET)
    (site / "link.txt").symlink_to("../secret.txt")
    (site / "up").symlink_to("..")
    os.mkfifo(site / "fifo")
    return site


@dataclass
class Answer:
    data: bytes
    reset: bool  # how the connection ended


def converse(
    address: tuple[str, int], pieces: Sequence[bytes], *, ending: str = "half-close"
) -> Answer:
    """Send the pieces, reading meanwhile; return what came until the end.

    `ending`: "half-close" our side and read on; or "close" or "reset" right after the last piece.
    """
    received = bytearray()
    end = time.monotonic() + LIMIT
    with socket.create_connection(address, timeout=LIMIT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        unsent = [memoryview(piece) for piece in pieces if piece]
        half_closed = False
        try:
            while True:
                if not unsent and not half_closed:
                    if ending == "reset":
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    if ending != "half-close":
                        return Answer(bytes(received), False)
                    sock.shutdown(socket.SHUT_WR)
                    half_closed = True
                seconds = end - time.monotonic()
                readable, writable, _ = select.select(
                    [sock], [sock] if unsent else [], [], max(seconds, 0)
                )
                if not readable and not writable:
                    raise TimeoutError(f"no end within {LIMIT} s of {bytes(received[:100])!r}...")
                if readable:
                    data = sock.recv(1 << 18)
                    if not data:
                        return Answer(bytes(received), False)
                    received += data
                if writable:
                    rest = unsent[0][sock.send(unsent[0]) :]
                    unsent[:1] = [rest] if rest else []
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
            with suppress(OSError):
                while data := sock.recv(1 << 18):
                    received += data
            return Answer(bytes(received), True)


def ask_good(server: Server, name: str) -> None:
    """Be a client who does everything right, and is served."""
    question, answer = GOOD[name]
    got = converse(server.address, [question])
    assert got.data.startswith(answer), got
    assert not got.reset


# ------------------------------------------------------------ what is allowed


def check_doubling(sent: bytes, answer: bytes) -> None:
    *lines, last = sent.split(b"\n")
    expected = []
    for line in [*lines, last] if last else lines:
        try:
            if len(line) > doubling.MAX_LINE:
                raise ValueError(f"line is longer than max_line={doubling.MAX_LINE} bytes")
            expected.append(str(int(line.decode()) * 2))
        except ValueError as error:
            expected.append(f"error: {error}")
    assert answer.decode().split("\n") == [*expected, ""]


def check_echo(sent: bytes, answer: bytes) -> None:
    assert answer == sent


def check_hello(sent: bytes, answer: bytes) -> None:
    assert answer == callbacks.ANSWER * (len(answer) // len(callbacks.ANSWER))
    assert bool(answer) == bool(sent)


def check_group_chat(sent: bytes, answer: bytes) -> None:
    answer.decode()  # the rest may come from others in the room


def check_hypotenuse(sent: bytes, answer: bytes) -> None:
    *lines, rest = answer.decode().split("\n")
    assert rest == ""
    for line in lines:
        value = json.loads(line)
        assert isinstance(value, float) or list(value) == ["error"], line
    assert bool(lines) == bool(sent.strip())


def check_thundergram(sent: bytes, answer: bytes) -> None:
    *lines, rest = answer.decode().split("\n")
    assert rest == ""
    login = sent.partition(b"\n")[0].decode(errors="replace").strip()
    for line in lines:
        assert line.startswith(("server: ", f"{login}: ")), line


HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z' -]+\r\n((?:[A-Za-z-]+: [ -~]+\r\n)*)\r\n")
STATUSES = {100, 200, 201, 400, 404, 405, 408, 413, 431, 501, 505}


def check_http(sent: bytes, answer: bytes) -> None:
    """Whole responses, one after the other, and none that says that the server has a mistake."""
    assert SECRET not in answer
    assert b"root:" not in answer
    heads = sent.count(b"HEAD")
    while answer:
        match = HEAD.match(answer)
        assert match is not None, answer[:200]
        status = int(match[1])
        assert status in STATUSES, match[0]
        answer = answer[match.end() :]
        if status == 100:
            continue
        length = re.search(rb"\r?\nContent-Length: (\d+)\r\n", b"\n" + match[2])
        assert length is not None
        if heads and (answer.startswith(b"HTTP/1.1") or not answer):
            continue
        assert len(answer) >= int(length[1])
        answer = answer[int(length[1]) :]


CHECKS: dict[str, Callable[[bytes, bytes], None]] = {
    "callbacks": check_hello,
    "doubling": check_doubling,
    "echo_sockets": check_echo,
    "echo_streams": check_echo,
    "group_chat": check_group_chat,
    "http_page": check_http,
    "hypotenuse": check_hypotenuse,
    "round_robin": check_hello,
    "subjects": check_http,
    "thundergram": check_thundergram,
}


def attack(server: Server, name: str, pieces: Sequence[bytes]) -> None:
    """Say all this, and check what comes back."""
    sent = b"".join(pieces)
    answer = converse(server.address, pieces)
    if answer.reset:
        # Whoever goes on after `exit` has not been heard to the end.
        assert name == "group_chat", (pieces, answer)
        assert b"exit" in sent, (pieces, answer)
    CHECKS[name](sent, answer.data)
