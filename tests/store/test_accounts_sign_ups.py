"""Sign-ups and agreements on each kind of store: bounded, once, and kept as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from accounts_under_test import CHEAP, STORES, Clock, migrated_url

from sextant.base.errors import BadRequest, Forbidden, Misconfigured, NotFound, RateLimited
from sextant.store.accounts import Accounts
from sextant.store.accounts_database import DAY_MS, Page
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_sign_ups import (
    KEPT_MS,
    PER_MAILBOX_MAX,
    Asked,
    Confirming,
    NewSignUp,
    OwedCredit,
    SignUpBounds,
    SignUpTerms,
    mailbox_of,
    source_of,
)
from sextant.store.passwords import Passwords

NEW = "new@corp.example"
PASSWORD = "a password of hers"
BOUNDS = SignUpBounds(per_day=8, per_source=5)
TERMS = SignUpTerms("free", "standard", 5_000_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return migrated_url(request, tmp_path)


@pytest.fixture
def either(url: str, clock: Clock) -> Iterator[Accounts]:
    made = Accounts(url, clock)
    made.passwords = Passwords(CHEAP)
    yield made
    made.close()


def ask(accounts: Accounts, email: str = NEW, source: str = "192.0.2.1") -> Asked:
    return accounts.ask_sign_up(NewSignUp(email, "New & Co", "en", source), BOUNDS, TERMS)


def test_confirming_makes_a_tenant_its_owner_and_what_is_owed(either: Accounts) -> None:
    asked = ask(either)
    assert not asked.known
    assert either.list_people() == []
    made = either.confirm_sign_up(asked.secret, Confirming(PASSWORD, "Ann"), TERMS)
    record = either.tenant(made.tenant_id)
    assert (record.name, record.tier, record.billing, record.plan) == (
        "New & Co",
        "free",
        "prepaid",
        "standard",
    )
    assert made.currency == record.currency == "USD"
    (person,) = either.list_people()
    assert (person.email, person.name, person.id) == (NEW, "Ann", made.person_id)
    assert [(one.role, one.tenant_id) for one in person.grants] == [("owner", made.tenant_id)]
    assert either.sign_in(NEW, PASSWORD, "bearer")[0].id == person.id
    assert either.owed_credits() == [OwedCredit(asked.id, made.tenant_id, 5_000_000_000, "USD")]
    assert made.tenant_id in {one.id for one in either.policy_snapshot().tenants}


def test_credit_is_noted_once_by_whoever_posts_it(either: Accounts, url: str) -> None:
    other = Accounts(url, Clock())  # another replica's
    made = either.confirm_sign_up(ask(either).secret, Confirming(PASSWORD), TERMS)
    (owed,) = other.owed_credits()
    either.note_credited(owed, "credit-x")
    other.note_credited(owed, "credit-x")
    other.close()
    assert either.owed_credits() == []
    told = [one for one in either.list_audit(Page()) if one.action == "balance.credit"]
    assert [(one.tenant_id, one.detail["amount_nano"]) for one in told] == [(made.tenant_id, 5_000_000_000)]


def test_a_session_begun_at_one_replica_is_good_at_another_until_it_ends(either: Accounts, url: str) -> None:
    made = either.confirm_sign_up(ask(either).secret, Confirming(PASSWORD), TERMS)
    _, secret = either.open_session(made.person_id, "cookie", "sign-up")
    other = Accounts(url, Clock())
    try:
        found = other.verify_session(secret, "cookie")
        assert found is not None and found.id == made.person_id
        other.close_session(secret)
        assert either.verify_session(secret, "cookie") is None
    finally:
        other.close()


def test_two_at_once_confirm_once(either: Accounts, url: str) -> None:
    secret = ask(either).secret
    together = threading.Barrier(2)
    replicas = [Accounts(url, Clock()) for _ in range(2)]

    def one(accounts: Accounts) -> str:
        accounts.passwords = Passwords(CHEAP)
        together.wait()
        try:
            return accounts.confirm_sign_up(secret, Confirming(PASSWORD), TERMS).tenant_id
        except Forbidden as error:
            return error.code

    with ThreadPoolExecutor(2) as pool:
        told = sorted(pool.map(one, replicas))
    for replica in replicas:
        replica.close()
    assert told[0] == "sign_up_refused"
    assert len(either.list_tenants()) == 2, "the default tenant and one other"
    assert len(either.list_people()) == len(either.owed_credits()) == 1


def test_a_token_that_is_wrong_used_or_old_is_refused_in_the_same_words(
    either: Accounts, clock: Clock
) -> None:
    used, old = ask(either), ask(either, "old@corp.example")
    either.confirm_sign_up(used.secret, Confirming(PASSWORD), TERMS)
    known = ask(either)
    clock.ms += DAY_MS
    said = set()
    for secret in (used.secret, old.secret, known.secret, "sxsignup-nobodys"):
        with pytest.raises(Forbidden) as caught:
            either.confirm_sign_up(secret, Confirming(PASSWORD), TERMS)
        said.add((caught.value.code, caught.value.message))
    assert len(said) == 1
    assert known.known


def test_who_is_known_is_asked_by_mailbox_and_by_address(either: Accounts) -> None:
    either.create_person(NewPerson("ann@corp.example", "Ann"))
    assert ask(either, "ann@corp.example").known
    assert ask(either, " Ann+other@corp.example ").known
    either.confirm_sign_up(ask(either, "bob+first@corp.example").secret, Confirming(PASSWORD), TERMS)
    assert ask(either, "bob+second@corp.example").known
    assert not ask(either, "bob@other.example").known


def test_an_address_that_became_somebodys_meanwhile_is_told_to_sign_in(either: Accounts) -> None:
    asked = ask(either)
    either.create_person(NewPerson(NEW, "Invited meanwhile"))
    with pytest.raises(Forbidden) as caught:
        either.confirm_sign_up(asked.secret, Confirming(PASSWORD), TERMS)
    assert caught.value.code == "person_exists"
    assert len(either.list_tenants()) == 1, "nothing is left half made"


def test_each_bound_holds_at_its_number_and_ends_after_a_day(either: Accounts, clock: Clock) -> None:
    for _ in range(PER_MAILBOX_MAX):
        ask(either, "a+1@corp.example")
    with pytest.raises(RateLimited):
        ask(either, "a+2@corp.example")
    for number in range(BOUNDS.per_source - PER_MAILBOX_MAX):
        ask(either, f"b{number}@corp.example")
    with pytest.raises(RateLimited):
        ask(either, "c@corp.example", "::ffff:192.0.2.1")
    for number in range(BOUNDS.per_day - BOUNDS.per_source):
        ask(either, f"d{number}@corp.example", f"2001:db8:0:{number}::1")
    with pytest.raises(RateLimited) as caught:
        ask(either, "e@corp.example", "198.51.100.7")
    assert caught.value.code == "too_many_sign_ups"
    clock.ms += DAY_MS
    assert not ask(either, "a+2@corp.example").known


def test_a_wish_whose_message_did_not_leave_counts_no_longer(either: Accounts) -> None:
    for _ in range(PER_MAILBOX_MAX + 1):
        either.forget_sign_up(ask(either).id)
    made = ask(either)
    either.confirm_sign_up(made.secret, Confirming(PASSWORD), TERMS)
    either.forget_sign_up(made.id)
    assert len(either.owed_credits()) == 1, "one that was confirmed stays"


def test_sources_and_unconfirmed_wishes_are_forgotten(either: Accounts, clock: Clock) -> None:
    either.confirm_sign_up(ask(either).secret, Confirming(PASSWORD), TERMS)
    ask(either, "never@corp.example")
    clock.ms += KEPT_MS
    ask(either, "later@corp.example", "198.51.100.7")
    with either.reading() as db:
        kept = db.execute(sa.text("SELECT email, source FROM sign_up ORDER BY email")).all()
    assert [tuple(row) for row in kept] == [("", ""), ("later@corp.example", "198.51.100.7")]
    assert ask(either, NEW.replace("@", "+again@")).known, "one mailbox has one account, also then"
    (owed,) = either.owed_credits()
    assert either.owed_credits([owed.id]) == []


def test_terms_that_nobody_could_get_are_refused_before_a_message_leaves(either: Accounts) -> None:
    new = NewSignUp(NEW, "New", "en", "192.0.2.1")
    for terms, field in ((SignUpTerms("gold"), "tier"), (SignUpTerms("free", "gone"), "plan")):
        with pytest.raises(BadRequest) as caught:
            either.ask_sign_up(new, BOUNDS, terms)
        assert caught.value.field == field
    with either.reading() as db:
        assert db.execute(sa.text("SELECT count(*) FROM sign_up")).scalar() == 0


def test_a_short_password_leaves_the_token_good(either: Accounts) -> None:
    asked = ask(either)
    with pytest.raises(BadRequest):
        either.confirm_sign_up(asked.secret, Confirming("short"), TERMS)
    either.confirm_sign_up(asked.secret, Confirming(PASSWORD), TERMS)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("192.0.2.1:40112", "192.0.2.1"),
        ("[2001:db8:1:2::9]:40112", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_source_is_what_one_household_has(address: str, source: str) -> None:
    assert source_of(address) == source


def test_a_mailbox_is_the_address_without_its_tag() -> None:
    assert mailbox_of("ann+a+b@corp.example") == "ann@corp.example"
    assert mailbox_of("+@corp.example") == "+@corp.example"


def test_an_accepted_text_stays_and_another_one_is_another_version(either: Accounts) -> None:
    first = either.publish_agreement("2026-11", "One.")
    assert either.publish_agreement("2026-11", "One.") == first
    assert either.publish_agreement("2026-11", "Two.").text == "Two.", "nobody has accepted the first"
    made = either.confirm_sign_up(ask(either).secret, Confirming(PASSWORD, agreement="2026-11"), TERMS)
    with pytest.raises(Misconfigured, match="another version"):
        either.publish_agreement("2026-11", "Three.")
    assert either.agreement("2026-11").text == "Two."
    (kept,) = either.list_acceptances(tenant_id=made.tenant_id)
    assert (kept.email, kept.person_id, kept.sha256) == (
        NEW,
        made.person_id,
        either.agreement("2026-11").sha256,
    )
    assert either.without_acceptance("2026-11", {made.tenant_id, "default", "other"}) == {"other"}
    assert either.without_acceptance("2026-12", {made.tenant_id}) == {made.tenant_id}


def test_who_accepted_first_stays_and_no_row_can_be_changed(either: Accounts) -> None:
    either.publish_agreement("1", "One.")
    made = either.confirm_sign_up(ask(either).secret, Confirming(PASSWORD), TERMS)
    first = either.accept_agreement("1", made.tenant_id, made.person_id)
    other = either.create_person(NewPerson("ann@corp.example", "Ann", "", "owner", made.tenant_id))
    assert either.accept_agreement("1", made.tenant_id, other.id) == first
    for change in ("DELETE FROM acceptance", "UPDATE acceptance SET email = ''"):
        with pytest.raises(sa.exc.DatabaseError, match="only ever added"), either.writing() as db:
            db.execute(sa.text(change))
    assert either.list_acceptances(version="1") == [first]
    with pytest.raises(NotFound, match="no agreement '2'"):
        either.accept_agreement("2", made.tenant_id, made.person_id)
    told = [one.detail["version"] for one in either.list_audit(Page()) if one.action == "agreement.accept"]
    assert told == ["1"]
