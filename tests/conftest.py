"""Fixtures for every test: backends and loops, and the check that a test left no descriptor."""

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncio_support import Run, runner
from hypothesis import HealthCheck, settings

BACKENDS = ("epoll", "poll")

# A loaded machine makes any single example slow, and `backend` is the same for all examples.
settings.register_profile(
    "pyloop",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("pyloop")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `stress`, unless it is asked for."""
    if config.getoption("--stress"):
        return
    kept, left_out = [], []
    for item in items:
        (left_out if item.get_closest_marker("stress") else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_configure() -> None:
    """Let SIGINT through: a shell starts background jobs with it ignored, and children inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend; loops made in the test, or by programs it starts, use it."""
    name: str = request.param
    monkeypatch.setenv("PYLOOP_BACKEND", name)
    return name


@pytest.fixture(params=[*BACKENDS, "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """What runs a coroutine on a new loop: pyloop's with each backend, and asyncio's own."""
    return runner(request.param)


@pytest.fixture(params=BACKENDS)
def run_ours(request: pytest.FixtureRequest) -> Run:
    """The same on pyloop's loop alone."""
    return runner(request.param)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with path.open("a") as both:
        both.write(path.with_suffix(".crt").read_text())
    return path


def open_descriptors() -> dict[int, str]:
    """Each open descriptor of this process and what it is open on."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            pass  # the one that listdir itself had open
    return found


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Fail a test after which more descriptors are open than before it."""
    before = open_descriptors()
    yield
    after = open_descriptors()
    if len(after) > len(before):
        gc.collect()
        after = open_descriptors()
    if len(after) > len(before):
        left = {fd: name for fd, name in after.items() if before.get(fd) != name}
        pytest.fail(f"the test left descriptors open: {left}")
