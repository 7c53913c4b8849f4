"""`make bench-e2e`: Poisson arrivals through gateway and engine, 16 tokens an answer.

The whole stack runs as `sextant up` starts it, with the bundled model or with any document. A closed loop
first finds what it can do at most; then windows at rising shares of that give the curve of rate against
latency; the highest rate that was sustained then runs for five minutes, or the next lower one when it is not
sustained for so long. The generator (`load/arrivals.c`)
never waits for an answer, and time counts from when a request was due.

The gateway's share: at each rate another window sends every second request past the gateway, straight to
the engine. Both halves meet the same engine, the same queue and the same noise, so what differs is ours.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks import e2e_report, machine, servers
from benchmarks.e2e_window import Arrivals, Due, Load, figures, joined, run_window, schedule
from benchmarks.goals import exit_code, last_line
from benchmarks.processes import BenchmarkError, stop_cleanly_on_sigterm
from benchmarks.servers import BUILD
from benchmarks.stack import (
    PACED_MS,
    START_TIMEOUT_S,
    Asked,
    Cores,
    Stack,
    numbers,
    paced_stack,
    remote_document,
    running_stack,
)
from sextant.spec.document import builtin_text

BEYOND = 2
"""The curve ends after so many rates in a row that were not sustained."""
CLOSED_CONNECTIONS = 32
CLOSED_ROUNDS = 2
CLOSED_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Form:
    """How much is measured. `shares` are of what the closed loop attained, or of `--rate`."""

    shares: tuple[float, ...]
    rounds: int
    window_s: float
    long_s: float
    closed_requests: int


FORMS = {
    "full": Form((0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0), 2, 15.0, 300.0, 400),
    "short": Form((0.3, 0.6, 0.9), 1, 3.0, 6.0, 200),
}


@dataclass(frozen=True)
class Point:
    """One rate of the curve: all arrivals through our API, and the two halves of the mixed windows, none when
    the rate was sustained in no window."""

    rate_per_s: float
    through: Arrivals
    mixed: Mapping[str, Arrivals]


@dataclass
class Results:
    """All that a run found."""

    machine: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)
    closed_per_s: dict[str, float] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    rate_given: bool = False
    """Whether a real engine was asked for a rate that was given, and not for what it can do."""
    long: Arrivals | None = None

    @property
    def sustained_per_s(self) -> list[float]:
        """The rates of the curve that were sustained, with all below them, the highest first."""
        held = takewhile(lambda point: point.through.sustained, self.curve)
        return [point.rate_per_s for point in held][::-1]


def say(text: str) -> None:
    print(text, flush=True)


def closed_per_s(load: Load, stack: Stack, requests: int) -> dict[str, float]:
    """Answers per second with `CLOSED_CONNECTIONS` requests always under way: what there is at most."""
    narrow = Load(load.work, load.cores, CLOSED_CONNECTIONS, drain_s=CLOSED_TIMEOUT_S)
    found: dict[str, float] = {}
    for _ in range(CLOSED_ROUNDS):
        for way in stack.ways:
            window = run_window(narrow, stack, [way], Due([0] * requests, 0.001))[way.name]
            if window.failed:
                raise BenchmarkError(f"{way.name}: {window.failures} of {requests} requests in a closed loop")
            found[way.name] = max(found.get(way.name, 0.0), window.attained_per_s)
    for name, rate in found.items():
        say(f"  closed loop of {CLOSED_CONNECTIONS}  {name:<8} {rate:>8.1f} answers/s")
    return found


def curve_point(load: Load, stack: Stack, form: Form, *, rate_per_s: float, seed: int) -> Point:
    """One rate: through our API, and, while that is sustained, mixed with requests past it, in turns."""
    through: list[Arrivals] = []
    mixed: dict[str, list[Arrivals]] = {way.name: [] for way in stack.ways}
    for round_index in range(form.rounds):
        due = Due(schedule(rate_per_s, form.window_s, seed + round_index), form.window_s)
        window = run_window(load, stack, [stack.sextant], due)["sextant"]
        through.append(window)
        say(f"  {rate_per_s:>7.1f}/s  {told(window)}")
        if not window.sustained:
            continue
        for name, half in run_window(load, stack, stack.ways, due).items():
            mixed[name].append(half)
    halves = {name: joined(windows) for name, windows in mixed.items() if windows}
    return Point(rate_per_s, joined(through), halves)


def told(window: Arrivals) -> str:
    """A window in one line."""
    found = figures(window)
    first, p50, p99 = (
        found.get(name, 0.0) for name in ("first_token_p99_ms", "whole_p50_ms", "whole_p99_ms")
    )
    failed = f"  {window.failures}" if window.failures else ""
    return (
        f"{window.attained_per_s:>8.1f} answers/s  first token p99 {first:.1f} ms"
        f"  whole p50 {p50:.1f} p99 {p99:.1f} ms{failed}"
    )


def measure(options: argparse.Namespace, work: Path) -> Results:
    """One whole run."""
    servers.build_tools()
    form = FORMS[options.form]
    cores = Cores(options.engine_cores, options.other_cores, options.load_cores)
    results = Results(machine.describe(work), rate_given=options.rate is not None and not options.paced)
    results.machine["xllamacpp"] = machine.own_version("xllamacpp")
    results.machine["cores of engine, others, load"] = f"{cores.engine}; {cores.others}; {cores.load}"
    load = Load(work, cores.load, options.connections)
    with stack_of(options, work, cores) as stack:
        results.settings["model"] = stack.sextant.model
        results.settings["engine"] = engine_name(options)
        results.closed_per_s = closed_per_s(load, stack, form.closed_requests)
        top = options.rate or results.closed_per_s["sextant"]
        for index, share in enumerate(form.shares):
            point = curve_point(load, stack, form, rate_per_s=share * top, seed=100 * index + 1)
            results.curve.append(point)
            if not any(past.through.sustained for past in results.curve[-BEYOND:]) and index >= BEYOND - 1:
                break
        long_s = options.seconds or form.long_s
        for rate in [options.rate] if options.rate else results.sustained_per_s:
            due = Due(schedule(rate, long_s, seed=7), long_s)
            results.long = run_window(load, stack, [stack.sextant], due)["sextant"]
            say(f"  {rate:>7.1f}/s for {long_s:g} s  {told(results.long)}")
            if results.long.sustained:
                break
    return results


def stack_of(options: argparse.Namespace, work: Path, cores: Cores) -> AbstractContextManager[Stack]:
    """What is measured: the whole stack, or gateway and ledger before a source of paced tokens."""
    if options.paced:
        return paced_stack(work, cores)
    asked = Asked(document_of(options, work), options.model, options.start_timeout_s)
    return running_stack(work, cores, asked)


def engine_name(options: argparse.Namespace) -> str:
    paced = f"none: a paced source, one token in {PACED_MS} ms" if options.paced else None
    return str(paced or options.document or options.engine_url or "embedded, the bundled model")


def document_of(options: argparse.Namespace, work: Path) -> Path:
    """The document to start: the one given, one for the engine given by its address, or the built-in one with
    a thread for each of the engine's cores, which it is given only after it has counted its own."""
    if options.document is not None:
        given: Path = options.document
        return given
    if options.engine_url is None:
        path = work / "embedded.yaml"
        path.write_text(f"{builtin_text().rstrip()}\n    threads: {len(numbers(options.engine_cores))}\n")
        return path
    if options.model is None:
        raise BenchmarkError("--engine-url needs --model: the engine's own name for the model")
    path = work / "remote.yaml"
    path.write_text(remote_document(options.engine_url, options.model, key_ref=options.engine_key or ""))
    return path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=FORMS, default="full")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--document", type=Path, help="what to start; without it, the bundled model")
    given.add_argument("--paced", action="store_true", help="a source of paced tokens in place of an engine")
    given.add_argument("--engine-url", help="an engine that runs already: http://127.0.0.1:PORT/v1")
    parser.add_argument("--engine-key", help="reference to that engine's key: env:NAME or file:/path")
    parser.add_argument("--model", help="which model of the document (default: its first)")
    parser.add_argument("--rate", type=float, help="arrivals per second; without it, found")
    parser.add_argument("--seconds", type=float, help="length of the long window")
    parser.add_argument("--connections", type=int, default=Load.connections, help="most at a time")
    parser.add_argument("--engine-cores", default="1", help="cores as taskset takes them")
    parser.add_argument("--other-cores", default="0", help="cores of gateway, ledger and control")
    parser.add_argument("--load-cores", default="0", help="cores of the generator")
    parser.add_argument("--start-timeout-s", type=float, default=START_TIMEOUT_S)
    parser.add_argument("--out", type=Path, help="directory for the result files")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    stop_cleanly_on_sigterm()
    out = options.out or (Path(__file__).parent / "results" if options.form == "full" else BUILD)
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    try:
        results = measure(options, work)
    except BenchmarkError as error:
        say(f"the benchmark was stopped: {error}")
        say(last_line("e2e", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    goals = e2e_report.goals_of(results)
    name = "e2e" if options.form == "full" else f"e2e-{options.form}"
    content = {**e2e_report.stored(results), "goals": {goal.name: goal.as_json() for goal in goals}}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    page = e2e_report.page(results, goals)
    (out / f"{name}.md").write_text(page)
    say(page)
    say(last_line("e2e", e2e_report.summary(results), goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
