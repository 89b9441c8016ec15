"""What ``python -m benchmarks.turns`` takes and says."""

import argparse
from pathlib import Path

import pytest

from benchmarks.turns import Side, row


def test_folder_is_for_that_server_alone(tmp_path: Path) -> None:
    side = Side.parse(f"{tmp_path}=pyloop coroutine")
    assert (side.peer.name, side.folder) == ("pyloop coroutine", str(tmp_path))
    assert Side.parse("c-epoll").folder == ""


def test_unknown_server_is_named_with_those_that_exist() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no server 'nginx'.*pyloop coroutine"):
        Side.parse("nginx")


def test_row_compares_with_the_first() -> None:
    first = [(4.0, 0.0), (5.0, 0.0)]
    assert row("it", [(4.4, 0.4), (5.5, 0.6)], first) == ["it", "4.95", "1.100", "+500 +- 100"]
