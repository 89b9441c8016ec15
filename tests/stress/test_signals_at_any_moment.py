"""SIGINT and SIGTERM at random moments: an end within two seconds, clean, with the right status.

PYLOOP_STRESS_SIGNALS is how many programs are started for it. The moments are those of a random
generator with a fixed seed (PYLOOP_STRESS_SEED); where in the program they are, is chance.
"""

import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path

import pytest
from example_process import LIMIT, Process, Program, Server
from load import seed, size
from test_example_programs import ASK, SERVERS, TCP_SERVERS

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

RUNS = size("PYLOOP_STRESS_SIGNALS", 100)
INTERRUPTS = size("PYLOOP_STRESS_INTERRUPTS", 200)

# The promise of two seconds is for a machine that is idle; more is given to one that is not.
SECONDS = 2.0
SLACK = 4.0

NUMBERS = [signal.SIGINT, signal.SIGTERM]


def wait_for_end(process: Process, started: float) -> tuple[int, bool]:
    """The exit status, and whether it came in time."""
    status = process.wait(SECONDS + SLACK)
    return status, time.monotonic() - started <= SECONDS


@contextmanager
def clients_of(server: Server, name: str, rng: random.Random) -> Iterator[list[socket.socket]]:
    """A few clients who have sent all, half or nothing of a question."""
    clients: list[socket.socket] = []
    try:
        if name in TCP_SERVERS:
            for _ in range(rng.randrange(8)):
                client = socket.create_connection(server.address, timeout=LIMIT)
                clients.append(client)
                question = ASK[name][0]
                client.sendall(question[: rng.randrange(len(question) + 1)])
        yield clients
    finally:
        for client in clients:
            client.close()


def test_servers_with_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 0, nothing on stderr, every connection is closed, the port is free."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed())
    late = 0
    for name in islice(cycle(SERVERS), RUNS * 6 // 10):
        with Server(name, *SERVERS[name]) as server, clients_of(server, name, rng) as clients:
            time.sleep(rng.random() * rng.choice([0, 0.001, 0.01, 0.03]))
            number = rng.choice(NUMBERS)
            started = time.monotonic()
            server.process.send_signal(number)
            status, in_time = wait_for_end(server, started)
            late += not in_time
            assert (status, server.stderr()) == (0, ""), (name, number)
            for client in clients:
                with suppress(ConnectionResetError):  # it had not been read
                    while client.recv(65536):
                        pass
            with pytest.raises(ConnectionRefusedError), socket.socket() as again:
                if name == "udp_hello":
                    again = socket.socket(type=socket.SOCK_DGRAM)
                with again:
                    again.connect(server.address)
                    again.send(b"x")
                    again.recv(1)
    print(f"{late} of {RUNS * 6 // 10} ended later than after {SECONDS} s")
    assert late <= RUNS // 10  # echo_sockets needs 1.5 s of them by itself


def test_programs_that_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first moment on: a start that is broken off says so, and nothing hangs."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed())
    statuses: dict[int, int] = {}
    for name in islice(cycle(SERVERS), RUNS * 2 // 10):
        with Program(name, *SERVERS[name], "--port", "0") as program:
            time.sleep(rng.random() * 0.3)
            number = rng.choice(NUMBERS)
            program.process.send_signal(number)
            status = program.wait(SECONDS + SLACK)
            statuses[status] = statuses.get(status, 0) + 1
            # Until the program has taken over, the signal means what it means to Python.
            if status == 0:
                assert program.stderr() == ""
            else:
                assert status in (-number, 1), program.stderr()
                assert program.stderr() == "" or "KeyboardInterrupt" in program.stderr()
    print(f"statuses: {statuses}")


# What a program does while it waits for the signal. Each has a task of its own beside the root.
WORK = """
async def work(pairs):
    async def echo(sock):
        with counted(), sock:
            while data := await pyloop.recv(sock):
                await pyloop.sendall(sock, data)

    async def ask(sock):
        with counted(), sock:
            while True:
                await pyloop.sendall(sock, b"x" * 100)
                await pyloop.recv(sock)

    async def rest():
        with counted():
            async with pyloop.timeout(1000):
                await asyncio.sleep(1000)

    async def pass_on(channel):
        with counted():
            while True:
                await channel.send(1)

    async def take(channel):
        with counted():
            async for _ in channel:
                await pyloop.pause()

    channel = pyloop.Channel()
    for near, far in pairs:
        for coro in (echo(far), ask(near), rest(), pass_on(channel), take(channel)):
            await start(coro)
    with counted():
        say("running")
        while True:
            await pyloop.sleep(rng.random() / 1000)
"""

PROGRAM = (
    """
import asyncio
import gc
import os
import random
import resource
import signal
import socket
import sys
from contextlib import contextmanager, suppress

import pyloop

how, runs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
begun = ended = handlers_left = 0

def say(text):
    os.write(1, text.encode() + b"\\n")

@contextmanager
def counted():
    global begun, ended
    begun += 1
    try:
        yield
    finally:
        ended += 1

"""
    + WORK
    + """
if how == "pyloop.run":
    start, run = pyloop.spawn, pyloop.run
else:
    tasks = set()  # asyncio keeps none itself

    async def start(coro):
        task = asyncio.create_task(coro)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def run(coro):
        with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
            runner.run(coro)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def opened():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # what listdir itself had open
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found

def once():
    global handlers_left
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        handlers_left += 1
        signal.signal(signal.SIGINT, signal.default_int_handler)
    pairs = [socket.socketpair() for _ in range(3)]
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    try:
        run(work(pairs))
    except KeyboardInterrupt:
        pass
    except (RuntimeError, asyncio.CancelledError) as error:
        # What asyncio.Runner also makes of one that comes while it begins or ends.
        if how == "pyloop.run" or (type(error), str(error)) not in (
            (RuntimeError, "Event loop stopped before Future completed."),
            (asyncio.CancelledError, ""),
        ):
            raise
    for pair in pairs:
        for sock in pair:
            sock.close()
    say("interrupted")

"""
)

ONE_AT_A_TIME = """
memory = []
for number in range(runs):
    once()
    assert begun == ended, (begun, ended)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if number == 10:
        gc.collect()
        before = opened()
    if number % 10 == 9:
        memory.append(resident())
gc.collect()
assert opened() == before, (opened(), before)
half = len(memory) // 2
print("grown by", min(memory[half + half // 2:]) - max(memory[half // 2:half]))
"""

# KeyboardInterrupt may come between any two lines of this. Each level catches one.
STORM = """
stop = False

def on_sigterm(*_):
    global stop
    stop = True

def in_storm(level):
    while not stop:
        try:
            in_storm(level - 1) if level else once()
        except KeyboardInterrupt:
            pass

async def calm():
    await pyloop.sleep(0.01)
    return await (await pyloop.spawn(asyncio.sleep(0, "calm")))

signal.signal(signal.SIGTERM, on_sigterm)

def opened_by_loops():
    # socketpair() itself loses a descriptor when it is interrupted between its two steps.
    return {name for name in opened() if not name.startswith("socket:")}

before = opened_by_loops()
in_storm(6)
signal.signal(signal.SIGINT, signal.SIG_IGN)
say("over")
if how != "pyloop.run":
    tasks.clear()
gc.collect()
assert asyncio._get_running_loop() is None
assert opened_by_loops() == before, (opened_by_loops(), before)
assert pyloop.run(calm()) == "calm"
say("calm")
"""


@pytest.mark.parametrize("how", ["pyloop.run", "asyncio.Runner"])
def test_keyboard_interrupt_in_one_process(how: str, backend: str) -> None:
    """Run after run is interrupted; what it had is closed, its tasks end, memory stays as it is."""
    rng = random.Random(seed())
    arguments = (how, str(INTERRUPTS), str(seed()))
    with Process(
        sys.executable, "-P", "-X", "dev", "-W", "error", "-c", PROGRAM + ONE_AT_A_TIME, *arguments
    ) as process:
        for _ in range(INTERRUPTS):
            assert process.readline() == "running", process.stderr()
            time.sleep(rng.random() * rng.choice([0, 0.002, 0.01]))
            process.process.send_signal(signal.SIGINT)
            assert process.readline() == "interrupted", process.stderr()
        words = process.readline().split()
        assert (process.wait(), process.stderr()) == (0, "")
    grown = int(words[-1])
    print(f"{how}: {INTERRUPTS} runs, grown by {grown / 1024:.0f} KiB")
    assert grown < 512 * 1024


@pytest.mark.parametrize("how", ["pyloop.run", "asyncio.Runner"])
def test_storm_of_keyboard_interrupts(how: str) -> None:
    """They come while a run starts, while it ends, while the last one is being handled."""
    rng = random.Random(seed())
    with Process(sys.executable, "-P", "-c", PROGRAM + STORM, how, "0", str(seed())) as process:
        assert process.readline() == "running", process.stderr()
        for _ in range(5 * INTERRUPTS):
            time.sleep(rng.random() * rng.choice([0.0005, 0.003]))
            process.process.send_signal(signal.SIGINT)
        process.process.terminate()
        said = [process.readline() for _ in range(2)]
        while said[-1] not in ("calm", ""):
            said.append(process.readline())
        assert said[-2:] == ["over", "calm"], process.stderr()
        assert process.wait() == 0, process.stderr()
        assert "Fatal" not in process.stderr()


UNTIL_INTERRUPTED = """
import asyncio
import sys
import pyloop

async def child():
    try:
        await pyloop.sleep(1000)
    finally:
        await pyloop.pause()
        print("child finally", flush=True)

async def root():
    try:
        await pyloop.spawn(child())
        await pyloop.pause()
        print("running", flush=True)
        while True:
            await pyloop.sleep(0.0001)
    finally:
        await pyloop.sleep(0.001)
        print("root finally", flush=True)

if sys.argv[1] == "pyloop.run":
    pyloop.run(root())
else:
    with asyncio.Runner(loop_factory=pyloop.EventLoop) as runner:
        runner.run(root())
"""


@pytest.mark.parametrize("how", ["pyloop.run", "asyncio.Runner"])
def test_exit_status_of_a_program_that_handles_nothing(how: str) -> None:
    """It ends as Python does: killed by SIGINT, after its finally blocks, with one traceback."""
    rng = random.Random(seed())
    for _ in range(max(RUNS // 10, 1)):
        with Process(sys.executable, "-P", "-c", UNTIL_INTERRUPTED, how) as process:
            assert process.readline() == "running"
            time.sleep(rng.random() * 0.01)
            process.process.send_signal(signal.SIGINT)
            said = {process.readline(), process.readline()}
            assert said == {"child finally", "root finally"}, process.stderr()
            assert process.wait(SECONDS + SLACK) == -signal.SIGINT
            assert process.stderr().rstrip().endswith("KeyboardInterrupt")
            assert "Task was destroyed" not in process.stderr()
            assert "never awaited" not in process.stderr()
