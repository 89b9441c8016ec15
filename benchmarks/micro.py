"""Micro-benchmarks: what one switch, one task, one message, one callback costs."""

from benchmarks.harness import Lab, Peer
from benchmarks.samples import Sample

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
    "timer": ASYNCIO_ONLY,
    "threadsafe": ASYNCIO_ONLY,
    "wakeup": ASYNCIO_ONLY,
    "connect": tuple(peer for peer in BOTH_FACES if peer.name not in ("textbook", "curio")),
}


def run(lab: Lab) -> None:
    seconds = 0.1 if lab.options.quick else 0.2
    for bench, peers in BENCHES.items():

        def take(peer: Peer, bench: str = bench) -> Sample:
            answer = lab.child(peer.library, "benchmarks.workloads", peer.name, bench, seconds)
            load = 1 - answer["cpu_ns"] / answer["elapsed_ns"]
            return Sample(answer["ns"], max(0.0, load), answer)

        lab.compare("micro", bench, "ns", lab.available(peers), take)
