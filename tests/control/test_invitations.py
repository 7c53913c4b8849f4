"""Invitations: nobody learns from one whether an address is somebody's, and only its owner redeems it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from control_under_test import Control
from starlette.testclient import TestClient

from sextant.base.errors import RateLimited
from sextant.store import accounts_invitations
from sextant.store.accounts_database import Page
from sextant.store.accounts_invitations import DAY_MS, KEPT_MS, NewInvitation
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_tenants import TenantChange
from sextant.store.sign_in import FREE_FAILURES, LOCK_MS_MAX, OidcIdentity

KNOWN, NEW = "ann@corp.example", "new@corp.example"
PASSWORD, OTHER = "the password of Ann", "some other password"
SMTP = {"smtp_host": "mail.invalid", "smtp_sender": "sextant@corp.example"}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    made = Control(tmp_path)
    yield filled(made)
    made.close()


def filled(made: Control) -> Control:
    for tenant in ("acme", "other"):
        made.accounts.create_tenant(tenant, TenantChange())
    hashed = made.accounts.passwords.hash(PASSWORD)
    made.accounts.create_person(NewPerson(KNOWN, "Ann", hashed, "owner", "other"))
    return made


class Later:
    """The clock, put forward by `ms`."""

    ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ms


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the mail server was handed."""
    sent: list[Any] = []
    monkeypatch.setattr("sextant.control.invitations.send_email", lambda message, _: sent.append(message))
    return sent


@pytest.fixture
def mailing(tmp_path: Path, mail: list[Any]) -> Iterator[Control]:
    from sextant.control.settings import AlertSettings

    made = Control(tmp_path, alerts=AlertSettings(**SMTP))
    yield filled(made)
    made.close()


def invite(client: TestClient, email: str, role: str = "member", tenant: str = "acme") -> httpx.Response:
    return client.post("/v1/invitations", json={"email": email, "role": role, "tenant_id": tenant})


def redeem(control: Control, token: str, email: str, password: str = PASSWORD) -> httpx.Response:
    body = {"token": token, "email": email, "password": password}
    return control.without().post("/v1/invitations/redeem", json=body)


def mailed_token(message: Any) -> str:
    return next(word for word in message.get_content().split() if word.startswith("sxinvite-"))


def roles_of(control: Control, email: str) -> set[tuple[str, str]]:
    found = [one for one in control.accounts.list_people() if one.email == email]
    return {(grant.role, grant.tenant_id) for one in found for grant in one.grants}


def without_names(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    told = answer.json()
    for name in ("id", "email", "name", "token", "created_ms", "expires_ms"):
        told.pop(name, None)
    return answer.status_code, told


def statements(control: Control, work: Callable[[], object]) -> list[str]:
    """What the database is asked meanwhile, without the values."""
    asked: list[str] = []

    def hear(_c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        asked.append(statement)

    sa.event.listen(control.accounts.engine, "before_cursor_execute", hear)
    try:
        work()
    finally:
        sa.event.remove(control.accounts.engine, "before_cursor_execute", hear)
    return asked


@pytest.mark.parametrize("inviter", ["owner", "operator"])
def test_the_answer_and_the_work_are_the_same_for_known_and_unknown(control: Control, inviter: str) -> None:
    client = control.token(inviter, "acme")
    told: list[tuple[int, dict[str, Any]]] = []
    known = statements(control, lambda: told.append(without_names(invite(client, KNOWN))))
    unknown = statements(control, lambda: told.append(without_names(invite(client, NEW))))
    assert told[0] == told[1]
    assert told[0][0] == 201
    assert known == unknown
    assert any("INSERT INTO invitation" in one for one in known)
    assert not any("FROM person WHERE person.email" in one for one in known)


def test_whoever_was_shown_the_token_in_a_tenant_cannot_try_whether_an_address_is_known(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by words nor by what the machine does meanwhile, nor by what is there afterwards."""
    client = control.token("owner", "acme")
    hashes: list[str] = []
    passwords = control.accounts.passwords
    verify = passwords.verify
    monkeypatch.setattr(passwords, "verify", lambda *given: hashes.append("verify") or verify(*given))
    monkeypatch.setattr(passwords, "hash", lambda *_given: pytest.fail("it set a password"))
    seen: list[tuple[Any, ...]] = []
    for email in (KNOWN, NEW):
        token = invite(client, email).json()["token"]
        hashes.clear()
        answers: list[httpx.Response] = []
        asked = statements(control, lambda: answers.append(redeem(control, token, email, OTHER)))  # noqa: B023
        seen.append((answers[0].status_code, answers[0].text, asked, list(hashes)))
    assert seen[0] == seen[1]
    assert (seen[0][0], seen[0][3]) == (403, ["verify"])
    assert NEW not in {one.email for one in control.accounts.list_people()}
    assert roles_of(control, KNOWN) == {("owner", "other")}


def test_somebody_known_redeems_with_their_password_and_keeps_what_they_had(control: Control) -> None:
    token = invite(control.token("owner", "acme"), KNOWN, "operator").json()["token"]
    answer = redeem(control, token, KNOWN)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["role"], answer.json()["tenant_id"]) == ("operator", "acme")
    assert roles_of(control, KNOWN) == {("owner", "other"), ("operator", "acme")}
    noted = {one.action: one for one in control.accounts.list_audit(Page(10))}
    assert noted["invitation.create"].detail == {"email": KNOWN, "role": "operator"}
    redeemed = noted["invitation.redeem"]
    assert (redeemed.tenant_id, redeemed.actor) == ("acme", f"person:{answer.json()['person_id']}")
    assert redeemed.detail == {"to": answer.json()["person_id"], "role": "operator"}


def test_what_a_tenant_sees_of_somebody_begins_with_their_role_there(control: Control) -> None:
    owner = control.token("owner", "acme")
    redeem(control, invite(owner, KNOWN).json()["token"], KNOWN)
    shown = owner.get("/v1/people").json()["people"][0]
    assert shown["created_ms"] == shown["grants"][0]["created_ms"]
    assert [one["tenant_id"] for one in shown["grants"]] == ["acme"]


def test_an_owner_of_the_deployment_hands_a_token_over_with_which_a_first_password_is_set(
    control: Control,
) -> None:
    made = invite(control.client, NEW, "owner").json()
    assert (made["sets_password"], made["mailed"]) == (True, False)
    assert "hand the token over" in made["warning"]
    assert redeem(control, made["token"], NEW.upper(), OTHER).status_code == 200
    signed = control.without().post("/v1/session", json={"email": NEW, "password": OTHER})
    assert signed.status_code == 201
    assert roles_of(control, NEW) == {("owner", "acme")}


def test_with_a_mail_server_the_token_goes_to_the_address_alone(mailing: Control, mail: list[Any]) -> None:
    client = mailing.token("owner", "acme")
    for email in (KNOWN, NEW):
        made = invite(client, email)
        assert (made.json()["token"], made.json()["mailed"], made.json()["warning"]) == (None, True, "")
    texts = [str(one.get_content()).replace(mailed_token(one), "TOKEN") for one in mail]
    assert texts[0] == texts[1]
    assert [one["To"] for one in mail] == [KNOWN, NEW]
    assert redeem(mailing, mailed_token(mail[1]), NEW, OTHER).status_code == 200
    assert mailing.accounts.grant_role(person_id(mailing, NEW), "owner").password_cleared is False
    assert redeem(mailing, mailed_token(mail[0]), KNOWN).status_code == 200


def person_id(control: Control, email: str) -> str:
    return next(one.id for one in control.accounts.list_people() if one.email == email)


def test_a_mailed_token_gives_no_password_to_somebody_who_has_one_or_roles_elsewhere(
    mailing: Control, mail: list[Any]
) -> None:
    """Who holds the mailbox of an identity provider's person has not passed the provider."""
    accounts, client = mailing.accounts, mailing.token("owner", "acme")
    accounts.create_person(NewPerson("root@corp.example", "Root", "", "owner"))
    accounts.oidc_person(OidcIdentity("https://id.example", "7", NEW, True, "New"), [])
    for email in (KNOWN, "root@corp.example", NEW):
        invite(client, email)
        refused = redeem(mailing, mailed_token(mail[-1]), email, OTHER)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "invitation_refused")
    accounts.create_person(NewPerson("waits@corp.example", "Waits", "", "member", "acme"))
    invite(client, "waits@corp.example", "auditor")
    assert redeem(mailing, mailed_token(mail[-1]), "waits@corp.example", OTHER).status_code == 200
    assert roles_of(mailing, "waits@corp.example") == {("member", "acme"), ("auditor", "acme")}


def test_a_mail_server_that_fails_is_told(tmp_path: Path) -> None:
    from sextant.control.settings import AlertSettings

    control = filled(Control(tmp_path, alerts=AlertSettings(**SMTP)))
    made = invite(control.token("owner", "acme"), NEW)
    assert (made.status_code, made.json()["mailed"], made.json()["token"]) == (201, False, None)
    assert "did not leave" in made.json()["warning"]
    control.close()


@pytest.mark.parametrize("vouched", [True, False])
def test_an_identity_that_the_provider_vouches_for_redeems_without_a_password(
    control: Control, vouched: bool
) -> None:
    accounts = control.accounts
    who = accounts.oidc_person(OidcIdentity("https://id.example", "9", NEW, vouched, "New"), [])
    token = invite(control.token("owner", "acme"), NEW).json()["token"]
    session = control.with_token(accounts.open_session(who.id, "bearer", "oidc")[1])
    answer = session.post("/v1/me/invitations", json={"token": token})
    assert answer.status_code == (200 if vouched else 403), answer.text
    assert roles_of(control, NEW) == ({("member", "acme")} if vouched else set())
    accounts.oidc_person(OidcIdentity("https://id.example", "9", NEW, True, "New"), [])
    again = session.post("/v1/me/invitations", json={"token": token})
    assert again.status_code == (403 if vouched else 200)


def test_who_is_signed_in_redeems_for_their_own_address_alone(control: Control) -> None:
    owner = control.token("owner", "acme")
    session = control.with_token(control.accounts.sign_in(KNOWN, PASSWORD, "bearer")[1])
    other = invite(owner, NEW).json()["token"]
    assert session.post("/v1/me/invitations", json={"token": other}).status_code == 403
    assert owner.post("/v1/me/invitations", json={"token": other}).status_code == 403
    mine = invite(owner, KNOWN).json()["token"]
    assert session.post("/v1/me/invitations", json={"token": mine}).status_code == 200


@pytest.mark.parametrize(
    "trouble",
    ["wrong", "address", "used", "revoked", "replaced", "expired", "tenant", "demoted", "disabled", "secret"],
)
def test_bad_twins_are_refused_in_the_same_words(tmp_path: Path, trouble: str) -> None:
    control = filled(Control(tmp_path))
    accounts, clock = control.accounts, Later()
    accounts._now_ms = clock
    giver, _ = accounts.create_service_token("giver", "owner", tenant_id="acme")
    boss = accounts.by(f"token:{giver.id}")
    made = boss.invite(NewInvitation(KNOWN, "auditor", "acme"), mailed=False)
    email, secret = KNOWN, made.secret
    if trouble == "wrong":
        secret = "sxinvite-" + "0" * 48
    elif trouble == "address":
        email = NEW
    elif trouble == "used":
        assert redeem(control, secret, KNOWN).status_code == 200
    elif trouble == "revoked":
        boss.revoke_invitation(made.record.id)
    elif trouble == "replaced":
        boss.invite(NewInvitation(KNOWN, "auditor", "acme"), mailed=False)
    elif trouble == "expired":
        clock.ms += 7 * DAY_MS
    elif trouble == "tenant":
        accounts.delete_tenant("acme")
    elif trouble == "demoted":
        accounts.revoke_service_token(giver.id)
    elif trouble == "disabled":
        accounts.set_person(person_id(control, KNOWN), enabled=False)
    else:
        secret = made.record.id
    before = roles_of(control, KNOWN)
    refused = redeem(control, secret, email)
    assert refused.status_code == 403, refused.text
    assert refused.json()["error"]["message"] == accounts_invitations.REFUSED
    assert roles_of(control, KNOWN) == before
    control.close()


def test_another_tenants_invitations_are_as_if_there_were_none(control: Control) -> None:
    made = invite(control.client, NEW).json()
    stranger = control.token("owner", "other")
    assert stranger.get("/v1/invitations").json()["invitations"] == []
    assert stranger.delete(f"/v1/invitations/{made['id']}").status_code == 404
    assert invite(stranger, NEW, "member", "acme").status_code == 404
    assert invite(stranger, NEW, "member", "").status_code == 400


def test_an_operator_gives_no_role_above_his_own(control: Control) -> None:
    operator, owner = control.token("operator", "acme"), control.token("owner", "acme")
    for role in ("owner", "auditor", "billing"):
        assert invite(operator, NEW, role).status_code == 403
    assert invite(operator, NEW, "nobody").status_code == 400
    above = invite(owner, NEW, "owner").json()["id"]
    assert operator.delete(f"/v1/invitations/{above}").status_code == 403
    assert owner.delete(f"/v1/invitations/{above}").json()["state"] == "revoked"
    assert control.token("billing", "acme").get("/v1/invitations").status_code == 403


def test_guessing_the_address_of_a_token_is_bounded(control: Control) -> None:
    token = invite(control.client, NEW).json()["token"]
    answers = [redeem(control, token, f"guess{n}@corp.example", OTHER) for n in range(FREE_FAILURES + 2)]
    assert answers[0].status_code == 403
    assert (answers[-1].status_code, "Retry-After" in answers[-1].headers) == (429, True)
    assert redeem(control, token, NEW, OTHER).status_code == 429
    clock = Later()
    clock.ms = LOCK_MS_MAX
    control.accounts._now_ms = clock
    assert redeem(control, token, NEW, OTHER).status_code == 200


def test_guessing_a_password_with_a_token_counts_as_guessing_it_at_the_door(control: Control) -> None:
    tokens = [invite(control.token("owner", "acme"), KNOWN).json()["token"] for _ in range(2)]
    for _ in range(FREE_FAILURES):
        redeem(control, tokens[-1], KNOWN, OTHER)
    with pytest.raises(RateLimited):
        control.accounts.sign_in(KNOWN, PASSWORD, "bearer")


def test_a_day_has_a_most_and_the_old_are_forgotten(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts_invitations, "INVITED_A_DAY_MAX", 3)
    clock = Later()
    control.accounts._now_ms = clock
    for number in range(3):
        control.accounts.invite(NewInvitation(f"n{number}@corp.example", "member", "acme"), mailed=False)
    with pytest.raises(RateLimited, match="3 invitations"):
        control.accounts.invite(NewInvitation(NEW, "member", "acme"), mailed=False)
    control.accounts.invite(NewInvitation(NEW, "member", "other"), mailed=False)
    clock.ms += KEPT_MS
    control.accounts.invite(NewInvitation(NEW, "member", "acme"), mailed=False)
    assert [one.email for one in control.accounts.list_invitations()] == [NEW]


def test_the_token_is_nowhere_at_rest(tmp_path: Path) -> None:
    control = filled(Control(tmp_path))
    token = invite(control.client, NEW).json()["token"]
    control.close()
    assert token.encode() not in (tmp_path / "accounts.db").read_bytes()
