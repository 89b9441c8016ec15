"""Echo over TCP, TLS and UDP: the server's CPU time per request under load, and its system calls
when idle; and what a connection for one message costs.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness import (
    BUILD,
    Lab,
    Options,
    Peer,
    PeerFailed,
    note,
    process,
    progress,
    read_line,
    run_json,
    tell,
)
from benchmarks.samples import Sample

ASYNCIO_FACES = ("sock", "protocol", "buffered", "streams")
LOOPS = ("pyloop", "uvloop", "rloop", "asyncio")
PEERS = (
    Peer("c-epoll", "c"),
    Peer("pyloop coroutine", "pyloop"),
    Peer("pyloop trap", "pyloop"),
    *[Peer(f"{library} {face}", library) for face in ASYNCIO_FACES for library in LOOPS],
    Peer("textbook", "textbook"),
    Peer("trio", "trio", in_quick=False),
    Peer("curio", "curio", in_quick=False),
    Peer("gevent", "gevent", in_quick=False),
)
# For the sizes and numbers of connections beside the usual ones.
FEWER = (
    "c-epoll",
    "pyloop coroutine",
    *[f"{library} {face}" for face in ("protocol", "streams") for library in ("pyloop", "uvloop")],
    "rloop protocol",
    "asyncio protocol",
)
# Beside the sleeping client: those that a target names.
SLEEPING = tuple(
    peer.name
    for peer in PEERS
    if peer.name not in ("pyloop trap", "textbook", "trio", "gevent")
    and not peer.name.startswith("asyncio")
)
# Not rloop: it has no TLS.
TLS_PEERS = tuple(Peer(f"{library} tls", library) for library in ("pyloop", "uvloop", "asyncio"))
# uvloop has no sock_recvfrom.
UDP_PEERS = (
    Peer("c-udp", "c"),
    Peer("pyloop coroutine udp", "pyloop"),
    *[Peer(f"{library} udp", library) for library in LOOPS],
    *[Peer(f"{library} sock udp", library) for library in ("pyloop", "asyncio")],
    Peer("trio udp", "trio", in_quick=False),
)
# Accepting is the server's own loop in some, create_server's in others.
CHURN_PEERS = tuple(
    peer
    for peer in PEERS
    if peer.name in (*FEWER, "pyloop sock", "uvloop sock", "rloop sock", "asyncio sock", "textbook")
)

UDP_SIZE = 512
ATTEMPTS = 5
PACED_REQUESTS = 200
PACE_MS = 5


@dataclass(frozen=True)
class Case:
    """One bench: what travels, how, and on how many connections at a time."""

    size: int
    conns: int
    client: str
    kind: str = "tcp"  # or "tls", "udp", or "churn": TCP with one message per connection
    only: tuple[str, ...] = ()  # the peers; empty: all

    @property
    def name(self) -> str:
        prefix = {"tcp": "", "tls": "TLS, ", "udp": "UDP, ", "churn": "connections, "}[self.kind]
        return f"{prefix}{size_name(self.size)} x {self.conns}, {self.client} client"

    @property
    def peers(self) -> tuple[Peer, ...]:
        if self.kind != "tcp":
            return {"tls": TLS_PEERS, "udp": UDP_PEERS, "churn": CHURN_PEERS}[self.kind]
        return tuple(peer for peer in PEERS if not self.only or peer.name in self.only)


def cases(options: Options) -> Iterator[Case]:
    """The options' product of sizes, connections and clients; without any, a usual choice."""
    if options.quick or options.sizes or options.conns or options.clients:
        product = itertools.product(
            options.sizes or (1024,), options.conns or (10,), options.clients or ("polling",)
        )
        for size, conns, client in product:
            yield Case(size, conns, client)
            yield Case(size, conns, client, "tls")
    else:
        yield Case(1024, 10, "polling")
        yield Case(1024, 100, "polling")
        yield Case(1024, 10, "sleeping", only=SLEEPING)
        for size, conns in ((1024, 1), (1024, 1000), (10240, 10), (102400, 10)):
            yield Case(size, conns, "polling", only=FEWER)
        yield Case(1024, 10, "polling", "tls")
    yield Case(UDP_SIZE, 10, "polling", "udp")
    yield Case(UDP_SIZE, 10, "polling", "churn")


def server_command(lab: Lab, peer: Peer) -> list[str]:
    if peer.library == "c":
        return [str(BUILD / peer.name.replace("c-", "echo_"))]
    return lab.command(peer.library, "benchmarks.servers", peer.name)


def client_command(mode: str, port: int, *args: object) -> list[str]:
    command = [str(BUILD / "echo_client"), mode, "--port", str(port)]
    return command + [str(arg) for arg in args]


def size_name(size: int) -> str:
    return f"{size // 1024} KiB" if size % 1024 == 0 else f"{size} B"


def under_load(lab: Lab, peer: Peer, case: Case) -> Sample:
    """One measurement; another one where others kept both sides from answering anything."""
    for _ in range(ATTEMPTS):
        sample = attempt(lab, peer, case)
        if sample.value > 0:
            return sample
    raise PeerFailed(f"answered nothing in {ATTEMPTS} attempts")


def attempt(lab: Lab, peer: Peer, case: Case) -> Sample:
    with lab.server(server_command(lab, peer)) as (pid, port):
        command = client_command("load", port, "--pid", pid, "--conns", case.conns)
        command += ["--size", str(case.size), "--seconds", str(lab.options.seconds)]
        command += ["--poll"] if case.client == "polling" else []
        command += [f"--{case.kind}"] if case.kind != "tcp" else []
        answer = run_json(command, lab.client_core)
    load = max(answer["server_delay"], answer["client_delay"])
    return Sample(answer["server_us"], load, answer)


def system_calls(lab: Lab, peer: Peer) -> Sample:
    """Calls per request of a server that has gone to sleep before each of them."""
    client_options = ("--count", PACED_REQUESTS, "--gap-ms", PACE_MS, "--size", 1024)
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
    for case in cases(lab.options):
        if case.kind == "tls" and not (BUILD / "cert.pem").exists():
            note("without TLS: OpenSSL's command or headers are not installed")
            continue

        def take(peer: Peer, case: Case = case) -> Sample:
            return under_load(lab, peer, case)

        lab.compare("echo", case.name, "us", lab.available(case.peers), take)
    count_system_calls(lab, lab.available(PEERS))


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
