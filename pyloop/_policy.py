"""The event loop policy, as programs that were written for uvloop use it.

From Python 3.14 on this module is imported when one of its names is asked for, not with the
package: policies are deprecated there, to go away in 3.16.
"""

import asyncio
import sys
import warnings

from pyloop._loop import EventLoop

if sys.version_info < (3, 14):
    # The base that knows the child watcher, which subprocesses ask the policy for.
    from asyncio import DefaultEventLoopPolicy as _Base
else:
    # The public name warns; whoever types our name is not to be blamed for that.
    from asyncio.events import _BaseDefaultEventLoopPolicy as _Base

__all__ = ["EventLoopPolicy", "install"]


class EventLoopPolicy(_Base):
    """An event loop policy whose loops are pyloop's.

    Example:
        ``asyncio.set_event_loop_policy(pyloop.EventLoopPolicy())``
    """

    _loop_factory = EventLoop

    def new_event_loop(self) -> EventLoop:
        """Return a new loop, which is not yet the current one."""
        return self._loop_factory()


def install() -> None:
    """Let asyncio make pyloop's loops from now on, also in ``asyncio.run(main())``.

    New programs do without: ``asyncio.run(main(), loop_factory=pyloop.EventLoop)`` (3.12+),
    ``asyncio.Runner(loop_factory=pyloop.EventLoop)`` or ``pyloop.run(main())``.  On Python 3.14
    and later a DeprecationWarning says so.

    Example:
        ``pyloop.install(); asyncio.run(main())``
    """
    if sys.version_info < (3, 14):
        asyncio.set_event_loop_policy(EventLoopPolicy())
    else:
        warnings.warn(
            "pyloop.install() sets an event loop policy, and policies are to be removed from "
            "Python 3.16; use loop_factory=pyloop.EventLoop or pyloop.run()",
            DeprecationWarning,
            stacklevel=2,
        )
        asyncio.events._set_event_loop_policy(EventLoopPolicy())
