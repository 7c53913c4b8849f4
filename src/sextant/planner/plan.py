"""From a question to a plan: every accelerator's options, ranked; or what comes closest and what to give up.

Stands at the end of flow 2's first half: `cli/` asks, `options.py` sizes, `roofline.py` predicts, `cost.py`
rates. Pure; the same question gives the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from sextant.base.errors import BadRequest
from sextant.planner import memory, options, parallel
from sextant.spec.architecture import ModelArchitecture, PrecisionFacts
from sextant.spec.planning import Break, Option, Plan, PrecisionChoice, Question, Refusal, Targets, Wishes

REFUSALS_SHOWN = 5
MOST_TOKENS = 100_000_000
MOST_REQUESTS_PER_S = 1e6
MOST_USD = 1e12
MOST_PUE = 10.0


def plan(question: Question, tools: options.Tools, precisions: Sequence[PrecisionFacts] = ()) -> Plan:
    """The plan for a question. Raises BadRequest for numbers that make no sense; wishes that cannot be met
    give a plan without options, whose refusals say what comes closest and what would have to be given up."""
    check(question)
    conflicts = parallel.contradictions(question)
    found, refused = _swept(question, tools) if not conflicts else ((), ())
    refusals = _closest(refused)
    if not found:
        refusals = (*_without_one_wish(question, conflicts, tools), *refusals)
        refusals = refusals or tuple(_too_long(question, conflicts))
    return Plan(
        question=question,
        options=found,
        cheapest=options.lowest(found, options.price),
        fastest=options.lowest(found, options.answer_ms),
        most_efficient=options.lowest(found, options.watts_per_request),
        refusals=refusals[:REFUSALS_SHOWN],
        precisions=precision_choices(question.architecture, precisions),
        warnings=(*(conflict.text for conflict in conflicts), *_without_targets(question)),
        sources=tuple(dict.fromkeys(s for option in found for s in options.sources_of(option.speed))),
    )


def check(question: Question) -> None:
    """Raises BadRequest naming the first number that makes no sense, its value and what was expected."""
    work, targets, wishes = question.workload, question.targets, question.wishes
    if not question.accelerators:
        raise BadRequest("no accelerator is to be considered; name one, or leave the choice to the catalogue")
    _within("requests_per_s", work.requests_per_s, 0.0, MOST_REQUESTS_PER_S, above=True)
    _within("input_tokens", work.input_tokens, 1, MOST_TOKENS)
    _within("output_tokens", work.output_tokens, 1, MOST_TOKENS)
    _within("prefix_hit_share", work.prefix_hit_share, 0.0, 1.0)
    _within("swing", work.swing, 1.0, 1000.0)
    for name in targets.__struct_fields__:
        _positive(name, getattr(targets, name))
    for name in wishes.__struct_fields__:
        _positive(name, getattr(wishes, name))
    for name in question.costs.__struct_fields__:
        value = getattr(question.costs, name)
        if value is not None:
            _within(name, value, *((1.0, MOST_PUE) if name == "pue" else (0.0, MOST_USD)))
    kept = options.precisions_of(question.engine)
    if question.precision not in kept:
        raise BadRequest(
            f"{question.engine} keeps weights in {', '.join(kept[:-1])} or {kept[-1]}; precision is "
            f"{question.precision}; name one of those, or another engine"
        )


def precision_choices(
    model: ModelArchitecture, precisions: Sequence[PrecisionFacts]
) -> tuple[PrecisionChoice, ...]:
    """The ways to keep that model's weights, largest first, and what each is expected to cost in accuracy."""
    found = []
    for facts in precisions:
        size_bytes, measured = memory.weights_bytes(model, facts.id)
        native = facts.id == model.native_precision
        found.append(
            PrecisionChoice(
                precision=facts.id,
                weights_bytes=size_bytes,
                measured=measured,
                accuracy="as its makers publish it" if native else facts.accuracy,
                source="" if native else facts.source,
            )
        )
    return tuple(sorted(found, key=lambda choice: -choice.weights_bytes))


def _swept(question: Question, tools: options.Tools) -> tuple[tuple[Option, ...], tuple[Refusal, ...]]:
    found: list[Option] = []
    refused: list[Refusal] = []
    for accelerator in question.accelerators:
        one = options.options_of(question, accelerator, tools)
        found.extend(one.options)
        refused.extend(one.refusals if not one.options else ())
    return tuple(found), tuple(refused)


def _without_targets(question: Question) -> tuple[str, ...]:
    if question.targets != Targets():
        return ()
    return ("no latency target is given: accelerators are counted for full use, where answers are slow",)


def _closest(refused: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """Of each accelerator the nearest, nearest first; what fits in memory is nearer than what does not."""

    def near(refusal: Refusal) -> tuple[bool, float]:
        return refusal.first_break.key not in memory.BREAKS, refusal.nearness

    nearest: dict[str, Refusal] = {}
    for refusal in refused:
        before = nearest.get(refusal.accelerator.id)
        if before is None or near(refusal) > near(before):
            nearest[refusal.accelerator.id] = refusal
    return tuple(sorted(nearest.values(), key=near, reverse=True))


def _without_one_wish(
    question: Question, conflicts: Sequence[Break], tools: options.Tools
) -> tuple[Refusal, ...]:
    """What would work if one wish or one target were given up; each is tried alone."""
    found = []
    for name, relaxed in _relaxed(question):
        if parallel.contradictions(relaxed):
            continue
        offered, _ = _swept(relaxed, tools)
        best = options.lowest(offered, lambda option: float(option.count))
        if best is None:
            continue
        option = offered[best]
        offer = f"{option.count} × {option.accelerator.id}"
        plain = Break(key=name, text=f"nothing meets every wish; without {name} {offer} do")
        give_up = f"{name}: then {offer}"
        found.append(
            Refusal(
                accelerator=option.accelerator,
                layout=option.layout,
                first_break=conflicts[0] if conflicts else plain,
                give_up=give_up,
                nearness=1.0,
            )
        )
    return tuple(found)


def _too_long(question: Question, conflicts: Sequence[Break]) -> Iterator[Refusal]:
    """The longest context that there is, where giving it up alone is not enough."""
    longest = question.architecture.context_tokens
    for conflict in conflicts:
        if conflict.key == "context":
            give_up = f"a context of at most {longest} tokens"
            yield Refusal(accelerator=question.accelerators[0], first_break=conflict, give_up=give_up)


def _relaxed(question: Question) -> Iterator[tuple[str, Question]]:
    """The question without each thing that was wished, one at a time."""
    for name in Wishes.__struct_fields__:
        if getattr(question.wishes, name) is not None:
            wishes = msgspec.structs.replace(question.wishes, **{name: None})
            yield name, msgspec.structs.replace(question, wishes=wishes)
    for name in Targets.__struct_fields__:
        if getattr(question.targets, name) is not None:
            targets = msgspec.structs.replace(question.targets, **{name: None})
            yield name, msgspec.structs.replace(question, targets=targets)
    longest = question.architecture.context_tokens
    wished = question.wishes.context_tokens
    if question.workload.context_tokens > longest > question.workload.output_tokens:
        inputs = longest - question.workload.output_tokens
        load = msgspec.structs.replace(question.workload, input_tokens=inputs)
        wishes = msgspec.structs.replace(question.wishes, context_tokens=wished and min(wished, longest))
        yield (
            f"a context over {longest} tokens",
            msgspec.structs.replace(question, workload=load, wishes=wishes),
        )
    for precision in ("fp8", "int4", "q8", "q4"):
        if precision not in options.precisions_of(question.engine):
            continue
        if memory.BITS[precision] < memory.BITS[question.precision]:
            yield (
                f"{question.precision} weights ({precision} instead)",
                msgspec.structs.replace(question, precision=precision),
            )
            break
    if question.costs.most_usd_per_month is not None:
        costs = msgspec.structs.replace(question.costs, most_usd_per_month=None)
        yield "most_usd_per_month", msgspec.structs.replace(question, costs=costs)


def _within(name: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    if not (least <= value <= most) or (above and value == least):
        wanted = f"more than {least:g}" if above else f"{least:g} or more"
        upto = "" if math.isinf(most) else f" and at most {most:g}"
        raise BadRequest(f"{name} is {value:g}; expected {wanted}{upto}")


def _positive(name: str, value: float | bool | None) -> None:
    if value is None or isinstance(value, bool):
        return
    if not 0 < value < math.inf:
        raise BadRequest(f"{name} is {value:g}; expected more than 0, or leave it out")
