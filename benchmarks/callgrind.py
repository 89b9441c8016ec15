"""Instruction counts from valgrind's callgrind.

The program under it calls ``os.getppid()`` at the borders of what it wants counted; callgrind
writes a *part* at each of these calls, with what ran since the last one.  Starting an interpreter
under callgrind takes seconds, so one process has many parts.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A function of libc that nothing in a benchmark calls by itself.
MARK = "getppid"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Part:
    """Instructions between two marks: all of them, and those of each function of each file."""

    total: int
    by_function: Mapping[tuple[str, str], int]

    @property
    def by_object(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (path, _), count in self.by_function.items():
            found[path] = found.get(path, 0) + count
        return found

    def of(self, pattern: str) -> int:
        """The instructions of all files whose path matches."""
        found = re.compile(pattern)
        return sum(count for path, count in self.by_object.items() if found.search(path))


def parse_part(lines: Iterable[str]) -> Part:
    """Read one part as callgrind writes it with ``OPTIONS``."""
    total = 0
    path = function = ""
    counts: dict[tuple[str, str], int] = {}
    is_inclusive = False  # the line after "calls=" repeats what the callee has been counted for
    for line in lines:
        if line.startswith("ob="):
            path = line[3:].strip()
        elif line.startswith("fn="):
            # A recursive call's is "name'2".
            function = line[3:].strip().partition("'")[0]
        elif line.startswith("calls="):
            is_inclusive = True
        elif line[:1].isdigit():
            if not is_inclusive:
                key = (path, function)
                counts[key] = counts.get(key, 0) + int(line.split()[1])
            is_inclusive = False
        elif line.startswith("totals:"):
            total = int(line.split()[1])
    return Part(total or sum(counts.values()), counts)


# Without compression each line stands for itself; without line numbers there are fewer of them.
OPTIONS = ("--compress-strings=no", "--compress-pos=no", "--dump-line=no")


def run(command: Sequence[str], environment: Mapping[str, str]) -> list[Part]:
    """The parts between the marks of a program; what ran before the first and after the last
    mark is left out.  Raises RuntimeError with what the program said when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "part")
        valgrind = ["valgrind", "--tool=callgrind", *OPTIONS, f"--dump-before={MARK}"]
        done = subprocess.run(
            [*valgrind, f"--callgrind-out-file={out}", *command],
            env=dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if not line.startswith("==")]
            raise RuntimeError("\n".join(said[-10:]) or f"exit status {done.returncode}")
        # The n-th mark writes "part.n", with what ran before it; the end writes "part".
        parts = []
        number = 2
        while (path := Path(f"{out}.{number}")).exists():
            with path.open(encoding="utf-8") as file:
                parts.append(parse_part(file))
            number += 1
        return parts
