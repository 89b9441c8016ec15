"""What is installed, and what the source distribution holds."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support import run_python

import pyloop

ROOT = Path(__file__).resolve().parent.parent

# What a checkout may hold beside its own files.
LEFT_BY_TOOLS = (
    "*.so",
    "*.pyc",
    "*.egg-info",
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv*",
    "__pycache__",
    "build",
    "dist",
)


def test_version() -> None:
    assert pyloop.__version__ == importlib.metadata.version("pyloop")
    assert re.fullmatch(r"\d+\.\d+\.\d+", pyloop.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {pyloop.__version__}" in changelog


def test_no_runtime_dependency() -> None:
    requires = importlib.metadata.requires("pyloop") or []
    assert [line for line in requires if "extra ==" not in line] == []


def test_types_are_shipped() -> None:
    package = Path(pyloop.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()


def test_import_is_silent_and_makes_no_loop() -> None:
    """Importing leaves no descriptor, no thread and no policy behind, and warns of nothing."""
    done = run_python(
        "import asyncio, os, sys, threading\n"
        "before = os.listdir('/proc/self/fd')\n"
        "import pyloop\n"
        "assert len(os.listdir('/proc/self/fd')) == len(before)\n"
        "assert threading.active_count() == 1\n"
        "assert 'importlib.metadata' not in sys.modules\n",
        env={"PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in ROOT.glob("examples/*.py") if path.stem[0] != "_")
)
def test_examples_are_installed(name: str, tmp_path: Path) -> None:
    """Each example starts as `python -m pyloop.examples.NAME`, from any directory."""
    done = subprocess.run(
        [sys.executable, "-m", f"pyloop.examples.{name}", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


def test_the_source_distribution_is_complete(tmp_path: Path) -> None:
    """Every file that a build or a test run needs is in it, and nothing that a build made."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_BY_TOOLS))
    done = run_python(
        "import sys\nfrom setuptools import build_meta\nprint(build_meta.build_sdist(sys.argv[1]))",
        str(tmp_path),
        cwd=tree,
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        packed = {
            Path(*Path(member.name).parts[1:]).as_posix()
            for member in archive.getmembers()
            if member.isfile()
        }
    wanted = {
        path.relative_to(tree).as_posix()
        for folder in (".ci", "csrc", "docs", "examples", "pyloop", "tests")
        for path in (tree / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md"}
    wanted |= {"pyproject.toml", "setup.py"}
    assert wanted <= packed, f"missing: {sorted(wanted - packed)}"
    assert [name for name in packed if name.endswith((".so", ".o", ".pyc"))] == []
