"""The door in front of the admin API: no path, not even an unknown one, answers without a credential, but for
those by which one signs in.

A credential is a service token (`Authorization: Bearer sxadmin-…`), a session as a bearer token
(`sxsession-…`), a site's (`sxsite-…`), or a session in a cookie. What a cookie brings along must prove, for
anything but a read, that our own page sent it: the header `X-CSRF-Token`. Secrets are looked up by their
SHA-256, so how long a wrong one takes says nothing about a right one.
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from sextant.base.errors import Forbidden, NotFound, SextantError, Unauthenticated
from sextant.control.access import Caller
from sextant.control.answers import error_answer
from sextant.store.accounts import Accounts

OPEN = frozenset(
    {
        ("GET", "/v1/sign-in"),
        ("POST", "/v1/session"),
        ("POST", "/v1/invitations/redeem"),
        ("GET", "/v1/oidc/start"),
        ("GET", "/v1/oidc/callback"),
        ("GET", "/v1/portal"),
        ("GET", "/v1/portal/agreement"),
        ("POST", "/v1/sign-ups"),
        ("POST", "/v1/sign-ups/confirmations"),
    }
)
"""What answers without a credential: the ways to get one."""
FROM_OUTSIDE = frozenset({"/v1/oidc/callback"})
"""What answers under the portal's public name, beside its pages, which stand before this door."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REFUSED = (
    "the admin API needs a credential: Authorization: Bearer with a service token (sxadmin-…; one was "
    "printed at the first start, the local one is in .sextant/secrets/admin), or a session (POST /v1/session)"
)


class AdminDoor:
    """ASGI middleware. `secure` says whether the listener speaks TLS; `fenced_host` is the portal's public
    name (`PortalSettings.fenced_host`), under which the admin API is not there."""

    def __init__(self, app: ASGIApp, accounts: Accounts, *, secure: bool, fenced_host: str = "") -> None:
        self.app = app
        self._accounts = accounts
        self._cookie = cookie_name(secure)
        self._fenced_host = fenced_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._is_fenced(scope):
            await error_answer(NotFound(f"there is nothing at {scope['path'][:100]}"))(scope, receive, send)
            return
        if scope["type"] == "http" and (scope["method"], scope["path"]) not in OPEN:
            try:
                caller = await run_in_threadpool(self._caller, scope)
            except SextantError as error:
                answer = error_answer(error)
                answer.headers["Connection"] = "close"
                await answer(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _is_fenced(self, scope: Scope) -> bool:
        """Whether the portal's name was called, and not for what it is for."""
        if scope["type"] != "http" or not self._fenced_host or scope["path"] in FROM_OUTSIDE:
            return False
        named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        return any(_hostname(one) == self._fenced_host for one in named)

    def _caller(self, scope: Scope) -> Caller:
        """Raises Unauthenticated, Forbidden (a cookie without our page's token), LedgerUnavailable."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1:
            caller = self._bearer(given[0].decode("latin-1"))
        else:
            caller = None if given else self._from_cookie(scope)
        if caller is None:
            raise Unauthenticated(REFUSED)
        return caller

    def _bearer(self, header: str) -> Caller | None:
        scheme, _, secret = header.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer":
            return None
        if secret.startswith("sxsession-"):
            person = self._accounts.verify_session(secret, "bearer")
            if person is None:
                return None
            return Caller(f"person:{person.id}", person.name, person.grants, person, secret)
        if secret.startswith("sxsite-"):
            site = self._accounts.verify_site(secret)
            return None if site is None else Caller(f"site:{site.id}", site.name, (), site_id=site.id)
        token = self._accounts.verify_service_token(secret)
        return None if token is None else Caller(f"token:{token.id}", token.name, token.grants)

    def _from_cookie(self, scope: Scope) -> Caller | None:
        secret = _cookie_value(scope, self._cookie)
        person = self._accounts.verify_session(secret, "cookie") if secret else None
        if person is None:
            return None
        expected = csrf_token(secret)
        if scope["method"] not in SAFE_METHODS:
            sent = [value for name, value in scope["headers"] if name == b"x-csrf-token"]
            if len(sent) != 1 or not hmac.compare_digest(sent[0], expected.encode()):
                raise Forbidden(
                    "a request with a session cookie needs the header X-CSRF-Token; GET /v1/session tells it",
                    code="csrf",
                )
        return Caller(f"person:{person.id}", person.name, person.grants, person, secret, expected)


def cookie_name(secure: bool) -> str:
    """Under TLS a name that browsers take from this very host alone (RFC 6265bis, 4.1.3.2)."""
    return "__Host-sextant" if secure else "sextant"


def csrf_token(session: str) -> str:
    """What our own page knows and another site's does not."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


def _hostname(host: str) -> str:
    """Of a Host header, without port and the dot at the end of a full name."""
    name, colon, port = host.strip().rpartition(":")
    return (name if colon and port.isdigit() else host.strip()).rstrip(".")


def _cookie_value(scope: Scope, name: str) -> str:
    for header, value in scope["headers"]:
        if header == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(name)
            except CookieError:
                continue
            if found is not None:
                return found.value
    return ""
