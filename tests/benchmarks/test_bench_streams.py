"""What is read from the records of open streams."""

from __future__ import annotations

import pytest

from benchmarks import streams

MS = 1_000_000
PERIOD_MS = 20


def records(delay_ms: list[float], *, first_sent_ms: float = -2.0) -> tuple[bytes, bytes]:
    """One stream of one answer: chunk k is made at k periods and read `delay_ms[k]` later."""
    made = [k * PERIOD_MS for k in range(len(delay_ms))]
    read = [at + delay for at, delay in zip(made, delay_ms, strict=True)]
    rows = [streams.EVENT.pack(3, -1, int(read[0] * MS), int(first_sent_ms * MS))]
    rows += [
        streams.EVENT.pack(3, index, int(read[index] * MS), int(made[index] * MS) or 1)
        for index in range(len(read))
    ]
    ending = streams.ANSWER.pack(
        3, len(read), len(read), 0, int(first_sent_ms * MS), int(read[0] * MS), int(read[-1] * MS)
    )
    return b"".join(rows), ending


def window(delay_ms: list[float], offered_per_s: float = 50.0) -> streams.StreamWindow:
    events, answers = records(delay_ms)
    end_ns = int(len(delay_ms) * PERIOD_MS * MS)
    return streams.read_window(
        events, answers, start_ns=0, end_ns=end_ns, offered_per_s=offered_per_s, period_ms=PERIOD_MS
    )


def test_a_steady_stream() -> None:
    found = window([1.0] * 50)
    assert found.chunks_per_s == pytest.approx(50.0)
    assert found.delay_p50_ms == pytest.approx(1.0, abs=0.01)
    assert found.gap_p50_ms == pytest.approx(20.0)
    assert found.jitter_p99_ms == pytest.approx(0.0, abs=0.01)
    assert found.ttft_p50_ms == pytest.approx(3.0)
    assert found.answers == 1
    assert not found.falls_behind


def test_jitter_is_the_distance_from_the_period() -> None:
    found = window([1.0, 6.0] * 25)
    assert found.jitter_p50_ms == pytest.approx(5.0)
    assert not found.falls_behind


def test_a_growing_delay_is_falling_behind_although_the_rate_still_looks_right() -> None:
    growing = window([float(k) for k in range(50)], offered_per_s=48.0)
    assert growing.delay_last_quarter_ms - growing.delay_first_quarter_ms > PERIOD_MS
    assert growing.falls_behind


def test_fewer_chunks_than_offered_is_falling_behind() -> None:
    assert window([1.0] * 50, offered_per_s=51.0).falls_behind
    assert not window([1.0] * 50, offered_per_s=50.4).falls_behind


def test_chunks_that_arrive_together_have_gaps_of_nothing() -> None:
    rows = [(1, 0, 100 * MS, 1), (1, 1, 100 * MS, 1), (2, 0, 100 * MS, 1), (1, 2, 130 * MS, 1)]
    assert streams.inter_token_gaps_ms(rows) == [0.0, 30.0]


def test_a_new_answer_or_a_lost_chunk_makes_no_gap() -> None:
    rows = [(1, 7, 100 * MS, 1), (1, 0, 150 * MS, 1), (1, 2, 190 * MS, 1)]
    assert streams.inter_token_gaps_ms(rows) == []


def test_a_window_without_chunks_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        streams.read_window(b"", b"", start_ns=0, end_ns=10, offered_per_s=1, period_ms=20)
