"""The programs of the seeds 001 to 004, taken from their texts and run on pyloop.

What is changed in them is all in the tables below: how they get their loop (PRELUDES), where they
listen (ports and hosts, which might be somebody else's), and what the texts have lost on their way
into the seeds (REPAIRS): indentation, line breaks, a name here and there.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from example_process import LIMIT, Program, Server, until
from seeds_text import Change, Script, block, blocks, changed, needs_seeds

import pyloop

pytestmark = needs_seeds

# --- what is changed ---------------------------------------------------------------------------

HOST: Change = ("socket.gethostname()", '"127.0.0.1"')
ANY_PORT_8000: Change = ("PORT = 8000", "PORT = 0")
ANY_ADDRESS_8000: Change = ("('127.0.0.1', 8000)", "('127.0.0.1', 0)")
ANY_ADDRESS_5000: Change = ("('localhost', 5000)", "('127.0.0.1', 0)")

# asyncio.run() and asyncio.new_event_loop() give pyloop's loop; stderr says so.
ASYNCIO = """
import asyncio, sys
import pyloop

def pyloops_loop():
    print("on pyloop", file=sys.stderr)
    return pyloop.EventLoop()

class Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = staticmethod(pyloops_loop)

asyncio.set_event_loop_policy(Policy())
"""

# `selectors.DefaultSelector()` is pyloop's.
SELECTORS = """
import selectors
import pyloop
selectors.DefaultSelector = pyloop.Selector
"""

# What `from select import select` becomes: select(), made of pyloop's selector.
SELECT = """
import selectors
import pyloop

def select(to_read, to_write, _, timeout=None):
    with pyloop.Selector() as selector:
        for sock in {*to_read, *to_write}:
            events = selectors.EVENT_READ * (sock in to_read)
            events |= selectors.EVENT_WRITE * (sock in to_write)
            selector.register(sock, events)
        ready = selector.select(timeout)
    readable = [key.fileobj for key, events in ready if events & selectors.EVENT_READ]
    writable = [key.fileobj for key, events in ready if events & selectors.EVENT_WRITE]
    return readable, writable, []

"""
SELECT_IMPORT: Change = ("from select import select\n", "")

# The modules that exercise 5 of seed 001 imports and does not show.
SUBJECTS_MODULES = {
    "exception.py": """
        class ServerExeption(Exception):
            def __init__(self, status_code, reason):
                super().__init__(reason)
                self.status_code = status_code
                self.reason = reason
        """,
    "response.py": """
        from dataclasses import dataclass, field

        @dataclass
        class Response:
            status_code: int
            reason: str
            headers: dict = field(default_factory=dict)
            body: bytes | None = None
        """,
    "request.py": """
        from dataclasses import dataclass
        from urllib.parse import urlsplit

        @dataclass
        class Request:
            method: str
            url: str
            version: str
            stream: object
            headers: dict

            @property
            def path(self):
                return urlsplit(self.url).path

            def body(self):
                return self.stream.read(int(self.headers.get("Content-Length", 0)))
        """,
    "routes.py": """
        from response import Response

        saved = {}

        def get_all_subjects(request, student_id):
            body = b",".join(saved.get(student_id, []))
            return Response(200, "OK", {"Content-Length": len(body)}, body)

        def save_subject(request, student_id):
            if student_id == 13:
                raise LookupError("an unlucky student")
            saved.setdefault(student_id, []).append(request.body())
            return Response(201, "Created", {"Content-Length": 0})
        """,
}
SUBJECTS_IMPORT: Change = ("from event_loop import EventLoop", "from pyloop import EventLoop")

# Seed 003: an indentation in the echo with boom, where the block is a part of a program.
BOOM_REPAIRS: list[Change] = [
    (
        "\t\twhile data := await loop.sock_recv(connections, 1024):\n\t\tprint('got data!')\n\n"
        "\t\tif data == b'boom\\r\\n':\n\t\t\traise Exception('Ошибка сети')\n\n"
        "\t\tawait loop.sock_sendall(connections, data)\n\texcept",
        "\t\twhile data := await loop.sock_recv(connections, 1024):\n\t\t\tprint('got data!')\n\n"
        "\t\t\tif data == b'boom\\r\\n':\n\t\t\t\traise Exception('Ошибка сети')\n\n"
        "\t\t\tawait loop.sock_sendall(connections, data)\n\texcept",
    )
]

# Seed 004: tabs among spaces; code that a comment has swallowed; lost indentation.
SELECT_REPAIRS: list[Change] = [
    ("\t\tready_to_read,", "        ready_to_read,"),
    ("\t\t\tif sock is", "            if sock is"),
    ("\t            accept_connect(sock)", "                accept_connect(sock)"),
    ("\t\t\telse:", "            else:"),
    ("\t            send_message(sock)", "                send_message(sock)"),
]
CALLBACK_REPAIRS: list[Change] = [
    ("(например сессия)  selector.register", "\n    selector.register"),
    ("  selector.unregister(client_socket)", "        selector.unregister(client_socket)"),
    ("(fileobj, events, data)  events =", "\n        events ="),
    ("  callback = key.data", "            callback = key.data"),
    ("  callback(key.fileobj)", "            callback(key.fileobj)"),
]
CAROUSEL_REPAIRS: list[Change] = [
    ("\n  task = tasks.pop(0)", "\n    task = tasks.pop(0)"),
    ("\n  i = next(task)", "\n        i = next(task)"),
    ("\n  tasks.append(task)", "\n        tasks.append(task)"),
    ("\n  except", "\n    except"),
]
GENERATOR_REPAIRS: list[Change] = [
    ('\n  print("Connection from"', '\n        print("Connection from"'),
    ("\n  if not request:", "\n        if not request:"),
    ("\n else:", "\n        else:"),
    ("\n  client_socket.close()", "\n    client_socket.close()"),
]
GENERATOR_LOOP_REPAIRS: list[Change] = [
    ("как False  while any(", "как False\n    while any("),
    ("\n  while not tasks:", "\n        while not tasks:"),
]
# What comes before and after the block's own loop, when pyloop's runs its generators: its list of
# tasks is the loop's, its event_loop() is run().
GENERATOR_LOOP = """
import types
from pyloop import EventLoop
loop = EventLoop()
"""
GENERATOR_LOOP_NAMES = """
tasks = types.SimpleNamespace(append=loop.create_task)
event_loop = loop.run

"""
NUMBERS_REPAIRS: list[Change] = [
    ("\n  while True:", "\n    while True:"),
    ("\n  await asyncio.sleep(1)", "\n        await asyncio.sleep(0.01)"),
    ("\n  task1", "\n    task1"),
    ("\n  task2", "\n    task2"),
    ("\n  await asyncio.gather", "\n    await asyncio.gather"),
]
DOWNLOAD_REPAIRS: list[Change] = [
    (
        "\n      write_image(data)",
        "\n        data = await response.read()\n        write_image(data)",
    ),
    ("\n\twith open", "\n    with open"),
    ("\n\t      file.write", "\n        file.write"),
    ("ClientSession as session:", "ClientSession() as session:\n        tasks = []"),
    ("\n\t\t\ttask =", "\n            task ="),
    ("\n\t        tasks.append", "\n            tasks.append"),
    ("\n\t    await asyncio.gather", "\n        await asyncio.gather"),
]

needs_selector = pytest.mark.skipif(
    not hasattr(pyloop, "Selector"), reason="this pyloop has no Selector"
)
needs_type_statement = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="the program has `type` statements"
)


def dial(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=LIMIT)


def ask(sock: socket.socket, data: bytes) -> bytes:
    """Send, and return as many bytes as were sent."""
    sock.sendall(data)
    answer = b""
    while len(answer) < len(data):
        piece = sock.recv(len(data) - len(answer))
        assert piece
        answer += piece
    return answer


# --- 001, exercises 1 to 4: no loop; its clients with our servers, and with its own -------------

Address = tuple[str, int]


def to(address: Address) -> list[Change]:
    """What lets a client of seed 001 find its server."""
    return [HOST, ("SERVER_PORT = 8000", f"SERVER_PORT = {address[1]}")]


def udp_client(folder: Path, address: Address) -> None:
    with Script(folder, changed(block(1, "client.sendto"), to(address))) as client:
        assert client.readline() == "Hello client"
        assert client.wait() == 0


def hypotenuse_client(folder: Path, address: Address) -> None:
    code = changed(block(1, "Катеты"), to(address))
    with Script(folder, code, stdin=subprocess.PIPE) as client:
        client.write(" 3, 4 \n")
        client.expect("Катеты прямоугольного треугольника ")
        assert client.readline() == "Гипотенуза = 5.0"
        assert client.wait() == 0


def page_client(folder: Path, address: Address) -> None:
    """There is none in the seed; a browser's first request."""
    with dial(address) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = browser.recv(65536)
        while b"<p>Hello" not in answer:
            answer += browser.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Type: text/html" in answer


def chat_clients(folder: Path, address: Address) -> None:
    """A reader and a sender in room A, and a reader in room B."""
    read = changed(block(1, "Получено новое сообщение"), to(address))
    write = changed(block(1, '"Сообщение "'), to(address))
    for name in ("reader", "other", "sender"):
        (folder / name).mkdir()
    with (
        Script(folder / "reader", read, stdin=subprocess.PIPE) as reader,
        Script(folder / "other", read, stdin=subprocess.PIPE) as other,
        Script(folder / "sender", write, stdin=subprocess.PIPE) as sender,
    ):
        for script, room in ((reader, "A"), (other, "B")):
            script.write(f"{room}\n")
            script.expect("Идентификатор чата ")
            with dial(address) as witness:  # a reader is in its room once it hears something
                witness.sendall(room.encode())
                while not script.has_printed():
                    assert ask(witness, b"ready") == b"ready"
                witness.sendall(b"exit")
                assert witness.recv(1000) == b""
        sender.write("A\n")
        sender.expect("Идентификатор чата ")
        sender.write("привет\n")
        line = ""
        while not line.endswith("привет"):
            line = reader.readline()  # it prints at once what it receives at once
            assert re.fullmatch("Получено новое сообщение: (ready)*(привет)?", line)
        sender.write("exit\n")
        assert sender.wait() == 0
        assert sender.stderr() == ""
        while other.has_printed():
            assert re.fullmatch("Получено новое сообщение: (ready)+", other.readline())
        for script in (reader, other):
            assert script.process.poll() is None
            script.kill()


EXERCISES = {
    "udp_hello": udp_client,
    "hypotenuse": hypotenuse_client,
    "http_page": page_client,
    "group_chat": chat_clients,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_001_clients_with_our_servers(name: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>Hello")
    with Server(name, str(tmp_path) if name == "http_page" else "server") as server:
        EXERCISES[name](tmp_path, server.address)
        if name == "udp_hello":
            assert server.readline() == "Hello server"


OWN_SERVERS = {
    "udp_hello": ("server.sendto", [HOST, ANY_PORT_8000]),
    "hypotenuse": ("calculate_hypotenuse", [HOST, ANY_PORT_8000]),
    "http_page": ("BASE_DIR", [ANY_PORT_8000]),
    "group_chat": ("class ChatConnectionManager", [HOST, ANY_PORT_8000]),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_type_statement if name == "group_chat" else ())
        for name in EXERCISES
    ],
)
def test_001_clients_with_their_own_servers(name: str, tmp_path: Path) -> None:
    """So that the test above compares with something."""
    mark, changes = OWN_SERVERS[name]
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "index.html").write_text("<p>Hello")
    with Script(tmp_path, changed(block(1, mark), changes)) as server:
        (tmp_path / "clients").mkdir()
        EXERCISES[name](
            tmp_path / "clients", server.address("udp" if name == "udp_hello" else "tcp")
        )
        server.kill()


def test_001_our_udp_client_with_its_server(tmp_path: Path) -> None:
    mark, changes = OWN_SERVERS["udp_hello"]
    with Script(tmp_path, changed(block(1, mark), changes)) as server:
        port = server.address("udp")[1]
        with Program("udp_hello", "client", "--port", str(port)) as client:
            assert client.readline() == "Hello client"
            assert client.wait() == 0
        assert server.readline() == "Hello server"
        server.kill()


# --- 001, exercise 5: an HTTP server of generators on our loop ----------------------------------


@pytest.fixture
def subjects(tmp_path: Path) -> Iterator[Script]:
    for name, text in SUBJECTS_MODULES.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    code = changed(block(1, "class HTTPServer"), [SUBJECTS_IMPORT])
    with Script(tmp_path, code, "127.0.0.1", "0") as server:
        yield server
        if server.process.returncode is None:
            server.kill()


def request(address: Address, data: bytes) -> tuple[int, bytes]:
    """Status and body of the answer."""
    with dial(address) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+", head)
    assert match is not None, answer
    return int(match[1]), body


@needs_type_statement
def test_001_subjects(subjects: Script, backend: str) -> None:
    address = subjects.address()

    def post(student: int, subject: bytes) -> tuple[int, bytes]:
        head = b"POST /subjects/%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
        return request(address, head % (student, len(subject)) + subject)

    assert request(address, b"GET /subjects/7 HTTP/1.1\r\n\r\n") == (200, b"")
    assert post(7, b"Algebra") == (201, b"")
    assert post(7, b"Physics") == (201, b"")
    assert request(address, b"GET /subjects/7?x=1 HTTP/1.1\nA: b\n\n") == (200, b"Algebra,Physics")
    assert post(13, b"Algebra")[0] == 500
    assert request(address, b"GET /students HTTP/1.1\r\n\r\n")[0] == 404
    assert request(address, b"DELETE /subjects/7 HTTP/1.1\r\n\r\n")[0] == 405
    assert request(address, b"GET /subjects/7\r\n\r\n")[0] == 400
    assert request(address, b"GET /" + b"7" * 65536)[0] == 431
    headers = b"".join(b"name-%d: value\r\n" % number for number in range(101))
    assert request(address, b"GET /subjects/7 HTTP/1.1\r\n" + headers + b"\r\n")[0] == 431


@needs_type_statement
def test_001_subjects_for_many_who_come_and_do_not_speak(subjects: Script) -> None:
    """Each connection is a generator: the silent ones hold up nobody."""
    address = subjects.address()
    silent = [dial(address) for _ in range(20)]
    for _ in range(5):
        assert request(address, b"GET /subjects/7 HTTP/1.1\r\n\r\n")[0] == 200
    for sock in silent:
        sock.close()
    assert request(address, b"GET /subjects/7 HTTP/1.1\r\n\r\n")[0] == 200


@needs_type_statement
def test_001_subjects_end_with_ctrl_c(subjects: Script) -> None:
    """The program catches KeyboardInterrupt, and its `finally` blocks close the sockets."""
    with dial(subjects.address()) as sock:
        assert request(subjects.address(), b"GET /subjects/7 HTTP/1.1\r\n\r\n")[0] == 200
        subjects.process.send_signal(signal.SIGINT)
        assert subjects.wait() == 0
        assert sock.recv(100) == b""


# --- 002: asyncio's streams ---------------------------------------------------------------------

STREAMS_SERVER = 'HOST, PORT = "127.0.0.1", 0\n'
# The client keeps what it receives to itself.
CLIENT_REPAIRS: list[Change] = [
    ("    await writer.wait_closed()\n", "    await writer.wait_closed()\n    print(data)\n")
]


def streams_server(form: str) -> str:
    handler = block(2, "async def handle_echo")
    if form == "3.6":
        # The argument `loop` is gone since Python 3.10.
        return handler + changed(
            block(2, "asyncio.start_server(handle_echo, '127.0.0.1', 8888"),
            [("8888", "0"), (", loop=loop", "")],
        )
    start = changed(
        block(2, "task = loop.create_task"), [("tcp_echo_client(HOST, PORT)", "main()")]
    )
    return STREAMS_SERVER + handler + block(2, "server.serve_forever") + start


@pytest.mark.parametrize("form", ["3.6", "3.7"])
def test_002_server(form: str, tmp_path: Path) -> None:
    with Script(tmp_path, streams_server(form), prelude=ASYNCIO) as server:
        for _ in range(3):
            with dial(server.address()) as client:
                assert ask(client, b"Hello, world") == b"Hello, world"
                assert client.recv(100) == b""
        # KeyboardInterrupt while asyncio still counts a client off would lose the count, and the
        # end would wait for that client for ever.
        until(server.is_asleep)
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == (0 if form == "3.6" else -signal.SIGINT)
        assert "on pyloop" in server.stderr()
        assert ("KeyboardInterrupt" in server.stderr()) is (form == "3.7")


@pytest.mark.parametrize("start", ["task = loop.create_task", "loop.run("])
@pytest.mark.parametrize("whose", ["our server", "its own server"])
def test_002_client(whose: str, start: str, tmp_path: Path) -> None:
    def client(port: int) -> None:
        code = f'HOST, PORT = "127.0.0.1", {port}\n'
        if start == "loop.run(":  # asyncio has no loop.run(); pyloop's loop has
            code += "loop = asyncio.new_event_loop()\n"
        code += changed(block(2, "async def tcp_echo_client"), CLIENT_REPAIRS)
        code += next(
            code for code in blocks(2) if code.startswith(("loop = ", "loop.run")) and start in code
        )
        (tmp_path / "client").mkdir()
        with Script(tmp_path / "client", code, prelude=ASYNCIO) as process:
            assert process.readline() == "b'Hello, world'"
            assert process.wait() == 0
            assert "on pyloop" in process.stderr()

    if whose == "our server":
        with Server("echo_streams", "server") as server:
            client(server.port)
    else:
        with Script(tmp_path, streams_server("3.7"), prelude=ASYNCIO) as script:
            client(script.address()[1])
            script.kill()


# --- 003: from a selector to a graceful end -----------------------------------------------------


@needs_selector
def test_003_selector(tmp_path: Path) -> None:
    code = changed(block(3, "selectors.DefaultSelector()"), [ANY_ADDRESS_8000])
    with Script(tmp_path, code, prelude=SELECTORS) as server:
        with dial(server.address()) as first, dial(server.address()) as second:
            for client in (second, first, second):
                assert ask(client, b"hello\r\n") == b"hello\r\n"
            server.kill()
        assert "Traceback" not in server.stderr()


def test_003_sockets(tmp_path: Path, backend: str) -> None:
    code = changed(block(3, "# Построение асинхронного эхо-сервера"), [ANY_ADDRESS_8000])
    with Script(tmp_path, code, prelude=ASYNCIO) as server:
        with dial(server.address()) as first, dial(server.address()) as second:
            for client in (second, first, second):
                assert ask(client, b"hello\r\n") == b"hello\r\n"
            server.process.send_signal(signal.SIGINT)
            assert server.wait() == -signal.SIGINT
        assert server.stderr().startswith("on pyloop")
        assert "KeyboardInterrupt" in server.stderr()


@pytest.mark.parametrize("form", ["unhandled", "handled"])
def test_003_boom(form: str, tmp_path: Path) -> None:
    """The program of the test above with each of the text's other two versions of `echo`."""
    whole = changed(block(3, "# Построение асинхронного эхо-сервера"), [ANY_ADDRESS_8000])
    start, end = whole.index("async def echo"), whole.index("async def listen_for_connection")
    versions = [code for code in blocks(3) if code.startswith("async def echo") and "boom" in code]
    (echo,) = (code for code in versions if ("finally" in code) is (form == "handled"))
    if form == "handled":
        echo = changed(echo, BOOM_REPAIRS)
    code = f"import logging\n{whole[:start]}{echo}\n\n{whole[end:]}"
    with Script(tmp_path, code, prelude=ASYNCIO) as server:
        with dial(server.address()) as reckless, dial(server.address()) as witness:
            assert ask(reckless, b"boom?\r\n") == b"boom?\r\n"
            reckless.sendall(b"boom\r\n")
            until(lambda: "Exception: Ошибка сети" in server.stderr())
            assert reckless.recv(100) == b""
            assert ask(witness, b"hello\r\n") == b"hello\r\n"
            server.kill()
        assert ("never retrieved" in server.stderr()) is (form == "unhandled")


def test_003_signal(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text(
        "import asyncio\n"
        "async def delay(seconds):\n"
        "    print('waiting')\n"
        "    await asyncio.sleep(seconds)\n"
    )
    with Script(tmp_path, block(3, "def cancel_tasks"), prelude=ASYNCIO) as program:
        assert program.readline() == "waiting"
        program.process.send_signal(signal.SIGINT)
        assert program.readline() == "Получен сигнал SIGINT"
        assert program.readline() == "Снимается 1 задач."
        assert program.wait() == 1
        assert "CancelledError" in program.stderr()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_003_graceful_exit(number: int, tmp_path: Path) -> None:
    code = changed(block(3, "class GracefulExit"), [ANY_ADDRESS_8000])
    with Script(tmp_path, code, prelude=ASYNCIO) as server:
        address = server.address()
        with dial(address) as client, dial(address) as reckless:
            assert ask(client, b"before\r\n") == b"before\r\n"
            reckless.sendall(b"boom\r\n")
            assert reckless.recv(100) == b""
            server.process.send_signal(number)
            assert ask(client, b"after\r\n") == b"after\r\n"
        assert server.wait(4) == 0
        assert server.stderr().startswith("on pyloop")
        assert "Exception: Ошибка сети" in server.stderr()


def test_003_graceful_exit_does_not_wait_for_ever(tmp_path: Path) -> None:
    code = changed(block(3, "class GracefulExit"), [ANY_ADDRESS_8000])
    with Script(tmp_path, code, prelude=ASYNCIO) as server, dial(server.address()) as client:
        assert ask(client, b"hello\r\n") == b"hello\r\n"
        server.process.terminate()
        assert client.recv(100) == b""
        assert server.wait(4) == 0


# --- 004: select, callbacks, generators, asyncio, aiohttp ---------------------------------------


@needs_selector
def test_004_select(tmp_path: Path) -> None:
    """As the block stands, it answers the end of a client's input, and its first request is the
    server's end."""
    changes = [SELECT_IMPORT, ANY_ADDRESS_5000, *SELECT_REPAIRS]
    code = changed(block(4, "to_monitor = []"), changes)
    with Script(tmp_path, code, prelude=SELECT) as server:
        with dial(server.address()) as client:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(12) == b"Hello world\n"
            assert server.readline().startswith("Connection from ('127.0.0.1', ")
            server.kill()


def hello_clients(server: Script) -> None:
    with dial(server.address()) as first, dial(server.address()) as second:
        for client in (second, first, second):
            client.sendall(b"hello")
            assert client.recv(100) == b"Hello world\n"
        first.shutdown(socket.SHUT_WR)
        assert first.recv(100) == b""
        second.sendall(b"still there")
        assert second.recv(100) == b"Hello world\n"
    for _ in range(2):
        assert server.readline().startswith("Connection from ('127.0.0.1', ")


@needs_selector
def test_004_callbacks(tmp_path: Path) -> None:
    code = changed(block(4, "selector.unregister"), [ANY_ADDRESS_5000, *CALLBACK_REPAIRS])
    with Script(tmp_path, code, prelude=SELECTORS) as server:
        hello_clients(server)
        assert server.stderr() == ""
        server.kill()


CAROUSEL = [*"s6t6r6i6n6g6"]


def test_004_carousel(tmp_path: Path) -> None:
    code = changed(block(4, "def gen1(s)", "tasks.pop(0)"), CAROUSEL_REPAIRS)
    with Script(tmp_path, code) as program:
        assert [program.readline() for _ in CAROUSEL] == CAROUSEL
        assert program.wait() == 0


def test_004_carousel_on_our_loop(tmp_path: Path) -> None:
    """The same two generators; what they yield is printed, and then it is the next one's turn."""
    code = block(4, "def gen1(s)", "tasks.pop(0)").partition("tasks = [g1, g2]")[0]
    code += (
        "from pyloop import EventLoop\n"
        "def printing(gen):\n"
        "    for value in gen:\n"
        "        print(value)\n"
        "        yield\n"
        "loop = EventLoop(main=printing(g1))\n"
        "loop.create_task(printing(g2))\n"
        "loop.run()\n"
        "loop.close()\n"
    )
    with Script(tmp_path, code) as program:
        assert [program.readline() for _ in CAROUSEL] == CAROUSEL
        assert program.wait() == 0


def test_004_generators_on_our_loop(tmp_path: Path, backend: str) -> None:
    """Its generators; its list of tasks and its loop are ours."""
    changes = [SELECT_IMPORT, ANY_ADDRESS_5000, *GENERATOR_REPAIRS, ("tasks = []\n", "")]
    code = changed(block(4, "yield ('read', server_socket)"), changes)
    own_loop = code[code.index("def event_loop()") : code.index("tasks.append(server())")]
    code = GENERATOR_LOOP + changed(code, [(own_loop, GENERATOR_LOOP_NAMES)])
    with Script(tmp_path, code) as server:
        hello_clients(server)
        assert server.stderr() == ""
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == -signal.SIGINT


@needs_selector
def test_004_generators_on_their_own_loop(tmp_path: Path) -> None:
    """Only its select() is ours."""
    changes = [SELECT_IMPORT, ANY_ADDRESS_5000, *GENERATOR_REPAIRS, *GENERATOR_LOOP_REPAIRS]
    code = changed(block(4, "yield ('read', server_socket)"), changes)
    with Script(tmp_path, code, prelude=SELECT) as server:
        hello_clients(server)
        assert server.stderr() == ""
        server.kill()


def test_004_numbers_and_time(tmp_path: Path) -> None:
    """A second is a hundredth here."""
    code = changed(block(4, "async def print_nums"), NUMBERS_REPAIRS)
    with Script(tmp_path, code, prelude=ASYNCIO) as program:
        expected = ["1", "0 seconds have pass", "2", "3", "4", "3 seconds have pass", "5"]
        assert [program.readline() for _ in expected] == expected
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == -signal.SIGINT
        assert program.stderr().startswith("on pyloop")


def test_004_downloads(tmp_path: Path) -> None:
    """Ten downloads with aiohttp; the URL is that of a server here."""
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), Picture) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        serving = threading.Thread(target=server.serve_forever, args=[0.01])
        serving.start()
        parts = (
            block(4, "async def fetch_connect"),
            block(4, "def write_image"),
            block(4, "aiohttp.ClientSession as session"),
        )
        code = changed("\n".join(parts), [("https://url-example.com", url), *DOWNLOAD_REPAIRS])
        try:
            with Script(tmp_path, code, prelude=ASYNCIO) as program:
                assert float(program.readline()) > 0
                assert program.wait() == 0
                assert program.stderr() == "on pyloop\n"
        finally:
            server.shutdown()
            serving.join()
    # The names have milliseconds in them; those of the same one are the same file.
    files = list(tmp_path.glob("file-*.jpeg"))
    assert files
    assert {file.read_bytes() for file in files} == {PICTURE}
    assert Picture.served == 10


PICTURE = b"\xff\xd8\xff\xe0" + bytes(1000)


class Picture(BaseHTTPRequestHandler):
    served = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE)
        Picture.served += 1

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""
