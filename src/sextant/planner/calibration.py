"""How far engines stay below the hardware's rates: physics times a correction learnt from measured points.

`baseline` turns the full-rate times of `phases.py` into TTFT and TPOT with usual efficiencies and the
queueing of prompts in continuous batching. A small regularised boosted forest then corrects its logarithm
from what matters physically (which part dominates, batch, lengths, layout, engine, hardware); beyond what
was measured a tree says what the nearest measured region said. A second forest says how far off the first
usually is, which `bands.py` turns into a band. Trees come from `spec/data/calibration.toml`, written by
`benchmarks/planner/fit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sextant.base.errors import Misconfigured
from sextant.planner.phases import Point, Prompt, Step, cache_filled, decode_step, prompt
from sextant.spec.architecture import Precision
from sextant.spec.calibration import Calibration

WEIGHTS_SHARE = 0.75
CACHE_SHARE = 0.6
COMPUTE_SHARE = 0.5
LINKS_SHARE = 0.6
"""Share of each full rate that well-tuned engines reach: starting values that the forest corrects."""
LAYER_OVERHEAD_S = 36e-6
"""Kernel launches and synchronisation of one layer."""
STEP_OVERHEAD_S = 0.6e-3
"""Scheduling and sampling of one step."""
ANSWER_OVERHEAD_S = 0.01
"""HTTP, tokenizer and the first step's wait."""
BURST_SHARE = 0.05
"""Of the prompts in flight, those that an arriving one waits for in a closed loop."""
ENGINES = ("vllm", "sglang", "trtllm")
SMALLEST = 1e-9

Tree = float | list[Any]
"""A leaf, or [feature, threshold, at most, above]."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Physics with usual efficiencies."""

    step: Step
    prompt: Prompt
    step_s: float
    prompt_s: float
    tpot_s: float
    ttft_s: float
    others: float
    """Prompts of others that are read, on average, within one step."""
    waited: float
    """Prompts that a request's first token takes: its own and those in flight that it waits for."""
    busy: float
    """Seconds of prompts that arrive while one request decodes, over the seconds that takes."""


class Forests(msgspec.Struct, frozen=True, kw_only=True):
    """The trees of one target, ready to walk."""

    correction: tuple[Tree, ...]
    spread: tuple[Tree, ...]
    correction_start: float
    spread_start: float


def baseline(point: Point) -> Baseline:
    """TTFT and TPOT in seconds before the learnt correction."""
    step, one = decode_step(point), prompt(point)
    layers = point.architecture.layers
    reading_s = step.weights_s / WEIGHTS_SHARE + step.cache_s / CACHE_SHARE
    step_s = (
        reading_s
        + step.compute_s / COMPUTE_SHARE
        + step.links_s / LINKS_SHARE
        + layers * LAYER_OVERHEAD_S
        + STEP_OVERHEAD_S
    )
    prompt_s = (
        max(one.compute_s / COMPUTE_SHARE, one.weights_s / WEIGHTS_SHARE)
        + one.links_s / LINKS_SHARE
        + layers * LAYER_OVERHEAD_S
    )
    arriving = point.concurrency / point.prefilling.dp
    others = max(0.0, arriving - 1) / max(point.output_tokens, 1) if point.prefill is None else 0.0
    tpot_s = step_s + others * (one.compute_s / COMPUTE_SHARE + one.links_s)
    waited = 1 + BURST_SHARE * arriving
    ttft_s = waited * prompt_s + step_s + ANSWER_OVERHEAD_S
    return Baseline(
        step=step,
        prompt=one,
        step_s=step_s,
        prompt_s=prompt_s,
        tpot_s=tpot_s,
        ttft_s=ttft_s,
        others=others,
        waited=waited,
        busy=arriving * prompt_s / (tpot_s * max(point.output_tokens, 1)),
    )


def features(point: Point, base: Baseline) -> list[float]:
    """What the trees look at; the order is the one that the trees were fitted with."""
    layout, before, model = point.layout, point.prefilling, point.architecture
    step, one = base.step, base.prompt
    logs = (
        point.concurrency,
        point.input_tokens,
        point.output_tokens,
        layout.attention_tp,
        layout.attention_dp,
        layout.ep,
        layout.replica,
        before.attention_tp,
        before.attention_dp,
        before.ep,
        before.replica,
        layout.dp,
        before.dp,
        point.concurrency / layout.count,
        point.concurrency / before.count,
        point.batch / layout.attention_dp,
        base.step_s,
        base.prompt_s,
        base.tpot_s,
        base.ttft_s,
        base.busy,
        base.prompt_s * point.concurrency / before.dp,
        base.prompt_s + base.step_s,
        model.layers,
        model.hidden,
        model.experts_routed + 1,
        model.params_active,
        model.params_total,
        one.compute_s,
        one.weights_s,
        one.links_s,
        step.weights_s,
        step.cache_s,
        step.compute_s,
        step.links_s,
        cache_filled(point),
    )
    shares = (step.weights_s, step.cache_s, step.compute_s, step.links_s, model.layers * LAYER_OVERHEAD_S)
    values = [math.log(max(value, SMALLEST)) for value in logs]
    values += [value / base.step_s for value in shares]
    values += [float(flag) for flag in _flags(point)]
    values.append(point.engine_age_months)
    return values


def _flags(point: Point) -> Iterator[bool]:
    for engine in ENGINES:
        yield point.engine == engine
    yield point.prefill is None
    kept: Precision
    for kept in ("fp4", "fp8", "bf16", "int4"):
        yield point.precision == kept
    accelerator = point.accelerator
    yield accelerator.kind == "blackwell"
    yield accelerator.domain > accelerator.per_node
    yield accelerator.memory_bytes > 250e9
    yield accelerator.bandwidth_bytes_per_s < 4e12
    yield point.architecture.attention == "gqa"


def forests(calibration: Calibration) -> dict[str, Forests]:
    """The trees by target (`tpot`, `ttft`). Raises Misconfigured where a line is no tree."""
    return {
        name: Forests(
            correction=tuple(_tree(line) for line in target.correction.split("\n") if line),
            spread=tuple(_tree(line) for line in target.spread.split("\n") if line),
            correction_start=target.correction_start,
            spread_start=target.spread_start,
        )
        for name, target in calibration.targets.items()
    }


def walk(trees: Sequence[Tree], values: Sequence[float]) -> float:
    """The sum of what the trees say of `values`."""
    total = 0.0
    for tree in trees:
        node = tree
        while node.__class__ is list:  # twice as fast as isinstance; half of a plan's time is spent here
            feature, threshold, at_most, above = node
            node = at_most if values[feature] <= threshold else above
        total += node  # type: ignore[operator]
    return total


class _Split(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a tree that is no leaf has to be."""

    feature: int
    threshold: float
    at_most: float | _Split
    above: float | _Split


_SPLITS = msgspec.json.Decoder(float | _Split)
_PLAIN = msgspec.json.Decoder()


def _tree(line: str) -> Tree:
    """A tree from its line. Decoded twice, to check it and as lists, which are walked faster than structs."""
    try:
        _SPLITS.decode(line)
        tree: Tree = _PLAIN.decode(line)
    except msgspec.MsgspecError as error:
        raise Misconfigured(
            f"calibration: `{line[:60]}` is no tree ({error}); expected a number or [feature, threshold, at "
            f"most, above]; write the file anew with fit.py"
        ) from None
    return tree
