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


# With both kinds of load client: README.md says what the difference is.
ECHOES = tuple(
    f"1 KiB x {conns}, {client} client" for client in ("polling", "sleeping") for conns in (10, 100)
)

COROUTINES = (
    Target("switch", "pyloop", 1 / 4, ("uvloop",)),
    Target("spawn", "pyloop", 1 / 6, ("uvloop",)),
    Target("channel", "pyloop", 1 / 6, ("uvloop",)),
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
    Target("switch", "pyloop asyncio", 0.85, ("uvloop", "rloop")),
    Target("spawn", "pyloop asyncio", 0.85, ("uvloop", "rloop")),
    Target("call_soon", "pyloop asyncio", 0.90, ("rloop",)),
    Target("call_later", "pyloop asyncio", 0.90, ("rloop",)),
    Target("threadsafe", "pyloop asyncio", 0.90, ("rloop",)),
    Target("system calls", "pyloop protocol", 3),
    Target("system calls", "pyloop streams", 3),
    Target("system calls", "pyloop sock", 4),
    Target("per connection", "pyloop protocol", 1.5),
)

TARGETS = {"coroutine face": COROUTINES, "asyncio face": ASYNCIO}
