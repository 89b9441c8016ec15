"""redis.asyncio against a real redis-server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from redis import asyncio as redis

if TYPE_CHECKING:
    from conftest import Run

MIB = 1 << 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start redis-server; gives its addresses, or {} where another program took the port."""
    port, path = free_port(), folder / "redis.sock"
    process = subprocess.Popen(
        ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--unixsocket", str(path)]
        + ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = any("Ready to accept connections" in line for line in process.stdout)
        # It says so once per address, the Unix socket last; that one is there already.
        yield {"tcp": f"redis://127.0.0.1:{port}", "unix": f"unix://{path}"} if ready else {}
    finally:
        process.terminate()
        process.stdout.read()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of a redis-server that runs for this module."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    for _ in range(5):
        with running_server(tmp_path_factory.mktemp("redis")) as found:
            if found:
                yield found
                return
    pytest.fail("redis-server does not start")


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    """Each of its addresses."""
    return addresses[request.param]


@contextlib.asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[Any]:
    """A client, and an empty database."""
    client = redis.from_url(address, **options)
    try:
        await client.flushdb()
        yield client
    finally:
        await client.aclose()


def test_values(run: Run, address: str) -> None:
    async def main() -> None:
        async with connected(address) as client:
            assert await client.ping()
            assert await client.set("key", "ü")
            assert await client.get("key") == "ü".encode()
            assert await client.get("none") is None
            assert [await client.incr("counter") for _ in range(5)] == [1, 2, 3, 4, 5]
            assert await client.hset("hash", mapping={"a": 1, "b": 2}) == 2
            assert await client.hgetall("hash") == {b"a": b"1", b"b": b"2"}
            with pytest.raises(redis.ResponseError):
                await client.incr("hash")

    run(main())


def test_pipeline_and_transaction(run: Run, address: str) -> None:
    async def main() -> None:
        async with connected(address) as client:
            async with client.pipeline(transaction=False) as pipe:
                for number in range(2000):
                    pipe.set(f"key{number}", number)
                    pipe.get(f"key{number}")
                answers = await pipe.execute()
            assert answers[1::2] == [str(number).encode() for number in range(2000)]
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("watched")
                await client.set("watched", 1)
                pipe.multi()
                pipe.set("watched", 2)
                with pytest.raises(redis.WatchError):
                    await pipe.execute()
            assert await client.get("watched") == b"1"

    run(main())


def test_10_mib(run: Run, address: str) -> None:
    async def main() -> None:
        async with connected(address) as client:
            data = os.urandom(10 * MIB)
            await client.set("big", data)
            assert await client.strlen("big") == len(data)
            assert await client.get("big") == data

    run(main())


def test_many_tasks(run: Run, address: str) -> None:
    """Each task has a connection of the pool to itself while it waits."""

    async def count(client: Any, number: int) -> None:
        for turn in range(20):
            await client.set(f"n{number}", turn)
            assert await client.get(f"n{number}") == str(turn).encode()
            await client.incr("all")

    async def main() -> None:
        async with connected(address) as client:
            async with asyncio.TaskGroup() as group:
                for number in range(30):
                    group.create_task(count(client, number))
            assert await client.get("all") == b"600"

    run(main())


def test_publish_and_subscribe(run: Run, address: str) -> None:
    async def listen(client: Any) -> list[bytes]:
        heard = []
        async with client.pubsub() as channel:
            await channel.subscribe("news")
            async for message in channel.listen():
                if message["type"] == "subscribe":
                    subscribed.set()
                else:
                    heard.append(message["data"])
                    if message["data"] == b"end":
                        break
            await channel.unsubscribe()
        return heard

    async def main() -> None:
        async with connected(address) as client:
            listener = asyncio.create_task(listen(client))
            await subscribed.wait()
            for word in ("one", "two", "end"):
                assert await client.publish("news", word) == 1
            assert await listener == [b"one", b"two", b"end"]

    subscribed = asyncio.Event()
    run(main())


def test_waiting_is_cancelled(run: Run, address: str) -> None:
    """A cancelled wait leaves the pool usable, and takes no value from the list."""

    async def main() -> None:
        async with connected(address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.blpop("list", timeout=0)
            await client.rpush("list", "value")
            assert await client.lrange("list", 0, -1) == [b"value"]
            waiting = asyncio.create_task(client.blpop("list", timeout=0))
            assert await waiting == (b"list", b"value")

    run(main())


def test_nobody_listens(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        client = redis.from_url(f"unix://{tmp_path}/none")
        with pytest.raises(redis.ConnectionError):
            await client.ping()
        await client.aclose()

    run(main())
