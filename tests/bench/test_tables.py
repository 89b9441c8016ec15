"""Targets and tables made from results, and what is read from the programs that measure."""

from typing import Any

import pytest

from benchmarks import echo, plots, report, tables, web
from benchmarks.__main__ import options, parse
from benchmarks.harness import PeerFailed
from benchmarks.samples import Result, Sample
from benchmarks.targets import TARGETS, Target


def result(bench: str, peer: str, *values: float, suite: str = "echo", **detail: Any) -> Any:
    found = Result(suite, bench, peer, "us", [Sample(value, detail=detail) for value in values])
    return found.as_json()


def run_of(*results: Any) -> dict[str, Any]:
    machine = {
        "when": "today",
        "minutes": 1.0,
        "commit": "abc",
        "cpu": "a processor",
        "cores": [0, 1],
        "server_core": 0,
        "client_core": 1,
        "kernel": "6.1",
        "libc": "glibc",
        "python": "3.12",
        "compiler": "gcc",
        "versions": {"uvloop": "1"},
        "command": ["python"],
    }
    return {
        "machine": machine,
        "options": {"rounds": 3},
        "calibration": {},
        "failures": ["x, rloop: gave up"],
        "results": list(results),
    }


def test_a_target_is_a_ratio_of_medians_to_the_best_of_its_peers() -> None:
    target = Target("echo", "pyloop", 0.5, ("uvloop", "rloop"))
    ours = result("echo", "pyloop", 2, 1, 3)
    theirs = [result("echo", "uvloop", 8, 9, 10), result("echo", "rloop", 4, 5, 3)]
    found = tables.evaluate(target, [ours, *theirs])
    assert found == {"value": 0.5, "low": 0.2, "high": 1.0, "met": True}
    slower = result("echo", "pyloop", 2.1)
    assert tables.evaluate(target, [slower, *theirs])["met"] is False  # type: ignore[index]


def test_a_target_needs_all_that_it_compares() -> None:
    target = Target("echo", "pyloop", 0.5, ("uvloop", "rloop"))
    ours, theirs = result("echo", "pyloop", 1), result("echo", "uvloop", 8)
    assert tables.evaluate(target, [ours, theirs]) is None
    assert tables.evaluate(target, [theirs, result("echo", "rloop", 9)]) is None
    assert tables.evaluate(target, [result("other", "pyloop", 1), theirs]) is None


def test_a_target_may_be_a_figure_or_another_bench() -> None:
    calls = Target("system calls", "pyloop", 3)
    assert tables.evaluate(calls, [result("system calls", "pyloop", 3.01)])["met"]  # type: ignore[index]
    assert not tables.evaluate(calls, [result("system calls", "pyloop", 4)])["met"]  # type: ignore[index]
    flat = Target("tasks, N = 10", "pyloop", 1.3, ("pyloop",), "tasks, N = 1")
    both = [result("tasks, N = 10", "pyloop", 12), result("tasks, N = 1", "pyloop", 10)]
    assert tables.evaluate(flat, both)["value"] == pytest.approx(1.2)  # type: ignore[index]


def test_every_target_names_a_peer_of_its_echo() -> None:
    """A typing error in a name would make a target that is never judged."""
    usual = {case.name: case for case in echo.cases(options(parse([])))}
    both = {case.name: case for case in echo.cases(options(parse(["--client", "both"])))}
    known = usual | both
    for members in TARGETS.values():
        for target in members:
            if target.bench in known:
                names = {peer.name for peer in known[target.bench].peers}
                assert {target.peer, *target.beside} <= names, target


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04567, "0.0457"), (4.738, "4.74"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_figures(value: float, text: str) -> None:
    assert tables.figure(value) == text


def test_the_report_has_every_result_and_every_failure() -> None:
    load: dict[str, Any] = {"requests_per_s": 1000.0, "p99_us": 99.0}
    run = run_of(
        result("1 KiB x 10, polling client", "pyloop protocol", 5, 4, 6, **load),
        result("1 KiB x 10, polling client", "uvloop protocol", 8, 8, 8, **load),
        result("system calls", "pyloop protocol", 3, calls={"recvfrom": 1.0, "rare": 0.01}),
        result("switch", "pyloop", 300, suite="micro"),
    )
    text = tables.as_markdown(run)
    assert "| pyloop protocol | **5** | 4 | 6 | 1.00 | 0/3 | 1,000 | 99 |" in text
    assert "| uvloop protocol | **8** | 8 | 8 | 1.60 | 0/3 | 1,000 | 99 |" in text
    assert "| recvfrom 1.00 |" in text
    assert "rare" not in text
    assert "- x, rloop: gave up" in text
    wanted = "| 1 KiB x 10, polling client: pyloop protocol | uvloop protocol | 0.88 | **0.625** |"
    assert wanted in text


def test_a_page_gets_the_compact_tables_between_its_marks() -> None:
    page = f"above\n{tables.BEGIN}\nold\n{tables.END}\nbelow\n"
    run = run_of(
        result("switch", "pyloop", 3, 2, 4, suite="micro"),
        result("spawn", "pyloop", 5, suite="micro"),
    )
    text = tables.insert(page, tables.compact(run, ["micro.svg"]))
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "old" not in text
    assert "**3** (2 - 4)" in text
    assert "![micro.svg](performance/micro.svg)" in text
    assert tables.insert(text, "new").count(tables.BEGIN) == 1
    with pytest.raises(ValueError):
        tables.insert("no marks", "text")


def test_what_pyloop_loses_is_said() -> None:
    """Face by face; the limit in C and other interfaces of a peer are no losses."""
    results = [
        result("x", "pyloop streams", 5),
        result("x", "uvloop streams", 4),
        result("x", "rloop streams", 6),
        result("x", "uvloop protocol", 1),
        result("x", "c-epoll", 1),
        result("y", "pyloop", 2),
        result("y", "pyloop asyncio", 8),
        result("y", "rloop", 7),
        result("z", "pyloop", 1),
        result("z", "uvloop", 2),
    ]
    assert tables.losses(results) == [
        "- echo, x, us: uvloop streams 4 against 5.",
        "- echo, y, us: rloop 7 against 8.",
    ]


def test_a_pivot_has_a_cell_for_each_peer_and_bench() -> None:
    results = [
        result(bench, peer, value, value + 1, suite="micro")
        for bench, peer, value in (("a", "p", 1), ("b", "p", 2), ("c", "p", 3), ("a", "q", 4))
    ]
    lines = tables.pivot(results)
    assert lines[0] == "|  | p | q |"
    assert lines[2] == "| a, us | **1.5** (1 - 2) | 4.5 (4 - 5) |"
    assert lines[4] == "| c, us | **3.5** (3 - 4) |  |"


STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           3       200           recvfrom
 40.00    0.000400           2       200         1 sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           2       400         1 total
"""


def test_straces_table() -> None:
    assert echo.parse_strace(STRACE) == {"recvfrom": 200, "sendto": 200}


WRK = """\
  Latency Distribution
     50%    1.20ms
     99%    2.50ms
  41862 requests in 1.00s, 9.54MB read
Requests/sec:  41629.31
"""


def test_wrks_report() -> None:
    found = web.parse_wrk(WRK)
    assert found == {"requests": 41862, "requests_per_s": 41629.31, "p99_us": 2500, "errors": 0}
    broken = (
        "  Socket errors: connect 0, read 2, write 1, timeout 0\n  Non-2xx or 3xx responses: 4\n"
    )
    assert web.parse_wrk(WRK + broken)["errors"] == 7
    with pytest.raises(PeerFailed):
        web.parse_wrk("unable to connect")


def test_the_options_shape_the_echo() -> None:
    words = ["--sizes", "1024,10240", "--conns", "1,1000", "--client", "both"]
    found = [case for case in echo.cases(options(parse(words))) if case.kind == "tcp"]
    assert len(found) == 8
    assert found[0].name == "1 KiB x 1, polling client"
    assert found[-1].name == "10 KiB x 1000, sleeping client"
    quick = [case.name for case in echo.cases(options(parse(["--quick"]))) if case.kind == "tcp"]
    assert quick == ["1 KiB x 10, polling client"]


def test_an_unknown_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["ecko"])
    assert "no suite ecko" in capsys.readouterr().err


def test_paths_of_the_machine_are_not_published() -> None:
    words = ["--python", "curio=/home/somebody/venv/bin/python", "--output", "/var/x/out", "echo"]
    assert report.without_paths(words) == ["--python", "curio=python", "--output", "out", "echo"]


def test_curves_are_drawn_where_every_point_is_there() -> None:
    results = [
        result(f"1 KiB x {conns}, polling client", peer, conns)
        for conns in (10, 100)
        for peer in ("pyloop protocol", "uvloop protocol")
    ]
    results.append(result("1 KiB x 10, polling client", "textbook", 7))
    lines = plots.by_connections(results)
    assert lines == {
        "pyloop protocol": [(10, 10), (100, 100)],
        "uvloop protocol": [(10, 10), (100, 100)],
    }
