"""Fixtures for the tests of other people's libraries: each runs on several loops.

What fails on pyloop's loop only is ours to mend; what fails on all of them is not.
"""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

import pyloop

T = TypeVar("T")

# The longest that a test's coroutine may take; what hangs is to end with a traceback of where.
LIMIT = 20


class Run(Protocol):
    """Runs a coroutine on a new loop, with a time limit; fails if the loop had to report."""

    loop_name: str

    def __call__(self, main: Coroutine[Any, Any, T], /) -> T: ...


def loop_factory_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        factory: Callable[[], asyncio.AbstractEventLoop]
        factory = pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop
        return factory
    return pyloop.EventLoop


@pytest.fixture(scope="session", autouse=True)
def opened_by_libuv() -> None:
    """Let libuv open what it keeps for the process, before a test counts descriptors."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(params=["asyncio", "uvloop", "pyloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    """Whose loop the test is to use."""
    name: str = request.param
    loop_factory_of(name)
    return name


@pytest.fixture
def loop_factory(loop_name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes that loop."""
    return loop_factory_of(loop_name)


@pytest.fixture(params=["asyncio", "uvloop", "pyloop", "pyloop-task"])
def run(request: pytest.FixtureRequest) -> Run:
    """What runs a test's coroutine, in a task of asyncio's or (the last) in a pyloop.Task."""
    name: str = request.param
    factory = loop_factory_of(name)

    def run_on_loop(main: Coroutine[Any, Any, T], /) -> T:
        reported: list[dict[str, Any]] = []

        async def limited() -> T:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reported.append(context))
            assert isinstance(loop, pyloop.EventLoop) == name.startswith("pyloop")
            assert isinstance(asyncio.current_task(), pyloop.Task) == (name == "pyloop-task")
            async with asyncio.timeout(LIMIT):
                return await main

        if name == "pyloop-task":
            result = pyloop.run(limited())
        else:
            with asyncio.Runner(loop_factory=factory) as runner:
                result = runner.run(limited())
        assert reported == []
        return result

    run_on_loop.loop_name = name  # type: ignore[attr-defined]
    return run_on_loop  # type: ignore[return-value]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
        + ["-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return cert, key


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """The server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """The client's side of TLS, which trusts that certificate and no other."""
    return ssl.create_default_context(cafile=str(certificate[0]))
