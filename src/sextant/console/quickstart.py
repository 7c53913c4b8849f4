"""How to call the models: address, key, commands that can be copied, models with prices, what errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.responses import Response

from sextant.console.keys import read_models
from sextant.console.visit import Here, Visit
from sextant.spec.policy import Price, PricePlan

NOWHERE = "https://API-HOST/v1"
"""Where the operator has not said what the API's address is."""
ERRORS = (
    (400, "invalid_value"),
    (400, "context_length_exceeded"),
    (401, "invalid_api_key"),
    (402, "insufficient_balance"),
    (403, "forbidden"),
    (404, "model_not_found"),
    (413, "body_too_large"),
    (429, "rate_limit_exceeded"),
    (429, "insufficient_quota"),
    (503, "queue_full"),
)
"""The gateway's codes that callers meet most, of each status."""


async def quickstart(visit: Visit) -> Response:
    """The page."""
    here = await visit.here()
    ways, models, plan = await asyncio.gather(visit.ways(), read_models(visit, here), _plan(visit, here))
    prices = {one.id: price_now(plan, one.id, visit.now_ms) for one in models} if plan else {}
    return visit.page(
        "quickstart",
        here=here,
        ways=ways,
        api_url=ways.api_url or NOWHERE,
        models=models,
        model=models[0].id if models else "MODEL",
        plan=plan,
        prices=prices,
        discounted=plan is not None and _has_discounts(plan, prices.values()),
        errors=ERRORS,
    )


async def _plan(visit: Visit, here: Here) -> PricePlan | None:
    """The tenant's prices; None where there are none, or the visitor's role does not show them."""
    if not here.allows("read", "plan") or not here.tenant.plan:
        return None
    return (await visit.ask(f"GET /v1/plans/{here.tenant.plan}")).read(PricePlan)


def _has_discounts(plan: PricePlan, prices: Iterable[Price | None]) -> bool:
    """Whether a call may cost something else than its tokens at these prices."""
    return bool(plan.volume) or any(one is not None and one.off_peak for one in prices)


def price_now(plan: PricePlan, model: str, now_ms: int) -> Price | None:
    """What a model costs now, as the books take it: its own price before the one of all others, of several
    the one that began last, of equals the one written last. Pure."""
    live = [
        one
        for one in plan.prices
        if one.model in (model, "*")
        and one.valid_from_ms <= now_ms
        and (not one.valid_until_ms or one.valid_until_ms > now_ms)
    ]
    return max(reversed(live), key=lambda one: (one.model == model, one.valid_from_ms), default=None)
