"""Every public operation with each of its allocations failing in turn: MemoryError, or success."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "faults" / "out_of_memory.py"


# Where a callback could not be called they wait in vain for a while.
SLOW = ["stream_transports", "datagram_transports", "a_server"]
FAST = re.findall(r"(?m)^@operation\ndef (\w+)", PROGRAM.read_text())

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("_testcapi") is None,
        reason="the interpreter was built without _testcapi, which makes allocations fail",
    ),
    pytest.mark.timeout(320),  # under a sanitizer, on a slow machine
]


def climb(names: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-P", PROGRAM, *names],
        # The debug allocator would abort where CPython itself goes wrong without memory.
        env={**os.environ, "PYTHONDEVMODE": "", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr[-6000:]}"
    # Each operation had allocations that failed.
    counts = dict(line.split() for line in result.stdout.splitlines())
    assert set(counts) <= set(names)
    assert len(counts) > len(names) * 0.8
    assert min(int(count) for count in counts.values()) > 3


def test_any_allocation_may_fail() -> None:
    climb([name for name in FAST if name not in SLOW])


@pytest.mark.stress
@pytest.mark.parametrize("name", SLOW)
def test_any_allocation_of_a_transport_may_fail(name: str, backend: str) -> None:
    climb([name])


@pytest.mark.stress
def test_any_allocation_may_fail_on_each_backend(backend: str) -> None:
    climb([name for name in FAST if name not in SLOW])
