"""How long a replica takes from being asked for to its first answer: a sum of parts, without and with caches.

Without: a node that has neither image nor weights nor compiled code, and an engine that reads its weights
from shared storage by itself. With: image, weights and compiled code are on the node, and weights are read
side by side into memory before the engine starts. Pure; the facts are `spec/data/cold_start.toml`.
"""

from __future__ import annotations

from sextant.planner.memory import weights_bytes
from sextant.spec.architecture import ModelArchitecture, Precision
from sextant.spec.cold_start import ColdStart, StartFact, StartFacts, StartPart
from sextant.spec.planning import Engine, Estimate, Option

COMPILES: tuple[Engine, ...] = ("vllm",)
"""Engines that compile the model's layers at their first start."""
TUNES: tuple[Engine, ...] = ("vllm", "sglang")
"""Engines that compile experts' kernels then."""
NOTHING = Estimate(value=0.0, low=0.0, high=0.0, unit="s", basis="derived", formula="it is there")


def cold_start(
    model: ModelArchitecture, precision: Precision, *, engine: Engine, option: Option, facts: StartFacts
) -> ColdStart:
    """The parts of a start of one replica as `option` lays it out, in seconds."""
    layout = option.layout.decode or option.layout
    machines = max(1, -(-layout.replica // option.accelerator.per_node))
    read_bytes = weights_bytes(model, precision)[0] / machines
    parts = [
        _same("scheduling", _plain(facts.schedule)),
        StartPart(name="image", bare=_read(facts.image, facts.pull), cached=NOTHING),
        StartPart(
            name="weights",
            bare=_over(read_bytes, facts.storage),
            cached=_both(_over(read_bytes, facts.disk), _over(read_bytes, facts.memory)),
        ),
        _same("engine", _both(_plain(facts.engine), _plain(facts.ranks)) if layout.replica > 1 else
              _plain(facts.engine)),
    ]  # fmt: skip
    if engine in COMPILES:
        compiled = _both(_plain(facts.compile_base), _layers(model.layers, facts.compile_layer))
        kept = _layers(model.layers, facts.kept_layer)
        parts.append(StartPart(name="compile", bare=compiled, cached=kept))
    if engine in TUNES and model.is_mixture:
        parts.append(StartPart(name="kernels", bare=_plain(facts.kernels), cached=_plain(facts.kernels_kept)))
    parts.append(_same("graphs", _layers(model.layers, facts.graphs_layer)))
    parts.append(_same("first answer", _plain(facts.first_answer)))
    return ColdStart(parts=tuple(parts))


def _same(name: str, estimate: Estimate) -> StartPart:
    return StartPart(name=name, bare=estimate, cached=estimate)


def _plain(fact: StartFact) -> Estimate:
    return _estimate((fact.value, fact.low, fact.high), f"{fact.value:g} s", fact)


def _layers(layers: int, fact: StartFact) -> Estimate:
    numbers = (layers * fact.value, layers * fact.low, layers * fact.high)
    return _estimate(numbers, f"{layers} layers x {fact.value:g} s", fact)


def _over(size_bytes: float, rate: StartFact) -> Estimate:
    numbers = (size_bytes / rate.value, size_bytes / rate.high, size_bytes / rate.low)
    return _estimate(numbers, f"{size_bytes / 1e9:.1f} GB / {rate.value / 1e9:g} GB/s", rate)


def _read(size: StartFact, rate: StartFact) -> Estimate:
    found = _over(size.value, rate)
    return Estimate(
        value=found.value,
        low=size.low / rate.high,
        high=size.high / rate.low,
        unit="s",
        basis="derived",
        formula=found.formula,
        sources=(size.source, rate.source),
    )


def _both(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(
        value=one.value + other.value,
        low=one.low + other.low,
        high=one.high + other.high,
        unit="s",
        basis="derived",
        formula=f"{one.formula} + {other.formula}",
        sources=tuple(dict.fromkeys((*one.sources, *other.sources))),
    )


def _estimate(numbers: tuple[float, float, float], formula: str, fact: StartFact) -> Estimate:
    value, low, high = numbers
    return Estimate(
        value=value,
        low=low,
        high=high,
        unit="s",
        basis="derived" if fact.source.startswith("estimate") else "stated",
        formula=formula,
        sources=(fact.source,),
    )
