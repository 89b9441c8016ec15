"""The Python half of EventLoop: what runs per connection or less.  And run(), on a new one.

``LoopCore`` (C) comes first in the MRO: running, callbacks, timers, readers and writers, native
tasks.  ``asyncio.SelectorEventLoop`` behind it gives servers, TLS, subprocesses, executors.

No module here begins with ``from __future__ import annotations``: it would take up a twentieth of
the time that importing the package takes.
"""

import _socket
import asyncio
import errno
import inspect
import os
import selectors
import signal
import socket
import sys
import threading
import types
import warnings
import weakref
from asyncio import base_events, constants, trsock
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from selectors import BaseSelector
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pyloop import _core

if TYPE_CHECKING:
    import ssl
    from contextvars import Context
    from typing import Unpack

    from _typeshed import FileDescriptorLike

    from pyloop._core import _Startable, _Ts

_T = TypeVar("_T")
_S = TypeVar("_S")

# Seconds, as in asyncio.run().
_THREAD_JOIN_TIMEOUT = 300

# The families whose addresses the core knows.
_KNOWN_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


# For 3.11 asyncio's stubs say that create_task() makes an asyncio.Task of a generator, too.
class EventLoop(_core.LoopCore, asyncio.SelectorEventLoop):  # type: ignore[misc, unused-ignore]
    """An event loop for coroutines, generators and everything of asyncio.

    Args:
        main: a coroutine or generator that ``run()`` without arguments starts with.
        selector: a ``selectors.BaseSelector`` to drive instead of the loop's own poller. Each
            socket that is waited for is registered in it once, with the pair (reader, writer) as
            data: the coroutine of a waiting task, the Handle of a callback, None for nobody.
            It is the loop's from then on, and closed with it.
        backend: ``"epoll"`` or ``"poll"``; default ``$PYLOOP_BACKEND``, else the best there is.

    Raises:
        ValueError: no such backend, or both a selector and a backend.
        TypeError: ``main`` is not a coroutine or generator, ``selector`` not a selector.

    Example:
        ``EventLoop(main=server.serve_forever()).run()``
    """

    # Attributes of asyncio's base class that its stubs leave out.
    _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]
    _asyncgens_shutdown_called: bool
    _default_executor: Executor | None

    # What TLS connections read into: see _tls.py.
    _tls_buffer: bytearray | None = None

    # The one that the user gave; None also after close().
    _own_selector: BaseSelector | None = None

    def __init__(
        self,
        main: "_Startable[Any] | None" = None,
        selector: BaseSelector | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        # First what close() looks at: __del__ calls it also where Ctrl-C broke in here.
        self._default_executor = None
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._listeners: dict[socket.socket, _core.Listener] = {}
        self._signal_handlers: dict[int, Any] = {}
        self._unix_server_sockets: dict[Any, Any] = {}
        try:
            if selector is None:
                self._init_core(backend)
            else:
                _check_selector(selector, backend)
                self._init_on_selector(selector)
                self._own_selector = selector
        except BaseException:
            if self.backend is None:
                self._closed = True  # nothing to close, nothing to warn about
            raise
        # Past SelectorEventLoop.__init__, which makes a selector and a self-pipe: the core has
        # both in its reactor.
        base_events.BaseEventLoop.__init__(self)
        try:
            if main is not None:
                self._create_native_task(main)
        except BaseException:
            self.close()
            raise

    # --- coroutines and generators ---

    @overload
    def run(self) -> None: ...
    @overload
    def run(self, coro: "_Startable[_T]", /) -> _T: ...
    @overload
    def run(self, coro1: "_Startable[_T]", coro2: "_Startable[_S]", /) -> list[_T | _S]: ...
    @overload
    def run(
        self,
        coro1: "_Startable[_T]",
        coro2: "_Startable[_T]",
        coro3: "_Startable[_T]",
        /,
        *coros: "_Startable[_T]",
    ) -> list[_T]: ...
    def run(self, *coros: "_Startable[Any]") -> Any:
        """Run coroutines or generators until they and all they spawned have ended.

        Without arguments: what ``main=`` and ``create_task(generator)`` have left to do.
        It may be called again.  See ``pyloop.run`` for results and errors.

        Example:
            ``loop.run(server(), client())``
        """
        from pyloop._run import run_tasks

        return run_tasks(self, coros)

    async def shutdown_asyncgens(self) -> None:
        """Cancel native tasks that are left, then close all open asynchronous generators."""
        await self._cancel_native_tasks()
        await super().shutdown_asyncgens()

    async def _cancel_native_tasks(self) -> None:
        current: object = asyncio.current_task(self)
        left = [task for task in self._native_tasks() if task is not current]
        for task in left:
            task.cancel()
        if left:
            await asyncio.gather(*left, return_exceptions=True)

    if sys.version_info < (3, 13):

        async def shutdown_default_executor(self, timeout: float | None = None) -> None:
            """Wait for the threads of the default executor to end, at most `timeout` seconds.

            As 3.13 does it: 3.12.1 waits for them whatever the timeout says, and 3.11 takes none.
            """
            if timeout is None:
                await super().shutdown_default_executor()
                return
            self._executor_shutdown_called = True
            executor = self._default_executor
            if executor is None:
                return
            ended: asyncio.Future[None] = self.create_future()
            thread = threading.Thread(
                target=self._do_shutdown,  # type: ignore[attr-defined]
                args=(ended,),
            )
            thread.start()
            # Which does not cancel it, unlike timeout(): _do_shutdown() ends it without asking.
            await asyncio.wait({ended}, timeout=timeout)
            if not ended.done():
                warnings.warn(
                    f"The executor did not finishing joining its threads within {timeout} seconds.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                executor.shutdown(wait=False)
                return
            thread.join()
            ended.result()

    # --- life ---

    def close(self) -> None:
        """Close the loop; nothing happens if it is closed already.

        Raises:
            RuntimeError: it is running, or calls the selector that it drives.
        """
        if self.is_closed():
            return
        if self.backend is None:
            self._closed = True  # __init__ has not come to making what is closed here
            return
        self._check_may_close()
        if self._debug:
            base_events.logger.debug("Close %r", self)  # type: ignore[attr-defined]
        if sys.is_finalizing():
            self._drop_signal_handlers()
        for signum in list(self._signal_handlers):
            self.remove_signal_handler(signum)
        for sock in list(self._listeners):
            self._stop_listening(sock)
        own, self._own_selector = self._own_selector, None
        try:
            if own is not None:
                own.close()
        finally:
            self._release_core()
        executor = self._default_executor
        self._executor_shutdown_called = True
        if executor is not None:
            self._default_executor = None
            executor.shutdown(wait=False)

    @property
    def _selector(self) -> "BaseSelector | _Watched | None":
        """What asyncio's transports look at, to say in their repr what they wait for."""
        if self._own_selector is not None:
            return self._own_selector
        return None if self.is_closed() else _Watched(self)

    def _make_self_pipe(self) -> None:
        """Nothing: the reactor has a wake-up of its own."""

    def _close_self_pipe(self) -> None:
        """Nothing: see _make_self_pipe."""

    def _log_slow_callback(self, handle: asyncio.Handle, seconds: float) -> None:
        if seconds >= self.slow_callback_duration:
            base_events.logger.warning(  # type: ignore[attr-defined]
                "Executing %s took %.3f seconds",
                base_events._format_handle(handle),  # type: ignore[attr-defined]
                seconds,
            )

    # --- listening ---

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> None:
        if not (_is_stream_socket(sock) and _is_known_socket(sock)):
            super()._start_serving(  # type: ignore[misc]
                protocol_factory,
                sock,
                sslcontext,
                server,
                backlog,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
            )
            return
        self._stop_listening(sock)

        async def accept(conn: socket.socket, address: Any) -> None:
            if sock not in self._listeners:
                conn.close()  # the server was closed before our turn came, and takes no more
                return
            try:
                await self._accept_connection2(  # type: ignore[attr-defined]
                    protocol_factory,
                    conn,
                    {"peername": address},
                    sslcontext,
                    server,
                    ssl_handshake_timeout,
                    ssl_shutdown_timeout,
                )
            finally:
                # asyncio leaves to the garbage collector what got no transport.
                transport = self._transport_at(conn.fileno())
                if transport is None or transport._sock is not conn:
                    conn.close()

        def accept_by_task(conn: socket.socket, address: Any) -> None:
            if self._debug:
                base_events.logger.debug(  # type: ignore[attr-defined]
                    "%r got a new connection from %r: %r", server, address, conn
                )
            self.create_task(accept(conn, address))

        self._listeners[sock] = self._listen(
            sock, protocol_factory, server, accept_by_task, bool(sslcontext)
        )

    def _stop_serving(self, sock: socket.socket) -> None:
        self._stop_listening(sock)
        if sock.fileno() >= 0:  # else a user has closed it
            super()._stop_serving(sock)  # type: ignore[misc]

    def _stop_listening(self, sock: socket.socket) -> None:
        listener = self._listeners.pop(sock, None)
        if listener is not None:
            listener.stop()

    def _pause_accepting(
        self, listener: _core.Listener, sock: socket.socket, exc: OSError
    ) -> asyncio.TimerHandle:
        self.call_exception_handler(
            {
                "message": "socket.accept() out of system resource",
                "exception": exc,
                "socket": trsock.TransportSocket(sock),
            }
        )
        return self.call_later(constants.ACCEPT_RETRY_DELAY, listener.resume)

    # --- transports ---

    def _ensure_fd_no_transport(self, fd: "FileDescriptorLike") -> None:
        try:
            number = fd if isinstance(fd, int) else int(fd.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fd!r}") from None
        transport = self._transport_at(number)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")
        if self._transports:  # those that asyncio has made
            super()._ensure_fd_no_transport(fd)  # type: ignore[misc]

    async def _sendfile_native(
        self, transp: asyncio.Transport, file: Any, offset: int, count: int | None
    ) -> int:
        from pyloop._transport import StreamTransport

        if not isinstance(transp, StreamTransport):
            return await super()._sendfile_native(  # type: ignore[misc,no-any-return]
                transp, file, offset, count
            )
        if transp._empty_waiter is not None:
            raise RuntimeError(f"unable to sendfile; another one is in progress on {transp!r}")
        # While it lasts the descriptor may have a writer.  asyncio's method takes the transport
        # out of its own dictionary for that, and puts it back.
        fd = transp._sock_fd
        self._transports[fd] = transp
        transp._set_listed(False)
        try:
            return await super()._sendfile_native(  # type: ignore[misc,no-any-return]
                transp, file, offset, count
            )
        finally:
            self._transports.pop(fd, None)
            transp._set_listed(True)

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: "Context | None" = None,
    ) -> asyncio.Transport:
        if not _is_stream_socket(sock):
            # A socket that keeps boundaries needs each write() sent apart, and what only behaves
            # like a socket needs its methods called.
            return super()._make_socket_transport(  # type: ignore[misc,no-any-return]
                sock, protocol, waiter, extra=extra, server=server
            )
        self._ensure_fd_no_transport(sock)
        from pyloop._transport import StreamTransport  # with the first connection

        return StreamTransport(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: "Context | None" = None,
        **timeouts: Any,
    ) -> asyncio.Transport:
        if not _is_stream_socket(rawsock):
            return super()._make_ssl_transport(  # type: ignore[misc,no-any-return]
                rawsock,
                protocol,
                sslcontext,
                waiter,
                server_side=server_side,
                server_hostname=server_hostname,
                extra=extra,
                server=server,
                **timeouts,
            )
        self._ensure_fd_no_transport(rawsock)
        from pyloop import _tls  # at the first TLS connection: most programs have none
        from pyloop._transport import StreamTransport

        tls = _tls.PROTOCOL(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            **timeouts,
        )
        StreamTransport(self, rawsock, tls, None, extra, server, context)
        transport: asyncio.Transport = tls._app_transport
        return transport

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        if not _is_known_socket(sock):
            return super()._make_datagram_transport(  # type: ignore[misc,no-any-return]
                sock, protocol, address, waiter, extra
            )
        self._ensure_fd_no_transport(sock)
        from pyloop._transport import DatagramTransport

        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: "ssl.SSLContext",
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """Speak TLS on an open connection from now on; return its new transport."""
        secured = await super().start_tls(
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        from pyloop import _tls

        _tls.adopt(self, secured)
        return secured

    # --- signals: as asyncio's, but they arrive through the reactor's wake-up ---

    def add_signal_handler(
        self, sig: int, callback: "Callable[[*_Ts], object]", *args: "Unpack[_Ts]"
    ) -> None:
        """Call ``callback(*args)`` in the loop whenever the signal comes.

        Raises:
            TypeError: a coroutine function was given.
            ValueError: not a signal, or not in the main thread.
            RuntimeError: the signal cannot be caught, or the loop is closed.
        """
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)  # type: ignore[attr-defined]
        self._check_closed()
        old = signal.getsignal(sig)
        try:
            signal.signal(sig, _noop_handler)
            signal.siginterrupt(sig, False)
        except ValueError as exc:
            raise RuntimeError(str(exc)) from exc
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise RuntimeError(f"sig {sig} cannot be caught") from exc
        try:
            handle = self._add_signal(int(sig), callback, *args)
        except BaseException:
            signal.signal(sig, old if old is not None else signal.SIG_DFL)
            raise
        self._signal_handlers[sig] = handle

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler; return whether there was one."""
        self._check_signal(sig)  # type: ignore[attr-defined]
        if self._signal_handlers.pop(sig, None) is None:
            return False
        self._remove_signal(int(sig))
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise RuntimeError(f"sig {sig} cannot be caught") from exc
        return True

    def _drop_signal_handlers(self) -> None:
        """Forget them as they are: an interpreter that ends sets no handlers any more."""
        if self._signal_handlers:
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, "
                f"skipping signal handlers removal",
                ResourceWarning,
                source=self,
                stacklevel=3,
            )
            self._signal_handlers.clear()


def _check_selector(selector: object, backend: str | None) -> None:
    if not isinstance(selector, BaseSelector):
        raise TypeError(
            "selector must be a selectors.BaseSelector or None, "
            f"not {type(selector).__name__} ({selector!r})"
        )
    if backend is not None:
        raise ValueError(f"give a selector or a backend, not both (backend={backend!r})")


class _Watched:
    """The part of a selector that looks: which descriptors the loop watches, and for whom."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop

    def get_key(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        waiters = self._loop._waiters(fileobj)
        events = 0
        for waiter, event in zip(
            waiters, (selectors.EVENT_READ, selectors.EVENT_WRITE), strict=True
        ):
            if waiter is not None:
                events |= event
        if not events:
            raise KeyError(f"{fileobj!r} is not registered")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, events, waiters)


def _is_stream_socket(sock: object) -> bool:
    # By its type, since what imitates a socket may also claim its class; and ``sock.type`` would
    # take a detour over an enum.
    return (
        issubclass(type(sock), socket.socket)
        and _socket.socket.type.__get__(sock) == socket.SOCK_STREAM
    )


def _is_known_socket(sock: object) -> bool:
    """Whether the core knows the addresses of its family."""
    return (
        issubclass(type(sock), socket.socket)
        and _socket.socket.family.__get__(sock) in _KNOWN_FAMILIES
    )


def _noop_handler(signum: int, frame: types.FrameType | None) -> None:
    """The wake-up has told the loop; Python must only not run the default action."""


def _leave_signals_to_the_parent() -> None:
    """In the child of a fork: a signal that it gets must not wake the parent's loop.

    asyncio does the same, from 3.12 on.
    """
    try:
        signal.set_wakeup_fd(-1)
    except ValueError:
        pass  # a sub-interpreter, which has no signals


if sys.version_info < (3, 12):
    os.register_at_fork(after_in_child=_leave_signals_to_the_parent)


def new_event_loop() -> EventLoop:
    """Return a new EventLoop: a factory for asyncio.Runner, uvicorn and the like.

    Example:
        ``asyncio.run(main(), loop_factory=pyloop.new_event_loop)``  (3.12+)
    """
    return EventLoop()


@overload
def run(*, backend: str | None = None, debug: bool | None = None) -> None: ...
@overload
def run(
    coro: "_Startable[_T]", /, *, backend: str | None = None, debug: bool | None = None
) -> _T: ...
@overload
def run(
    coro1: "_Startable[_T]",
    coro2: "_Startable[_S]",
    /,
    *,
    backend: str | None = None,
    debug: bool | None = None,
) -> list[_T | _S]: ...
@overload
def run(
    coro1: "_Startable[_T]",
    coro2: "_Startable[_T]",
    coro3: "_Startable[_T]",
    /,
    *coros: "_Startable[_T]",
    backend: str | None = None,
    debug: bool | None = None,
) -> list[_T]: ...
def run(*coros: "_Startable[Any]", backend: str | None = None, debug: bool | None = None) -> Any:
    """Run coroutines until they and all tasks they spawned have ended.

    Ready tasks run first in, first out, in the order of the arguments.  Threads of the loop's
    default executor (``asyncio.to_thread``) may finish what they do, for 5 minutes.

    Args:
        coros: coroutines or generators that have not started.
        backend: ``"epoll"`` or ``"poll"``; default: ``$PYLOOP_BACKEND``, else the best there is.
        debug: asyncio's debug mode; default: as asyncio decides.

    Returns:
        The result of a single coroutine; a list of the results of several; None for none.

    Raises:
        BaseException: what one of the coroutines raised; the others are cancelled first.
        Deadlock: they wait for something that can never come.
        KeyboardInterrupt: Ctrl-C; all tasks are cancelled first.
        RuntimeError: an event loop is running in this thread.

    Example:
        ``pyloop.run(ping(chan), pong(chan))``
    """
    from pyloop._run import close_all

    if asyncio._get_running_loop() is not None:
        close_all(coros)
        raise RuntimeError("run() cannot be called from a running event loop")
    try:
        loop = EventLoop(backend=backend)
    except BaseException:
        close_all(coros)
        raise
    process = os.getpid()
    try:
        if debug is not None:
            loop.set_debug(debug)
        return loop.run(*coros)
    finally:
        try:
            # A forked child that comes back here has neither the threads nor the use of the loop.
            if loop._default_executor is not None and os.getpid() == process:
                loop.run_until_complete(loop.shutdown_default_executor(_THREAD_JOIN_TIMEOUT))
        finally:
            loop.close()
