"""asyncio's TLS, with one read buffer for all connections of a loop.

``asyncio.sslproto.SSLProtocol`` owns a buffer of 256 KiB, which would be nine tenths of what an
idle TLS connection costs.  What a transport reads into it is moved on before anything else reads:
``buffer_updated()`` follows on ``get_buffer()`` with no callback in between, and copies.
"""

from __future__ import annotations

import sys
from asyncio import sslproto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyloop._loop import EventLoop

# The versions whose private attributes these are.
_SHARES = sys.version_info < (3, 14)

_SIZE = sslproto.SSLProtocol.max_size


class SharingProtocol(sslproto.SSLProtocol):
    """An SSLProtocol that makes no buffer of its own."""

    if _SHARES:
        max_size = 0  # what __init__ makes

    def __init__(self, loop: EventLoop, *args: Any, **kwargs: Any) -> None:
        super().__init__(loop, *args, **kwargs)
        if _SHARES:
            share_buffer(loop, self)


def share_buffer(loop: EventLoop, protocol: Any) -> None:
    """Give the protocol the loop's buffer; its own is freed.  Not while it reads."""
    if not _SHARES:
        return
    if loop._tls_buffer is None:
        loop._tls_buffer = bytearray(_SIZE)
    protocol.max_size = _SIZE
    protocol._ssl_buffer = loop._tls_buffer
    protocol._ssl_buffer_view = memoryview(loop._tls_buffer)
