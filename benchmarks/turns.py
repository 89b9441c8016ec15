"""``python -m benchmarks.turns [DIR=]SERVER...``: small differences between echo servers.

All servers run at the same time on one core, and one client loads them in turns of some
milliseconds: whatever the machine does meanwhile, it does to all of them, and a difference of one
per cent can be seen where runs of their own scatter by ten. What is compared are the means of
several starts, since each start of a process has a layout of memory of its own.

The first server is what the others are compared with. ``DIR=`` puts a folder in front of a server's
``PYTHONPATH``, e.g. one that holds another build of ``pyloop``::

    python -m benchmarks.turns c-epoll before/="pyloop coroutine" "pyloop coroutine"
"""

import argparse
import contextlib
import os
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass

from benchmarks import echo
from benchmarks.harness import BUILD, Lab, Options, Peer, PeerFailed, checked, progress
from benchmarks.tables import table


@dataclass(frozen=True)
class Side:
    """A server that takes part."""

    label: str
    peer: Peer
    folder: str

    @classmethod
    def parse(cls, word: str) -> "Side":
        folder, _, name = word.rpartition("=")
        for peer in echo.PEERS:
            if peer.name == name:
                return cls(word, peer, folder and os.path.abspath(folder))
        known = ", ".join(peer.name for peer in echo.PEERS)
        raise argparse.ArgumentTypeError(f"no server {name!r}; there are {known}")

    def command(self, lab: Lab) -> list[str]:
        command = echo.server_command(lab, self.peer)
        return ["env", f"PYTHONPATH={self.folder}", *command] if self.folder else command


def medians(lab: Lab, sides: list[Side], client: list[str]) -> list[tuple[float, float]]:
    """Of one start of all of them: each one's CPU time per request in microseconds, and the median
    of its differences from the first one's."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(lab.server(side.command(lab))) for side in sides]
        words = [f"{port}:{pid}" for pid, port in servers]
        lines = checked([*client, *words], lab.client_core).splitlines()
    rounds: dict[int, dict[int, float]] = defaultdict(dict)
    for line in lines:
        number, side, cost = line.split()
        rounds[int(number)][int(side)] = float(cost)
    return [
        (
            statistics.median(costs[i] for costs in rounds.values()),
            statistics.median(costs[i] - costs[0] for costs in rounds.values()),
        )
        for i in range(len(sides))
    ]


def row(
    label: str, starts: list[tuple[float, float]], first: list[tuple[float, float]]
) -> list[str]:
    cost = statistics.mean(cost for cost, _ in starts)
    ratio = statistics.mean(own[0] / other[0] for own, other in zip(starts, first, strict=True))
    more = [more * 1000 for _, more in starts]
    error = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else 0.0
    return [label, f"{cost:.2f}", f"{ratio:.3f}", f"{statistics.mean(more):+.0f} +- {error:.0f}"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns")
    parser.add_argument("servers", nargs="+", type=Side.parse, metavar="[DIR=]SERVER")
    parser.add_argument("--conns", type=int, default=10, metavar="N")
    parser.add_argument("--size", type=int, default=1024, metavar="BYTES")
    parser.add_argument("--starts", type=int, default=6, metavar="N")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="in each start")
    parser.add_argument("--sleep", action="store_true", help="the client sleeps while it waits")
    arguments = parser.parse_args()
    lab = Lab(Options())
    client = [str(BUILD / "turns_client"), "--conns", str(arguments.conns)]
    client += ["--size", str(arguments.size), "--rounds", str(arguments.rounds)]
    client += ["--sleep"] if arguments.sleep else []
    starts = []
    try:
        for number in range(arguments.starts):
            progress(f"start {number + 1} of {arguments.starts}")
            starts.append(medians(lab, arguments.servers, client))
    except PeerFailed as error:
        print(error, file=sys.stderr)
        return 1
    progress("")
    by_side = [list(side) for side in zip(*starts, strict=True)]
    rows = [
        row(side.label, found, by_side[0])
        for side, found in zip(arguments.servers, by_side, strict=True)
    ]
    print("\n".join(table(["server", "us", "of the first", "more, ns"], rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
