"""``python -m benchmarks``: run suites, print a markdown report, write JSON."""

import argparse
import json
import signal
import sys

from benchmarks import echo, memory, micro, report
from benchmarks.harness import Lab, Options, note

SUITES = {"micro": micro.run, "echo": echo.run, "memory": memory.run}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pyloop beside its peers; a markdown report goes to standard output.",
    )
    parser.add_argument(
        "suite", nargs="?", default="all", choices=[*SUITES, "all"], help="default: all"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5; 3 with --quick")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="shorter measurements, fewer connections and peers: to see where one stands",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured to FILE")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help='benches whose "SUITE BENCH" matches'
    )
    parser.add_argument("--peers", default="", metavar="REGEX", help="peers whose name matches")
    parser.add_argument(
        "--conns", metavar="N,N", help="numbers of echo connections; default: 10,100"
    )
    parser.add_argument(
        "--size", type=int, default=1024, metavar="BYTES", help="echo message; default: 1024"
    )
    parser.add_argument(
        "--client",
        choices=["polling", "sleeping", "both"],
        help="what the load client does while it waits; default: both, polling with --quick",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="T",
        help="of one echo measurement; default: 1, 0.5 with --quick",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="LIBRARY=PATH",
        help="another interpreter for one library, as curio=/path/to/python3.11",
    )
    return parser.parse_args(argv)


def options(arguments: argparse.Namespace) -> Options:
    quick = arguments.quick
    conns = arguments.conns or ("10" if quick else "10,100")
    client = arguments.client or ("polling" if quick else "both")
    return Options(
        rounds=arguments.rounds or (3 if quick else 5),
        quick=quick,
        seconds=arguments.seconds or (0.5 if quick else 1.0),
        conns=tuple(int(word) for word in conns.split(",")),
        size=arguments.size,
        clients=("polling", "sleeping") if client == "both" else (client,),
        only=arguments.only,
        peers=arguments.peers,
        pythons=dict(word.split("=", 1) for word in arguments.python),
    )


def main() -> int:
    arguments = parse()
    # Whoever ends us, servers are stopped and what was measured is reported.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab(options(arguments))
    chosen = SUITES.values() if arguments.suite == "all" else [SUITES[arguments.suite]]
    try:
        for run in chosen:
            run(lab)
    except KeyboardInterrupt:
        note("interrupted: what has been measured follows")
    print(report.as_markdown(lab))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report.as_json(lab), file, indent=1)
    return 1 if lab.failures else 0


if __name__ == "__main__":
    sys.exit(main())
