"""Calibrates the planner for one live endpoint: about a minute of load, and the times that explain it.

`measure.py` puts the load on, `planner/local_speed.py` fits. Points that the fit does not see say how far off
it is; that becomes the band. Used by `sextant plan --calibrate` and `benchmarks/planner_local.py`.
"""

from __future__ import annotations

import datetime

from sextant.operations.measure import Load, Measured, measured
from sextant.planner.local_speed import Machine, checked, fitted
from sextant.spec.local_calibration import LocalCalibration
from sextant.spec.planning import Question

LONGEST_TOKENS = 1536
OUTPUT_TOKENS = 64
PASSES = 4
CROWD = 4
PROBED = 8
"""So many at once tell how many an engine answers at the same time."""
UNBOUNDED = 1024
"""Slots that are written down when all of `PROBED` ran together."""
BATCH_TOKENS = 2048
"""Tokens of one step: llama.cpp's as `sextant up` starts it, and vLLM's default with chunked prefill."""
FITTED = 4
"""So many of the loads are fitted to; the others are held out."""


def loads(context_tokens: int) -> tuple[Load, ...]:
    """Three lone prompt lengths and a crowd, which are fitted to; then two that are held out."""
    longest = max(96, min(LONGEST_TOKENS, context_tokens // 2 - OUTPUT_TOKENS))
    return (
        Load(concurrency=1, rounds=3, input_tokens=64, output_tokens=OUTPUT_TOKENS),
        Load(concurrency=1, rounds=2, input_tokens=(64 + longest) // 3, output_tokens=OUTPUT_TOKENS),
        Load(concurrency=1, rounds=2, input_tokens=longest, output_tokens=OUTPUT_TOKENS),
        Load(concurrency=CROWD, rounds=3, input_tokens=longest // 6, output_tokens=OUTPUT_TOKENS),
        Load(concurrency=PROBED, rounds=2, input_tokens=64, output_tokens=OUTPUT_TOKENS),
        Load(concurrency=2, rounds=3, input_tokens=longest // 3, output_tokens=OUTPUT_TOKENS // 2),
    )


async def calibrate(url: str, question: Question) -> LocalCalibration:
    """What that endpoint takes for the question's model; its first accelerator stands for the machine.

    Raises UpstreamError when it cannot be measured, BadRequest when what it answers explains nothing.
    """
    seen = await measured(url, loads(question.architecture.context_tokens), passes=PASSES)
    return explained(seen, question, url)


def explained(seen: tuple[Measured, ...], question: Question, url: str) -> LocalCalibration:
    """The calibration of measured `loads`, in their order. Raises BadRequest when they explain nothing."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = Machine(
        model=question.architecture.id,
        accelerator=question.accelerators[0].id,
        precision=question.precision,
        measured=f"measured at {url} on {today}",
        slots=slots_of(seen),
        batch_tokens=BATCH_TOKENS,
        held_tokens=max(one.held_tokens for one in seen),
    )
    points = [one.point for one in seen]
    return checked(fitted(points[: FITTED - 1], points[FITTED - 1], machine), points[FITTED:])


def slots_of(seen: tuple[Measured, ...]) -> int:
    """How many the engine answers at once; `UNBOUNDED` where it took as many as were asked."""
    most = max(1, *(one.overlapping for one in seen))
    return most if most < max(one.concurrency for one in seen) else UNBOUNDED
