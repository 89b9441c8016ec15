"""Hostile clients: every example server bears them, keeps its limits and serves the others.

More of this, and for longer, is in tests/stress/test_hostile_clients.py.
"""

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import hostile
import pytest
from example_process import LIMIT, Server, until

from pyloop.examples import udp_hello

MIB = 1024 * 1024

# AddressSanitizer keeps what has been freed, to see who still uses it.
MEMORY_IS_COUNTED = "libasan" not in os.environ.get("LD_PRELOAD", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.make_site(tmp_path_factory.mktemp("outside"))


@pytest.fixture(params=hostile.SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    parameter: str = request.param
    return parameter


@pytest.fixture
def server(name: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One that ends well: status 0, nothing on stderr, no connection left."""
    monkeypatch.chdir(site)
    with Server(name, *hostile.SERVERS[name]) as process:
        hostile.ask_good(process, name)
        idle = process.descriptors()
        yield process
        hostile.ask_good(process, name)
        until(lambda: process.descriptors() <= idle)


def test_hostile_clients(name: str, server: Server) -> None:
    before = server.resident("VmHWM")
    with socket.create_connection(server.address, timeout=LIMIT) as silent:
        silent.sendall(hostile.GOOD[name][0][:1])
        for number, data in enumerate([*hostile.GARBAGE, *hostile.OWN.get(name, [])]):
            if name == "echo_sockets" and b"boom" in data:
                continue
            hostile.attack(server, name, [data])
            if number % 10 == 0:
                hostile.ask_good(server, name)
        # An end at each position of a good request, in each way.
        question = hostile.GOOD[name][0]
        for cut in range(len(question)):
            hostile.attack(server, name, [question[:cut]])
            hostile.converse(server.address, [question[:cut]], ending="close")
            hostile.converse(server.address, [question[:cut]], ending="reset")
        # All of a request, a byte at a time.
        hostile.attack(server, name, [bytes([byte]) for byte in question])
        # Without an end: what is not done with is not kept.
        hostile.attack(server, name, [b"x" * 8 * MIB])
    assert server.resident("VmHWM") < before + 24 * MIB or not MEMORY_IS_COUNTED


DATAGRAMS = [
    b"",
    b"\0",
    b"\n" * 100,
    b"\xff" * udp_hello.MAX_DATAGRAM,
    b"\x1b]0;owned\a",
    "\u2028\x85\u202e".encode(),
    b"x" * udp_hello.MAX_DATAGRAM + b"the rest is lost",
    b"x" * 65_507,  # the longest there is
    bytes(range(256)),
]


def test_hostile_datagrams() -> None:
    """Each is one line of output and gets one answer, whatever is in it."""
    with Server("udp_hello", "server") as server:
        before = server.resident("VmHWM")
        stdout = server.process.stdout
        assert stdout is not None
        output: list[bytes] = []
        reader = threading.Thread(target=lambda: output.append(stdout.read()))
        reader.start()
        try:
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.settimeout(LIMIT)
                sock.connect(server.address)
                for data in DATAGRAMS * 20:
                    sock.send(data)
                    assert sock.recv(100) == udp_hello.ANSWER
                # One who does not wait for answers, and one who is gone when they come.
                for _ in range(2000):
                    sock.send(b"y" * 65_507)
            assert server.resident("VmHWM") < before + 8 * MIB or not MEMORY_IS_COUNTED
        finally:
            server.process.terminate()
            reader.join()
        assert (server.wait(), server.stderr()) == (0, "")
    lines = output[0].decode().split("\n")
    assert lines.pop() == ""
    answered = [line for line in lines if not line.startswith("y")]
    assert len(answered) == len(DATAGRAMS * 20)
    for line in lines:
        assert len(line) <= udp_hello.MAX_DATAGRAM
        assert re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", line) is None
