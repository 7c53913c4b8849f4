"""Tenants, projects, keys, tiers and prices: what they may be, and what the policy says; on both stores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from accounts_under_test import STORES, Clock, migrated_url

from sextant.base.errors import BadRequest, LedgerUnavailable, NotFound
from sextant.gateway.app import DIALECTS
from sextant.governance.pricing import PriceBook
from sextant.spec.policy import LimitRules, OffPeak, Price, PrivacyPolicy, TierPolicy, VolumeStep
from sextant.spec.usage import UsageRow
from sextant.store.accounts import DEFAULT_TENANT, Accounts
from sextant.store.accounts_database import Page
from sextant.store.accounts_keys import ENDPOINTS, KeyChange, KeyScope, KnownSecret
from sextant.store.accounts_prices import PlanTerms, one_after_another
from sextant.store.accounts_tenants import ProjectChange, TenantChange

HOUR_MS = 3_600_000


@pytest.fixture(params=STORES)
def accounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Accounts]:
    made = Accounts(migrated_url(request, tmp_path), Clock())
    yield made
    made.close()


def clock_of(accounts: Accounts) -> Clock:
    found = accounts._now_ms
    assert isinstance(found, Clock)
    return found


def price(model: str = "*", nano: int = 1000, **more: Any) -> Price:
    return Price(model, nano, nano, nano, nano, **more)


def test_a_new_tenant_that_names_nothing_is_free_in_the_currency_of_the_house(accounts: Accounts) -> None:
    made = accounts.create_tenant("trial")
    assert (made.tier, made.billing, made.plan, made.currency) == ("free", "free", "", "CNY")
    accounts.change_tenant(DEFAULT_TENANT, TenantChange(currency="USD"))
    assert accounts.create_tenant("second").currency == "USD"
    paying = TenantChange(billing="prepaid", plan="standard-cny")
    assert accounts.create_tenant("third", paying).currency == "CNY", "the plan's"
    assert accounts.create_tenant("fourth", TenantChange(currency="EUR")).currency == "EUR"
    assert accounts.create_tenant("fifth", TenantChange(tier="internal")).tier == "internal"
    assert accounts.tenant(DEFAULT_TENANT).tier == "internal"


def test_a_tenants_settings_reach_the_policy_whole(accounts: Accounts) -> None:
    wanted = TenantChange(
        name="Acme 公司",
        tier="professional",
        limits=LimitRules(requests_per_s=2.5, tokens_per_day=10**12, spend_nano_per_month=2**60),
        billing="prepaid",
        plan="standard",
        time_zone="Asia/Shanghai",
        models=("deepseek-v3", "deepseek-r1"),
        privacy=PrivacyPolicy("mask", {"CN_ID": "block"}, ("NAME",), {"CASE": "C-[0-9]+"}, True),
    )
    record = accounts.create_tenant("acme", wanted)
    assert record.currency == "USD", "the plan's, where none is named"
    found = next(one for one in accounts.policy_snapshot().tenants if one.id == "acme")
    assert (found.name, found.tier, found.limits, found.privacy) == (
        wanted.name,
        "professional",
        wanted.limits,
        wanted.privacy,
    )
    assert (found.billing, found.plan, found.currency) == ("prepaid", "standard", "USD")
    assert (found.time_zone, found.models) == ("Asia/Shanghai", ("deepseek-v3", "deepseek-r1"))
    changed = accounts.change_tenant("acme", TenantChange(name="Acme"))
    assert (changed.limits, changed.tier) == (wanted.limits, "professional"), "what is not given stays"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (TenantChange(tier="gold"), "tier", "no tier 'gold'; expected one of enterprise, free, internal"),
        (TenantChange(plan="gold"), "plan", "no price plan 'gold'"),
        (TenantChange(billing="prepaid"), "plan", "needs a price plan"),
        (TenantChange(plan="standard", currency="CNY"), "plan", "is in USD, tenant acme in CNY"),
        (TenantChange(time_zone="Mars/Base"), "time_zone", "no time zone"),
        (TenantChange(time_zone="../../etc/passwd"), "time_zone", "no time zone"),
        (TenantChange(name=""), "name", "printable"),
        (TenantChange(limits=LimitRules(requests_per_s=-1.0)), "limits.requests_per_s", "expected 0 to"),
        (TenantChange(limits=LimitRules(tokens_per_min=2**53 + 1)), "limits.tokens_per_min", "expected 0 to"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(
    accounts: Accounts, change: TenantChange, field: str, words: str
) -> None:
    accounts.create_tenant("acme")
    before = accounts.policy_snapshot()
    with pytest.raises(BadRequest, match=words) as refused:
        accounts.change_tenant("acme", change)
    assert refused.value.field == field
    assert accounts.policy_snapshot() == before


@pytest.mark.parametrize("wrong", ["", "Acme", "a.b", "a:b", "-a", "a b", "x" * 49, "ä", "../x"])
def test_a_tenants_id_is_plain(accounts: Accounts, wrong: str) -> None:
    with pytest.raises(BadRequest, match="no id"):
        accounts.create_tenant(wrong)


def test_a_paying_tenant_keeps_its_currency(accounts: Accounts) -> None:
    accounts.create_tenant("acme", TenantChange(billing="postpaid", plan="standard"))
    with pytest.raises(BadRequest, match="has accounts in USD"):
        accounts.change_tenant("acme", TenantChange(currency="CNY", plan="standard-cny"))
    with pytest.raises(BadRequest, match="is in CNY, tenant acme in USD"):
        accounts.change_tenant("acme", TenantChange(plan="standard-cny"))


def test_a_deleted_tenant_is_shut_and_hidden_but_still_rated(accounts: Accounts) -> None:
    accounts.create_tenant("acme", TenantChange(billing="postpaid", plan="standard"))
    project = accounts.create_project("acme", ProjectChange(name="one"))
    key, _ = accounts.create_key("acme", "k", KeyScope(project.id))
    accounts.delete_tenant("acme")
    assert [one.id for one in accounts.list_tenants()] == [DEFAULT_TENANT]
    assert accounts.list_projects(tenant_id="acme") == []
    assert accounts.key(key.id).revoked_ms > 0
    found = next(one for one in accounts.policy_snapshot().tenants if one.id == "acme")
    assert (found.enabled, found.plan) == (False, "standard")
    for gone in (
        lambda: accounts.tenant("acme"),
        lambda: accounts.delete_tenant("acme"),
        lambda: accounts.create_key("acme", "x"),
        lambda: accounts.project(project.id),
    ):
        with pytest.raises(NotFound):
            gone()
    with pytest.raises(BadRequest, match="already"):
        accounts.create_tenant("acme")
    with pytest.raises(BadRequest, match="default tenant stays"):
        accounts.delete_tenant(DEFAULT_TENANT)
    with pytest.raises(BadRequest, match=r"default\.default stays"):
        accounts.delete_project("default.default")


def test_lists_come_in_pages(accounts: Accounts) -> None:
    for name in ("a", "b", "c"):
        accounts.create_tenant(name)
    assert [one.id for one in accounts.list_tenants(Page(2))] == ["a", "b"]
    assert [one.id for one in accounts.list_tenants(Page(2, "b"))] == ["c", "default"]
    seen = accounts.list_tenants(tenants=frozenset({"b", "nobody"}))
    assert [one.id for one in seen] == ["b"]
    assert accounts.list_tenants(tenants=frozenset()) == []
    assert [one.id for one in accounts.list_projects(Page(1, "a.default"))] == ["b.default"]


def test_a_keys_scope_reaches_the_policy(accounts: Accounts) -> None:
    project = accounts.create_project(DEFAULT_TENANT, ProjectChange(name="one"), project_id="one")
    scope = KeyScope(
        project.id,
        models=("m",),
        endpoints=("chat.completions", "embeddings"),
        networks=("10.0.0.0/8", "2001:db8::/32"),
        limits=LimitRules(concurrent_requests=3),
    )
    key, _ = accounts.create_key(DEFAULT_TENANT, "k", scope)
    (found,) = accounts.policy_snapshot().keys
    assert (found.id, found.project_id, found.models, found.endpoints, found.networks, found.limits) == (
        key.id,
        "one",
        scope.models,
        scope.endpoints,
        scope.networks,
        scope.limits,
    )
    changed = accounts.change_key(key.id, KeyChange(networks=(), name="renamed"))
    assert (changed.networks, changed.name, changed.models) == ((), "renamed", ("m",))


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (KeyScope(endpoints=("chat",)), "no endpoint; expected some of chat.completions"),
        (KeyScope(networks=("10.0.0.1/8",)), "no network"),
        (KeyScope(networks=("anywhere",)), "no network"),
        (KeyScope(models=("m",) * 257), "more than 256"),
        (KeyScope(limits=LimitRules(tokens_per_day=-5)), "tokens_per_day"),
    ],
)
def test_a_wrong_scope_is_named(accounts: Accounts, scope: KeyScope, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        accounts.create_key(DEFAULT_TENANT, "k", scope)


def test_a_key_is_of_a_project_of_its_own_tenant(accounts: Accounts) -> None:
    accounts.create_tenant("acme")
    with pytest.raises(NotFound, match=r"no project acme\.default"):
        accounts.create_key(DEFAULT_TENANT, "k", KeyScope("acme.default"))


def test_the_endpoints_of_a_scope_are_the_gateways() -> None:
    named = {dialect.endpoint for dialect, _, _ in DIALECTS}
    assert named <= set(ENDPOINTS)


def sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def test_a_rotated_key_overlaps_for_as_long_as_asked(accounts: Accounts) -> None:
    key, old = accounts.create_key(DEFAULT_TENANT, "k")
    rotated, new = accounts.rotate_key(key.id, overlap_ms=HOUR_MS)
    assert (rotated.id, rotated.hint == key.hint) == (key.id, False)
    found = {one.sha256: one for one in accounts.policy_snapshot().keys}
    assert set(found) == {sha256(old), sha256(new)}
    assert {one.id for one in found.values()} == {key.id}
    assert found[sha256(new)].expires_ms == 0
    assert found[sha256(old)].expires_ms == rotated.previous_until_ms
    _, newer = accounts.rotate_key(key.id, overlap_ms=HOUR_MS)
    assert {one.sha256 for one in accounts.policy_snapshot().keys} == {sha256(new), sha256(newer)}
    clock_of(accounts).ms += 2 * HOUR_MS
    assert {one.sha256 for one in accounts.policy_snapshot().keys} == {sha256(newer)}
    _, last = accounts.rotate_key(key.id, overlap_ms=0)
    assert {one.sha256 for one in accounts.policy_snapshot().keys} == {sha256(last)}
    accounts.rotate_key(key.id, overlap_ms=HOUR_MS)
    accounts.revoke_key(key.id)
    assert accounts.policy_snapshot().keys == ()
    with pytest.raises(BadRequest, match="revoked for good"):
        accounts.rotate_key(key.id, overlap_ms=0)
    with pytest.raises(BadRequest, match="overlap"):
        accounts.rotate_key(key.id, overlap_ms=-1)


def test_an_old_secret_outlives_neither_its_overlap_nor_its_key(accounts: Accounts) -> None:
    end_ms = clock_of(accounts).ms + HOUR_MS
    key, old = accounts.create_key(DEFAULT_TENANT, "k", KeyScope(expires_ms=end_ms))
    accounts.rotate_key(key.id, overlap_ms=10 * HOUR_MS)
    found = {one.sha256: one for one in accounts.policy_snapshot().keys}
    assert found[sha256(old)].expires_ms == end_ms


def test_a_key_made_elsewhere_is_taken_over_once(accounts: Accounts) -> None:
    known = KnownSecret(sha256("sk-made-elsewhere"), "sk-m…here", "imported-1")
    record = accounts.import_key(DEFAULT_TENANT, "old gateway", KeyScope(), known)
    assert (record.id, record.hint) == ("imported-1", "sk-m…here")
    assert accounts.policy_snapshot().keys[0].sha256 == known.sha256
    for again in (known, KnownSecret(known.sha256), KnownSecret("0" * 64, "x", "imported-1")):
        with pytest.raises(BadRequest) as refused:
            accounts.import_key(DEFAULT_TENANT, "again", KeyScope(), again)
        assert refused.value.code == "exists"
    accounts.rotate_key(record.id, overlap_ms=HOUR_MS)
    with pytest.raises(BadRequest):
        accounts.import_key(DEFAULT_TENANT, "overlapping still", KeyScope(), KnownSecret(known.sha256))


def test_tiers_are_replaced_and_wrong_ones_refused(accounts: Accounts) -> None:
    assert {one.id for one in accounts.list_tiers()} == {"internal", "free", "professional", "enterprise"}
    policy = TierPolicy("free", LimitRules(requests_per_s=9.0), ("text", "image"), weight=3)
    accounts.put_tier(policy)
    assert accounts.tier("free") == policy
    accounts.migrate()
    assert accounts.tier("free") == policy, "what was shipped comes once"
    for wrong in (
        TierPolicy("Free"),
        TierPolicy("x", kinds=()),
        TierPolicy("x", weight=0),
        TierPolicy("x", sla_ppm=1_000_001),
        TierPolicy("x", LimitRules(tokens_per_min=-1)),
    ):
        with pytest.raises(BadRequest):
            accounts.put_tier(wrong)
    with pytest.raises(NotFound, match="no tier x"):
        accounts.tier("x")


def test_a_price_of_the_past_stays_for_good(accounts: Accounts) -> None:
    """What a request of any moment cost does not change when prices do."""
    accounts.create_tenant("acme", TenantChange(billing="postpaid", plan="standard"))
    clock = clock_of(accounts)

    def cost_nano(at_ms: int) -> int:
        row = UsageRow("r", "acme", "p", "k", "m", "chat.completions", "ok", at_ms, 1, 1, 10, 0, 0, 0, False)
        return PriceBook(accounts.policy_snapshot()).rate(row, 0).cost_nano

    before_ms = clock.ms
    assert cost_nano(before_ms) == 10 * 3000
    accounts.add_price("standard", price("m", 10**9))
    now_ms = clock.ms
    assert (cost_nano(before_ms), cost_nano(now_ms)) == (30_000, 10_000)
    later_ms = now_ms + HOUR_MS
    accounts.add_price("standard", price("m", 2 * 10**9, valid_from_ms=later_ms))
    accounts.add_price("standard", price("m", 5 * 10**9, valid_from_ms=later_ms))
    assert (cost_nano(before_ms), cost_nano(now_ms), cost_nano(later_ms)) == (30_000, 10_000, 50_000)
    with pytest.raises(BadRequest, match="would begin in the past, and what was charged stays"):
        accounts.add_price("standard", price("m", 1, valid_from_ms=before_ms))
    with pytest.raises(sa.exc.DatabaseError, match="only ever added"), accounts.writing() as db:
        db.execute(sa.text("UPDATE price SET valid_from_ms = 0"))


def test_a_price_for_a_while_ends_by_itself(accounts: Accounts) -> None:
    now_ms = clock_of(accounts).ms
    accounts.put_plan("mine", PlanTerms("CNY"))
    accounts.add_price("mine", price("*", 1))
    sale = price("m", 5, valid_from_ms=now_ms + HOUR_MS, valid_until_ms=now_ms + 2 * HOUR_MS)
    plan = accounts.add_price("mine", sale)
    assert [(one.model, one.valid_from_ms, one.valid_until_ms) for one in plan.prices] == [
        ("*", 0, 0),
        ("m", now_ms + HOUR_MS, now_ms + 2 * HOUR_MS),
    ]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 0)], [(0, 0)]),
        ([(0, 0), (5, 0)], [(0, 5), (5, 0)]),
        ([(0, 3), (5, 0)], [(0, 3), (5, 0)]),
        ([(0, 9), (5, 7)], [(0, 5), (5, 7)]),
        ([(0, 0), (5, 0), (5, 0), (8, 0)], [(0, 5), (5, 8), (8, 0)]),
    ],
)
def test_prices_follow_one_another(spans: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    prices = [price("m", 1, valid_from_ms=start, valid_until_ms=end) for start, end in spans]
    found = list(one_after_another([*prices, price("n")]))
    assert [(one.valid_from_ms, one.valid_until_ms) for one in found[:-1]] == expected
    assert found[-1] == price("n")


def test_a_plan_keeps_its_currency_and_wrong_terms_are_refused(accounts: Accounts) -> None:
    steps = (VolumeStep(100, 600_000),)
    made = accounts.put_plan("mine", PlanTerms("EUR", steps, 500_000))
    assert (made.currency, made.volume, made.package_factor_ppm) == ("EUR", steps, 500_000)
    assert accounts.put_plan("mine", PlanTerms("EUR")).volume == ()
    with pytest.raises(BadRequest, match="in EUR for good"):
        accounts.put_plan("mine", PlanTerms("USD"))
    for wrong in (
        PlanTerms("euro"),
        PlanTerms("EUR", (VolumeStep(5, 1), VolumeStep(5, 1))),
        PlanTerms("EUR", (VolumeStep(0, 1),)),
        PlanTerms("EUR", (), 0),
        PlanTerms("EUR", (), 1_000_001),
    ):
        with pytest.raises(BadRequest):
            accounts.put_plan("mine", wrong)
    for bad in (
        price("m", -1),
        price(""),
        price("m", 10**15 + 1),
        price("m", off_peak=(OffPeak(1441, 0, "UTC", 1),)),
        price("m", off_peak=(OffPeak(0, 60, "Mars/Base", 1),)),
    ):
        with pytest.raises(BadRequest):
            accounts.add_price("mine", bad)
    with pytest.raises(NotFound, match="no price plan yours"):
        accounts.add_price("yours", price())
    with pytest.raises(BadRequest, match="not after"):
        accounts.add_price("mine", price("m", 1, valid_from_ms=2_000_000_000_000, valid_until_ms=5))


@pytest.mark.slow
def test_a_database_that_goes_away_is_a_matter_of_time(postgres: Any, database: str) -> None:
    made = Accounts(database)
    made.migrate()
    made.create_key(DEFAULT_TENANT, "before")
    postgres.kill()
    for ask in (made.policy_version, made.list_keys, lambda: made.create_key(DEFAULT_TENANT, "meanwhile")):
        with pytest.raises(LedgerUnavailable, match="cannot be used now") as refused:
            ask()
        assert refused.value.code == "accounts_unavailable"
    postgres.start()
    made.create_key(DEFAULT_TENANT, "after")
    assert [key.name for key in made.list_keys()] == ["before", "after"]
    made.close()
