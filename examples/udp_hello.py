"""UDP hello: one datagram there, one back.

    python -m pyloop.examples.udp_hello server               # listens on 127.0.0.1:8000
    python -m pyloop.examples.udp_hello client               # prints "Hello client"
    python -m pyloop.examples.udp_hello client "Good day"    # says something else

There is no connection, so the server needs neither `accept` nor a coroutine per client. A datagram
arrives whole or not at all: the client asks again when no answer has come, and the server may
print the same greeting twice. What the server prints is one line per datagram, whatever is in it;
of a datagram longer than MAX_DATAGRAM bytes the rest is lost.
"""

import logging
import socket
import sys

from pyloop import connect, recv, recvfrom, send, sendto, timeout
from pyloop.examples._cli import family_of, name_of, options, run_program
from pyloop.examples._terminal import printable

ANSWER = b"Hello client"
MAX_DATAGRAM = 1024  # bytes
TRIES = 3
PATIENCE = 1.0  # seconds for an answer before the client asks again

log = logging.getLogger(__name__)


def udp_socket(host: str) -> socket.socket:
    sock = socket.socket(family_of(host), socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


async def hello_server(port: int = 8000, *, host: str = "127.0.0.1") -> None:
    """Serve until cancelled."""
    with udp_socket(host) as sock:
        sock.bind((host, port))
        print(f"UDP hello: listening on {name_of(sock)}", flush=True)
        while True:
            greeting, addr = await recvfrom(sock, MAX_DATAGRAM)
            print(printable(greeting.decode(errors="replace")), flush=True)
            try:
                await sendto(sock, ANSWER, addr)
            except OSError as error:  # the sender's address may be one that nobody can reach
                log.info("cannot answer %s: %s", addr, error)


async def hello_client(
    greeting: str = "Hello server", *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Greet, and print the answer.

    Raises TimeoutError when there is none after TRIES tries, ConnectionRefusedError when the
    server's machine says that nobody listens.
    """
    with udp_socket(host) as sock:
        await connect(sock, (host, port))  # only what comes from there is received
        for _ in range(TRIES):
            await send(sock, greeting.encode())
            try:
                async with timeout(PATIENCE):
                    answer = await recv(sock, MAX_DATAGRAM)
            except TimeoutError:
                continue
            print(printable(answer.decode(errors="replace")), flush=True)
            return
        raise TimeoutError(f"no answer from {host} port {port}")


def main() -> int:
    parser = options("udp_hello", "A greeting over UDP, and its answer.", port=8000)
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("greeting", nargs="?", help="for the client (default: Hello server)")
    args = parser.parse_intermixed_args()
    if args.role == "client":
        client = hello_client(args.greeting or "Hello server", host=args.host, port=args.port)
        return run_program(parser, client, verbose=args.verbose)
    if args.greeting is not None:
        parser.error("a greeting is for the client")
    server = hello_server(args.port, host=args.host)
    return run_program(parser, server, verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
