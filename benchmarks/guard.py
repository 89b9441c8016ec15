"""``python -m benchmarks.guard``: has anything become slower?  No clock is asked.

Counts, under callgrind, the instructions that one unit of some micro-benchmarks takes, and compares
with what ``guard.json`` has on record for that version of Python.  More than 5 % above it fails;
more than 5 % below asks for a new record, which ``--record`` writes.  Each interpreter gets a
virtual environment of its own with pyloop built from this checkout.

libc's instructions are left out: what malloc has to do depends on where earlier blocks happen to
lie, which made the sum of one and the same build differ by 3 %.

What the record is worth elsewhere: most instructions are the interpreter's, so the sum is judged
only where that is the build with which it was recorded.  Elsewhere the instructions
of pyloop's own code are, which depend on the compiler alone: with 10 % tolerance under another
build of the interpreter (its headers are compiled into pyloop), with 25 % under another major
version of the compiler.  On another architecture nothing is judged.  What was done is said.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import callgrind
from benchmarks.guard_work import LARGE, NAMES, SMALL
from benchmarks.harness import BOOT, ROOT

RECORD = ROOT / "benchmarks" / "guard.json"
JOBS = 2
TOLERANCE = 0.05
OTHER_INTERPRETER_TOLERANCE = 0.10
OTHER_COMPILER_TOLERANCE = 0.25
LIBC = r"/libc[.-][^/]*$"
OWN_CODE = r"/pyloop/_core\.[^/]*so$"
# What a build of pyloop reads.
SOURCES = ("csrc", "pyloop", "examples", "setup.py", "pyproject.toml", "README.md", "LICENSE")

# Run by the interpreter in question.  The options are those that change the machine code.
DESCRIBE = """
import json, platform, shlex, subprocess, sysconfig
given = shlex.split(sysconfig.get_config_var("CONFIG_ARGS") or "")
kept = [word for word in given
        if word.startswith(("--enable-opt", "--with-lto", "--enable-shared", "--with-pydebug"))]
compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
run = lambda option: subprocess.run([compiler, option], capture_output=True, text=True).stdout
print(json.dumps({
    "python": platform.python_version(),
    "python_build": " ".join([platform.python_compiler(), *sorted(set(kept))]),
    "compiler": ("clang " if "clang" in run("--version") else "gcc ")
                + run("-dumpfullversion").strip(),
    "machine": platform.machine(),
}))
"""


@dataclass(frozen=True)
class Environment:
    """What instruction counts depend on beside pyloop."""

    python: str
    python_build: str
    compiler: str
    machine: str

    @property
    def version(self) -> str:
        """ "3.12", under which it is on record."""
        return ".".join(self.python.split(".")[:2])


@dataclass(frozen=True)
class Count:
    """Instructions per unit: of all code but libc's, and of pyloop's."""

    total: float
    own: float


@dataclass(frozen=True)
class Basis:
    """How a count may be compared with the record."""

    reason: str
    is_total: bool
    tolerance: float | None  # None: not at all


@dataclass(frozen=True)
class Verdict:
    name: str
    recorded: float
    counted: float
    tolerance: float

    @property
    def change(self) -> float:
        return self.counted / self.recorded - 1

    @property
    def is_slower(self) -> bool:
        return self.change > self.tolerance

    @property
    def is_faster(self) -> bool:
        return self.change < -self.tolerance


def choose_basis(recorded: Environment, here: Environment) -> Basis:
    """What can be judged where this is not what the record was made with."""
    if recorded.machine != here.machine:
        text = f"recorded on {recorded.machine}, not on {here.machine}: nothing is judged"
        return Basis(text, False, None)

    def major(environment: Environment) -> str:
        return environment.compiler.split(".")[0]

    if major(recorded) != major(here):
        text = f"recorded with {recorded.compiler}, not with {here.compiler}: "
        return Basis(text + "pyloop's own code is judged", False, OTHER_COMPILER_TOLERANCE)
    others = [
        f"{theirs}, not {ours}"
        for theirs, ours in (
            (f"Python {recorded.python}", f"Python {here.python}"),
            (recorded.python_build, here.python_build),
        )
        if theirs != ours
    ]
    if others:
        text = f"recorded with {'; '.join(others)}: pyloop's own code is judged"
        return Basis(text, False, OTHER_INTERPRETER_TOLERANCE)
    return Basis("recorded with these very builds: all code is judged", True, TOLERANCE)


def judge(
    basis: Basis, recorded: Mapping[str, Count], counted: Mapping[str, Count]
) -> list[Verdict]:
    """A verdict on each name that is on both sides."""
    if basis.tolerance is None:
        return []
    return [
        Verdict(
            name,
            recorded[name].total if basis.is_total else recorded[name].own,
            count.total if basis.is_total else count.own,
            basis.tolerance,
        )
        for name, count in counted.items()
        if name in recorded
    ]


def counts_of(parts: Sequence[callgrind.Part], names: Sequence[str]) -> dict[str, Count]:
    """From the parts of one process: of each piece of work its small run, its large run, and
    (before the next piece) the warm-up of that."""
    if len(parts) != 3 * len(names) - 1:
        raise RuntimeError(f"callgrind wrote {len(parts)} parts for {len(names)} pieces of work")
    return {
        name: count_between(parts[3 * number], parts[3 * number + 1])
        for number, name in enumerate(names)
    }


def count_between(small: callgrind.Part, large: callgrind.Part) -> Count:
    units = LARGE - SMALL
    total = large.total - large.of(LIBC) - small.total + small.of(LIBC)
    own = large.of(OWN_CODE) - small.of(OWN_CODE)
    return Count(round(total / units, 1), round(own / units, 1))


def clean_environment() -> dict[str, str]:
    """Without what changes the build or the run."""
    prefixes = ("PYTHON", "PYLOOP_", "CC", "CFLAGS", "LDFLAGS", "CPPFLAGS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return kept | {"PYTHONHASHSEED": "0"}


def checked(command: Sequence[str], what: str) -> str:
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def describe(python: str) -> Environment:
    return Environment(**json.loads(checked([python, "-c", DESCRIBE], python)))


def build(python: str, folder: Path) -> str:
    """pyloop of this checkout in a virtual environment in ``folder``; its interpreter."""
    tree = folder / "tree"
    tree.mkdir()
    leave = shutil.ignore_patterns("*.so", "__pycache__")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=leave)
        else:
            shutil.copy(source, tree / name)
    checked([python, "-m", "venv", str(folder / "venv")], "venv")
    built = str(folder / "venv" / "bin" / "python")
    checked([built, "-m", "pip", "install", "-q", "--no-deps", str(tree)], "pip install")
    return built


def count(python: str) -> dict[str, Count]:
    with tempfile.TemporaryDirectory(prefix="pyloop-guard.") as folder:
        note(f"{python}: building pyloop")
        built = build(python, Path(folder))
        note(f"{python}: counting")
        command = [built, "-P", "-c", BOOT, str(ROOT), "benchmarks.guard_work"]
        return counts_of(callgrind.run(command, clean_environment()), NAMES)


def read_record() -> dict[str, Any]:
    if not RECORD.exists():
        return {}
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def write_record(found: Mapping[Environment, Mapping[str, Count]]) -> None:
    """Replace what is on record for the versions that were counted, and keep the others."""
    record = read_record()
    for here, counts in found.items():
        record[here.version] = {
            "environment": asdict(here),
            "instructions": {name: asdict(count) for name, count in counts.items()},
        }
    ordered = {version: record[version] for version in sorted(record)}
    RECORD.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    note(f"recorded in {RECORD.relative_to(ROOT)}")


def report(
    here: Environment, counts: Mapping[str, Count], record: Mapping[str, Any]
) -> tuple[list[str], list[Verdict]]:
    """The lines about one interpreter, and the verdicts in them."""
    lines = [f"CPython {here.python}, {here.compiler}; instructions per unit, in brackets pyloop's"]
    known = record.get(here.version)
    recorded: dict[str, Count] = {}
    verdicts: list[Verdict] = []
    if known is None:
        lines.append(f"  nothing is on record for {here.version}: nothing is judged")
    else:
        basis = choose_basis(Environment(**known["environment"]), here)
        recorded = {name: Count(**value) for name, value in known["instructions"].items()}
        verdicts = judge(basis, recorded, counts)
        lines.append(f"  {basis.reason}")
        if basis.tolerance is not None:
            lines[-1] += f", with {basis.tolerance:.0%} tolerance"
    judged = {verdict.name: verdict for verdict in verdicts}
    for name, counted in counts.items():
        line = f"  {name:18} {counted.total:9,.0f} ({counted.own:6,.0f})"
        if name in recorded:
            line += f"  recorded {recorded[name].total:9,.0f} ({recorded[name].own:6,.0f})"
        else:
            line += "  not on record"
        if name in judged:
            verdict = judged[name]
            line += f"  {verdict.change:+7.1%}"
            line += "  SLOWER" if verdict.is_slower else "  faster" if verdict.is_faster else ""
        lines.append(line)
    return lines, verdicts


def summary(verdicts: Mapping[str, Sequence[Verdict]]) -> list[str]:
    """What is to be done, after the tables: version -> its verdicts."""
    lines = []
    for word, chosen in (("SLOWER", "is_slower"), ("note: faster", "is_faster")):
        found = [
            f"{word}: {verdict.name} on {version}, {verdict.recorded:,.0f} -> "
            f"{verdict.counted:,.0f} instructions ({verdict.change:+.1%})"
            for version, those in verdicts.items()
            for verdict in those
            if getattr(verdict, chosen)
        ]
        lines += found
        if found and chosen == "is_faster":
            lines.append(
                "note: that is no failure, but losing it again would not be seen: "
                "record it with `python -m benchmarks.guard --record`"
            )
    return lines or ["Nothing has become slower."]


def find_pythons() -> list[str]:
    """One interpreter of each version that pyloop is tested on."""
    versions = ("3.11", "3.12", "3.13")
    pyenv = Path.home() / ".pyenv" / "versions"
    found: dict[str, str] = {}
    candidates = [sys.executable]
    candidates += [str(path) for path in sorted(pyenv.glob("3.1*/bin/python"))]
    candidates += [path for version in versions if (path := shutil.which(f"python{version}"))]
    ask = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
    for python in candidates:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        version, _, name = done.stdout.strip().partition(" ")
        if version in versions and name == "cpython":
            found.setdefault(version, python)
    return [found[version] for version in sorted(found)]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description="Compare instructions per unit of work with those on record.",
    )
    parser.add_argument(
        "pythons",
        nargs="*",
        metavar="PYTHON",
        help="interpreters; default: one each of 3.11 to 3.13, this one, pyenv's, or on PATH",
    )
    parser.add_argument(
        "--record", action="store_true", help="write what is counted to guard.json as the new norm"
    )
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        note("valgrind is not installed")
        return 2
    pythons = arguments.pythons or find_pythons()
    with ThreadPoolExecutor(min(JOBS, os.cpu_count() or 1)) as pool:
        counted = pool.map(count, pythons)
        found = dict(zip(map(describe, pythons), counted, strict=True))
    record = read_record()
    verdicts = {}
    for here, counts in found.items():
        lines, verdicts[here.version] = report(here, counts, record)
        print("\n".join(lines))
    if arguments.record:
        write_record(found)
        return 0
    print("\n".join(summary(verdicts)))
    return any(verdict.is_slower for those in verdicts.values() for verdict in those)


if __name__ == "__main__":
    sys.exit(main())
