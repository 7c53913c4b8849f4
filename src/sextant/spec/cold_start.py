"""What a cold start takes, part by part, and the facts behind it: `data/cold_start.toml`.

`planner/cold_start.py` makes it; bundles' READMEs, probes and scaling and `sextant plan --explain` use it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources

import msgspec

from sextant.spec.planning import Estimate

AFTER_START = ("weights", "engine", "compile", "kernels", "graphs", "first answer")
"""Parts that come after the pod's containers have started: those that a probe waits for."""


class StartFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One number with what holds it, and where it comes from."""

    value: float
    low: float
    high: float
    unit: str
    source: str


class StartFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a start is predicted from."""

    schedule: StartFact
    """From the pod's object to its containers, the image apart."""
    image: StartFact
    pull: StartFact
    """Of an image, to a node that has none of it."""
    storage: StartFact
    """At which an engine reads weights by itself, from what is not in memory."""
    disk: StartFact
    """Of a node's disk, files read side by side."""
    memory: StartFact
    """At which an engine reads weights that are in the page cache."""
    engine: StartFact
    ranks: StartFact
    compile_base: StartFact
    compile_layer: StartFact
    kept_layer: StartFact
    """Of a layer whose compiled code is there."""
    kernels: StartFact
    """Experts' kernels, compiled and tuned at the first start."""
    kernels_kept: StartFact
    graphs_layer: StartFact
    first_answer: StartFact


class StartPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part in seconds: where nothing was there before, and with a node's caches."""

    name: str
    bare: Estimate
    cached: Estimate


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """From the pod's object to its first answer."""

    parts: tuple[StartPart, ...]

    @property
    def bare(self) -> Estimate:
        """All of it, where nothing was there before."""
        return _sum(part.bare for part in self.parts)

    @property
    def cached(self) -> Estimate:
        """All of it, with image, weights and compiled code on the node."""
        return _sum(part.cached for part in self.parts)

    @property
    def ready_s_high(self) -> float:
        """The longest that a probe has to wait, by the band of a start without caches."""
        return sum(part.bare.high for part in self.parts if part.name in AFTER_START)


def load_start_facts() -> StartFacts:
    """The facts that come with Sextant."""
    path = resources.files("sextant.spec").joinpath("data", "cold_start.toml")
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), StartFacts)


def _sum(parts: Iterable[Estimate]) -> Estimate:
    """As if all parts were late at once: they share a machine."""
    found = tuple(parts)
    return Estimate(
        value=sum(one.value for one in found),
        low=sum(one.low for one in found),
        high=sum(one.high for one in found),
        unit="s",
        basis="derived",
        formula=" + ".join(f"{one.value:.0f}" for one in found),
        sources=tuple(dict.fromkeys(source for one in found for source in one.sources)),
    )
