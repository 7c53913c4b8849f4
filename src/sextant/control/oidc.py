"""Signing in through an OpenID Connect provider: authorization code with PKCE.

The provider is found by its discovery document; what a sign-in must come back with (state, nonce, verifier)
is kept in the accounts database once and for ten minutes, and the state also in a cookie, so that nobody can
be signed in as somebody else by a link. Neighbours: `id_tokens.py` (the checks), `sextant.store.sign_in`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

import httpx2
import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import RedirectResponse
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from sextant.base.config import resolve_secret
from sextant.base.errors import Retryable, Unauthenticated
from sextant.control.answers import json_answer
from sextant.control.door import csrf_token
from sextant.control.id_tokens import Expected, UnknownKey, checked_claims
from sextant.control.office import Office
from sextant.control.openapi import Redirect, tells
from sextant.control.sessions import SignedInAs, set_session_cookie
from sextant.control.settings import OidcSettings
from sextant.store.sign_in import ATTEMPT_MS, OidcAttempt, OidcIdentity

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 1024 * 1024
KEEP_S = 3600.0
"""How long the provider's addresses and keys are kept; a key that is missing is looked for sooner."""
LOOK_AGAIN_S = 10.0
STATE_COOKIE = "sextant_oidc"
CALLBACK = "/v1/oidc/callback"


class ProviderAway(Retryable):
    """The identity provider does not answer, or not as one."""

    code = "oidc_unavailable"


class Discovered(msgspec.Struct, frozen=True):
    """A provider's discovery document, as far as it matters here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class OidcProvider:
    """One provider, its addresses and keys remembered."""

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._found: Discovered | None = None
        self._keys: KeySet | None = None
        self._found_s = self._keys_s = 0.0

    def authorize_url(self, state: str, attempt: OidcAttempt) -> str:
        """Where the browser is sent. Raises ProviderAway."""
        challenge = hashlib.sha256(attempt.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.settings.redirect_url,
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": attempt.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = self._discovered().authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    def identify(self, code: str, attempt: OidcAttempt) -> tuple[OidcIdentity, dict[str, Any]]:
        """Who has signed in there, and all that the provider says of them. Raises Unauthenticated,
        ProviderAway."""
        answer = self._exchange(code, attempt.verifier)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Unauthenticated("the provider gave no ID token; is `openid` among the scopes?")
        claims = self._checked(token, attempt)
        if "email" not in claims or self.settings.groups_claim not in claims:
            claims = {**self._userinfo(answer, str(claims["sub"])), **claims}
        identity = OidcIdentity(
            self.settings.issuer,
            str(claims["sub"]),
            str(claims.get("email", "")),
            claims.get("email_verified") is True,
            str(claims.get("name", "")),
        )
        return identity, claims

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.settings.redirect_url,
            "code_verifier": verifier,
        }
        found, auth = self._discovered(), None
        secret = resolve_secret(self.settings.client_secret_ref) if self.settings.client_secret_ref else ""
        if secret and "client_secret_basic" in found.token_endpoint_auth_methods_supported:
            auth = (self.settings.client_id, secret)
        else:
            form["client_id"] = self.settings.client_id
            form |= {"client_secret": secret} if secret else {}
        status, answer = self._ask("POST", found.token_endpoint, data=form, auth=auth)
        if status >= 500:
            raise ProviderAway(f"the identity provider answers {status} at its token endpoint")
        if status != 200:
            said = str(answer.get("error", status))[:60]
            raise Unauthenticated(f"the provider refuses the code: {said}", code="oidc_refused")
        return answer

    def _checked(self, token: str, attempt: OidcAttempt) -> dict[str, Any]:
        """A token signed with a key that we have not seen makes us look whether there is a new one."""
        expected = Expected(self.settings.issuer, self.settings.client_id, attempt.nonce)
        try:
            return checked_claims(token, self._key_set(KEEP_S), expected, time.time())
        except UnknownKey:
            return checked_claims(token, self._key_set(LOOK_AGAIN_S), expected, time.time())

    def _userinfo(self, answer: dict[str, Any], subject: str) -> dict[str, Any]:
        endpoint, token = self._discovered().userinfo_endpoint, answer.get("access_token")
        if not endpoint or not isinstance(token, str):
            return {}
        status, claims = self._ask("GET", endpoint, headers={"Authorization": f"Bearer {token}"})
        if status != 200:
            return {}
        if claims.get("sub") != subject:
            raise Unauthenticated("the provider's user information is somebody else's", code="oidc_refused")
        return claims

    def _discovered(self) -> Discovered:
        with self._lock:
            if self._found is None or time.monotonic() - self._found_s > KEEP_S:
                url = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
                status, answer = self._ask("GET", url)
                if status != 200:
                    raise ProviderAway(f"the identity provider answers {status} at {url}")
                self._found, self._found_s = _read_discovery(answer, self.settings.issuer), time.monotonic()
            return self._found

    def _key_set(self, keep_s: float) -> KeySet:
        uri = self._discovered().jwks_uri
        with self._lock:
            if self._keys is None or time.monotonic() - self._keys_s > keep_s:
                status, answer = self._ask("GET", uri)
                if status != 200:
                    raise ProviderAway(f"the identity provider answers {status} at {uri}")
                self._keys, self._keys_s = _read_keys(answer), time.monotonic()
            return self._keys

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of an answer. Raises ProviderAway."""
        try:
            with (
                httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False) as client,
                client.stream(method, url, **more) as answer,
            ):
                data = bytearray()
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > ANSWER_BYTES_MAX:
                        raise ProviderAway(f"the identity provider's answer at {url} is too long")
                status = answer.status_code
        except httpx2.HTTPError as error:
            raise ProviderAway(f"the identity provider does not answer at {url}: {error}") from None
        try:
            return status, msgspec.json.decode(bytes(data), type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return status if status != 200 else 502, {}


def add_oidc(app: FastAPI, office: Office, settings: OidcSettings) -> None:
    """Routes of signing in through the provider."""
    provider = OidcProvider(settings)

    @app.get("/v1/oidc/start")
    @tells(Redirect(303))
    def start() -> Response:
        """Sends the browser to the provider."""
        state = secrets.token_urlsafe(32)
        attempt = OidcAttempt(secrets.token_urlsafe(32), secrets.token_urlsafe(48))
        url = provider.authorize_url(state, attempt)
        office.accounts.begin_oidc(state, attempt)
        answer = RedirectResponse(url, 303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(
            STATE_COOKIE, state, max_age=ATTEMPT_MS // 1000, path=CALLBACK, secure=office.secure,
            httponly=True, samesite="lax",
        )  # fmt: skip
        return answer

    @app.get(CALLBACK)
    @tells(SignedInAs)
    def callback(
        request: Request,
        state: Annotated[str, Query(max_length=200)] = "",
        code: Annotated[str, Query(max_length=4000)] = "",
        error: Annotated[str, Query(max_length=200)] = "",
        iss: Annotated[str, Query(max_length=300)] = "",
    ) -> Response:
        """Where the provider sends the browser back: signs in, with a cookie."""
        bound = request.cookies.get(STATE_COOKIE, "")
        attempt = office.accounts.take_oidc(state) if state else None
        if attempt is None or not hmac.compare_digest(bound.encode(), state.encode()):
            raise Unauthenticated(
                "this sign-in was not begun in this browser, or has been used; begin again at /v1/oidc/start",
                code="oidc_refused",
            )
        if error or not code or iss not in ("", provider.settings.issuer):
            said = error if error.replace("_", "").isalnum() else "it sent no code of its own"
            raise Unauthenticated(f"the provider did not sign you in: {said}", code="oidc_refused")
        identity, claims = provider.identify(code, attempt)
        person = office.accounts.oidc_person(identity, granted(provider.settings, claims))
        person, secret = office.accounts.open_session(person.id, "cookie", "oidc")
        answer = json_answer(SignedInAs(person, csrf_token=csrf_token(secret)))
        set_session_cookie(answer, secret, secure=office.secure)
        answer.delete_cookie(STATE_COOKIE, path=CALLBACK)
        return answer


def granted(settings: OidcSettings, claims: dict[str, Any]) -> set[tuple[str, str]]:
    """The roles, with their tenants, that the groups in `claims` give by the document's mapping."""
    groups = claims.get(settings.groups_claim)
    names = groups if isinstance(groups, list) else [groups]
    return {(one.role, one.tenant_id) for one in settings.roles if one.group in names}


def _read_discovery(answer: dict[str, Any], issuer: str) -> Discovered:
    try:
        found = msgspec.convert(answer, Discovered)
    except msgspec.ValidationError as error:
        raise ProviderAway(f"the identity provider's discovery document is incomplete: {error}") from None
    if found.issuer != issuer:
        raise ProviderAway(
            f"the identity provider calls itself {found.issuer[:200]!r}; "
            f"expected spec.control.oidc.issuer, {issuer!r}"
        )
    for url in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.userinfo_endpoint):
        if url and urlsplit(url).scheme != "https" and not issuer.startswith("http://"):
            raise ProviderAway(f"the identity provider names an address without TLS: {url[:200]}")
    return found


def _read_keys(answer: dict[str, Any]) -> KeySet:
    """Keys that we do not know the type of, and those for encryption, are left out."""
    usable = []
    for key in answer.get("keys", []):
        try:
            if isinstance(key, dict) and key.get("use", "sig") == "sig" and key.get("kty") != "oct":
                usable += KeySet.import_key_set({"keys": [key]}).keys
        except (JoseError, ValueError):
            continue
    if not usable:
        raise ProviderAway("the identity provider publishes no key that can be used")
    return KeySet(usable)
