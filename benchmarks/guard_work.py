"""What the guard counts, in the process that callgrind watches: ``guard_work``.

Each piece of work is run once to warm up and then in two sizes, each between two marks; the guard
takes the difference, in which everything that a run costs once drops out.
"""

import asyncio
import gc
import importlib
import os
from typing import cast

from benchmarks.workloads import (
    MESSAGE,
    Work,
    Workloads,
    asyncio_face,
    coroutine_face,
    pair,
    run_asyncio,
)

OWN = ("switch", "spawn", "spawn_join", "channel", "pingpong")
ASYNCIO = (
    "call_soon",
    "call_later_cancel",
    "sleep_0",
    "create_task",
    "sock_pingpong",
    "protocol_echo",
)
NAMES = (*OWN, *ASYNCIO)
# Multiples of the batches in which the workloads go about their units.
SMALL, LARGE = 1000, 4000


class Echo(asyncio.Protocol):
    """Sends back what it receives until ``count`` messages have come."""

    def __init__(self, count: int, ended: asyncio.Event) -> None:
        self.left = count
        self.ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left > 0:
            self.transport.write(data)
        else:
            self.ended.set()


async def protocol_echo(count: int) -> int:
    """1 KiB back and forth between two protocols: one unit is one message received and sent."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    ends = [
        await loop.connect_accepted_socket(lambda: Echo(count // 2, ended), sock) for sock in pair()
    ]
    ends[0][0].write(MESSAGE)
    await ended.wait()
    for transport, _ in ends:
        transport.close()
    await asyncio.sleep(0)
    return 0


def asyncio_works() -> Workloads:
    """Those of the micro-benchmarks, under the guard's names, and the protocols."""
    works = asyncio_face()
    return {
        "call_soon": works["call_soon"],
        "call_later_cancel": works["call_later"],
        "sleep_0": works["switch"],
        "create_task": works["spawn_join"],
        "sock_pingpong": works["pingpong"],
        "protocol_echo": protocol_echo,
    }


async def count(works: list[Work]) -> None:
    for work in works:
        await work(SMALL)
        for size in (SMALL, LARGE):
            os.getppid()
            await work(size)
        os.getppid()


def main() -> None:
    # How often it runs and what it finds depends on all that was imported.
    gc.disable()
    library = importlib.import_module("pyloop")
    own, theirs = coroutine_face(library), asyncio_works()
    library.run(count([own[name] for name in OWN]))
    run_asyncio("pyloop", count([theirs[name] for name in ASYNCIO]))


if __name__ == "__main__":
    main()
