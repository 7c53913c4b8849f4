"""From the windows of `make bench-e2e` to goals, table, page and the last line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.e2e_window import ANSWER_TOKENS, SUSTAINED_SHARE, figures
from benchmarks.goals import Goal

if TYPE_CHECKING:
    from benchmarks.e2e import Point, Results

GPU_RATE_PER_S = 1000.0
GPU_WHOLE_P99_MS = 50.0
LATENCIES = ("first_token_p50_ms", "first_token_p99_ms", "whole_p50_ms", "whole_p99_ms")
ADDED = (*LATENCIES, "ending_p50_ms", "ending_p99_ms")


def added_ms(point: Point) -> dict[str, float]:
    """How much longer each latency is through our API than past it, in the mixed windows of one rate. Empty
    unless both halves were sustained."""
    if not point.mixed or not all(half.sustained for half in point.mixed.values()):
        return {}
    bare, own = figures(point.mixed["bare"]), figures(point.mixed["sextant"])
    return {name: own[name] - bare[name] for name in ADDED}


def goals_of(results: Results) -> list[Goal]:
    """What is asked of the long window. The latency is asked at 1,000 requests a second on one H200."""
    long = results.long
    found = figures(long) if long else {}
    offered = long.offered_per_s if long else 0.0
    at_rate = results.rate_given and offered >= 0.97 * GPU_RATE_PER_S
    return [
        Goal(
            "attained_share",
            long.attained_share if long else None,
            long.sustained_share if long else SUSTAINED_SHARE,
        ),
        Goal("failed", float(long.failed) if long else None, 0.0, at_least=False),
        Goal(
            "whole_p99_ms",
            found.get("whole_p99_ms"),
            GPU_WHOLE_P99_MS,
            at_least=False,
            applies=at_rate,
            note=""
            if at_rate
            else "asked at 1,000 requests/s, vLLM on one H200: --document FILE --rate 1000",
        ),
    ]


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def curve_row(point: Point) -> list[str]:
    """One row of the curve."""
    window = point.through
    found = figures(window)
    state = "yes" if window.sustained else "no"
    if window.failures:
        state += "; " + ", ".join(f"{count} {why}" for why, count in sorted(window.failures.items()))
    return [
        number(point.rate_per_s),
        number(window.attained_per_s),
        *(number(found.get(name)) for name in LATENCIES),
        number(found.get("late_p99_ms"), 2),
        number(found["gateway_cpu_ms_per_request"], 2),
        state,
    ]


CURVE_HEAD = (
    "arrivals/s",
    "answers/s",
    "first token p50 ms",
    "p99 ms",
    "whole answer p50 ms",
    "p99 ms",
    "sent late p99 ms",
    "gateway CPU ms/request",
    "sustained",
)


def share_table(results: Results) -> str:
    """The gateway's share of each latency, at the rates that both halves sustained."""
    rows: list[list[str]] = []
    for point in results.curve:
        added = added_ms(point)
        if added:
            own = figures(point.mixed["sextant"])
            cells = [f"{added[name]:+.2f} ({added[name] / own[name]:.0%})" for name in LATENCIES]
            cells += [f"{added[name]:+.2f}" for name in ADDED[len(LATENCIES) :]]
            rows.append([number(point.rate_per_s), *cells])
    head = ["arrivals/s", "first token p50", "p99", "whole answer p50", "p99", "last text to end p50", "p99"]
    return report.table(head, rows) if rows else "No rate was sustained.\n"


def long_section(results: Results) -> str:
    long = results.long
    if long is None:
        return "## The long window\n\nNot run: no rate of the curve was sustained.\n"
    found = figures(long)
    rows = [[name, f"{value:,.2f}"] for name, value in found.items()]
    rows += [[f"failed: {why}", str(count)] for why, count in sorted(long.failures.items())]
    title = f"## The long window: {long.window_s:g} s at {long.offered_per_s:.1f} arrivals/s through our API"
    return f"{title}\n\n{report.table(['figure', 'value'], rows)}"


def page(results: Results, goals: Sequence[Goal]) -> str:
    """The Markdown page of a run."""
    rows = [curve_row(point) for point in results.curve]
    closed = ", ".join(f"{name} {rate:.1f}" for name, rate in results.closed_per_s.items())
    return (
        "# End-to-end benchmark\n"
        + report.machine_list({**results.machine, **results.settings})
        + f"- {ANSWER_TOKENS} tokens an answer, greedy; closed loop, answers/s: {closed}\n\n"
        + "## Rate against latency\n\n"
        + report.table(list(CURVE_HEAD), rows)
        + "\n## Added by the gateway, ms (share of the whole)\n\n"
        + share_table(results)
        + "\n"
        + long_section(results)
        + "\n## Goals\n\n"
        + report.goals_table(goals)
    )


def summary(results: Results) -> dict[str, Any]:
    """The figures of the last line."""
    held = results.sustained_per_s[:1]
    found: dict[str, Any] = {"curve_sustained_per_s": held[0] if held else None}
    found.update({f"closed_{name}_per_s": round(rate, 1) for name, rate in results.closed_per_s.items()})
    if results.long is not None:
        found.update(figures(results.long))
    for point in results.curve:
        added = added_ms(point) if point.rate_per_s in held else {}
        if added:
            own = figures(point.mixed["sextant"])
            shares = {name.removesuffix("_ms"): round(added[name] / own[name], 4) for name in LATENCIES}
            found.update({f"gateway_share_{name}": share for name, share in shares.items()})
    found["curve"] = [
        {"rate_per_s": round(point.rate_per_s, 1), "whole_p99_ms": figures(point.through).get("whole_p99_ms")}
        for point in results.curve
    ]
    return found


def stored(results: Results) -> dict[str, Any]:
    """What the JSON file holds: every figure, not every request."""
    return {
        "machine": results.machine,
        "settings": results.settings,
        "closed_per_s": results.closed_per_s,
        "curve": [
            {
                "rate_per_s": point.rate_per_s,
                "through": figures(point.through) | {"sustained": point.through.sustained},
                "mixed": {name: figures(half) for name, half in point.mixed.items()},
                "added_ms": added_ms(point),
            }
            for point in results.curve
        ],
        "long": figures(results.long) | {"window_s": results.long.window_s} if results.long else None,
    }
