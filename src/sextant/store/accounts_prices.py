"""Tiers and price plans in the accounts database.

Both are shipped as data and live here from the first start on. A price is never changed: a newer one of its
model takes over at its own `valid_from_ms`, so what a request of any moment costs is settled for good once
that moment is past.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
import sqlalchemy as sa

from sextant.base.errors import BadRequest, NotFound
from sextant.base.ids import new_id
from sextant.spec.billing_data import builtin_plans, builtin_tiers
from sextant.spec.policy import PPM, Price, PricePlan, TierPolicy, VolumeStep
from sextant.store.accounts_database import (
    AMOUNT_NANO_MAX,
    COUNT_MAX,
    AccountsDatabase,
    Noted,
    checked_currency,
    checked_id,
    checked_limits,
    checked_time_zone,
    json_of,
    text_of,
)
from sextant.store.accounts_schema import price, price_plan, tier

WEIGHT_MAX = 1000
FACTOR_PPM_MAX = 100 * PPM
STEPS_MAX = 16
PRICE_NANO_MAX = 10**15
"""A million currency units, per million tokens."""


class PlanTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price plan but for its prices; the fields mean what they mean in `PricePlan`."""

    currency: str
    volume: tuple[VolumeStep, ...] = ()
    package_factor_ppm: int = PPM


class PriceAccounts(AccountsDatabase):
    """Tiers, price plans and prices."""

    def list_tiers(self) -> list[TierPolicy]:
        """By id."""
        with self.reading() as db:
            return tiers_of(db)

    def tier(self, tier_id: str) -> TierPolicy:
        """Raises NotFound."""
        for one in self.list_tiers():
            if one.id == tier_id:
                return one
        raise NotFound(f"there is no tier {tier_id}; see `sextant tier list`", field="tier_id")

    def put_tier(self, policy: TierPolicy) -> TierPolicy:
        """Makes a tier, or replaces it; gateways follow within a second. Raises BadRequest."""
        _checked_tier(policy)
        with self.changing() as change:
            _store_tier(change.db, policy, self._now_ms())
            change.note(Noted("tier.put", policy.id, detail=msgspec.to_builtins(policy)))
        return policy

    def list_plans(self) -> list[PricePlan]:
        """By id, with all their prices, past and to come."""
        with self.reading() as db:
            return plans_of(db)

    def plan(self, plan_id: str) -> PricePlan:
        """Raises NotFound."""
        for one in self.list_plans():
            if one.id == plan_id:
                return one
        raise _no_plan(plan_id)

    def put_plan(self, plan_id: str, terms: PlanTerms) -> PricePlan:
        """Makes a plan without prices, or changes its volume steps and package factor; a plan's currency
        stays. Raises BadRequest."""
        _checked_terms(plan_id, terms)
        with self.changing() as change:
            there = _currency(change.db, plan_id)
            if there is not None and there != terms.currency:
                said = f"price plan {plan_id} is in {there} for good; make another plan for {terms.currency}"
                raise BadRequest(said, field="currency")
            values = {"volume": text_of(terms.volume), "package_factor_ppm": terms.package_factor_ppm}
            if there is None:
                made = {"id": plan_id, "currency": terms.currency, "created_ms": self._now_ms()}
                change.db.execute(sa.insert(price_plan).values(**made, **values))
            else:
                change.db.execute(sa.update(price_plan).where(price_plan.c.id == plan_id).values(**values))
            change.note(Noted("plan.put", plan_id, detail=msgspec.to_builtins(terms)))
            return next(one for one in plans_of(change.db) if one.id == plan_id)

    def add_price(self, plan_id: str, added: Price) -> PricePlan:
        """A price from `valid_from_ms` on (0: from now; in a plan without prices: from the beginning); the
        one before it ends there. Raises NotFound, BadRequest (a wrong value, or a moment that is past)."""
        _checked_price(added)
        with self.changing() as change:
            if _currency(change.db, plan_id) is None:
                raise _no_plan(plan_id)
            now_ms = self._now_ms()
            used = change.db.scalar(sa.select(sa.func.count()).where(price.c.plan_id == plan_id))
            if used and not added.valid_from_ms:
                added = msgspec.structs.replace(added, valid_from_ms=now_ms)
            if used and added.valid_from_ms < now_ms:
                begins = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(added.valid_from_ms // 1000))
                said = (
                    f"a price from {begins} on would begin in the past, and what was charged stays; name a "
                    f"later moment, or none for now"
                )
                raise BadRequest(said, field="valid_from_ms")
            if 0 < added.valid_until_ms <= added.valid_from_ms:
                raise BadRequest("valid_until_ms is not after valid_from_ms", field="valid_until_ms")
            _insert_price(change.db, plan_id, added, now_ms)
            change.note(Noted("price.add", f"{plan_id}/{added.model}", detail=msgspec.to_builtins(added)))
            return next(one for one in plans_of(change.db) if one.id == plan_id)


def load_builtin(db: sa.Connection, now_ms: int) -> None:
    """Puts the shipped tiers and price plans into a database that has none yet."""
    if db.scalar(sa.select(sa.func.count()).select_from(tier)) == 0:
        for policy in builtin_tiers():
            _store_tier(db, policy, now_ms)
    if db.scalar(sa.select(sa.func.count()).select_from(price_plan)) == 0:
        for plan in builtin_plans():
            db.execute(
                sa.insert(price_plan).values(
                    id=plan.id,
                    currency=plan.currency,
                    volume=text_of(plan.volume),
                    package_factor_ppm=plan.package_factor_ppm,
                    created_ms=now_ms,
                )
            )
            for one in plan.prices:
                _insert_price(db, plan.id, one, now_ms)


def tiers_of(db: sa.Connection) -> list[TierPolicy]:
    """All tiers by id."""
    return [json_of(text, TierPolicy) for text in db.scalars(sa.select(tier.c.policy).order_by(tier.c.id))]


def plans_of(db: sa.Connection) -> list[PricePlan]:
    """All price plans by id; of each model the prices follow one another without overlap."""
    prices: dict[str, list[Price]] = defaultdict(list)
    ordered = sa.select(price.c.plan_id, price.c.price).order_by(
        price.c.model, price.c.valid_from_ms, price.c.created_ms, price.c.id
    )
    for plan_id, text in db.execute(ordered):
        prices[plan_id].append(json_of(text, Price))
    return [
        PricePlan(
            row.id,
            row.currency,
            tuple(one_after_another(prices[row.id])),
            json_of(row.volume, tuple[VolumeStep, ...]),
            row.package_factor_ppm,
        )
        for row in db.execute(sa.select(price_plan).order_by(price_plan.c.id))
    ]


def one_after_another(prices: Sequence[Price]) -> Iterable[Price]:
    """`prices` in order of model, start and making, each ended where the next of its model starts; of two
    that start together the later made counts. Pure."""
    for number, one in enumerate(prices):
        after = prices[number + 1] if number + 1 < len(prices) else None
        if after is None or after.model != one.model:
            yield one
        elif after.valid_from_ms > one.valid_from_ms:
            ends_ms = min(one.valid_until_ms or after.valid_from_ms, after.valid_from_ms)
            yield msgspec.structs.replace(one, valid_until_ms=ends_ms)


def _store_tier(db: sa.Connection, policy: TierPolicy, now_ms: int) -> None:
    values = {"policy": text_of(policy), "changed_ms": now_ms}
    if db.execute(sa.update(tier).where(tier.c.id == policy.id).values(**values)).rowcount == 0:
        db.execute(sa.insert(tier).values(id=policy.id, **values))


def _insert_price(db: sa.Connection, plan_id: str, added: Price, now_ms: int) -> None:
    db.execute(
        sa.insert(price).values(
            id=new_id("price"),
            plan_id=plan_id,
            model=added.model,
            valid_from_ms=added.valid_from_ms,
            price=text_of(added),
            created_ms=now_ms,
        )
    )


def _currency(db: sa.Connection, plan_id: str) -> str | None:
    return db.scalar(sa.select(price_plan.c.currency).where(price_plan.c.id == plan_id))


def _no_plan(plan_id: str) -> NotFound:
    return NotFound(f"there is no price plan {plan_id}; see `sextant price list`", field="plan_id")


def _checked_tier(policy: TierPolicy) -> None:
    checked_id(policy.id)
    checked_limits(policy.limits)
    if not policy.kinds:
        raise BadRequest("kinds is empty; expected at least `text`", field="kinds")
    _checked_span("weight", policy.weight, 1, WEIGHT_MAX)
    _checked_span("sla_ppm", policy.sla_ppm, 0, PPM)


def _checked_terms(plan_id: str, terms: PlanTerms) -> None:
    checked_id(plan_id)
    checked_currency(terms.currency)
    _checked_span("package_factor_ppm", terms.package_factor_ppm, 1, PPM)
    _checked_span("volume", len(terms.volume), 0, STEPS_MAX)
    over = [step.over_tokens for step in terms.volume]
    if over != sorted(set(over)):
        raise BadRequest("volume steps are not in the order of over_tokens", field="volume")
    for step in terms.volume:
        _checked_span("volume.over_tokens", step.over_tokens, 1, COUNT_MAX)
        _checked_span("volume.factor_ppm", step.factor_ppm, 0, FACTOR_PPM_MAX)


def _checked_price(added: Price) -> None:
    if not added.model.strip() or len(added.model) > 200 or not added.model.isprintable():
        raise BadRequest("model is 1 to 200 printable characters, or `*`", field="model")
    for field in msgspec.structs.fields(Price):
        value = getattr(added, field.name)
        if field.name.endswith(("_nano", "_mtok")):
            _checked_span(field.name, value, 0, PRICE_NANO_MAX)
        elif field.name.endswith("_ms"):
            _checked_span(field.name, value, 0, AMOUNT_NANO_MAX)
    for window in added.off_peak:
        _checked_span("off_peak.from_minute", window.from_minute, 0, 1439)
        _checked_span("off_peak.until_minute", window.until_minute, 0, 1440)
        checked_time_zone(window.time_zone, "off_peak.time_zone")
        _checked_span("off_peak.factor_ppm", window.factor_ppm, 0, FACTOR_PPM_MAX)


def _checked_span(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadRequest(f"{field} is {value}; expected {least} to {most}", field=field)
