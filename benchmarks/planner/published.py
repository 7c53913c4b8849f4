"""Predicted against published throughput, row by row: `python -m benchmarks.planner.published [--keep]`.
Exit code 1 where the goal is missed.

The calibration has none of these rows, so "predicted" is out of sample. "Left out" takes from it what the
other rows say: each column that a row records has an effect of its own, all of one prior size (a Gaussian
process over equal columns). How far rows are believed is chosen by leaving out each of the others in turn.
Nothing is chosen by hand and no row calibrates itself. aiconfigurator's answers (`aiconfigurator_rows.py
published.toml`, in an environment of its own) lie under `data/`.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.planner.page import keep_section
from benchmarks.planner.points import NEWEST
from sextant.planner.calibration import forests
from sextant.planner.phases import Point
from sextant.planner.queueing import Arrival, Batcher, simulate
from sextant.planner.roofline import Model, step_s, times
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import Catalog, load_catalog
from sextant.spec.planning import Layout

ROOT = Path(__file__).parents[2]
DATA = ROOT / "src/sextant/spec/data/published.toml"
PEER = Path(__file__).parent / "data/aiconfigurator_published.json"
PREFILL_RANKS = 32
CHUNK_TOKENS = 8192
"""Most tokens of one step, as vLLM and SGLang set it on such accelerators unless told otherwise."""
DOUBTS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Variance of a single row over that of one column's effect: what the rows choose from."""
GOAL = 1.4


def predicted(row: dict[str, Any], catalog: Catalog, model: Model) -> float:
    """Output tokens per second of all the row's accelerators."""
    point = _point(row, catalog)
    if "requests" in row:
        return _batch(model, point, row)
    ttft_s, tpot_s = times(model, point)
    if row.get("decode_only"):
        return point.concurrency / tpot_s
    return point.concurrency * point.output_tokens / (ttft_s + point.output_tokens * tpot_s)


def _point(row: dict[str, Any], catalog: Catalog) -> Point:
    ranks = row["ranks"]
    apart = Layout(tp=PREFILL_RANKS, attention_dp=PREFILL_RANKS, ep=PREFILL_RANKS)
    age_months = 0
    if "measured" in row:
        year, month = map(int, row["measured"].split("-"))
        age_months = (NEWEST[0] - year) * 12 + NEWEST[1] - month
    return Point(
        architecture=catalog.model(row["model"]),
        precision=row["precision"],
        engine=row["engine"],
        accelerator=catalog.accelerator(row["accelerator"]),
        layout=Layout(tp=ranks, attention_dp=row.get("attention_dp", 1), ep=row.get("ep", 1)),
        prefill=apart if row.get("decode_only") else None,
        concurrency=float(row["concurrency"]),
        input_tokens=float(row["input_tokens"]),
        output_tokens=float(row["output_tokens"]),
        engine_age_months=float(age_months),
    )


def _batch(model: Model, point: Point, row: dict[str, Any]) -> float:
    """Tokens per second from the first request to the end of the last: the row's requests at its rate, all at
    once without one. Prompts are read at the rate of those that fill a step, one for each group of attention.
    Answers are equally long where the row says so, else the quantiles of an exponential distribution."""
    requests, rate = row["requests"], row.get("requests_per_s", math.inf)
    steps: list[tuple[int, float]] = []
    for count in (*(2**power for power in range(math.ceil(math.log2(requests)))), requests):
        now = msgspec.structs.replace(point, concurrency=float(count))
        steps.append((count, max([step_s(model, now) * 1000, *(slower for _, slower in steps)])))
    groups = point.layout.attention_dp
    filling = msgspec.structs.replace(point, concurrency=float(groups), input_tokens=CHUNK_TOKENS / groups)
    sent = [
        Arrival(
            at_s=place / rate, input_tokens=round(point.input_tokens), output_tokens=max(1, round(length))
        )
        for place, length in enumerate(_lengths(row))
    ]
    engine = Batcher(
        places=requests,
        steps_ms=tuple(steps),
        prefill_ms_per_token=times(model, filling)[0] * 1000 / CHUNK_TOKENS,
        chunk_tokens=CHUNK_TOKENS,
    )
    return simulate(engine, sent).output_tokens_per_s


def _lengths(row: dict[str, Any]) -> list[float]:
    requests, mean = row["requests"], row["output_tokens"]
    if row.get("equal_lengths"):
        return [mean] * requests
    return [-mean * math.log(1 - (place + 0.5) / requests) for place in range(requests)]


def columns(row: dict[str, Any], catalog: Catalog) -> tuple[object, ...]:
    """What the row records, as far as rows can be alike in it."""
    accelerator = catalog.accelerator(row["accelerator"])
    return (
        row["engine"],
        row["precision"],
        row["model"],
        accelerator.id,
        accelerator.kind,
        bool(row.get("decode_only")),
        row["ranks"] > accelerator.per_node,
    )


def left_out(errors: list[float], told: list[tuple[object, ...]]) -> list[float]:
    """Each row's error less what the others say of such a row."""
    found = []
    for place, error in enumerate(errors):
        others = [other for other in range(len(errors)) if other != place]

        def wrong(doubt: float, others: list[int] = others) -> float:
            inner = [
                errors[one] - _said(one, [o for o in others if o != one], (errors, told), doubt)
                for one in others
            ]
            return sum(map(abs, inner))

        found.append(error - _said(place, others, (errors, told), min(DOUBTS, key=wrong)))
    return found


def _said(
    place: int, others: list[int], rows: tuple[list[float], list[tuple[object, ...]]], doubt: float
) -> float:
    """The Gaussian process's mean at `place`: covariance 1 (all rows) and 1 for each column that is alike."""
    errors, told = rows

    def alike(one: int, other: int) -> float:
        return 1.0 + sum(a == b for a, b in zip(told[one], told[other], strict=True))

    own = doubt * (1 + len(told[0]))
    matrix = [[alike(one, other) + own * (one == other) for other in others] for one in others]
    weights = _solve(matrix, [errors[other] for other in others])
    return sum(weight * alike(place, other) for weight, other in zip(weights, others, strict=True))


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss and Jordan, for a positive definite matrix."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for pivot, row in enumerate(rows):
        row[:] = [value / row[pivot] for value in row]
        for other in rows:
            if other is not row:
                factor = other[pivot]
                other[:] = [value - factor * mine for value, mine in zip(other, row, strict=True)]
    return [row[-1] for row in rows]


def table() -> tuple[str, dict[str, float]]:
    """The rows and their geometric errors, aiconfigurator's beside them."""
    answers = json.loads(PEER.read_text(encoding="utf-8"))["answers"]
    catalog, calibration = load_catalog(), load_calibration()
    model = Model(calibration=calibration, trees=forests(calibration))
    rows = tomllib.loads(DATA.read_text(encoding="utf-8"))
    said = [predicted(row, catalog, model) for row in rows.values()]
    errors = [
        math.log(one / row["output_tokens_per_s"]) for one, row in zip(said, rows.values(), strict=True)
    ]
    apart = left_out(errors, [columns(row, catalog) for row in rows.values()])
    peer = {name: _peer(row, answers.get(name, {})) for name, row in rows.items()}
    lines = [
        "| row | predicted | published | ratio | left out: ratio | aiconfigurator 0.12.0: ratio |",
        "|---|---|---|---|---|---|",
    ]
    for (name, row), one, error, other in zip(rows.items(), said, errors, apart, strict=True):
        theirs = peer[name]
        text = f"{theirs / row['output_tokens_per_s']:.2f}" if isinstance(theirs, float) else theirs
        lines.append(
            f"| {name} | {one:.0f} | {row['output_tokens_per_s']:.0f} | {math.exp(error):.2f} "
            f"| {math.exp(other):.2f} | {text} |"
        )
    scores = {"geometric": _geometric(errors), "left_out": _geometric(apart)}
    verdict = "met" if scores["left_out"] <= GOAL else "missed"
    lines.append(
        f"\nGeometric error {scores['geometric']:.2f} without any of these rows; left out one by one "
        f"{scores['left_out']:.2f} (goal {GOAL}: {verdict})."
    )
    both = [(name, one) for name, one in peer.items() if isinstance(one, float)]
    if both:
        theirs_log = [math.log(one / rows[name]["output_tokens_per_s"]) for name, one in both]
        ours = [error for name, error in zip(rows, errors, strict=True) if isinstance(peer[name], float)]
        left = [error for name, error in zip(rows, apart, strict=True) if isinstance(peer[name], float)]
        lines.append(
            f"\nOn the {len(both)} rows that aiconfigurator answers: it {_geometric(theirs_log):.2f}, "
            f"Sextant {_geometric(ours):.2f}, left out {_geometric(left):.2f}."
        )
    return "\n".join(lines), scores


def _geometric(errors: list[float]) -> float:
    return math.exp(sum(map(abs, errors)) / len(errors))


def _peer(row: dict[str, Any], answer: dict[str, Any]) -> float | str:
    """Tokens/s that its times mean, or why there are none. Of a batch that ends half is in flight."""
    if not answer.get("tpot_ms", 0) > 0:
        return "refused" if answer else "not asked"
    ttft_s, tpot_s = answer["ttft_ms"] / 1000, answer["tpot_ms"] / 1000
    in_flight = row["requests"] / 2 if "requests" in row else float(row["concurrency"])
    if row.get("decode_only"):
        return float(in_flight / tpot_s)
    return float(in_flight * row["output_tokens"] / (ttft_s + row["output_tokens"] * tpot_s))


def main() -> int:
    """Prints the table; with `--keep` adds it to `benchmarks/results/planner.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    text, scores = table()
    print(text)
    if asked.keep:
        keep_section("Published throughput", text)
    goals = [Goal("published rows, left out: geometric error", scores["left_out"], GOAL, at_least=False)]
    print(last_line("planner-published", scores, goals))
    return exit_code(goals)


if __name__ == "__main__":
    raise SystemExit(main())
