"""The money of one option: three years of each mode, from what load on it beats a public API, which
assumption moves the sum most, and what training on spot machines saves.

Pure. Neighbours: `cost.py` (what things cost), `energy.py`, `cli/plan.py` (what shows it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from sextant.planner.cost import (
    MONTHS,
    SECONDS_PER_MONTH,
    Have,
    Way,
    api_usd_per_mtok,
    card_usd,
    hour_price,
    rent_usd_per_h,
    ways_of,
)
from sextant.planner.energy import MILLION, CapSaving, Energy, cap_saving, estimate
from sextant.planner.memory import training_accelerators
from sextant.spec.hardware import HourPrices
from sextant.spec.hardware_prices import ApiPrice
from sextant.spec.planning import Estimate

SWUNG = (
    *("power_usd_per_kwh", "pue", "pue_edge", "server_factor", "serving_power_share", "host_watts_factor"),
    *("maintenance_share_per_year", "peak_hours_share", "api_peak_share"),
)
"""The facts whose bands the sensitivity goes through."""
STATED_AS = {"pue_edge": "pue"}
"""What the user states for a fact, where it has another name."""
LOAD_SHARES = (0.5, 1.5)
"""Half less and half more load than was said, on the same accelerators."""
HIT_SHARES = (0.0, 0.563)
"""Prefix-cache hits: none, and those of DeepSeek's own service (open-infra-index, day 6)."""
NO_SHARE = 1e-4
"""A sum that moves by a smaller share of itself does not depend on the assumption."""


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """From how much load on running it oneself is cheaper than an API. None: never at this capacity."""

    api: str
    api_usd_per_month: float
    """At the load asked for."""
    own_usd_per_month: float
    tokens_per_s: float | None
    """Output tokens a second, around the clock."""
    capacity_share: float | None
    """The same as a share of what the option can do."""
    source: str
    sold: bool


class Swing(msgspec.Struct, frozen=True, kw_only=True):
    """How a three-year cost moves when one assumption goes from its low to its high end."""

    assumption: str
    low: float
    high: float
    low_usd: float
    high_usd: float


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What moves the three-year cost of one mode, largest effect first."""

    mode: str
    how: str
    total_usd: float
    swings: tuple[Swing, ...]


class SpotTraining(msgspec.Struct, frozen=True, kw_only=True):
    """What training on spot machines costs against on demand, interruptions paid for."""

    on_demand_usd_per_h: float
    spot_usd_per_h: float
    slowdown: Estimate
    """Wall-clock time over that without interruptions."""
    checkpoint_every_min: float
    saving_share: Estimate
    """Share of the on-demand bill that is saved; below 0 it costs more."""


class FineTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Accelerators of this sort that fine-tuning takes at least, by memory."""

    all_weights: int
    lora: int


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """All of it for one option."""

    ways: tuple[Way, ...]
    break_evens: tuple[BreakEven, ...]
    sensitivity: tuple[Sensitivity, ...]
    """Of each mode whose three years have a number."""
    spot_training: SpotTraining | None
    fine_tuning: FineTuning
    energy: Energy
    capping: CapSaving


def money_of(have: Have) -> Money:
    """Three years of each mode, break-even, sensitivity, savings and energy of one option."""
    ways = ways_of(have)
    monthly = _own_usd_per_month(ways)
    apis = [api for api in have.prices.apis if have.question.architecture.id in api.models]
    return Money(
        ways=ways,
        break_evens=tuple(_break_even(have, api, monthly) for api in apis) if monthly is not None else (),
        sensitivity=_sensitivity(have, ways),
        spot_training=_spot_training(have),
        fine_tuning=FineTuning(
            all_weights=training_accelerators(have.question.architecture, have.accelerator),
            lora=training_accelerators(have.question.architecture, have.accelerator, lora=True),
        ),
        energy=have.energy,
        capping=cap_saving(have.question, have.accelerator, count=have.count, prices=have.prices),
    )


def _own_usd_per_month(ways: tuple[Way, ...]) -> float | None:
    """The cheapest way of running it oneself that nobody can interrupt, all in, by the month."""
    own = [way for way in ways if way.mode != "saas" and not way.interruptible]
    totals = [way.total_usd.value for way in own if way.total_usd is not None]
    return min(totals) / MONTHS if totals else None


def _break_even(have: Have, api: ApiPrice, own_usd_per_month: float) -> BreakEven:
    """Own cost is taken as fixed: its only part that follows the load is power, a few percent of it."""
    per_mtok = api_usd_per_mtok(have.question, api) * (1 + api.peak_factor) / 2
    load = have.question.workload
    capacity = have.speed.requests_per_s_max.value * load.output_tokens
    needed = own_usd_per_month / per_mtok * MILLION / SECONDS_PER_MONTH if per_mtok else math.inf
    reachable = needed <= capacity
    return BreakEven(
        api=api.title,
        api_usd_per_month=have.tokens_per_s * SECONDS_PER_MONTH / MILLION * per_mtok,
        own_usd_per_month=own_usd_per_month,
        tokens_per_s=needed if reachable else None,
        capacity_share=needed / capacity if reachable and capacity else None,
        source=have.prices.said(api.source),
        sold=api.sold,
    )


def _sensitivity(have: Have, ways: tuple[Way, ...]) -> tuple[Sensitivity, ...]:
    """Each assumption moved alone between its ends, and what that makes of each mode's total."""
    moved = [(name, ends, [ways_of(end) for end in made]) for name, ends, made in _moved(have)]
    found = []
    for index, way in enumerate(ways):
        if way.total_usd is None:
            continue
        swings = []
        for name, ends, (low, high) in moved:
            totals = [found_ways[index].total_usd for found_ways in (low, high)]
            usd = [way.total_usd.value if total is None else total.value for total in totals]
            if abs(usd[1] - usd[0]) > NO_SHARE * max(usd):
                shown = _rent_ends(have, way) if name == "usd_per_h" else ends
                swings.append(
                    Swing(assumption=name, low=shown[0], high=shown[1], low_usd=usd[0], high_usd=usd[1])
                )
        swings.sort(key=lambda swing: -abs(swing.high_usd - swing.low_usd))
        total = way.total_usd.value
        found.append(Sensitivity(mode=way.mode, how=way.how, total_usd=total, swings=tuple(swings)))
    return tuple(found)


def _moved(have: Have) -> Iterator[tuple[str, tuple[float, float], tuple[Have, Have]]]:
    """(assumption, its ends, what is paid for at each of them)."""
    costs, load = have.question.costs, have.question.workload
    for name in SWUNG:
        _, low, high = have.prices.band(name)
        if getattr(costs, STATED_AS.get(name, name), None) is None:
            yield name, (low, high), (_with_fact(have, name, low), _with_fact(have, name, high))
    card = card_usd(have)
    if card is not None:
        (_, low, high), _ = card
        yield "price_usd", (low, high), (_with_price(have, low), _with_price(have, high))
    rent = rent_usd_per_h(have, "on_demand")
    if rent is not None:
        most = hour_price(have, "on_demand") or rent[0]
        ends = (_with_rent(have, rent[1], rent[1]), _with_rent(have, rent[2], most))
        yield "usd_per_h", (rent[1], rent[2]), ends
    low, high = (share * load.requests_per_s for share in LOAD_SHARES)
    yield "requests_per_s", (low, high), (_with_load(have, rate=low), _with_load(have, rate=high))
    if not load.prefix_hit_share:
        low, high = HIT_SHARES
        yield "prefix_hit_share", HIT_SHARES, (_with_load(have, hits=low), _with_load(have, hits=high))


def _rent_ends(have: Have, way: Way) -> tuple[float, float]:
    """Between which rents this mode was moved."""
    kind = "reserved" if way.mode == "private-cloud" else "on_demand"
    _, low, high = rent_usd_per_h(have, kind) or (0.0, 0.0, 0.0)
    return low, high


def _with_fact(have: Have, name: str, value: float) -> Have:
    fact = msgspec.structs.replace(have.prices.facts[name], value=value, low=value, high=value)
    facts = {**have.prices.facts, name: fact}
    return msgspec.structs.replace(have, prices=msgspec.structs.replace(have.prices, facts=facts))


def _with_price(have: Have, value: float) -> Have:
    costs = msgspec.structs.replace(have.question.costs, price_usd=value)
    return msgspec.structs.replace(have, question=msgspec.structs.replace(have.question, costs=costs))


def _with_rent(have: Have, on_demand: float, reserved: float) -> Have:
    """With other rents where the catalogue's are taken; what the user states stays."""
    prices = have.accelerator.usd_per_h
    rents = HourPrices(
        on_demand=on_demand,
        reserved=None if prices.reserved is None else reserved,
        spot=prices.spot,
    )
    accelerator = msgspec.structs.replace(have.accelerator, usd_per_h=rents)
    return msgspec.structs.replace(have, accelerator=accelerator)


def _with_load(have: Have, *, rate: float | None = None, hits: float | None = None) -> Have:
    load = have.question.workload
    load = msgspec.structs.replace(
        load,
        requests_per_s=load.requests_per_s if rate is None else rate,
        prefix_hit_share=load.prefix_hit_share if hits is None else hits,
    )
    return msgspec.structs.replace(have, question=msgspec.structs.replace(have.question, workload=load))


def _spot_training(have: Have) -> SpotTraining | None:
    """Young's checkpoint interval, sqrt(2 x write x time between interruptions); each interruption loses half
    an interval and a restart (Daly 2006, first order)."""
    on_demand = hour_price(have, "on_demand")
    if not on_demand:
        return None
    spot = hour_price(have, "spot")
    off = have.prices.band("spot_discount")
    between = have.prices.band("spot_hours_between_interruptions")
    write_h = have.prices.band("checkpoint_min")[0] / 60
    restart_h = have.prices.band("restart_min")[0] / 60
    slowdown = [1 + math.sqrt(2 * write_h / hours) + restart_h / hours for hours in between]
    price = [on_demand * (1 - share) if spot is None else spot for share in off]
    saving = [1 - usd * slow / on_demand for usd, slow in zip(price, slowdown, strict=True)]
    said = (have.prices.said(have.prices.facts["spot_hours_between_interruptions"].source),)
    formula = "1 + sqrt(2 x write / time between) + restart / time between"
    return SpotTraining(
        on_demand_usd_per_h=on_demand,
        spot_usd_per_h=price[0],
        slowdown=estimate((slowdown[0], slowdown[2], slowdown[1]), "1", formula, said),
        checkpoint_every_min=60 * math.sqrt(2 * write_h * between[0]),
        saving_share=estimate(
            (saving[0], saving[1], saving[2]), "1", "1 - spot x slowdown / on demand", said
        ),
    )
