"""TCP echo: the server's CPU time per request under load, and its system calls when idle.

The server has one core and the load client another.  What is compared is the CPU time that the
kernel accounts to the server between two moments, divided by the requests answered in between:
requests per second would say what the client can do as soon as the server is the faster one.
"""

import itertools
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence

from benchmarks.harness import (
    BUILD,
    Lab,
    Peer,
    PeerFailed,
    Sample,
    note,
    process,
    progress,
    read_line,
    run_json,
    tell,
)

ASYNCIO_FACES = ("sock", "protocol", "buffered", "streams")
PEERS = (
    Peer("c-epoll", "c"),
    Peer("pyloop coroutine", "pyloop"),
    Peer("pyloop trap", "pyloop"),
    *[
        Peer(f"{library} {face}", library)
        for face in ASYNCIO_FACES
        for library in ("pyloop", "uvloop", "rloop", "asyncio")
    ],
    Peer("textbook", "textbook"),
    Peer("trio", "trio", in_quick=False),
    Peer("curio", "curio", in_quick=False),
    Peer("gevent", "gevent", in_quick=False),
)

PACED_REQUESTS = 200
PACE_MS = 5


def server_command(lab: Lab, peer: Peer) -> list[str]:
    if peer.name == "c-epoll":
        return [str(BUILD / "echo_epoll")]
    return lab.command(peer.library, "benchmarks.servers", peer.name)


def client_command(mode: str, port: int, *args: object) -> list[str]:
    command = [str(BUILD / "echo_client"), mode, "--port", str(port)]
    return command + [str(arg) for arg in args]


def size_name(size: int) -> str:
    return f"{size // 1024} KiB" if size % 1024 == 0 else f"{size} B"


def bench_name(size: int, conns: int, client: str) -> str:
    return f"{size_name(size)} x {conns}, {client} client"


def under_load(lab: Lab, peer: Peer, conns: int, client: str) -> Sample:
    options = lab.options
    with lab.server(server_command(lab, peer)) as (pid, port):
        command = client_command("load", port, "--pid", pid, "--conns", conns)
        command += ["--size", str(options.size), "--seconds", str(options.seconds)]
        command += ["--poll"] if client == "polling" else []
        answer = run_json(command, lab.client_core)
    load = max(answer["server_delay"], answer["client_delay"])
    return Sample(answer["server_us"], load, answer)


def system_calls(lab: Lab, peer: Peer) -> Sample:
    """Calls per request of a server that has gone to sleep before each of them."""
    client_options = ("--count", PACED_REQUESTS, "--gap-ms", PACE_MS, "--size", lab.options.size)
    with (
        lab.server(server_command(lab, peer)) as (pid, port),
        process(client_command("pace", port, *client_options), lab.client_core) as client,
        tempfile.NamedTemporaryFile("r", suffix=".strace") as counts,
    ):
        read_line(client)
        command = ["strace", "-c", "-f", "-p", str(pid), "-o", counts.name]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            if "attached" not in said:
                raise PeerFailed(f"strace: {said.strip()}")
            tell(client, "go")
            read_line(client)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
        calls = parse_strace(counts.read())
    per_request = {name: count / PACED_REQUESTS for name, count in calls.items()}
    return Sample(sum(per_request.values()), detail={"calls": per_request})


def parse_strace(table: str) -> dict[str, int]:
    """``% time, seconds, usecs/call, calls, [errors,] syscall`` of each row but the total's."""
    row = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)
    return {name: int(count) for count, name in row.findall(table) if name != "total"}


def run(lab: Lab) -> None:
    peers = lab.available(PEERS)
    options = lab.options
    for conns, client in itertools.product(options.conns, options.clients):

        def take(peer: Peer, conns: int = conns, client: str = client) -> Sample:
            return under_load(lab, peer, conns, client)

        lab.compare("echo", bench_name(options.size, conns, client), "us", peers, take)
    count_system_calls(lab, peers)


def count_system_calls(lab: Lab, peers: Sequence[Peer]) -> None:
    if shutil.which("strace") is None:
        note("without system calls per request: strace is not installed")
        return
    progress("system calls per request")
    lab.compare(
        "echo",
        "system calls",
        "calls",
        peers,
        lambda peer: system_calls(lab, peer),
        rounds=1,
        timed=False,
    )
