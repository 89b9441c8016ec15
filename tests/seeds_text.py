"""The code blocks of the seeds, the texts that the project grew from, as programs to run.

They are not part of the project: `SEEDS` is where they are when somebody has them.
"""

from __future__ import annotations

import os
import select
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from example_process import LIMIT, Process, until

SEEDS = Path(__file__).parents[1].parent / "shared" / "seeds"

Change = tuple[str, str]


def blocks(number: int) -> list[str]:
    """The code blocks of seed `number`."""
    (path,) = SEEDS.glob(f"{number:03}_*.txt")
    found: list[str] = []
    inside = False
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.lstrip().startswith("```"):
            inside = not inside
            if inside:
                found.append("")
        elif inside:
            found[-1] += line.rstrip() + "\n"
    return found


def block(number: int, *marks: str) -> str:
    """The one code block of seed `number` that has all these pieces of text in it."""
    found = [code for code in blocks(number) if all(mark in code for mark in marks)]
    assert len(found) == 1, f"{len(found)} blocks have {marks}"
    return found[0]


def changed(code: str, changes: Iterable[Change]) -> str:
    """`code` with each text replaced, wherever it is; each must be there."""
    for old, new in changes:
        assert old in code, f"{old!r} is not in the seed"
        code = code.replace(old, new)
    return code


class Script(Process):
    """A program of a seed, as a process. `prelude` runs before it, in the same module."""

    def __init__(
        self, folder: Path, code: str, *args: str, prelude: str = "", **options: Any
    ) -> None:
        path = folder / "program.py"
        path.write_text(textwrap.dedent(prelude) + code, encoding="utf-8")
        env = {"PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"}
        # -u: the seeds do not flush what they print.
        super().__init__(sys.executable, "-u", str(path), *args, env=env, cwd=folder, **options)

    def address(self, kind: str = "tcp") -> tuple[str, int]:
        """Where the program listens, or is bound to; waits until it does."""
        until(lambda: self.process.poll() is not None or bool(self._ports(kind)))
        ports = self._ports(kind)
        assert len(ports) == 1, self.stderr()
        return "127.0.0.1", ports[0]

    def _ports(self, kind: str) -> list[int]:
        """The local ports of its sockets that have no peer."""
        inodes = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").glob("*"):
            try:
                inodes.add(str(entry.readlink()))
            except FileNotFoundError:
                pass  # closed meanwhile
        waiting = {"tcp": "0A", "udp": "07"}[kind]
        rows = [row.split() for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
        return [
            int(row[1].partition(":")[2], 16)
            for row in rows
            if row[3] == waiting and f"socket:[{row[9]}]" in inodes
        ]

    def expect(self, text: str) -> None:
        """Read `text`, which need not be a whole line, from its stdout."""
        assert self.process.stdout is not None
        wanted = text.encode()
        found = b""
        while len(found) < len(wanted):
            assert select.select([self.process.stdout], [], [], LIMIT)[0], self.stderr()
            piece = os.read(self.process.stdout.fileno(), len(wanted) - len(found))
            assert piece, self.stderr()
            found += piece
        assert found == wanted

    def has_printed(self) -> bool:
        """Whether there is something of its stdout to be read."""
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def is_asleep(self) -> bool:
        """Whether its thread waits in the kernel."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "S"

    def kill(self) -> None:
        """End it at once: the seeds' servers have no end of their own."""
        self.process.kill()
        self.wait()


needs_seeds = pytest.mark.skipif(not SEEDS.is_dir(), reason="the seeds are not there")
