"""What a layout costs by the hour and by the token, and what each mode costs over three years.

Pure: prices are passed in (`spec/hardware_prices.py`). `cost_of(prices)` is the `CostOf` that `plan.py` ranks
options with; `ways_of` answers for the one option that a report shows (`money.py`). Space and staff count
only where the user states them, and what is missing is named, never guessed. Neighbour: `energy.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from sextant.planner.energy import (
    HOURS_PER_MONTH,
    MILLION,
    Energy,
    Triple,
    energy_of,
    estimate,
    served_tokens_per_s,
    stated,
)
from sextant.spec.hardware import Accelerator
from sextant.spec.hardware_prices import ApiPrice, Prices
from sextant.spec.planning import Cost, CostOf, Estimate, Layout, Question, Speed

MONTHS = 36
"""Three years: what machines of this sort are written off over."""
EDGE_WATTS_MOST = 3680.0
"""What one ordinary circuit feeds, 16 A at 230 V (IEC 60364): a shop or a line has no more for it."""
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
RENT_SOURCE = "the catalogue's rental price"
CARD_SOURCE = "the catalogue's price"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One mode, how its hardware is had, and what it costs."""

    mode: str
    how: str
    upfront_usd: Estimate | None = None
    usd_per_month: Estimate | None = None
    total_usd: Estimate | None = None
    """Over `MONTHS`."""
    tokens_per_usd: float | None = None
    """Output tokens for a dollar, over those months."""
    interruptible: bool = False
    """Spot: it can be taken away at any time, so it is no way to serve alone."""
    missing: tuple[str, ...] = ()
    """What would have to be known for a number; or what is left out of it."""


class Have(msgspec.Struct, frozen=True, kw_only=True):
    """What is being paid for: one option, with the prices that hold for it."""

    question: Question
    accelerator: Accelerator
    count: int
    replica: int = 1
    """Accelerators that only serve together: they are bought and rented in multiples of it."""
    speed: Speed
    prices: Prices

    @property
    def energy(self) -> Energy:
        """What it draws."""
        return energy_of(
            self.question, self.accelerator, count=self.count, speed=self.speed, prices=self.prices
        )

    @property
    def tokens_per_s(self) -> float:
        """Output tokens a second at the load asked for."""
        return served_tokens_per_s(self.question, self.speed)


def cost_of(prices: Prices) -> CostOf:
    """The cost of an option by these prices, as `plan.py` asks for it: rented where a rental price is known,
    else bought and written off over three years; with what the user states for space and staff."""

    def cost(question: Question, accelerator: Accelerator, layout: Layout, speed: Speed) -> Cost:
        have = Have(
            question=question, accelerator=accelerator, count=layout.count, speed=speed, prices=prices
        )
        capital = capital_usd(have)
        hour, missing = _usd_per_h(have)
        energy = have.energy
        tokens_per_h = have.tokens_per_s * 3600
        per_mtok = None
        if hour is not None and tokens_per_h:
            per_mtok = _scaled(
                hour, MILLION / tokens_per_h, "USD/Mtok", f"USD/h / {tokens_per_h:.4g} output tokens/h x 10^6"
            )
        return Cost(
            usd_per_h=hour,
            usd_per_mtok=per_mtok,
            capital_usd=capital,
            kwh_per_mtok=energy.kwh_per_mtok if tokens_per_h else None,
            missing=missing,
        )

    return cost


def ways_of(have: Have) -> tuple[Way, ...]:
    """What each mode costs: bought, rented (reserved, on demand, and spot where its price is known), both, or
    somebody else's API."""
    name = have.question.architecture.id
    apis = [api for api in have.prices.apis if api.sold and name in api.models]
    none = Way(mode="saas", how="", missing=(f"no API on sale is known for {name}",))
    return (
        owned(have, "on-prem", "pue"),
        _rented(have, "private-cloud", "reserved"),
        _hybrid(have),
        _edge(have),
        _rented(have, "container", "on_demand"),
        *([_rented(have, "container", "spot")] if hour_price(have, "spot") is not None else []),
        *([_saas(have, api) for api in apis] or [none]),
    )


def unit_of(layout: Layout) -> int:
    """Accelerators of the smallest part of `layout` that can serve alone."""
    if layout.prefill is not None and layout.decode is not None:
        return layout.count // math.gcd(layout.prefill.dp, layout.decode.dp)
    return layout.replica


def capital_usd(have: Have) -> Estimate | None:
    """What the accelerators cost to buy with their servers; None without a price."""
    card = card_usd(have)
    if card is None:
        return None
    (value, low, high), source = card
    factor = have.prices.band("server_factor")
    whole = (
        have.accelerator.kind in ("jetson", "cpu")  # its price is that of the whole machine
    )
    share = (1.0, 1.0, 1.0) if whole else factor
    formula = f"{have.count} x {value:,.0f} USD a card" + ("" if whole else f" x {factor[0]:g} for servers")
    band = (value * have.count * share[0], low * have.count * share[1], high * have.count * share[2])
    return estimate(band, "USD", formula, (source, have.prices.said("h100-node")))


def card_usd(have: Have) -> tuple[Triple, str] | None:
    """(the price of one accelerator with its band, who says so); None where nobody does."""
    said = have.question.costs.price_usd
    if said is not None:
        return (said, said, said), "stated"
    if have.accelerator.price_usd is not None:
        value = have.accelerator.price_usd
        return (value, value, value), CARD_SOURCE
    known = have.prices.cards.get(have.accelerator.id)
    if known is None:
        return None
    low, high = known.low_usd or known.price_usd, known.high_usd or known.price_usd
    return (known.price_usd, low, high), have.prices.said(known.source)


def hour_price(have: Have, kind: str) -> float | None:
    """USD per hour of one accelerator: what the user states stands for on demand and reserved."""
    if have.question.costs.usd_per_h is not None and kind != "spot":
        return have.question.costs.usd_per_h
    if kind == "spot" and have.accelerator.usd_per_h.spot is None:
        known = have.prices.cards.get(have.accelerator.id)
        return None if known is None else known.spot_usd_per_h
    price: float | None = getattr(have.accelerator.usd_per_h, kind)
    return price


def rent_usd_per_h(have: Have, kind: str) -> Triple | None:
    """The rent of one accelerator with its band: on demand between the lowest price that is published and one
    as far above (the catalogue's on demand is their geometric mean), reserved from there to on demand."""
    value = hour_price(have, kind)
    if value is None or kind == "spot":
        return None if value is None else (value, value, value)
    lowest = hour_price(have, "reserved") or value
    usual = hour_price(have, "on_demand") or value
    if kind == "reserved":
        return value, value, max(value, usual)
    return value, min(value, lowest), value * value / min(value, lowest) if value else value


def _stated_usd_per_month(have: Have) -> tuple[float, tuple[str, ...]]:
    """(space and staff, what of them was not said)."""
    costs = have.question.costs
    missing = tuple(
        f"{name} (state --{flag})"
        for name, flag, said in (
            ("space", "space-usd-per-month", costs.space_usd_per_month),
            ("staff", "staff-usd-per-month", costs.staff_usd_per_month),
        )
        if said is None
    )
    return (costs.space_usd_per_month or 0.0) + (costs.staff_usd_per_month or 0.0), missing


def _usd_per_h(have: Have) -> tuple[Estimate | None, tuple[str, ...]]:
    people, left_out = _stated_usd_per_month(have)
    rent = rent_usd_per_h(have, "on_demand")
    if rent is not None:
        extra = people / HOURS_PER_MONTH
        formula = f"rented: {have.count} x {rent[0]:g} USD/h" + (f" + {extra:.2f} stated" if extra else "")
        band = _each(lambda at: rent[at] * have.count + extra)
        return estimate(band, "USD/h", formula, (_rent_source(have),)), left_out
    own = owned(have, "on-prem", "pue")
    if own.total_usd is None:
        return None, ("no rental and no purchase price is known; state --usd-per-h or --price-usd",)
    hours = MONTHS * HOURS_PER_MONTH
    formula = "bought: three-year cost / 26,280 h"
    return _scaled(own.total_usd, 1 / hours, "USD/h", formula), left_out


def owned(have: Have, mode: str, pue: str) -> Way:
    """Bought, powered and maintained, in a place whose PUE is the fact `pue` unless the user states it."""
    capital = capital_usd(have)
    how = "bought, written off over 36 months"
    if capital is None:
        missing = (f"no purchase price of {have.accelerator.id} is known; state --price-usd",)
        return Way(mode=mode, how=how, missing=missing)
    people, left_out = _stated_usd_per_month(have)
    power = _power_usd_per_month(have, pue)
    kept = have.prices.band("maintenance_share_per_year")
    worth = (capital.value, capital.low, capital.high)
    month = _each(lambda at: power[at] + worth[at] * kept[at] / 12 + people)
    total = _each(lambda at: worth[at] + MONTHS * month[at])
    formula = (
        f"power {power[0]:,.0f} + maintenance {worth[0] * kept[0] / 12:,.0f} + stated {people:,.0f} USD/month"
    )
    return Way(
        mode=mode,
        how=how,
        upfront_usd=capital,
        usd_per_month=estimate(month, "USD/month", formula, _sources(have)),
        total_usd=estimate(total, "USD", "capital + 36 x month", capital.sources),
        tokens_per_usd=_tokens_per_usd(have, total[0]),
        missing=left_out,
    )


def _power_usd_per_month(have: Have, pue: str) -> Triple:
    energy = have.energy
    usd = stated(have.question.costs.power_usd_per_kwh, have.prices, "power_usd_per_kwh")
    hall = stated(have.question.costs.pue, have.prices, "pue")
    here = stated(have.question.costs.pue, have.prices, pue)
    kwh = energy.kwh_per_month
    return _each(lambda at: (kwh.value, kwh.low, kwh.high)[at] / hall[at] * here[at] * usd[at])


def _edge(have: Have) -> Way:
    """Bought, and put where it is used, as far as one circuit there feeds it."""
    watts = have.count * have.accelerator.watts * have.prices.band("host_watts_factor")[0]
    if watts > EDGE_WATTS_MOST:
        said = f"{watts:,.0f} W at full load; one circuit at the edge feeds {EDGE_WATTS_MOST:,.0f} W"
        return Way(mode="edge", how="bought, written off over 36 months", missing=(said,))
    return owned(have, "edge", "pue_edge")


def _rented(have: Have, mode: str, kind: str) -> Way:
    """Reserved: all of it, around the clock. Else what the mean load needs, and the rest in peak hours."""
    said = kind.replace("_", " ")
    rent = rent_usd_per_h(have, kind)
    if rent is None:
        missing = (f"no {said} price of {have.accelerator.id} is known; state --usd-per-h",)
        return Way(mode=mode, how=f"rented, {said}", missing=missing)
    base, burst = (have.count, 0) if kind == "reserved" else _mean_and_burst(have)
    hours = have.prices.band("peak_hours_share")
    people, left_out = _stated_usd_per_month(have)
    month = _each(lambda at: rent[at] * (base + burst * hours[at]) * HOURS_PER_MONTH + people)
    formula = f"{base} x {rent[0]:g} x 730 h"
    how = f"rented, {said}"
    if burst:
        formula += f" + {burst} x {rent[0]:g} x 730 h x {hours[0]:g} of the hours"
        how += f", {burst} of {have.count} in peak hours only"
    if people:
        formula += f" + {people:,.0f} stated"
    way = Way(mode=mode, how=how, interruptible=kind == "spot", missing=left_out)
    return _monthly(have, way, month=month, formula=formula, sources=(_rent_source(have),))


def _mean_and_burst(have: Have) -> tuple[int, int]:
    """Accelerators for the mean load, in whole replicas, and those that only the peak needs."""
    replicas = have.count // have.replica
    base = max(1, math.ceil(replicas / have.question.workload.swing)) * have.replica
    return base, have.count - base


def _part(have: Have, count: int) -> Have:
    """The same load on `count` of the accelerators, which can do that much less."""
    most = have.speed.requests_per_s_max
    less = _scaled(most, count / have.count, most.unit, most.formula)
    speed = msgspec.structs.replace(have.speed, requests_per_s_max=less)
    return msgspec.structs.replace(have, count=count, speed=speed)


def _rent_source(have: Have) -> str:
    return RENT_SOURCE if have.question.costs.usd_per_h is None else "stated"


def _hybrid(have: Have) -> Way:
    """Bought for the mean load, rented on demand for the rest in peak hours."""
    base, burst = _mean_and_burst(have)
    how = f"{base} bought for the mean load, {burst} rented in peak hours"
    base_way = owned(_part(have, base), "hybrid", "pue")
    per_h = rent_usd_per_h(have, "on_demand")
    if base_way.upfront_usd is None or base_way.usd_per_month is None or (burst and per_h is None):
        missing = base_way.missing if base_way.upfront_usd is None else ("no on demand price is known",)
        return Way(mode="hybrid", how=how, missing=missing)
    hours, rent_usd = have.prices.band("peak_hours_share"), per_h or (0.0, 0.0, 0.0)
    rent = _each(lambda at: burst * rent_usd[at] * HOURS_PER_MONTH * hours[at])
    own = base_way.usd_per_month
    month = _each(lambda at: (own.value, own.low, own.high)[at] + rent[at])
    up = base_way.upfront_usd
    total = _each(lambda at: (up.value, up.low, up.high)[at] + MONTHS * month[at])
    formula = f"owned month + {burst} x on demand x 730 h x {hours[0]:g} of the hours"
    return Way(
        mode="hybrid",
        how=how,
        upfront_usd=up,
        usd_per_month=estimate(month, "USD/month", formula, _sources(have)),
        total_usd=estimate(total, "USD", "capital + 36 x month", up.sources),
        tokens_per_usd=_tokens_per_usd(have, total[0]),
        missing=base_way.missing,
    )


def _saas(have: Have, api: ApiPrice) -> Way:
    off_peak = have.tokens_per_s * SECONDS_PER_MONTH / MILLION * api_usd_per_mtok(have.question, api)
    peak = have.prices.band("api_peak_share")
    month = _each(lambda at: off_peak * (1 + (api.peak_factor - 1) * peak[at]))
    formula = f"{api.title}: input, cached input and output at list price, between off-peak and peak"
    way = Way(mode="saas", how=api.title)
    return _monthly(have, way, month=month, formula=formula, sources=(have.prices.said(api.source),))


def api_usd_per_mtok(question: Question, api: ApiPrice) -> float:
    """What a million output tokens cost there off-peak, the input that belongs to them included."""
    load = question.workload
    cached = api.input_usd_per_mtok if api.cached_usd_per_mtok is None else api.cached_usd_per_mtok
    hit = load.prefix_hit_share
    per_input = hit * cached + (1 - hit) * api.input_usd_per_mtok
    return api.output_usd_per_mtok + per_input * load.input_tokens / load.output_tokens


def _monthly(have: Have, way: Way, *, month: Triple, formula: str, sources: tuple[str, ...]) -> Way:
    """`way` with the numbers of something that is paid by the month alone."""
    total = _each(lambda at: MONTHS * month[at])
    return msgspec.structs.replace(
        way,
        upfront_usd=estimate((0.0, 0.0, 0.0), "USD", "nothing", ()),
        usd_per_month=estimate(month, "USD/month", formula, sources),
        total_usd=estimate(total, "USD", "36 x month", sources),
        tokens_per_usd=_tokens_per_usd(have, total[0]),
    )


def _tokens_per_usd(have: Have, total_usd: float) -> float | None:
    tokens = have.tokens_per_s * SECONDS_PER_MONTH * MONTHS
    return tokens / total_usd if total_usd > 0 else None


def _sources(have: Have) -> tuple[str, ...]:
    names = ("power_usd_per_kwh", "pue", "maintenance_share_per_year")
    return tuple(dict.fromkeys(have.prices.said(have.prices.facts[name].source) for name in names))


def _scaled(of: Estimate, by: float, unit: str, formula: str) -> Estimate:
    return msgspec.structs.replace(
        of, value=of.value * by, low=of.low * by, high=of.high * by, unit=unit, formula=formula
    )


def _each(of: Callable[[int], float]) -> Triple:
    return of(0), of(1), of(2)
