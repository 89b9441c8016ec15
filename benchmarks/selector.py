"""``python -m benchmarks.selector``: pyloop.Selector beside selectors.EpollSelector.

Both are in this one process and take turns: a round measures every bench on one selector, then
on the other, and what is compared is the median of the rounds.  ``--backend poll`` compares
with selectors.PollSelector.
"""

import argparse
import json
import resource
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pyloop
from benchmarks.harness import Lab, Peer
from benchmarks.samples import Sample

Bench = Callable[[selectors.BaseSelector, int], float]

STDLIB = {"epoll": selectors.EpollSelector, "poll": selectors.PollSelector}


def ready_sockets(stack: ExitStack, n: int) -> list[socket.socket]:
    """`n` sockets with a byte to read."""
    found = []
    for _ in range(n):
        left, right = socket.socketpair()
        stack.enter_context(left)
        stack.enter_context(right)
        right.send(b"x")
        found.append(left)
    return found


def bench_register(socks: list[socket.socket]) -> Bench:
    """Register and unregister one socket while others are registered."""

    def measure(selector: selectors.BaseSelector, n: int) -> float:
        sock = socks[0]
        for other in socks[1:]:
            selector.register(other, selectors.EVENT_READ)
        register, unregister = selector.register, selector.unregister
        start = time.perf_counter()
        for _ in range(n):
            register(sock, 1, None)
            unregister(sock)
        return time.perf_counter() - start

    return measure


def bench_modify(
    socks: list[socket.socket], one: tuple[int, str | None], other: tuple[int, str | None]
) -> Bench:
    """Give one socket these events and data by turns; other data alone are no system call."""

    def measure(selector: selectors.BaseSelector, n: int) -> float:
        sock = socks[0]
        selector.register(sock, selectors.EVENT_READ)
        modify = selector.modify
        events, data = one
        other_events, other_data = other
        start = time.perf_counter()
        for _ in range(n // 2):
            modify(sock, events, data)
            modify(sock, other_events, other_data)
        return time.perf_counter() - start

    return measure


def bench_select(socks: list[socket.socket]) -> Bench:
    """select(0) while all sockets are ready."""

    def measure(selector: selectors.BaseSelector, n: int) -> float:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        select = selector.select
        start = time.perf_counter()
        for _ in range(n):
            select(0)
        return time.perf_counter() - start

    return measure


@contextmanager
def benches(n_calls: int) -> Iterator[dict[str, tuple[Bench, int]]]:
    """Name -> the bench and how many calls make a measurement."""
    with ExitStack() as stack:
        socks = ready_sockets(stack, 1000)
        yield {
            "register + unregister": (bench_register(socks[:10]), n_calls),
            "modify events": (bench_modify(socks[:1], (3, None), (1, None)), n_calls),
            "modify data": (bench_modify(socks[:1], (1, "one"), (1, "two")), n_calls),
            "select, none ready": (bench_select([]), n_calls),
            "select, 1 ready": (bench_select(socks[:1]), n_calls),
            "select, 100 ready": (bench_select(socks[:100]), max(n_calls // 50, 1)),
            "select, 1000 ready": (bench_select(socks), max(n_calls // 500, 1)),
        }


def measure_all(backend: str, rounds: int, n_calls: int) -> dict[str, tuple[float, float]]:
    """Name -> seconds per call of the standard library's selector and of ours."""
    makers: tuple[Callable[[], selectors.BaseSelector], ...] = (
        STDLIB[backend],
        lambda: pyloop.Selector(backend),
    )
    result = {}
    with benches(n_calls) as table:
        for name, (bench, n) in table.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for which, make in enumerate(makers):
                    with make() as selector:
                        times[which].append(bench(selector, n) / n)
            result[name] = (statistics.median(times[0]), statistics.median(times[1]))
    return result


# As peers of the suite.
PEERS = (Peer("pyloop", "pyloop"), Peer("EpollSelector", "pyloop"))
BENCHES = (
    "register + unregister",
    "modify events",
    "modify data",
    "select, none ready",
    "select, 1 ready",
    "select, 100 ready",
    "select, 1000 ready",
)


def run(lab: Lab) -> None:
    """As a suite: each measurement is a process of its own."""
    for bench in BENCHES:

        def take(peer: Peer, bench: str = bench) -> Sample:
            answer = lab.child("pyloop", "benchmarks.selector", "--one", bench, peer.name)
            return Sample(answer["us"])

        lab.compare("selector", bench, "us", lab.available(PEERS), take)


def measure_one(bench: str, peer: str, n_calls: int) -> float:
    """Seconds per call, after a warm-up."""
    make = pyloop.Selector if peer == "pyloop" else selectors.EpollSelector
    with benches(n_calls) as table:
        work, n = table[bench]
        for _ in range(2):
            with make() as selector:
                seconds = work(selector, n) / n
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selector")
    parser.add_argument("--one", nargs=2, metavar=("BENCH", "PEER"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--calls", type=int, default=20000, metavar="N", help="per measurement")
    parser.add_argument("--backend", choices=sorted(STDLIB), default="epoll")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    if arguments.one:
        bench, peer = arguments.one
        json.dump({"us": measure_one(bench, peer, arguments.calls) * 1e6}, sys.stdout)
        return
    peer = STDLIB[arguments.backend].__name__
    print(f"| bench | {peer} us | pyloop us | pyloop / {peer} |")
    print("|---|---:|---:|---:|")
    for name, (theirs, ours) in measure_all(
        arguments.backend, arguments.rounds, arguments.calls
    ).items():
        print(f"| {name} | {theirs * 1e6:.2f} | {ours * 1e6:.2f} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
