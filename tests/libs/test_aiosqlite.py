"""aiosqlite on our loop: a thread per connection, which answers with call_soon_threadsafe()."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")

import aiosqlite

if TYPE_CHECKING:
    from conftest import Run


def test_rows(run: Run) -> None:
    async def main() -> None:
        async with aiosqlite.connect(":memory:") as database:
            await database.execute("CREATE TABLE numbers (n INTEGER, square INTEGER)")
            rows = [(number, number * number) for number in range(5000)]
            await database.executemany("INSERT INTO numbers VALUES (?, ?)", rows)
            await database.commit()
            async with database.execute("SELECT * FROM numbers ORDER BY n") as cursor:
                assert [row async for row in cursor] == rows
            async with database.execute("SELECT sum(n) FROM numbers") as cursor:
                assert await cursor.fetchone() == (5000 * 4999 // 2,)

    run(main())


def test_errors_and_rollback(run: Run) -> None:
    async def main() -> None:
        async with aiosqlite.connect(":memory:") as database:
            await database.execute("CREATE TABLE names (name TEXT UNIQUE)")
            await database.execute("INSERT INTO names VALUES ('a')")
            await database.commit()
            await database.execute("INSERT INTO names VALUES ('b')")
            with pytest.raises(sqlite3.IntegrityError):
                await database.execute("INSERT INTO names VALUES ('a')")
            await database.rollback()
            async with database.execute("SELECT name FROM names") as cursor:
                assert await cursor.fetchall() == [("a",)]
            with pytest.raises(sqlite3.OperationalError):
                await database.execute("SELECT * FROM nothing")

    run(main())


def test_connections_at_the_same_time(run: Run, tmp_path: Path) -> None:
    """Eight threads wake the loop; each answer reaches the task that asked."""
    path = tmp_path / "database"

    async def ask(number: int) -> int:
        total = 0
        async with aiosqlite.connect(path) as database:
            for turn in range(100):
                async with database.execute("SELECT ? + n FROM one", (number * turn,)) as cursor:
                    row = await cursor.fetchone()
                    assert row is not None
                    total += row[0]
        return total

    async def main() -> None:
        async with aiosqlite.connect(path) as database:
            await database.executescript("CREATE TABLE one (n INTEGER); INSERT INTO one VALUES (1)")
        totals = await asyncio.gather(*map(ask, range(8)))
        assert totals == [100 + number * 4950 for number in range(8)]

    run(main())


def test_a_cancelled_query(run: Run) -> None:
    """The answer to a task that no longer waits is dropped; the connection stays usable."""
    endless = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    )

    async def main() -> None:
        async with aiosqlite.connect(":memory:") as database:
            started = asyncio.Event()
            loop = asyncio.get_running_loop()

            def progress() -> None:
                loop.call_soon_threadsafe(started.set)

            await database.set_progress_handler(progress, 1000)
            query = asyncio.create_task(database.execute_fetchall(endless))
            await started.wait()
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
            await database.interrupt()
            await database.set_progress_handler(None, 0)  # type: ignore[arg-type]
            async with database.execute("SELECT 1") as cursor:
                assert await cursor.fetchone() == (1,)

    run(main())
