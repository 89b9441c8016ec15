"""The C tests of csrc/core: compiled with sanitizers and run.

core knows nothing of Python, so it is tested without it.  Each ``tests/c/test_*.c`` is a program
that exits with 0, or says on stderr where it was not content.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "csrc" / "core"
PROGRAMS = sorted((ROOT / "tests" / "c").glob("test_*.c"))

FLAGS = """
    -std=c11 -pedantic -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -pthread
    -Wall -Wextra -Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wvla -Wundef -Werror
""".split()
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
TIME_LIMIT_S = 120


@dataclass(frozen=True)
class Build:
    """A compiler with its flags, and the objects of core."""

    command: Sequence[str]
    objects: Sequence[Path]


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1")
    environment.pop("PYLOOP_BACKEND", None)
    # Its runtime must come first in the program: what others preload is not for C tests.
    environment.pop("LD_PRELOAD", None)
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        env=environment,
        check=False,
    )


def compile_or_fail(command: Sequence[str | Path]) -> None:
    result = run(command)
    if result.returncode != 0:
        pytest.fail(f"{shlex.join(str(part) for part in command)}\n{result.stderr}", pytrace=False)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    compiler = shlex.split(os.environ.get("CC") or "gcc")
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C compiler: {compiler[0]} is not installed")
    directory = tmp_path_factory.mktemp("core")
    command = [*compiler, *FLAGS, *SANITIZERS]

    probe = directory / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if run([*command, probe, "-o", directory / "probe"]).returncode != 0:
        pytest.skip(f"{compiler[0]} has no sanitizers here (libasan, libubsan)")

    objects = []
    for source in sorted(CORE.glob("*.c")):
        objects.append(directory / f"{source.stem}.o")
        compile_or_fail([*command, f"-I{ROOT / 'csrc'}", "-c", source, "-o", objects[-1]])
    return Build(command, objects)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem.removeprefix("test_"))
def test_core(program: Path, build: Build, tmp_path: Path) -> None:
    binary = tmp_path / program.stem
    compile_or_fail([*build.command, f"-I{ROOT / 'csrc'}", program, *build.objects, "-o", binary])
    result = run([binary])
    assert result.returncode == 0, f"{result.stdout}{result.stderr}"


def test_the_sanitizers_see_a_leak(build: Build, tmp_path: Path) -> None:
    """Else the clean runs above would prove little."""
    source = tmp_path / "leak.c"
    source.write_text(
        '#include "core/ring.h"\n'
        "static struct ring ring;\n"
        "int main(void)\n"
        "{\n"
        "    int rc = 0;\n"
        "    for (int i = 0; i < 100; i++) { rc |= ring_init(&ring, 64); }\n"
        "    ring_destroy(&ring);\n"
        "    return rc;\n"
        "}\n"
    )
    compile_or_fail(
        [*build.command, f"-I{ROOT / 'csrc'}", source, *build.objects, "-o", tmp_path / "leak"]
    )
    result = run([tmp_path / "leak"])
    assert result.returncode != 0
    assert "detected memory leaks" in result.stderr


@pytest.mark.parametrize("source", sorted(CORE.glob("*.[ch]")), ids=lambda path: path.name)
def test_core_neither_prints_nor_aborts_nor_knows_python(source: Path) -> None:
    text = source.read_text()
    for pattern in (r"\babort\s*\(", r"printf\s*\(", r"#\s*include\s*<Python\.h>"):
        assert re.search(pattern, text) is None, f"{source.name}: {pattern}"
