"""A tenant's month as an invoice: what was used at which price, who paid for it, what is due.

Every amount is a sum of the ledger; nothing is priced again here. Until an hour after the month's end in the
tenant's time zone it is a preview with an estimate, then final. Used by control and, through it, the command
line. Neighbours: `sextant.store.statements` (the sums), `invoice_sheet.py`, `invoice_files.py` (its looks).
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from sextant.base.errors import BadRequest, NotFound
from sextant.governance.pricing import LocalClock, price_at
from sextant.operations.estimate import LOOK_BACK_DAYS, Estimate, month_estimate
from sextant.spec.billing_data import SlaCredit, sla_credits
from sextant.spec.policy import PPM, Billing, Price, PricePlan, TenantPolicy, TierPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.spec.transfer import CREDIT, Transfer, prepaid_account, receivable_account
from sextant.store.ledger_reading import LedgerView
from sextant.store.statements import (
    Paid,
    Totals,
    UsageQuery,
    charged_lines,
    movements,
    paid_parts,
    transfer_of,
    usage_lines,
)

FINAL_AFTER_MS = 3_600_000
"""So long after the month's end an invoice is final: requests that began in the month have ended."""


class InvoiceLine(msgspec.Struct, frozen=True):
    """What one project used of one model while one price held. `price` is None where the plan of today names
    none for that time."""

    project_id: str
    project_name: str
    model: str
    currency: str
    from_ms: int
    """When the price began to hold, or the month."""
    price: Price | None
    totals: Totals


class Availability(msgspec.Struct, frozen=True):
    """How the promise of the tenant's tier was kept. A request failed when an engine failed it or Sextant had
    to refuse it; what the caller did wrong or cut off himself did not fail."""

    promised_ppm: int
    requests: int
    failed: int
    available_ppm: int
    """Rounded down."""
    credit_ppm: int
    """Share of the month's charges that is given back."""


class Sums(msgspec.Struct, frozen=True):
    """The month in one currency. `due_nano` is what the tenant still has to pay for the month: what was not
    taken from packages or balance, less the SLA credit of one who pays later."""

    currency: str
    list_nano: int
    discount_nano: int
    cost_nano: int
    packages_nano: int
    prepaid_nano: int
    receivable_nano: int
    sla_credit_nano: int
    due_nano: int


class Invoice(msgspec.Struct, frozen=True):
    """One tenant's month. Times are Unix milliseconds, amounts nano."""

    number: str
    state: Literal["preview", "final"]
    tenant_id: str
    tenant_name: str
    month: int
    from_ms: int
    until_ms: int
    made_ms: int
    time_zone: str
    billing: Billing
    plan: str
    lines: tuple[InvoiceLine, ...]
    sums: tuple[Sums, ...]
    paid: tuple[Paid, ...]
    movements: tuple[Transfer, ...]
    availability: Availability | None
    sla_credit_posted: bool
    """Whether the credit is in the books already."""
    month_tokens: int
    volume_tokens: int
    """Of them beyond the plan's first volume line."""
    estimate: Estimate | None


def invoice_of(
    view: LedgerView, policy: PolicySnapshot, tenant_id: str, month: int, *, now_ms: int
) -> Invoice:
    """The invoice of `tenant_id` for `month` (202611) as of `now_ms`. Raises NotFound for a tenant that the
    policy does not have, BadRequest for a month that is none or has not begun."""
    tenant, tier, plan = _parties(policy, tenant_id)
    clock = LocalClock(tenant.time_zone)
    if not (2000 <= month // 100 <= 9999 and 1 <= month % 100 <= 12):
        raise BadRequest(f"{month} is no month; write one as 202611", field="month")
    from_ms, until_ms = clock.month_bounds_ms(month)
    if now_ms < from_ms:
        said = f"the month {month // 100}-{month % 100:02} has not begun in {tenant.time_zone}"
        raise BadRequest(said, field="month")
    changes_ms = _price_changes_ms(plan, from_ms, until_ms)
    lines = _lines(view, policy, (tenant_id, month), [(clock.day_and_month(at)[0], at) for at in changes_ms])
    lines = [_with_price(line, plan, [from_ms, *changes_ms]) for line in lines]
    paid = tuple(paid_parts(view, tenant_id, month))
    availability = None
    if tier is not None and tier.sla_ppm:
        availability = _availability(tier.sla_ppm, lines, sla_credits())
    tokens = sum(line.totals.counted_tokens for line in lines)
    first_line = min((step.over_tokens for step in plan.volume), default=tokens) if plan else tokens
    is_final = now_ms >= until_ms + FINAL_AFTER_MS
    sums = _sums(tenant, lines, paid, availability.credit_ppm if availability else 0)
    return Invoice(
        number=f"{tenant_id}-{month}",
        state="final" if is_final else "preview",
        tenant_id=tenant_id,
        tenant_name=tenant.name,
        month=month,
        from_ms=from_ms,
        until_ms=until_ms,
        made_ms=now_ms,
        time_zone=tenant.time_zone,
        billing=tenant.billing,
        plan=tenant.plan,
        lines=tuple(lines),
        sums=sums,
        paid=paid,
        movements=tuple(movements(view, tenant_id, from_ms, until_ms)),
        availability=availability,
        sla_credit_posted=any(transfer_of(view, _credit_id(tenant_id, month, one.currency)) for one in sums),
        month_tokens=tokens,
        volume_tokens=max(0, tokens - first_line),
        estimate=None if now_ms >= until_ms else tenant_estimate(view, tenant, now_ms=now_ms),
    )


def sla_transfers(invoice: Invoice) -> list[Transfer]:
    """What puts the SLA credit of a final invoice into the books, one transfer a currency; posted twice it
    counts once. Empty for a preview, or where nothing is to be credited."""
    if invoice.state != "final" or invoice.availability is None:
        return []
    to = receivable_account if invoice.billing == "postpaid" else prepaid_account
    note = f"availability {invoice.availability.available_ppm} ppm in {invoice.month}"
    return [
        Transfer(
            id=_credit_id(invoice.tenant_id, invoice.month, sums.currency),
            kind="credit",
            debit=CREDIT,
            credit=to(invoice.tenant_id),
            amount_nano=sums.sla_credit_nano,
            currency=sums.currency,
            at_ms=invoice.made_ms,
            note=note,
        )
        for sums in invoice.sums
        if sums.sla_credit_nano > 0
    ]


def tenant_estimate(
    view: LedgerView, tenant: TenantPolicy, *, now_ms: int, project_id: str = "", key_id: str = ""
) -> Estimate:
    """What the present month of a tenant, or of a project or key of its, will have cost."""
    clock = LocalClock(tenant.time_zone)
    day, _ = clock.day_and_month(now_ms)
    today = _date(day)
    first = min(today - datetime.timedelta(days=LOOK_BACK_DAYS), today.replace(day=1))
    costs: defaultdict[datetime.date, int] = defaultdict(int)
    query = UsageQuery(
        first_day=int(f"{first:%Y%m%d}"),
        last_day=day,
        by=("day",),
        tenant_id=tenant.id,
        project_id=project_id,
        key_id=key_id,
    )
    for line in usage_lines(view, query):
        costs[_date(line.day)] += line.totals.cost_nano
    return month_estimate(costs, today, clock.minute(now_ms) * PPM // 1440)


def _parties(
    policy: PolicySnapshot, tenant_id: str
) -> tuple[TenantPolicy, TierPolicy | None, PricePlan | None]:
    tenant = next((one for one in policy.tenants if one.id == tenant_id), None)
    if tenant is None:
        raise NotFound(f"there is no tenant {tenant_id}; see `sextant tenant list`", field="tenant_id")
    tier = next((one for one in policy.tiers if one.id == tenant.tier), None)
    plan = next((one for one in policy.plans if one.id == tenant.plan), None)
    return tenant, tier, plan


def _price_changes_ms(plan: PricePlan | None, from_ms: int, until_ms: int) -> list[int]:
    """The moments inside the month at which a price of the plan begins or ends."""
    prices = plan.prices if plan else ()
    bounds = {at for price in prices for at in (price.valid_from_ms, price.valid_until_ms)}
    return sorted(at for at in bounds if from_ms < at < until_ms)


def _lines(
    view: LedgerView, policy: PolicySnapshot, whose: tuple[str, int], changes: Sequence[tuple[int, int]]
) -> list[InvoiceLine]:
    """Lines without their price; `from_ms` is still the number of the segment."""
    names = {project.id: project.name for project in policy.projects}
    return [
        InvoiceLine(
            project_id=line.project_id,
            project_name=names.get(line.project_id, ""),
            model=line.model,
            currency=line.currency,
            from_ms=line.segment,
            price=None,
            totals=line.totals,
        )
        for line in charged_lines(view, *whose, changes)
    ]


def _with_price(line: InvoiceLine, plan: PricePlan | None, starts_ms: Sequence[int]) -> InvoiceLine:
    from_ms = starts_ms[line.from_ms]
    price = price_at(plan.prices, line.model, from_ms) if plan and plan.currency == line.currency else None
    return msgspec.structs.replace(line, from_ms=from_ms, price=price)


def _availability(
    promised_ppm: int, lines: Iterable[InvoiceLine], steps: Iterable[SlaCredit]
) -> Availability:
    """Steps below the promise count alone: who was promised less is not paid for more."""
    totals = [line.totals for line in lines]
    requests = sum(one.requests for one in totals)
    failed = sum(one.errors + one.refused for one in totals)
    good_ppm = (requests - failed) * PPM

    def missed(share_ppm: int) -> bool:
        return good_ppm < share_ppm * requests

    credits_ppm = [step.credit_ppm for step in steps if missed(step.below_ppm)]
    credit_ppm = max(credits_ppm, default=0) if missed(promised_ppm) else 0
    return Availability(promised_ppm, requests, failed, good_ppm // requests if requests else PPM, credit_ppm)


def _sums(
    tenant: TenantPolicy, lines: Iterable[InvoiceLine], paid: Iterable[Paid], credit_ppm: int
) -> tuple[Sums, ...]:
    """One for each currency in which something was charged, else one of the tenant's own."""
    lists: defaultdict[str, int] = defaultdict(int)
    costs: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        lists[line.currency] += line.totals.list_nano
        costs[line.currency] += line.totals.cost_nano
    purses: defaultdict[tuple[str, str], int] = defaultdict(int)
    for part in paid:
        purses[part.currency, part.account.split(":")[2]] += part.amount_nano
    found = []
    for currency in sorted(one for one in lists if lists[one] or costs[one]) or [tenant.currency]:
        credit_nano = _half_even(costs[currency] * credit_ppm, PPM)
        receivable_nano = purses[currency, "receivable"]
        found.append(
            Sums(
                currency=currency,
                list_nano=lists[currency],
                discount_nano=lists[currency] - costs[currency],
                cost_nano=costs[currency],
                packages_nano=purses[currency, "package"],
                prepaid_nano=purses[currency, "prepaid"],
                receivable_nano=receivable_nano,
                sla_credit_nano=credit_nano,
                due_nano=receivable_nano - (credit_nano if tenant.billing == "postpaid" else 0),
            )
        )
    return tuple(found)


def _half_even(amount: int, divisor: int) -> int:
    whole, rest = divmod(amount, divisor)
    return whole + (2 * rest > divisor or (2 * rest == divisor and whole % 2 == 1))


def _credit_id(tenant_id: str, month: int, currency: str) -> str:
    return f"sla-{tenant_id}-{month}-{currency}"


def _date(day: int) -> datetime.date:
    return datetime.date(day // 10_000, day // 100 % 100, day % 100)
