"""Writes what was measured: a JSON file with every window, Markdown tables, a summary for the last line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.goals import Goal
from benchmarks.stats import spread
from benchmarks.verdict import added_p50_ms, added_ttft_ms, rates, run_fsync_ms

if TYPE_CHECKING:
    from benchmarks.gateway import Results
    from benchmarks.windows import ClosedWindow

DISTURBED_SHARE = 0.05
"""CPU taken on the server's core by other programs above which a window counts as disturbed."""


def thousands(value: float) -> str:
    return f"{value:,.0f}"


def ranged(values: Sequence[float], digits: int) -> str:
    """`median (low to high)`."""
    row = spread(values)
    return f"{row.median:,.{digits}f} ({row.low:,.{digits}f} to {row.high:,.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def disturbed(windows: Sequence[ClosedWindow]) -> int:
    return sum(window.cores.others_on_server_core > DISTURBED_SHARE for window in windows)


def closed_table(results: Results, connections: int) -> str:
    """Closed-loop load at one number of connections."""
    rows = []
    for name, windows in results.closed[connections].items():
        if not windows:
            continue
        ours = rates(results, connections, "sextant")
        own = spread(rates(results, connections, name)).median
        share = f"{spread(ours).median / own:.2f}" if ours and name != "sextant" else ""
        rows.append(
            [
                name,
                ranged([window.req_per_s for window in windows], 0),
                ranged([window.p50_ms for window in windows], 2),
                ranged([window.p99_ms for window in windows], 2),
                share,
                f"{spread([window.cpu_us_per_request for window in windows]).median:.1f}",
                f"{spread([window.cores.server_share for window in windows]).median:.0%}",
                f"{len(windows)}" + (f", {disturbed(windows)} disturbed" if disturbed(windows) else ""),
            ]
        )
    head = [
        "server",
        "req/s",
        "p50 ms",
        "p99 ms",
        "sextant / server",
        "CPU us / request",
        "core used",
        "windows",
    ]
    return table(head, rows)


def rate_table(results: Results) -> str:
    """Constant rate; `added` is over the upstream asked directly."""
    rows = []
    for name, windows in results.rate.items():
        added = added_p50_ms(results, name)
        rows.append(
            [
                name,
                ranged([window.latencies.p50_ms for window in windows], 3),
                "" if name == "direct" or added is None else f"{added:.3f}",
                ranged([window.latencies.p99_ms for window in windows], 2),
                ranged([window.latencies.sent_p99_ms for window in windows], 2),
                thousands(spread([window.achieved_per_s for window in windows]).median),
            ]
        )
    head = ["server", "p50 ms", "added p50 ms", "p99 ms", "p99 ms from sending (uncorrected)", "answers/s"]
    return table(head, rows)


def streams_table(results: Results, count: int) -> str:
    """Open streams at one count."""
    by_server = results.streams[count]
    rows = []
    for name, windows in by_server.items():
        added = added_ttft_ms(results, count, name)
        cpu = [row.cpu_s_per_1000_chunks for row in windows]
        rows.append(
            [
                name,
                ranged([row.window.chunks_per_s for row in windows], 0),
                thousands(spread([row.window.offered_per_s for row in windows]).median),
                "FALLS BEHIND" if any(row.window.falls_behind for row in windows) else "keeps up",
                "" if added is None or name == "direct" else f"{added:.2f}",
                f"{spread([row.window.delay_p50_ms for row in windows]).median:.2f}",
                f"{spread([row.window.delay_p99_ms for row in windows]).median:.2f}",
                f"{spread([row.window.jitter_p99_ms for row in windows]).median:.2f}",
                "" if name == "direct" else f"{spread(cpu).median:.4f}",
                f"{max(row.source_late_max_ms for row in windows):.1f}",
            ]
        )
    head = [
        "server", "chunks/s", "offered/s", "", "added TTFT p50 ms", "delay p50 ms", "delay p99 ms",
        "jitter p99 ms", "CPU s per 1000 chunks", "source late at most, ms",
    ]  # fmt: skip
    return table(head, rows)


def goals_table(goals: Sequence[Goal]) -> str:
    rows = []
    for goal in goals:
        row = goal.as_json()
        figure = "not measured" if row["figure"] is None else f"{row['figure']:.4g}"
        rows.append([goal.name, figure, row["goal"], goal.verdict, goal.note])
    return table(["goal", "figure", "bound", "verdict", "note"], rows)


def machine_list(facts: dict[str, Any]) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def gateway_page(results: Results, goals: Sequence[Goal]) -> str:
    """The Markdown page of a gateway run."""
    parts = ["# Gateway benchmark\n", machine_list(results.machine)]
    parts.append(f"- fsync over the run: {run_fsync_ms(results):.3f} ms (median)\n")
    parts += [f"- {name}: {note}\n" for name, note in results.settings.items()]
    for connections in results.closed:
        parts.append(f"\n## Closed loop, {connections} connections\n\n{closed_table(results, connections)}")
    if results.rate:
        parts.append(f"\n## Constant rate, 5,000 requests/s\n\n{rate_table(results)}")
    for count in results.streams:
        parts.append(f"\n## {count} open streams at 50 tokens/s\n\n{streams_table(results, count)}")
    if results.memory:
        memory = results.memory
        parts.append(
            f"\n## Memory over 100,000 requests\n\n"
            f"Resident: {memory.early_kib:,.0f} KiB in the second fifth, "
            f"{memory.late_kib:,.0f} KiB in the last fifth; growth {memory.growth_kib:+,.0f} KiB, slope "
            f"{memory.slope_kib_per_100k:+,.0f} KiB per 100,000 requests ({memory.samples} samples).\n"
        )
    parts.append(f"\n## Goals\n\n{goals_table(goals)}")
    return "".join(parts)


def summary(results: Results) -> dict[str, Any]:
    """The figures of the last line: medians only."""
    figures: dict[str, Any] = {"fsync_ms": round(run_fsync_ms(results), 4)}
    for connections, by_server in results.closed.items():
        for name, windows in by_server.items():
            if windows:
                rate = spread([window.req_per_s for window in windows]).median
                figures[f"{name}_req_per_s_{connections}"] = round(rate, 1)
    for name in results.rate:
        added = added_p50_ms(results, name)
        if added is not None and name != "direct":
            figures[f"{name}_added_p50_ms"] = round(added, 4)
            p99 = spread([window.latencies.p99_ms for window in results.rate[name]]).median
            figures[f"{name}_p99_ms"] = round(p99, 3)
    for count, by_name in results.streams.items():
        for name, rows in by_name.items():
            chunks = spread([row.window.chunks_per_s for row in rows]).median
            figures[f"{name}_chunks_per_s_{count}"] = round(chunks)
            ttft = added_ttft_ms(results, count, name)
            if ttft is not None and name != "direct":
                figures[f"{name}_added_ttft_ms_{count}"] = round(ttft, 3)
    if results.memory:
        figures["memory_growth_kib"] = round(results.memory.growth_kib, 1)
    if results.ledger_rows is not None:
        figures["ledger_rows"] = results.ledger_rows
    return figures


def write_gateway(out: Path, name: str, results: Results, goals: Sequence[Goal]) -> None:
    """`<name>.json` with every window and `<name>.md` with the tables."""
    content = dataclasses.asdict(results)
    content["goals"] = {goal.name: goal.as_json() for goal in goals}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / f"{name}.md").write_text(gateway_page(results, goals))
