"""Signing in to the admin API: bearer, cookie and its CSRF token, lock-out, one's own password and page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_under_test import Control, control_with_ledger

from sextant.control.door import cookie_name, csrf_token
from sextant.control.settings import ControlSettings
from sextant.spec.snapshot import TlsFiles
from sextant.store.accounts_database import Page
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_tenants import TenantChange

EMAIL = "ann@example.com"
PASSWORD = "correct horse battery"


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with control_with_ledger(tmp_path) as made:
        made.accounts.create_tenant("acme", TenantChange(billing="prepaid", plan="standard"))
        hashed = made.accounts.passwords.hash(PASSWORD)
        made.accounts.create_person(NewPerson(EMAIL, "Ann", hashed, "owner", "acme"))
        yield made


def signed_in(control: Control, **more: object) -> dict[str, str]:
    answer = control.without().post("/v1/session", json={"email": EMAIL, "password": PASSWORD, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_bearer_session_works_until_it_is_closed(control: Control) -> None:
    client = control.with_token(signed_in(control)["token"])
    assert client.get("/v1/session").json()["name"] == "Ann"
    assert client.post("/v1/keys", json={"tenant_id": "acme"}).status_code == 201
    assert control.accounts.list_audit(Page(1))[0].actor.startswith("person:")
    assert client.delete("/v1/session").json() == {"signed_out": True}
    assert client.get("/v1/session").status_code == 401


def test_a_cookie_needs_its_pages_token_for_every_change(control: Control) -> None:
    client = control.without()
    signed = client.post("/v1/session", json={"email": EMAIL, "password": PASSWORD, "cookie": True})
    assert "token" not in signed.json()
    cookie = signed.headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=lax", "Path=/"):
        assert attribute in cookie
    token = client.get("/v1/session").json()["csrf_token"]
    assert token == signed.json()["csrf_token"]
    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": ""}):
        refused = client.post("/v1/keys", json={"tenant_id": "acme"}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "csrf")
    sent = {"X-CSRF-Token": token}
    assert client.post("/v1/keys", json={"tenant_id": "acme"}, headers=sent).status_code == 201
    assert client.delete("/v1/session", headers=sent).status_code == 200
    assert client.get("/v1/session").status_code == 401


def test_a_session_is_used_the_way_it_was_made(control: Control) -> None:
    """A cookie's secret as a bearer token would go round the check of its page's token."""
    client = control.without()
    client.post("/v1/session", json={"email": EMAIL, "password": PASSWORD, "cookie": True})
    assert control.with_token(client.cookies["sextant"]).get("/v1/me").status_code == 401
    bearer = signed_in(control)["token"]
    other = control.without()
    other.cookies.set("sextant", bearer)
    assert other.get("/v1/me").status_code == 401


@pytest.mark.parametrize("form", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_no_form_of_another_site_signs_a_browser_in(control: Control, form: str) -> None:
    body = b'{"email": "ann@example.com", "password": "correct horse battery", "cookie": true}'
    headers = {"content-type": form} if form else {}
    answer = control.without().post("/v1/session", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf")
    assert "set-cookie" not in answer.headers


def test_under_tls_the_cookie_is_this_hosts_alone(tmp_path: Path) -> None:
    control = Control(tmp_path, tls=TlsFiles("cert", "key"))
    control.accounts.create_person(NewPerson(EMAIL, "Ann", control.accounts.passwords.hash(PASSWORD)))
    given = {"email": EMAIL, "password": PASSWORD, "cookie": True}
    cookie = control.without().post("/v1/session", json=given).headers["set-cookie"]
    assert cookie.startswith(f"{cookie_name(True)}=")
    assert "Secure" in cookie
    control.close()


@pytest.mark.parametrize("header", ["Cookie", "X-Other"])
def test_a_broken_cookie_is_no_credential(control: Control, header: str) -> None:
    for value in ("sextant=", "sextant=sxsession-wrong", "sextant", "=;;;", 'sextant="\\'):
        assert control.without().get("/v1/me", headers={header: value}).status_code == 401


def test_too_many_wrong_passwords_are_429(control: Control) -> None:
    client = control.without()
    wrong = {"email": EMAIL, "password": "wrong"}
    answers = [client.post("/v1/session", json=wrong) for _ in range(6)]
    assert [one.status_code for one in answers] == [401] * 5 + [429]
    assert answers[0].json()["error"]["code"] == "wrong_password"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 30


def test_ones_own_password_is_changed_with_the_present_one(control: Control) -> None:
    client = control.with_token(signed_in(control)["token"])
    wrong = client.post("/v1/me/password", json={"present": "wrong", "new": "another long password"})
    assert wrong.status_code == 401
    short = client.post("/v1/me/password", json={"present": PASSWORD, "new": "short"})
    assert (short.status_code, short.json()["error"]["param"]) == (400, "password")
    changed = client.post("/v1/me/password", json={"present": PASSWORD, "new": "another long password"})
    assert changed.status_code == 200
    assert client.get("/v1/me").status_code == 401, "every session has ended"
    again = {"email": EMAIL, "password": "another long password"}
    assert control.without().post("/v1/session", json=again).status_code == 201
    assert control.client.post("/v1/me/password", json={"present": "x", "new": PASSWORD}).status_code == 403


def test_ones_own_page_tells_how_ones_tenants_stand(control: Control) -> None:
    control.accounts.create_tenant("sina", TenantChange(billing="prepaid", plan="standard-cny"))
    person = control.accounts.list_people()[0]
    control.accounts.grant_role(person.id, "member", tenant_id="sina")
    control.client.post("/v1/tenants/sina/top-ups", json={"amount_nano": 5 * 10**9})
    seen = control.with_token(signed_in(control)["token"]).get("/v1/me").json()
    assert [(one["role"], one["tenant_id"]) for one in seen["grants"]] == [
        ("owner", "acme"),
        ("member", "sina"),
    ]
    acme, sina = seen["tenants"]
    assert (acme["id"], acme["billing"], acme["currency"]) == ("acme", "prepaid", "USD")
    assert (sina["currency"], sina["standing"]["funds_nano"]) == ("CNY", 5 * 10**9)


def test_ones_own_page_is_there_while_the_ledger_is_away(tmp_path: Path) -> None:
    control = Control(tmp_path)
    seen = control.client.get("/v1/me").json()
    assert [(one["id"], one["standing"]) for one in seen["tenants"]] == [("default", None)]
    control.close()


def test_a_csrf_token_is_of_its_session() -> None:
    assert csrf_token("a") != csrf_token("b")
    assert "a" * 20 not in csrf_token("a" * 20)


def test_settings_name_the_secrets_that_control_needs() -> None:
    plain = ControlSettings("h", 1, "a", "l", "p", "r", "s")
    assert plain.secret_refs == (None, None, None)
