"""Goals of a benchmark and the verdict: which were met, the exit code, the last line of the output.

A goal whose figure is missing or not a number is missed: a benchmark never passes by measuring nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """One goal. `at_least` says on which side of `bound` the figure must lie (the bound itself is met).
    `applies` is False where the goal's own condition is not fulfilled; `note` then says why."""

    name: str
    figure: float | None
    bound: float
    at_least: bool = True
    applies: bool = True
    note: str = ""

    @property
    def met(self) -> bool:
        if self.figure is None or not math.isfinite(self.figure):
            return False
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `does not apply`."""
        if not self.applies:
            return "does not apply"
        return "met" if self.met else "missed"

    def as_json(self) -> dict[str, Any]:
        figure = self.figure
        if figure is not None:
            figure = round(figure, 4) if math.isfinite(figure) else None
        row: dict[str, Any] = {
            "figure": figure,
            "goal": f"{'>=' if self.at_least else '<='} {self.bound:g}",
            "verdict": self.verdict,
        }
        if self.note:
            row["note"] = self.note
        return row


def exit_code(goals: Sequence[Goal]) -> int:
    """0 when every goal that applies is met, else 1. No goals at all is 1: nothing was shown."""
    applying = [goal for goal in goals if goal.applies]
    return 0 if applying and all(goal.met for goal in applying) else 1


def last_line(name: str, figures: Mapping[str, Any], goals: Sequence[Goal]) -> str:
    """The one line of JSON that ends a benchmark's output."""
    line = {
        "benchmark": name,
        "passed": exit_code(goals) == 0,
        "goals": {goal.name: goal.as_json() for goal in goals},
        "figures": figures,
    }
    return json.dumps(line, separators=(",", ":"), allow_nan=False)
