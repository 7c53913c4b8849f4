"""The arithmetic of the benchmarks: percentiles, spreads, corrected latencies, growth. Pure functions.

Everything a wrong figure could hide in stands here, away from processes and clocks, with tests of its own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

OPEN_LOOP_RECORD = struct.Struct("<qqq")
"""due_ns, sent_ns, done_ns: one request of the constant-rate load."""


@dataclass(frozen=True)
class Spread:
    """Median and range of the windows of one figure."""

    median: float
    low: float
    high: float
    windows: int


@dataclass(frozen=True)
class Latencies:
    """Percentiles of one window in milliseconds. `p50_ms` and `p99_ms` count from the time a request was due;
    the `sent_` ones from the time it was sent, which hides a stalled server and is shown for comparison."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    sent_p50_ms: float
    sent_p99_ms: float
    requests: int


@dataclass(frozen=True)
class Growth:
    """Memory over a run: medians of the second and the last fifth, and a least-squares slope over the last
    four fifths, per 100,000 requests."""

    early_kib: float
    late_kib: float
    growth_kib: float
    slope_kib_per_100k: float
    samples: int


def percentile(values: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile by linear interpolation between closest ranks. Raises ValueError when empty
    or when `percent` is outside 0..100."""
    if not values:
        raise ValueError("a percentile of no values does not exist")
    if not 0 <= percent <= 100:
        raise ValueError(f"percent is {percent}, expected 0..100")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(values: Sequence[float]) -> Spread:
    """Median and range. Raises ValueError when empty."""
    if not values:
        raise ValueError("a spread of no windows does not exist")
    return Spread(median(values), min(values), max(values), len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Ratio of the medians of two sets of windows of one run. Raises ValueError unless theirs is positive."""
    base = spread(theirs).median
    if base <= 0:
        raise ValueError(f"the peer's median is {base}; a ratio to it means nothing")
    return spread(ours).median / base


def open_loop_latencies(records: bytes) -> Latencies:
    """Latencies of a constant-rate window, corrected for coordinated omission: a request that could not be
    sent when it was due has waited since then. Raises ValueError on an impossible record."""
    due_ms: list[float] = []
    sent_ms: list[float] = []
    for due, sent, done in OPEN_LOOP_RECORD.iter_unpack(records):
        if not due <= sent <= done:
            raise ValueError(f"impossible record: due {due}, sent {sent}, done {done}")
        due_ms.append((done - due) / 1e6)
        sent_ms.append((done - sent) / 1e6)
    return Latencies(
        p50_ms=percentile(due_ms, 50),
        p99_ms=percentile(due_ms, 99),
        max_ms=max(due_ms),
        sent_p50_ms=percentile(sent_ms, 50),
        sent_p99_ms=percentile(sent_ms, 99),
        requests=len(due_ms),
    )


def achieved_per_s(records: bytes) -> float:
    """Answers per second of a constant-rate window, from the first due time to the last answer."""
    rows = list(OPEN_LOOP_RECORD.iter_unpack(records))
    return len(rows) / ((max(row[2] for row in rows) - rows[0][0]) / 1e9)


def growth(samples: Sequence[tuple[float, float]]) -> Growth:
    """Growth over the last four fifths of a run of (requests done, KiB) samples in order. The first fifth is
    warm-up. Raises ValueError below ten samples."""
    if len(samples) < 10:
        raise ValueError(f"{len(samples)} memory samples say nothing about growth; at least 10 are needed")
    total = samples[-1][0]
    early = [kib for done, kib in samples if 0.2 * total <= done < 0.4 * total]
    late = [kib for done, kib in samples if done >= 0.8 * total]
    if not early or not late:
        raise ValueError("no memory sample in the second or the last fifth of the run")
    tail = [(done, kib) for done, kib in samples if done >= 0.2 * total]
    return Growth(
        early_kib=median(early),
        late_kib=median(late),
        growth_kib=median(late) - median(early),
        slope_kib_per_100k=slope(tail) * 100_000,
        samples=len(samples),
    )


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; 0 for points that share one x."""
    rows = list(points)
    mean_x = sum(x for x, _ in rows) / len(rows)
    mean_y = sum(y for _, y in rows) / len(rows)
    spread_x = sum((x - mean_x) ** 2 for x, _ in rows)
    if spread_x == 0:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in rows) / spread_x
