"""What the planner learnt from measured serving points: `data/calibration.toml`, as nouns.

Written by `benchmarks/planner/fit.py`, read by `planner/calibration.py` and `planner/bands.py`.
"""

from __future__ import annotations

import datetime
import tomllib
from importlib import resources

import msgspec

from sextant.spec.kernels import Kernels, load_kernels


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One predicted time. Trees stand one a line, as JSON; they add up, in logarithms."""

    correction_start: float
    correction: str
    spread_start: float
    spread: str
    """The usual distance (logarithm) between prediction and measurement, itself a logarithm."""
    band_low: float
    band_high: float
    """Distances, as multiples of the usual one, that 10 % of points lie below and above."""


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the points cover; anything else is derived, with a wider band."""

    engines: tuple[str, ...]
    kinds: tuple[str, ...]
    models: tuple[str, ...]
    accelerators: tuple[str, ...]
    precisions: tuple[str, ...]
    only: dict[str, tuple[str, ...]] = {}
    """Models of which few points are known: the ways that they cover, as `engine/precision/kind/tpN`."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    source: str
    date: datetime.date
    fitted_with: str
    points: int
    configurations: int
    seen: Seen
    derived_model: float
    derived_hardware: float
    """How much wider (factor on the logarithm) bands are for a model or hardware that no point has: measured
    by leaving each one out."""
    targets: dict[str, Target]
    kernels: Kernels = Kernels()
    """What no point shows; from a file of its own, `data/kernels.toml`."""


def load_calibration() -> Calibration:
    """The calibration that comes with Sextant; the caller keeps it."""
    path = resources.files("sextant.spec").joinpath("data", "calibration.toml")
    found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Calibration)
    return msgspec.structs.replace(found, kernels=load_kernels())
