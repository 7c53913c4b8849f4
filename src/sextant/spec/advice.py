"""What a mode is advised by and what the advice is: the nouns of `sextant advise`.

Requirements come from flags, a file or a dialogue (`read_requirements`); `sextant.planner.advise` turns
them into an Advice; `data/modes.toml` holds the facts (`advice_data.py`). Words are kept apart from
decisions: an Advice says things as `Said`, a key of the message catalogue with its numbers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from sextant.base.errors import BadRequest

Mode = Literal["on-prem", "private-cloud", "hybrid", "edge", "container", "saas"]
Criterion = Literal["investment", "complexity", "security", "elasticity", "threshold"]
Sensitivity = Literal["public", "internal", "confidential", "restricted"]
Stays = Literal["anywhere", "country", "network", "site"]
Network = Literal["none", "intermittent", "stable"]
Team = Literal["novice", "capable", "expert"]
Releases = Literal["yearly", "quarterly", "monthly", "weekly", "daily"]
Profile = Literal["finance", "healthcare", "manufacturing", "government", "logistics"]
Regulation = Literal["pipl", "gdpr", "hipaa", "pci-dss", "mlps-3"]
Language = Literal["en", "zh"]

MODES: tuple[Mode, ...] = get_args(Mode)
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

LEVELS: dict[str, tuple[str, ...]] = {
    "profile": get_args(Profile),
    "data": get_args(Sensitivity),
    "stays": get_args(Stays),
    "regulation": get_args(Regulation),
    "network": get_args(Network),
    "team": get_args(Team),
    "releases": get_args(Releases),
}
"""The words that a requirement may have; of `data` and `stays` the strictest last."""

BOUNDS: dict[str, tuple[float, float]] = {
    "upfront_usd": (0.0, 1e12),
    "monthly_usd": (0.0, 1e12),
    "latency_ms": (1.0, 1e7),
    "requests_per_s": (1e-6, 1e7),
    "input_tokens": (1.0, 1e7),
    "output_tokens": (1.0, 1e7),
    "swing": (1.0, 1e4),
}
"""Least and most of each number; what is outside is taken for a slip."""

WHOLE = ("input_tokens", "output_tokens")


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a deployment; None is what was not said."""

    profile: Profile | None = None
    data: Sensitivity | None = None
    """How sensitive the data in prompts and answers is."""
    stays: Stays | None = None
    """How far it may go: anywhere, within the country, within networks of one's own, within the site."""
    regulation: tuple[Regulation, ...] = ()
    upfront_usd: float | None = None
    monthly_usd: float | None = None
    latency_ms: float | None = None
    """Longest wait for a whole answer, end to end."""
    requests_per_s: float | None = None
    """Mean of the arriving requests."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    swing: float | None = None
    """Load of the busiest hour over the mean."""
    network: Network | None = None
    """How the places that use the model are connected to the outside."""
    team: Team | None = None
    releases: Releases | None = None
    """How often models, prompts or the software around them change."""


class Said(msgspec.Struct, frozen=True):
    """A sentence: its key in the message catalogue and what stands in it. Text that begins with `@` is a key
    itself; a tuple is a list of such."""

    key: str
    values: dict[str, str | float | tuple[str, ...]] = {}


class AppliedRule(msgspec.Struct, frozen=True):
    """A hard rule that applies. `basis` says whether the specification has it or we chose it."""

    rule: str
    basis: str
    leads: tuple[Mode, ...]
    excludes: tuple[Mode, ...]
    said: Said


class Weight(msgspec.Struct, frozen=True):
    """How much a criterion counts, and its share of all weights, and why."""

    criterion: Criterion
    weight: float
    share: float
    because: Said


class RankedMode(msgspec.Struct, frozen=True):
    """One mode's place. `rank` is None for a mode that a rule excludes; `score` is 0 to 100."""

    mode: Mode
    rank: int | None
    score: float
    stars: dict[Criterion, int]
    points: dict[Criterion, float]
    """What each criterion brings to the score."""
    led_by: tuple[str, ...]
    excluded_by: tuple[str, ...]
    why: tuple[Said, ...]
    """Why it is advised, for the first; why not, for the others."""


class Change(msgspec.Struct, frozen=True):
    """The nearest value of one requirement, in one direction, with which another mode would come first."""

    requirement: str
    value: str | float
    direction: Literal["up", "down"]
    mode: Mode


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Which mode, why, and what would change it. `ranking` holds all six, excluded ones last."""

    asked: Requirements
    effective: Requirements
    """With what the profile, the regulations and our assumptions add."""
    assumed: tuple[Said, ...]
    weights: tuple[Weight, ...]
    rules: tuple[AppliedRule, ...]
    ranking: tuple[RankedMode, ...]
    contradictions: tuple[Said, ...]
    notes: tuple[Said, ...]
    changes: tuple[Change, ...]

    @property
    def first(self) -> Mode:
        """The mode advised."""
        return self.ranking[0].mode


def read_requirements(given: Mapping[str, Any], *, name: str = "") -> Requirements:
    """Requirements out of plain values, as flags or a file have them; None counts as not said. `name` is the
    file's. Raises BadRequest naming the requirement, the value and what was expected."""
    where = f"{name}: " if name else ""
    taken: dict[str, Any] = {}
    for key, value in given.items():
        field = str(key).replace("-", "_")
        if field not in Requirements.__struct_fields__:
            near = _nearest(field, Requirements.__struct_fields__)
            raise BadRequest(
                f"{where}{key} is no requirement; expected one of "
                f"{', '.join(Requirements.__struct_fields__)}{near}",
                field=str(key),
            )
        if value is None or value == ():
            continue
        if field == "regulation":
            many = (value,) if isinstance(value, str) else value
            if not isinstance(many, list | tuple):
                raise BadRequest(f"{where}regulation is {value!r}; expected a list of names", field=field)
            taken[field] = tuple(dict.fromkeys(_word(field, one, where) for one in many))
        elif field in LEVELS:
            taken[field] = _word(field, value, where)
        else:
            taken[field] = _number(field, value, where)
    return Requirements(**taken)


def _word(field: str, value: object, where: str) -> str:
    word = str(value).strip().lower()
    known = LEVELS[field]
    if word in known:
        return word
    raise BadRequest(
        f"{where}{field} is {value!r}; expected one of {', '.join(known)}{_nearest(word, known)}", field=field
    )


def _number(field: str, value: object, where: str) -> float | int:
    least, most = BOUNDS[field]
    try:
        number = math.nan if isinstance(value, bool) else float(str(value).replace("_", "").replace(",", ""))
    except ValueError:
        number = math.nan
    if not (least <= number <= most) or (field in WHOLE and number != int(number)):
        kind = "a whole number" if field in WHOLE else "a number"
        raise BadRequest(
            f"{where}{field} is {value!r}; expected {kind} from {least:g} to {most:g}", field=field
        )
    return int(number) if field in WHOLE else number


def _nearest(word: str, known: tuple[str, ...]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
