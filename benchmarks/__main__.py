"""``python -m benchmarks``: run suites, print a markdown report, write JSON and plots."""

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path

from benchmarks import plots, report, tables
from benchmarks.harness import ROOT, Lab, Options, note

# In the order in which they run: the most telling ones first.
SUITES = ("echo", "micro", "selector", "chat", "http", "memory", "startup", "scaling")
MODULES = {"http": "web"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pyloop beside its peers; a markdown report goes to standard output, "
        "report, JSON and plots go to a directory.",
    )
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5; 3 with --quick")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="shorter measurements, fewer connections and peers: to see where one stands",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "build" / "benchmarks",
        metavar="DIR",
        help="for results.json, results.md and the plots; default: build/benchmarks",
    )
    parser.add_argument(
        "--only", default="", metavar="REGEX", help='benches whose "SUITE BENCH" matches'
    )
    parser.add_argument("--peers", default="", metavar="REGEX", help="peers whose name matches")
    parser.add_argument(
        "--conns",
        type=numbers,
        default=(),
        metavar="N,N",
        help="of the echo; with any of the next two, all products are measured",
    )
    parser.add_argument(
        "--sizes", type=numbers, default=(), metavar="BYTES,BYTES", help="of the echo's messages"
    )
    parser.add_argument(
        "--client",
        choices=["polling", "sleeping", "both"],
        help="what the load client does while it waits",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="T",
        help="of one measurement under load; default: 0.5, 0.3 with --quick",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=300.0,
        metavar="T",
        help="seconds that repeating disturbed measurements may add in all; default: %(default)g",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="LIBRARY=PATH",
        help="another interpreter for one library, as curio=/path/to/python3.11",
    )
    arguments = parser.parse_args(argv)
    for suite in arguments.suites:
        if suite not in SUITES:
            parser.error(f"no suite {suite}")
    return arguments


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def options(arguments: argparse.Namespace) -> Options:
    quick = arguments.quick
    client = arguments.client
    return Options(
        rounds=arguments.rounds or (3 if quick else 5),
        quick=quick,
        seconds=arguments.seconds or (0.3 if quick else 0.5),
        conns=arguments.conns,
        sizes=arguments.sizes,
        clients=("polling", "sleeping") if client == "both" else (client,) if client else (),
        patience=arguments.patience,
        only=arguments.only,
        peers=arguments.peers,
        pythons=dict(word.split("=", 1) for word in arguments.python),
    )


def write(lab: Lab, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results = report.as_json(lab)
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (folder / "results.md").write_text(tables.as_markdown(results), encoding="utf-8")
    drawn = plots.draw(results, folder)
    note(f"{folder}: results.json, results.md, {drawn} plots")


def main() -> int:
    arguments = parse()
    # Whoever ends us, servers are stopped and what was measured is reported.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab(options(arguments))
    try:
        for suite in SUITES:
            if not arguments.suites or suite in arguments.suites:
                importlib.import_module(f"benchmarks.{MODULES.get(suite, suite)}").run(lab)
    except KeyboardInterrupt:
        note("interrupted: what has been measured follows")
    print(tables.as_markdown(report.as_json(lab)))
    write(lab, arguments.output)
    return 1 if lab.failures else 0


if __name__ == "__main__":
    sys.exit(main())
