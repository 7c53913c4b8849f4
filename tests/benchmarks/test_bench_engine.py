"""What is read from a window of the engine benchmark, and its goals."""

from __future__ import annotations

import pytest
from benchmarks.engine import ANSWER_TOKENS, EngineWindow, Results, goals_of, read_window
from benchmarks.goals import exit_code
from benchmarks.processes import BenchmarkError
from benchmarks.streams import ANSWER, EVENT

from benchmarks import engine

MS = 1_000_000


def records(tokens: int = ANSWER_TOKENS, gap_ms: float = 2.0) -> tuple[bytes, bytes]:
    """Two streams of one answer each, begun together, the first token 5 ms after the request."""
    reads = [int((5 + k * gap_ms) * MS) for k in range(tokens)]
    events = b"".join(
        EVENT.pack(stream, index, reads[max(index, 0)], 0) for stream in (0, 1) for index in range(-1, tokens)
    )
    end = reads[-1] + MS
    answers = b"".join(ANSWER.pack(stream, tokens, tokens, 0, 0, reads[0], end) for stream in (0, 1))
    return events, answers


def test_a_window_is_all_tokens_over_the_time_from_the_first_request_to_the_last_end() -> None:
    found = read_window(*records(), expected_answers=2)
    seconds = (5 + (ANSWER_TOKENS - 1) * 2.0 + 1) / 1000
    assert found.tokens_per_s == pytest.approx(2 * ANSWER_TOKENS / seconds)
    assert found.gap_p50_ms == pytest.approx(2.0)
    assert found.ttft_p50_ms == pytest.approx(5.0)


def test_fewer_answers_or_shorter_ones_are_no_figure() -> None:
    with pytest.raises(BenchmarkError, match="2 answers, expected 3"):
        read_window(*records(), expected_answers=3)
    with pytest.raises(BenchmarkError, match="answers of 100 to 100 tokens"):
        read_window(*records(tokens=100), expected_answers=2)


def results(share: float, gap_ms: float) -> Results:
    bare = [EngineWindow(speed, 2.0, 5.0) for speed in (900.0, 1000.0, 1100.0)]
    own = [EngineWindow(speed * share, gap_ms, 6.0) for speed in (900.0, 1000.0, 1100.0)]
    return Results({}, {streams: {"bare": bare, "sextant": own} for streams in engine.ANSWERS_PER_STREAM})


@pytest.mark.parametrize(
    ("share", "gap_ms", "code"),
    [(0.96, 2.1, 0), (0.95, 2.5, 0), (0.94, 2.1, 1), (0.99, 2.6, 1), (0.99, 1.4, 1)],
)
def test_speed_and_the_time_between_tokens_are_judged_at_every_concurrency(
    share: float, gap_ms: float, code: int
) -> None:
    goals = goals_of(results(share, gap_ms))
    assert len(goals) == 6
    assert exit_code(goals) == code
