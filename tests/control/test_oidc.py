"""Signing in through a real OpenID Connect provider, and everything that must not sign anybody in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from control_under_test import Control
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from oidc_provider import CLIENT_ID, CLIENT_SECRET, Claims, Provider, serving_provider
from starlette.testclient import TestClient

from sextant.control.oidc import granted
from sextant.control.settings import GroupRole, OidcSettings
from sextant.store.accounts_people import NewPerson

REDIRECT_URL = "http://testserver/v1/oidc/callback"
ROLES = (
    GroupRole("ops", "operator"),
    GroupRole("acme-staff", "member", "acme"),
    GroupRole("gone-staff", "member", "gone"),
)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    # Authlib's provider speaks only TLS unless told; ours is on loopback.
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    with serving_provider(REDIRECT_URL) as made:
        yield made


@pytest.fixture
def control(tmp_path: Path, provider: Provider) -> Iterator[Control]:
    secret = tmp_path / "client-secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    oidc = OidcSettings(provider.issuer, CLIENT_ID, REDIRECT_URL, f"file:{secret}", roles=ROLES)
    made = Control(tmp_path, oidc=oidc)
    made.accounts.create_tenant("acme")
    yield made
    made.close()


def begun(client: TestClient) -> str:
    """Begins a sign-in; where the provider then sends the browser."""
    start = client.get("/v1/oidc/start")
    assert start.status_code == 303, start.text
    sent = httpx2.get(start.headers["location"])
    assert sent.status_code == 302, sent.text
    return sent.headers["location"]


def signed_in(control: Control) -> TestClient:
    client = control.without()
    answer = client.get(begun(client))
    assert answer.status_code == 200, answer.text
    return client


def test_a_first_sign_in_makes_the_person_with_the_roles_of_their_groups(
    control: Control, provider: Provider
) -> None:
    provider.user["groups"] = ["ops", "acme-staff", "gone-staff", "unknown"]
    client = signed_in(control)
    seen = client.get("/v1/me").json()
    assert seen["person"]["email"] == "ann@example.com"
    assert {(one["role"], one["tenant_id"], one["source"]) for one in seen["grants"]} == {
        ("operator", "", "oidc"),
        ("member", "acme", "oidc"),
    }
    assert client.get("/v1/keys").status_code == 200
    assert client.get("/v1/sign-in").json() == {"password": True, "oidc": True}


def test_a_later_sign_in_is_the_same_person_with_the_roles_of_today(
    control: Control, provider: Provider
) -> None:
    first = signed_in(control).get("/v1/me").json()
    control.accounts.grant_role(first["person"]["id"], "auditor", tenant_id="acme")
    provider.user |= {"email": "ann.new@example.com", "groups": ["acme-staff"]}
    later = signed_in(control).get("/v1/me").json()
    assert later["person"]["id"] == first["person"]["id"]
    assert {(one["role"], one["source"]) for one in later["grants"]} == {
        ("auditor", "local"),
        ("member", "oidc"),
    }


def test_the_request_carries_pkce_state_and_nonce(control: Control) -> None:
    client = control.without()
    start = client.get("/v1/oidc/start")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(start.headers["location"]).query).items()}
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert len(asked["nonce"]) >= 32
    assert len(asked["state"]) >= 32
    cookie = start.headers["set-cookie"]
    assert asked["state"] in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


def test_the_providers_keys_may_change(control: Control, provider: Provider) -> None:
    signed_in(control)
    fetched = provider.key_fetches
    signed_in(control)
    assert provider.key_fetches == fetched, "keys are remembered"
    provider.rotate()
    monotonic = time.monotonic() + 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sextant.control.oidc.time.monotonic", lambda: monotonic)
        signed_in(control)
    assert provider.key_fetches == fetched + 1


def refuse(control: Control, words: str, location: str = "", client: TestClient | None = None) -> None:
    """A callback that signs nobody in, and says why."""
    client = control.without() if client is None else client
    answer = client.get(location or begun(client))
    assert answer.status_code == 401, answer.text
    assert words in answer.json()["error"]["message"]
    assert "sextant=" not in answer.headers.get("set-cookie", "")
    assert control.accounts.list_people() == []


BAD_CLAIMS: list[tuple[str, dict[str, Any]]] = [
    ("nonce", {"nonce": "another"}),
    ("nonce", {"nonce": None}),
    ("issued by somebody else", {"iss": "https://evil.example"}),
    ("another program", {"aud": ["somebody-else"]}),
    ("another program", {"aud": None}),
    ("another program's request", {"aud": [CLIENT_ID, "other"]}),
    ("another program's request", {"azp": "other"}),
    ("expired", {"exp": 1_600_000_000}),
    ("future", {"iat": 4_000_000_000}),
    ("too old", {"iat": 1_600_000_000}),
    ("times", {"exp": "tomorrow"}),
    ("times", {"exp": None}),
    ("subject", {"sub": ""}),
    ("subject", {"sub": 7}),
]


@pytest.mark.parametrize(("words", "changes"), BAD_CLAIMS, ids=lambda one: str(one)[:40])
def test_a_wrong_claim_signs_nobody_in(
    control: Control, provider: Provider, words: str, changes: dict[str, Any]
) -> None:
    def twisted(claims: Claims) -> Claims:
        return {name: value for name, value in (claims | changes).items() if value is not None}

    provider.twist = twisted
    refuse(control, words)


def stranger(claims: Claims) -> str:
    """Signed by somebody who calls his key by the provider's name."""
    return jwt.encode({"alg": "RS256", "kid": "key-1"}, claims, RSAKey.generate_key(2048))


def unpublished(claims: Claims) -> str:
    return jwt.encode({"alg": "RS256", "kid": "x"}, claims, RSAKey.generate_key(2048))


def by_client_secret(claims: Claims) -> str:
    return jwt.encode({"alg": "HS256", "kid": "key-1"}, claims, OctKey.import_key(CLIENT_SECRET), ["HS256"])


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        ("signed with 'none'", None),
        ("signature", stranger),
        ("signed with 'HS256'", by_client_secret),
        ("no JSON Web Token", lambda _claims: "garbage"),
        ("no JSON Web Token", lambda _claims: "W10.e30.x"),
        ("not published", unpublished),
    ],
    ids=["none", "stranger", "client secret", "garbage", "list", "unknown key"],
)
def test_a_wrong_signature_signs_nobody_in(
    control: Control, provider: Provider, words: str, sign: Callable[[Claims], str] | None
) -> None:
    provider.sign = provider.unsigned if sign is None else sign
    refuse(control, words)


def test_a_callback_works_once(control: Control) -> None:
    client = control.without()
    location = begun(client)
    assert client.get(location).status_code == 200
    again = client.get(location)
    assert again.status_code == 401
    assert "has been used" in again.json()["error"]["message"]


def test_a_code_works_once(control: Control, provider: Provider) -> None:
    """A code that was used is refused by the provider, also with a state that is fresh."""
    client = control.without()
    code = parse_qs(urlsplit(begun(client)).query)["code"][0]
    location = begun(client)
    provider.codes.pop(code)
    state = parse_qs(urlsplit(location).query)["state"][0]
    refuse(control, "refuses the code: invalid_grant", f"/v1/oidc/callback?state={state}&code={code}", client)


def test_a_code_for_another_sign_in_fails_at_its_verifier(control: Control) -> None:
    """A stolen code is of no use in a sign-in of the thief's: PKCE."""
    victim, thief = control.without(), control.without()
    stolen = parse_qs(urlsplit(begun(victim)).query)["code"][0]
    state = parse_qs(urlsplit(begun(thief)).query)["state"][0]
    refuse(control, "refuses the code", f"/v1/oidc/callback?state={state}&code={stolen}", thief)


def test_nobody_is_signed_in_by_anothers_link(control: Control) -> None:
    refuse(control, "not begun in this browser", begun(control.without()), control.without())


@pytest.mark.parametrize("query", ["", "?state=x&code=y", "?code=y", "?state=%F0%9F%98%80&code=y"])
def test_a_callback_out_of_nothing_is_refused(control: Control, query: str) -> None:
    refuse(control, "not begun in this browser", f"/v1/oidc/callback{query}")


def test_the_providers_refusal_is_told_without_its_words(control: Control) -> None:
    for error, words in (("access_denied", "access_denied"), ("<script>", "no code of its own")):
        client = control.without()
        state = parse_qs(urlsplit(begun(client)).query)["state"][0]
        refuse(control, words, f"/v1/oidc/callback?state={state}&error={error}", client)


def test_an_answer_of_another_issuer_is_refused(control: Control) -> None:
    client = control.without()
    refuse(control, "did not sign you in", f"{begun(client)}&iss=https://evil.example", client)


def test_an_address_that_is_someones_is_not_taken_over(control: Control, provider: Provider) -> None:
    """Nobody becomes the owner by calling himself so at the provider."""
    accounts = control.accounts
    hashed = accounts.passwords.hash("correct horse battery")
    accounts.create_person(NewPerson("ann@example.com", "Ann", hashed, "owner"))
    client = control.without()
    answer = client.get(begun(client))
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "person_exists"


def test_an_invited_address_is_attached_only_when_it_is_verified(
    control: Control, provider: Provider
) -> None:
    invited = control.accounts.create_person(NewPerson("ann@example.com", "Ann", "", "auditor"))
    provider.user["email_verified"] = False
    client = control.without()
    assert client.get(begun(client)).status_code == 403
    provider.user["email_verified"] = True
    assert signed_in(control).get("/v1/me").json()["person"]["id"] == invited.id


def test_someone_switched_off_stays_out(control: Control) -> None:
    person = signed_in(control).get("/v1/me").json()["person"]["id"]
    control.accounts.set_person(person, enabled=False)
    client = control.without()
    answer = client.get(begun(client))
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "person_disabled"


def test_a_provider_that_is_away_is_503(control: Control, provider: Provider) -> None:
    provider.issuer = "http://127.0.0.1:1"
    answer = control.without().get("/v1/oidc/start")
    assert answer.status_code == 503
    assert "calls itself" in answer.json()["error"]["message"]


def test_without_a_provider_there_is_no_such_way(tmp_path: Path) -> None:
    control = Control(tmp_path)
    assert control.without().get("/v1/oidc/start").status_code == 404
    assert control.without().get("/v1/sign-in").json() == {"password": True, "oidc": False}
    control.close()


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["ops"], {("operator", "")}),
        ("ops", {("operator", "")}),
        (None, set()),
        ({"ops": 1}, set()),
        ([["ops"], 7], set()),
    ],
)
def test_groups_of_any_shape_are_read(groups: object, expected: set[tuple[str, str]]) -> None:
    settings = OidcSettings("https://id.example", "x", "https://x", roles=ROLES)
    assert granted(settings, {"groups": groups}) == expected
