"""``python -m benchmarks.instructions [SERVER...]``: where the instructions of one echo go.

Runs echo servers of ``servers`` under callgrind, has the load client send 1 KiB at a time, and
prints the instructions in user mode per echo: the difference between two numbers of requests. What
the kernel does, five of six microseconds, is not in it. ``--top N`` adds the functions.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import callgrind, echo
from benchmarks.harness import Lab, Options, Peer, note, process, read_line, tell
from benchmarks.tables import table

FEW, MANY = 200, 1200
SERVERS = (
    "c-epoll",
    *[f"pyloop {face}" for face in ("protocol", "coroutine", "buffered", "sock", "streams")],
    "rloop protocol",
    "uvloop protocol",
    "asyncio protocol",
    "textbook",
)
# The end of a file's name -> the column in which its instructions are shown.
COLUMNS = {
    "interpreter": r"libpython|/python[0-9.]*$|_asyncio|_socket|select\.",
    "loop": r"/pyloop/_core|/uvloop/|/rloop/|echo_epoll$",
    "libc": r"/libc[.-]|/ld-linux|libpthread",
}


@contextlib.contextmanager
def under_callgrind(command: list[str], out: str, core: int) -> Iterator[subprocess.Popen[str]]:
    valgrind = ["valgrind", "--tool=callgrind", *callgrind.OPTIONS]
    with tempfile.TemporaryFile("w+") as complaints:
        words = [*valgrind, f"--callgrind-out-file={out}", *command]
        with process(words, core, stderr=complaints) as popen:
            yield popen


def count(lab: Lab, peer: Peer, requests: int) -> callgrind.Part:
    """What the server executes from its start to the end of so many requests."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "part")
        command = echo.server_command(lab, peer)
        with under_callgrind(command, out, lab.server_core) as server:
            port = int(read_line(server).split()[1])
            words = echo.client_command("pace", port, "--count", requests, "--gap-ms", 0)
            with process(words, lab.client_core) as client:
                read_line(client)
                tell(client, "go")
                read_line(client)
                server.send_signal(signal.SIGTERM)
                server.wait()
        # Threads that the server had would have parts of their own.
        counts: dict[tuple[str, str], int] = {}
        for path in Path(folder).iterdir():
            with path.open(encoding="utf-8") as file:
                for key, number in callgrind.parse_part(file).by_function.items():
                    counts[key] = counts.get(key, 0) + number
        return callgrind.Part(sum(counts.values()), counts)


def per_echo(lab: Lab, peer: Peer) -> dict[tuple[str, str], float]:
    few, many = count(lab, peer, FEW), count(lab, peer, MANY)
    units = MANY - FEW
    found = {
        key: (number - few.by_function.get(key, 0)) / units
        for key, number in many.by_function.items()
    }
    # One-thousandth of an instruction is what a run costs once.
    return {key: value for key, value in found.items() if abs(value) >= 1}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions")
    parser.add_argument("servers", nargs="*", default=SERVERS, metavar="SERVER")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="functions to show")
    arguments = parser.parse_args()
    lab = Lab(Options())
    known = {peer.name: peer for peer in echo.PEERS}
    rows, tops = [], []
    for name in arguments.servers:
        if name not in known:
            parser.error(f"no server {name!r}; there are {', '.join(known)}")
        if not lab.available([known[name]]):
            continue
        note(name)
        found = per_echo(lab, known[name])
        part = callgrind.Part(0, {key: round(value) for key, value in found.items()})
        shares = [part.of(pattern) for pattern in COLUMNS.values()]
        total = sum(found.values())
        rows.append([name, f"**{total:,.0f}**", *[f"{share:,}" for share in shares]])
        ordered = sorted(found.items(), key=lambda item: -item[1])[: arguments.top]
        tops += [
            [name, f"{value:.0f}", function, os.path.basename(path)]
            for (path, function), value in ordered
        ]
    print("\n".join(table(["server", "instructions per echo", *COLUMNS], rows)))
    if tops:
        print("\n".join(table(["server", "instructions", "function", "file"], tops)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
