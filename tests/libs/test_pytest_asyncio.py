"""pytest-asyncio: a small suite, run in a process of its own, on our loop.

Its plugin is not loaded in this process, whose settings it would warn about.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("pytest_asyncio", reason="pytest-asyncio is not installed")

VERSION = tuple(int(part) for part in metadata.version("pytest-asyncio").split(".")[:2])

SUITE = '''
import asyncio
import gc

import pytest
import pytest_asyncio


def loop_of():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest_asyncio.fixture
async def echo_port():
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_loop():
    yield asyncio.get_running_loop()
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_loop():
    assert loop_of() == "LOOP"


@pytest.mark.asyncio
async def test_loop_is_new():
    # Of the one before: a loop per test.
    assert not getattr(asyncio.get_running_loop(), "seen", False)
    asyncio.get_running_loop().seen = True


test_loop_is_new_again = test_loop_is_new


@pytest.mark.asyncio
async def test_fixture(echo_port):
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_port)
    for word in (b"a", b"bc" * 30000):
        writer.write(word)
        assert await reader.readexactly(len(word)) == word
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio(loop_scope="module")
async def test_module_loop(module_loop):
    assert asyncio.get_running_loop() is module_loop


@pytest.mark.asyncio(loop_scope="module")
async def test_module_loop_again(module_loop):
    assert asyncio.get_running_loop() is module_loop


@pytest.mark.asyncio
async def test_left_task():
    """The plugin cancels what a test leaves."""
    asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(20))
async def test_many(number):
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(lambda: 2 * number) == 2 * number


@pytest.mark.asyncio
@pytest.mark.xfail(raises=ValueError, strict=True)
async def test_failure():
    await asyncio.sleep(0)
    raise ValueError


def test_nothing_is_left():
    gc.collect()
'''

FACTORY_HOOK = """
import asyncio, importlib

def pytest_asyncio_loop_factories(config, item):
    name = "LOOP"
    if name == "asyncio":
        return {name: asyncio.SelectorEventLoop}
    return {name: importlib.import_module(name).new_event_loop}
"""

POLICY_FIXTURE = """
import asyncio, importlib
import pytest

@pytest.fixture(scope="session")
def event_loop_policy():
    name = "LOOP"
    if name == "asyncio":
        return asyncio.DefaultEventLoopPolicy()
    return importlib.import_module(name).EventLoopPolicy()
"""


@pytest.mark.parametrize("way", ["factory", "policy"])
def test_a_suite(loop_name: str, way: str, tmp_path: Path) -> None:
    conftest, allowed = POLICY_FIXTURE, ""
    if way == "factory":
        if VERSION < (1, 4):
            pytest.skip("pytest-asyncio is too old for loop factories")
        conftest = FACTORY_HOOK
    else:
        # Deprecated where there are loop factories, and still how most suites do it.
        allowed = "    ignore:Overriding the .event_loop_policy. fixture\n"
    (tmp_path / "conftest.py").write_text(conftest.replace("LOOP", loop_name))
    (tmp_path / "test_suite.py").write_text(SUITE.replace("LOOP", loop_name))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"
        f"filterwarnings =\n    error\n{allowed}"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_asyncio.plugin",
        ]
        + ["--rootdir", str(tmp_path), "-q", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "28 passed, 1 xfailed" in done.stdout
