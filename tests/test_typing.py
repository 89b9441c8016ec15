"""The annotations: of the package, as programs see them, and against the objects at run time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = sorted((ROOT / "tests" / "typing").glob("*.py"))

# Another program runs; how pyloop was built makes no difference to it.
pytestmark = pytest.mark.heavy


def check(tmp_path: Path, module: str, *args: str) -> None:
    # The checkout, also where an import hook instead of a path leads to it.
    # From elsewhere: the folder tests/typing must not pass for the module typing.
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *args],
        env={**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_snippets(tmp_path: Path, version: str) -> None:
    assert {path.stem for path in SNIPPETS} >= {"coroutines", "asyncio_face", "mistakes"}
    check(tmp_path, "mypy", "--strict", f"--python-version={version}", *map(str, SNIPPETS))


def test_the_package(tmp_path: Path) -> None:
    check(tmp_path, "mypy", "--strict", str(ROOT / "pyloop"))


def test_stubs_are_true(tmp_path: Path) -> None:
    """Names, signatures and values of the stubs are those of the compiled module."""
    config = str(ROOT / "pyproject.toml")
    allowlist = tmp_path / "allowlist"
    # Where they are installed: in the checkout they are in another folder, and have no stubs.
    allowlist.write_text("pyloop\\.examples.*\n")
    allowed = [f"--allowlist={allowlist}", "--ignore-unused-allowlist"]
    check(tmp_path, "mypy.stubtest", "--mypy-config-file", config, *allowed, "pyloop")
