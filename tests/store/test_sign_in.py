"""Signing in: passwords, sessions, the lock-out; on both stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from accounts_under_test import CHEAP, STORES, Clock, migrated_url

from sextant.base.errors import BadRequest, NotFound, Overloaded, RateLimited, Unauthenticated
from sextant.store import passwords, sign_in
from sextant.store.accounts import Accounts
from sextant.store.accounts_database import Page
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_schema import person, session, sign_in_guard

PASSWORD = "correct horse battery"
EMAIL = "ann@example.com"


@pytest.fixture(params=STORES)
def accounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Accounts]:
    made = Accounts(migrated_url(request, tmp_path), Clock())
    made.passwords = passwords.Passwords(CHEAP)
    made.create_service_token("keeps the deployment owned")
    made.create_person(NewPerson(EMAIL, "Ann", made.passwords.hash(PASSWORD), "auditor"))
    yield made
    made.close()


def clock_of(accounts: Accounts) -> Clock:
    found = accounts._now_ms
    assert isinstance(found, Clock)
    return found


def test_a_session_lasts_until_it_is_idle_ends_or_is_closed(accounts: Accounts) -> None:
    who, secret = accounts.sign_in(" ANN@Example.com ", PASSWORD, "bearer")
    assert (who.email, [one.role for one in who.grants]) == (EMAIL, ["auditor"])
    assert accounts.verify_session(secret, "bearer") == who
    assert accounts.verify_session(secret, "cookie") is None, "a session is of its kind"
    assert accounts.verify_session(secret + "x", "bearer") is None
    for _ in range(5):  # used every hour and a half
        clock_of(accounts).ms += sign_in.IDLE_MS * 3 // 4
        assert accounts.verify_session(secret, "bearer") == who
    clock_of(accounts).ms += sign_in.IDLE_MS + 1
    assert accounts.verify_session(secret, "bearer") is None
    _, secret = accounts.sign_in(EMAIL, PASSWORD, "cookie")
    accounts.close_session(secret)
    accounts.close_session(secret)
    assert accounts.verify_session(secret, "cookie") is None


def test_a_session_ends_after_twelve_hours_however_busy(accounts: Accounts) -> None:
    _, secret = accounts.sign_in(EMAIL, PASSWORD, "bearer")
    for _ in range(11):
        clock_of(accounts).ms += 3_600_000
        assert accounts.verify_session(secret, "bearer") is not None
    clock_of(accounts).ms += 3_600_000
    assert accounts.verify_session(secret, "bearer") is None


@pytest.mark.parametrize("harm", ["switched off", "new password", "deleted"])
def test_a_session_ends_with_what_it_rests_on(accounts: Accounts, harm: str) -> None:
    who, secret = accounts.sign_in(EMAIL, PASSWORD, "bearer")
    if harm == "switched off":
        accounts.set_person(who.id, enabled=False)
    elif harm == "new password":
        accounts.set_person(who.id, password_hash=accounts.passwords.hash("another long password"))
    else:
        accounts.delete_person(who.id)
    assert accounts.verify_session(secret, "bearer") is None
    with pytest.raises(Unauthenticated, match="address or the password"):
        accounts.sign_in(EMAIL, PASSWORD, "bearer")


@pytest.mark.parametrize(
    ("email", "password"), [(EMAIL, "wrong"), ("bob@example.com", PASSWORD), ("", ""), (EMAIL, "\ud800")]
)
def test_whatever_is_wrong_is_told_in_the_same_words(accounts: Accounts, email: str, password: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        accounts.sign_in(email, password, "bearer")
    assert refused.value.message == sign_in.WRONG


def test_someone_without_a_password_cannot_sign_in_with_an_empty_one(accounts: Accounts) -> None:
    accounts.create_person(NewPerson("bob@example.com", "Bob"))
    for password in ("", passwords._NOBODY):
        with pytest.raises(Unauthenticated):
            accounts.sign_in("bob@example.com", password, "bearer")


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
def test_failures_lock_a_name_out_for_longer_and_longer(accounts: Accounts, email: str) -> None:
    """Whether or not there is such a person."""
    for _ in range(sign_in.FREE_FAILURES):
        with pytest.raises(Unauthenticated):
            accounts.sign_in(email, "wrong", "bearer")
    for lock_s in (30, 60, 120):
        with pytest.raises(RateLimited) as locked:
            accounts.sign_in(email, PASSWORD, "bearer")
        assert locked.value.retry_after_s == pytest.approx(lock_s, abs=1)
        clock_of(accounts).ms += lock_s * 1000
        with pytest.raises(Unauthenticated):
            accounts.sign_in(email, "wrong", "bearer")


def test_a_right_password_forgets_the_failures_before_it(accounts: Accounts) -> None:
    for _ in range(3):
        for _ in range(sign_in.FREE_FAILURES - 1):
            with pytest.raises(Unauthenticated):
                accounts.sign_in(EMAIL, "wrong", "bearer")
        accounts.sign_in(EMAIL, PASSWORD, "bearer")


def test_guesses_in_parallel_are_no_more_guesses(accounts: Accounts) -> None:
    looked: list[str] = []
    accounts.passwords.verify = lambda password, stored: bool(looked.append(password))  # type: ignore[method-assign]

    def guess(number: int) -> str:
        try:
            accounts.sign_in(EMAIL, f"guess {number}", "bearer")
        except Unauthenticated:
            return "looked at"
        except RateLimited:
            return "locked out"
        return "in"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(guess, range(24)))
    assert told.count("looked at") == len(looked) == sign_in.FREE_FAILURES
    assert told.count("in") == 0


def test_locks_are_bounded_in_time_and_number(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sign_in.lock_ms(10_000) == sign_in.LOCK_MS_MAX
    monkeypatch.setattr(sign_in, "GUARD_ROWS_MAX", 3)
    for number in range(5):
        accounts._count_attempt(f"{number}@example.com")
    with accounts.reading() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(sign_in_guard)) == 3
    clock_of(accounts).ms += sign_in.FORGET_FAILURES_MS
    accounts._count_attempt("x@example.com")
    with accounts.reading() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(sign_in_guard)) == 1


def test_sessions_of_one_person_are_bounded(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "SESSIONS_MAX", 3)
    who, _ = accounts.sign_in(EMAIL, PASSWORD, "bearer")
    secrets = [accounts.open_session(who.id, "bearer", "test")[1] for _ in range(4)]
    assert accounts.verify_session(secrets[0], "bearer") is None
    assert all(accounts.verify_session(secret, "bearer") for secret in secrets[1:])
    with accounts.reading() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(session)) == 3


def test_an_attempt_at_a_provider_is_taken_once_and_in_time(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = sign_in.OidcAttempt("nonce", "verifier")
    accounts.begin_oidc("state", attempt)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: accounts.take_oidc("state"), range(4)))
    assert [one for one in taken if one is not None] == [attempt]
    accounts.begin_oidc("late", attempt)
    clock_of(accounts).ms += sign_in.ATTEMPT_MS
    assert accounts.take_oidc("late") is None
    monkeypatch.setattr(sign_in, "ATTEMPTS_MAX", 2)
    for state in ("a", "b", "c"):
        accounts.begin_oidc(state, attempt)
    assert [accounts.take_oidc(state) is None for state in ("a", "b", "c")] == [True, False, False]


@pytest.mark.slow
def test_what_a_password_must_be() -> None:
    check = passwords.Passwords()
    for wrong in ("", "x" * 11, "x" * 257):
        with pytest.raises(BadRequest, match="12 to 256"):
            check.hash(wrong)
    stored = check.hash("pa\u0301sswords are long")
    assert stored.startswith("$argon2id$")
    assert "long" not in stored
    assert check.verify("p\u00e1sswords are long", stored), "composed or not, it is the same text"
    assert not check.verify("passwords are long", stored)
    assert not check.verify("anything", "")
    assert not check.verify("anything", "no hash")


@pytest.mark.slow
def test_an_unknown_person_takes_as_long_as_a_known_one() -> None:
    check = passwords.Passwords()
    stored = check.hash("a long enough password")
    check.verify("warm", "")

    def taken_s(with_stored: str) -> float:
        begin = time.process_time()
        for _ in range(3):
            check.verify("wrong", with_stored)
        return time.process_time() - begin

    known_s, unknown_s = taken_s(stored), taken_s("")
    assert 0.5 < known_s / unknown_s < 2


def test_a_hash_of_other_parameters_is_renewed_at_the_next_sign_in(accounts: Accounts) -> None:
    weak = passwords.argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    assert accounts.passwords is not None
    with accounts.writing() as db:
        db.execute(sa.update(person).values(password_hash=weak))
    accounts.sign_in(EMAIL, PASSWORD, "bearer")
    with accounts.reading() as db:
        assert db.scalar(sa.select(person.c.password_hash)) != weak
    accounts.sign_in(EMAIL, PASSWORD, "bearer")


def test_so_many_hashes_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAIT_S", 0.05)
    check = passwords.Passwords()
    taken = threading.Semaphore(0)
    for _ in range(passwords.HASHES_AT_ONCE):
        check._room.acquire()
        taken.release()
    with pytest.raises(Overloaded, match="too many sign-ins"):
        check.verify("x", "")


def test_roles_are_granted_once_and_the_last_owner_stays(accounts: Accounts) -> None:
    for token in accounts.list_service_tokens():
        with pytest.raises(BadRequest, match="without an owner"):
            accounts.revoke_service_token(token.id)
        owner = accounts.create_person(NewPerson("owner@example.com", "Owner", "", "owner"))
        accounts.revoke_service_token(token.id)
    grant = owner.grants[0]
    assert accounts.grant_role(owner.id, "owner").id == grant.id
    for change in (
        lambda: accounts.revoke_grant(grant.id),
        lambda: accounts.set_person(owner.id, enabled=False),
        lambda: accounts.delete_person(owner.id),
    ):
        with pytest.raises(BadRequest, match="without an owner"):
            change()
    assert accounts.person(owner.id) == owner, "what was refused has changed nothing"
    second = accounts.create_person(NewPerson("second@example.com", "Second", "", "owner"))
    accounts.revoke_grant(grant.id)
    assert [one.role for one in accounts.person(second.id).grants] == ["owner"]


def test_two_owners_who_leave_at_once_leave_one(accounts: Accounts) -> None:
    tokens = [accounts.create_service_token(f"owner {number}")[0] for number in range(7)]
    before = [one.id for one in accounts.list_service_tokens()]
    assert len(before) == len(tokens) + 1

    def leave(token_id: str) -> bool:
        try:
            accounts.revoke_service_token(token_id)
        except BadRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        left = list(pool.map(leave, before))
    assert left.count(False) == 1
    assert len(accounts.list_service_tokens()) == 1


def test_mistakes_with_people_are_named(accounts: Accounts) -> None:
    for email in ("", "ann", "a b@example.com", "a@b@c", "x" * 70 + "@example.com", "a\n@example.com"):
        with pytest.raises(BadRequest, match="no e-mail address"):
            accounts.create_person(NewPerson(email, "x"))
    with pytest.raises(BadRequest, match="a person with the address") as taken:
        accounts.create_person(NewPerson(EMAIL.upper(), "x"))
    assert taken.value.code == "exists"
    who = accounts.list_people()[0]
    with pytest.raises(BadRequest, match="no role"):
        accounts.grant_role(who.id, "king")
    with pytest.raises(NotFound, match="no tenant nowhere"):
        accounts.grant_role(who.id, "member", tenant_id="nowhere")
    with pytest.raises(NotFound, match="no person person_x"):
        accounts.grant_role("person_x", "member")
    assert accounts.list_people() == [who]
    assert accounts.list_grants(Page(5, "grant_zzz")) == []


def test_the_audit_trail_says_who_did_what_and_cannot_be_changed(accounts: Accounts) -> None:
    accounts.by("person:ann").create_tenant("acme")
    accounts.by("token:t").create_key("acme", "laptop")
    newest = accounts.list_audit(Page(2))
    assert [(one.actor, one.action, one.tenant_id) for one in newest] == [
        ("token:t", "key.create", "acme"),
        ("person:ann", "tenant.create", "acme"),
    ]
    assert accounts.list_audit(Page(1, str(newest[0].id))) == newest[1:]
    assert accounts.list_audit(Page(), tenants=frozenset({"other"})) == []
    for statement in ("UPDATE audit SET actor = 'me'", "DELETE FROM audit", "DELETE FROM price"):
        with pytest.raises(sa.exc.DatabaseError, match="only ever added"), accounts.writing() as db:
            db.execute(sa.text(statement))
