"""Reads what `load/stream_client` recorded of a window: rate, time to first token, delay, jitter.

Every chunk of the source carries the time it was made, so the delay of each single chunk through the server
under test is known, not only its distance to the chunk before.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from benchmarks.stats import percentile

EVENT = struct.Struct("<iiqq")
"""stream, index in the answer, read_ns, made_ns (0: unstamped). Index -1 comes before an answer's first
chunk and has the time the request was sent in the place of made_ns."""
ANSWER = struct.Struct("<iiiiqqq")
"""stream, content events, tokens by the answer's own usage, 0, sent_ns, first_ns, end_ns."""

KEEPING_UP_SHARE = 0.99
"""Share of the offered chunks that must arrive inside the window."""


@dataclass(frozen=True)
class StreamWindow:
    """One window of open streams; times in milliseconds. `ttft_*` is None when no answer began in the
    window."""

    chunks_per_s: float
    offered_per_s: float
    delay_p50_ms: float
    delay_p99_ms: float
    delay_first_quarter_ms: float
    delay_last_quarter_ms: float
    jitter_p50_ms: float
    jitter_p99_ms: float
    gap_p50_ms: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    answers: int
    falls_behind: bool


def read_window(
    events: bytes, answers: bytes, *, start_ns: int, end_ns: int, offered_per_s: float, period_ms: float
) -> StreamWindow:
    """What happened between `start_ns` and `end_ns`. `offered_per_s` is what the source sent in that time.
    Raises ValueError when no chunk lies in the window."""
    seen = [row for row in EVENT.iter_unpack(events) if start_ns <= row[2] < end_ns]
    inside = [row for row in seen if row[1] >= 0]
    ttft = [(read - sent) / 1e6 for _, index, read, sent in seen if index == -1]
    ended = [row for row in ANSWER.iter_unpack(answers) if start_ns <= row[6] < end_ns]
    if not inside:
        raise ValueError("no chunk in the window: nothing was measured")
    seconds = (end_ns - start_ns) / 1e9
    delays = [(read - made) / 1e6 for _, _, read, made in inside if made]
    gaps = inter_token_gaps_ms(inside)
    jitter = [abs(gap - period_ms) for gap in gaps]
    quarter = (end_ns - start_ns) // 4
    first = [(r - m) / 1e6 for _, _, r, m in inside if m and r < start_ns + quarter]
    last = [(r - m) / 1e6 for _, _, r, m in inside if m and r >= end_ns - quarter]
    rate = len(inside) / seconds
    early, late = (median(first) if first else 0.0), (median(last) if last else 0.0)
    return StreamWindow(
        chunks_per_s=rate,
        offered_per_s=offered_per_s,
        delay_p50_ms=percentile(delays, 50) if delays else 0.0,
        delay_p99_ms=percentile(delays, 99) if delays else 0.0,
        delay_first_quarter_ms=early,
        delay_last_quarter_ms=late,
        jitter_p50_ms=percentile(jitter, 50) if jitter else 0.0,
        jitter_p99_ms=percentile(jitter, 99) if jitter else 0.0,
        gap_p50_ms=percentile(gaps, 50) if gaps else 0.0,
        ttft_p50_ms=percentile(ttft, 50) if ttft else None,
        ttft_p99_ms=percentile(ttft, 99) if ttft else None,
        answers=len(ended),
        falls_behind=falls_behind(rate, offered_per_s, late - early, period_ms),
    )


def inter_token_gaps_ms(events: list[tuple[int, int, int, int]]) -> list[float]:
    """Time between neighbouring chunks of one answer. Events of one read share a time and give gaps of 0."""
    gaps: list[float] = []
    before: dict[int, tuple[int, int]] = defaultdict(lambda: (-2, 0))
    for stream, index, read, _ in events:
        last_index, last_read = before[stream]
        if index == last_index + 1:
            gaps.append((read - last_read) / 1e6)
        before[stream] = (index, read)
    return gaps


def falls_behind(rate: float, offered: float, delay_growth_ms: float, period_ms: float) -> bool:
    """A server falls behind when fewer chunks arrive than were offered, or when the median delay grows by
    more than one token period between the first and the last quarter of the window."""
    return rate < KEEPING_UP_SHARE * offered or delay_growth_ms > period_ms
