"""EventLoop.run(): from start to end of a program of coroutines.

What happens once per run is here, in Python; what happens once per step is in C.  Imported at the
first run: programs on asyncio's face have none.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

from pyloop import _core
from pyloop._loop import EventLoop

# A task may swallow CancelledError and wait again.  After so many rounds in which nothing but
# such tasks is left, run() closes their coroutines instead.
_MAX_CANCEL_ROUNDS = 100

# Deadlock looks so deep into what a task awaits: objects that are no coroutines may never end.
_MAX_AWAITS = 100_000


def run_tasks(loop: EventLoop, coros: Sequence[Any]) -> Any:
    """EventLoop.run: start the roots, run to the end, clean up, give the results."""
    # With room for all: a task that was made is always found here, to be abandoned.
    roots: list[Any] = [None] * len(coros)
    try:
        if loop.is_running() or asyncio._get_running_loop() is not None:
            raise RuntimeError("run() cannot be called from a running event loop")
        seen: set[int] = set()
        for coro in coros:
            if id(coro) in seen:
                raise RuntimeError(f"run(): {coro!r} was given twice")
            seen.add(id(coro))
        for i, coro in enumerate(coros):
            roots[i] = loop._create_native_task(coro, root=True)
        interrupts = _Interrupts(loop)
        interrupts.install()
    except BaseException:
        made = [root for root in roots if root is not None]
        close_all(coros[len(made) :])
        _abandon(loop, made)
        raise
    try:
        with interrupts:
            try:
                _run_to_end(loop)
                if not coros:
                    _run_asyncio_tasks(loop)
            finally:
                _finish(loop, roots, interrupts)
    except MemoryError:
        # If _finish() could not be called, or not go to its end: the next run() begins without.
        loop._close_native_tasks()
        loop._take_failed()
        raise
    for root in roots:
        root.result()
    if len(roots) == 1:
        return roots[0].result()
    return [root.result() for root in roots] if roots else None


def _run_to_end(loop: EventLoop) -> None:
    """Run until no native task is left; raise what a root raised, or Deadlock."""
    may_wait = False
    while True:
        reason = loop._run_tasks(may_wait)
        may_wait = False
        if reason == "ended":
            return
        if reason == "failed":
            failed = loop._take_failed()
            if failed is not None:
                failed.result()
        elif reason == "stopped":
            raise RuntimeError("the event loop was stopped before its tasks had ended")
        elif _others_may_help(loop):
            may_wait = True
        elif loop._is_stuck():  # still: a thread may have ended just now, and helped before that
            _raise_deadlock(loop)


def _run_asyncio_tasks(loop: EventLoop) -> None:
    """run() without arguments also ends what create_task(coroutine) was given."""
    while pending := asyncio.all_tasks(loop):
        loop.run_until_complete(asyncio.wait(pending))
        _run_to_end(loop)


def _raise_deadlock(loop: EventLoop) -> None:
    """Nothing can go on: an error if a root waits, else the end of the spawned tasks."""
    tasks = loop._native_tasks()
    if any(loop._is_root(task) for task in tasks):
        waiting = "\n".join(f"  {loop._describe_task(task)}{_where(task)}" for task in tasks)
        raise _core.Deadlock(
            f"{len(tasks)} {'tasks wait' if len(tasks) != 1 else 'task waits'} for something "
            f"that can never come:\n{waiting}"
        )
    for task in tasks:
        task.cancel()
    _run_cancelled(loop)


def _where(task: Any) -> str:
    """Where its coroutine stands: the innermost line of Python that awaits."""
    place = ""
    coro = task.get_coro()
    for _ in range(_MAX_AWAITS):
        try:
            kind = "gi" if hasattr(coro, "gi_frame") else "cr"
            frame = getattr(coro, f"{kind}_frame", None)
            coro = getattr(coro, "gi_yieldfrom" if kind == "gi" else "cr_await", None)
        except Exception:
            break  # an awaitable of the program's: its attributes may raise anything
        if isinstance(frame, FrameType):
            place = f", at {frame.f_code.co_filename}:{frame.f_lineno}"
        if coro is None:
            break
    return place


def _others_may_help(loop: EventLoop) -> bool:
    """Whether another thread could still wake a task: then nobody can say "never"."""
    idle = _idle_executor_threads(loop)
    current = threading.current_thread()
    return any(thread is not current and thread not in idle for thread in threading.enumerate())


def _idle_executor_threads(loop: EventLoop) -> set[Any]:
    """Threads of the loop's default executor, if it has nothing to do."""
    executor = getattr(loop, "_default_executor", None)
    threads = getattr(executor, "_threads", None)
    queue = getattr(executor, "_work_queue", None)
    idle = getattr(getattr(executor, "_idle_semaphore", None), "_value", -1)
    if not threads or queue is None or queue.qsize() or idle < len(threads):
        return set()
    return set(threads)


def _finish(loop: EventLoop, roots: Sequence[Any], interrupts: "_Interrupts") -> None:
    """Cancel whatever is left, run it to its end, close asynchronous generators.

    But for what Ctrl-C has cancelled already: a second CancelledError would break into their
    finally blocks.
    """
    raised, cancelled = sys.exception(), interrupts.cancelled
    for task in loop._native_tasks():
        if task not in cancelled:
            task.cancel()
    # Until there is nothing left: the finally blocks of each kind may start tasks of every kind.
    for _ in range(_MAX_CANCEL_ROUNDS):
        _run_cancelled(loop)
        if pending := asyncio.all_tasks(loop):
            for asyncio_task in pending - cancelled:
                asyncio_task.cancel()
            loop.run_until_complete(_collect(loop, pending))
        elif loop._asyncgens:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop._asyncgens_shutdown_called = False  # it may run again
        else:
            break
    loop._take_failed()
    if interrupts.replace(raised):
        raised = None
    _report_failures(loop, [root for root in roots if root.done()], raised)


async def _collect(loop: EventLoop, tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    _report_failures(loop, tasks, None)


def _report_failures(loop: EventLoop, tasks: Iterable[Any], raised: BaseException | None) -> None:
    """What tasks ended with that run() does not raise."""
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None and error is not raised:
            loop.call_exception_handler(
                {
                    "message": "unhandled exception during run() shutdown",
                    "exception": error,
                    "task": task,
                }
            )


def _run_cancelled(loop: EventLoop) -> None:
    """Run until the cancelled native tasks have ended, however they resist."""
    for _ in range(_MAX_CANCEL_ROUNDS):
        while True:
            reason = loop._run_tasks(False)
            if reason == "failed":
                loop._take_failed()
            elif reason == "stuck" and _others_may_help(loop):
                loop._run_tasks(True)
            elif reason == "ended" or (reason == "stuck" and loop._is_stuck()):
                break
        if reason == "ended":
            return
        for task in loop._native_tasks():
            task.cancel()
    loop._close_native_tasks()


def _abandon(loop: EventLoop, roots: Sequence[Any]) -> None:
    """Roots that were made but will not run."""
    for root in roots:
        root.cancel()
    if roots and not loop.is_running() and asyncio._get_running_loop() is None:
        _run_cancelled(loop)


def close_all(coros: Sequence[Any]) -> None:
    """Close coroutines that will not run, so that they do not warn."""
    for coro in coros:
        close = getattr(coro, "close", None)
        if close is not None and hasattr(coro, "send") and not _is_busy(coro):
            close()


def _is_busy(coro: Any) -> bool:
    return bool(
        getattr(coro, "cr_running", False)
        or getattr(coro, "gi_running", False)
        or getattr(coro, "cr_suspended", False)
        or getattr(coro, "gi_suspended", False)
    )


class _Interrupts:
    """Ctrl-C while run() runs: the first cancels all tasks, the second raises at once.

    It counts from install() on; the block is entered when nothing else can go wrong. Leaving the
    block raises KeyboardInterrupt if there was one, however late it came.
    As asyncio.Runner does it: only in the main thread, and only while Python's own handler is
    installed, so that a program's handler is left alone.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._count = 0
        self.cancelled: set[Any] = set()
        self._installed: Callable[[int, FrameType | None], None] | None = None

    def install(self) -> None:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            try:
                signal.signal(signal.SIGINT, self._on_sigint)
            except ValueError:
                return  # a sub-interpreter: signals are not ours
            self._installed = self._on_sigint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._restore()
        if self.replace(error):
            raise KeyboardInterrupt from None

    def replace(self, error: BaseException | None) -> bool:
        """Whether run() raises KeyboardInterrupt in place of `error`."""
        return self._count > 0 and not isinstance(error, KeyboardInterrupt)

    def _restore(self) -> None:
        if self._installed is not None and signal.getsignal(signal.SIGINT) == self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1 or self._loop.is_closed():
            self.cancelled.clear()  # they went on: they are cancelled once more
            self._restore()  # here, for the exception may come right before __exit__ does it
            raise KeyboardInterrupt()
        self._loop.call_soon_threadsafe(self._cancel_all)

    def _cancel_all(self) -> None:
        self.cancelled.update(self._loop._native_tasks(), asyncio.all_tasks(self._loop))
        for task in self.cancelled:
            task.cancel()
