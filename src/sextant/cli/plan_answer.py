"""What `sextant plan` shows beside the plan: the money of one option, its latency curve, and how long
requests wait there when the load arrives as a real one does. `planner/` decides all of it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from importlib import resources

import msgspec

from sextant.planner.cost import CARD_SOURCE, RENT_SOURCE, Have, unit_of
from sextant.planner.memory_working import CHECKPOINT_SOURCE
from sextant.planner.money import Money, money_of
from sextant.planner.options import Tools
from sextant.planner.plan import plan
from sextant.planner.queueing import (
    Arrival,
    Batcher,
    Service,
    Waits,
    most_requests_per_s,
    most_simulated,
    scaled,
    simulate,
    spread,
    wait_s,
)
from sextant.spec.facts import Catalog
from sextant.spec.hardware_prices import Prices
from sextant.spec.planning import Option, Plan, Question, Speed, Targets

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SIMULATED_REQUESTS = 300
WAIT_MS_MOST = 100.0
TRACE = "azure_conversations_slice.csv"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the latency curve, all replicas together."""

    concurrency: int
    output_tokens_per_s: float
    tpot_ms: float
    tpot_ms_low: float
    tpot_ms_high: float
    ttft_ms: float


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The option that is shown in detail."""

    index: int
    money: Money
    curve: tuple[Point, ...]
    waits: Waits | None
    waits_from: str
    places: Places
    requests_per_s_simulated: float | None
    """Where those waits miss a target: the most requests a second, all accelerators together, that meet it
    when they arrive so; None where they meet it."""


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Waiting for one of the places that the memory has, by Allen and Cunneen, all replicas together."""

    places: int
    wait_ms_p99: float | None
    """None: more arrives than the places can hold."""
    requests_per_s_most: float
    """So many can arrive until one request in a hundred waits `WAIT_MS_MOST` for a place."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All that is printed."""

    plan: Plan
    shown: Shown | None
    sources: Mapping[str, str] = {}
    """Sources that an estimate names by where they stand in the catalogue, in words."""


def answer(question: Question, *, catalog: Catalog, prices: Prices, tools: Tools) -> Answer:
    """The plan, and the details of its cheapest option (the most efficient one where nothing has a price)."""
    made = plan(question, tools, catalog.precisions)
    index = next((one for one in (made.cheapest, made.most_efficient, made.fastest) if one is not None), None)
    if index is None:
        return Answer(plan=made, shown=None)
    option = made.options[index]
    have = Have(
        question=question,
        accelerator=option.accelerator,
        count=option.count,
        replica=unit_of(option.layout),
        speed=option.speed,
        prices=prices,
    )
    curve = latency_curve(question, option, tools)
    waits, most = _waits(question, option, curve, tools)
    shown = Shown(
        index=index,
        money=money_of(have),
        curve=curve,
        waits=waits,
        waits_from=TRACE,
        places=_places(question, option),
        requests_per_s_simulated=most,
    )
    return Answer(plan=made, shown=shown, sources=_sources(question, option, catalog))


def _sources(question: Question, option: Option, catalog: Catalog) -> dict[str, str]:
    card, model = option.accelerator, question.architecture
    found = {
        RENT_SOURCE: catalog.source_of(card, "usd_per_h"),
        CARD_SOURCE: catalog.source_of(card, "price_usd"),
        CHECKPOINT_SOURCE: catalog.source_of(model, "checkpoints"),
    }
    return {
        name: ", ".join(filter(None, (source.where, str(source.date or ""))))
        for name, source in found.items()
    }


def latency_curve(question: Question, option: Option, tools: Tools) -> tuple[Point, ...]:
    """Predictions at rising numbers of requests in flight, up to what the memory holds."""
    points = []
    replicas = option.layout.dp if option.layout.prefill is None else 1
    for per_replica in CONCURRENCIES:
        if per_replica > max(1, option.memory.requests_fit):
            break
        speed = speed_at(question, option, tools, concurrency=per_replica * replicas)
        points.append(
            Point(
                concurrency=speed.concurrency,
                output_tokens_per_s=speed.output_tokens_per_s.value,
                tpot_ms=speed.tpot_ms.value,
                tpot_ms_low=speed.tpot_ms.low,
                tpot_ms_high=speed.tpot_ms.high,
                ttft_ms=speed.ttft_ms.value,
            )
        )
    return tuple(points)


def speed_at(question: Question, option: Option, tools: Tools, *, concurrency: int) -> Speed:
    """What is predicted for the option with that many requests in flight."""
    wishes = msgspec.structs.replace(question.wishes, concurrency=concurrency)
    asked = msgspec.structs.replace(question, wishes=wishes)
    return tools.predict(asked, option.layout, option.accelerator, option.memory)


def _waits(
    question: Question, option: Option, curve: tuple[Point, ...], tools: Tools
) -> tuple[Waits | None, float | None]:
    """The load at its peak through one group of ranks that shares attention, as a production trace arrives:
    the groups work side by side, each with its share. None where prefill and decode run apart, which the
    simulation does not do.

    A predicted TPOT holds what prompts of others take from a step, as measured ones do; the simulation adds
    that itself, so it is taken out: with `c` in flight, each step of one token sees c / output prompts."""
    if option.layout.prefill is not None or not curve:
        return None, None
    load = question.workload
    groups = option.layout.dp * option.layout.attention_dp
    places = min(
        max(1, option.memory.requests_fit // option.layout.attention_dp),
        option.speed.running_most or option.memory.requests_fit,
    )
    prompt_ms = _prompt_ms(question, option, curve[0], tools)
    steps: dict[int, float] = {}
    least = curve[0].tpot_ms
    for point in curve:
        running = max(1, point.concurrency // groups)
        least = max(least, point.tpot_ms - (running - 1) * prompt_ms / load.output_tokens)
        steps[running] = least
    engine = Batcher(
        places=places,
        steps_ms=tuple(sorted(steps.items())),
        prefill_ms_per_token=prompt_ms / max(1.0, load.input_tokens * (1 - load.prefix_hit_share)),
        kv_tokens=places * load.context_tokens,
        prefix_hit_share=load.prefix_hit_share,
    )

    def arriving(requests_per_s: float) -> list[Arrival]:
        tokens = (load.input_tokens, load.output_tokens)
        return scaled(trace()[:SIMULATED_REQUESTS], requests_per_s=requests_per_s, tokens=tokens)

    peak = load.peak_requests_per_s / groups
    seen = simulate(engine, arriving(peak))
    if _meets(seen, question.targets):
        return seen, None
    most = most_simulated(
        engine, arriving, meets=lambda waits: _meets(waits, question.targets), requests_per_s=peak
    )
    return seen, most * groups


def _meets(waits: Waits, targets: Targets) -> bool:
    pairs = (
        (waits.ttft_ms_p99, targets.ttft_ms_p99),
        (waits.tpot_ms_p99, targets.tpot_ms_p99),
        (waits.end_to_end_ms_p99, targets.end_to_end_ms),
    )
    return all(target is None or value <= target for value, target in pairs)


def _places(question: Question, option: Option) -> Places:
    """A place is held for as long as an answer takes; arrivals and lengths vary as in the trace."""
    requests = trace()
    gaps_s = [after.at_s - before.at_s for before, after in itertools.pairwise(requests)]
    speed, load, fit = option.speed, question.workload, option.memory.requests_fit
    service = Service(
        servers=max(1, min(fit, option.speed.running_most or fit) * option.layout.dp),
        mean_s=(speed.ttft_ms.value + load.output_tokens * speed.tpot_ms.value) / 1000,
        arrivals_cv2=spread(gaps_s),
        service_cv2=spread([one.output_tokens for one in requests]),
    )
    wait = wait_s(service, load.peak_requests_per_s, 0.99)
    return Places(
        places=service.servers,
        wait_ms_p99=wait * 1000 if wait < math.inf else None,
        requests_per_s_most=most_requests_per_s(service, WAIT_MS_MOST / 1000, 0.99),
    )


def _prompt_ms(question: Question, option: Option, alone: Point, tools: Tools) -> float:
    """What a prompt takes of an engine that is busy: what a prompt twice as long takes more, so that fixed
    costs are not counted; at least a quarter of what it takes alone, at most all of it."""
    load = question.workload
    twice = msgspec.structs.replace(load, input_tokens=2 * load.input_tokens)
    longer = msgspec.structs.replace(question, workload=twice)
    more_ms = speed_at(longer, option, tools, concurrency=alone.concurrency).ttft_ms.value - alone.ttft_ms
    return min(alone.ttft_ms, max(alone.ttft_ms / 4, more_ms))


@functools.cache
def trace() -> tuple[Arrival, ...]:
    """Requests as they came to a production service; source and licence stand at the top of the file."""
    text = resources.files("sextant.spec").joinpath("data", TRACE).read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")][1:]
    return tuple(
        Arrival(at_s=int(at) / 1000, input_tokens=int(inputs), output_tokens=int(outputs))
        for at, inputs, outputs in rows
    )
