"""Micro-benchmarks: what one switch, one task, one message, one callback costs."""

from benchmarks.harness import Lab, Peer, Sample

OWN = Peer("pyloop", "pyloop")
OWN_ASYNCIO = Peer("pyloop asyncio", "pyloop")
TEXTBOOK = Peer("textbook", "textbook")
LOOPS = (Peer("uvloop", "uvloop"), Peer("rloop", "rloop"), Peer("asyncio", "asyncio"))
OTHERS = (Peer("trio", "trio", in_quick=False), Peer("curio", "curio", in_quick=False))

BOTH_FACES = (OWN, *LOOPS, OWN_ASYNCIO, TEXTBOOK, *OTHERS)
ASYNCIO_ONLY = (OWN_ASYNCIO, *LOOPS)

BENCHES: dict[str, tuple[Peer, ...]] = {
    "switch": BOTH_FACES,
    "spawn": BOTH_FACES,
    "spawn_join": tuple(peer for peer in BOTH_FACES if peer is not TEXTBOOK),
    "channel": BOTH_FACES,
    "pingpong": BOTH_FACES,
    "call_soon": ASYNCIO_ONLY,
    "call_later": ASYNCIO_ONLY,
    "threadsafe": ASYNCIO_ONLY,
}

MEANING = {
    "switch": "one switch among 100 tasks: pause(), or sleep(0)",
    "spawn": "an empty coroutine started, run and ended, 1,000 at a time: spawn() and one pause(), "
    "or create_task() and gather()",
    "spawn_join": "the same, and each task awaited by itself",
    "channel": "one message between two tasks: Channel(), Queue(1), memory channel of size 0",
    "pingpong": "1 KiB there and back over a socket pair, both ends in one loop",
    "call_soon": "one call_soon() and its callback, 1,000 in each turn",
    "call_later": "one call_later() and its cancel()",
    "threadsafe": "one call_soon_threadsafe() in the loop's own thread, and its callback",
}


def run(lab: Lab) -> None:
    seconds = 0.2 if lab.options.quick else 0.3
    for bench, peers in BENCHES.items():

        def take(peer: Peer, bench: str = bench) -> Sample:
            answer = lab.child(peer.library, "benchmarks.workloads", peer.name, bench, seconds)
            load = 1 - answer["cpu_ns"] / answer["elapsed_ns"]
            return Sample(answer["ns"], max(0.0, load), answer)

        lab.compare("micro", bench, "ns", lab.available(peers), take)
