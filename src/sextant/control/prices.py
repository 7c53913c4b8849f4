"""Tiers, price plans and prices in the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import BadRequest, NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer
from sextant.control.office import Office
from sextant.control.openapi import Whole, tells
from sextant.spec.policy import Price, PricePlan, TierPolicy
from sextant.store.accounts_prices import PlanTerms

ReadTiers = Annotated[Allowed, Depends(Needs("read", "tier"))]
WriteTiers = Annotated[Allowed, Depends(Needs("write", "tier", deployment=True))]
ReadPlans = Annotated[Allowed, Depends(Needs("read", "plan"))]
WritePlans = Annotated[Allowed, Depends(Needs("write", "plan", deployment=True))]
TierBody = Annotated[TierPolicy, Depends(Body(TierPolicy))]
TermsBody = Annotated[PlanTerms, Depends(Body(PlanTerms))]
PriceBody = Annotated[Price, Depends(Body(Price))]


def add_prices(app: FastAPI, office: Office) -> None:
    """Routes of tiers and price plans. Tenants' own people see those of their tenants."""

    @app.get("/v1/tiers")
    @tells(Whole("tiers", TierPolicy))
    def list_tiers(allowed: ReadTiers) -> Response:
        """Tiers by id."""
        mine = _in_use(office, allowed, "tier")
        found = [one for one in office.accounts.list_tiers() if mine is None or one.id in mine]
        return json_answer({"tiers": found})

    @app.get("/v1/tiers/{tier_id}")
    @tells(TierPolicy)
    def get_tier(tier_id: str, allowed: ReadTiers) -> Response:
        """One tier."""
        mine = _in_use(office, allowed, "tier")
        if mine is not None and tier_id not in mine:
            raise NotFound(f"there is no tier {tier_id}; see `sextant tier list`", field="tier_id")
        return json_answer(office.accounts.tier(tier_id))

    @app.put("/v1/tiers/{tier_id}")
    @tells(TierPolicy)
    def put_tier(tier_id: str, allowed: WriteTiers, policy: TierBody) -> Response:
        """Makes a tier, or replaces it; gateways follow within a second."""
        if policy.id != tier_id:
            raise BadRequest(f"the body is tier {policy.id}, the path {tier_id}", field="id")
        return json_answer(office.changed(lambda: office.by(allowed).put_tier(policy)))

    @app.get("/v1/plans")
    @tells(Whole("plans", PricePlan))
    def list_plans(allowed: ReadPlans) -> Response:
        """Price plans by id, with all their prices, past and to come."""
        mine = _in_use(office, allowed, "plan")
        found = [one for one in office.accounts.list_plans() if mine is None or one.id in mine]
        return json_answer({"plans": found})

    @app.get("/v1/plans/{plan_id}")
    @tells(PricePlan)
    def get_plan(plan_id: str, allowed: ReadPlans) -> Response:
        """One price plan."""
        mine = _in_use(office, allowed, "plan")
        if mine is not None and plan_id not in mine:
            raise NotFound(f"there is no price plan {plan_id}; see `sextant price list`", field="plan_id")
        return json_answer(office.accounts.plan(plan_id))

    @app.put("/v1/plans/{plan_id}")
    @tells(PricePlan)
    def put_plan(plan_id: str, allowed: WritePlans, terms: TermsBody) -> Response:
        """Makes a plan, or changes its volume steps and package factor; a plan's currency stays."""
        return json_answer(office.changed(lambda: office.by(allowed).put_plan(plan_id, terms)))

    @app.post("/v1/plans/{plan_id}/prices", status_code=201)
    @tells(PricePlan)
    def add_price(plan_id: str, allowed: WritePlans, added: PriceBody) -> Response:
        """Adds a price from now or from a moment to come; the one of its model before it ends there."""
        return json_answer(office.changed(lambda: office.by(allowed).add_price(plan_id, added)), 201)


def _in_use(office: Office, allowed: Allowed, field: str) -> set[str] | None:
    """The tiers or plans of the caller's tenants; None: the caller may see all."""
    if allowed.everywhere:
        return None
    return {
        str(msgspec.structs.asdict(one)[field])
        for one in office.accounts.list_tenants(tenants=allowed.tenants)
    }
