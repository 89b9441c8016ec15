"""A native event loop: one loop, any coroutine.

Three faces on one ``EventLoop``: plain coroutines (``run``, ``spawn``, ``recv``, ``Channel`` ...),
generators that yield ``(TaskType.TO_READ, sock)``, and everything of asyncio.
"""

import sys
from typing import TYPE_CHECKING

from pyloop._core import (
    Channel,
    ChannelClosed,
    Deadlock,
    Event,
    LineTooLong,
    Selector,
    Task,
    TaskType,
    accept,
    connect,
    lines,
    pause,
    recv,
    recv_into,
    recvfrom,
    send,
    sendall,
    sendto,
    sleep,
    spawn,
    timeout,
    wait_readable,
    wait_writable,
)
from pyloop._loop import EventLoop, new_event_loop, run

if TYPE_CHECKING or sys.version_info < (3, 14):
    from pyloop._policy import EventLoopPolicy, install

# pyproject.toml reads it without importing the extension.
__version__ = "0.1.0"

__all__ = [
    "Channel",
    "ChannelClosed",
    "Deadlock",
    "Event",
    "EventLoop",
    "EventLoopPolicy",
    "LineTooLong",
    "Selector",
    "Task",
    "TaskType",
    "__version__",
    "accept",
    "connect",
    "install",
    "lines",
    "new_event_loop",
    "pause",
    "recv",
    "recv_into",
    "recvfrom",
    "run",
    "send",
    "sendall",
    "sendto",
    "sleep",
    "spawn",
    "timeout",
    "wait_readable",
    "wait_writable",
]

# From 3.14 on policies are deprecated, to go away in 3.16: imported when asked for.  Not before,
# since a module with __getattr__ costs each `pyloop.recv` in a hot loop its specialised look-up.
if not TYPE_CHECKING and sys.version_info >= (3, 14):

    def __getattr__(name):
        """Import what belongs to event loop policies when it is asked for."""
        if name not in ("EventLoopPolicy", "install"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pyloop import _policy

        return getattr(_policy, name)
