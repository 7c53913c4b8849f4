"""`sextant plan --explain`: each number of the option that is shown, with its formula and its sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from sextant.cli.output import out
from sextant.cli.plan_answer import Answer
from sextant.cli.plan_view import banded
from sextant.cli.plan_words import sentence, word
from sextant.planner.cold_start import cold_start
from sextant.planner.memory_working import memory_working
from sextant.spec.cold_start import load_start_facts
from sextant.spec.planning import Estimate, Option, Question


def explained(answer: Answer) -> Iterator[tuple[str, Estimate]]:
    """(name, estimate) of every number of the option that is shown; sources of the catalogue in its words."""
    for name, estimate in _all(answer):
        sources = tuple(answer.sources.get(one, one) for one in estimate.sources)
        yield name, msgspec.structs.replace(estimate, sources=sources)


def show_working(answer: Answer, language: str) -> None:
    """Prints it."""
    console = out()
    console.print("\n[bold]--explain[/]")
    for name, estimate in explained(answer):
        basis = word(estimate.basis, language)
        named = f"{sentence(name, language)} = {banded(estimate)} {estimate.unit} [{basis}]"
        console.print(named, markup=False)
        console.print(f"    {sentence(estimate.formula, language)}", markup=False)
        for source in estimate.sources:
            console.print(f"    ({source})", markup=False)
    option = answer.plan.options[answer.shown.index] if answer.shown else None
    if option is not None:
        console.print(f"{word('Sources', language)}: {option.accelerator.id}", markup=False)
    for source in answer.plan.sources:
        console.print(f"    {source}", markup=False)


def _all(answer: Answer) -> Iterator[tuple[str, Estimate]]:
    if answer.shown is None:
        return
    option = answer.plan.options[answer.shown.index]
    for part, estimate in memory_working(answer.plan.question, option):
        yield f"memory: {part}", estimate
    yield from _estimates("speed", option.speed)
    yield from _starts(answer.plan.question, option)
    yield from _estimates("cost", option.cost)
    for way in answer.shown.money.ways:
        yield from _estimates(f"{way.mode} ({way.how})", way)
    money = answer.shown.money
    for name in ("energy", "capping", "spot_training"):
        yield from _estimates(name, getattr(money, name))


def _starts(question: Question, option: Option) -> Iterator[tuple[str, Estimate]]:
    """A replica's cold start on Kubernetes, part by part."""
    asked, facts = question.architecture, load_start_facts()
    start = cold_start(asked, question.precision, engine=question.engine, option=option, facts=facts)
    for part in start.parts:
        yield f"cold start: {part.name}", part.bare
        if part.cached != part.bare:
            yield f"cold start with the node's caches: {part.name}", part.cached
    yield "cold start: all", start.bare
    yield "cold start with the node's caches: all", start.cached


def _estimates(prefix: str, struct: Any) -> Iterator[tuple[str, Estimate]]:
    for field in getattr(struct, "__struct_fields__", ()):
        value = getattr(struct, field)
        if isinstance(value, Estimate):
            yield f"{prefix}: {field}", value
