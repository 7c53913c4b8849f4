"""What power, machines and other people's APIs cost, from `data/prices_hardware.toml`, and a user's own.

Every value has a band, a unit and a source with its date. A user's file has the same form and is laid on top.
Nothing is kept here: the caller loads once. Neighbours: `facts.py` (models and accelerators, with rental
prices), `planner/cost.py` and `planner/energy.py` (what reads this).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypeVar

import msgspec

from sextant.base.errors import Misconfigured
from sextant.spec.facts import Source, nearest

FACTS = (
    *("power_usd_per_kwh", "pue", "pue_liquid", "pue_edge", "co2_g_per_kwh", "server_factor"),
    *("serving_power_share", "idle_power_share", "host_watts_factor", "maintenance_share_per_year"),
    *("cap_day_w", "cap_off_peak_w", "off_peak_h_per_day", "peak_hours_share", "spot_discount"),
    "api_peak_share",
    *("spot_hours_between_interruptions", "checkpoint_min", "restart_min"),
)
"""What must be known, each once."""
OWN = "your prices"
SECTIONS = ("source", "fact", "card", "api")

Part = TypeVar("Part", bound=msgspec.Struct)


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value with the band that it usually lies in; without a band, it is exact."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    source: str = OWN


class CardPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one accelerator costs to buy, and on spot, where the catalogue does not say."""

    price_usd: float
    low_usd: float | None = None
    high_usd: float | None = None
    spot_usd_per_h: float | None = None
    source: str = OWN


class ApiPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody else takes for a million tokens of a model."""

    id: str
    title: str
    models: tuple[str, ...]
    """Ids of the catalogue's models that it serves."""
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    cached_usd_per_mtok: float | None = None
    """Of input found in its prefix cache; None: as all input."""
    peak_factor: float = 1.0
    """By how much peak hours cost more."""
    sold: bool = True
    """Whether it can still be bought."""
    source: str = OWN


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    facts: Mapping[str, Fact]
    cards: Mapping[str, CardPrice]
    apis: tuple[ApiPrice, ...]
    sources: Mapping[str, Source]

    def band(self, name: str) -> tuple[float, float, float]:
        """(value, low, high) of one of `FACTS`."""
        fact = self.facts[name]
        low = fact.value if fact.low is None else fact.low
        high = fact.value if fact.high is None else fact.high
        return fact.value, low, high

    def said(self, source: str) -> str:
        """A source in words, with its date."""
        found = self.sources[source]
        date = "" if found.date is None else f", {found.date.isoformat()}"
        estimate = "estimate: " if found.kind == "estimate" else ""
        return f"{estimate}{found.where}{date}"


def load_prices(own: str = "", own_name: str = OWN) -> Prices:
    """The prices that come with Sextant, with the TOML text `own` on top.

    Raises Misconfigured naming the entry and field that is wrong.
    """
    data = resources.files("sextant.spec").joinpath("data/prices_hardware.toml")
    tables = tomllib.loads(data.read_text(encoding="utf-8"))
    tables["source"][OWN] = {"where": own_name, "kind": "user"}
    if own:
        _lay_over(tables, _parsed(own, own_name), own_name)
    prices = Prices(
        sources={id_: _converted(one, Source, f"source.{id_}") for id_, one in tables["source"].items()},
        facts={id_: _converted(one, Fact, f"fact.{id_}") for id_, one in tables["fact"].items()},
        cards={id_: _converted(one, CardPrice, f"card.{id_}") for id_, one in tables["card"].items()},
        apis=tuple(_converted(one, ApiPrice, f"api {one.get('id', '?')}") for one in tables["api"]),
    )
    _check(prices)
    return prices


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{name}: not valid TOML: {error}") from None


def _lay_over(tables: dict[str, Any], more: dict[str, Any], name: str) -> None:
    for section, entries in more.items():
        if section not in SECTIONS:
            raise Misconfigured(f"{name}: there is no section `{section}`; expected {', '.join(SECTIONS)}")
        if section == "api":
            said = {one.get("id") for one in entries}
            tables["api"] = [*(one for one in tables["api"] if one["id"] not in said), *entries]
        else:
            # A band and a source belong to the value that they came with: a user's value starts anew.
            tables[section] = {**tables[section], **entries}


def _converted(entry: Any, kind: type[Part], place: str) -> Part:
    try:
        part = msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_fields__)
        raise Misconfigured(f"{place}: {error}; its fields are {known}") from None
    for field in kind.__struct_fields__:
        number = getattr(part, field)
        if isinstance(number, float) and not 0 <= number < float("inf"):
            raise Misconfigured(f"{place}: {field} is {number}; expected a number of 0 or more")
    return part


def _check(prices: Prices) -> None:
    for id_, fact in prices.facts.items():
        if id_ not in FACTS:
            near = nearest(id_, FACTS)
            raise Misconfigured(
                f"fact.{id_}: nothing reads this; nearest: {near or 'none'}; all: {', '.join(FACTS)}"
            )
        value, low, high = prices.band(id_)
        if not low <= value <= high:
            raise Misconfigured(f"fact.{id_}: {value:g} is not between low {low:g} and high {high:g}")
        if id_.startswith("pue") and fact.value < 1:
            raise Misconfigured(f"fact.{id_} is {fact.value:g}; a PUE is 1 or more")
        if id_.endswith("_share") and fact.value > 1:
            raise Misconfigured(f"fact.{id_} is {fact.value:g}; a share is 0 to 1")
    used = [fact.source for fact in prices.facts.values()]
    used += [card.source for card in prices.cards.values()] + [api.source for api in prices.apis]
    for source in used:
        if source not in prices.sources:
            raise Misconfigured(f"the source `{source}` is not given; add [source.{source}]")
