"""Signing in through the operator's identity provider: control does it, the pages carry browser and answers.

What binds an attempt to this browser is control's `state`, kept in a cookie of the portal's own. The provider
sends the browser back to control's path for it, as the document names it; who set out from a page of ours is
known by that cookie.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.responses import RedirectResponse, Response

from sextant.base.errors import SextantError
from sextant.console.control_api import Answer, Visitor
from sextant.console.visit import HOME, SESSION, Visit

STATE = "sextant-portal-oidc"
CONTROL_STATE = "sextant_oidc"
CALLBACK = "/v1/oidc/callback"
_NAMES = (STATE, f"__Host-{STATE}")


def set_out_here(scope: Any) -> bool:
    """Whether a browser that comes back from the provider set out from one of our pages."""
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                return not SimpleCookie(value.decode("latin-1")).keys().isdisjoint(_NAMES)
            except CookieError:
                return False
    return False


async def start(visit: Visit) -> Response:
    """Sends the browser to the provider."""
    answer = await visit.ask("GET /v1/oidc/start")
    state, max_age_s = answer.cookie(CONTROL_STATE)
    made = RedirectResponse(answer.header(b"location"), 303)
    visit.keep(made, STATE, state, max_age_s)
    return made


async def callback(visit: Visit) -> Response:
    """Where the provider sends the browser back: signs in."""
    state = visit.request.cookies.get(visit.cookie_name(STATE), "")
    answer = await _carried(visit, state)
    secret, max_age_s = answer.cookie(visit.site.control.cookie)
    if not secret:
        raise SextantError("control signed somebody in without a session")
    made = visit.go(HOME)
    visit.keep(made, SESSION, secret, max_age_s)
    visit.forget(made, STATE)
    return made


async def _carried(visit: Visit, state: str) -> Answer:
    """The provider's answer, given to control with its own cookie. Raises Refused, Busy."""
    visitor = visit.visitor(session="")
    query = list(visit.request.query_params.multi_items())
    bound = Visitor(peer=visitor.peer, forwarded_for=visitor.forwarded_for, cookies=((CONTROL_STATE, state),))
    return await visit.site.control.ask(bound, f"GET {CALLBACK}", query=query)
