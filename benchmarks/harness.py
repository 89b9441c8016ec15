"""What every suite needs: processes on their cores, calibration, interleaved rounds, results.

A *bench* is one piece of work, a *peer* one way to do it.  ``Lab.compare`` measures each peer of a
bench once per round, each time in a fresh process, the peers in turn and each round starting with
another one.  A measurement stands between two readings of a calibration loop; when they disagree,
or something else had the core, it is taken again, a bounded number of times, and what is
still disturbed then is counted in the report.
"""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.samples import Reading, Result, Sample, best_sample, disturbance

ROOT = Path(__file__).resolve().parent.parent
LIMIT = ROOT / "benchmarks" / "limit"
BUILD = LIMIT / "build"

CALIBRATION_MS = 40
# The reading before a measurement is the one after the last, when that is no older than this.
CALIBRATION_AGE_S = 0.3
REPEATS = 3
# Before a repetition: wait until the cores have been idle for so long, but not for ever.
QUIET_S = 0.3
PATIENCE_S = 20.0
CHILD_TIMEOUT_S = 120

# Python children get the checkout *last* on their path: an installed pyloop is preferred to the
# source directory, which has no built extension unless the install was an editable one.
BOOT = (
    "import runpy, sys; sys.path.append(sys.argv[1]); del sys.argv[:2]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
VERSION = (
    "import importlib, importlib.metadata, platform, sys; importlib.import_module(sys.argv[1]); "
    "name = sys.argv[1]; "
    "print(platform.python_version() if name in sys.stdlib_module_names "
    "else importlib.metadata.version(name))"
)


@dataclass(frozen=True)
class Options:
    rounds: int = 5
    quick: bool = False
    seconds: float = 1.0
    # Empty: the suite's own choice.
    conns: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    clients: tuple[str, ...] = ()
    # Seconds that all repetitions of disturbed measurements may take together.
    patience: float = 300.0
    only: str = ""
    peers: str = ""
    pythons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """One way to do a bench's work: its name in the tables, and the library that it needs."""

    name: str
    library: str
    in_quick: bool = True


class PeerFailed(RuntimeError):
    """A peer's process ended with an error; the message holds what it said."""


class Lab:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.results: list[Result] = []
        self.failures: list[str] = []
        self.versions: dict[str, str] = {}
        self.readings: list[Reading] = []
        self.repeat_budget_s = options.patience
        self.started = time.monotonic()
        self._last_reading: tuple[float, Reading] | None = None
        cores = sorted(os.sched_getaffinity(0))
        self.server_core = cores[0]
        self.client_core = cores[1] if len(cores) > 1 else cores[0]
        build_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def python(self, library: str) -> str:
        return self.options.pythons.get(library, sys.executable)

    def command(self, library: str, module: str, *args: object) -> list[str]:
        boot = [self.python(library), "-P", "-c", BOOT, str(ROOT), module]
        return boot + [str(arg) for arg in args]

    def child(self, library: str, module: str, *args: object) -> dict[str, Any]:
        """Run one of our modules under ``library``'s interpreter on the server's core."""
        return run_json(self.command(library, module, *args), self.server_core)

    def available(self, peers: Sequence[Peer]) -> list[Peer]:
        """The peers that are wanted and installed; the others are named once on stderr."""
        wanted = [
            peer
            for peer in peers
            if re.search(self.options.peers, peer.name)
            and (peer.in_quick or not self.options.quick)
        ]
        return [peer for peer in wanted if self._version(peer.library)]

    def _version(self, library: str) -> str:
        if library in ("c", "textbook"):
            return "own"
        if library not in self.versions:
            command = [self.python(library), "-P", "-c", VERSION, library]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.versions[library] = done.stdout.strip()
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                note(f"without {library}: {reason}")
        return self.versions[library]

    def compare(
        self,
        suite: str,
        bench: str,
        unit: str,
        peers: Sequence[Peer],
        take: Callable[[Peer], Sample],
        *,
        rounds: int | None = None,
        timed: bool = True,
    ) -> None:
        """Measure all peers in interleaved rounds.  A peer that fails is left out and reported."""
        if not re.search(self.options.only, f"{suite} {bench}"):
            return
        rounds = rounds or self.options.rounds
        results = {peer.name: Result(suite, bench, peer.name, unit) for peer in peers}
        running = list(peers)
        try:
            for turn in range(rounds):
                start = turn % max(1, len(running))
                for peer in running[start:] + running[:start]:
                    minutes = (time.monotonic() - self.started) / 60
                    progress(
                        f"{minutes:4.1f} min  {suite} {bench}: round {turn + 1}/{rounds}, "
                        f"{peer.name}"
                    )
                    try:
                        sample = self._undisturbed(peer, take) if timed else take(peer)
                    except PeerFailed as error:
                        running.remove(peer)
                        self.failures.append(f"{bench}, {peer.name}: {error}")
                        note(self.failures[-1])
                    else:
                        results[peer.name].samples.append(sample)
        finally:
            # Also when interrupted: the rounds that there were.
            measured = [results[peer.name] for peer in running]
            self.results += [result for result in measured if result.samples]
            progress("")

    def _undisturbed(self, peer: Peer, take: Callable[[Peer], Sample]) -> Sample:
        """The first undisturbed sample; failing that the one with which others interfered least."""
        samples: list[Sample] = []
        for repeats in range(REPEATS + 1):
            started = time.monotonic()
            if repeats:
                if self.repeat_budget_s <= 0:
                    break
                wait_for_quiet()
            before = self._calibrate(fresh=False)
            sample = take(peer)
            after = self._calibrate(fresh=True)
            if repeats:
                self.repeat_budget_s -= time.monotonic() - started
            sample.repeats = repeats
            sample.disturbed = disturbance(before, after, sample.load, self.readings)
            samples.append(sample)
            if not sample.disturbed:
                break
        return best_sample(samples)

    def _calibrate(self, *, fresh: bool) -> Reading:
        now = time.monotonic()
        if not fresh and self._last_reading and now - self._last_reading[0] < CALIBRATION_AGE_S:
            return self._last_reading[1]
        command = [str(BUILD / "calibrate"), str(CALIBRATION_MS)]
        done = checked(command, self.server_core)
        kernel, user = (float(word) for word in done.split())
        self.readings.append((kernel, user))
        self._last_reading = (time.monotonic(), (kernel, user))
        return kernel, user

    @contextlib.contextmanager
    def server(self, command: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Start a server that says ``PORT n`` or ends its first line in ``:n``; gives its process
        id and port."""
        with (
            tempfile.TemporaryFile("w+") as complaints,
            process(command, self.server_core, stderr=complaints) as popen,
        ):
            try:
                line = read_line(popen).strip()
                port = re.search(r"(?:PORT |:)(\d+)$", line)
                if port is None:
                    raise PeerFailed(f"said {line!r} instead of its port")
                yield popen.pid, int(port[1])
            except PeerFailed as error:
                complaints.seek(0)
                said = last_lines(complaints.read())
                raise PeerFailed(f"{error}; the server said: {said or 'nothing'}") from None


def build_limit() -> None:
    subprocess.run(["make", "-s", "-C", str(LIMIT)], check=True)


def busy_ticks() -> int:
    """Clock ticks that all cores have spent on anything, the hypervisor's theft included."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) for word in words[:8])
    return user + nice + system + irq + softirq + steal


def wait_for_quiet() -> None:
    """Return when the machine is a tenth busy at most, or patience has run out."""
    allowed = 0.1 * QUIET_S * os.sysconf("SC_CLK_TCK")
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        before = busy_ticks()
        time.sleep(QUIET_S)
        if busy_ticks() - before <= allowed:
            return


def on_core(core: int) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, {core})


def checked(command: Sequence[str], core: int) -> str:
    """What the command printed; PeerFailed with the end of its complaints when it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_TIMEOUT_S,
            preexec_fn=on_core(core),
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"took more than {CHILD_TIMEOUT_S} s") from None
    if done.returncode:
        raise PeerFailed(f"exit status {done.returncode}: {last_lines(done.stderr)}")
    return done.stdout


def last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:])


def run_json(command: Sequence[str], core: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(checked(command, core))
    return answer


@contextlib.contextmanager
def process(
    command: Sequence[str], core: int, stderr: IO[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes for its standard input and output, ended at the end of the block."""
    popen = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=on_core(core),
    )
    try:
        yield popen
    finally:
        popen.terminate()
        try:
            popen.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.communicate()


def read_line(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    line = popen.stdout.readline()
    if not line:
        raise PeerFailed(f"the process ended with status {popen.wait()}")
    return line


def tell(popen: subprocess.Popen[str], line: str) -> None:
    assert popen.stdin is not None
    popen.stdin.write(line + "\n")
    popen.stdin.flush()


def progress(text: str) -> None:
    """Say on stderr what is going on: one line that is written over, or one line per round."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def note(text: str) -> None:
    progress("")
    print(text, file=sys.stderr, flush=True)
