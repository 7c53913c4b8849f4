"""Every route of the admin API x two tenants x every role: who may, who may not, and who sees nothing.

A route without a declared permission fails, and so does one that no sample here calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_under_test import Control, control_with_ledger
from fastapi import FastAPI
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from sextant.control.access import Allowed, Needs
from sextant.control.door import OPEN
from sextant.control.openapi import describe
from sextant.control.permissions import ROLE_VERBS, may
from sextant.control.settings import AgreementSettings, PortalSettings
from sextant.spec.roles import ROLES
from sextant.spec.transfer import CREDIT, Transfer, receivable_account
from sextant.store.accounts_invitations import GIVES, NewInvitation
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_tenants import ProjectChange, TenantChange
from sextant.store.budgets import BudgetBook, BudgetTerms
from sextant.store.ledger_posting import LedgerPosting

MARK = "lilou"
"""Stands in every name and id of the other tenant, and nowhere else: generated ids have no l, i, o or u."""
PASSWORD = "correct horse battery"
VERSION = "2026-11"
"""Of the agreement."""
TOLD_TO_ALL = ("wrong", "oidc", "invitation_refused", "sign_up_closed", "What is agreed.")
"""Words of the answers without a credential, each of which shows that a route did its own work."""
EACH_ROLE = [
    role if role in ("owner", "member") else pytest.param(role, marks=pytest.mark.slow) for role in ROLES
]
"""Half a second each: `make test-fast` is content with the most that a role may, and the least."""

SAMPLES: dict[tuple[str, str], Any] = {
    ("GET", "/health"): None,
    ("GET", "/metrics"): None,
    ("GET", "/v1/status"): None,
    ("GET", "/v1/models"): None,
    ("GET", "/v1/sign-in"): None,
    ("GET", "/v1/session"): None,
    ("POST", "/v1/session"): {"email": "nobody@example.com", "password": "wrong"},
    ("DELETE", "/v1/session"): None,
    ("GET", "/v1/me"): None,
    ("POST", "/v1/me/password"): {"present": "x", "new": PASSWORD},
    ("POST", "/v1/me/invitations"): {"token": "sxinvite-nobodys"},
    ("GET", "/v1/invitations"): None,
    ("POST", "/v1/invitations"): {
        "email": "invited@{tenant}.example",
        "role": "member",
        "tenant_id": "{tenant}",
    },
    ("DELETE", "/v1/invitations/{invitation_id}"): None,
    ("POST", "/v1/invitations/redeem"): {
        "token": "sxinvite-wrong",
        "email": "nobody@example.com",
        "password": PASSWORD,
    },
    ("GET", "/v1/tenants"): None,
    ("POST", "/v1/tenants"): {"id": "fresh"},
    ("GET", "/v1/tenants/{tenant_id}"): None,
    ("PATCH", "/v1/tenants/{tenant_id}"): {"name": "renamed"},
    ("DELETE", "/v1/tenants/{tenant_id}"): None,
    ("GET", "/v1/tenants/{tenant_id}/balance"): None,
    ("GET", "/v1/tenants/{tenant_id}/models"): None,
    ("POST", "/v1/tenants/{tenant_id}/top-ups"): {"amount_nano": 1_000_000_000},
    ("POST", "/v1/tenants/{tenant_id}/payments"): {"amount_nano": 1},
    ("POST", "/v1/tenants/{tenant_id}/refunds"): {"amount_nano": 1},
    ("POST", "/v1/tenants/{tenant_id}/credits"): {"amount_nano": 1},
    ("POST", "/v1/tenants/{tenant_id}/adjustments"): {"amount_nano": -1, "note": "typo"},
    ("POST", "/v1/tenants/{tenant_id}/packages"): {"face_nano": 2_000_000_000},
    ("GET", "/v1/projects"): None,
    ("POST", "/v1/projects"): {"tenant_id": "{tenant}", "name": "another"},
    ("GET", "/v1/projects/{project_id}"): None,
    ("PATCH", "/v1/projects/{project_id}"): {"name": "renamed"},
    ("DELETE", "/v1/projects/{project_id}"): None,
    ("GET", "/v1/keys"): None,
    ("POST", "/v1/keys"): {"tenant_id": "{tenant}", "name": "another"},
    ("GET", "/v1/keys/{key_id}"): None,
    ("PATCH", "/v1/keys/{key_id}"): {"name": "renamed"},
    ("POST", "/v1/keys/{key_id}/rotate"): {"overlap_hours": 1},
    ("DELETE", "/v1/keys/{key_id}"): None,
    ("GET", "/v1/tiers"): None,
    ("GET", "/v1/tiers/{tier_id}"): None,
    ("PUT", "/v1/tiers/{tier_id}"): {"id": "{tier}"},
    ("GET", "/v1/plans"): None,
    ("GET", "/v1/plans/{plan_id}"): None,
    ("PUT", "/v1/plans/{plan_id}"): {"currency": "{currency}"},
    ("POST", "/v1/plans/{plan_id}/prices"): {
        "model": "m",
        "input_nano_per_mtok": 1,
        "cached_nano_per_mtok": 1,
        "output_nano_per_mtok": 1,
        "reasoning_nano_per_mtok": 1,
    },
    ("GET", "/v1/usage"): None,
    ("GET", "/v1/usage.csv"): None,
    ("GET", "/v1/invoices/{tenant_id}/{month}"): None,
    ("POST", "/v1/invoices/{tenant_id}/{month}/sla-credit"): None,
    ("GET", "/v1/budgets"): None,
    ("POST", "/v1/budgets"): {"scope": "tenant:{tenant}", "amount_nano": 1, "emails": ["a@example.com"]},
    ("GET", "/v1/budgets/{budget_id}"): None,
    ("DELETE", "/v1/budgets/{budget_id}"): None,
    ("GET", "/v1/sites"): None,
    ("POST", "/v1/sites"): {"id": "fresh", "tenants": {"default": "{tenant}"}},
    ("GET", "/v1/sites/{site_id}"): None,
    ("PATCH", "/v1/sites/{site_id}"): {"tenants": {"default": "{tenant}"}},
    ("POST", "/v1/sites/{site_id}/credential"): None,
    ("DELETE", "/v1/sites/{site_id}/credential"): None,
    ("POST", "/v1/sites/{site_id}/usage"): {"after_id": "", "rows": []},
    ("GET", "/v1/people"): None,
    ("POST", "/v1/people"): {
        "email": "another@{tenant}.example",
        "name": "another",
        "role": "member",
        "tenant_id": "{tenant}",
    },
    ("GET", "/v1/people/{person_id}"): None,
    ("PATCH", "/v1/people/{person_id}"): {"name": "renamed"},
    ("DELETE", "/v1/people/{person_id}"): None,
    ("GET", "/v1/grants"): None,
    ("POST", "/v1/grants"): {"person_id": "{person}", "role": "auditor", "tenant_id": "{tenant}"},
    ("DELETE", "/v1/grants/{grant_id}"): None,
    ("GET", "/v1/service-tokens"): None,
    ("POST", "/v1/service-tokens"): {"name": "another", "role": "member", "tenant_id": "{tenant}"},
    ("DELETE", "/v1/service-tokens/{token_id}"): None,
    ("GET", "/v1/audit"): None,
    ("GET", "/v1/portal"): None,
    ("GET", "/v1/portal/agreement"): None,
    ("POST", "/v1/sign-ups"): {"email": "stranger@example.com", "name": "Stranger"},
    ("POST", "/v1/sign-ups/confirmations"): {"token": "sxsignup-wrong", "password": PASSWORD},
    ("GET", "/v1/agreements"): None,
    ("GET", "/v1/agreements/{version}/acceptances"): None,
    ("POST", "/v1/agreements/{version}/acceptances"): {"tenant_id": "{tenant}"},
}
"""One right request of each route; `{names}` are those of the tenant that is called on."""
ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")


class World:
    """Two tenants that have one of everything, `acme` and `liloubeta`."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.names = {tenant: self._fill(tenant) for tenant in ("acme", f"{MARK}beta")}
        control.write_status()

    def _owe(self, tenant: str) -> None:
        """A debt from when it was postpaid, which a payment is for."""
        currency = self.control.accounts.tenant(tenant).currency
        sides = receivable_account(tenant), CREDIT
        debt = Transfer(f"debt-{tenant}", "adjustment", *sides, 10**9, currency, time.time_ns() // 1_000_000)
        LedgerPosting(self.control.settings.ledger_socket).post([debt])

    def _fill(self, tenant: str) -> dict[str, str]:
        accounts, prefix = self.control.accounts, tenant[:5]
        plan = "standard" if tenant == "acme" else f"{MARK}plan"
        if plan != "standard":
            accounts.put_tier(_tier(f"{MARK}tier"))
            self.control.client.put(f"/v1/plans/{plan}", json={"currency": "CNY"}).raise_for_status()
        tier = "free" if tenant == "acme" else f"{MARK}tier"
        accounts.create_tenant(tenant, TenantChange(tier=tier, plan=plan, billing="prepaid"))
        project = accounts.create_project(
            tenant, ProjectChange(name=f"{prefix}project"), project_id=f"{prefix}project"
        )
        key, _ = accounts.create_key(tenant, f"{prefix}key")
        person = accounts.create_person(
            NewPerson(f"{prefix}@example.com", f"{prefix}person", "", "member", tenant)
        )
        token, _ = accounts.create_service_token(f"{prefix}token", "auditor", tenant_id=tenant)
        topped = self.control.client.post(f"/v1/tenants/{tenant}/top-ups", json={"amount_nano": 10**9})
        assert topped.status_code == 201, topped.text
        self._owe(tenant)
        terms = BudgetTerms(f"tenant:{tenant}", 1, f"{prefix}budget", emails=("a@example.com",))
        return {
            "budget": BudgetBook(accounts.engine).create(tenant, terms)[0].id,
            "tenant": tenant,
            "tier": tier,
            "plan": plan,
            "currency": "USD" if plan == "standard" else "CNY",
            "project": project.id,
            "key": key.id,
            "person": person.id,
            "grant": person.grants[0].id,
            "token": token.id,
            "site": accounts.create_site(f"{prefix}site")[0].id,
            "invitation": accounts.invite(
                NewInvitation(f"{prefix}new@example.com", "member", tenant), mailed=False
            ).record.id,
        }

    def absent(self) -> dict[str, str]:
        """Names of a tenant that has none of it."""
        one = self.names["acme"]
        chosen = ("tenant", "tier", "plan", "project", "site")
        return {
            name: f"absent-{name}" if name in chosen else f"{value[:-4]}0000" for name, value in one.items()
        } | {"currency": "USD"}


def _tier(tier_id: str) -> Any:
    from sextant.spec.policy import TierPolicy

    return TierPolicy(tier_id)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    text = tmp_path / "agreement.md"
    text.write_text("What is agreed.")
    agreement = AgreementSettings(str(text), VERSION, required=False)
    with control_with_ledger(tmp_path, portal=PortalSettings(agreement=agreement)) as control:
        yield World(control)


def routes(control: Control) -> list[tuple[str, str, Needs | None]]:
    """Every route with its permission (None: it needs no credential), reads first and ends last."""
    found: list[tuple[str, str, Needs | None]] = []
    app = control.door.app
    for route in app.routes:
        if not isinstance(route, APIRoute):
            assert route.path == "/openapi.json", f"{route} is no route of ours"
            continue
        needs = [one.call for one in route.dependant.dependencies if isinstance(one.call, Needs)]
        for method in sorted(route.methods):
            open_to_all = (method, route.path) in OPEN
            assert len(needs) == (0 if open_to_all else 1), f"{method} {route.path} declares no permission"
            found.append((method, route.path, needs[0] if needs else None))
    assert {(method, path) for method, path, _ in found} == set(SAMPLES), (
        "a route and its sample belong together"
    )
    return sorted(found, key=lambda one: (ORDER.index(one[0]), one[1] == "/v1/tenants/{tenant_id}", one[1]))


def call(client: TestClient, method: str, path: str, names: dict[str, str]) -> httpx.Response:
    """The sample request of a route, with these names."""
    target = path.replace("{month}", "2026-11").replace("{version}", VERSION)
    for name in (
        "tenant",
        "project",
        "key",
        "tier",
        "plan",
        "person",
        "grant",
        "token",
        "budget",
        "invitation",
        "site",
    ):
        target = target.replace(f"{{{name}_id}}", names[name])
    return client.request(method, target, json=_filled(SAMPLES[method, path], names))


def _filled(body: Any, names: dict[str, str]) -> Any:
    if isinstance(body, dict):
        return {name: _filled(value, names) for name, value in body.items()}
    if isinstance(body, str):
        for name, value in names.items():
            body = body.replace(f"{{{name}}}", value)
    return body


def names_a_record(method: str, path: str) -> bool:
    """Whether the request is about one tenant's record."""
    theirs = path.replace("{tier_id}", "").replace("{plan_id}", "").replace("{version}", "")
    return "{" in theirs or "{tenant}" in str(SAMPLES[method, path])


def test_without_a_credential_only_the_ways_in_answer(world: World) -> None:
    client = world.control.without()
    for method, path, needs in routes(world.control):
        answer = call(client, method, path, world.names["acme"])
        if needs is not None:
            assert answer.status_code == 401, f"{method} {path}: {answer.text}"
            assert MARK not in answer.text
        else:
            assert answer.status_code in (200, 401, 403), f"{method} {path}: {answer.text}"
            assert any(one in answer.text for one in TOLD_TO_ALL), f"{method} {path}: {answer.text}"


def test_without_a_role_nothing_but_oneself_is_seen(world: World) -> None:
    accounts = world.control.accounts
    hashed = accounts.passwords.hash(PASSWORD)
    accounts.create_person(NewPerson("guest@example.com", "Guest", hashed))
    _, secret = accounts.sign_in("guest@example.com", PASSWORD, "bearer")
    client = world.control.with_token(secret)
    for method, path, needs in routes(world.control):
        if needs is not None and needs.noun is not None:
            answer = call(client, method, path, world.names["acme"])
            assert answer.status_code == 403, f"{method} {path}: {answer.text}"
    assert client.get("/v1/me").json()["tenants"] == []


@pytest.mark.parametrize("role", EACH_ROLE)
def test_within_ones_own_tenant_the_table_decides(world: World, role: str) -> None:
    client = world.control.token(role, "acme")
    for method, path, needs in routes(world.control):
        if needs is None or needs.noun is None:
            continue
        answer = call(client, method, path, world.names["acme"])
        allowed = may(role, needs.verb, needs.noun) and not needs.deployment
        expected = (200, 201) if allowed else (403,)
        assert answer.status_code in expected, f"{role}: {method} {path}: {answer.status_code} {answer.text}"
        assert MARK not in answer.text, f"{role}: {method} {path} shows the other tenant: {answer.text}"


@pytest.mark.parametrize("role", EACH_ROLE)
def test_anothers_records_are_as_if_there_were_none(world: World, role: str) -> None:
    """The answer for another tenant's record is that for one which does not exist, word for word."""
    client = world.control.token(role, "acme")
    other, absent = world.names[f"{MARK}beta"], world.absent()
    before = world.control.accounts.policy_snapshot()
    for method, path, needs in routes(world.control):
        if needs is None or needs.noun is None or not names_a_record(method, path):
            continue
        told = call(client, method, path, other)
        expected = call(client, method, path, absent)
        allowed = may(role, needs.verb, needs.noun) and not needs.deployment
        assert told.status_code == (404 if allowed else 403), f"{role}: {method} {path}: {told.text}"
        assert anonymous(told, other) == anonymous(expected, absent), f"{role}: {method} {path}"
    assert world.control.accounts.policy_snapshot() == before
    seen = [client.get("/v1/people"), client.get("/v1/service-tokens"), client.get("/v1/audit")]
    assert all(MARK not in answer.text for answer in seen)


def anonymous(answer: httpx.Response, names: dict[str, str]) -> tuple[int, str]:
    """Status and words of an answer, without the names that the request had."""
    text = answer.text
    for value in sorted(names.values(), key=len, reverse=True):
        text = text.replace(value, "NAME")
    return answer.status_code, text


@pytest.mark.parametrize("role", EACH_ROLE)
def test_a_role_of_the_deployment_reaches_every_tenant(world: World, role: str) -> None:
    client = world.control.token(role)
    for method, path, needs in routes(world.control):
        if needs is None or needs.noun is None:
            continue
        answer = call(client, method, path, world.names[f"{MARK}beta"])
        expected = (200, 201) if may(role, needs.verb, needs.noun) else (403,)
        assert answer.status_code in expected, f"{role}: {method} {path}: {answer.status_code} {answer.text}"


def strict(schema: Any) -> Any:
    """`schema`, in which objects have the fields that it names and no others."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: strict(value) for name, value in schema.items()}
    return kept | {"additionalProperties": False} if "properties" in kept else kept


def checked_by(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**strict(schema), "components": strict(document["components"])})


def test_bodies_and_answers_are_as_the_description_says(world: World) -> None:
    """Every route of it, with the credential of an owner, the refusals too."""
    client, names = world.control.client, world.names["acme"]
    document = client.get("/openapi.json").json()
    seen = 0
    for method, path, _ in routes(world.control):
        told = document["paths"][path][method.lower()]
        body = _filled(SAMPLES[method, path], names)
        assert ("requestBody" in told) == (body is not None), f"{method} {path}"
        if body is not None:
            schema = told["requestBody"]["content"]["application/json"]["schema"]
            checked_by(document, schema).validate(body)
        answer = call(client, method, path, names)
        named = told["responses"].get(str(answer.status_code))
        assert named is not None or answer.status_code >= 400, f"{method} {path}: {answer.status_code}"
        content = (named or told["responses"]["default"])["content"]
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in content, f"{method} {path}: {media_type}"
        if media_type == "application/json":
            checked_by(document, content[media_type]["schema"]).validate(answer.json())
            seen += answer.status_code < 400
    assert seen > len(SAMPLES) - 12, "nearly all answered as asked"


def test_a_route_that_does_not_say_what_it_answers_is_found(tmp_path: Path) -> None:
    app = FastAPI()
    app.get("/v1/silent")(lambda: None)
    with pytest.raises(LookupError, match="/v1/silent: says not what it answers"):
        describe(app)()


def test_an_answer_with_a_field_too_many_is_found(world: World) -> None:
    document = world.control.client.get("/openapi.json").json()
    content = document["paths"]["/v1/tenants/{tenant_id}"]["get"]["responses"]["200"]["content"]
    validator = checked_by(document, content["application/json"]["schema"])
    answer = world.control.client.get("/v1/tenants/acme").json()
    assert validator.is_valid(answer)
    assert not validator.is_valid(answer | {"secret": "x"})
    assert not validator.is_valid({name: value for name, value in answer.items() if name != "enabled"})


def test_a_route_that_forgets_the_tenant_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Allowed, "require", lambda *_args, **_named: None)
    with pytest.raises(AssertionError, match="/v1/budgets"):
        test_anothers_records_are_as_if_there_were_none(world, "auditor")


def test_every_role_has_a_row_and_nobody_else() -> None:
    assert set(ROLE_VERBS) == set(ROLES)
    assert not may("stranger", "read", "key")
    assert not may("auditor", "write", "key")


def test_nobody_gives_a_role_that_may_more_than_his_own() -> None:
    assert set(GIVES) == {role for role in ROLES if may(role, "write", "invitation")}
    for giver, given in GIVES.items():
        for role in given:
            for noun, verbs in ROLE_VERBS[role].items():
                assert set(verbs) <= set(ROLE_VERBS[giver].get(noun, ())), f"{giver} gives {role}: {noun}"


def test_a_role_elsewhere_does_not_reach_here(world: World) -> None:
    """A member here who owns another tenant is told that the role does not allow it: the record is seen."""
    accounts = world.control.accounts
    person = accounts.create_person(
        NewPerson("two@example.com", "Two", accounts.passwords.hash(PASSWORD), "owner", "acme")
    )
    accounts.grant_role(person.id, "member", tenant_id=f"{MARK}beta")
    client = world.control.with_token(accounts.sign_in("two@example.com", PASSWORD, "bearer")[1])
    key = world.names[f"{MARK}beta"]["key"]
    assert client.get(f"/v1/keys/{key}").status_code == 200
    assert client.delete(f"/v1/keys/{key}").status_code == 403
    assert client.delete(f"/v1/keys/{world.names['acme']['key']}").status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"tier": "enterprise"},
        {"limits": {}},
        {"billing": "free"},
        {"plan": "standard"},
        {"enabled": True},
        {"models": []},
        {"time_zone": "UTC"},
        {"currency": "USD"},
    ],
)
def test_a_tenant_cannot_raise_itself(world: World, change: dict[str, Any]) -> None:
    client = world.control.token("owner", "acme")
    before = world.control.accounts.tenant("acme")
    answer = client.patch("/v1/tenants/acme", json=change)
    assert answer.status_code == 403
    assert answer.json()["error"]["param"] == next(iter(change))
    assert world.control.accounts.tenant("acme") == before
    assert client.patch("/v1/tenants/acme", json={"privacy": {"otherwise": "mask"}}).status_code == 200
    refused = client.patch("/v1/tenants/acme", json={"privacy": {"actions": {"PHONES": "mask"}}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "privacy.actions")


def test_a_tenants_owner_gives_no_role_beyond_it(world: World) -> None:
    client = world.control.token("owner", "acme")
    person = world.names["acme"]["person"]
    for body in ({"role": "owner"}, {"role": "owner", "tenant_id": f"{MARK}beta"}):
        assert client.post("/v1/grants", json={"person_id": person, **body}).status_code in (400, 404)
        new = {"email": "x@example.com", "name": "x", **body}
        assert client.post("/v1/people", json=new).status_code == 403
        asked = {"email": "x@example.com", **body}
        assert client.post("/v1/invitations", json=asked).status_code in (400, 404)
        assert client.post("/v1/service-tokens", json={"name": "x", **body}).status_code in (400, 404)


def test_a_password_is_not_a_tenants_to_give(world: World) -> None:
    client = world.control.token("owner", "acme")
    answer = client.patch(f"/v1/people/{world.names['acme']['person']}", json={"password": PASSWORD})
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "password")


def test_someone_with_roles_elsewhere_is_not_a_tenants_to_switch_off(world: World) -> None:
    accounts = world.control.accounts
    person = world.names["acme"]["person"]
    accounts.grant_role(person, "owner", tenant_id=f"{MARK}beta")
    client = world.control.token("owner", "acme")
    answer = client.patch(f"/v1/people/{person}", json={"enabled": False})
    assert answer.status_code == 403
    assert client.delete(f"/v1/people/{person}").status_code == 403
    assert MARK not in client.get(f"/v1/people/{person}").text
