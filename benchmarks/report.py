"""Results as JSON and as markdown."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Lab, Result
from benchmarks.micro import MEANING
from benchmarks.targets import TARGETS, Target

# strace sees the call that it interrupted when it attached: a hundredth of a call per request.
ABSOLUTE_SLACK = 0.02


def machine(lab: Lab) -> dict[str, Any]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": commit,
        "cpu": model,
        "cores": sorted(os.sched_getaffinity(0)),
        "server_core": lab.server_core,
        "client_core": lab.client_core,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "libc": " ".join(platform.libc_ver()),
        "versions": {name: version for name, version in sorted(lab.versions.items()) if version},
        "other_interpreters": lab.options.pythons,
        "load_average": os.getloadavg(),
        "command": sys.argv[1:],
    }


def calibration(lab: Lab) -> dict[str, float]:
    if not lab.readings:
        return {}
    kernel, user = zip(*lab.readings, strict=True)
    return {
        "kernel_ns_median": statistics.median(kernel),
        "kernel_ns_low": min(kernel),
        "kernel_ns_high": max(kernel),
        "user_ns_median": statistics.median(user),
        "user_ns_low": min(user),
        "user_ns_high": max(user),
    }


def ratios(target: Target, results: Sequence[Result]) -> dict[str, Any] | None:
    """The target's figure in these results; None when a peer or the bench is missing."""
    found = {result.peer: result for result in results if result.bench == target.bench}
    ours = found.get(target.peer)
    theirs = [found[name] for name in target.beside if name in found]
    if ours is None or len(theirs) < len(target.beside):
        return None
    if theirs:
        best = min(theirs, key=lambda result: result.median)
        value = ours.median / best.median
        rounds = [a / b for a, b in zip(ours.values, best.values, strict=False)]
        slack = 0.0
    else:
        value, rounds, slack = ours.median, ours.values, ABSOLUTE_SLACK
    return {
        "bench": target.bench,
        "peer": target.peer,
        "beside": target.beside,
        "limit": target.limit,
        "value": value,
        "low": min(rounds),
        "high": max(rounds),
        "met": value <= target.limit + slack,
    }


def as_json(lab: Lab) -> dict[str, Any]:
    targets = [
        {"group": group, **answer}
        for group, members in TARGETS.items()
        for target in members
        if (answer := ratios(target, lab.results)) is not None
    ]
    return {
        "machine": machine(lab),
        "options": asdict(lab.options),
        "calibration": calibration(lab),
        "targets": targets,
        "failures": lab.failures,
        "results": [result.as_json() for result in lab.results],
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = [":--" if number == 0 else "--:" for number in range(len(header))]
    lines = [header, marks, *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def bench_lines(results: Sequence[Result]) -> list[str]:
    first = results[0]
    lines = [f"### {first.suite}: {first.bench}, {first.unit}", ""]
    if first.bench in MEANING:
        lines += [MEANING[first.bench] + ".", ""]
    best = min(result.median for result in results)
    is_load = "requests_per_s" in first.samples[0].detail
    header = ["", "median", "low", "high", "of the best", "disturbed"]
    if is_load:
        lines += ["The server's CPU time per request.", ""]
        header += ["requests/s", "p99, us"]
    is_traced = "calls" in first.samples[0].detail
    header += ["calls"] if is_traced else []
    rows = []
    for result in sorted(results, key=lambda result: result.median):
        row = [
            result.peer,
            f"**{figure(result.median)}**",
            figure(min(result.values)),
            figure(max(result.values)),
            f"{result.median / best:.2f}" if best > 0 else "",
            f"{result.disturbed}/{len(result.samples)}",
        ]
        if is_load:
            for name in ("requests_per_s", "p99_us"):
                values = [sample.detail[name] for sample in result.samples]
                row.append(figure(statistics.median(values)))
        if is_traced:
            calls = result.samples[0].detail["calls"]
            shown = sorted(calls.items(), key=lambda item: -item[1])
            row.append(", ".join(f"{name} {count:.2f}" for name, count in shown if count >= 0.1))
        rows.append(row)
    return lines + table(header, rows)


def target_lines(lab: Lab) -> list[str]:
    lines = []
    benches = {result.bench for result in lab.results}
    for group, members in TARGETS.items():
        rows = []
        missing = []
        for target in members:
            answer = ratios(target, lab.results)
            if answer is None:
                if target.bench in benches:
                    missing.append(" / ".join((f"{target.bench}: {target.peer}", *target.beside)))
                continue
            rows.append(
                [
                    f"{target.bench}: {target.peer}",
                    " or ".join(target.beside) or "-",
                    f"{target.limit:.3g}",
                    f"**{answer['value']:.3g}**",
                    f"{answer['low']:.3g} - {answer['high']:.3g}",
                    "yes" if answer["met"] else "NO",
                ]
            )
        if rows or missing:
            header = ["target", "of", "at most", "measured", "in the rounds", "met"]
            lines += [f"### Targets of the {group}", "", *table(header, rows)]
            if missing:
                lines += [f"Without a figure, since a peer is missing: {'; '.join(missing)}.", ""]
    return lines


def as_markdown(lab: Lab) -> str:
    where = machine(lab)
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        f"## Benchmarks, {where['when']}",
        "",
        f"{where['cpu']}, cores {where['cores']}, Linux {where['kernel']}, "
        f"CPython {where['python']} ({where['compiler']}); {versions}. "
        f"Commit {where['commit'] or 'unknown'}; {lab.options.rounds} rounds.",
        "",
    ]
    speed = calibration(lab)
    if speed:
        lines += [
            "Calibration (median, lowest, highest): "
            f"kernel path {speed['kernel_ns_median']:.0f} ({speed['kernel_ns_low']:.0f} to "
            f"{speed['kernel_ns_high']:.0f}) ns, user mode {speed['user_ns_median']:.2f} "
            f"({speed['user_ns_low']:.2f} to {speed['user_ns_high']:.2f}) ns.",
            "",
        ]
    lines += target_lines(lab)
    benches = dict.fromkeys((result.suite, result.bench) for result in lab.results)
    for suite, bench in benches:
        found = [r for r in lab.results if (r.suite, r.bench) == (suite, bench)]
        lines += bench_lines(found)
    if lab.failures:
        lines += ["### Failed", "", *[f"- {failure}" for failure in lab.failures], ""]
    return "\n".join(lines)
