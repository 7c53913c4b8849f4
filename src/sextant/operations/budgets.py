"""Watching budgets: what each has spent, whom to tell of it, and telling them until it has arrived.

Control runs `watch_budgets` for as long as it lives. Spending is read from the ledger's daily sums, what was
told is kept in the accounts database: a threshold is told once a month, also when several controls run. One
that dies between telling and noting it tells again: the receiver sees the same event id twice.
Neighbours: `sextant.store.budgets` (the rows), `alert_channels.py` (one attempt), `estimate.py`.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Callable
from email.message import EmailMessage

import msgspec

from sextant.base.errors import Misconfigured, SextantError
from sextant.governance.pricing import LocalClock
from sextant.operations.alert_channels import Channels, Undelivered, Webhook, send_email, send_webhook
from sextant.operations.estimate import Estimate
from sextant.operations.invoices import tenant_estimate
from sextant.spec.money import decimal_of
from sextant.spec.policy import TenantPolicy
from sextant.spec.snapshot import PolicySnapshot
from sextant.store.budgets import Alert, Budget, BudgetBook, Crossing, channels_of
from sextant.store.ledger_reading import LedgerView, ledger_view
from sextant.store.statements import UsageQuery, usage_total

INTERVAL_S = 30.0
FIRST_RETRY_MS = 30_000
RETRY_MS_MAX = 3_600_000
ATTEMPTS_MAX = 15
"""Half an hour of doubling, then every hour: about eight hours."""
LEASE_MS = 300_000
"""Longer than one round of `ALERTS_AT_ONCE` attempts at their longest takes."""
ALERTS_AT_ONCE = 10
_LATE_MS = 3_600_000
"""Spending of the month before is looked at for so long after its end."""
_log = logging.getLogger(__name__)


class Spending(msgspec.Struct, frozen=True):
    """A budget's month, in its tenant's currency."""

    budget: Budget
    month: int
    spent_nano: int
    currency: str
    estimate: Estimate


class BudgetWatch(msgspec.Struct, frozen=True):
    """What watching needs: the budgets, the ledger (a file or `postgresql://…`), the present policy, and the
    ways out."""

    book: BudgetBook
    ledger: str | os.PathLike[str]
    policy: Callable[[], PolicySnapshot]
    channels: Channels
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


async def watch_budgets(watch: BudgetWatch, *, interval_s: float = INTERVAL_S) -> None:
    """Looks and tells every `interval_s` until cancelled. A round that fails is logged; the next one does
    what it left."""
    while True:
        try:
            await asyncio.to_thread(watch_once, watch)
        except Exception:  # noqa: BLE001 - whatever it was, the next round must come
            _log.exception("budgets could not be watched; next try in %g s", interval_s)
        await asyncio.sleep(interval_s)


def watch_once(watch: BudgetWatch) -> int:
    """One round; returns how many alerts arrived. Raises what the databases raise."""
    note_crossings(watch)
    return tell_due(watch)


def note_crossings(watch: BudgetWatch) -> int:
    """Puts every threshold that is reached and not yet in line there. Returns how many are new."""
    budgets = watch.book.list_budgets()
    if not budgets:
        return 0
    tenants = {tenant.id: tenant for tenant in watch.policy().tenants}
    crossings = []
    with ledger_view(watch.ledger) as view:
        for budget in budgets:
            tenant = tenants.get(budget.tenant_id)
            if tenant is not None:
                crossings += _crossings(watch, view, budget, tenant)
    return watch.book.note_crossings(crossings) if crossings else 0


def spending_of(view: LedgerView, budget: Budget, policy: PolicySnapshot, *, now_ms: int) -> Spending:
    """The present month of a budget with its estimate. Raises Misconfigured when its tenant is not in the
    policy."""
    tenant = next((one for one in policy.tenants if one.id == budget.tenant_id), None)
    if tenant is None:
        raise Misconfigured(f"budget {budget.id} is of tenant {budget.tenant_id}, which the policy lacks")
    _, month = LocalClock(tenant.time_zone).day_and_month(now_ms)
    project_id, key_id = _sides(budget)
    estimate = tenant_estimate(view, tenant, now_ms=now_ms, project_id=project_id, key_id=key_id)
    spent_nano = _spent_nano(view, budget, tenant, month)
    return Spending(budget, month, spent_nano, tenant.currency, estimate)


def tell_due(watch: BudgetWatch) -> int:
    """One attempt for each alert that is due. Returns how many arrived."""
    arrived = 0
    for alert, budget, secret in watch.book.claim_due(limit=ALERTS_AT_ONCE, lease_ms=LEASE_MS):
        try:
            _tell(watch, alert, budget, secret)
        except Undelivered as problem:
            is_over = problem.for_good or alert.attempts >= ATTEMPTS_MAX
            wait_ms = min(RETRY_MS_MAX, FIRST_RETRY_MS << (alert.attempts - 1))
            again_ms = 0 if is_over else watch.now_ms() + wait_ms
            watch.book.not_told(alert, problem.message, again_ms=again_ms)
            _log.warning(
                "budget %s, %d %%: not told by %s (attempt %d%s): %s",
                budget.id,
                alert.threshold,
                alert.channel,
                alert.attempts,
                ", given up" if is_over else "",
                problem.message,
            )
        else:
            watch.book.told(alert)
            arrived += 1
    return arrived


def _crossings(watch: BudgetWatch, view: LedgerView, budget: Budget, tenant: TenantPolicy) -> list[Crossing]:
    clock, now_ms = LocalClock(tenant.time_zone), watch.now_ms()
    found = []
    for month in sorted({clock.day_and_month(at_ms)[1] for at_ms in (now_ms - _LATE_MS, now_ms)}):
        spent_nano = _spent_nano(view, budget, tenant, month)
        reached = [
            one for one in budget.terms.thresholds if spent_nano * 100 >= one * budget.terms.amount_nano
        ]
        if reached:
            known = watch.book.known_thresholds(budget.id, month)
            ways = channels_of(budget.terms)
            new = tuple(one for one in reached if any((one, way) not in known for way in ways))
            if new:
                found.append(Crossing(budget, month, new, spent_nano))
    return found


def _spent_nano(view: LedgerView, budget: Budget, tenant: TenantPolicy, month: int) -> int:
    project_id, key_id = _sides(budget)
    query = UsageQuery(
        first_day=month * 100 + 1,
        last_day=month * 100 + 31,
        tenant_id=tenant.id,
        project_id=project_id,
        key_id=key_id,
    )
    total = usage_total(view, query).get(tenant.currency)
    return total.cost_nano if total else 0


def _sides(budget: Budget) -> tuple[str, str]:
    kind, _, scope_id = budget.terms.scope.partition(":")
    return (scope_id if kind == "project" else ""), (scope_id if kind == "key" else "")


def _tell(watch: BudgetWatch, alert: Alert, budget: Budget, secret: str) -> None:
    """One attempt. Raises Undelivered, whatever is wrong: what one tenant's alert fails on must not keep
    back those of others."""
    try:
        _send(watch, alert, budget, secret)
    except Undelivered:
        raise
    except Exception as error:
        _log.exception("budget %s: the alert cannot be written", budget.id)
        raise Undelivered(f"the alert cannot be written: {type(error).__name__}") from error


def _send(watch: BudgetWatch, alert: Alert, budget: Budget, secret: str) -> None:
    """Raises Undelivered."""
    currency = next((one.currency for one in watch.policy().tenants if one.id == budget.tenant_id), "")
    now_s = watch.now_ms() // 1000
    if alert.channel == "webhook":
        body = _body(watch, alert, budget, currency)
        send_webhook(
            Webhook(budget.terms.webhook_url, secret, alert.event_id, body), watch.channels, now_s=now_s
        )
    else:
        send_email(_email(watch, alert, budget, currency), watch.channels)


def _body(watch: BudgetWatch, alert: Alert, budget: Budget, currency: str) -> bytes:
    return msgspec.json.encode(
        {
            "type": "budget.threshold_reached",
            "timestamp": datetime.datetime.fromtimestamp(watch.now_ms() / 1000, datetime.UTC),
            "data": {
                "budget_id": budget.id,
                "name": budget.terms.name,
                "tenant_id": budget.tenant_id,
                "scope": budget.terms.scope,
                "month": alert.month,
                "threshold_percent": alert.threshold,
                "currency": currency,
                "budget": decimal_of(budget.terms.amount_nano),
                "spent": decimal_of(alert.spent_nano),
                "estimate_of_month": _estimate(watch, alert, budget),
            },
        }
    )


def _estimate(watch: BudgetWatch, alert: Alert, budget: Budget) -> str:
    """A decimal, empty where it cannot be told now: an alert does not wait for its estimate."""
    try:
        with ledger_view(watch.ledger) as view:
            spending = spending_of(view, budget, watch.policy(), now_ms=watch.now_ms())
    except SextantError:
        return ""
    return decimal_of(spending.estimate.month_nano) if spending.month == alert.month else ""


def _email(watch: BudgetWatch, alert: Alert, budget: Budget, currency: str) -> EmailMessage:
    terms = budget.terms
    name = terms.name or terms.scope
    spent, amount = decimal_of(alert.spent_nano), decimal_of(terms.amount_nano)
    month = f"{alert.month // 100}-{alert.month % 100:02d}"
    estimate = _estimate(watch, alert, budget)
    message = EmailMessage()
    message["From"] = watch.channels.smtp.sender if watch.channels.smtp else ""
    message["To"] = ", ".join(terms.emails)
    # Python's headers decode what looks encoded, ends of lines too; a name is shown as it was given.
    shown = name.replace("=?", "= ?")
    message["Subject"] = (
        f"Budget {shown}: {alert.threshold} % reached in {month} / 预算已用 {alert.threshold} %"
    )
    message["Message-ID"] = f"<{alert.event_id}@sextant.invalid>"
    lines = [
        f"The budget {name} ({terms.scope}) has reached {alert.threshold} % in {month}.",
        f"预算 {name}({terms.scope})在 {month} 已达到 {alert.threshold} %。",
        "",
        f"Spent / 已用:   {spent} {currency}",
        f"Budget / 预算:  {amount} {currency}",
    ]
    if estimate:
        lines.append(f"Estimate for the month / 本月估算: {estimate} {currency}")
    message.set_content(
        "\n".join([*lines, "", "A budget warns and stops nothing. / 预算只提醒,不拦截。", ""])
    )
    return message
