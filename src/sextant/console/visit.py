"""One request of a page: who looks, in which language and light, and what they are answered with.

Neighbours: `control_api.py` (asked with the visitor's own credential), `site.py` (routes).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Any
from urllib.parse import urlencode

import msgspec
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sextant.base.errors import NotFound
from sextant.console.control_api import Answer, ControlApi, Refused, Visitor
from sextant.console.forms import Form, read_form
from sextant.console.static_files import StaticFiles
from sextant.console.told import Me, Session, Tenant, Ways
from sextant.console.words import LANGUAGES, Language, Words, preferred, words_of

HOME = "/portal/"
SESSION = "sextant-portal"
FORM = "sextant-portal-form"
LANGUAGE = "sextant-portal-language"
THEME = "sextant-portal-theme"
THEMES = ("auto", "light", "dark")
KEEP_CHOICE_S = 365 * 86_400
FORM_TOKEN_BYTES = 24
_FORM_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)


class Site(msgspec.Struct, frozen=True):
    """What all pages share."""

    control: ControlApi
    templates: Environment
    static: StaticFiles


class Here(msgspec.Struct, frozen=True):
    """Who is signed in, and in which of their tenants they are."""

    me: Me
    csrf: str
    tenant: Tenant

    def allows(self, verb: str, noun: str) -> bool:
        """Whether the visitor may do that in this tenant."""
        return self.tenant.allows(verb, noun)

    def require(self, verb: str, noun: str) -> None:
        """Raises Refused where the visitor's role does not allow it; control would say so later."""
        if not self.allows(verb, noun):
            raise Refused(403, f"this needs a role that may {verb} a {noun}", code="forbidden")

    def url(self, path: str = "", **query: str) -> str:
        """The address of one of the tenant's pages."""
        return tenant_url(self.tenant.id, path, **query)


class Visit:
    """One request."""

    def __init__(self, request: Request, site: Site) -> None:
        self.request = request
        self.site = site
        proto = request.headers.get("x-forwarded-proto", request.url.scheme)
        self.secure = proto.split(",")[0].strip() in ("https", "wss")
        self.language = self._language()
        self.theme = self._choice(THEME, THEMES, "auto")
        self.session = request.cookies.get(self.cookie_name(SESSION), "")
        self.now_ms = time.time_ns() // 1_000_000

    @property
    def words(self) -> Words:
        """The catalogue of the visitor's language."""
        return words_of(self.language)

    @property
    def path(self) -> str:
        """Where the visitor is, with the query; for coming back."""
        query = self.request.url.query
        return f"{self.request.url.path}{'?' if query else ''}{query}"

    def cookie_name(self, name: str) -> str:
        """Under TLS a name that browsers take from this very host alone (RFC 6265bis, 4.1.3.2)."""
        return f"__Host-{name}" if self.secure else name

    def visitor(self, csrf: str = "", *, session: str | None = None) -> Visitor:
        """Whoever looks, as control is told."""
        client = self.request.client
        return Visitor(
            session=self.session if session is None else session,
            csrf=csrf,
            peer=None if client is None else (client.host, client.port),
            forwarded_for=self.request.headers.get("x-forwarded-for", "").encode("latin-1"),
        )

    async def form(self) -> Form:
        """The form that came. Raises BadRequest, BodyTooLarge."""
        return await read_form(self.request)

    async def ask(self, call: str, body: object = None, *, csrf: str = "", **query: str) -> Answer:
        """Asks control as whoever looks. Raises Refused, SignedOut, Busy."""
        return await self.site.control.ask(self.visitor(csrf), call, body, query=list(query.items()))

    async def here(self) -> Here:
        """Who is signed in, and the tenant that the address names. Raises NotFound for a tenant that is not
        the visitor's, and what `ask` raises."""
        me, csrf = await self.signed_in()
        wanted = self.request.path_params["tenant_id"]
        found = next((one for one in me.tenants if one.id == wanted), None)
        if found is None:
            raise NotFound("there is no such tenant")
        return Here(me, csrf, found)

    async def signed_in(self) -> tuple[Me, str]:
        """Who is signed in, and the token that their forms carry. Raises SignedOut, Busy."""
        me, session = await asyncio.gather(self.ask("GET /v1/me"), self.ask("GET /v1/session"))
        return me.read(Me), session.read(Session).csrf_token

    async def ways(self) -> Ways:
        """The ways in. Raises Busy."""
        return (await self.ask("GET /v1/portal")).read(Ways)

    def form_token(self) -> str:
        """What forms carry before anybody is signed in; also in a cookie of this browser."""
        given = self.request.cookies.get(self.cookie_name(FORM), "")
        return given if _FORM_TOKEN.fullmatch(given) else secrets.token_urlsafe(FORM_TOKEN_BYTES)

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        """A page out of `templates/`."""
        template = self.site.templates.get_template(f"{name}.html")
        text = template.render(
            visit=self, t=self.words, static=self.site.static.url, now_ms=self.now_ms, **values
        )
        return HTMLResponse(text, status)

    def entrance_page(self, name: str, status: int = 200, **values: Any) -> Response:
        """A page for somebody who is not signed in, with its token in a cookie beside it."""
        token = self.form_token()
        answer = self.page(name, status, csrf=token, **values)
        self.keep(answer, FORM, token)
        return answer

    def go(self, path: str, **query: str) -> Response:
        """Sends the browser to another page."""
        target = f"{path}?{urlencode(query)}" if query else path
        if self.request.headers.get("hx-request"):
            return Response(status_code=204, headers={"HX-Redirect": target})
        return RedirectResponse(target, 303)

    def keep(self, answer: Response, name: str, value: str, max_age_s: int | None = None) -> None:
        """Puts a cookie into the browser, out of scripts' reach and not sent along by other sites' forms."""
        answer.set_cookie(
            self.cookie_name(name), value, max_age=max_age_s, path="/", secure=self.secure, httponly=True,
            samesite="lax",
        )  # fmt: skip

    def forget(self, answer: Response, name: str) -> None:
        """Takes a cookie back."""
        answer.delete_cookie(self.cookie_name(name), path="/", secure=self.secure, httponly=True)

    def _language(self) -> Language:
        chosen = self.request.cookies.get(LANGUAGE, "")
        found = next((one for one in LANGUAGES if one == chosen), None)
        return found or preferred(self.request.headers.get("accept-language", ""))

    def _choice(self, cookie: str, choices: tuple[str, ...], otherwise: str) -> str:
        chosen = self.request.cookies.get(cookie, "")
        return chosen if chosen in choices else otherwise


def tenant_url(tenant_id: str, path: str = "", **query: str) -> str:
    """The address of a tenant's page."""
    return f"{HOME}t/{tenant_id}/{path}{'?' if query else ''}{urlencode(query)}"


def own_path(text: str) -> str:
    """`text` where it is the address of one of our pages; else the first page. Nobody is sent elsewhere by a
    link to us."""
    plain = text.isascii() and text.isprintable() and "\\" not in text and ".." not in text
    return text if plain and text.startswith(HOME) and "//" not in text else HOME
