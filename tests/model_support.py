"""Random operation sequences in rounds, each with a seed of its own that a failure names."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

# How many operations a test marked `stress` makes; the default suite makes a few.
OPERATIONS = int(os.environ.get("PYLOOP_MODEL_OPERATIONS", "20000"))
FIRST_SEED = int(os.environ.get("PYLOOP_MODEL_SEED", "1"))

few_and_many = pytest.mark.parametrize(
    "operations",
    [
        pytest.param(1000, id="few"),
        pytest.param(OPERATIONS, id="many", marks=[pytest.mark.stress, pytest.mark.timeout(600)]),
    ],
)

# Plays one round: notes its operations in the list, and returns how many they were.
Round = Callable[[random.Random, list[str]], int]


def play(one_round: Round, operations: int) -> None:
    """Play rounds until there were so many operations."""
    seed = FIRST_SEED
    done = 0
    while done < operations:
        trace: list[str] = []
        try:
            done += one_round(random.Random(seed), trace)
        except BaseException as exc:
            exc.add_note(
                f"PYLOOP_MODEL_SEED={seed} plays this round first; its last operations were\n  "
                + "\n  ".join(trace[-25:])
            )
            raise
        seed += 1
