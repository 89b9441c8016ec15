"""When a measurement counts as disturbed, and which one is kept."""

import pytest

from benchmarks.samples import Result, Sample, best_sample, disturbance

QUIET = [(1000.0, 5.0)] * 20


@pytest.mark.parametrize(
    ("before", "after", "load", "reason"),
    [
        ((1000, 5), (1000, 5), 0.0, ""),
        ((1000, 5), (1200, 5.9), 0.05, ""),
        ((1000, 5), (1000, 5), 0.06, "others had the core for 6%"),
        ((1000, 5), (1300, 5), 0.0, "kernel calibration went from 1000 to 1300"),
        ((1300, 5), (1000, 5), 0.0, "kernel calibration went from 1300 to 1000"),
        ((1000, 5), (1000, 7), 0.0, "user calibration went from 5 to 7"),
        # Alike on both sides, and both in a slow phase of the machine.
        ((1400, 5), (1400, 5), 0.0, "kernel calibration at 1400 ns, usually 1000"),
        ((1000, 7), (1000, 7), 0.0, "user calibration at 7 ns, usually 5"),
    ],
)
def test_disturbance(
    before: tuple[float, float], after: tuple[float, float], load: float, reason: str
) -> None:
    said = disturbance(before, after, load, [*QUIET, before, after])
    assert said.startswith(reason)
    assert bool(said) == bool(reason)


def test_what_is_usual_changes_with_the_machine() -> None:
    slow = [(2000.0, 10.0)] * 60
    assert disturbance(slow[0], slow[0], 0.0, QUIET + slow) == ""


def test_the_first_quiet_sample_is_kept_and_else_the_quietest() -> None:
    loud, louder = Sample(1, 0.2, disturbed="x"), Sample(2, 0.4, disturbed="y")
    quiet = Sample(3, 0.3)
    assert best_sample([louder, loud]) is loud
    assert best_sample([louder, quiet, loud]) is quiet


def test_a_result_is_its_median_with_the_spread() -> None:
    result = Result("echo", "1 KiB", "pyloop", "us")
    result.samples = [Sample(5), Sample(1), Sample(3, disturbed="x")]
    found = result.as_json()
    assert (found["median"], found["low"], found["high"], found["disturbed"]) == (3, 1, 5, 1)
    assert [sample["value"] for sample in found["samples"]] == [5, 1, 3]
