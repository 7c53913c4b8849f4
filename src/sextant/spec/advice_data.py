"""The facts and the words of `sextant advise`, out of `data/modes.toml` and the catalogues
`data/advise.*.toml`.

Read when first asked for. The planner is handed what stands here and opens no file. That every fact has a
source and that both catalogues say the same things is tested.
"""

from __future__ import annotations

import datetime
import functools
import tomllib
from importlib import resources
from typing import Literal

import msgspec

from sextant.spec.advice import (
    Criterion,
    Language,
    Mode,
    Network,
    Profile,
    Regulation,
    Releases,
    Sensitivity,
    Stays,
    Team,
)

Basis = Literal["specified", "looked up", "derived", "choice", "general knowledge"]
BudgetLevel = Literal["small", "medium", "large", "unstated"]


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number at which a rule or a weight changes."""

    value: float
    unit: str
    basis: Basis
    source: str


class RuleData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a hard rule does where it applies."""

    basis: Basis
    leads: tuple[Mode, ...] = ()
    excludes: tuple[Mode, ...] = ()


class Assumed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requirements that are assumed where nothing is said."""

    data: Sensitivity | None = None
    stays: Stays | None = None
    network: Network | None = None
    team: Team | None = None
    releases: Releases | None = None
    swing: float | None = None
    latency_ms: float | None = None


class ProfileData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An industry. Its leads and excludes are a rule of its name, which needs a latency target of at most
    `latency_ms_most` where that is given. `parts` are keys of the catalogue that describe the deployment."""

    assumed: Assumed
    parts: tuple[str, ...]
    leads: tuple[Mode, ...] = ()
    excludes: tuple[Mode, ...] = ()
    latency_ms_most: float | None = None


class RegulationData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least that a regulation asks."""

    data: Sensitivity
    stays: Stays
    basis: Basis
    source: str


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weight of a criterion by the level of the requirement that it answers."""

    data: dict[Sensitivity, float]
    stays: dict[Stays, float]
    team: dict[Team, float]
    upfront: dict[BudgetLevel, float]
    monthly: dict[BudgetLevel, float]
    swing_most: float


class ModesData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `modes.toml`."""

    looked_up: datetime.date
    sources: dict[str, str]
    criterion: dict[Criterion, Literal["burden", "benefit"]]
    stars: dict[Mode, dict[Criterion, int]]
    assumed: Assumed
    weights: Weights
    threshold: dict[str, Threshold]
    rule: dict[str, RuleData]
    profile: dict[Profile, ProfileData]
    regulation: dict[Regulation, RegulationData]

    def at(self, name: str) -> float:
        """The value of a threshold, in the unit that it says."""
        return self.threshold[name].value


@functools.cache
def modes_data() -> ModesData:
    """The facts as shipped."""
    return read_modes(_text("modes.toml"))


def read_modes(text: str) -> ModesData:
    """The facts in `text`. Raises msgspec.ValidationError naming the wrong field."""
    return msgspec.convert(tomllib.loads(text), ModesData)


@functools.cache
def catalogue(language: Language) -> dict[str, str]:
    """Every message in one language by its key."""
    return msgspec.convert(tomllib.loads(_text(f"advise.{language}.toml")), dict[str, str])


def _text(name: str) -> str:
    return resources.files("sextant.spec").joinpath(f"data/{name}").read_text(encoding="utf-8")
