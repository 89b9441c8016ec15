"""A terminal at one end, a line protocol at the other: the client side of the chat examples.

`printable` is for everything that others wrote and we show.
"""

import os
import socket
import sys
from contextlib import suppress

from pyloop import lines, sendall, spawn, wait_readable

# What others write may not move the cursor or rename the window. A tab is harmless.
CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code != ord("\t")}


def printable(text: str) -> str:
    """Replace what would do more to a terminal than show a character."""
    text = text.translate(CONTROLS)
    encoding = sys.stdout.encoding  # not every terminal can show every character
    return text.encode(encoding, "replace").decode(encoding)


async def talk(sock: socket.socket) -> None:
    """Send stdin, print the lines that come; return when the other side closes.

    The end of stdin closes our sending side only: what the server still has to say is printed.
    Raises BrokenPipeError when nobody reads stdout, ConnectionError when the connection breaks.
    """
    typing = await spawn(send_stdin(sock))
    try:
        async for line in lines(sock):
            print(printable(line), flush=True)
    finally:
        typing.cancel()


async def send_stdin(sock: socket.socket) -> None:
    """Send what is typed, then close our sending side."""
    stdin = sys.stdin.fileno()
    with suppress(OSError):  # the connection is gone: `talk` sees that, too
        while True:
            with suppress(PermissionError):  # a plain file: always ready, so epoll refuses it
                await wait_readable(stdin)
            data = os.read(stdin, 65536)
            if not data:
                break
            await sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)
