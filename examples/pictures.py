"""Pictures: download many at once with aiohttp, from a server of aiohttp's on the same loop.

    pip install aiohttp
    python -m pyloop.examples.pictures                              # 10, and says how long it took
    python -m pyloop.examples.pictures --count 100 --directory DIR  # keeps them, in DIR

Each download is a task; all wait at the same time. The server takes its time for each picture
(DELAY), so one after the other would last --count times as long. Writing a file would hold up
everybody meanwhile: that is done in a thread.
"""

import asyncio
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pyloop.examples._cli import listen, name_of, options, run_on_asyncio, run_program

if TYPE_CHECKING:
    from aiohttp import ClientSession, web

SIDE = 64  # pixels
DELAY = 0.1  # seconds: a server that is far away


def picture(number: int) -> bytes:
    """Return a PNG of one colour, another one for each number."""
    colour = zlib.crc32(str(number).encode()).to_bytes(4, "big")[:3]
    rows = (b"\0" + colour * SIDE) * SIDE
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


async def send_picture(request: "web.Request") -> "web.Response":
    from aiohttp import web

    await asyncio.sleep(DELAY)
    number = int(request.match_info["number"])
    return web.Response(body=picture(number), content_type="image/png")


async def download(session: "ClientSession", url: str, file: Path) -> int:
    """Download one file and return how many bytes it has; raises OSError when that fails."""
    from aiohttp import ClientError

    try:
        async with session.get(url, raise_for_status=True) as response:
            data = await response.read()
    except ClientError as error:
        raise OSError(f"{url}: {error}") from error
    return await asyncio.to_thread(file.write_bytes, data)


async def download_all(url: str, count: int, directory: Path) -> int:
    """Download the pictures 0 to `count` - 1 at once; return how many bytes they have."""
    from aiohttp import ClientSession

    async with ClientSession() as session:
        downloads = (
            download(session, f"{url}/{number}.png", directory / f"picture-{number:04}.png")
            for number in range(count)
        )
        return sum(await asyncio.gather(*downloads))


async def pictures(
    count: int, directory: Path, *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Serve, download, and print what it took; raises OSError when that fails."""
    from aiohttp import web

    application = web.Application()
    application.router.add_get(r"/{number:\d{1,9}}.png", send_picture)
    runner = web.AppRunner(application)
    await runner.setup()
    with listen(host, port) as sock:
        try:
            await web.SockSite(runner, sock).start()
            name = name_of(sock)
            print(f"Pictures: listening on {name}", flush=True)
            start = time.monotonic()
            size = await download_all(f"http://{name}", count, directory)
            seconds = time.monotonic() - start
        finally:
            await runner.cleanup()
    print(f"{count} files, {size} bytes in {seconds:.2f} s")


def main() -> int:
    parser = options("pictures", "Concurrent downloads with aiohttp.", port=8000)
    parser.add_argument("--count", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--directory", type=Path, help="default: one that is deleted at the end")
    args = parser.parse_args()
    if not 0 < args.count <= 9999:
        parser.error("--count is 1 to 9999")
    try:
        import aiohttp  # noqa: F401
    except ModuleNotFoundError:
        print(f"{parser.prog}: aiohttp is not installed: pip install aiohttp", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        program = pictures(
            args.count, args.directory or Path(temporary), host=args.host, port=args.port
        )
        return run_program(parser, program, verbose=args.verbose, runner=run_on_asyncio)


if __name__ == "__main__":
    sys.exit(main())
