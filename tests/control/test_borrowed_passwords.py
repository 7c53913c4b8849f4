"""A password that somebody else gave opens nothing that he may not manage himself: today none but an owner of
the deployment gives one, but a tenant's owner could in the versions before, and owners may lose the role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_under_test import Control

from sextant.base.errors import Forbidden, Unauthenticated
from sextant.store.accounts_database import Page
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_tenants import TenantChange
from sextant.store.sign_in import OidcIdentity

VICTIM = "victim@corp.example"
KNOWN = "known to the first owner"
CHANGED = "changed by whoever signed in"
IDENTITY = OidcIdentity("https://id.example", "7", VICTIM, True, "Victim")


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    made = Control(tmp_path)
    for tenant in ("acme", "other"):
        made.accounts.create_tenant(tenant, TenantChange())
    yield made
    made.close()


def acme_owner(control: Control) -> str:
    """An owner of acme, as the audit trail calls it."""
    return f"token:{control.accounts.create_service_token('acme', 'owner', tenant_id='acme')[0].id}"


def given(control: Control, actor: str) -> str:
    """The id of a person in acme who has a password from `actor`."""
    hashed = control.accounts.passwords.hash(KNOWN)
    return control.accounts.by(actor).create_person(NewPerson(VICTIM, "V", hashed, "member", "acme")).id


def signed_in(control: Control, password: str) -> int:
    answer = control.without().post("/v1/session", json={"email": VICTIM, "password": password})
    return answer.status_code


@pytest.mark.parametrize("tenant", ["other", ""])
@pytest.mark.parametrize("changes_it", [False, True])
def test_a_role_beyond_the_first_owner_takes_his_password_away(
    control: Control, tenant: str, changes_it: bool
) -> None:
    """Also after he signed in with it and changed it as if he were the person."""
    person = given(control, acme_owner(control))
    session = control.accounts.sign_in(VICTIM, KNOWN, "bearer")[1]
    password = KNOWN
    if changes_it:
        body = {"present": KNOWN, "new": CHANGED}
        assert control.with_token(session).post("/v1/me/password", json=body).status_code == 200
        session = control.accounts.sign_in(VICTIM, CHANGED, "bearer")[1]
        password = CHANGED
    body = {"person_id": person, "role": "owner", "tenant_id": tenant}
    answer = control.client.post("/v1/grants", json=body)
    assert (answer.status_code, answer.json()["password_cleared"]) == (201, True)
    noted = control.accounts.list_audit(Page(1))[0]
    assert (noted.action, noted.detail["password"]) == ("grant.create", "cleared")
    assert signed_in(control, password) == 401
    assert control.with_token(session).get("/v1/me").status_code == 401
    assert control.accounts.person(person).has_password is False
    assert control.accounts.oidc_person(IDENTITY, []).id == person


def test_a_password_from_an_owner_of_the_deployment_stays(control: Control) -> None:
    body = {"email": VICTIM, "name": "V", "password": KNOWN, "role": "member", "tenant_id": "acme"}
    person = control.client.post("/v1/people", json=body).json()["id"]
    body = {"person_id": person, "role": "member", "tenant_id": "other"}
    assert control.client.post("/v1/grants", json=body).json()["password_cleared"] is False
    assert signed_in(control, KNOWN) == 201


def test_a_role_within_the_first_owners_tenant_changes_nothing(control: Control) -> None:
    person = given(control, acme_owner(control))
    body = {"person_id": person, "role": "owner", "tenant_id": "acme"}
    assert control.client.post("/v1/grants", json=body).json()["password_cleared"] is False
    assert signed_in(control, KNOWN) == 201


def test_an_owner_of_the_deployment_gives_a_new_password_that_stays(control: Control) -> None:
    person = given(control, acme_owner(control))
    control.client.post("/v1/grants", json={"person_id": person, "role": "member", "tenant_id": "other"})
    password = "from the deployment's owner"
    assert control.client.patch(f"/v1/people/{person}", json={"password": password}).status_code == 200
    body = {"person_id": person, "role": "owner"}
    assert control.client.post("/v1/grants", json=body).json()["password_cleared"] is False
    assert signed_in(control, password) == 201


def test_a_password_from_someone_who_owns_no_more_is_taken_away(control: Control) -> None:
    """He may have been sent away, and knows it still."""
    token, _ = control.accounts.create_service_token("gone", "owner", tenant_id="acme")
    person = given(control, f"token:{token.id}")
    control.accounts.revoke_service_token(token.id)
    assert control.accounts.grant_role(person, "owner", tenant_id="acme").password_cleared


def test_a_role_from_an_identity_providers_group_takes_it_away_too(control: Control) -> None:
    accounts = control.accounts
    person = accounts.oidc_person(IDENTITY, [("member", "acme")]).id
    accounts.by(acme_owner(control)).set_person(person, password_hash=accounts.passwords.hash(KNOWN))
    assert signed_in(control, KNOWN) == 201
    accounts.oidc_person(IDENTITY, [("member", "acme"), ("operator", "")])
    assert signed_in(control, KNOWN) == 401
    noted = next(one for one in accounts.list_audit(Page(20)) if one.action == "grant.oidc")
    assert noted.detail["password"] == "cleared"


def test_an_address_is_linked_only_after_its_password_was_taken_away(control: Control) -> None:
    person = given(control, acme_owner(control))
    with pytest.raises(Forbidden, match="signs in otherwise"):
        control.accounts.oidc_person(IDENTITY, [])
    control.accounts.grant_role(person, "member", tenant_id="other")
    with pytest.raises(Forbidden, match="signs in otherwise"):
        control.accounts.oidc_person(OidcIdentity("https://id.example", "7", VICTIM, False, "V"), [])
    assert control.accounts.oidc_person(IDENTITY, []).id == person


def test_a_sign_in_or_change_under_way_does_not_outlive_the_password(control: Control) -> None:
    """A password is looked at for a while; the grant may come in between."""
    accounts = control.accounts
    person = given(control, acme_owner(control))
    present = accounts.check_password(person, KNOWN)
    accounts.grant_role(person, "owner", tenant_id="other")
    with pytest.raises(Unauthenticated):
        accounts.open_session(person, "bearer", "password", password_hash=present)
    with pytest.raises(Forbidden, match="just been changed"):
        accounts.change_own_password(person, present, accounts.passwords.hash(CHANGED))


def test_a_password_given_while_a_role_elsewhere_is_granted_is_refused(control: Control) -> None:
    """The roles count that there are in the transaction, not those of a look before it."""
    accounts = control.accounts
    token, _ = accounts.create_service_token("first", "owner", tenant_id="acme")
    person = accounts.create_person(NewPerson(VICTIM, "V", "", "member", "acme")).id
    accounts.grant_role(person, "owner", tenant_id="other")
    with pytest.raises(Forbidden, match="roles elsewhere"):
        accounts.by(f"token:{token.id}").set_person(person, password_hash=accounts.passwords.hash(KNOWN))
    with pytest.raises(Forbidden, match="roles elsewhere"):
        accounts.by(f"token:{token.id}").delete_person(person)
