"""HTTP/1.1 for small servers: read a request, write its response, keep the connection.

`serve_http` is the server; it calls `respond(request)`, a coroutine function of the example, which
returns a Response or raises HTTPError. Of RFC 9110 and 9112, this is what there is:

- A request's line and each of its headers has at most MAX_LINE bytes, there are at most
  MAX_HEADERS of them, and MAX_HEAD bytes of them in all, else 431. A body comes with
  Content-Length and has at most MAX_BODY bytes, else 413. A transfer coding, which we do not know,
  is 501: a body whose end two programs see in different places is how requests are smuggled. What
  is no HTTP is 400.
- The connection is kept for the next request, unless the client says otherwise or has sent
  something after which nobody can tell where its next request starts. Requests that come at once
  are answered in order.
- A request must be there within `patience` seconds from its first byte, else 408; as long may a
  client take for a response, and be silent between two requests, before it is disconnected.
- What `respond` raises beside HTTPError is logged and answered with 500.
"""

import logging
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from pyloop import recv, sendall, spawn, timeout
from pyloop.examples._cli import accept_next, last_words, listen, name_of

MAX_LINE = 64 * 1024  # bytes, with the line's end
MAX_HEADERS = 100
MAX_HEAD = (
    128 * 1024
)  # bytes, without the lines' ends: a hundred of the longest would cost too much
MAX_BODY = 1024 * 1024  # bytes
PATIENCE = 30.0  # seconds

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
TARGET = re.compile(r"[!-~]+")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

log = logging.getLogger(__name__)


class HTTPError(Exception):
    """A response that is no success, for `respond` to raise."""

    def __init__(self, status: HTTPStatus, reason: str = "", **headers: str) -> None:
        super().__init__(reason or status.description or status.phrase)
        self.status = status
        self.headers = headers


@dataclass
class Request:
    method: str
    target: str
    version: str
    headers: dict[str, str]  # by lower-case name; repeated ones are joined by commas
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without the query, still percent-encoded."""
        # A proxy's form of the target has the server's name before the path.
        return re.sub(r"^https?://[^/?#]*", "", self.target, flags=re.I).partition("?")[0] or "/"

    @property
    def keep_alive(self) -> bool:
        said = {word.strip().lower() for word in self.headers.get("connection", "").split(",")}
        if self.version == "HTTP/1.0":
            return "keep-alive" in said
        return "close" not in said


@dataclass
class Response:
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, *, head_only: bool, keep_alive: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Connection": "keep-alive" if keep_alive else "close",
            **self.headers,
        }
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("iso-8859-1")
        return head if head_only else head + self.body


Respond = Callable[[Request], Awaitable[Response]]


class Input:
    """What a client sends: lines, and pieces of a known length."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._data = bytearray()

    async def more(self) -> bool:
        """Wait for more input; False if there will be none."""
        data = await recv(self._conn, 64 * 1024)
        self._data += data
        return bool(data)

    async def wait(self) -> bool:
        """Wait for the first byte of the next request; False if there will be none."""
        return bool(self._data) or await self.more()

    async def line(self) -> str:
        """The next line without its end; raises HTTPError when it is too long."""
        start = 0
        while (end := self._data.find(b"\n", start, MAX_LINE)) < 0:
            start = len(self._data)
            if start >= MAX_LINE:
                raise HTTPError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "a line is too long")
            if not await self.more():
                raise EOFError
        line = await self.piece(end + 1)
        return line.decode("iso-8859-1").removesuffix("\n").removesuffix("\r")

    async def piece(self, length: int) -> bytes:
        while len(self._data) < length:
            if not await self.more():
                raise EOFError
        piece = bytes(self._data[:length])
        del self._data[:length]
        return piece


def bad_request(reason: str) -> HTTPError:
    return HTTPError(HTTPStatus.BAD_REQUEST, reason)


async def read_head(source: Input) -> Request:
    """Read a request as far as its headers; raises HTTPError when it is no good."""
    line = await source.line()
    if not line:  # some old clients end a body with a line's end that they do not count
        line = await source.line()
    words = line.split(" ")
    if len(words) != 3 or not TOKEN.fullmatch(words[0]) or not TARGET.fullmatch(words[1]):
        raise bad_request("malformed request line")
    method, target, version = words
    if not re.fullmatch(r"HTTP/1\.[0-9]", version):
        if not re.fullmatch(r"HTTP/[0-9](\.[0-9])?", version):
            raise bad_request("malformed version")
        raise HTTPError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    headers: dict[str, str] = {}
    count, size = 0, len(line)
    while line := await source.line():
        count, size = count + 1, size + len(line)
        if count > MAX_HEADERS or size > MAX_HEAD:
            raise HTTPError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers")
        name, colon, value = line.partition(":")
        if not colon or not TOKEN.fullmatch(name) or CONTROL.search(value):
            raise bad_request("malformed header")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(method, target, version, headers)


def body_length(request: Request) -> int:
    """Return the length of the request's body; raises HTTPError when it cannot be told."""
    if "transfer-encoding" in request.headers:
        raise HTTPError(HTTPStatus.NOT_IMPLEMENTED, "transfer codings are not supported")
    text = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]+", text):
        raise bad_request("malformed Content-Length")
    digits = text.lstrip("0")
    if len(digits) > len(str(MAX_BODY)) or int(digits or "0") > MAX_BODY:
        raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return int(digits or "0")


async def read_request(conn: socket.socket, source: Input) -> Request:
    """Read a whole request; raises HTTPError when it is no good, EOFError when it ends early."""
    request = await read_head(source)
    length = body_length(request)
    if length and request.headers.get("expect", "").lower() == "100-continue":
        await sendall(conn, b"HTTP/1.1 100 Continue\r\n\r\n")
    request.body = await source.piece(length)
    return request


async def read_request_in_time(conn: socket.socket, source: Input, patience: float) -> Request:
    try:
        async with timeout(patience):
            return await read_request(conn, source)
    except TimeoutError:
        raise HTTPError(HTTPStatus.REQUEST_TIMEOUT) from None


def error_response(error: HTTPError) -> Response:
    return Response(f"{error}\n".encode(), status=error.status, headers=error.headers)


async def respond_safely(respond: Respond, request: Request) -> Response:
    try:
        return await respond(request)
    except HTTPError as error:
        return error_response(error)
    except Exception:
        log.exception("%s %s failed", request.method, request.target)
        return error_response(HTTPError(HTTPStatus.INTERNAL_SERVER_ERROR))


async def serve_connection(
    conn: socket.socket, addr: Any, respond: Respond, patience: float = PATIENCE
) -> None:
    """Answer the requests of one client until either side has enough; closes `conn`."""
    source = Input(conn)
    with conn, suppress(OSError, EOFError):  # TimeoutError is an OSError
        while True:
            async with timeout(patience):
                if not await source.wait():
                    break
            try:
                request = await read_request_in_time(conn, source, patience)
            except HTTPError as error:
                response = error_response(error)
                await last_words(conn, response.encode(head_only=False, keep_alive=False))
                log.info("%s: %d", addr, response.status)
                break
            response = await respond_safely(respond, request)
            log.info("%s: %s %s: %d", addr, request.method, request.target, response.status)
            data = response.encode(
                head_only=request.method == "HEAD", keep_alive=request.keep_alive
            )
            async with timeout(patience):
                await sendall(conn, data)
            if not request.keep_alive:
                await last_words(conn, b"")
                break


async def serve_http(
    title: str, respond: Respond, *, host: str, port: int, patience: float = PATIENCE
) -> None:
    """Serve until cancelled."""
    with listen(host, port) as s:
        print(f"{title}: listening on {name_of(s)}", flush=True)
        while True:
            conn, addr = await accept_next(s)
            await spawn(serve_connection(conn, addr, respond, patience))
