"""The guard's reading of callgrind's files, and its verdicts.  Counting itself is a step of CI."""

import json
from dataclasses import replace

import pytest

from benchmarks import callgrind, guard, guard_work

PART = """\
version: 1
part: 3
events: Ir
summary: 1470

ob=/usr/lib/libpython3.12.so
fl=ceval.c
fn=_PyEval_EvalFrameDefault
0 1000
cob=/site-packages/pyloop/_core.cpython-312-x86_64-linux-gnu.so
cfi=step.c
cfn=step_run
calls=3 0
0 450

ob=/site-packages/pyloop/_core.cpython-312-x86_64-linux-gnu.so
fl=step.c
fn=step_run
0 400
fn=step_run'2
0 50
ob=/usr/lib/libc.so.6
fl=malloc.c
fn=malloc
12 20

totals: 1470
"""

HERE = guard.Environment("3.12.1", "GCC 12.2.0", "gcc 12.2.0", "x86_64")


def part(total: int, own: int) -> callgrind.Part:
    """With instructions of libc's on top, which do not count."""
    libc = total // 7
    counts = {
        ("/x/pyloop/_core.so", "task_run"): own,
        ("/x/libpython.so", "PyObject_Call"): total - own,
        ("/lib/libc.so.6", "malloc"): libc,
    }
    return callgrind.Part(total + libc, counts)


def test_a_part_counts_each_instruction_once() -> None:
    """What a callee took is repeated in its caller's lines, and counted in its own alone."""
    found = callgrind.parse_part(PART.splitlines(keepends=True))
    assert found.total == 1470 == sum(found.by_object.values())
    assert found.of(guard.OWN_CODE) == 450
    assert found.of("libpython") == 1000
    step = ("/site-packages/pyloop/_core.cpython-312-x86_64-linux-gnu.so", "step_run")
    assert found.by_function[step] == 450
    assert found.of(guard.LIBC) == 20


def test_what_a_run_costs_once_drops_out() -> None:
    units = guard_work.LARGE - guard_work.SMALL
    start_up = 10_000
    small = part(start_up + 100 * guard_work.SMALL, 10 * guard_work.SMALL)
    large = part(start_up + 100 * guard_work.LARGE, 10 * guard_work.LARGE)
    warm_up = part(123456, 7)
    found = guard.counts_of([small, large, warm_up, small, part(units, units)], ["a", "b"])
    assert found["a"] == guard.Count(100, 10)
    with pytest.raises(RuntimeError, match="2 parts for 2 pieces"):
        guard.counts_of([small, large], ["a", "b"])


@pytest.mark.parametrize(
    ("there", "is_total", "tolerance"),
    [
        (HERE, True, guard.TOLERANCE),
        (replace(HERE, compiler="gcc 12.3.1"), True, guard.TOLERANCE),
        (replace(HERE, python="3.12.9"), False, guard.OTHER_INTERPRETER_TOLERANCE),
        (
            replace(HERE, python_build="GCC 12.2.0 --with-lto"),
            False,
            guard.OTHER_INTERPRETER_TOLERANCE,
        ),
        (replace(HERE, compiler="gcc 14.2.0"), False, guard.OTHER_COMPILER_TOLERANCE),
        (
            replace(HERE, compiler="clang 12.2.0", python="3.12.9"),
            False,
            guard.OTHER_COMPILER_TOLERANCE,
        ),
        (replace(HERE, machine="aarch64"), False, None),
    ],
)
def test_other_builds_are_judged_by_what_does_not_depend_on_them(
    there: guard.Environment, is_total: bool, tolerance: float | None
) -> None:
    basis = guard.choose_basis(HERE, there)
    assert (basis.is_total, basis.tolerance) == (is_total, tolerance)


def test_verdicts() -> None:
    recorded = {name: guard.Count(1000, 100) for name in ("same", "slower", "faster", "gone")}
    counted = {
        "same": guard.Count(1049, 200),
        "slower": guard.Count(1051, 100),
        "faster": guard.Count(940, 100),
        "new": guard.Count(1, 1),
    }
    found = guard.judge(guard.choose_basis(HERE, HERE), recorded, counted)
    assert [(verdict.name, verdict.is_slower, verdict.is_faster) for verdict in found] == [
        ("same", False, False),
        ("slower", True, False),
        ("faster", False, True),
    ]
    said = guard.summary({"3.12": found})
    assert said[0].startswith("SLOWER: slower on 3.12, 1,000 -> 1,051 instructions (+5.1%)")
    assert said[1].startswith("note: faster: faster on 3.12")
    assert "--record" in said[2]
    own = guard.Basis("another interpreter", False, 0.1)
    assert [v.name for v in guard.judge(own, recorded, counted) if v.is_slower] == ["same"]
    assert guard.judge(guard.Basis("another machine", False, None), recorded, counted) == []


def test_the_report_says_what_was_judged() -> None:
    counts = {"switch": guard.Count(1200, 300), "new": guard.Count(5, 5)}
    record = {
        "3.12": {
            "environment": vars(HERE),
            "instructions": {"switch": {"total": 1000, "own": 300}},
        }
    }
    lines, verdicts = guard.report(HERE, counts, record)
    assert "all code is judged, with 5% tolerance" in lines[1]
    assert lines[2].endswith("+20.0%  SLOWER")
    assert lines[3].endswith("not on record")
    assert [verdict.is_slower for verdict in verdicts] == [True]
    lines, verdicts = guard.report(replace(HERE, python="3.14.0"), counts, record)
    assert "nothing is on record for 3.14" in lines[1]
    assert verdicts == []


def test_every_piece_of_work_is_on_record_for_every_version() -> None:
    record = json.loads(guard.RECORD.read_text(encoding="utf-8"))
    assert sorted(record) == ["3.11", "3.12", "3.13"]
    for version, entry in record.items():
        assert guard.Environment(**entry["environment"]).version == version
        assert sorted(entry["instructions"]) == sorted(guard_work.NAMES)
