"""What all example servers have in common: options, ports, signals, shortage of descriptors."""

import errno
import os
import resource
import signal
import socket
import subprocess
from contextlib import ExitStack

import pytest
from example_process import LIMIT, Program, Server, command, until
from hostile import GOOD

# The role, where the program has several.
TCP_SERVERS: dict[str, tuple[str, ...]] = {
    "callbacks": (),
    "echo_sockets": (),
    "echo_streams": ("server",),
    "group_chat": ("server",),
    "http_page": (),
    "hypotenuse": ("server",),
    "round_robin": (),
    "subjects": (),
}
SERVERS: dict[str, tuple[str, ...]] = {**TCP_SERVERS, "udp_hello": ("server",)}

# What each answers at once, and how the answer starts. http_page has nothing to serve here: that
# it answers is what is asked for.
ASK = {name: GOOD[name] for name in TCP_SERVERS}
ASK["http_page"] = (GOOD["http_page"][0], b"HTTP/1.1 ")

every_server = pytest.mark.parametrize("name", SERVERS)
every_tcp_server = pytest.mark.parametrize("name", TCP_SERVERS)


def dial(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=LIMIT)


@pytest.fixture
def empty(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory: http_page serves the current one."""
    monkeypatch.chdir(str(tmp_path))


pytestmark = pytest.mark.usefixtures("empty")


@pytest.mark.parametrize("name", [*SERVERS, "pictures"])
def test_help(name: str) -> None:
    text = subprocess.check_output(command(name, "--help"), text=True, timeout=LIMIT)
    for word in (f"usage: python -m pyloop.examples.{name}", "--host", "--port", "8000"):
        assert word in text


@every_server
def test_wrong_arguments(name: str) -> None:
    for args in (("--port", "65536"), ("--port", "x"), ("too", "many", "words", "here")):
        result = subprocess.run(
            command(name, *args), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert result.returncode == 2
        assert f"usage: python -m pyloop.examples.{name}" in result.stderr


@every_server
def test_port_in_use_is_told(name: str) -> None:
    kind = socket.SOCK_DGRAM if name == "udp_hello" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        with Program(name, *SERVERS[name], "--port", str(port)) as second:
            assert second.wait() == 1
            assert "address already in use" in second.stderr().lower()
            assert "Traceback" not in second.stderr()


@every_server
def test_ipv6(name: str) -> None:
    with Server(name, *SERVERS[name], "--host", "::1") as server:
        assert server.host == "::1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@every_server
def test_signal_ends_the_server_with_connections_open(name: str, number: int) -> None:
    with Server(name, *SERVERS[name]) as server, ExitStack() as stack:
        if name in TCP_SERVERS:
            idle = stack.enter_context(dial(server))
            busy = stack.enter_context(dial(server))
            busy.sendall(ASK[name][0])
            assert busy.recv(1000).startswith(ASK[name][1])
        server.process.send_signal(number)
        assert server.wait(4) == 0
        assert server.stderr() == ""
        if name in TCP_SERVERS:
            assert idle.recv(100) == b""


@every_tcp_server
def test_out_of_descriptors_is_survived(name: str) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))

    question, answer = ASK[name]
    with Server(name, *SERVERS[name], preexec=few) as server, ExitStack() as stack:
        clients = [stack.enter_context(dial(server)) for _ in range(24)]
        until(lambda: server.stderr() != "")
        for client in clients:
            client.sendall(question)
        for client in clients:  # each that leaves makes room for one that waits
            assert answer in client.recv(1000)
            client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(4) == 0
        if name != "echo_streams":  # there, asyncio accepts, and has its own words
            assert server.stderr().startswith(f"cannot accept: [Errno {errno.EMFILE}]")


@every_tcp_server
def test_clients_that_break_off_disturb_nobody(name: str) -> None:
    question, answer = ASK[name]
    with Server(name, *SERVERS[name]) as server:
        for sent in (b"", b"\xff\xfe\0", question[:-1], question, question * 100):
            with dial(server) as broken:
                broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                broken.sendall(sent)
        with dial(server) as witness:
            witness.sendall(question)
            assert witness.recv(1000).startswith(answer)


@pytest.mark.parametrize("name", [name for name in TCP_SERVERS if name != "callbacks"])
def test_each_backend(name: str, backend: str) -> None:
    """Of the loop, that is; callbacks has none."""
    with Server(name, *SERVERS[name]) as server, dial(server) as client:
        client.sendall(ASK[name][0])
        assert client.recv(1000).startswith(ASK[name][1])


@every_tcp_server
def test_client_that_sends_slowly_holds_up_nobody(name: str) -> None:
    question, answer = ASK[name]
    with Server(name, *SERVERS[name]) as server, dial(server) as slow, dial(server) as witness:
        slow.sendall(question[:1])
        witness.sendall(question)
        assert witness.recv(1000).startswith(answer)


def test_examples_are_in_the_table() -> None:
    root = os.path.join(os.path.dirname(__file__), "..", "examples")
    with open(os.path.join(root, "README.md"), encoding="utf-8") as file:
        text = file.read()
    for name in os.listdir(root):
        if name.endswith(".py") and name != "__init__.py":
            assert f"[{name}]({name})" in text
