"""The money of one option: three years of each mode, from what load on it beats a public API, which
assumption moves the sum most, and what training on spot machines saves.

Pure. Neighbours: `cost.py` (what things cost), `energy.py`, `cli/plan.py` (what shows it).
"""

from __future__ import annotations

import math

import msgspec

from sextant.planner.cost import (
    MONTHS,
    SECONDS_PER_MONTH,
    Have,
    Way,
    api_usd_per_mtok,
    card_usd,
    hour_price,
    owned,
    ways_of,
)
from sextant.planner.energy import MILLION, CapSaving, Energy, cap_saving, estimate
from sextant.planner.memory import training_accelerators
from sextant.spec.hardware_prices import ApiPrice
from sextant.spec.planning import Estimate

SWUNG = (
    *("power_usd_per_kwh", "pue", "server_factor", "serving_power_share", "host_watts_factor"),
    "maintenance_share_per_year",
)
"""The facts whose bands the sensitivity goes through."""


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
    """How the three-year cost moves when one assumption goes from its low to its high end."""

    assumption: str
    low: float
    high: float
    low_usd: float
    high_usd: float


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
    swings: tuple[Swing, ...]
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
        swings=_swings(have),
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


def _swings(have: Have) -> tuple[Swing, ...]:
    """Of the on-prem total: each assumption moved alone between its ends, largest effect first."""
    card = card_usd(have)
    if card is None:
        return ()
    found = []
    for name in SWUNG:
        if getattr(have.question.costs, name, None) is None:
            _, low, high = have.prices.band(name)
            ends = (_with_fact(have, name, low), _with_fact(have, name, high))
            found.append(_swing(name, (low, high), ends))
    (_, low, high), _ = card
    if low != high:
        ends = (_with_price(have, low), _with_price(have, high))
        found.append(_swing("price_usd", (low, high), ends))
    return tuple(sorted(found, key=lambda swing: swing.low_usd - swing.high_usd))


def _swing(name: str, band: tuple[float, float], ends: tuple[Have, Have]) -> Swing:
    totals = [owned(end, "on-prem", "pue").total_usd for end in ends]
    usd = [0.0 if total is None else total.value for total in totals]
    return Swing(assumption=name, low=band[0], high=band[1], low_usd=usd[0], high_usd=usd[1])


def _with_fact(have: Have, name: str, value: float) -> Have:
    fact = msgspec.structs.replace(have.prices.facts[name], value=value, low=value, high=value)
    facts = {**have.prices.facts, name: fact}
    return msgspec.structs.replace(have, prices=msgspec.structs.replace(have.prices, facts=facts))


def _with_price(have: Have, value: float) -> Have:
    costs = msgspec.structs.replace(have.question.costs, price_usd=value)
    return msgspec.structs.replace(have, question=msgspec.structs.replace(have.question, costs=costs))


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
