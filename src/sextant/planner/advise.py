"""Which of the six modes fits: requirements and facts in, an Advice out. Pure; first step before a plan.

The score is a weighted sum over five criteria. A mode's stars become a value from 0 to 1 (more stars of a
burden are worth less); the requirements set each criterion's weight; the score is the weighted mean, times
100. Hard rules (`rules.py`) stand above it: a mode that more rules lead to comes first, one that a rule
excludes is out. Each requirement moves one criterion alone, so that stricter security can never help SaaS,
which has the fewest stars there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from sextant.planner.profiles import STRICTER, settle, strictness
from sextant.planner.rules import applied_rules, budget_level, contradictions, saas_usd_per_month
from sextant.spec.advice import (
    CRITERIA,
    LEVELS,
    MODES,
    Advice,
    AppliedRule,
    Change,
    Criterion,
    Mode,
    RankedMode,
    Requirements,
    Said,
    Weight,
)
from sextant.spec.advice_data import ModesData

STARS_MOST = 5
SWING_SEARCH_MOST = 10.0
"""How far a swing is searched for one that changes the advice; steps of a tenth."""
SCORE_DECIMALS = 9
"""Scores that differ less than this are equal; what differs is only rounding."""
REASONS = 2
"""Criteria named for or against a mode."""

Points = dict[Criterion, float]
Direction = Literal["up", "down"]


class Placed(msgspec.Struct, frozen=True):
    """One mode's score and what rules do to it."""

    mode: Mode
    score: float
    points: Points
    led_by: tuple[str, ...]
    excluded_by: tuple[str, ...]


def advise(asked: Requirements, data: ModesData) -> Advice:
    """The advice for `asked`, which may leave anything open."""
    settled = settle(asked, data)
    needs = settled.effective
    weights = weigh(needs, data)
    rules = applied_rules(needs, data)
    placed = place(weights, rules, data)
    first = placed[0].mode
    return Advice(
        asked=asked,
        effective=needs,
        assumed=settled.assumed,
        weights=weights,
        rules=rules,
        ranking=tuple(_ranked(number, placed, data) for number in range(len(placed))),
        contradictions=(*settled.disagreements, *contradictions(needs, rules, first, data)),
        notes=tuple(_notes(needs, first, data)),
        changes=tuple(_changes(needs, first, data)),
    )


def weigh(needs: Requirements, data: ModesData) -> tuple[Weight, ...]:
    """The weight of each criterion under settled requirements."""
    table = data.weights
    assert needs.data and needs.stays and needs.team and needs.swing, "requirements must be settled first"
    upfront = budget_level(needs.upfront_usd, "upfront", data)
    monthly = budget_level(needs.monthly_usd, "monthly", data)
    found: dict[Criterion, tuple[float, Said]] = {
        "investment": (table.upfront[upfront], Said(f"weight.upfront.{upfront}")),
        "complexity": (table.monthly[monthly], Said(f"weight.monthly.{monthly}")),
        "security": (
            table.data[needs.data] + table.stays[needs.stays],
            Said("weight.security", {"data": f"@data.{needs.data}", "stays": f"@stays.{needs.stays}"}),
        ),
        "elasticity": (
            min(needs.swing, table.swing_most),
            Said("weight.elasticity", {"swing": needs.swing}),
        ),
        "threshold": (table.team[needs.team], Said("weight.threshold", {"team": f"@team.{needs.team}"})),
    }
    total = sum(weight for weight, _ in found.values())
    return tuple(
        Weight(criterion, found[criterion][0], found[criterion][0] / total, found[criterion][1])
        for criterion in CRITERIA
    )


def place(weights: Sequence[Weight], rules: Sequence[AppliedRule], data: ModesData) -> tuple[Placed, ...]:
    """All six modes, best first; excluded ones last, those that most rules exclude at the very end."""

    def order(one: Placed) -> tuple[float, ...]:
        rank = (len(one.excluded_by), -len(one.led_by), -round(one.score, SCORE_DECIMALS))
        return (*rank, _burden(one.mode, data), MODES.index(one.mode))

    return tuple(sorted((_placed(mode, weights, rules, data) for mode in MODES), key=order))


def _placed(mode: Mode, weights: Sequence[Weight], rules: Sequence[AppliedRule], data: ModesData) -> Placed:
    points = {
        one.criterion: 100 * one.share * _value(data.stars[mode][one.criterion], one.criterion, data)
        for one in weights
    }
    return Placed(
        mode,
        sum(points.values()),
        points,
        tuple(rule.rule for rule in rules if mode in rule.leads),
        tuple(rule.rule for rule in rules if mode in rule.excludes),
    )


def _value(stars: int, criterion: Criterion, data: ModesData) -> float:
    """What stars are worth, from 0 to 1."""
    worth = stars - 1 if data.criterion[criterion] == "benefit" else STARS_MOST - stars
    return worth / (STARS_MOST - 1)


def _burden(mode: Mode, data: ModesData) -> int:
    """Stars of all burdens together: of two modes with the same score the lighter one comes first."""
    return sum(data.stars[mode][one] for one in CRITERIA if data.criterion[one] == "burden")


def _ranked(number: int, placed: Sequence[Placed], data: ModesData) -> RankedMode:
    one = placed[number]
    why = _why_first(placed, data) if number == 0 else _why_not(one, placed[0], data)
    return RankedMode(
        mode=one.mode,
        rank=None if one.excluded_by else number + 1,
        score=round(one.score, 1),
        stars=data.stars[one.mode],
        points={criterion: round(points, 2) for criterion, points in one.points.items()},
        led_by=one.led_by,
        excluded_by=one.excluded_by,
        why=tuple(why),
    )


def _why_first(placed: Sequence[Placed], data: ModesData) -> Iterator[Said]:
    first, second = placed[0], placed[1]
    for rule in first.led_by:
        yield Said("why.led", {"rule": f"@rule.{rule}.name"})
    best = sorted(CRITERIA, key=lambda one: -first.points[one])[:REASONS]
    for criterion in (one for one in best if first.points[one] > 0):
        yield _criterion_said("why.criterion", criterion, first, data, first.points[criterion])
    ahead = round(first.score - second.score, 1)
    if ahead == 0:
        yield Said("why.tie", {"mode": f"@mode.{second.mode}"})
        return
    key = "why.margin" if ahead > 0 else "why.rules-over-score"
    yield Said(key, {"mode": f"@mode.{second.mode}", "points": abs(ahead)})


def _why_not(one: Placed, first: Placed, data: ModesData) -> Iterator[Said]:
    for rule in one.excluded_by:
        yield Said("why-not.excluded", {"rule": f"@rule.{rule}.name"})
    if one.excluded_by:
        return
    if len(one.led_by) < len(first.led_by):
        rules = tuple(f"@rule.{rule}.name" for rule in first.led_by if rule not in one.led_by)
        yield Said("why-not.led", {"rules": rules, "mode": f"@mode.{first.mode}"})
    behind = {criterion: first.points[criterion] - one.points[criterion] for criterion in CRITERIA}
    worst = sorted(CRITERIA, key=lambda criterion: -behind[criterion])
    for criterion in worst[:REASONS]:
        if behind[criterion] > 0:
            yield _criterion_said("why-not.criterion", criterion, one, data, behind[criterion])
    best = worst[-1]
    if behind[best] < 0:
        yield _criterion_said("why-not.better", best, one, data, -behind[best])


def _criterion_said(key: str, criterion: Criterion, one: Placed, data: ModesData, points: float) -> Said:
    stars = data.stars[one.mode][criterion]
    return Said(
        key, {"criterion": f"@criterion.{criterion}", "stars": float(stars), "points": round(points, 1)}
    )


def _notes(needs: Requirements, first: Mode, data: ModesData) -> Iterator[Said]:
    """What to mind with the advised mode, the industry's shape, the regulations."""
    yield Said(f"note.mode.{first}")
    if first == "private-cloud" and needs.stays in ("network", "site"):
        yield Said(f"note.private-cloud.{needs.stays}")
    if first in ("saas", "hybrid") and needs.stays == "country":
        yield Said("note.provider.country")
    costs_usd = saas_usd_per_month(needs, data)
    is_contradicted = (
        first == "saas" and needs.monthly_usd is not None and needs.monthly_usd < (costs_usd or 0)
    )
    if costs_usd is not None and not is_contradicted:
        price = data.at("saas_usd_per_mtok")
        yield Said("note.saas-cost", {"costs": float(round(costs_usd)), "price": price})
    if needs.profile is not None:
        for part in data.profile[needs.profile].parts:
            yield Said(f"profile.{needs.profile}.{part}")
    for regulation in needs.regulation:
        yield Said(f"note.regulation.{regulation}")


def _changes(needs: Requirements, first: Mode, data: ModesData) -> Iterator[Change]:
    """For each requirement and direction, the nearest value with which another mode would come first."""
    for field, direction, steps in _steps(needs, data):
        for value, shown in steps:
            other = msgspec.structs.replace(needs, **{field: value})
            mode = place(weigh(other, data), applied_rules(other, data), data)[0].mode
            if mode != first:
                yield Change(field, shown, direction, mode)
                break


Steps = list[tuple[str | float, str | float]]
"""Values to try, nearest first, each with how it is shown."""


def _steps(needs: Requirements, data: ModesData) -> Iterator[tuple[str, Direction, Steps]]:
    for field in ("data", "stays", "network", "team", "releases"):
        words = LEVELS[field]
        here = words.index(getattr(needs, field))
        least = _floor(field, needs, data)
        yield field, "down", [(word, word) for word in reversed(words[least:here])]
        yield field, "up", [(word, word) for word in words[here + 1 :]]
    assert needs.swing, "requirements must be settled first"
    tenth = round(needs.swing * 10)
    yield "swing", "down", [(n / 10, n / 10) for n in range(tenth - 1, 9, -1)]
    yield "swing", "up", [(n / 10, n / 10) for n in range(tenth + 1, int(SWING_SEARCH_MOST * 10) + 1)]
    for field in ("upfront_usd", "monthly_usd"):
        which = field.removesuffix("_usd")
        small, large = data.at(f"{which}_small_usd"), data.at(f"{which}_large_usd")
        level = budget_level(getattr(needs, field), which, data)
        below: Steps = [((small + large) / 2, large), (0.0, small)]
        above: Steps = [((small + large) / 2, small), (large, large)]
        yield field, "down", {"small": [], "large": below}.get(level, below[1:])
        yield field, "up", {"large": [], "small": above}.get(level, above[1:])
    yield from _latency_steps(needs, data)


def _latency_steps(needs: Requirements, data: ModesData) -> Iterator[tuple[str, Direction, Steps]]:
    edge_ms = data.at("latency_ms")
    own_ms = data.profile[needs.profile].latency_ms_most if needs.profile else None
    now_ms = needs.latency_ms
    if now_ms is None or now_ms >= edge_ms:
        yield "latency_ms", "down", [(edge_ms / 2, edge_ms)]
    elif needs.network == "none":
        yield "latency_ms", "up", [(edge_ms, edge_ms)]
    if own_ms is not None and now_ms is not None and now_ms <= own_ms:
        yield "latency_ms", "up", [(own_ms + 1, own_ms)]


def _floor(field: str, needs: Requirements, data: ModesData) -> int:
    """The least level that the regulations allow; 0 where they say nothing."""
    if field not in STRICTER:
        return 0
    return max(
        (strictness(field, getattr(data.regulation[one], field)) for one in needs.regulation), default=0
    )
