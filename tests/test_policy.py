"""install() and EventLoopPolicy: what programs that were written for uvloop type."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator

import pytest
from support import run_python

import pyloop

# Python 3.14 deprecates asyncio's side of it, which the tests call.
pytestmark = pytest.mark.filterwarnings("ignore:'asyncio.*policy' is deprecated:DeprecationWarning")


@pytest.fixture
def no_policy_left() -> Iterator[None]:
    """Give asyncio its own policy back."""
    yield
    asyncio.set_event_loop_policy(None)


def install() -> None:
    """pyloop.install(), with the warning that is due on a Python that deprecates policies."""
    deprecated = sys.version_info >= (3, 14)
    with (
        pytest.warns(DeprecationWarning, match="loop_factory")
        if deprecated
        else contextlib.nullcontext()
    ):
        pyloop.install()


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_import_touches_no_policy() -> None:
    done = run_python(
        "import sys, pyloop\n"
        "from asyncio import events\n"
        "assert events._event_loop_policy is None\n"
        "assert sys.version_info < (3, 14) or 'pyloop._policy' not in sys.modules\n"
        "pyloop.EventLoopPolicy\n"
        "assert 'pyloop._policy' in sys.modules\n"
        "assert events._event_loop_policy is None\n",
        env={"PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_names_are_imported_without_a_warning() -> None:
    done = run_python(
        "from pyloop import *\n"
        "from pyloop import EventLoopPolicy as policy, install as function\n"
        "assert policy is EventLoopPolicy and function is install\n"
        "policy()\n",
        env={"PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'pyloop' has no attribute 'instal'$"):
        _ = pyloop.instal  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_policy_left")
def test_install() -> None:
    install()
    assert type(asyncio.run(running_loop())) is pyloop.EventLoop
    with asyncio.Runner() as runner:
        assert type(runner.run(running_loop())) is pyloop.EventLoop
    asyncio.set_event_loop_policy(None)
    assert type(asyncio.run(running_loop())) is not pyloop.EventLoop


@pytest.mark.usefixtures("no_policy_left")
def test_install_leads_to_subprocesses() -> None:
    """Before 3.14 it is the policy that hands out the watcher of child processes."""

    async def main() -> bytes:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(input()[::-1])", stdin=-1, stdout=-1
        )
        out, _ = await child.communicate(b"drawer\n")
        assert child.returncode == 0
        return out

    install()
    assert asyncio.run(main()) == b"reward\n"


@pytest.mark.usefixtures("no_policy_left")
def test_the_current_loop_belongs_to_the_thread() -> None:
    asyncio.set_event_loop_policy(pyloop.EventLoopPolicy())
    loop = asyncio.new_event_loop()
    try:
        assert type(loop) is pyloop.EventLoop
        asyncio.set_event_loop(loop)
        assert asyncio.get_event_loop() is loop
        found: list[object] = []

        def elsewhere() -> None:
            try:
                found.append(asyncio.get_event_loop())
            except RuntimeError as error:
                found.append(str(error).partition(" in thread")[0])
            found.append(type(asyncio.run(running_loop())))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found == ["There is no current event loop", pyloop.EventLoop]
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_loops_of_a_policy() -> None:
    """A policy can be asked for loops without being installed, and its loops can be others'."""

    class Special(pyloop.EventLoop):
        pass

    class Policy(pyloop.EventLoopPolicy):
        _loop_factory = Special

    for policy, kind in ((pyloop.EventLoopPolicy(), pyloop.EventLoop), (Policy(), Special)):
        first, second = policy.new_event_loop(), policy.new_event_loop()
        with contextlib.closing(first), contextlib.closing(second):
            assert first is not second
            assert type(first) is kind
            policy.set_event_loop(first)
            assert policy.get_event_loop() is first
            policy.set_event_loop(None)
            with pytest.raises(RuntimeError, match="There is no current event loop"):
                policy.get_event_loop()
