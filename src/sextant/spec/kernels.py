"""Kernels that no measured serving point shows, with what is published of their speed: `data/kernels.toml`.

Read by `calibration.py` beside the calibration; `planner/kernels.py` says what they cost beyond the usual.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from importlib import resources

import msgspec

from sextant.spec.architecture import Precision
from sextant.spec.planning import Engine


class ExpertsKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A slow kernel for routed experts with weights of that precision."""

    engine: Engine
    precision: Precision
    least_age_months: float
    """The youngest engine that still has it, counted back from the newest measured points."""
    bandwidth_share: float
    """Of the memory's bandwidth, in reading the experts that a step touches."""
    layer_overhead_s: float
    source: str
    date: datetime.date
    accelerator: str
    measured: Mapping[str, float]
    """Tokens per second by batch, on eight of that accelerator, tensor parallel."""


class AttentionKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An attention kernel that computes more than it has to."""

    engine: Engine
    attention: str
    heads_least: int
    """A rank with fewer query heads computes as many."""
    prompt_share: float
    decode_share: float
    """Of the BF16 rate."""
    source: str
    date: datetime.date


class Kernels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of them, by name."""

    experts: Mapping[str, ExpertsKernel] = {}
    attention: Mapping[str, AttentionKernel] = {}


def load_kernels() -> Kernels:
    """The kernels that come with Sextant."""
    path = resources.files("sextant.spec").joinpath("data", "kernels.toml")
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Kernels)
