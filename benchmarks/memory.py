"""Resident memory per idle connection, and per task that waits.

Both are slopes: what is there before the first measured one (the interpreter, the libraries, and
whatever a loop keeps for its first connections) does not count.
"""

import asyncio
import gc
import importlib
import json
import sys
from pathlib import Path

from benchmarks import echo
from benchmarks.harness import BUILD, Lab, Peer, process, read_line, tell
from benchmarks.samples import Sample
from benchmarks.workloads import run_asyncio

WARM_CONNECTIONS, CONNECTIONS = 500, 3000
QUICK_CONNECTIONS = 2000
ROUNDS = 3  # they hardly differ
WARM_TASKS, TASKS = 1000, 20000

CONNECTION_PEERS = (*echo.PEERS, *echo.TLS_PEERS)
TLS_CONNECTIONS = 500  # a handshake costs a millisecond
TASK_PEERS = (
    Peer("pyloop", "pyloop"),
    Peer("pyloop asyncio", "pyloop"),
    Peer("uvloop", "uvloop"),
    Peer("rloop", "rloop"),
    Peer("asyncio", "asyncio"),
    Peer("trio", "trio", in_quick=False),
    Peer("curio", "curio", in_quick=False),
)


def resident_kib(pid: int | str) -> int:
    """Of smaps_rollup, which is exact; VmRSS in /proc/PID/status lags behind by some pages."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no Rss")


def per_connection(lab: Lab, peer: Peer) -> Sample:
    is_tls = peer in echo.TLS_PEERS
    count = QUICK_CONNECTIONS if lab.options.quick else CONNECTIONS
    warm = WARM_CONNECTIONS
    if is_tls:
        count = warm = TLS_CONNECTIONS
    with lab.server(echo.server_command(lab, peer)) as (pid, port):
        command = echo.client_command("idle", port, "--size", 1024)
        command += ["--tls"] if is_tls else []
        with process(command, lab.client_core) as client:
            tell(client, str(warm))
            read_line(client)
            before = resident_kib(pid)
            tell(client, str(count))
            read_line(client)
            after = resident_kib(pid)
    detail = {"before_kib": before, "after_kib": after, "connections": count}
    return Sample((after - before) / count, detail=detail)


def per_task(lab: Lab, peer: Peer) -> Sample:
    answer = lab.child(peer.library, "benchmarks.memory", peer.name)
    return Sample((answer["after_kib"] - answer["before_kib"]) / answer["tasks"], detail=answer)


def run(lab: Lab) -> None:
    peers = lab.available(CONNECTION_PEERS)
    if not (BUILD / "cert.pem").exists():
        peers = [peer for peer in peers if peer not in echo.TLS_PEERS]
    lab.compare(
        "memory",
        "per connection",
        "KiB",
        peers,
        lambda peer: per_connection(lab, peer),
        timed=False,
        rounds=min(ROUNDS, lab.options.rounds),
    )
    lab.compare(
        "memory",
        "per task",
        "KiB",
        lab.available(TASK_PEERS),
        lambda peer: per_task(lab, peer),
        timed=False,
        rounds=min(ROUNDS, lab.options.rounds),
    )


# What follows runs in the peer's own process: start tasks that sleep, measure, end at once.


def report(before: int) -> None:
    gc.collect()
    answer = {"before_kib": before, "after_kib": resident_kib("self"), "tasks": TASKS}
    json.dump(answer, sys.stdout)


def measured_at() -> int:
    gc.collect()
    return resident_kib("self")


async def pyloop_tasks() -> None:
    pyloop = importlib.import_module("pyloop")

    async def idle() -> None:
        await pyloop.sleep(3600)

    tasks = [await pyloop.spawn(idle()) for _ in range(WARM_TASKS)]
    await pyloop.pause()
    before = measured_at()
    tasks += [await pyloop.spawn(idle()) for _ in range(TASKS)]
    await pyloop.pause()
    report(before)
    for task in tasks:
        task.cancel()


async def asyncio_tasks() -> None:
    async def idle() -> None:
        await asyncio.sleep(3600)

    tasks = [asyncio.create_task(idle()) for _ in range(WARM_TASKS)]
    await asyncio.sleep(0)
    before = measured_at()
    tasks += [asyncio.create_task(idle()) for _ in range(TASKS)]
    await asyncio.sleep(0)
    report(before)
    for task in tasks:
        task.cancel()


async def trio_tasks() -> None:
    trio = importlib.import_module("trio")
    async with trio.open_nursery() as nursery:
        for _ in range(WARM_TASKS):
            nursery.start_soon(trio.sleep, 3600)
        await trio.testing.wait_all_tasks_blocked()
        before = measured_at()
        for _ in range(TASKS):
            nursery.start_soon(trio.sleep, 3600)
        await trio.testing.wait_all_tasks_blocked()
        report(before)
        nursery.cancel_scope.cancel()


async def curio_tasks() -> None:
    curio = importlib.import_module("curio")
    tasks = [await curio.spawn(curio.sleep, 3600) for _ in range(WARM_TASKS)]
    await curio.sleep(0)
    before = measured_at()
    tasks += [await curio.spawn(curio.sleep, 3600) for _ in range(TASKS)]
    await curio.sleep(0)
    report(before)
    for task in tasks:
        await task.cancel()


def main(peer: str) -> None:
    if peer == "pyloop":
        importlib.import_module("pyloop").run(pyloop_tasks())
    elif peer == "trio":
        importlib.import_module("trio.testing")
        importlib.import_module("trio").run(trio_tasks)
    elif peer == "curio":
        importlib.import_module("curio").run(curio_tasks)
    else:
        run_asyncio(peer.removesuffix(" asyncio"), asyncio_tasks())


if __name__ == "__main__":
    main(sys.argv[1])
