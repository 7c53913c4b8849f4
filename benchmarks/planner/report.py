"""The tables of `fit.py` as text, beside the goals, and as files under `benchmarks/results/`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.goals import Goal
from benchmarks.planner.page import keep_section

RESULTS = Path(__file__).parents[1] / "results"
ALL_POINTS = 2000
"""A file with fewer measurements is the slice that is shipped, on which goals are not stated."""
PEER = "aiconfigurator 0.12.0"
GEOMETRIC, WITHIN_25 = 1.25, 0.75
BAND_LEAST, BAND_MOST, BAND_WIDTH = 0.75, 0.85, 1.6


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found."""

    text: str
    figures: dict[str, Any]
    goals: tuple[Goal, ...]


def tables(data: Any, found: dict[str, Any], answers: dict[str, Any]) -> Tables:
    """The tables of one run; `answers` are the peer's, by row of the file."""
    peer = _beside(data, found, answers) if answers else {}
    ours = int(data.own.sum())
    goals = _goals(found, complete=len(data.points) - ours >= ALL_POINTS)
    configurations = len({one.configuration for one in data.points})
    text = "\n".join(
        [
            f"{len(data.points)} measurements of {configurations} configurations, cross-validated by whole "
            f"configuration. {ours} of them are our own, of models that fit one card "
            "(`measure_vllm.py`); they have rows of their own and are in no other.",
            "",
            *_accuracy({**found, **peer}),
            "",
            *_bands(found),
            "",
            "| goal | figure | bound | verdict |",
            "|---|---|---|---|",
            *(f"| {one.name} | {one.figure} | {one.bound} | {one.verdict} |" for one in goals),
        ]
    )
    return Tables(text=text, figures={"held_out": _plain(found), "peer": peer}, goals=goals)


def keep(made: Tables) -> None:
    """Writes `planner.json` and its section of `planner.md` anew."""
    figures = json.dumps(made.figures, indent=1)
    (RESULTS / "planner.json").write_text(figures + "\n", encoding="utf-8")
    keep_section("Serving points", made.text)


def score(error: Any) -> dict[str, float]:
    """Geometric error `exp(mean |log ratio|)`, share within 25 % of the measurement, number of points."""
    return {
        "geometric": round(float(np.exp(np.abs(error).mean())), 3) if len(error) else math.nan,
        "within_25": round(float(np.mean(np.abs(np.exp(error) - 1) <= 0.25)), 3) if len(error) else math.nan,
        "points": len(error),
    }


def _accuracy(found: dict[str, Any]) -> list[str]:
    lines = ["| target | points | geometric error | within 25 % | number |", "|---|---|---|---|---|"]
    for name, parts in found.items():
        lines += [
            f"| {name} | {part} | {one['geometric']} | {one['within_25']:.1%} | {one['points']} |"
            for part, one in parts.items()
            if isinstance(one, dict) and "geometric" in one
        ]
    return lines


def _bands(found: dict[str, Any]) -> list[str]:
    lines = ["| target | 80 % band holds | median width (high / low) |", "|---|---|---|"]
    for name, parts in found.items():
        band = parts["bands"]
        for suffix in ("", "_aggregated", "_disaggregated", "_own"):
            title = f"{name}{suffix.replace('_own', '_measured by us').replace('_', ', ')}"
            lines.append(f"| {title} | {band['covered' + suffix]:.1%} | {band['median_width' + suffix]} |")
    return lines


def _goals(found: dict[str, Any], *, complete: bool) -> tuple[Goal, ...]:
    goals: list[Goal] = []
    for name, parts in found.items():
        band = parts["bands"]
        goals += [
            Goal(f"{name}: geometric error", parts["all"]["geometric"], GEOMETRIC, at_least=False),
            Goal(f"{name}: share within 25 %", parts["all"]["within_25"], WITHIN_25),
            Goal(f"{name}: 80 % band holds at least", band["covered"], BAND_LEAST),
            Goal(f"{name}: 80 % band holds at most", band["covered"], BAND_MOST, at_least=False),
            Goal(f"{name}: median width of the band", band["median_width"], BAND_WIDTH, at_least=False),
        ]
    note = "" if complete else f"stated on all points; this file has fewer than {ALL_POINTS}"
    return tuple(replace(one, applies=complete, note=note) for one in goals)


def _beside(data: Any, found: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    """The peer and this planner (held out) on the rows that the peer answers."""
    rows = [
        (place, answers[str(one.row)])
        for place, one in enumerate(data.points)
        if answers.get(str(one.row), {}).get("tpot_ms", 0) > 0
    ]
    asked = sum(str(one.row) in answers for one in data.points)
    places = [place for place, _ in rows]
    table: dict[str, Any] = {}
    for name in data.y:
        measured = np.array([getattr(data.points[place], f"{name}_ms") for place in places])
        peer = np.log(np.array([answer[f"{name}_ms"] for _, answer in rows]) / measured)
        table[f"{name}, rows that aiconfigurator answers ({len(rows)} of {asked} asked)"] = {
            PEER: score(peer),
            "Sextant, held out": score(found[name]["error"][places]),
        }
    return table


def _plain(value: Any) -> Any:
    """Without arrays, for JSON."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if not isinstance(one, np.ndarray)}
    return value
