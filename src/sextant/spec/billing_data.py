"""The tiers, price plans and SLA credits that come with Sextant, from `data/{tiers,prices}.toml`.

They are copied into the accounts database at its first start; nothing else reads the tiers and plans here.
The decimals of the files become the integers of `policy.py`; a figure that makes no sense is refused.
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources

import msgspec

from sextant.base.errors import Misconfigured
from sextant.spec.money import nano_of
from sextant.spec.policy import PPM, LimitRules, Price, PricePlan, RequestKind, TierPolicy, VolumeStep

_NANO_PER_PPM = 1000


class SlaCredit(msgspec.Struct, frozen=True):
    """A month whose availability was below `below_ppm` gives back `credit_ppm` of its charges."""

    below_ppm: int
    credit_ppm: int


class _TierEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    kinds: tuple[RequestKind, ...]
    limits: LimitRules = LimitRules()
    pool: str = ""
    own_models: bool = False
    weight: int = 1
    sla: str = "0"


class _CreditEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    below: str
    credit: str


class _TierFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tier: tuple[_TierEntry, ...]
    sla_credit: tuple[_CreditEntry, ...]


class _PriceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    input_per_mtok: str
    cached_per_mtok: str
    output_per_mtok: str
    reasoning_per_mtok: str
    per_request: str = "0"


class _StepEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    over_tokens: int
    factor: str


class _PlanEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    currency: str
    price: tuple[_PriceEntry, ...]
    package_factor: str = "1"
    volume: tuple[_StepEntry, ...] = ()


class _PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plan: tuple[_PlanEntry, ...]


@functools.cache
def builtin_tiers() -> tuple[TierPolicy, ...]:
    """The tiers of a new installation: internal, free, professional, enterprise."""
    return read_tiers(_text("tiers.toml"))


@functools.cache
def builtin_plans() -> tuple[PricePlan, ...]:
    """The price plans of a new installation: `standard` in USD and its twin in CNY."""
    return read_plans(_text("prices.toml"))


@functools.cache
def sla_credits() -> tuple[SlaCredit, ...]:
    """What a missed SLA gives back, mildest first."""
    return read_sla_credits(_text("tiers.toml"))


def read_tiers(text: str) -> tuple[TierPolicy, ...]:
    """The tiers in `text`. Raises msgspec.ValidationError naming the wrong field, Misconfigured for a figure
    out of range or an id that comes twice, BadRequest for a decimal that is none."""
    entries = msgspec.convert(tomllib.loads(text), _TierFile).tier
    _refuse_twice("tier", [entry.id for entry in entries])
    for entry in entries:
        if entry.weight < 1:
            raise Misconfigured(f"tier {entry.id}: weight {entry.weight}; it is at least 1")
    return tuple(
        TierPolicy(
            id=entry.id,
            limits=entry.limits,
            kinds=entry.kinds,
            pool=entry.pool,
            own_models=entry.own_models,
            weight=entry.weight,
            sla_ppm=_percent_ppm(entry.sla, f"tier {entry.id}: sla"),
        )
        for entry in entries
    )


def read_sla_credits(text: str) -> tuple[SlaCredit, ...]:
    """The credit steps in `text`, mildest first. Raises as `read_tiers`."""
    entries = msgspec.convert(tomllib.loads(text), _TierFile).sla_credit
    steps = [
        SlaCredit(
            _percent_ppm(entry.below, "sla_credit: below"), _percent_ppm(entry.credit, "sla_credit: credit")
        )
        for entry in entries
    ]
    return tuple(sorted(steps, key=lambda step: -step.below_ppm))


def read_plans(text: str) -> tuple[PricePlan, ...]:
    """The plans in `text`. Raises as `read_tiers`."""
    entries = msgspec.convert(tomllib.loads(text), _PlanFile).plan
    _refuse_twice("plan", [entry.id for entry in entries])
    return tuple(
        PricePlan(
            id=entry.id,
            currency=entry.currency,
            prices=tuple(_price(price) for price in entry.price),
            volume=tuple(
                VolumeStep(step.over_tokens, _factor_ppm(step.factor, f"plan {entry.id}: factor"))
                for step in entry.volume
            ),
            package_factor_ppm=_factor_ppm(entry.package_factor, f"plan {entry.id}: package_factor"),
        )
        for entry in entries
    )


def _price(entry: _PriceEntry) -> Price:
    amounts = [
        nano_of(text)
        for text in (
            entry.input_per_mtok,
            entry.cached_per_mtok,
            entry.output_per_mtok,
            entry.reasoning_per_mtok,
            entry.per_request,
        )
    ]
    if min(amounts) < 0:
        raise Misconfigured(f"the price of {entry.model} is negative; a price is 0 or more")
    tokens, cached, output, reasoning, request = amounts
    return Price(entry.model, tokens, cached, output, reasoning, request)


def _percent_ppm(text: str, what: str) -> int:
    return _ppm(text, 100, what)


def _factor_ppm(text: str, what: str) -> int:
    return _ppm(text, 1, what)


def _ppm(text: str, whole: int, what: str) -> int:
    """Parts per million of a share written so that `whole` is all of it."""
    ppm, rest = divmod(nano_of(text), _NANO_PER_PPM * whole)
    if rest or not 0 <= ppm <= PPM:
        raise Misconfigured(f"{what} is {text}; expected 0 to {whole}, exact to a millionth")
    return ppm


def _refuse_twice(what: str, ids: list[str]) -> None:
    twice = {one for one in ids if ids.count(one) > 1}
    if twice:
        raise Misconfigured(f"{what} {', '.join(sorted(twice))} comes twice; an id is given once")


def _text(name: str) -> str:
    return resources.files("sextant.spec").joinpath(f"data/{name}").read_text(encoding="utf-8")
