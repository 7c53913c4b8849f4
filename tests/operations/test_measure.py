"""Measuring an endpoint: which loads a calibration asks for, and how many answers at once it makes out."""

from __future__ import annotations

import msgspec
import pytest

from sextant.operations.measure import Measured
from sextant.operations.measure_calibration import FITTED, PROBED, UNBOUNDED, loads, slots_of

SEEN = Measured(
    concurrency=PROBED,
    rounds=2,
    input_tokens=64,
    output_tokens=64,
    ttft_ms=10.0,
    tpot_ms=1.0,
    output_tokens_per_s=100.0,
    overlapping=4,
    held_tokens=1,
)


@pytest.mark.parametrize("context_tokens", [256, 4096, 1_048_576])
def test_a_calibration_s_loads_fit_into_the_context(context_tokens: int) -> None:
    asked = loads(context_tokens)
    assert all(load.input_tokens + load.output_tokens <= max(context_tokens, 256) for load in asked)
    lone = asked[: FITTED - 1]
    assert {load.concurrency for load in lone} == {1}
    assert len({load.input_tokens for load in lone}) == 3
    assert asked[FITTED - 1].concurrency > 1
    fitted = {(load.concurrency, load.input_tokens) for load in asked[:FITTED]}
    assert all((load.concurrency, load.input_tokens) not in fitted for load in asked[FITTED:])


def test_slots_are_what_overlapped_unless_all_did() -> None:
    assert slots_of((SEEN,)) == 4
    assert slots_of((msgspec.structs.replace(SEEN, overlapping=PROBED),)) == UNBOUNDED
    assert slots_of((msgspec.structs.replace(SEEN, overlapping=0),)) == 1


def test_a_measurement_is_a_point_to_fit_to() -> None:
    point = SEEN.point
    assert (point.concurrency, point.rounds, point.ttft_ms) == (PROBED, 2, 10.0)
