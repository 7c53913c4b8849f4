"""Invitations on each kind of store: two who redeem at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from accounts_under_test import CHEAP, STORES, Clock, migrated_url

from sextant.base.errors import Forbidden, RateLimited
from sextant.store.accounts import Accounts
from sextant.store.accounts_invitations import NewInvitation, Redeemer
from sextant.store.accounts_people import NewPerson
from sextant.store.accounts_tenants import TenantChange
from sextant.store.passwords import Passwords

NEW = "new@corp.example"


@pytest.fixture(params=STORES)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Accounts]:
    made = Accounts(migrated_url(request, tmp_path), Clock())
    made.passwords = Passwords(CHEAP)
    made.create_tenant("acme", TenantChange())
    yield made
    made.close()


def test_two_at_once_redeem_once(either: Accounts) -> None:
    made = either.invite(NewInvitation(NEW, "owner", "acme"), mailed=False)
    together = threading.Barrier(2)

    def one(number: int) -> bool:
        together.wait()
        try:
            either.redeem_invitation(made.secret, Redeemer(NEW, f"a password, number {number}"))
        except (Forbidden, RateLimited):  # a try counts as a failure in advance, which may lock the other out
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(one, range(2))) == [False, True]
    assert [one.state for one in either.list_invitations()] == ["redeemed"]
    assert len(either.list_people()) == 1


def test_a_role_given_elsewhere_while_a_first_password_is_hashed_counts(either: Accounts) -> None:
    either.create_tenant("other", TenantChange())
    owner = either.create_person(NewPerson("owner@corp.example", "Owner", "", "owner", "acme"))
    known = either.create_person(NewPerson(NEW, "New", "", "", ""))
    made = either.by(f"person:{owner.id}").invite(NewInvitation(NEW, "member", "acme"), mailed=True)

    class Meanwhile(Passwords):
        def hash(self, password: str) -> str:
            either.grant_role(known.id, "owner", tenant_id="other")
            return super().hash(password)

    either.passwords = Meanwhile(CHEAP)
    with pytest.raises(Forbidden, match="the invitation is refused"):
        either.redeem_invitation(made.secret, Redeemer(NEW, "a password of nobody's"))
    assert [one.tenant_id for one in either.person(known.id).grants] == ["other"]
