"""The example programs as processes, and plain clients to talk to them.

Every wait has the limit of `LIMIT` seconds, so that a server that hangs fails its test instead of
stopping the run. What the programs write to stderr goes to a file: a pipe that nobody reads
would stop them.
"""

import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

LIMIT = 20.0

# asyncio's record for a callback that took longer than loop.slow_callback_duration.
SLOW_CALLBACK = re.compile(r"^Executing <.* took \d+\.\d+ seconds\n", re.MULTILINE)


def command(name: str, *args: str) -> list[str]:
    # -P: the current directory may hold a folder named as an installed package.
    return [sys.executable, "-P", "-m", f"pyloop.examples.{name}", *args]


class Process:
    """A running program. Leaving the `with` block ends it, by SIGTERM if it still runs.

    That end must be a clean one: status 0 and nothing on stderr, unless the test has itself
    called `wait` and looked at them.
    """

    def __init__(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        cwd: str | os.PathLike[str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        # Unbuffered, a program that forgets to flush would pass.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        self._errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command,
            env={**inherited, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=self._errors,
            cwd=cwd,
            preexec_fn=preexec,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.process.returncode is None:
                self.process.send_signal(signal.SIGTERM)
                status = self.wait()
                if kind is None:
                    assert (status, self.stderr()) == (0, ""), self.stderr()
        finally:
            if kind is not None:
                print(self.stderr(), file=sys.stderr)
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout, self._errors):
                if stream is not None:
                    stream.close()

    def wait(self, seconds: float = LIMIT) -> int:
        """The exit status; raises subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def stderr(self) -> str:
        """What it wrote there, but for what debug mode says of a slow machine."""
        text = os.pread(self._errors.fileno(), 1 << 20, 0).decode()
        return SLOW_CALLBACK.sub("", text)

    def readline(self) -> str:
        """The next line of stdout without its newline; "" at the end."""
        stdout = self.process.stdout
        assert stdout is not None
        data = b""
        while not data.endswith(b"\n"):
            if not select.select([stdout], [], [], LIMIT)[0]:
                raise TimeoutError(f"no line within {LIMIT} s; stderr: {self.stderr()}")
            byte = os.read(stdout.fileno(), 1)
            if not byte:
                break
            data += byte
        return data.decode().removesuffix("\n")

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident(self, what: str = "VmRSS") -> int:
        """How many bytes of memory it has; `VmHWM` is the most that it has had."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{what}:\s+(\d+) kB$", text, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


class Program(Process):
    """A running example."""

    def __init__(self, name: str, *args: str, **options: Any) -> None:
        super().__init__(*command(name, *args), **options)


class Server(Program):
    """An example server on a free port, ready to accept."""

    def __init__(
        self,
        name: str,
        *args: str,
        env: dict[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name, "--port", "0", *args, env=env, preexec=preexec)
        with ExitStack() as on_failure:
            on_failure.push(self)
            line = self.readline()
            match = re.search(r"listening on (\S+):(\d+)$", line)
            if match is None:
                raise AssertionError(f"the server does not say where it is: {line!r}")
            on_failure.pop_all()
        self.host = match[1].strip("[]")
        self.port = int(match[2])

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port


class LineClient:
    """A blocking connection that sends and receives lines."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            if receive_buffer is not None:  # takes effect only before connect
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(LIMIT)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        self._use(sock)

    @classmethod
    def of(cls, sock: socket.socket) -> Self:
        """Take over a connection that has been accepted."""
        self = cls.__new__(cls)
        self._use(sock)
        return self

    def _use(self, sock: socket.socket) -> None:
        sock.settimeout(LIMIT)
        self.sock = sock
        self._input = sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._input.close()
        self.sock.close()

    def reset(self) -> None:
        """Close with a TCP reset, as a crashing machine does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def send(self, *lines: str | bytes) -> None:
        """Send the lines, in one piece."""
        encoded = (line.encode() if isinstance(line, str) else line for line in lines)
        self.sock.sendall(b"".join(line + b"\n" for line in encoded))

    def end(self) -> None:
        """Close the sending side."""
        self.sock.shutdown(socket.SHUT_WR)

    def recv(self) -> str:
        """The next line; raises EOFError at the end."""
        line = self._input.readline()
        if not line.endswith(b"\n"):
            raise EOFError(line)
        return line[:-1].decode()

    def ask(self, line: str | bytes) -> str:
        """Send a line and return the one that comes back."""
        self.send(line)
        return self.recv()

    def rest(self) -> list[str]:
        """All lines until the other side closes."""
        return self._input.read().decode().splitlines()


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as `condition` holds: for states of a process that nothing tells us of."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {LIMIT} s")
        time.sleep(0.005)


@contextmanager
def descriptor_limit(wanted: int) -> Iterator[None]:
    """Let this process, and those it starts, have `wanted` descriptors; else skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(
                f"the hard limit of open files, RLIMIT_NOFILE, is {hard}: {wanted} are needed"
                f" (`ulimit -Hn {wanted}`, as root)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
