"""Watts, kilowatt-hours and grams of CO2: what a layout draws at the load asked for, and what capping saves.

A card draws `idle + (serving - idle) * busy` of its board power; the host around it takes a factor more, the
building the PUE. Memory-bound decode leaves most of the board's power unused (arXiv 2605.11999), so the bands
are wide and a cap may save nothing. Pure; read by `cost.py` and the report.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sextant.spec.hardware import Accelerator
from sextant.spec.hardware_prices import Prices
from sextant.spec.planning import Basis, Estimate, Question, Speed

HOURS_PER_MONTH = 730.0
DAYS_PER_YEAR = 365.0
MILLION = 1e6

Triple = tuple[float, float, float]
"""Value, low, high."""


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """What running takes, all accelerators with their hosts and the building."""

    watts: Estimate
    kwh_per_month: Estimate
    kwh_per_mtok: Estimate
    """Per million output tokens at the load asked for."""
    co2_g_per_mtok: Estimate
    pue: float
    liquid_kwh_per_mtok: float
    """The same at the PUE of liquid cooling."""
    liquid_pue: float


class CapSaving(msgspec.Struct, frozen=True, kw_only=True):
    """What a lower power limit in off-peak hours saves in a year. The low end is nothing: a card that draws
    less than the cap is not changed by it."""

    from_w: float
    to_w: float
    hours_per_day: float
    kwh_per_year: Estimate
    usd_per_year: Estimate


def busy_share(question: Question, speed: Speed) -> float:
    """Share of its capacity that the load asked for takes, 0 to 1; 1 where the capacity is not known."""
    most = speed.requests_per_s_max.value
    return min(1.0, question.workload.requests_per_s / most) if most > 0 else 1.0


def served_tokens_per_s(question: Question, speed: Speed) -> float:
    """Output tokens per second that are really served: what is asked, at most what is possible."""
    most = speed.requests_per_s_max.value
    rate = min(question.workload.requests_per_s, most) if most > 0 else 0.0
    return rate * question.workload.output_tokens


def energy_of(
    question: Question, accelerator: Accelerator, *, count: int, speed: Speed, prices: Prices
) -> Energy:
    """What `count` accelerators draw at the load asked for. The basis is `stated` where the user said PUE and
    grid, else `derived`."""
    busy = busy_share(question, speed)
    idle, serving, host = (
        prices.band(name) for name in ("idle_power_share", "serving_power_share", "host_watts_factor")
    )
    pue = stated(question.costs.pue, prices, "pue")
    co2 = stated(question.costs.co2_g_per_kwh, prices, "co2_g_per_kwh")

    def it_watts(at: int) -> float:
        share = idle[at] + max(0.0, serving[at] - idle[at]) * busy
        return accelerator.watts * share * host[at] * count

    hall = _each(lambda at: it_watts(at) * pue[at])
    tokens_per_s = served_tokens_per_s(question, speed)

    def per_mtok(watts: float) -> float:
        return watts / 1000 / (tokens_per_s * 3600) * MILLION if tokens_per_s else 0.0

    sources = tuple(
        prices.said(prices.facts[name].source)
        for name in ("serving_power_share", "host_watts_factor", "pue", "co2_g_per_kwh")
    )
    formula = (
        f"{count} x {accelerator.watts:g} W x (idle {idle[0]:g} + (serving {serving[0]:g} - idle) x busy "
        f"{busy:.2f}) x host {host[0]:g} x PUE {pue[0]:g}"
    )
    kwh = _each(lambda at: per_mtok(hall[at]))
    liquid = prices.band("pue_liquid")[0]
    return Energy(
        watts=estimate(hall, "W", formula, sources),
        kwh_per_month=estimate(
            _each(lambda at: hall[at] / 1000 * HOURS_PER_MONTH), "kWh/month", "watts x 730 h", sources
        ),
        kwh_per_mtok=estimate(kwh, "kWh/Mtok", "watts / output tokens per hour x 10^6", sources),
        co2_g_per_mtok=estimate(
            _each(lambda at: kwh[at] * co2[at]), "g/Mtok", f"kWh/Mtok x {co2[0]:g} g/kWh", sources
        ),
        pue=pue[0],
        liquid_kwh_per_mtok=per_mtok(it_watts(0) * liquid),
        liquid_pue=liquid,
    )


def cap_saving(question: Question, accelerator: Accelerator, *, count: int, prices: Prices) -> CapSaving:
    """What lowering the cards' power limit off-peak saves: from 250 W to 150 W as specified, scaled to a card
    whose own limit is another. Value: half of the most, as decode seldom reaches its limit."""
    day, night = prices.band("cap_day_w")[0], prices.band("cap_off_peak_w")[0]
    from_w = accelerator.watts
    to_w = from_w * night / day
    hours = prices.band("off_peak_h_per_day")[0]
    pue = stated(question.costs.pue, prices, "pue")[0]
    most = (from_w - to_w) * count * hours * DAYS_PER_YEAR * pue / 1000
    usd_per_kwh = stated(question.costs.power_usd_per_kwh, prices, "power_usd_per_kwh")[0]
    sources = (prices.said("capping"), prices.said("decode-watts"))
    formula = f"({from_w:g} - {to_w:g}) W x {count} x {hours:g} h/day x 365 x PUE {pue:g}, half of it"
    kwh = (most / 2, 0.0, most)
    return CapSaving(
        from_w=from_w,
        to_w=to_w,
        hours_per_day=hours,
        kwh_per_year=estimate(kwh, "kWh/year", formula, sources),
        usd_per_year=estimate(
            _each(lambda at: kwh[at] * usd_per_kwh), "USD/year", f"kWh x {usd_per_kwh:g} USD/kWh", sources
        ),
    )


def stated(said: float | None, prices: Prices, name: str) -> Triple:
    """What the user said, without a band, or else the fact `name` with its own."""
    return prices.band(name) if said is None else (said, said, said)


def estimate(band: Triple, unit: str, formula: str, sources: tuple[str, ...]) -> Estimate:
    """An estimate; `stated` where its band has no width."""
    value, low, high = band
    basis: Basis = "stated" if low == high else "derived"
    return Estimate(
        value=value, low=low, high=high, unit=unit, basis=basis, formula=formula, sources=tuple(sources)
    )


def _each(of: Callable[[int], float]) -> Triple:
    return of(0), of(1), of(2)
