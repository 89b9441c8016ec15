"""What was measured, and whether to believe it: samples, results, what disturbed them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Neighbouring readings differ by a few per cent on a quiet machine; medians of 40 ms that differ
# by a quarter mean that the machine changed its pace in between.
CALIBRATION_TOLERANCE = 1.25
# The share of a measurement's time in which others may have held the core.
LOAD_TOLERANCE = 0.05
# Readings from which the usual pace is taken.
USUAL = 50

# Of the calibration loop: nanoseconds of its kernel path and of its user mode path.
Reading = tuple[float, float]


@dataclass
class Sample:
    """One measurement: its value, how much of the core others had, and what else is known."""

    value: float
    load: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)
    disturbed: str = ""
    repeats: int = 0


@dataclass
class Result:
    """All rounds of one peer of one bench."""

    suite: str
    bench: str
    peer: str
    unit: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [sample.value for sample in self.samples]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def disturbed(self) -> int:
        return sum(bool(sample.disturbed) for sample in self.samples)

    def as_json(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "bench": self.bench,
            "peer": self.peer,
            "unit": self.unit,
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "disturbed": self.disturbed,
            "samples": [asdict(sample) for sample in self.samples],
        }


def disturbance(before: Reading, after: Reading, load: float, readings: Sequence[Reading]) -> str:
    """Why a measurement between two readings is not to be believed; "" when it is.

    ``load`` is the share of the time in which others had the core, ``readings`` all so far.
    """
    if load > LOAD_TOLERANCE:
        return f"others had the core for {load:.0%} of the time"
    usual = [statistics.median(column) for column in zip(*readings[-USUAL:], strict=True)]
    for kind, first, last, normal in zip(("kernel", "user"), before, after, usual, strict=True):
        if max(first, last) > CALIBRATION_TOLERANCE * min(first, last):
            return f"{kind} calibration went from {first:g} to {last:g} ns"
        if max(first, last) > CALIBRATION_TOLERANCE * normal:
            return f"{kind} calibration at {max(first, last):g} ns, usually {normal:g}"
    return ""


def best_sample(samples: Sequence[Sample]) -> Sample:
    """The first undisturbed one; failing that the one with which others interfered least."""
    for sample in samples:
        if not sample.disturbed:
            return sample
    return min(samples, key=lambda sample: sample.load)
