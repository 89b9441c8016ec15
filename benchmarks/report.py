"""Everything that a run has measured, and where, as one JSON object."""

import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Lab


def machine(lab: Lab) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "minutes": round((time.monotonic() - lab.started) / 60, 1),
        "commit": commit(),
        "cpu": processor(),
        "cores": sorted(os.sched_getaffinity(0)),
        "server_core": lab.server_core,
        "client_core": lab.client_core,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "libc": " ".join(platform.libc_ver()),
        "versions": {name: version for name, version in sorted(lab.versions.items()) if version},
        "other_interpreters": sorted(lab.options.pythons),
        "load_average": os.getloadavg(),
        "command": ["python", "-m", "benchmarks", *without_paths(sys.argv[1:])],
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def without_paths(words: list[str]) -> list[str]:
    """Where things lie on this machine is nobody's business: the last parts of paths stay."""
    return [
        f"{name}{sign}{value.rsplit('/', 1)[-1]}"
        for name, sign, value in (
            word.partition("=") if "=" in word else ("", "", word) for word in words
        )
    ]


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


def as_json(lab: Lab) -> dict[str, Any]:
    options = asdict(lab.options)
    del options["pythons"]
    return {
        "machine": machine(lab),
        "options": options,
        "calibration": calibration(lab),
        "failures": lab.failures,
        "results": [result.as_json() for result in lab.results],
    }
