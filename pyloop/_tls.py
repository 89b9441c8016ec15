"""asyncio's TLS, with a short way for the data of an established connection.

``asyncio.sslproto`` decides everything: handshake and end, errors, flow control.  What happens
most, data that comes or goes while nothing else is to be done, takes two frames of Python here
where it takes a dozen there; whatever else there is to do falls back to the base classes' methods.

Reading stops where nothing more can have come.  ``SSLObject.read()`` returns of one record at most;
it has returned all of it when it returns less than it was asked for, and if no further record has
come either, asking again would only raise SSLWantReadError, which costs as much as decrypting.

``SSLProtocol`` owns a buffer of 256 KiB, which would be nine tenths of what an idle TLS connection
costs; here all connections of a loop share one.  What a transport reads into it is moved on before
anything else reads: ``buffer_updated()`` follows on ``get_buffer()`` with no callback in between,
and copies.
"""

import sys
from asyncio import sslproto
from collections.abc import Iterable
from typing import Any

from pyloop._loop import EventLoop

# The versions whose private attributes these are.
_KNOWN = sys.version_info < (3, 14)

_SIZE = sslproto.SSLProtocol.max_size
# One more than a record can hold: see above.
_MORE_THAN_A_RECORD = 16 * 1024 + 1

_WRAPPED = sslproto.SSLProtocolState.WRAPPED
_AGAIN = getattr(sslproto, "SSLAgainErrors", ())  # a Python may have been built without ssl
_FATAL = "Fatal error on SSL protocol"


class SSLTransport(sslproto._SSLProtocolTransport):
    """What the application writes to."""

    _ssl_protocol: Any  # None after the second close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt the bytes and send them; a mutable buffer may change as soon as this returns."""
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                super().write(data)  # raises TypeError
                return
            data = bytes(data)
        protocol = self._ssl_protocol
        if (
            not data
            or protocol is None
            or protocol._state is not _WRAPPED
            or protocol._write_backlog
        ):
            super().write(data)
            return
        try:
            try:
                sent = protocol._ssl.write(data)
            except _AGAIN:
                sent = 0
            if sent != len(data):
                protocol._write_rest(data, sent)
            elif protocol._ssl_writing_paused:
                protocol._process_outgoing()
            else:
                # Nothing was queued before and nothing is now: no flow control.
                protocol._transport.write(protocol._outgoing.read())
        except Exception as exc:
            protocol._fatal_error(exc, _FATAL)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write all of them, in as few records as hold them; nothing if one is not bytes-like."""
        self.write(b"".join(list_of_data))


_Base: Any = sslproto.SSLProtocol  # the stubs describe the one of 3.10


class SSLProtocol(_Base):  # type: ignore[misc]
    """What stands between a transport and the application's protocol."""

    max_size = 0  # of the buffer that __init__ makes
    _app_transport_created: bool

    def __init__(self, loop: EventLoop, *args: Any, **kwargs: Any) -> None:
        super().__init__(loop, *args, **kwargs)
        self._set_up(loop)

    def _set_up(self, loop: EventLoop) -> None:
        import ssl

        if loop._tls_buffer is None:
            loop._tls_buffer = bytearray(_SIZE)
        self.max_size = _SIZE
        self._ssl_buffer = loop._tls_buffer
        self._ssl_buffer_view = memoryview(loop._tls_buffer)
        # What does the work in an SSLObject, whose own methods would only pass the call on.
        is_plain = type(self._sslobj) is ssl.SSLObject
        self._ssl = self._sslobj._sslobj if is_plain else self._sslobj

    def _get_app_transport(self) -> Any:
        if not self._app_transport_created:
            self._app_transport = SSLTransport(self._loop, self)
            self._app_transport_created = True
        return super()._get_app_transport()

    # --- reading ---

    def get_buffer(self, n: int) -> memoryview:
        return self._ssl_buffer_view

    def buffer_updated(self, nbytes: int) -> None:
        if self._state is not _WRAPPED or self._app_reading_paused:
            super().buffer_updated(nbytes)
            return
        incoming = self._incoming
        incoming.write(self._ssl_buffer_view[:nbytes])
        try:
            if self._app_protocol_is_buffer:
                self._do_read__buffered()
            else:
                try:
                    chunk = self._ssl.read(_MORE_THAN_A_RECORD)
                except _AGAIN:
                    pass  # not yet the whole of a record
                else:
                    if chunk and not incoming.pending and len(chunk) < _MORE_THAN_A_RECORD:
                        self._app_protocol.data_received(chunk)
                    else:
                        self._read_rest(chunk)
            # The application may have done anything meanwhile.
            if self._write_backlog:
                self._do_write()
            elif self._outgoing.pending:
                self._process_outgoing()
            if incoming.pending or self._ssl_reading_paused:
                self._control_ssl_reading()
        except Exception as exc:
            self._fatal_error(exc, _FATAL)

    def _do_read__copied(self) -> None:
        try:
            chunk = self._ssl.read(_MORE_THAN_A_RECORD)
        except _AGAIN:
            return
        self._read_rest(chunk)

    def _read_rest(self, chunk: bytes) -> None:
        """Pass on what was read first with what else there is; empty is the end."""
        read = self._ssl.read
        incoming = self._incoming
        chunks = []
        try:
            while chunk:
                chunks.append(chunk)
                if not incoming.pending and len(chunk) < _MORE_THAN_A_RECORD:
                    break
                chunk = read(_MORE_THAN_A_RECORD)
        except _AGAIN:
            pass
        if chunks:
            self._app_protocol.data_received(b"".join(chunks))
        if not chunk:
            self._end_of_input()

    def _do_read__buffered(self) -> None:
        incoming = self._incoming
        read = self._ssl.read
        buffer = self._app_protocol_get_buffer(incoming.pending)
        size = len(buffer)
        filled = 0
        count = 1
        try:
            count = filled = read(size, buffer)
            while count > 0 and filled < size and incoming.pending:
                # A slice of the buffer itself may be a copy.
                count = read(size - filled, memoryview(buffer)[filled:])
                filled += count
        except _AGAIN:
            pass
        if filled == size > 0:
            self._loop.call_soon(self._do_read)
        if filled > 0:
            self._app_protocol_buffer_updated(filled)
        if not count:
            self._end_of_input()

    def _control_ssl_reading(self) -> None:
        # With a high-water mark of 0 asyncio pauses while the buffer is empty, too, and goes on
        # only at the next event, which may never come.
        if self._ssl_reading_paused or self._incoming.pending:
            super()._control_ssl_reading()

    def _end_of_input(self) -> None:
        self._call_eof_received()
        self._start_shutdown()

    # --- writing ---

    def _control_app_writing(self) -> None:
        # As in _control_ssl_reading().
        if self._app_writing_paused or self._get_write_buffer_size():
            super()._control_app_writing()

    def _write_rest(self, data: bytes, sent: int) -> None:
        """Write what one record did not hold, or what could not be written yet."""
        view = memoryview(data)
        try:
            while sent < len(data):
                sent += self._ssl.write(view[sent:])
        except _AGAIN:
            self._write_backlog.append(data[sent:])
            self._write_buffer_size += len(data) - sent
        self._process_outgoing()


def adopt(loop: EventLoop, transport: Any) -> None:
    """Make one of ours of what ``start_tls()`` of asyncio has made.  Not while it reads."""
    if not _KNOWN or type(transport) is not sslproto._SSLProtocolTransport:
        return
    protocol: Any = transport._ssl_protocol
    if type(protocol) is _Base:
        transport.__class__ = SSLTransport
        protocol.__class__ = SSLProtocol
        protocol._set_up(loop)


# What a loop makes.
PROTOCOL: type[Any] = SSLProtocol if _KNOWN else sslproto.SSLProtocol
