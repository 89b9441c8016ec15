"""lines(): what a peer sends, as lines, however it was split on its way."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct

import pytest
from face_support import pair, settle, tcp_pair
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pyloop


async def all_lines(sock: socket.socket, **options: object) -> list[str]:
    return [line async for line in pyloop.lines(sock, **options)]


def read(data: bytes, backend: str | None = None, **options: object) -> list[str]:
    """The lines of a peer that sends `data` at once and closes."""
    with pair() as (left, right):
        right.sendall(data)
        right.shutdown(socket.SHUT_WR)
        return pyloop.run(all_lines(left, **options), backend=backend)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\n\n\n", ["", "", ""]),
        (b"one\n", ["one"]),
        (b"one\ntwo\nthree\n", ["one", "two", "three"]),
        (b"one\n\ntwo\n", ["one", "", "two"]),
        (b"unterminated", ["unterminated"]),
        (b"one\nunterminated", ["one", "unterminated"]),
        (b"\r\n", ["\r"]),
        (b"one\r\ntwo\rthree\r", ["one\r", "two\rthree\r"]),
        (b" \t one \n", [" \t one "]),
        (b"nul \0 inside\n", ["nul \0 inside"]),
        ("привет\nмир\n".encode(), ["привет", "мир"]),
        ("\U0001f40d\n\u20ac\n".encode(), ["\U0001f40d", "\u20ac"]),
        ("\ufeffbom\n".encode(), ["\ufeffbom"]),
        # str.splitlines would part all of these.
        ("a\vb\fc\x1cd\x85e\u2028f\u2029g\n".encode(), ["a\vb\fc\x1cd\x85e\u2028f\u2029g"]),
    ],
)
def test_what_separates_lines(data: bytes, expected: list[str], backend: str) -> None:
    assert read(data, backend) == expected


def split(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


TEXT = st.text(alphabet=st.sampled_from("ab\n\r\u00e9\u20ac\U0001f40d\u2028"), max_size=60)


@settings(max_examples=150)
@given(text=TEXT, places=st.lists(st.integers(0, 300), max_size=20), max_line=st.just(65536))
@example(text="\U0001f40d\n\u20ac", places=list(range(9)), max_line=65536)
@example(text="\n\n", places=[1], max_line=65536)
@example(text="exact\nexact\n", places=[6], max_line=5)
def test_any_split_of_any_text(text: str, places: list[int], max_line: int) -> None:
    expected = text.split("\n")
    if expected[-1] == "":
        expected.pop()

    async def sender(sock: socket.socket) -> None:
        for chunk in split(text.encode(), places):
            await pyloop.sendall(sock, chunk)
            await settle(3)
        sock.shutdown(socket.SHUT_WR)

    with pair() as (left, right):
        got, _ = pyloop.run(all_lines(left, max_line=max_line), sender(right))
    assert got == expected


def test_every_byte_in_a_packet_of_its_own(backend: str) -> None:
    text = "héllo\n€uro\n\U0001f40d\n\nend"

    async def sender(sock: socket.socket) -> None:
        for byte in text.encode():
            await pyloop.sendall(sock, bytes([byte]))
            await settle(3)
        sock.shutdown(socket.SHUT_WR)

    with tcp_pair() as (left, right):
        got, _ = pyloop.run(all_lines(left), sender(right), backend=backend)
    assert got == text.split("\n")


def test_a_line_longer_than_any_buffer(backend: str) -> None:
    line = "x" * 1_000_000

    async def sender(sock: socket.socket) -> None:
        await pyloop.sendall(sock, (line + "\n" + line + "y").encode())
        sock.shutdown(socket.SHUT_WR)

    with pair() as (left, right):
        got, _ = pyloop.run(all_lines(left, max_line=2_000_000), sender(right), backend=backend)
    assert got == [line, line + "y"]


def test_another_encoding() -> None:
    assert read("café\nné".encode("latin-1"), encoding="latin-1") == ["café", "né"]
    assert read(b"plain\n", encoding="ascii") == ["plain"]


# --- the limit ---------------------------------------------------------------------------------


def test_line_too_long_is_a_value_error() -> None:
    assert issubclass(pyloop.LineTooLong, ValueError)


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_of_the_limit_passes_and_one_byte_more_does_not(end: bytes, backend: str) -> None:
    assert read(b"x" * 10 + end, backend, max_line=10) == ["x" * 10]
    with pytest.raises(pyloop.LineTooLong):
        read(b"x" * 11 + end, backend, max_line=10)


def test_the_limit_counts_bytes() -> None:
    assert read("€€€\n".encode(), max_line=9) == ["€€€"]
    with pytest.raises(pyloop.LineTooLong):
        read("€€€\n".encode(), max_line=8)


def test_lines_before_the_long_one_are_given_first() -> None:
    async def root(sock: socket.socket) -> list[str]:
        got = []
        with pytest.raises(pyloop.LineTooLong):
            async for line in pyloop.lines(sock, max_line=5):
                got.append(line)
        return got

    with pair() as (left, right):
        right.sendall(b"one\ntwo\nmuch too long\nthree\n")
        assert pyloop.run(root(left)) == ["one", "two"]


def test_the_rest_of_a_long_line_is_skipped_and_the_next_one_follows(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        lines = pyloop.lines(left, max_line=5)
        right.sendall(b"much too long\nnext\n")
        with pytest.raises(pyloop.LineTooLong):
            await lines.__anext__()
        assert await lines.__anext__() == "next"

        # The end of the long line comes later, in pieces.
        right.sendall(b"again too long")
        with pytest.raises(pyloop.LineTooLong):
            await lines.__anext__()
        task = await pyloop.spawn(lines.__anext__())
        for _ in range(3):
            right.sendall(b" and still not over")
            await settle(3)
        assert not task.done()
        right.sendall(b" now\nfine\n")
        assert await task == "fine"

        right.sendall(b"too long without an end")
        right.shutdown(socket.SHUT_WR)
        with pytest.raises(pyloop.LineTooLong):
            await lines.__anext__()
        with pytest.raises(StopAsyncIteration):
            await lines.__anext__()

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_an_endless_line_is_not_buffered(backend: str) -> None:
    size = 8_000_000

    async def root(left: socket.socket, right: socket.socket) -> None:
        sender = await pyloop.spawn(pyloop.sendall(right, b"x" * size))
        with pytest.raises(pyloop.LineTooLong):
            await pyloop.lines(left, max_line=1000).__anext__()
        # What the sender still holds has not been read, so it cannot be buffered.
        await settle()
        assert not sender.done()
        sender.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender

    with pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_a_limit_for_many_long_lines_in_one_read() -> None:
    async def root(sock: socket.socket) -> list[str]:
        lines = pyloop.lines(sock, max_line=3)
        got = []
        while True:
            try:
                got.append(await lines.__anext__())
            except pyloop.LineTooLong:
                got.append("too long")
            except StopAsyncIteration:
                return got

    with pair() as (left, right):
        right.sendall(b"one\nlong\ntwo\nlonger\nlongest\n\nend of it")
        right.shutdown(socket.SHUT_WR)
        assert pyloop.run(root(left)) == [
            "one",
            "too long",
            "two",
            "too long",
            "too long",
            "",
            "too long",
        ]


# --- invalid UTF-8 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "start"),
    [
        (b"\xff", 0),
        (b"abc\xff def", 3),
        ("é".encode() + b"\x80", 2),
        (b"cut \xe2\x82", 4),
        (b"overlong \xc0\xaf", 9),
        (b"surrogate \xed\xa0\x80", 10),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_invalid_utf8_is_reported_with_its_offset(
    line: bytes, start: int, end: bytes, backend: str
) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        read(b"good one\n" + line + end, backend)
    error = caught.value
    bad = error.object[error.start : error.start + 1]
    assert bad == line[start : start + 1]
    assert error.object[: error.start].endswith(line[:start])
    assert "utf" in error.encoding.lower()


def test_after_invalid_utf8_the_next_line_follows(backend: str) -> None:
    async def root(sock: socket.socket) -> None:
        lines = pyloop.lines(sock)
        assert await lines.__anext__() == "one"
        for _ in range(2):
            with pytest.raises(UnicodeDecodeError):
                await lines.__anext__()
        assert await lines.__anext__() == "two"
        with pytest.raises(UnicodeDecodeError):
            await lines.__anext__()
        with pytest.raises(StopAsyncIteration):
            await lines.__anext__()

    with pair() as (left, right):
        right.sendall(b"one\nbad \xff\n\xc3\ntwo\ncut \xe2\x82")
        right.shutdown(socket.SHUT_WR)
        pyloop.run(root(left), backend=backend)


# --- the iterator ------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "allowed"), [(20, 0), (5000, 500)])
def test_one_read_yields_many_lines_without_going_back_to_the_loop(
    count: int, allowed: int, backend: str
) -> None:
    """Of very many lines the loop may take its turn now and then, so that others get theirs."""

    async def root(sock: socket.socket) -> None:
        turns = 0
        stop = False

        async def ticker() -> None:
            nonlocal turns
            while not stop:
                turns += 1
                await pyloop.pause()

        await pyloop.spawn(ticker())
        await settle()
        lines = pyloop.lines(sock)
        assert await lines.__anext__() == "0"
        at_the_first = turns
        for number in range(1, count):
            assert await lines.__anext__() == str(number)
        assert turns - at_the_first <= allowed
        stop = True

    with pair() as (left, right):
        right.sendall(b"".join(b"%d\n" % number for number in range(count)))
        pyloop.run(root(left), backend=backend)


def test_it_is_an_async_iterator() -> None:
    async def root(sock: socket.socket) -> None:
        lines = pyloop.lines(sock)
        assert aiter(lines) is lines
        assert inspect.isawaitable(step := lines.__anext__())
        assert await step == "login"
        assert await anext(lines) == "first"
        assert [line async for line in lines] == ["second", "third"]
        assert await anext(lines, "default") == "default"
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await lines.__anext__()

    with pair() as (left, right):
        right.sendall(b"login\nfirst\nsecond\nthird")
        right.shutdown(socket.SHUT_WR)
        pyloop.run(root(left))


def test_break_and_go_on() -> None:
    async def root(sock: socket.socket) -> None:
        lines = pyloop.lines(sock)
        async for line in lines:
            if line == "stop":
                break
        assert await lines.__anext__() == "after"

    with pair() as (left, right):
        right.sendall(b"one\nstop\nafter\n")
        pyloop.run(root(left))


def test_aclose() -> None:
    async def root(sock: socket.socket) -> None:
        unstarted = pyloop.lines(sock)
        await unstarted.aclose()
        with pytest.raises(StopAsyncIteration):
            await unstarted.__anext__()

        lines = pyloop.lines(sock)
        assert await lines.__anext__() == "one"
        await lines.aclose()
        await lines.aclose()
        with pytest.raises(StopAsyncIteration):
            await lines.__anext__()
        # The socket is not the iterator's to close.
        assert sock.fileno() != -1
        assert [line async for line in lines] == []

    with pair() as (left, right):
        right.sendall(b"one\ntwo\n")
        pyloop.run(root(left))


def test_two_at_once_are_refused() -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        lines = pyloop.lines(left)
        task = await pyloop.spawn(lines.__anext__(), name="the-first-one")
        await settle()
        with pytest.raises(RuntimeError):
            await lines.__anext__()
        right.send(b"whole\n")
        assert await task == "whole"

    with pair() as (left, right):
        pyloop.run(root(left, right))


def test_a_reset_by_the_peer(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        right.send(b"one\nhalf a li")
        lines = pyloop.lines(left)
        assert await lines.__anext__() == "one"
        task = await pyloop.spawn(lines.__anext__())
        await settle()
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        with pytest.raises(ConnectionResetError):
            await task

    with tcp_pair() as (left, right):
        pyloop.run(root(left, right), backend=backend)


def test_on_a_blocking_socket_only_the_task_waits(backend: str) -> None:
    async def root(left: socket.socket, right: socket.socket) -> None:
        task = await pyloop.spawn(all_lines(left))
        await settle()
        right.sendall(b"one\ntwo")
        await settle()
        assert left.getblocking()
        right.shutdown(socket.SHUT_WR)
        assert await task == ["one", "two"]

    left, right = socket.socketpair()
    with left, right:
        pyloop.run(root(left, right), backend=backend)
