"""Results as markdown, made from the JSON: ``python -m benchmarks.tables results.json [PAGE]``.

Without PAGE all tables are printed; with it the compact ones replace what stands between the two
marks in that file.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.targets import TARGETS, Target

Json = Mapping[str, Any]

# strace sees the call that it interrupted when it attached: a hundredth of a call per request.
ABSOLUTE_SLACK = 0.02
BEGIN, END = "<!-- measured: from here -->", "<!-- measured: to here -->"
MAIN_ECHO = "1 KiB x 10, polling client"

MEANING = {
    "switch": "one switch among 100 tasks: pause(), or sleep(0)",
    "spawn": "an empty coroutine started, run and ended, 1,000 at a time: spawn() and one pause(), "
    "or create_task() and gather()",
    "spawn_join": "the same, and each task awaited by itself",
    "channel": "one message between two tasks: Channel(), Queue(1), memory channel of size 0",
    "pingpong": "1 KiB there and back over a socket pair, both ends in one loop",
    "call_soon": "one call_soon() and its callback, 1,000 in each turn",
    "call_later": "one call_later() and its cancel()",
    "timer": "one call_later(0) and its callback, 1,000 at a time",
    "threadsafe": "one call_soon_threadsafe() in the loop's own thread, and its callback",
    "wakeup": "another thread wakes the sleeping loop and is woken by it: call_soon_threadsafe() "
    "and a semaphore, both threads on one core",
    "connect": "TCP connect, accept and close of both ends, in one loop",
    "per connection": "resident memory of an idle connection that has exchanged one message",
    "per task": "resident memory of a task that sleeps",
    "import": "import of the library when asyncio has been imported",
    "first run": "the first run of an empty coroutine in a process",
    "run(noop)": "a loop made, an empty coroutine run, the loop closed",
    "run_until_complete(noop)": "the same on a loop that stays",
    "1 to 100": "one line delivered to one of 100 receivers",
    "1,000 in rooms of 10": "one line delivered to one of 9 receivers, 100 rooms at a time",
}
TITLES = {
    "echo": "Echo: the server's CPU time per request",
    "micro": "Micro-benchmarks",
    "selector": "Selector operations",
    "chat": "Thundergram's fan-out: the server's CPU time per delivered line",
    "http": "HTTP under wrk: the server's CPU time per request",
    "memory": "Memory",
    "startup": "Start-up",
    "scaling": "Cost as work grows",
}


def evaluate(target: Target, results: Sequence[Json]) -> dict[str, Any] | None:
    """The target's figure in these results; None when a peer or the bench is missing."""
    found = {(result["bench"], result["peer"]): result for result in results}
    ours = found.get((target.bench, target.peer))
    other = target.other_bench or target.bench
    theirs = [found[other, name] for name in target.beside if (other, name) in found]
    if ours is None or len(theirs) < len(target.beside):
        return None
    if theirs:
        best = min(theirs, key=lambda result: result["median"])
        value = ours["median"] / best["median"]
        rounds = [a / b for a, b in zip(values(ours), values(best), strict=False)]
        slack = 0.0
    else:
        value, rounds, slack = ours["median"], values(ours), ABSOLUTE_SLACK
    met = value <= target.limit + slack
    return {"value": value, "low": min(rounds), "high": max(rounds), "met": met}


def values(result: Json) -> list[float]:
    return [sample["value"] for sample in result["samples"]]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = [":--" if number == 0 else "--:" for number in range(len(header))]
    lines = [header, marks, *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def of_bench(results: Sequence[Json], suite: str, bench: str) -> list[Json]:
    """The fastest first."""
    found = [r for r in results if (r["suite"], r["bench"]) == (suite, bench)]
    return sorted(found, key=lambda result: result["median"])


def bench_lines(results: Sequence[Json]) -> list[str]:
    """One bench in full: every peer with its spread and what else is known."""
    first = results[0]
    detail = first["samples"][0]["detail"]
    lines = [f"#### {first['bench']}, {first['unit']}", ""]
    if first["bench"] in MEANING:
        lines += [MEANING[first["bench"]] + ".", ""]
    best = results[0]["median"]
    header = ["", "median", "low", "high", "of the best", "disturbed"]
    is_load, is_traced = "requests_per_s" in detail, "calls" in detail
    header += ["requests/s", "p99, us"] if is_load else []
    header += ["calls"] if is_traced else []
    rows = []
    for result in results:
        row = [
            result["peer"],
            f"**{figure(result['median'])}**",
            figure(result["low"]),
            figure(result["high"]),
            f"{result['median'] / best:.2f}" if best > 0 else "",
            f"{result['disturbed']}/{len(result['samples'])}",
        ]
        if is_load:
            for name in ("requests_per_s", "p99_us"):
                numbers = [sample["detail"][name] for sample in result["samples"]]
                row.append(figure(statistics.median(numbers)))
        if is_traced:
            calls = result["samples"][0]["detail"]["calls"]
            shown = sorted(calls.items(), key=lambda item: -item[1])
            row.append(", ".join(f"{name} {count:.2f}" for name, count in shown if count >= 0.1))
        rows.append(row)
    return lines + table(header, rows)


def pivot(results: Sequence[Json]) -> list[str]:
    """Many benches in one table: a row for each peer, "median (low - high)", the best one bold."""
    benches = list(dict.fromkeys(result["bench"] for result in results))
    peers = list(dict.fromkeys(result["peer"] for result in results))
    cells = {(result["bench"], result["peer"]): result for result in results}
    best = {bench: of_bench(results, results[0]["suite"], bench)[0]["peer"] for bench in benches}

    def cell(bench: str, peer: str) -> str:
        result = cells.get((bench, peer))
        if result is None:
            return ""
        text = figure(result["median"])
        text = f"**{text}**" if best[bench] == peer else text
        if len(result["samples"]) == 1:
            return text
        return f"{text} ({figure(result['low'])} - {figure(result['high'])})"

    units = {result["bench"]: result["unit"] for result in results}
    if len(benches) > len(peers):
        rows = [[f"{b}, {units[b]}", *[cell(b, peer) for peer in peers]] for b in benches]
        return table(["", *peers], rows)
    rows = [[peer, *[cell(bench, peer) for bench in benches]] for peer in peers]
    return table(["", *[f"{bench}, {units[bench]}" for bench in benches]], rows)


def target_lines(results: Sequence[Json]) -> list[str]:
    lines = []
    benches = {result["bench"] for result in results}
    for group, members in TARGETS.items():
        rows = []
        missing = []
        for target in members:
            answer = evaluate(target, results)
            if answer is None:
                if target.bench in benches:
                    missing.append(" / ".join((f"{target.bench}: {target.peer}", *target.beside)))
                continue
            rows.append(
                [
                    f"{target.bench}: {target.peer}",
                    target.other_bench or " or ".join(target.beside) or "-",
                    f"{target.limit:.3g}",
                    f"**{answer['value']:.3g}**",
                    f"{answer['low']:.3g} - {answer['high']:.3g}",
                    "yes" if answer["met"] else "**NO**",
                ]
            )
        if rows or missing:
            header = ["target", "of", "at most", "measured", "in the rounds", "met"]
            lines += [f"#### Targets of the {group}", "", *table(header, rows)]
            if missing:
                lines += [f"Without a figure, since a peer is missing: {'; '.join(missing)}.", ""]
    return lines


def face_of(peer: str) -> str:
    """ "streams" of "uvloop streams"; "" of a library's own or only interface."""
    return peer.partition(" ")[2].removesuffix("asyncio")


def losses(results: Sequence[Json]) -> list[str]:
    """Where a peer's median for the same interface is below pyloop's: a line for each bench.

    The limits in C are no peers here, nor is a peer's only interface one of pyloop's several.
    """
    lines = []
    for suite, bench in dict.fromkeys((r["suite"], r["bench"]) for r in results):
        found = of_bench(results, suite, bench)
        # "pyloop asyncio", where it is there, stands beside the other asyncio loops.
        by_name = sorted(found, key=lambda result: result["peer"])
        ours = {face_of(r["peer"]): r for r in by_name if r["peer"].startswith("pyloop")}
        ahead = [
            f"{theirs['peer']} {figure(theirs['median'])} against {figure(mine['median'])}"
            for theirs in found
            if not theirs["peer"].startswith(("pyloop", "c-", "textbook"))
            and (mine := ours.get(face_of(theirs["peer"]))) is not None
            and theirs["median"] < mine["median"]
            and figure(theirs["median"]) != figure(mine["median"])
        ]
        if ahead:
            lines.append(f"- {suite}, {bench}, {found[0]['unit']}: {'; '.join(ahead)}.")
    return lines


def head(run: Json) -> list[str]:
    """Where, when and with what it was measured."""
    where, speed = run["machine"], run["calibration"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    disturbed = sum(result["disturbed"] for result in run["results"])
    total = sum(len(result["samples"]) for result in run["results"])
    lines = [
        f"{where['when']}, {where['minutes']:.0f} minutes; {where['cpu']}, cores {where['cores']}, "
        f"the server on {where['server_core']} and the client on {where['client_core']}; "
        f"Linux {where['kernel']}, {where['libc']}; CPython {where['python']} "
        f"({where['compiler']}); {versions}. Commit {where['commit']}. {run['options']['rounds']} "
        f"rounds; {disturbed} of {total} measurements remained disturbed. "
        f"`{' '.join(where['command'])}`",
        "",
    ]
    if speed:
        lines += [
            "Calibration (median, lowest, highest): "
            f"kernel path {speed['kernel_ns_median']:.0f} ({speed['kernel_ns_low']:.0f} to "
            f"{speed['kernel_ns_high']:.0f}) ns, user mode {speed['user_ns_median']:.2f} "
            f"({speed['user_ns_low']:.2f} to {speed['user_ns_high']:.2f}) ns.",
            "",
        ]
    return lines


def by_suite(run: Json) -> dict[str, list[Json]]:
    suites: dict[str, list[Json]] = {}
    for result in run["results"]:
        suites.setdefault(result["suite"], []).append(result)
    return suites


def as_markdown(run: Json) -> str:
    """Everything, each bench with a table of its own."""
    lines = ["## Benchmarks", "", *head(run), *target_lines(run["results"])]
    for suite, results in by_suite(run).items():
        lines += [f"### {TITLES.get(suite, suite)}", ""]
        for bench in dict.fromkeys(result["bench"] for result in results):
            lines += bench_lines(of_bench(results, suite, bench))
    if run["failures"]:
        lines += ["### Failed", "", *[f"- {failure}" for failure in run["failures"]], ""]
    return "\n".join(lines)


def groups(suite: str, results: Sequence[Json]) -> dict[str, list[Json]]:
    """What goes into one compact table each."""
    parts: dict[str, list[Json]] = {}
    for result in results:
        bench = result["bench"]
        key = "" if suite not in ("echo", "memory", "startup", "scaling") else result["unit"]
        for prefix in ("TLS", "UDP", "connections"):
            if suite == "echo" and bench.startswith(prefix):
                key = prefix
        if suite == "scaling":
            key = bench.partition(",")[0]
        if suite == "memory":
            key = bench
        parts.setdefault(key, []).append(result)
    return parts


def compact(run: Json, pictures: Sequence[str] = ()) -> str:
    """For a page: targets, the usual echo in full, and one table for each group of the others."""
    lines = [*head(run), *target_lines(run["results"])]
    if behind := losses(run["results"]):
        lines += ["#### Where a peer is faster than pyloop", "", *behind, ""]
    for suite, results in by_suite(run).items():
        lines += [f"### {TITLES.get(suite, suite)}", ""]
        lines += [f"![{name}](performance/{name})" for name in pictures if name.startswith(suite)]
        lines += [""]
        if suite == "echo" and (main := of_bench(results, suite, MAIN_ECHO)):
            lines += bench_lines(main)
        for group in groups(suite, results).values():
            if len({result["bench"] for result in group}) == 1:
                lines += bench_lines(of_bench(results, suite, group[0]["bench"]))
            else:
                lines += pivot(group)
        meant = [b for b in dict.fromkeys(r["bench"] for r in results) if b in MEANING]
        lines += [f"- {bench}: {MEANING[bench]}." for bench in meant]
        lines += [""] if meant else []
    if run["failures"]:
        lines += ["### Failed", "", *[f"- {failure}" for failure in run["failures"]], ""]
    return "\n".join(lines)


def insert(page: str, text: str) -> str:
    """The page with ``text`` between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


def main(results: str, page: str = "") -> None:
    run = json.loads(Path(results).read_text(encoding="utf-8"))
    if not page:
        print(as_markdown(run))
        return
    pictures = sorted(path.name for path in Path(results).parent.glob("*.svg"))
    text = Path(page).read_text(encoding="utf-8")
    Path(page).write_text(insert(text, compact(run, pictures)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
