"""The Python half of the transports: what runs per connection or less.

``StreamCore`` and ``DgramCore`` (C) read, write and close, and call up for everything rare.
"""

import asyncio
import warnings
from asyncio import constants, trsock
from asyncio.log import logger
from typing import Any

from pyloop import _core


class _Transport(_core.StreamCore):
    """What stream and datagram transports have in common."""

    # --- extra info: looked up when somebody asks ---

    @property
    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] | None = self._all_extra
        if extra is not None:
            return extra
        extra = self._given_extra if self._given_extra is not None else {}
        sock = self._kept_sock
        if sock is not None:
            extra["socket"] = trsock.TransportSocket(sock)
            extra["sockname"] = self._sockname
            extra["peername"] = self._peername
        self._all_extra = extra
        return extra

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection: ``socket``, ``sockname``, ``peername`` ..."""
        if name == "socket":
            # Whoever gets at the socket expects to come after what was written.
            self.get_write_buffer_size()
        elif self._all_extra is None and self._given_extra is None and self._sock_fd >= 0:
            # Without the socket object that everything includes.
            if name == "peername":
                return self._peername
            if name == "sockname":
                return self._sockname
        return self._extra.get(name, default)

    # --- what the core calls ---

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, OSError):
            if self._loop is not None and self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        elif self._loop is not None:
            self._loop.call_exception_handler(
                {
                    "message": message,
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        self._force_close(exc)

    def _note_lost_write(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._conn_lost += 1

    def _log_debug(self, message: str) -> None:
        logger.debug(message, self)

    # --- the object ---

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if not self._is_open:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._loop is not None and not self._loop.is_closed():
            reads, writes = self._polling
            info.append("read=polling" if reads else "read=idle")
            state = "polling" if writes else "idle"
            info.append(f"write=<{state}, bufsize={self._queued_size}>")
        return f"<{' '.join(info)}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._is_open:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            sock = self._sock
            assert sock is not None
            sock.close()
            self._leave_server()


class StreamTransport(_Transport):
    """A connected stream socket, as an ``asyncio.Transport``."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    # --- what the core calls ---

    def _read_ready__on_eof(self) -> None:
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if keep_open:
            # Nothing more can come, but the protocol may go on writing.
            self._stop_reading()
        else:
            self.close()

    # --- sendfile ---

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        is_empty = not self.get_write_buffer_size()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        if is_empty:
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None

    def _settle_empty_waiter(self, exc: Any) -> None:
        waiter = self._empty_waiter
        if waiter is None or waiter.done():
            return
        if exc is None:
            waiter.set_result(None)
        elif exc is ConnectionError:
            waiter.set_exception(ConnectionError("Connection is closed by peer"))
        else:
            waiter.set_exception(exc)


class DatagramTransport(_Transport, _core.DgramCore, asyncio.DatagramTransport):
    """A datagram socket, as an ``asyncio.DatagramTransport``."""

    # In asyncio, too, its class inherits these and does not have them.

    def write(self, data: object, /) -> None:
        raise NotImplementedError

    def writelines(self, list_of_data: object, /) -> None:
        raise NotImplementedError

    def write_eof(self) -> None:
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        raise NotImplementedError
