"""The first page of a tenant: what is left, what is spent, what was used, and what is allowed."""

from __future__ import annotations

import asyncio
import datetime

import msgspec
from starlette.responses import Response

from sextant.console.charts import daily_chart
from sextant.console.shown import day_start_ms, days_before, today
from sextant.console.told import Balance, Budgets, BudgetSpent, Usage, UsageLine
from sextant.console.visit import Here, Visit
from sextant.spec.policy import LimitRules, TierPolicy

DAYS = 30
BUDGETS_SHOWN = 6


async def overview(visit: Visit) -> Response:
    """The page."""
    here = await visit.here()
    days = days_before(today(visit.now_ms, here.tenant.time_zone), DAYS)
    balance, budgets, lines, tier = await asyncio.gather(
        _balance(visit, here), _budgets(visit, here), _days(visit, here, days), read_tier(visit, here)
    )
    return visit.page(
        "overview",
        here=here,
        balance=balance,
        budgets=budgets,
        chart=daily_chart(days, lines, visit.words),
        limits=merged_limits(tier.limits if tier else LimitRules(), here.tenant.limits),
        tier=tier,
        used=bool(lines),
        alone=not here.allows("read", "balance"),
    )


async def read_tier(visit: Visit, here: Here) -> TierPolicy | None:
    """The tenant's tier; None where the visitor's role does not show it."""
    if not here.allows("read", "tier"):
        return None
    return (await visit.ask(f"GET /v1/tiers/{here.tenant.tier}")).read(TierPolicy)


def merged_limits(tier: LimitRules, own: LimitRules) -> LimitRules:
    """A tenant's limits: its own replace its tier's singly."""
    given = {name: value for name, value in msgspec.structs.asdict(own).items() if value}
    return msgspec.structs.replace(tier, **given)


async def _balance(visit: Visit, here: Here) -> Balance | None:
    if not here.allows("read", "balance"):
        return None
    return (await visit.ask(f"GET /v1/tenants/{here.tenant.id}/balance")).read(Balance)


async def _budgets(visit: Visit, here: Here) -> list[BudgetSpent]:
    if not here.allows("read", "budget"):
        return []
    listed = (await visit.ask("GET /v1/budgets", tenant_id=here.tenant.id, limit=str(BUDGETS_SHOWN))).read(
        Budgets
    )
    return await asyncio.gather(*(read_budget(visit, one.id) for one in listed.budgets))


async def read_budget(visit: Visit, budget_id: str) -> BudgetSpent:
    """A budget with what it has spent."""
    return (await visit.ask(f"GET /v1/budgets/{budget_id}")).read(BudgetSpent)


async def _days(visit: Visit, here: Here, days: list[datetime.date]) -> tuple[UsageLine, ...]:
    if not here.allows("read", "usage"):
        return ()
    answer = await visit.ask(
        "GET /v1/usage",
        tenant_id=here.tenant.id,
        by="day",
        since_ms=str(day_start_ms(days[0])),
        until_ms=str(day_start_ms(days[-1]) + 86_400_000),
    )
    return answer.read(Usage).totals
