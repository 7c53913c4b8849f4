"""The portal in front of control: pages under `/portal/`, everything else is control's.

No page has state of its own, so any replica may answer any request. Neighbours: `visit.py` (one request),
`entrance.py` (the ways in) and one file for each page.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router

from sextant.base.errors import BadRequest, BodyTooLarge, NotFound, SextantError
from sextant.console import (
    account,
    billing,
    choices,
    entrance,
    keys,
    members,
    oidc,
    overview,
    quickstart,
    usage,
)
from sextant.console.control_api import AsgiApp, Busy, ControlApi, Refused, SignedOut
from sextant.console.static_files import StaticFiles
from sextant.console.templating import build_templates
from sextant.console.visit import HOME, SESSION, Site, Visit

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}
_SAME_SITE = ("same-origin", "none")
Handler = Callable[[Visit], Awaitable[Response]]
_log = logging.getLogger(__name__)


class ConsoleSettings(msgspec.Struct, frozen=True):
    """`control_cookie` is the name that control gives a session's cookie; `host` the portal's own, whose `/`
    leads to the pages."""

    control_cookie: str
    host: str = ""


class Portal:
    """ASGI application: the pages, and control for every other path."""

    def __init__(self, control: AsgiApp, settings: ConsoleSettings) -> None:
        self.app = control
        self._settings = settings
        self._site = Site(ControlApi(control, settings.control_cookie), build_templates(), StaticFiles())
        self._router = Router(
            [self._route(call, handler) for call, handler in _ROUTES.items()],
            default=self._page(_nowhere),
            redirect_slashes=False,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self._is_front_door(scope):
            await RedirectResponse(HOME, 303)(scope, receive, send)
        elif scope["path"].startswith(HOME) or self._comes_back(scope):
            await self._router(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_front_door(self, scope: Any) -> bool:
        return scope["path"] == "/portal" or (scope["path"] == "/" and self._is_own_host(scope))

    def _comes_back(self, scope: Any) -> bool:
        """Whether a browser comes back from the identity provider to the pages, and not to the admin API."""
        back = scope["method"] == "GET" and scope["path"] == oidc.CALLBACK
        return back and (self._is_own_host(scope) or oidc.set_out_here(scope))

    def _is_own_host(self, scope: Any) -> bool:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        own = self._settings.host.lower()
        return bool(own) and host.partition(":")[0].lower() == own

    def _route(self, call: str, handler: Handler) -> Route:
        method, _, path = call.partition(" ")
        return Route(path, self._page(handler), methods=[method])

    def _page(self, handler: Handler) -> Any:
        async def answer(request: Request) -> Response:
            visit = Visit(request, self._site)
            made = await _answered(visit, handler)
            for name, value in _HEADERS.items():
                made.headers.setdefault(name, value)
            if visit.secure:
                made.headers["Strict-Transport-Security"] = "max-age=31536000"
            return made

        if handler is not _nowhere:
            return answer

        async def nowhere(scope: Any, receive: Any, send: Any) -> None:
            await (await answer(Request(scope, receive)))(scope, receive, send)

        return nowhere


async def _answered(visit: Visit, handler: Handler) -> Response:
    """A page, or the page that says why there is none. The one place that knows errors and statuses."""
    try:
        _refuse_other_sites(visit.request)
        return await handler(visit)
    except SignedOut:
        return _to_sign_in(visit)
    except Refused as error:
        kind = "csrf" if error.code == "csrf" else str(error.status)
        return _trouble(visit, error.status, kind, error)
    except Busy as error:
        answer = _trouble(visit, error.status, "busy", error)
        answer.headers["Retry-After"] = str(int(error.retry_after_s or 5))
        return answer
    except NotFound as error:
        return _trouble(visit, 404, "404", error)
    except BodyTooLarge as error:
        return _trouble(visit, 413, "413", error)
    except BadRequest as error:
        return _trouble(visit, 400, "400", error)
    except Exception as error:  # noqa: BLE001 - the edge: one broken page must not take the listener along
        _log.exception("the page %s failed", visit.request.url.path)
        return _trouble(visit, 500, "500", SextantError(type(error).__name__))


def _refuse_other_sites(request: Request) -> None:
    """Raises Refused for a form that a browser says comes from somewhere else."""
    said = request.headers.get("sec-fetch-site", "none")
    if request.method == "POST" and said not in _SAME_SITE:
        raise Refused(403, "the form comes from another site", code="csrf")


def _to_sign_in(visit: Visit) -> Response:
    """Whoever is signed out signs in, and comes back to what they read."""
    back = {"next": visit.path} if visit.request.method == "GET" and visit.path != HOME else {}
    ended = {"said": "ended"} if visit.session else {}
    answer = visit.go(f"{HOME}sign-in", **ended, **back)
    visit.forget(answer, SESSION)
    return answer


def _trouble(visit: Visit, status: int, kind: str, error: SextantError) -> Response:
    title = visit.words.maybe(f"trouble.{kind}") or visit.words("trouble.400")
    said = visit.words.maybe(f"refused.{error.code}") or error.message
    return visit.page(
        "trouble", status, title=title, said=said, hint=visit.words.maybe(f"trouble.{kind}_hint")
    )


async def _nowhere(_visit: Visit) -> Response:
    raise NotFound("there is no such page")


async def _static(visit: Visit) -> Response:
    given = visit.request.path_params
    found = visit.site.static.answer(given["digest"], given["name"])
    if found is None:
        raise NotFound("there is no such file")
    return found


_T = "/portal/t/{tenant_id}"
_ROUTES: dict[str, Handler] = {
    "GET /portal/": entrance.front,
    "GET /portal/sign-in": entrance.sign_in_page,
    "POST /portal/sign-in": entrance.sign_in,
    "POST /portal/sign-out": entrance.sign_out,
    "GET /portal/redeem": entrance.redeem_page,
    "POST /portal/redeem": entrance.redeem,
    "GET /portal/sign-up": entrance.sign_up_page,
    "POST /portal/sign-up": entrance.sign_up,
    "GET /portal/confirm": entrance.confirm_page,
    "POST /portal/confirm": entrance.confirm,
    "GET /portal/oidc/start": oidc.start,
    "GET /v1/oidc/callback": oidc.callback,
    "GET /portal/choose/{what}/{value}": choices.choose,
    "GET /portal/account": account.account_page,
    "POST /portal/account/password": account.change_password,
    "POST /portal/account/invitations": account.redeem_signed_in,
    f"GET {_T}/": overview.overview,
    f"GET {_T}/keys": keys.keys_page,
    f"POST {_T}/keys": keys.create,
    f"GET {_T}/keys/new": keys.new_page,
    f"GET {_T}/keys/{{key_id}}": keys.key_page,
    f"POST {_T}/keys/{{key_id}}": keys.change,
    f"POST {_T}/keys/{{key_id}}/rotate": keys.rotate,
    f"GET {_T}/keys/{{key_id}}/revoke": keys.revoke_page,
    f"POST {_T}/keys/{{key_id}}/revoke": keys.revoke,
    f"POST {_T}/projects": keys.create_project,
    f"GET {_T}/usage": usage.usage_page,
    f"GET {_T}/usage.csv": usage.usage_file,
    f"GET {_T}/billing": billing.billing_page,
    f"POST {_T}/budgets": billing.create_budget,
    f"POST {_T}/budgets/{{budget_id}}/delete": billing.delete_budget,
    f"GET {_T}/invoices/{{month}}": billing.invoice,
    f"GET {_T}/members": members.members_page,
    f"POST {_T}/invitations": members.invite,
    f"POST {_T}/invitations/{{invitation_id}}/revoke": members.revoke_invitation,
    f"POST {_T}/members/{{person_id}}/role": members.change_role,
    f"GET {_T}/members/{{person_id}}/remove": members.remove_page,
    f"POST {_T}/members/{{person_id}}/remove": members.remove,
    f"GET {_T}/agreement": account.agreement_page,
    f"POST {_T}/agreement": account.accept_agreement,
    f"GET {_T}/quickstart": quickstart.quickstart,
    "GET /portal/static/{digest}/{name}": _static,
}
