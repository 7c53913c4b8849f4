"""The arithmetic of the benchmarks against values worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks import stats

MS = 1_000_000


def record(due_ms: float, sent_ms: float, done_ms: float) -> bytes:
    return stats.OPEN_LOOP_RECORD.pack(int(due_ms * MS), int(sent_ms * MS), int(done_ms * MS))


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 50, 3.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0, 1.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 100, 5.0),
        ([float(n) for n in range(101)], 99, 99.0),
        ([0.0, 10.0], 99, 9.9),
    ],
)
def test_percentiles_interpolate_between_closest_ranks(
    values: list[float], percent: float, expected: float
) -> None:
    assert stats.percentile(values, percent) == pytest.approx(expected)


def test_a_percentile_leaves_its_input_alone() -> None:
    values = [3.0, 1.0, 2.0]
    stats.percentile(values, 50)
    assert values == [3.0, 1.0, 2.0]


def test_percentiles_of_nothing_and_beyond_100_are_errors() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 50)
    with pytest.raises(ValueError, match=r"expected 0\.\.100"):
        stats.percentile([1.0], 101)


def test_a_spread_is_median_and_range() -> None:
    assert stats.spread([5.0, 1.0, 9.0, 2.0]) == stats.Spread(3.5, 1.0, 9.0, 4)
    with pytest.raises(ValueError, match="no windows"):
        stats.spread([])


def test_a_ratio_is_of_medians_and_refuses_a_dead_peer() -> None:
    assert stats.ratio([10.0, 30.0, 20.0], [8.0, 1000.0, 1.0]) == pytest.approx(20 / 8)
    with pytest.raises(ValueError, match="means nothing"):
        stats.ratio([1.0], [0.0])


def test_latency_counts_from_the_due_time_not_from_the_sending() -> None:
    """A server that stalls for 100 ms: the ten requests due meanwhile are sent late and answered at once.
    Counted from the sending nine of ten look instant."""
    stall = [record(10 * n, 0 if n == 0 else 100, 100 if n == 0 else 101) for n in range(10)]
    found = stats.open_loop_latencies(b"".join(stall))
    assert found.requests == 10
    assert found.sent_p50_ms == pytest.approx(1.0)
    assert found.p50_ms == pytest.approx((51 + 61) / 2)
    assert found.max_ms == pytest.approx(100.0)
    assert found.p99_ms > 90


def test_a_record_that_cannot_be_is_an_error() -> None:
    for bad in (record(10, 5, 20), record(1, 5, 4), record(1, 5, 0)):
        with pytest.raises(ValueError, match="impossible record"):
            stats.open_loop_latencies(bad)


def test_the_achieved_rate_runs_to_the_last_answer() -> None:
    rows = [record(n, n, n + 1) for n in range(99)] + [record(99, 99, 1000)]
    assert stats.achieved_per_s(b"".join(rows)) == pytest.approx(100.0)


def test_growth_ignores_the_first_fifth() -> None:
    warm = [(float(n), 1000.0 + 10 * min(n, 200)) for n in range(0, 1001, 10)]
    found = stats.growth(warm)
    assert found.growth_kib == 0
    assert found.slope_kib_per_100k == pytest.approx(0, abs=1e-6)


def test_growth_finds_a_leak() -> None:
    """A leak of 1 KiB in ten requests: 7,000 KiB between the middles of the second and the last fifth."""
    leak = [(float(n), 50_000 + n / 10) for n in range(0, 100_001, 500)]
    found = stats.growth(leak)
    assert found.growth_kib == pytest.approx(6000, rel=0.02)
    assert found.slope_kib_per_100k == pytest.approx(10_000, rel=0.01)


def test_growth_needs_samples_in_the_right_places() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        stats.growth([(1.0, 1.0)] * 9)
    with pytest.raises(ValueError, match="second or the last fifth"):
        stats.growth([(0.0, 1.0)] * 10 + [(100.0, 1.0)])


def test_the_slope_of_a_line_and_of_a_point() -> None:
    assert stats.slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2.0)
    assert stats.slope([(4, 1), (4, 9)]) == 0.0
