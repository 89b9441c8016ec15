"""The bulk of what tests/test_example_hostile.py has a part of: hostile clients, many and for long.

PYLOOP_STRESS_EXAMPLES is how many generated conversations each server has to bear.
"""

import contextlib
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import pytest
from example_process import LIMIT, Program, Server, descriptor_limit, until
from hypothesis import given, settings
from hypothesis import strategies as st
from load import connect_many, seed, size

from pyloop.examples import _http

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

EXAMPLES = size("PYLOOP_STRESS_EXAMPLES", 120)
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = hostile.make_site(tmp_path_factory.mktemp("outside"))
    (site / "large").write_bytes(os.urandom(4 * MIB))
    return site


@contextlib.contextmanager
def running(name: str, site: Path) -> Iterator[Server]:
    """A server that ends well: no connection left, status 0, nothing on stderr."""
    with contextlib.chdir(site), Server(name, *hostile.SERVERS[name]) as server:
        idle = server.descriptors()
        hostile.ask_good(server, name)
        until(lambda: server.descriptors() <= idle)
        yield server
        hostile.ask_good(server, name)
        until(lambda: server.descriptors() <= idle)


every_server = pytest.mark.parametrize("name", hostile.SERVERS)


# Pieces of what the protocols are made of, and of what they are not.
WORDS = [
    *(
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b"/",
        b".",
        b"%",
        b"?",
        b"#",
        b"=",
        b";",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b'{"a": 3, "b": 4}',
        b'"a": ',
        b'"b": ',
        b'{"subject": "x"}',
    ),
    *(b"GET ", b"POST ", b"HEAD ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: x\r\n", b"\r\n\r\n"),
    *(b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"/subjects/7", b"/index.html"),
    *(b"..", b"%2e%2e", b"%2f", b"%00", b"link.txt", b"secret.txt", b"sub/", b"http://x/"),
    *(b"GET / HTTP/1.1\r\n\r\n", b"GET /../secret.txt HTTP/1.1\r\n\r\n"),
    *(b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 16\r\n\r\n" + b'{"subject": "x"}',),
    *(b"0", b"1", b"-1", b"1_0", b"9" * 30, b"1e9", b"NaN", b"true", b"null", b"0x10"),
    *(b"alice", b"x\nx: hello\n", b"alice: hi\n", b"server", b"exit", b"\nexit\n"),
    *("я".encode(), "☃".encode(), b"\xff", b"\xed\xa0\x80", b"\xf0\x9f", b"\xe2\x80\xa8"),
]

words = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.binary(max_size=30),
        st.builds(lambda word, times: word * times, st.sampled_from(WORDS), st.integers(2, 3000)),
    ),
    max_size=12,
).map(b"".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What is sent, cut into pieces at any places."""
    data = draw(words)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@every_server
def test_generated_conversations(name: str, site: Path) -> None:
    memory: list[int] = []
    with running(name, site) as server:

        @settings(max_examples=EXAMPLES)
        @given(conversations(), st.sampled_from(["half-close"] * 4 + ["close", "reset"]))
        def converse(pieces: list[bytes], ending: str) -> None:
            if ending == "half-close":
                hostile.attack(server, name, pieces)
            else:
                hostile.converse(server.address, pieces, ending=ending)
            assert server.process.poll() is None
            memory.append(server.resident())

        converse()
        for _ in range(10):
            hostile.ask_good(server, name)
    quarter = len(memory) // 4
    assert min(memory[-quarter:]) < max(memory[quarter : 2 * quarter]) + 8 * MIB


@every_server
def test_hostile_clients_all_at_once(name: str, site: Path) -> None:
    """Threads of them; a good one is served all the while."""
    # In a chat, everybody hears everybody, and waits for each a while.
    times = 5 if name == "group_chat" else 40
    attacks = [
        data for data in (*hostile.GARBAGE, *hostile.OWN.get(name, ())) if b"boom" not in data
    ]
    failed: list[BaseException] = []

    def misbehave(number: int) -> None:
        rng = random.Random(seed() + number)
        try:
            for _ in range(times):
                pieces = [rng.choice(attacks) for _ in range(rng.randrange(3))]
                hostile.converse(
                    server.address, pieces, ending=rng.choice(["half-close", "close", "reset"])
                )
        except BaseException as error:
            failed.append(error)

    with running(name, site) as server:
        before = server.resident()
        threads = [threading.Thread(target=misbehave, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        good = 0
        while any(thread.is_alive() for thread in threads):
            hostile.ask_good(server, name)
            good += 1
        for thread in threads:
            thread.join()
        grown = server.resident("VmHWM") - before
        print(f"{name}: {good} good ones meanwhile, at most {grown / MIB:.0f} MiB more")
        assert failed == []
        assert good >= 1
        # Of eight who each may have a body of 1 MiB read, and parsed.
        assert grown < 64 * MIB


@every_server
def test_an_endless_line(name: str, site: Path) -> None:
    with running(name, site) as server:
        before = server.resident()
        hostile.attack(server, name, [b"x" * MIB] * 64)
        assert server.resident("VmHWM") < before + 8 * MIB


# What is sent first, and what is added again and again.
TRICKLES = {
    "http_page": [
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        (b"GET / HTTP/1.1\r\na: ", b"b"),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"", b""),
    ],
    "subjects": [
        (b"POST /subjects/7 HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", b" "),
        (b"GET", b" "),
    ],
    "thundergram": [(b"lo", b"g"), (b"", b"")],
}


@pytest.mark.parametrize("name", TRICKLES)
def test_slowloris(name: str, site: Path) -> None:
    """A little now and then does not keep a connection beyond the limit for all of it."""
    count = 400
    with descriptor_limit(2000), running(name, site) as server:
        idle = server.descriptors()
        attackers = connect_many(server.address, count)
        try:
            for number, sock in enumerate(attackers):
                first, _ = TRICKLES[name][number % len(TRICKLES[name])]
                sock.send(first)
            limit = time.monotonic() + LIMIT
            while (left := server.descriptors() - idle) > 0:
                assert time.monotonic() < limit, f"{left} are still connected"
                for number, sock in enumerate(attackers):
                    _, more = TRICKLES[name][number % len(TRICKLES[name])]
                    with contextlib.suppress(OSError):
                        sock.send(more)
                hostile.ask_good(server, name)
        finally:
            for sock in attackers:
                sock.close()


def test_readers_that_read_slowly(site: Path) -> None:
    """A large page, and clients who do not take it: each costs its response, for a limited time."""
    count = 8
    with running("http_page", site) as server:
        idle = server.descriptors()
        before = server.resident()
        attackers = connect_many(server.address, count, receive_buffer=4096)
        try:
            for sock in attackers:
                sock.send(b"GET /large HTTP/1.1\r\n\r\n" * 100)
            until(lambda: all(select.select([sock], [], [], 0)[0] for sock in attackers))
            hostile.ask_good(server, "http_page")
            until(lambda: server.descriptors() <= idle)
            # The file, and the response with the file in it, of each; and the reading threads'.
            assert server.resident("VmHWM") < before + (count + 6) * 2 * 5 * MIB
        finally:
            for sock in attackers:
                sock.close()


@every_server
def test_a_byte_at_a_time(name: str, site: Path) -> None:
    """A hundred who send like that at once all get what they would get for one piece."""
    question, answer = hostile.GOOD[name]
    with descriptor_limit(1000), running(name, site) as server:
        clients = connect_many(server.address, 100)
        try:
            for cut in range(len(question)):
                for number, sock in enumerate(clients):
                    text = question
                    if name == "thundergram":  # a login for each, of the same length
                        text = text.replace(b"witness", b"peer%03d" % number)
                    elif name == "group_chat":  # a room for each
                        text = bytes([number]) + text[1:]
                    sock.send(text[cut : cut + 1])
            for number, sock in enumerate(clients):
                sock.settimeout(LIMIT)
                sock.shutdown(socket.SHUT_WR)
                received = b""
                while data := sock.recv(65536):
                    received += data
                expected = answer
                if name == "thundergram":
                    expected = answer.replace(b"witness", b"peer%03d" % number)
                assert received.startswith(expected), received
        finally:
            for sock in clients:
                sock.close()


def test_pipelines_without_end(site: Path) -> None:
    """Requests that come faster than the answers are taken: the server reads no more, and waits."""
    with running("subjects", site) as server:
        before = server.resident()
        with socket.create_connection(server.address) as sock:
            sock.setblocking(False)
            requests = b"GET /subjects/7 HTTP/1.1\r\n\r\n" * 2000
            sent = 0
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while select.select([], [sock], [], 0.5)[1] and sent < 256 * MIB:
                    sent += sock.send(requests)
            assert sent < 64 * MIB
            hostile.ask_good(server, "subjects")
        assert server.resident("VmHWM") < before + 8 * MIB


def test_subjects_is_bounded(site: Path) -> None:
    """Who fills it gets 507 in the end, and GET goes on."""
    from pyloop.examples import subjects

    with running("subjects", site) as server:
        with socket.create_connection(server.address, timeout=LIMIT) as sock:
            stream = sock.makefile("rb")

            def post(student: int, subject: str) -> int:
                body = f'{{"subject": "{subject}"}}'.encode()
                sock.sendall(
                    b"POST /subjects/%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
                    % (student, len(body), body)
                )
                status = int(stream.readline().split()[1])
                length = 0
                while line := stream.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                return status

            with stream:
                assert {post(1, f"s{n}") for n in range(subjects.MAX_SUBJECTS)} == {201}
                assert post(1, "one too many") == 507
                assert {post(n, "x") for n in range(2, subjects.MAX_STUDENTS + 1)} == {201}
                assert post(subjects.MAX_STUDENTS + 1, "x") == 507
                assert post(1, "s1") == 201


def test_pictures_with_a_bad_neighbour(tmp_path: Path) -> None:
    """aiohttp's server on our loop, attacked while it serves: all pictures arrive."""
    pytest.importorskip("aiohttp")
    with Program(
        "pictures", "--port", "0", "--count", "400", "--directory", str(tmp_path)
    ) as program:
        host, _, port = program.readline().rpartition(" ")[2].rpartition(":")
        address = host, int(port)
        rng = random.Random(seed())
        done: Callable[[], bool] = lambda: program.process.poll() is not None  # noqa: E731
        with contextlib.suppress(ConnectionRefusedError):
            while not done():
                data = rng.choice([*hostile.GARBAGE, *hostile.HTTP])
                with contextlib.suppress(TimeoutError):
                    hostile.converse(address, [data], ending=rng.choice(["close", "reset"]))
        assert program.wait() == 0
        assert program.readline().startswith("400 files, ")
        # What aiohttp says of a request that it does not understand.
        log = "Error handling request from 127.0.0.1\nTraceback (most recent call last):\n"
        assert program.stderr().count("Traceback") == program.stderr().count(log)
    assert len(list(tmp_path.iterdir())) == 400


def test_unfinished_requests_are_bounded(site: Path) -> None:
    """The worst that clients can have a server keep: all of a request but its last byte."""
    line = b"a: " + b"b" * (_http.MAX_LINE - 10) + b"\r\n"
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n" % _http.MAX_BODY + line + b"\r\n"
    request = head + bytes(_http.MAX_BODY - 1)
    with running("http_page", site) as server:
        before = server.resident()
        attackers = connect_many(server.address, 20)
        try:
            for sock in attackers:
                sock.settimeout(LIMIT)
                sock.sendall(request)
            hostile.ask_good(server, "http_page")
            grown = server.resident("VmHWM") - before
        finally:
            for sock in attackers:
                sock.close()
    print(
        f"{grown / len(attackers) / MIB:.1f} MiB for each request of {len(request) / MIB:.1f} MiB"
    )
    assert grown < len(attackers) * 3 * len(request)
