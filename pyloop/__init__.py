"""A native event loop: one loop, any coroutine.

Three faces on one ``EventLoop``: plain coroutines (``run``, ``spawn``, ``recv``, ``Channel`` ...),
generators that yield ``(TaskType.TO_READ, sock)``, and everything of asyncio.
"""

from pyloop._core import (
    Channel,
    ChannelClosed,
    Deadlock,
    Event,
    LineTooLong,
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
    wait_readable,
    wait_writable,
)
from pyloop._loop import EventLoop, new_event_loop
from pyloop._run import run, timeout
from pyloop._version import __version__

__all__ = [
    "Channel",
    "ChannelClosed",
    "Deadlock",
    "Event",
    "EventLoop",
    "LineTooLong",
    "Task",
    "TaskType",
    "__version__",
    "accept",
    "connect",
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
