"""What connect() and sendto() need when the address is a name: a look-up in another thread.

The C functions call these only then; an address literal never comes here.
"""

import asyncio
import socket
from typing import Any

from pyloop import _core


async def _literal(sock: socket.socket, address: Any) -> Any:
    """The first address of the socket's own family and type that the name stands for."""
    loop = asyncio.get_running_loop()
    host, port = address[:2]
    infos = await loop.getaddrinfo(host, port, family=sock.family, type=sock.type, proto=sock.proto)
    if not infos:
        raise OSError(f"getaddrinfo({host!r}, {port!r}) returned nothing")
    return infos[0][4]


async def connect_by_name(sock: socket.socket, address: Any) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        await _connect_any_family(sock, address)
        return
    # By the method, whose errors name the address.
    await asyncio.get_running_loop().sock_connect(sock, await _literal(sock, address))


async def _connect_any_family(sock: socket.socket, address: Any) -> None:
    """A family whose addresses only Python's socket module can pack."""
    if sock.gettimeout() != 0:
        raise ValueError(f"connect() needs a non-blocking socket, not {sock!r}")
    try:
        sock.connect(address)
    except BlockingIOError:
        await _core.wait_writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"connect() to {address!r} failed") from None


async def sendto_by_name(sock: socket.socket, data: Any, address: Any) -> int:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        while True:
            try:
                return sock.sendto(data, socket.MSG_DONTWAIT, address)
            except BlockingIOError:
                await _core.wait_writable(sock)
    return await _core.sendto(sock, data, await _literal(sock, address))
