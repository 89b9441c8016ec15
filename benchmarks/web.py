"""HTTP: uvicorn and aiohttp on each loop, under wrk; skipped where wrk is not installed."""

import re
import shutil
import time
from pathlib import Path

from benchmarks.harness import Lab, Peer, PeerFailed, checked, note
from benchmarks.samples import Sample

LOOPS = ("pyloop", "uvloop", "rloop", "asyncio")
FRAMEWORKS = ("uvicorn", "aiohttp")
CONNECTIONS = 64


def run(lab: Lab) -> None:
    if shutil.which("wrk") is None:
        note("without HTTP: wrk is not installed")
        return
    for framework in FRAMEWORKS:
        if not lab.available([Peer("", framework)]):
            continue
        peers = lab.available([Peer(loop, loop) for loop in LOOPS])
        bench = f"{framework} x {CONNECTIONS}"

        def take(peer: Peer, framework: str = framework) -> Sample:
            return under_wrk(lab, peer, framework)

        lab.compare("http", bench, "us", peers, take)


def under_wrk(lab: Lab, peer: Peer, framework: str) -> Sample:
    command = lab.command(peer.library, "benchmarks.web_servers", peer.name, framework)
    with lab.server(command) as (pid, port):
        before = schedule(pid)
        start = time.monotonic()
        answer = parse_wrk(wrk(lab, port, lab.options.seconds))
        seconds = time.monotonic() - start
        after = schedule(pid)
    if answer["errors"]:
        raise PeerFailed(f"{answer['errors']:.0f} of wrk's requests failed")
    cpu_us = (after[0] - before[0]) / 1e3 / answer["requests"]
    return Sample(cpu_us, (after[1] - before[1]) / 1e9 / seconds, answer)


def wrk(lab: Lab, port: int, seconds: float) -> str:
    # wrk counts whole seconds.
    duration = f"{max(1, round(seconds))}s"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}", "--latency"]
    return checked([*command, f"http://127.0.0.1:{port}/"], lab.client_core)


def parse_wrk(text: str) -> dict[str, float]:
    """Requests, requests_per_s, p99_us and the number of errors in what wrk printed."""

    def number(pattern: str) -> float:
        found = re.search(pattern, text)
        return float(found[1]) if found else 0.0

    requests = number(r"(\d+) requests in")
    latency = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if not requests or latency is None:
        raise PeerFailed(f"wrk said {text[-200:]!r}")
    socket_errors = re.search(r"Socket errors: (.*)", text)
    errors = number(r"Non-2xx or 3xx responses: (\d+)")
    if socket_errors:
        errors += sum(int(count) for count in re.findall(r"\d+", socket_errors[1]))
    return {
        "requests": requests,
        "requests_per_s": number(r"Requests/sec:\s+([\d.]+)"),
        "p99_us": float(latency[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[latency[2]],
        "errors": errors,
    }


def schedule(pid: int) -> tuple[int, int]:
    """Nanoseconds on a core, and ready but without one, of all threads of a process."""
    run_ns = delay_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        words = path.read_text().split()
        run_ns += int(words[0])
        delay_ns += int(words[1])
    return run_ns, delay_ns
