"""Loops in sub-interpreters that have a GIL of their own (3.12 and later).

In programs of their own: an interpreter that goes wrong takes the process with it.
"""

from __future__ import annotations

import sys

import pytest
from support import run_python

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="there is one GIL for all interpreters before 3.12"
)

# `new`, `run` and `end` for interpreters.
INTERPRETERS = """
import asyncio, os, sys, threading
import pyloop

if sys.version_info >= (3, 13):
    import _interpreters

    new, end = _interpreters.create, _interpreters.destroy

    def run(interpreter, code):
        failure = _interpreters.exec(interpreter, code)
        assert failure is None, failure.errdisplay
else:
    import _xxsubinterpreters as _interpreters

    run, end = _interpreters.run_string, _interpreters.destroy

    def new():
        return _interpreters.create(isolated=True)

PATH = f"import sys; sys.path[:] = {sys.path!r}\\n"
"""

# A program that uses the three faces, timers, threads and descriptors.
PROGRAM = """
import asyncio, socket
import pyloop

async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()

async def client(address, number):
    reader, writer = await asyncio.open_connection(*address)
    for i in range(20):
        line = b"%d %d\\\\n" % (number, i)
        writer.write(line)
        assert await reader.readline() == line
    writer.close()
    await writer.wait_closed()

def generator(sock):
    yield pyloop.TaskType.TO_READ, sock
    return sock.recv(10)

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(*(client(address, number) for number in range(3)))
    server.close()
    await server.wait_closed()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        task = await pyloop.spawn(pyloop.recv(left, 10))
        await pyloop.sendall(right, b"hello")
        assert await task == b"hello"
        task = asyncio.get_running_loop().create_task(generator(left))
        await pyloop.sendall(right, b"bye")
        assert await task == b"bye"
    channel = pyloop.Channel()
    await pyloop.spawn(channel.send(5))
    assert await channel.recv() == 5
    await pyloop.sleep(0.001)
    async with asyncio.timeout(30):
        assert await asyncio.to_thread(sum, [1, 2]) == 3

for _ in range(3):
    loop = pyloop.EventLoop()
    loop.run_until_complete(main())
    loop.close()
    pyloop.run(main())
"""


def check(code: str) -> None:
    # The main interpreter is not ended: 3.12.1 then frees twice what was interned in an ended
    # sub-interpreter, also without pyloop.
    code += "\nprint('done', flush=True)\nos._exit(0)\n"
    done = run_python(INTERPRETERS + f"PROGRAM = '''{PROGRAM}'''\n" + code)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_loops_in_several_interpreters_and_threads() -> None:
    check(
        """
ended = []

def thread():
    interpreter = new()
    run(interpreter, PATH + PROGRAM)
    end(interpreter)
    ended.append(interpreter)

threads = [threading.Thread(target=thread) for _ in range(3)]
for thread in threads:
    thread.start()
exec(PROGRAM, {})
for thread in threads:
    thread.join()
assert len(ended) == 3
"""
    )


def test_a_loop_inside_of_another_interpreters_loop() -> None:
    """They share the thread, and neither takes the other for the running one."""
    check(
        """
async def main():
    interpreter = new()
    run(interpreter, PATH + '''
import asyncio, pyloop
try:
    asyncio.get_running_loop()
except RuntimeError:
    pass
else:
    raise AssertionError
coro = pyloop.sleep(0)
try:
    coro.send(None)
except RuntimeError:
    pass
else:
    raise AssertionError
''')
    run(interpreter, PATH + PROGRAM)
    end(interpreter)
    await pyloop.sleep(0.001)
    assert asyncio.get_running_loop().is_running()

pyloop.run(main())
"""
    )


def test_an_interpreter_ends_with_a_loop_left_open() -> None:
    check(
        """
for _ in range(5):
    interpreter = new()
    run(interpreter, PATH + '''
import socket, warnings
import pyloop

warnings.simplefilter("ignore")
left, right = socket.socketpair()
loop = pyloop.EventLoop()
loop.call_later(1000, print)
loop.add_reader(left, print)
loop.call_soon(loop.stop)
loop.run_forever()
loop.call_soon(print)
''')
    end(interpreter)
"""
    )


def test_signals_belong_to_the_main_interpreter() -> None:
    check(
        """
interpreter = new()
run(interpreter, PATH + '''
import signal
import pyloop

loop = pyloop.EventLoop()
try:
    loop.add_signal_handler(signal.SIGUSR1, print)
except (RuntimeError, ValueError):
    pass
else:
    raise AssertionError
loop.close()
''')
end(interpreter)
"""
    )
