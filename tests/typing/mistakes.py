"""Mistakes that a type checker must find.  Checked by mypy, never run.

mypy's warning about a `type: ignore` that ignores nothing says which was not found.
"""

import socket

import pyloop


async def number() -> int:
    return 1


def report(what: str, how_often: int) -> None: ...


async def mistakes(
    sock: socket.socket,
    task: pyloop.Task[int],
    channel: pyloop.Channel[int],
    loop: pyloop.EventLoop,
) -> None:
    await pyloop.recv(3)  # type: ignore[arg-type]
    await pyloop.recv(sock, 10, 0)  # type: ignore[call-arg]
    await pyloop.recvfrom(sock)  # type: ignore[call-arg]
    await pyloop.sendall(sock, "text")  # type: ignore[arg-type]
    text: str = await pyloop.recv(sock)  # type: ignore[assignment]
    await pyloop.spawn(number)  # type: ignore[arg-type]
    await pyloop.spawn(number(), "name")  # type: ignore[call-arg]
    await pyloop.sleep("1")  # type: ignore[arg-type]
    await pyloop.sleep(seconds=1)  # type: ignore[call-arg]
    await channel.send("1")  # type: ignore[arg-type]
    await channel.send()  # type: ignore[call-arg]
    text = await channel.recv()  # type: ignore[assignment]
    text = await task  # type: ignore[assignment]
    task.missing  # type: ignore[attr-defined]  # noqa: B018
    pyloop.lines(sock, "utf-8")  # type: ignore[call-arg]
    for _ in pyloop.lines(sock):  # type: ignore[attr-defined]
        pass
    with pyloop.timeout(1):  # type: ignore[attr-defined]
        pass
    text = pyloop.run(number())  # type: ignore[assignment]
    pyloop.run(number)  # type: ignore[call-overload]
    loop.call_soon(report, "what")  # type: ignore[arg-type]
    pyloop.Channel(capacity="1")  # type: ignore[arg-type]
    del text


class Mine(pyloop.Task[int]):  # type: ignore[misc]
    pass
