"""The ways in and out: signing in, an invitation, signing up, and the first page after them.

Passwords are control's to judge, throttle and keep; a token of an invitation or a sign-up comes in the form's
body, never in an address. Neighbours: `oidc.py` (through an identity provider), `account.py`.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from sextant.base.errors import NotFound, SextantError
from sextant.console.control_api import Answer, Busy, Refused
from sextant.console.forms import Form
from sextant.console.told import Agreement, Ways
from sextant.console.visit import FORM, HOME, SESSION, Visit, own_path, tenant_url

JSON = dict[str, Any]


async def front(visit: Visit) -> Response:
    """The first page: that of the only tenant, else a choice."""
    if not visit.session:
        return visit.go(f"{HOME}sign-in")
    me, csrf = await visit.signed_in()
    if len(me.tenants) == 1:
        return visit.go(tenant_url(me.tenants[0].id))
    return visit.page("tenants", me=me, csrf=csrf)


async def sign_in_page(visit: Visit) -> Response:
    """Asks who it is."""
    query = visit.request.query_params
    said = visit.words.maybe(f"said.{query.get('said', '')}")
    return await _sign_in_again(visit, Form({"next": [query.get("next", "")]}), said=said)


async def sign_in(visit: Visit) -> Response:
    """Signs in with a password."""
    form = await visit.form()
    _refuse_foreign(visit, form)
    credential = {"email": form.text("email"), "password": form.secret("password"), "cookie": True}
    try:
        answer = await visit.site.control.ask(visit.visitor(session=""), "POST /v1/session", credential)
    except (Refused, Busy) as error:
        return await _sign_in_again(visit, form, error)
    return _signed_in(visit, answer, own_path(form.text("next")))


async def sign_out(visit: Visit) -> Response:
    """Ends the session, here and in control."""
    form = await visit.form()
    await visit.ask("DELETE /v1/session", csrf=form.csrf)
    answer = visit.go(f"{HOME}sign-in", said="out")
    visit.forget(answer, SESSION)
    return answer


async def redeem_page(visit: Visit) -> Response:
    """Asks for what redeems an invitation; a script puts the token in that the address brought along."""
    return visit.entrance_page("redeem", form=Form({}), problem=None)


async def redeem(visit: Visit) -> Response:
    """Redeems an invitation with a first password or the one that the address has, and signs in."""
    form = await visit.form()
    _refuse_foreign(visit, form)
    email, password = form.text("email"), form.secret("password")
    body = {"token": form.text("token"), "email": email, "password": password, "name": form.text("name")}
    try:
        await visit.site.control.ask(visit.visitor(session=""), "POST /v1/invitations/redeem", body)
        credential = {"email": email, "password": password, "cookie": True}
        answer = await visit.site.control.ask(visit.visitor(session=""), "POST /v1/session", credential)
    except (Refused, Busy) as error:
        return visit.entrance_page("redeem", error.status, form=form, problem=error)
    return _signed_in(visit, answer, HOME)


async def sign_up_page(visit: Visit) -> Response:
    """Asks for the address of somebody new. Raises NotFound where sign-up is closed."""
    return visit.entrance_page("sign_up", ways=await _open_ways(visit), form=Form({}), problem=None)


async def sign_up(visit: Visit) -> Response:
    """Has a confirmation sent; says the same whether or not the address is known."""
    form = await visit.form()
    _refuse_foreign(visit, form)
    ways = await _open_ways(visit)
    body = {"email": form.text("email"), "name": form.text("name"), "language": visit.language}
    try:
        await visit.site.control.ask(visit.visitor(session=""), "POST /v1/sign-ups", body)
    except (Refused, Busy) as error:
        return visit.entrance_page("sign_up", error.status, ways=ways, form=form, problem=error)
    return visit.page("sign_up_sent", email=form.text("email"))


async def confirm_page(visit: Visit) -> Response:
    """Asks for a password, and for agreement where the operator has a text; a script puts the token in."""
    return await _confirm_again(visit, Form({}))


async def confirm(visit: Visit) -> Response:
    """Makes the tenant that was asked for, and signs in."""
    form = await visit.form()
    _refuse_foreign(visit, form)
    body = {
        "token": form.text("token"),
        "password": form.secret("password"),
        "person_name": form.text("person_name"),
        "agreement": form.text("agreement"),
        "cookie": True,
    }
    try:
        answer = await visit.site.control.ask(
            visit.visitor(session=""), "POST /v1/sign-ups/confirmations", body
        )
    except (Refused, Busy) as error:
        return await _confirm_again(visit, form, error)
    return _signed_in(visit, answer, HOME)


async def read_agreement(visit: Visit, ways: Ways) -> Agreement | None:
    """The operator's present agreement; None where there is none. Raises Busy."""
    if not ways.agreement_version:
        return None
    return (await visit.ask("GET /v1/portal/agreement")).read(Agreement)


async def _confirm_again(visit: Visit, form: Form, problem: Refused | Busy | None = None) -> Response:
    agreement = await read_agreement(visit, await _open_ways(visit))
    status = 200 if problem is None else problem.status
    return visit.entrance_page("confirm", status, form=form, agreement=agreement, problem=problem)


async def _open_ways(visit: Visit) -> Ways:
    ways = await visit.ways()
    if ways.sign_up != "open":
        raise NotFound("nobody signs up here by themselves")
    return ways


async def _sign_in_again(
    visit: Visit, form: Form, problem: Refused | Busy | None = None, said: str = ""
) -> Response:
    status = 200 if problem is None else problem.status
    ways = await visit.ways()
    return visit.entrance_page("sign_in", status, ways=ways, form=form, problem=problem, said=said)


def _refuse_foreign(visit: Visit, form: Form) -> None:
    """Raises Refused for a form that was not on a page of this browser's: nobody signs others in."""
    if not form.proves(visit.request.cookies.get(visit.cookie_name(FORM), "")):
        raise Refused(403, "the form is not from this browser's page, or its cookie is gone", code="csrf")


def _signed_in(visit: Visit, answer: Answer, path: str) -> Response:
    """Puts control's session into a cookie of the portal's own. Raises SextantError where there is none."""
    secret, max_age_s = answer.cookie(visit.site.control.cookie)
    if not secret:
        raise SextantError("control signed somebody in without a session")
    made = visit.go(path)
    visit.keep(made, SESSION, secret, max_age_s)
    visit.forget(made, FORM)
    return made
