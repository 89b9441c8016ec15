"""System calls that fail, are interrupted, or move less than they were asked to.

The tests themselves are in ``faults/check_system_calls.py``. They need ``faults/shim.c`` between
the extension and the C library, so they run in a pytest of their own.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"
COMPILER = shlex.split(os.environ.get("CC") or "gcc")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(COMPILER[0]) is None:
        pytest.skip(f"no C compiler: {COMPILER[0]} is not installed")
    library = tmp_path_factory.mktemp("faults") / "shim.so"
    flags = "-std=c11 -O1 -Wall -Wextra -Wshadow -Werror -shared -fPIC -fvisibility=hidden".split()
    command = [*COMPILER, *flags, str(FAULTS / "shim.c"), "-o", str(library), "-ldl"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return library


def check(shim: Path, *options: str, timeout: int) -> None:
    # A sanitizer's runtime must come first, and passes on to the shim.
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(shim)]))
    result = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(str(FAULTS / "check_system_calls.py"), *options),
        ],
        cwd=FAULTS.parent.parent,
        env={**os.environ, "LD_PRELOAD": preload, "FAULTS_SHIM": str(shim)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-8000:]}\n{result.stderr[-4000:]}"
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert "skipped" not in result.stdout, result.stdout


@pytest.mark.timeout(400)  # under a sanitizer, on a slow machine
def test_failing_system_calls(shim: Path) -> None:
    check(shim, timeout=380)


@pytest.mark.stress
@pytest.mark.timeout(400)
def test_failing_system_calls_at_length(shim: Path) -> None:
    check(shim, "--stress", "-m", "stress", timeout=380)
