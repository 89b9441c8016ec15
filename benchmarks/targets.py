"""What pyloop must reach: the one table of targets.

A target compares ``peer`` with the fastest of ``beside`` in the same bench of the same run, or,
where ``beside`` is empty, with an absolute figure in the bench's unit.  ``limit`` is inclusive.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    bench: str
    peer: str
    limit: float
    beside: tuple[str, ...] = ()
    # Where the peers beside are looked up, if not in the same bench.
    other_bench: str = ""


# README.md says what the difference between the clients is.
ECHOES = (
    "1 KiB x 10, polling client",
    "1 KiB x 100, polling client",
    "1 KiB x 10, sleeping client",
    "1 KiB x 100, sleeping client",
)
UDP = "UDP, 512 B x 10, polling client"

COROUTINES = (
    Target("switch", "pyloop", 0.25, ("uvloop",)),
    Target("spawn", "pyloop", 0.17, ("uvloop",)),
    Target("channel", "pyloop", 0.17, ("uvloop",)),
    Target("channel", "pyloop", 0.50, ("textbook",)),
    Target("pingpong", "pyloop", 0.27, ("uvloop",)),
    Target("pingpong", "pyloop", 0.50, ("rloop",)),
    *[
        Target(echo, "pyloop coroutine", limit, (peer,))
        for echo in ECHOES
        for peer, limit in (("c-epoll", 1.15), ("uvloop sock", 0.30), ("curio", 0.50))
    ],
    Target("system calls", "pyloop coroutine", 3),
    Target("per connection", "pyloop coroutine", 2.5),
)


def ahead(face: str, of_uvloop: float) -> tuple[Target, ...]:
    return tuple(
        Target(echo, f"pyloop {face}", limit, (f"{peer} {face}",))
        for echo in ECHOES
        for peer, limit in (("uvloop", of_uvloop), ("rloop", 1.0))
    )


ASYNCIO = (
    *ahead("protocol", 0.88),
    *ahead("buffered", 0.85),
    *ahead("streams", 0.88),
    *ahead("sock", 0.40),
    Target(UDP, "pyloop udp", 0.70, ("uvloop udp",)),
    Target("switch", "pyloop asyncio", 0.85, ("uvloop", "rloop")),
    Target("spawn", "pyloop asyncio", 0.85, ("uvloop", "rloop")),
    *[
        Target(bench, "pyloop asyncio", 0.90, ("rloop",))
        for bench in ("call_soon", "call_later", "threadsafe", "wakeup", "connect")
    ],
    Target("run_until_complete(noop)", "pyloop asyncio", 1.0, ("asyncio",)),
    Target("system calls", "pyloop protocol", 3),
    Target("system calls", "pyloop streams", 3),
    Target("system calls", "pyloop sock", 4),
    Target("per connection", "pyloop protocol", 1.5),
    Target("per connection", "pyloop tls", 60),
)

SELECTOR = tuple(
    Target(bench, "pyloop", 0.50, ("EpollSelector",))
    for bench in (
        "register + unregister",
        "modify events",
        "select, 1 ready",
        "select, 100 ready",
        "select, 1000 ready",
    )
)

SIZE = (
    Target("import", "pyloop", 2.0),
    Target("size of the extension", "pyloop", 500_000 / 1024),
)


def flat(kind: str, peer: str, counts: tuple[str, ...]) -> tuple[Target, ...]:
    """Each step's cost per unit beside that of the first."""
    first, *others = (f"{kind}, N = {count}" for count in counts)
    return tuple(Target(bench, peer, 1.3, (peer,), first) for bench in others)


COUNTS = ("1", "100", "10,000", "100,000")
CONNECTIONS = ("10", "100", "1,000", "10,000")
FLAT = (
    *flat("tasks", "pyloop", COUNTS),
    *flat("timers", "pyloop asyncio", COUNTS),
    *flat("connections", "pyloop coroutine", CONNECTIONS),
    *flat("connections", "pyloop protocol", CONNECTIONS),
)

TARGETS = {
    "coroutine face": COROUTINES,
    "asyncio face": ASYNCIO,
    "selector": SELECTOR,
    "start-up and size": SIZE,
    "cost as work grows": FLAT,
}
