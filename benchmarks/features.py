"""`make bench-features`: what each part of governance costs, in one run.

A column is our gateway with one more thing switched on, in a process of its own with everything that it
needs on the same core. Windows alternate between the columns, so that a noisy moment falls on all. The first
has no governance at all; ratios are to it. The prompt holds a telephone number and an e-mail address. Then
the same with 4 ms added to each sync of the ledger, at one connection (what one answer waits) and at many
(what group commit keeps), two gateway processes beside one, and one gateway whose processes may run on both
cores, as where nobody pins them, beside the same without governance.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, payload, servers
from benchmarks.gateway import rotated, say
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.governed import Column, remove, start_column
from benchmarks.processes import BenchmarkError, cpu_s, stop_cleanly_on_sigterm
from benchmarks.report import ranged, table
from benchmarks.servers import Bench, Server
from benchmarks.windows import ClosedWindow, closed_window, wait_until_quiet

SLOW_FSYNC_MS = 4.0
CONNECTIONS = (64, 512)
COLUMNS = (
    Column("off", governed=False),
    Column("ledger"),
    Column("+limits", limits=True),
    Column("+money", limits=True, money=True),
    Column("+privacy", limits=True, money=True, privacy=True),
    Column("Redis", limits=True, money=True, redis=True),
    Column("PostgreSQL", limits=True, money=True, postgres=True),
    Column("Redis+PostgreSQL", limits=True, money=True, redis=True, postgres=True),
    Column("all", limits=True, money=True, privacy=True, redis=True, postgres=True),
)
ONE = Column("one gateway", limits=True, money=True, redis=True, postgres=True)
TWO = Column("two gateways", limits=True, money=True, redis=True, postgres=True, workers=2)
"""In turn, since CPU a request moves with what else the machine does."""
UNPINNED = (
    Column("off, both cores", governed=False, both_cores=True),
    Column("+money, both cores", limits=True, money=True, both_cores=True),
)
SLOW = Column("+money, slow sync", limits=True, money=True, slow_fsync_ms=SLOW_FSYNC_MS)


@dataclass(frozen=True)
class Share:
    """A goal: one column keeps so much of another's requests a second."""

    name: str
    column: str
    of: str
    at_least: float


SHARES = (
    Share("in_process_all_on", "+money", "off", 0.70),
    Share("in_process_all_on_both_cores", UNPINNED[1].name, UNPINNED[0].name, 0.70),
    Share("privacy_both_ways", "+privacy", "off", 0.40),
    Share("redis_and_postgresql_per_core", "Redis+PostgreSQL", "off", 0.35),
)
TWO_GATEWAYS_CPU_AT_MOST = 1.15
"""CPU of one request with two gateways, as a multiple of that with one: near 1, twice the cores do twice."""
SLOW_KEEPS = 0.70
"""Of the requests a second at 512 connections, when each sync takes 4 ms more."""
SLOW_SYNCS_WAITED = 2.0
"""Syncs that one answer may wait for when nobody else asks: its own, and the tail of the one under way."""


@dataclass
class Results:
    """All windows, by connections and column."""

    machine: dict[str, Any]
    closed: dict[int, dict[str, list[ClosedWindow]]] = field(default_factory=dict)
    parts_us: dict[int, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    """CPU microseconds of a request by process, of each window."""
    fsync_ms: list[float] = field(default_factory=list)

    def rate(self, name: str, connections: int) -> float | None:
        """Median requests a second."""
        windows = self.closed.get(connections, {}).get(name, [])
        return median(window.req_per_s for window in windows) if windows else None

    def of_base(self, name: str, connections: int) -> float | None:
        """What the column keeps of the one without governance that it is held against."""
        return quotient(self.rate(name, connections), self.rate(base_of(name), connections))

    def cpu_us(self, name: str, connections: int) -> float | None:
        windows = self.closed.get(connections, {}).get(name, [])
        return median(window.cpu_us_per_request for window in windows) if windows else None

    def parts(self, name: str, connections: int) -> str:
        """The median of each process, as `gateway 80 + ledger 20`."""
        windows = self.parts_us.get(connections, {}).get(name, [])
        names = windows[0] if windows else ()
        return " + ".join(f"{part} {median(window[part] for window in windows):.0f}" for part in names)

    def p50_ms(self, name: str, connections: int) -> float | None:
        windows = self.closed.get(connections, {}).get(name, [])
        return median(window.p50_ms for window in windows) if windows else None


def measure(
    bench: Bench, columns: list[Column], form: tuple[int, int], results: Results, *, at: tuple[int, ...]
) -> None:
    """Windows of all `columns` in alternation. `form`: how many, and seconds each."""
    windows, seconds = form
    with ExitStack() as stack:
        upstream = servers.static_upstream(bench)
        stack.callback(upstream.stop)
        running: list[Server] = []
        for column in columns:
            say(f"  starting {column.name}")
            running.append(start_column(bench, column, upstream.port))
            stack.callback(remove, running[-1])
        body = payload.body(stream=False, personal=True)
        for server in running:
            closed_window(bench, server, CONNECTIONS[0], 1, body=body)
        for connections in at:
            by_column = results.closed.setdefault(connections, {})
            parts = results.parts_us.setdefault(connections, {})
            for round_index in range(windows):
                results.fsync_ms.append(machine.fsync_ms(bench.state))
                for server in rotated(running, round_index):
                    wait_until_quiet(running)
                    before = spent_s(server)
                    window = closed_window(bench, server, connections, seconds, body=body)
                    spent = {part: total_s - before[part] for part, total_s in spent_s(server).items()}
                    a_request = {part: part_s / window.requests * 1e6 for part, part_s in spent.items()}
                    parts.setdefault(server.name, []).append(a_request)
                    by_column.setdefault(server.name, []).append(window)
                    say(f"  {connections:>4} connections  {server.name:<18} {window.req_per_s:>9.0f} req/s")


def spent_s(server: Server) -> dict[str, float]:
    """CPU seconds so far by what a process is; gateways together."""
    found: dict[str, float] = {}
    for process in server.processes:
        part = "gateway" if "-gateway-" in process.name else process.name
        found[part] = found.get(part, 0.0) + cpu_s([process.pid])
    return found


def quotient(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def goals_of(results: Results) -> list[Goal]:
    """Each share at the better of both numbers of connections is not enough: the worse one counts."""
    goals = []
    for share in SHARES:
        found = [
            quotient(results.rate(share.column, connections), results.rate(share.of, connections))
            for connections in CONNECTIONS
        ]
        known = [value for value in found if value is not None]
        goals.append(Goal(share.name, min(known) if known else None, share.at_least))
    many = CONNECTIONS[-1]
    per_request = quotient(results.cpu_us(TWO.name, many), results.cpu_us(ONE.name, many))
    goals.append(Goal("cpu_of_two_gateways", per_request, TWO_GATEWAYS_CPU_AT_MOST, at_least=False))
    goals.append(
        Goal(
            "slow_sync_keeps",
            quotient(results.rate(SLOW.name, many), results.rate("+money", many)),
            SLOW_KEEPS,
        )
    )
    slow_ms, fast_ms = results.p50_ms(SLOW.name, 1), results.p50_ms("+money", 1)
    waited = None if slow_ms is None or fast_ms is None else (slow_ms - fast_ms) / SLOW_FSYNC_MS
    goals.append(Goal("slow_syncs_waited_for", waited, SLOW_SYNCS_WAITED, at_least=False))
    return goals


def base_of(name: str) -> str:
    """The column without governance that a column is held against."""
    return UNPINNED[0].name if name in (column.name for column in UNPINNED) else COLUMNS[0].name


def page(results: Results, goals: list[Goal]) -> str:
    """The tables."""
    lines = ["# What governance costs\n", f"An fsync takes {ranged(results.fsync_ms, 3)} ms here.\n"]
    for connections, by_column in sorted(results.closed.items()):
        rows = [
            [
                name,
                ranged([window.req_per_s for window in windows], 0),
                f"{results.of_base(name, connections) or 0:.2f}",
                ranged([window.p50_ms for window in windows], 2),
                ranged([window.p99_ms for window in windows], 2),
                f"{results.cpu_us(name, connections) or 0:.1f}",
                results.parts(name, connections),
            ]
            for name, windows in by_column.items()
        ]
        lines.append(f"## {connections} connections\n")
        lines.append(
            table(["column", "req/s", "of off", "p50 ms", "p99 ms", "CPU us / request", "of which"], rows)
        )
    verdicts = [[goal.name, f"{goal.figure or 0:.2f}", f"{goal.bound:g}", goal.verdict] for goal in goals]
    return "\n".join([*lines, "## Goals\n", table(["goal", "figure", "bound", "verdict"], verdicts)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=("full", "short"), default="full")
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--state", type=Path, help="directory for the ledgers (default: beside the checkout)")
    options = parser.parse_args()
    stop_cleanly_on_sigterm()
    form = (7, 2) if options.form == "full" else (1, 1)
    state_root = options.state or servers.BUILD
    state_root.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="bench-features-", dir=state_root))
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    bench = Bench(work, state, options.server_core, options.load_core)
    try:
        servers.build_tools()
        results = Results(machine.describe(state))
        measure(bench, list(COLUMNS), form, results, at=CONNECTIONS)
        measure(bench, [ONE, TWO], form, results, at=CONNECTIONS[-1:])
        measure(bench, list(UNPINNED), form, results, at=CONNECTIONS)
        pair = [column for column in COLUMNS if column.name == "+money"]
        measure(bench, [SLOW], form, results, at=CONNECTIONS)
        measure(bench, [*pair, SLOW], form, results, at=(1,))
    except BenchmarkError as error:
        say(f"the benchmark was stopped: {error}")
        say(last_line("features", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
    goals = goals_of(results)
    out = Path(__file__).parent / "results" if options.form == "full" else servers.BUILD
    name = "features" if options.form == "full" else "features-short"
    content = {**asdict(results), "goals": {goal.name: goal.as_json() for goal in goals}}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / f"{name}.md").write_text(page(results, goals))
    say((out / f"{name}.md").read_text())
    rates = {
        f"{column.name}_req_per_s_512": results.rate(column.name, 512)
        for column in (*COLUMNS, ONE, TWO, *UNPINNED, SLOW)
    }
    say(last_line("features", rates, goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
