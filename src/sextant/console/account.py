"""Oneself: who one is here, one's password, and the agreement that a tenant is asked to accept."""

from __future__ import annotations

from starlette.responses import Response

from sextant.base.errors import NotFound
from sextant.console.control_api import Busy, Refused
from sextant.console.forms import Wrong
from sextant.console.told import Agreements, Me
from sextant.console.visit import HOME, SESSION, Visit


async def account_page(visit: Visit) -> Response:
    """The page."""
    me, csrf = await visit.signed_in()
    return _shown(visit, me, csrf)


async def change_password(visit: Visit) -> Response:
    """Changes one's password, which ends all one's sessions: one signs in again."""
    me, csrf = await visit.signed_in()
    form = await visit.form()
    try:
        if form.secret("new") != form.secret("again"):
            raise Wrong("form.not_the_same", field="again")
        body = {"present": form.secret("present"), "new": form.secret("new")}
        await visit.ask("POST /v1/me/password", body, csrf=form.csrf)
    except (Refused, Busy, Wrong) as error:
        if isinstance(error, Refused) and error.code == "csrf":
            raise
        return _shown(visit, me, csrf, error)
    answer = visit.go(f"{HOME}sign-in", said="password_changed")
    visit.forget(answer, SESSION)
    return answer


async def redeem_signed_in(visit: Visit) -> Response:
    """Redeems an invitation to one's own address, however one has signed in."""
    me, csrf = await visit.signed_in()
    form = await visit.form()
    try:
        await visit.ask("POST /v1/me/invitations", {"token": form.text("token")}, csrf=form.csrf)
    except (Refused, Busy) as error:
        if isinstance(error, Refused) and error.code == "csrf":
            raise
        return _shown(visit, me, csrf, error)
    return visit.go(HOME)


async def agreement_page(visit: Visit) -> Response:
    """The operator's agreements, the present one first, and who accepted them for this tenant."""
    here = await visit.here()
    found = (await visit.ask("GET /v1/agreements")).read(Agreements).agreements
    if not found:
        raise NotFound("there is no agreement")
    ordered = sorted(found, key=lambda one: not one.present)
    return visit.page("agreement", here=here, agreements=ordered, owner=_is_owner(here.me, here.tenant.id))


async def accept_agreement(visit: Visit) -> Response:
    """Accepts the present agreement for the tenant."""
    here, form = await visit.here(), await visit.form()
    if form.text("accept") != "yes":
        return visit.go(here.url("agreement"))
    call = f"POST /v1/agreements/{form.text('version')}/acceptances"
    await visit.ask(call, {"tenant_id": here.tenant.id}, csrf=form.csrf)
    return visit.go(here.url("agreement"))


def _is_owner(me: Me, tenant_id: str) -> bool:
    return any(one.role == "owner" and one.tenant_id == tenant_id for one in me.grants)


def _shown(visit: Visit, me: Me, csrf: str, problem: Refused | Busy | Wrong | None = None) -> Response:
    status = 200 if problem is None else 400 if isinstance(problem, Wrong) else problem.status
    names = {one.id: one.name for one in me.tenants}
    return visit.page("account", status, me=me, names=names, csrf=csrf, problem=problem)
