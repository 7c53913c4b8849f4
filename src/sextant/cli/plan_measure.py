"""`sextant plan --measure URL`: a short load on a live endpoint, held against the prediction.

The load is the plan's own: its prompt and answer lengths, at a few requests in flight. What is compared is
the median, as the endpoint's callers see it; the prediction is that of the option that the plan shows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from sextant.cli.output import print_table
from sextant.cli.plan_words import word
from sextant.operations.measure import Load, Measured, measured

if TYPE_CHECKING:
    from sextant.cli.plan_answer import Answer
    from sextant.planner.options import Tools
    from sextant.spec.local_calibration import LocalCalibration
    from sextant.spec.planning import Estimate

CONCURRENCIES = (1, 4)
ROUNDS = 4
PROMPT_TOKENS_MOST = 4096
"""A measurement stays short: longer prompts are cut to this."""
OUTPUT_TOKENS_MOST = 128


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement beside its prediction; no prediction where the plan has no option."""

    measured: Measured
    ttft_ms: float | None
    tpot_ms: float | None
    within_band: bool | None
    """Whether the time per token lies in the stated band."""
    ttft_within_band: bool | None


def compare(answer: Answer, tools: Tools, url: str) -> tuple[Compared, ...]:
    """Puts the load on `url` and predicts the same. Raises UpstreamError when it does not answer."""
    load = answer.plan.question.workload
    loads = [
        Load(
            concurrency=concurrency,
            rounds=ROUNDS,
            input_tokens=min(load.input_tokens, PROMPT_TOKENS_MOST),
            output_tokens=min(load.output_tokens, OUTPUT_TOKENS_MOST),
        )
        for concurrency in CONCURRENCIES
    ]
    return tuple(_beside(answer, tools, one) for one in asyncio.run(measured(url, loads)))


def _beside(answer: Answer, tools: Tools, one: Measured) -> Compared:
    if answer.shown is None:
        return Compared(measured=one, ttft_ms=None, tpot_ms=None, within_band=None, ttft_within_band=None)
    from sextant.cli.plan_answer import speed_at

    plan = answer.plan
    load = msgspec.structs.replace(
        plan.question.workload, input_tokens=max(1, one.input_tokens), output_tokens=one.output_tokens
    )
    asked = msgspec.structs.replace(plan.question, workload=load)
    speed = speed_at(asked, plan.options[answer.shown.index], tools, concurrency=one.concurrency)
    return Compared(
        measured=one,
        ttft_ms=speed.ttft_ms.value,
        tpot_ms=speed.tpot_ms.value,
        within_band=_holds(speed.tpot_ms, one.tpot_ms),
        ttft_within_band=_holds(speed.ttft_ms, one.ttft_ms),
    )


def _holds(estimate: Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high


def show(compared: tuple[Compared, ...], language: str) -> None:
    """Prints measurement beside prediction."""
    columns = _titled(
        language,
        *("in flight>", "in/out tokens", "TTFT ms measured>", "predicted>", "ratio>", "in the band"),
        *("TPOT ms measured>", "predicted>", "ratio>", "in the band", "output tok/s>"),
    )
    said = {True: word("yes", language), False: word("no", language), None: "-"}
    rows = []
    for each in compared:
        one = each.measured
        rows.append(
            (
                one.concurrency,
                f"{one.input_tokens}/{one.output_tokens}",
                *_pair(one.ttft_ms, each.ttft_ms),
                said[each.ttft_within_band],
                *_pair(one.tpot_ms, each.tpot_ms),
                said[each.within_band],
                f"{one.output_tokens_per_s:.1f}",
            )
        )
    print_table(columns, rows, word("nothing was measured", language))


def show_machine(machine: LocalCalibration, language: str) -> None:
    """Prints each measured point beside what the calibration makes of it."""
    from sextant.operations.measure_calibration import FITTED
    from sextant.planner.local_speed import loop_of, run

    rows = []
    for number, point in enumerate(machine.points):
        seen = run(machine, loop_of(point))
        rows.append(
            (
                point.concurrency,
                f"{point.input_tokens}/{point.output_tokens}",
                *_pair(point.ttft_ms, seen.ttft_s * 1000),
                *_pair(point.tpot_ms, seen.tpot_s * 1000),
                word("fitted" if number < FITTED else "held out", language),
            )
        )
    columns = _titled(
        language,
        *("in flight>", "in/out tokens", "TTFT ms measured>", "predicted>", "ratio>"),
        *("TPOT ms measured>", "predicted>", "ratio>", ""),
    )
    print_table(columns, rows, word("nothing was measured", language))


def _titled(language: str, *columns: str) -> tuple[str, ...]:
    """Titles in that language; the mark of a column of numbers stays at their end."""
    return tuple(word(one.rstrip(">"), language) + ">" * one.endswith(">") for one in columns)


def _pair(measured_ms: float, predicted_ms: float | None) -> tuple[str, str, str]:
    if predicted_ms is None:
        return f"{measured_ms:.1f}", "-", "-"
    ratio = predicted_ms / measured_ms if measured_ms else 0.0
    return f"{measured_ms:.1f}", f"{predicted_ms:.1f}", f"{ratio:.2f}"
