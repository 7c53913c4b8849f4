"""From the windows of a gateway run to its goals. Pure: what is judged, against what, and when it applies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.goals import Goal
from benchmarks.stats import percentile, ratio
from benchmarks.streams import KEEPING_UP_SHARE

if TYPE_CHECKING:
    from benchmarks.gateway import Results

FAST_FSYNC_MS = 0.2
NGINX_SHARE = 0.2
SGLANG_RATIO = 1.3
LITELLM_RATIO = 200.0
ADDED_P50_MS = 1.0
STREAMS = 1000
GROWTH_TOLERANCE_KIB = 512.0
"""Resident memory moves by whole arenas; half a MiB over 80,000 requests is 6 bytes a request."""
OURS = "sextant"


def rates(results: Results, connections: int, name: str) -> list[float]:
    """req/s of every window of a server, empty when it was not measured."""
    return [window.req_per_s for window in results.closed.get(connections, {}).get(name, [])]


def ratio_or_none(ours: list[float], theirs: list[float]) -> float | None:
    return ratio(ours, theirs) if ours and theirs else None


def p50_ms(results: Results, name: str) -> float | None:
    """Median over the windows of the constant-rate median."""
    rows = [window.latencies.p50_ms for window in results.rate.get(name, [])]
    return percentile(rows, 50) if rows else None


def added_p50_ms(results: Results, name: str) -> float | None:
    """What a server adds at the median of the constant rate, over the upstream asked directly."""
    own, floor = p50_ms(results, name), p50_ms(results, "direct")
    return None if own is None or floor is None else own - floor


def added_ttft_ms(results: Results, count: int, name: str) -> float | None:
    """What a server adds to the median time to first token at `count` streams, over the source itself."""
    by_server = results.streams.get(count, {})
    own = [row.window.ttft_p50_ms for row in by_server.get(name, []) if row.window.ttft_p50_ms is not None]
    floor = [
        row.window.ttft_p50_ms for row in by_server.get("direct", []) if row.window.ttft_p50_ms is not None
    ]
    return percentile(own, 50) - percentile(floor, 50) if own and floor else None


def run_fsync_ms(results: Results) -> float:
    """Median of the fsync times taken between the windows; the one taken at the start when there are none."""
    return percentile(results.fsync_ms, 50) if results.fsync_ms else float(results.machine["fsync_ms"])


def goals_of(results: Results) -> list[Goal]:
    """The goals of the gateway benchmark, in the order of the README."""
    goals: list[Goal] = []
    fsync = run_fsync_ms(results)
    for connections in sorted(results.closed):
        ours = rates(results, connections, OURS)
        sglang = ratio_or_none(ours, rates(results, connections, "sglang"))
        goals.append(Goal(f"x_sglang_{connections}", sglang, SGLANG_RATIO))
        slow_disk = connections == 64 and fsync >= FAST_FSYNC_MS
        goals.append(
            Goal(
                f"x_nginx_{connections}",
                ratio_or_none(ours, rates(results, connections, "nginx")),
                NGINX_SHARE,
                applies=not slow_disk,
                note=f"an fsync takes {fsync:.2f} ms here; the goal is for under {FAST_FSYNC_MS} ms"
                if slow_disk
                else "",
            )
        )
        goals.append(
            Goal(
                f"x_litellm_{connections}",
                ratio_or_none(ours, rates(results, connections, "litellm")),
                LITELLM_RATIO,
            )
        )
    if results.rate:
        added = added_p50_ms(results, OURS)
        goals.append(Goal("added_p50_ms_at_5000_per_s", added, ADDED_P50_MS, at_least=False))
    if results.streams:
        goals.append(streams_goal(results))
    if results.closed:
        growth = results.memory.growth_kib if results.memory else None
        goals.append(Goal("memory_growth_kib", growth, GROWTH_TOLERANCE_KIB, at_least=False))
    return goals


def streams_goal(results: Results) -> Goal:
    """1,000 streams keep up in every window. The figure is the worst window's share of the offered chunks; a
    window whose delay kept growing counts as 0."""
    by_server = results.streams.get(STREAMS, {})
    shares = [
        0.0 if row.window.falls_behind else min(1.0, row.window.chunks_per_s / row.window.offered_per_s)
        for row in by_server.get(OURS, [])
    ]
    source_late = any(row.window.falls_behind for row in by_server.get("direct", []))
    return Goal(
        "keeps_up_share_1000_streams",
        min(shares) if shares else None,
        KEEPING_UP_SHARE,
        note="the source itself fell behind in a window: the machine was too busy to tell"
        if source_late
        else "",
    )
