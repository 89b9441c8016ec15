"""The example with aiohttp: downloads from a server on the same loop."""

import re
import signal
import struct
import sys
import zlib
from pathlib import Path

import pytest
from example_process import Process, Program, Server

from pyloop.examples import pictures

pytest.importorskip("aiohttp")


def colour_of(data: bytes) -> bytes:
    """The colour of a PNG that has only one; checks that it is one."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == pictures.SIDE * (1 + 3 * pictures.SIDE)
    return rows[1:4]


def test_downloads(tmp_path: Path) -> None:
    count = 50
    with Server("pictures", "--count", str(count), "--directory", str(tmp_path)) as program:
        report = program.readline()
        assert program.wait() == 0
        assert program.stderr() == ""
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"picture-{n:04}.png" for n in range(count)]
    assert [file.read_bytes() for file in files] == [pictures.picture(n) for n in range(count)]
    assert len({colour_of(file.read_bytes()) for file in files}) == count
    match = re.fullmatch(r"50 files, (\d+) bytes in (\d+\.\d\d) s", report)
    assert match is not None
    assert int(match[1]) == sum(file.stat().st_size for file in files)
    # At the same time: one after the other, they would take count * DELAY.
    assert pictures.DELAY <= float(match[2]) < count * pictures.DELAY / 2


def test_directory_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with Program("pictures", "--port", "0", "--directory", str(missing)) as program:
        assert program.readline()
        assert program.wait() == 1
        assert str(missing) in program.stderr()
        assert "Traceback" not in program.stderr()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it(number: int) -> None:
    with Server("pictures", "--count", "2000") as program:
        program.process.send_signal(number)
        assert program.wait() == 0
        assert program.stderr() == ""


@pytest.mark.parametrize("count", ["0", "-1", "10000", "x"])
def test_wrong_count(count: str) -> None:
    with Program("pictures", "--count", count) as program:
        assert program.wait() == 2


def test_without_aiohttp() -> None:
    code = (
        "import sys\n"
        "class Hide:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'aiohttp': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide)\n"
        "from pyloop.examples import pictures\n"
        "sys.exit(pictures.main())\n"
    )
    with Process(sys.executable, "-P", "-c", code) as program:
        assert program.wait() == 1
        assert "aiohttp is not installed" in program.stderr()
        assert "Traceback" not in program.stderr()
