"""How fast a layout is, with bands: what `options.py` asks for each layout that fits.

Physics (`phases.py`), corrected (`calibration.py`), with what kernels add that no point shows (`kernels.py`)
and a band (`bands.py`); then the most requests per second inside the targets, by walking up the number in
flight. Replicas that serve whole requests are predicted one at a time, so that twice as many carry exactly
twice as much.
"""

from __future__ import annotations

import math
from functools import partial

import msgspec

from sextant.planner import bands
from sextant.planner.calibration import Baseline, Forests, baseline, features, forests, walk
from sextant.planner.kernels import extra
from sextant.planner.phases import Point, decode_step, prompt
from sextant.spec.calibration import Calibration
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Basis, Estimate, Layout, MemoryUse, Predict, Question, Speed, Targets

FORMULA = "roofline(weights, KV cache, FLOPs, links) / usual efficiency, x exp(correction of measured points)"
P99_SIGMAS = 2.33
"""Of a normal distribution; requests in flight vary as Poisson does."""
MOST_STEPS = 16
"""How often the number in flight is doubled in search of the most requests per second."""
FULL = 0.98
"""Of a prompt server: above it the wait's formula has no meaning."""
MOST_KNOWN = 20_000
"""Predictions kept; then all are forgotten."""
MOST_COMPUTE_SHARE = 0.6
"""Of the accelerators' operations per second, in the long run: 99 of 100 aggregated points stay below 0.37,
and those above 1 cannot be as recorded."""
WIDE = 4.0
"""High over low, from which on a band is named in a warning."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """One replica with `concurrency` requests in flight."""

    concurrency: float
    ttft_s: float
    tpot_s: float
    ttft_p99_s: float
    requests_per_s: float


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The calibration with its trees parsed."""

    calibration: Calibration
    trees: dict[str, Forests]
    known: dict[tuple[object, ...], tuple[Point, Times]] = {}
    """What was predicted before: a sweep asks for the same load of the same replica many times, once for each
    wish that it tries to give up. At most `MOST_KNOWN`; the point keeps alive what its key identifies."""


def predictor(calibration: Calibration) -> Predict:
    """The prediction that rests on this calibration; its trees are parsed once, here."""
    return partial(predict, Model(calibration=calibration, trees=forests(calibration)))


def predict(
    model: Model, question: Question, layout: Layout, accelerator: Accelerator, memory: MemoryUse
) -> Speed:
    """TTFT, TPOT and throughput of `layout`, all replicas together, at the question's load."""
    point, replicas = _point(question, layout, accelerator)
    most = max(1.0, float(memory.requests_fit * point.layout.dp))
    steps = _climb(model, (point, most), question.targets)
    wanted = question.workload.peak_requests_per_s / replicas
    asked = question.wishes.concurrency
    now = (
        _times(model, _at(point, min(most, asked / replicas)))
        if asked
        else _carrying(steps, wanted, point.output_tokens)
    )
    high = _times(model, _at(point, min(most, now.concurrency + P99_SIGMAS * math.sqrt(now.concurrency))))
    inside = [one.requests_per_s for one in steps if _meets(one, question.targets, point.output_tokens)]
    return _speed(model, (point, replicas), (now, high), max(inside, default=0.0))


def times(model: Model, point: Point) -> tuple[float, float]:
    """TTFT and TPOT in seconds at `point`."""
    found = _times(model, point)
    return found.ttft_s, found.tpot_s


def step_s(model: Model, point: Point) -> float:
    """Seconds of one step of decoding in which no prompt is read; TPOT holds prompts of others too."""
    base = baseline(point)
    correction = _correction(model, "tpot", features(point, base))
    return base.step_s * correction + extra(point, model.calibration.kernels).step_s


def _point(question: Question, layout: Layout, accelerator: Accelerator) -> tuple[Point, int]:
    """The load on one replica, and how many there are. Of a split deployment that is the smallest part with
    the same proportion, so that twice as many parts carry twice as much."""
    prefill, decode, replicas = None, msgspec.structs.replace(layout, dp=1), layout.dp
    if layout.prefill is not None and layout.decode is not None:
        replicas = math.gcd(layout.prefill.dp, layout.decode.dp)
        prefill, decode = (
            msgspec.structs.replace(part, dp=part.dp // replicas) for part in (layout.prefill, layout.decode)
        )
    point = Point(
        architecture=question.architecture,
        precision=question.precision,
        kv_precision=question.kv_precision,
        engine=question.engine,
        accelerator=accelerator,
        layout=decode,
        prefill=prefill,
        concurrency=1.0,
        input_tokens=float(question.workload.input_tokens),
        output_tokens=float(question.workload.output_tokens),
        prefix_hit_share=question.workload.prefix_hit_share,
    )
    return point, replicas


def _at(point: Point, concurrency: float) -> Point:
    return msgspec.structs.replace(point, concurrency=max(1.0, concurrency))


def _climb(model: Model, load: tuple[Point, float], targets: Targets) -> list[Times]:
    """Times at 1, 2, 4 ... most in flight, up to the first that breaks a target. More in flight is never
    taken to be faster for each request, so what comes after it breaks the target too."""
    point, most = load
    found: list[Times] = []
    concurrency = 1.0
    for _ in range(MOST_STEPS):
        one = _times(model, _at(point, min(concurrency, most)))
        if found:
            last = found[-1]
            one = _slower(one, last, point.output_tokens)
        found.append(one)
        if concurrency >= most or not _meets(one, targets, point.output_tokens):
            break
        concurrency *= 2
    return found


def _carrying(steps: list[Times], wanted: float, output_tokens: float) -> Times:
    """The times with just so many in flight that `wanted` requests per second are done: between two steps of
    the climb they go straight from one to the other. The last step where none carries that much."""
    place = next((place for place, one in enumerate(steps) if one.requests_per_s >= wanted), len(steps) - 1)
    after = steps[place]
    if place == 0 or after.requests_per_s < wanted:
        return after
    before = steps[place - 1]
    spare = after.concurrency - before.concurrency
    held_s = before.ttft_s + output_tokens * before.tpot_s
    slope_s = (after.ttft_s + output_tokens * after.tpot_s - held_s) / spare
    least = wanted * (held_s - slope_s * before.concurrency) / (1 - wanted * slope_s)
    share = min(1.0, (math.ceil(least) - before.concurrency) / spare)

    def between(one: float, other: float) -> float:
        return one + share * (other - one)

    ttft_s, tpot_s = between(before.ttft_s, after.ttft_s), between(before.tpot_s, after.tpot_s)
    concurrency = between(before.concurrency, after.concurrency)
    return Times(
        concurrency=concurrency,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        ttft_p99_s=between(before.ttft_p99_s, after.ttft_p99_s),
        requests_per_s=concurrency / (ttft_s + output_tokens * tpot_s),
    )


def _slower(one: Times, last: Times, output_tokens: float) -> Times:
    ttft_s, tpot_s = max(one.ttft_s, last.ttft_s), max(one.tpot_s, last.tpot_s)
    return Times(
        concurrency=one.concurrency,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        ttft_p99_s=max(one.ttft_p99_s, last.ttft_p99_s),
        requests_per_s=one.concurrency / (ttft_s + output_tokens * tpot_s),
    )


def _times(model: Model, point: Point) -> Times:
    key = _key(point)
    found = model.known.get(key)
    if found is None:
        if len(model.known) >= MOST_KNOWN:
            model.known.clear()
        found = model.known[key] = (point, _predicted(model, point))
    return found[1]


def _key(point: Point) -> tuple[object, ...]:
    """Equal for the same load on the same replica; architecture and accelerator by identity, for comparing
    them takes as long as predicting."""
    return (
        id(point.architecture),
        id(point.accelerator),
        point.precision,
        point.kv_precision,
        point.engine,
        point.layout,
        point.prefill,
        point.concurrency,
        point.input_tokens,
        point.output_tokens,
        point.prefix_hit_share,
        point.engine_age_months,
    )


def _predicted(model: Model, point: Point) -> Times:
    base = baseline(point)
    values = features(point, base)
    beyond = extra(point, model.calibration.kernels)
    tpot_s = base.tpot_s * _correction(model, "tpot", values) + beyond.step_s + base.others * beyond.prompt_s
    ratio = _correction(model, "ttft", values)
    ttft_s = base.ttft_s * ratio + beyond.step_s + base.waited * beyond.prompt_s
    short_s = _least_s(point, base) - ttft_s - point.output_tokens * tpot_s
    if short_s > 0 and point.prefill is None:
        tpot_s += short_s / point.output_tokens
    elif short_s > 0:
        ttft_s += short_s
    return Times(
        concurrency=point.concurrency,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        ttft_p99_s=ttft_s + _tail_s(point, base, ratio),
        requests_per_s=point.concurrency / (ttft_s + point.output_tokens * tpot_s),
    )


def _correction(model: Model, target: str, values: list[float]) -> float:
    trees = model.trees[target]
    return math.exp(trees.correction_start + walk(trees.correction, values))


def _least_s(point: Point, base: Baseline) -> float:
    """How long requests are in flight at least when so many are: by Little's law the work of all of them, at
    the most operations per second that are reached."""
    answer_s = point.output_tokens * base.step.compute_s / point.batch / point.layout.pp / point.layout.dp
    read_s = base.prompt.compute_s / point.prefilling.pp / point.prefilling.dp
    work_s = read_s + answer_s if point.prefill is None else max(read_s, answer_s)
    return point.concurrency * work_s / MOST_COMPUTE_SHARE


def _tail_s(point: Point, base: Baseline, ratio: float) -> float:
    """What one prompt in a hundred waits for others: the exponential tail of an M/D/1 queue of prompts,
    `ln(100 rho) * S / (2 (1 - rho))`. An arriving one does not wait for itself."""
    busy = min(base.busy * (1 - 1 / point.concurrency), FULL)
    prompt_s = base.prompt_s * ratio
    return math.log(max(1.0, 100 * busy)) * prompt_s / (2 * (1 - busy))


def _meets(one: Times, targets: Targets, output_tokens: float) -> bool:
    end_s = one.ttft_p99_s + output_tokens * one.tpot_s
    return not (
        (targets.ttft_ms_p99 is not None and one.ttft_p99_s * 1000 > targets.ttft_ms_p99)
        or (targets.tpot_ms_p99 is not None and one.tpot_s * 1000 > targets.tpot_ms_p99)
        or (targets.end_to_end_ms is not None and end_s * 1000 > targets.end_to_end_ms)
    )


def _speed(model: Model, load: tuple[Point, int], found: tuple[Times, Times], rate: float) -> Speed:
    (point, replicas), (now, high) = load, found
    calibration = model.calibration
    here = _at(point, now.concurrency)
    values = features(here, baseline(here))
    kind = bands.basis(point, calibration)
    factor = bands.widening(point, calibration)
    ttft, tpot = (
        bands.factors(values, model.trees[name], calibration.targets[name], factor)
        for name in ("ttft", "tpot")
    )
    ttft, tpot = _possible(here, now, (ttft, tpot))
    slower = (1 / tpot[1], 1 / tpot[0])
    sources = (calibration.source, *extra(here, calibration.kernels).sources)

    def stated(value: float, unit: str, band: tuple[float, float], basis: Basis = kind) -> Estimate:
        return Estimate(
            value=value,
            low=value * band[0],
            high=value * band[1],
            unit=unit,
            basis=basis,
            formula=FORMULA,
            sources=sources,
        )

    answers_per_s = now.concurrency / (now.ttft_s + point.output_tokens * now.tpot_s)
    tokens_per_s = answers_per_s * point.output_tokens * replicas
    return Speed(
        concurrency=max(1, round(now.concurrency * replicas)),
        ttft_ms=stated(now.ttft_s * 1000, "ms", ttft),
        tpot_ms=stated(now.tpot_s * 1000, "ms", tpot),
        ttft_ms_p99=stated(now.ttft_p99_s * 1000, "ms", ttft, "derived"),
        tpot_ms_p99=stated(max(now.tpot_s, high.tpot_s) * 1000, "ms", tpot, "derived"),
        output_tokens_per_s=stated(tokens_per_s, "tokens/s", slower),
        requests_per_s_max=stated(rate * replicas, "requests/s", slower),
        warnings=_warnings(point, kind, (ttft, tpot)),
    )


def _possible(
    point: Point, now: Times, found: tuple[tuple[float, float], tuple[float, float]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bands that do not begin below what the hardware's full rates allow."""
    step, one = decode_step(point), prompt(point)
    step_s = max(step.weights_s + step.cache_s, step.compute_s)
    least_s = (max(one.compute_s, one.weights_s), step_s)
    (ttft_low, ttft_high), (tpot_low, tpot_high) = found
    return (
        (max(ttft_low, min(1.0, least_s[0] / now.ttft_s)), ttft_high),
        (max(tpot_low, min(1.0, least_s[1] / now.tpot_s)), tpot_high),
    )


def _warnings(point: Point, kind: Basis, found: tuple[tuple[float, float], ...]) -> tuple[str, ...]:
    said = []
    if kind == "derived":
        said.append(
            f"no measured point has {point.architecture.id} in {point.precision} with {point.engine} on the "
            f"class {point.accelerator.kind}: speed is derived from physics and other hardware's efficiency"
        )
    for name, (low, high) in zip(("TTFT", "TPOT"), found, strict=True):
        if high / low > WIDE:
            said.append(
                f"{name} cannot be predicted well here: its 80 % band spans a factor {high / low:.1f}"
            )
    return tuple(said)
