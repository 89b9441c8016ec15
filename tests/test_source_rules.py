"""The house rules of the C sources that a program can check."""

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
C_FILES = sorted(CSRC.rglob("*.[ch]"))
HEADERS = [path for path in C_FILES if path.suffix == ".h"]
TABLES = sorted(CSRC.rglob("*.def"))

# A file includes its own rank and lower ones. eventloop.c and module.c are above all folders.
RANKS = {"core": 0, "sched": 1, "aio": 2, "": 3}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)

DATA_STRUCTURES = {"base", "clock", "list", "ring", "timerheap", "fdtable"}
FOUNDATION = {"base", "clock", "list"}


def relative(path: Path) -> str:
    return path.relative_to(CSRC).as_posix()


def folder(path: Path) -> str:
    """The folder of csrc that `path` is in; "" for csrc itself."""
    parent = path.parent.relative_to(CSRC).as_posix()
    return "" if parent == "." else parent


CORE_FILES = [path for path in C_FILES if folder(path) == "core"]
PYTHON_FILES = [path for path in C_FILES if folder(path) != "core"]

each_c_file = pytest.mark.parametrize("path", C_FILES, ids=relative)


def unit(path: Path) -> str:
    """What a header and its source have in common: "core/ring"."""
    return path.relative_to(CSRC).with_suffix("").as_posix()


def code_of(path: Path) -> str:
    """The text of a C file without comments and the contents of string literals."""
    pattern = re.compile(
        r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL
    )

    def blank(match: re.Match[str]) -> str:
        lines = "\n" * match[0].count("\n")
        return f'""{lines}' if match[0][0] == '"' else f" {lines}"

    return pattern.sub(blank, path.read_text(encoding="utf-8"))


def includes(path: Path) -> Iterator[Path | str]:
    """What `path` includes, in order: a Path of our own, a str for a file of the system."""
    for own, system in INCLUDE.findall(path.read_text(encoding="utf-8")):
        if system:
            yield system
            continue
        beside = path.parent / own
        yield (beside if beside.exists() else CSRC / own).resolve()


def own_includes(path: Path) -> Iterator[Path]:
    return (target for target in includes(path) if isinstance(target, Path))


def test_the_sources_are_where_the_tests_look() -> None:
    names = {relative(path) for path in C_FILES}
    assert {"core/reactor.c", "core/poller.h", "sched/loop.c", "sched/step.c"} <= names
    assert {"eventloop.c", "module.c"} <= names
    assert {folder(path) for path in C_FILES} <= RANKS.keys()


@each_c_file
def test_includes_go_one_way(path: Path) -> None:
    for target in own_includes(path):
        assert target.exists(), f"{relative(path)} includes {target}, which is not there"
        assert target.suffix in (".h", ".def")
        assert RANKS[folder(target)] <= RANKS[folder(path)], (
            f"{relative(path)} includes {relative(target)}, which is above it"
        )
        if folder(target) == "aio":
            assert folder(path) in ("aio", ""), f"{relative(path)} knows of asyncio's face"


def test_no_two_files_include_each_other() -> None:
    """A header and its source count as one: task.c may not use loop.h where loop.c uses task.h."""
    graph: dict[str, set[str]] = {}
    for path in C_FILES:
        targets = {unit(target) for target in own_includes(path) if target.suffix == ".h"}
        graph.setdefault(unit(path), set()).update(targets - {unit(path)})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("these include each other: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("path", CORE_FILES, ids=relative)
def test_core_knows_nothing_of_python(path: Path) -> None:
    python_headers = ("Python.h", "structmember.h", "pythread.h")
    used = [target for target in includes(path) if target in python_headers]
    assert used == []
    assert not re.search(r"\bPy[A-Z_]\w*|\b_Py\w+", code_of(path))


def test_core_inside() -> None:
    """Data structures know none but the foundation, backends only the contract."""
    for path in CORE_FILES:
        seen = {target.stem for target in own_includes(path)} - {path.stem}
        if path.stem in FOUNDATION:
            assert seen <= FOUNDATION, relative(path)
        elif path.stem in DATA_STRUCTURES:
            assert seen <= FOUNDATION, relative(path)
        elif path.stem.startswith(("poller_", "uring_")):
            assert seen <= FOUNDATION | {"poller", "uring_sys"}, relative(path)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_python_h_comes_first(path: Path) -> None:
    """Python.h sets macros that change what the system's headers declare."""
    first = list(includes(path))
    if isinstance(first[0], Path) and first[0].stem == path.stem:
        first = list(includes(first[0]))
    assert first[0] == "Python.h"


@each_c_file
def test_no_call_that_ends_or_prints(path: Path) -> None:
    """Errors are returned: the library neither ends the process nor writes to its streams."""
    calls = re.findall(
        r"\b(abort|exit|_exit|printf|fprintf|vprintf|vfprintf|puts|fputs|perror|Py_FatalError"
        r"|Py_Exit|PyErr_Print)\s*\(",
        code_of(path),
    )
    assert calls == []


@each_c_file
def test_types_are_made_at_run_time(path: Path) -> None:
    assert re.findall(r"\bPyTypeObject\s+\w+\s*[=;{]", code_of(path)) == []


@pytest.mark.parametrize("path", HEADERS, ids=relative)
def test_header_guard(path: Path) -> None:
    guard = "PL_" + unit(path).replace("/", "_").upper() + "_H"
    directives = re.findall(r"^[ \t]*#.*", code_of(path), re.MULTILINE)
    assert directives[:2] == [f"#ifndef {guard}", f"#define {guard}"]
    assert directives[-1].startswith("#endif")


@each_c_file
def test_text(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) <= 801, "more than 800 lines: more than one noun, one job"
    assert [n for n, line in enumerate(lines, 1) if len(line) > 79] == []
    assert [n for n, line in enumerate(lines, 1) if "\t" in line or line != line.rstrip()] == []
    assert lines[0].startswith(("/*", "#include")), "the file's head says what it holds"


def test_nothing_is_left_for_later() -> None:
    words = re.compile(
        r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b"
    )
    files = [*C_FILES, *TABLES, ROOT / "setup.py"]
    for name in ("pyloop", "examples", "tests", "benchmarks"):
        files += (ROOT / name).rglob("*.py*")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path.suffix in (".c", ".h", ".def", ".py", ".pyi")
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if words.search(line)
    ]
    assert found == []


def test_headers_stand_alone(tmp_path: Path) -> None:
    """Each header compiles without another one before it."""
    compiler = sysconfig.get_config_var("CC").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / "alone.c"
    python = sysconfig.get_path("include")
    for header in HEADERS:
        source.write_text(f'#include "{relative(header)}"\n')
        done = subprocess.run(
            [compiler, "-std=c11", "-D_GNU_SOURCE", "-fsyntax-only", "-Wall", "-Werror"]
            + [f"-I{CSRC}", f"-I{python}", str(source)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def test_only_the_module_initialiser_is_exported() -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    from pyloop import _core

    done = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", str(_core.__file__)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["PyInit__core"]
