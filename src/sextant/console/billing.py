"""A tenant's money: balance, packages, budgets and invoices."""

from __future__ import annotations

import asyncio
import datetime
import re

from starlette.responses import Response

from sextant.base.errors import NotFound
from sextant.console.control_api import Busy, Refused
from sextant.console.forms import Form, Wrong
from sextant.console.overview import read_budget
from sextant.console.shown import day_start_ms, today
from sextant.console.told import Balance, Budget, Budgets, BudgetSpent, Usage, UsageLine
from sextant.console.usage import relayed
from sextant.console.visit import Here, Visit

MONTHS_DAYS = 365
BUDGETS_MAX = 50
_FILE = re.compile(r"2\d{3}-\d{2}\.(?:csv|html|pdf)", re.ASCII)


async def billing_page(visit: Visit) -> Response:
    """The page."""
    here = await visit.here()
    here.require("read", "invoice")
    return await _shown(visit, here, Form({}))


async def create_budget(visit: Visit) -> Response:
    """Makes a budget that tells people by e-mail."""
    here, form = await visit.here(), await visit.form()
    try:
        body = {
            "scope": f"tenant:{here.tenant.id}",
            "amount_nano": form.amount("amount") or 0,
            "name": form.text("name"),
            "emails": form.lines("emails"),
        }
        await visit.ask("POST /v1/budgets", body, csrf=form.csrf)
    except (Refused, Busy, Wrong) as error:
        if isinstance(error, Refused) and error.code == "csrf":
            raise
        return await _shown(visit, here, form, error)
    return visit.go(here.url("billing"), said="budget_made")


async def delete_budget(visit: Visit) -> Response:
    """Deletes a budget. Raises NotFound for another tenant's."""
    here, form = await visit.here(), await visit.form()
    budget_id = visit.request.path_params["budget_id"]
    found = (await visit.ask(f"GET /v1/budgets/{budget_id}")).read(Budget)
    if found.tenant_id != here.tenant.id:
        raise NotFound("there is no such budget")
    await visit.ask(f"DELETE /v1/budgets/{budget_id}", csrf=form.csrf)
    return visit.go(here.url("billing"), said="budget_deleted")


async def invoice(visit: Visit) -> Response:
    """A month's invoice as a file. Raises NotFound for what is no month."""
    here = await visit.here()
    month = visit.request.path_params["month"]
    if not _FILE.fullmatch(month):
        raise NotFound("there is no such invoice")
    return relayed(await visit.ask(f"GET /v1/invoices/{here.tenant.id}/{month}", lang=visit.language))


async def _shown(
    visit: Visit, here: Here, form: Form, problem: Refused | Busy | Wrong | None = None
) -> Response:
    balance, budgets, months = await asyncio.gather(
        _balance(visit, here), _budgets(visit, here), _months(visit, here)
    )
    status = 200 if problem is None else 400 if isinstance(problem, Wrong) else problem.status
    return visit.page(
        "billing",
        status,
        here=here,
        form=form,
        balance=balance,
        budgets=budgets,
        months=months,
        present=f"{today(visit.now_ms, here.tenant.time_zone):%Y-%m}",
        problem=problem,
        said=visit.words.maybe(f"said.{visit.request.query_params.get('said', '')}"),
    )


async def _balance(visit: Visit, here: Here) -> Balance | None:
    if not here.allows("read", "balance"):
        return None
    return (await visit.ask(f"GET /v1/tenants/{here.tenant.id}/balance")).read(Balance)


async def _budgets(visit: Visit, here: Here) -> list[BudgetSpent]:
    if not here.allows("read", "budget"):
        return []
    query = {"tenant_id": here.tenant.id, "limit": str(BUDGETS_MAX)}
    listed = (await visit.ask("GET /v1/budgets", **query)).read(Budgets)
    return await asyncio.gather(*(read_budget(visit, one.id) for one in listed.budgets))


async def _months(visit: Visit, here: Here) -> dict[str, list[UsageLine]]:
    """What each month cost, newest first, a line for each currency; the present one is always there."""
    if not here.allows("read", "invoice"):
        return {}
    last = today(visit.now_ms, here.tenant.time_zone)
    first = (last - datetime.timedelta(days=MONTHS_DAYS - 31)).replace(day=1)
    until = last + datetime.timedelta(days=1)
    query = {"since_ms": str(day_start_ms(first)), "until_ms": str(day_start_ms(until))}
    answer = await visit.ask("GET /v1/usage", tenant_id=here.tenant.id, by="month", **query)
    found: dict[str, list[UsageLine]] = {f"{last:%Y-%m}": []}
    for line in answer.read(Usage).totals:
        found.setdefault(line.month, []).append(line)
    return dict(sorted(found.items(), reverse=True))
