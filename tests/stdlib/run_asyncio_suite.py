"""Runs CPython's own tests of asyncio with pyloop's event loop in the place of asyncio's.

    python tests/stdlib/run_asyncio_suite.py [--loop pyloop|asyncio] [MODULE | TEST ID ...]

Modules and tests are named as test_asyncio.test_tasks or test_asyncio.test_tasks.TimeoutTests.
Each module runs in a process of its own.  A process that hangs or crashes
costs the test that it was in; the rest of the module runs in a new process.  The tests' own loops
(test.test_asyncio.utils.TestLoop, mocks) stay what they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

PACKAGE = "test"

# Every module that runs something on a loop that asyncio makes.  The others of test_asyncio use
# mocks or loops of their own.
MODULES = (
    # The long ones first.
    "test_asyncio.test_tasks",
    "test_asyncio.test_ssl",
    "test_asyncio.test_events",
    "test_asyncio.test_subprocess",
    "test_asyncio.test_sendfile",
    "test_asyncio.test_streams",
    "test_asyncio.test_base_events",
    "test_asyncio.test_unix_events",
    "test_asyncio.test_sslproto",
    "test_asyncio.test_sock_lowlevel",
    "test_asyncio.test_buffered_proto",
    "test_asyncio.test_context",
    "test_asyncio.test_eager_task_factory",
    "test_asyncio.test_futures2",
    "test_asyncio.test_locks",
    "test_asyncio.test_queues",
    "test_asyncio.test_server",
    "test_asyncio.test_staggered",
    "test_asyncio.test_taskgroups",
    "test_asyncio.test_threads",
    "test_asyncio.test_timeouts",
    "test_asyncio.test_waitfor",
    # Not about asyncio, but run on it.
    "test_asyncgen",
    "test_contextlib_async",
    "test_coroutines",
    "test_sys_settrace",
    "test_unittest.test_async_case",
    "test_unittest.testmock.testasync",
)

TEST_SECONDS = 60  # for one test; the longest needs 10 on an idle machine
MODULE_SECONDS = 300  # for one process

PASSED = "passed"
SKIPPED = "skipped"
FAILED = "failed"
HUNG = "hung"  # or crashed, which looks the same from outside: the process was gone


@dataclasses.dataclass
class Outcome:
    """How one test ended; `text` has the traceback, or why it was skipped."""

    kind: str
    text: str = ""

    @property
    def is_bad(self) -> bool:
        return self.kind in (FAILED, HUNG)


# ------------------------------------------------------------------- the process of one module


def replace_loops() -> Callable[[], int]:
    """Make everything in asyncio that makes a loop make one of ours.

    The function returned tells how many were made.
    """
    import asyncio
    import selectors
    from asyncio import unix_events

    import pyloop

    made = 0
    backends = {selectors.EpollSelector: "epoll", selectors.PollSelector: "poll"}

    class SelectorEventLoop(pyloop.EventLoop):
        """Takes what asyncio.SelectorEventLoop takes: a selector stands for our poller."""

        def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
            nonlocal made
            made += 1
            if selector is not None:
                selector.close()
            super().__init__(backend=backends.get(type(selector)))

    for module in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, SelectorEventLoop)
    policy: Any = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
    policy = policy or unix_events._DefaultEventLoopPolicy
    policy._loop_factory = SelectorEventLoop
    return lambda: made


class Recorder(unittest.TestResult):
    """Writes each event as one line of JSON at once, so that it outlives the process."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._file = file

    def _write(self, event: str, test: Any, text: str = "") -> None:
        name = test if isinstance(test, str) else test.id()
        json.dump([event, name, text], self._file)
        self._file.write("\n")
        self._file.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._write("started", test)
        faulthandler.dump_traceback_later(TEST_SECONDS, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        self._write("ended", test)

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._write(FAILED, test, self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._write(FAILED, test, self.failures[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            is_failure = issubclass(err[0], test.failureException)
            list_ = self.failures if is_failure else self.errors
            self._write(FAILED, test, f"{subtest}\n{list_[-1][1]}")

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._write(SKIPPED, test, reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._write(FAILED, test, "unexpected success")


def tests_of(suite: Any) -> Iterator[Any]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item


def run_here(loop: str, names: Sequence[str], left_out: Collection[str], report: str) -> None:
    """What the child process does: run the tests of these modules, classes or methods."""
    faulthandler.enable()
    count = replace_loops() if loop == "pyloop" else int
    found = unittest.defaultTestLoader.loadTestsFromNames([f"{PACKAGE}.{name}" for name in names])
    suite = unittest.TestSuite(test for test in tests_of(found) if short(test.id()) not in left_out)
    with open(report, "w", encoding="utf-8") as file:
        result = Recorder(file)
        suite.run(result)
        result._write("finished", "", str(count()))


# -------------------------------------------------------------------------- the parent process


def short(test_id: str) -> str:
    return test_id.removeprefix(f"{PACKAGE}.")


def is_available(module: str = "") -> bool:
    """Whether this Python has its own tests; distributions often leave them out."""
    try:
        return importlib.util.find_spec(f"{PACKAGE}.{module}".rstrip(".")) is not None
    except ModuleNotFoundError:
        return False


def collect(report: Path, outcomes: dict[str, Outcome]) -> tuple[int | None, str | None]:
    """Read a report; how many loops the process made and which test it died in, None for no."""
    loops: int | None = None
    running: str | None = None
    for line in report.read_text(encoding="utf-8").splitlines():
        event, name, text = json.loads(line)
        name = short(name)
        if event == "finished":
            loops = int(text)
        elif event == "started":
            running = name
        elif event == "ended":
            running = None
            outcomes.setdefault(name, Outcome(PASSED))
        elif name not in outcomes:
            outcomes[name] = Outcome(event, text)
        elif outcomes[name].kind == FAILED and event == FAILED:
            outcomes[name].text += "\n" + text
        elif event == FAILED:
            outcomes[name] = Outcome(event, text)
    return loops, running


def run_tests(names: Sequence[str], loop: str = "pyloop") -> tuple[dict[str, Outcome], int]:
    """Run modules or tests, named without the package, in one process after the other.

    How each test ended, and how many of our loops the last process made.
    """
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        while True:
            report.write_text("")
            arguments = ["--here", str(report), "--loop", loop, *names]
            for name in outcomes:
                arguments += ["--without", name]
            try:
                process = subprocess.run(
                    [sys.executable, "-P", str(Path(__file__).resolve()), *arguments],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    timeout=MODULE_SECONDS,
                    check=False,
                )
                output, status = process.stdout, f"exit status {process.returncode}"
            except subprocess.TimeoutExpired as exc:
                output = (exc.stdout or b"").decode(errors="replace")  # type: ignore[attr-defined]
                status = f"more than {MODULE_SECONDS} s"
            known = len(outcomes)
            loops, running = collect(report, outcomes)
            if loops is not None:
                return outcomes, loops
            death = Outcome(HUNG, f"{status}\n{output[-8000:]}")
            if running is not None:
                outcomes[running] = death
            if len(outcomes) == known:
                # Died outside of a test: starting again would end in the same way.
                outcomes[f"{' '.join(names)} (outside of its tests)"] = death
                return outcomes, 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loop", choices=("pyloop", "asyncio"), default="pyloop")
    parser.add_argument("--jobs", type=int, default=2, help="modules that run at a time")
    parser.add_argument("--here", metavar="REPORT", help=argparse.SUPPRESS)
    parser.add_argument("--without", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="MODULE", help="such as test_asyncio.test_ssl")
    options = parser.parse_args()
    if options.here:
        run_here(options.loop, options.names, set(options.without), options.here)
        return 0
    names = options.names or [name for name in MODULES if is_available(name)]
    bad = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, (outcomes, loops) in zip(
            names, pool.map(lambda n: run_tests([n], options.loop), names), strict=True
        ):
            counts: dict[str, int] = {}
            for outcome in outcomes.values():
                counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
            numbers = [f"{n} {kind}" for kind, n in sorted(counts.items())]
            print(name, *numbers, f"({loops} of our loops)", flush=True)
            for test, outcome in outcomes.items():
                if outcome.is_bad:
                    bad += 1
                    print(f"--- {outcome.kind}: {test}\n{outcome.text}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.pop("PYTHONASYNCIODEBUG", None)
    sys.exit(main())
