"""The local planner's benchmark: its table, its goals, and that it holds out what it says."""

from __future__ import annotations

import pytest
from benchmarks.goals import exit_code
from benchmarks.planner_local import HELD_OUT, goals_of, page, rows_of

from sextant.operations.measure import Measured
from sextant.operations.measure_calibration import FITTED, loads
from sextant.planner.local_speed import Loop, run
from sextant.spec.local_calibration import VERSION, LocalCalibration

KNOWN = LocalCalibration(
    version=VERSION,
    model="sextant-nano",
    accelerator="cpu-desktop",
    precision="q8",
    measured="here",
    request_s=0.01,
    prompt_s_per_token=0.5e-3,
    prompt_s_per_token2=0.0,
    step_s=1.5e-3,
    step_s_per_request=0.5e-3,
    step_s_per_token=0.0,
    held_tokens=0,
    slots=4,
    batch_tokens=2048,
    band=1.1,
    points=(),
)


def measured(slower: float) -> tuple[Measured, ...]:
    """What a machine would show that takes so many times what is predicted."""
    found = []
    for concurrency, inputs in ((1, 100), (3, 300)):
        times = run(KNOWN, Loop(concurrency=concurrency, rounds=2, input_tokens=inputs, output_tokens=32))
        found.append(
            Measured(
                concurrency=concurrency,
                rounds=2,
                input_tokens=inputs,
                output_tokens=32,
                ttft_ms=times.ttft_s * 1000 * slower,
                tpot_ms=times.tpot_s * 1000 * slower,
                output_tokens_per_s=1.0,
                overlapping=concurrency,
                held_tokens=0,
            )
        )
    return tuple(found)


@pytest.mark.parametrize(("slower", "code"), [(1.0, 0), (1.2, 0), (1.3, 1), (0.7, 1)])
def test_a_miss_of_more_than_a_quarter_fails_either_way(slower: float, code: int) -> None:
    rows = rows_of(KNOWN, measured(slower))
    assert rows[0].ratios[0] == pytest.approx(1 / slower)
    assert exit_code(goals_of(rows)) == code


def test_the_page_has_a_row_for_each_load() -> None:
    text = page(KNOWN, rows_of(KNOWN, measured(1.0)), {"cpu": "any"})
    assert "| 1 | 100/32 |" in text and "| 3 | 300/32 |" in text and "1.00" in text


def test_nothing_that_is_predicted_was_fitted() -> None:
    fitted = {(one.concurrency, one.input_tokens) for one in loads(4096)[:FITTED]}
    assert all((one.concurrency, one.input_tokens) not in fitted for one in HELD_OUT)
    assert len({one.concurrency for one in HELD_OUT} - {one.concurrency for one in loads(4096)[:FITTED]}) >= 3
