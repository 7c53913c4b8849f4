"""The governor with limits, prices and a real ledger: who is refused what, in which words, for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governed_books import NANO_PER_TOKEN, NOW_MS, Books, books, key, outcome, policy
from ledger_under_test import stored
from sextant.base.errors import (
    Forbidden,
    InsufficientBalance,
    LedgerUnavailable,
    RateLimited,
    Unauthenticated,
)
from sextant.governance import standings as standings_module
from sextant.governance.door import Claim, Principal
from sextant.governance.limits.limiter import Headroom
from sextant.governance.limits.memory import MemoryLimiter
from sextant.spec.policy import LimitRules, ProjectPolicy, TenantPolicy, TierPolicy
from sextant.spec.snapshot import PolicySnapshot

PREPAID = TenantPolicy("t", "T", billing="prepaid", plan="flat")
ENTERPRISE = TierPolicy("enterprise", kinds=("text", "image"), sla_ppm=999_000, pool="big", weight=8)


def limited(**limits: Any) -> PolicySnapshot:
    """One key whose own limits are `limits`, of a tenant that pays nothing."""
    return policy(key("a", "t", limits=LimitRules(**limits)), tenants=(TenantPolicy("t", "T"),))


async def refused(setup: Books, name: str = "a", tokens: int = 100) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await setup.admit(name, tokens)
    return caught.value


# limits


async def test_the_refusal_names_scope_limit_and_wait(tmp_path: Path) -> None:
    async with books(tmp_path, limited(requests_per_s=0.5)) as setup:
        admission = await setup.admit("a")
        assert admission.hold is not None and admission.hold.requests == Headroom(1, 0, 2000)
        error = await refused(setup)
        assert error.message.startswith(
            "Rate limit reached for key a: its burst of 1 requests is used up; try "
        )
        assert error.retry_after_s is not None
        assert 1.5 < error.retry_after_s <= 2
        assert error.headroom[0].remaining == 0
        assert (error.code, setup.governor.open_admissions) == ("rate_limit_exceeded", {"t": 1})
        assert (
            setup.registry.prometheus.get_sample_value(
                "sextant_governance_limited_total", {"limit": "requests_per_s", "scope": "key"}
            )
            == 1
        )
        setup.governor.refund(admission)


@pytest.mark.parametrize("waits", [True, False], ids=["settle", "settle_soon"])
async def test_a_row_that_finds_no_room_gives_back_what_was_set_aside(tmp_path: Path, waits: bool) -> None:
    async with books(tmp_path, limited(concurrent_requests=1)) as setup:
        admission = await setup.admit("a")
        setup.ledger._pending_rows_max = 0
        if waits:
            with pytest.raises(LedgerUnavailable):
                await setup.governor.settle(admission, outcome(10))
        else:
            setup.governor.settle_soon(admission, outcome(10))
        setup.ledger._pending_rows_max = 1
        await setup.run("a")


async def test_one_at_a_time_is_one_at_a_time_until_the_row_is_durable(tmp_path: Path) -> None:
    async with books(tmp_path, limited(concurrent_requests=1)) as setup:
        admission = await setup.admit("a")
        error = await refused(setup)
        assert (error.retry_after_s, error.code) == (1.0, "rate_limit_exceeded")
        await setup.governor.settle(admission, outcome(10))
        await setup.run("a")
        left = await setup.admit("a")
        setup.governor.settle_soon(left, outcome(10, "client_closed"))
        await refused(setup)
        async with asyncio.timeout(5):
            while len(stored(setup.db_path)) < 3:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while setup.ledger.pending_rows:
                await asyncio.sleep(0.005)
        await setup.run("a")


async def test_a_cancelled_settle_ends_its_hold_with_its_row(tmp_path: Path) -> None:
    async with books(tmp_path, limited(concurrent_requests=1)) as setup:
        admission = await setup.admit("a")
        task = asyncio.ensure_future(setup.governor.settle(admission, outcome(10)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            while setup.ledger.pending_rows:
                await asyncio.sleep(0.005)
        await setup.run("a")


async def test_tokens_of_the_day_are_those_of_the_books_and_of_open_requests(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t", limits=LimitRules(tokens_per_day=1000)),
        tenants=(TenantPolicy("t", "T", time_zone="Asia/Shanghai"),),
    )
    async with books(tmp_path, snapshot) as setup:
        await setup.run("a", 600, used=300)
        open_ = await setup.admit("a", 600)
        held = await refused(setup, tokens=200)
        assert "100 are left while others are under way" in held.message
        assert held.code == "rate_limit_exceeded"
        setup.governor.refund(open_)
        await setup.run("a", 700)
        error = await refused(setup, tokens=1)
        assert error.code == "insufficient_quota"
        # NOW_MS is 19:06:40 on 18 November 2026 in Shanghai
        assert error.retry_after_s == 4 * 3600 + 53 * 60 + 20
        setup.clock.ms += 1000 * int(error.retry_after_s)
        await setup.run("a", 1000)


async def test_the_budget_of_the_month_counts_what_can_be_spent(tmp_path: Path) -> None:
    nano = 1000 * NANO_PER_TOKEN
    snapshot = policy(
        key("a", "t", project_id="p"),
        tenants=(TenantPolicy("t", "T", billing="postpaid", plan="flat"),),
        projects=(ProjectPolicy("p", "t", "P", limits=LimitRules(spend_nano_per_month=nano)),),
    )
    async with books(tmp_path, snapshot) as setup:
        await setup.run("a", 600)
        error = await refused(setup, tokens=401)
        assert error.message.startswith(
            "Rate limit reached for project p: 0.001 CNY a month, of which 0.0004"
        )
        assert error.retry_after_s is not None
        assert (error.retry_after_s > 12 * 86_400, error.code) == (True, "insufficient_quota")
        await setup.run("a", 400)


async def test_the_tightest_of_key_project_and_tenant_wins(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t", project_id="p", limits=LimitRules(tokens_per_min=10_000)),
        key("b", "t", project_id="p"),
        tenants=(TenantPolicy("t", "T", tier="small", limits=LimitRules(concurrent_requests=2)),),
        tiers=(TierPolicy("small", LimitRules(concurrent_requests=1, tokens_per_min=500)),),
        projects=(ProjectPolicy("p", "t", "P", limits=LimitRules(tokens_per_min=2000)),),
    )
    async with books(tmp_path, snapshot) as setup:
        first = await setup.admit("a", 300)
        assert first.hold is not None and first.hold.tokens == Headroom(500, 200, 36_000)
        assert "tenant t: 500 tokens a minute" in (await refused(setup, "b", 201)).message
        second = await setup.admit("b", 200)
        assert "tenant t: 2 requests at a time" in (await refused(setup, "a", 0)).message
        setup.governor.refund(first)
        setup.governor.refund(second)


async def test_who_is_not_limited_holds_nothing(tmp_path: Path) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(TenantPolicy("t", "T"),))) as setup:
        admission = await setup.admit("a", 10**9)
        assert admission.hold is None
        setup.governor.refund(admission)


async def test_what_runs_no_model_takes_no_tokens(tmp_path: Path) -> None:
    async with books(tmp_path, limited(tokens_per_min=10, tokens_per_day=10)) as setup:
        await setup.run("a", 10)
        setup.governor.refund(await setup.admit("a", 500, metered=False))
        await refused(setup, tokens=1)


# money


async def test_who_has_nothing_is_told_so_in_deepseeks_words_and_a_top_up_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(PREPAID,))) as setup:
        with pytest.raises(InsufficientBalance, match="Insufficient Balance: this request may cost up to"):
            await setup.admit("a", 100)
        assert setup.governor.open_admissions == {}
        assert await setup.governor.balance(setup.who("a")) == ("CNY", 0)
        setup.top_up("t", 1000 * NANO_PER_TOKEN)
        monkeypatch.setattr(standings_module, "REFRESH_INTERVAL_S", 0.0)
        await setup.run("a", 1000, used=400)
        assert await setup.governor.balance(setup.who("a")) == ("CNY", 600 * NANO_PER_TOKEN)
        with pytest.raises(InsufficientBalance):
            await setup.admit("a", 601)
        await setup.run("a", 600)
        assert await setup.governor.balance(setup.who("a")) == ("CNY", 0)


async def test_the_ledger_is_asked_seldom_for_the_sake_of_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(PREPAID,))) as setup:
        asked = 0
        standings = setup.ledger.standings

        async def counted(scopes: Any) -> Any:
            nonlocal asked
            asked += 1
            return await standings(scopes)

        monkeypatch.setattr(setup.ledger, "standings", counted)

        async def one() -> None:
            with pytest.raises(InsufficientBalance):
                await setup.admit("a", 100)

        await asyncio.gather(*(one() for _ in range(100)))
        assert asked <= 3, "once at first sight, once before the refusal, and who came in between"


async def test_parallel_requests_never_spend_more_than_there_is(tmp_path: Path) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(PREPAID,))) as setup:
        setup.top_up("t", 1000 * NANO_PER_TOKEN)
        done = 0

        async def one() -> None:
            nonlocal done
            try:
                await setup.run("a", 100)
                done += 1
            except (RateLimited, InsufficientBalance):
                pass

        await asyncio.gather(*(one() for _ in range(200)))
        assert done == 10
        assert await setup.governor.balance(setup.who("a")) == ("CNY", 0)
        with pytest.raises(InsufficientBalance):
            await setup.admit("a", 1)


async def test_a_balance_that_open_requests_hold_is_a_matter_of_waiting(tmp_path: Path) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(PREPAID,))) as setup:
        setup.top_up("t", 100 * NANO_PER_TOKEN)
        first = await setup.admit("a", 100)
        error = await refused(setup, tokens=50)
        assert "set aside for requests under way" in error.message
        await setup.governor.settle(first, outcome(50))
        await setup.run("a", 50)


async def test_what_has_no_price_is_not_given_away(tmp_path: Path) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(PREPAID,))) as setup:
        with pytest.raises(Forbidden) as caught:
            await setup.governor.admit(setup.who("a"), Claim("r", "other", "chat.completions", 1, 1))
        assert caught.value.code == "no_price"


async def test_a_tenant_whose_plan_is_missing_is_refused_and_the_others_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = (TenantPolicy("t", "T"), msgspec.structs.replace(PREPAID, id="lost", plan="none such"))
    sound = policy(key("a", "t"), tenants=tenants[:1])
    async with books(tmp_path, sound) as setup:
        broken = msgspec.structs.replace(
            sound, version=2, tenants=tenants, keys=(*sound.keys, key("b", "lost"))
        )
        setup.governor.swap_policy(broken)
        await setup.run("a")
        with pytest.raises(Unauthenticated):
            setup.who("b")
        assert "tenant lost is refused" in caplog.text


async def test_without_the_ledger_nobody_learns_a_balance(tmp_path: Path) -> None:
    async with books(tmp_path, policy(key("a", "t"), tenants=(PREPAID,))) as setup:
        principal = setup.who("a")
        await setup.ledger.close()
        with pytest.raises(LedgerUnavailable):
            await setup.governor.balance(principal)
        with pytest.raises(LedgerUnavailable):
            await setup.admit("a")
        assert setup.governor.open_admissions == {}


# who may what


async def test_a_project_that_is_off_keeps_its_keys_out(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t", project_id="p"),
        key("x", "t", project_id="gone"),
        key("y", "t", project_id="q"),
        tenants=(TenantPolicy("t", "T"), TenantPolicy("u", "U")),
        projects=(ProjectPolicy("p", "t", "P", enabled=False), ProjectPolicy("q", "u", "Q")),
    )
    async with books(tmp_path, snapshot) as setup:
        with pytest.raises(Forbidden, match="project p is switched off"):
            setup.who("a")
        for name in ("x", "y"):
            with pytest.raises(Unauthenticated):
                setup.who(name)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7", True),
        ("fe80::1%eth0", False),
        ("", False),
        ("unix", False),
    ],
)
async def test_a_key_is_used_from_its_networks_alone(tmp_path: Path, peer: str, allowed: bool) -> None:
    snapshot = policy(
        key("a", "t", networks=("10.1.0.0/16", "2001:db8::/32")), tenants=(TenantPolicy("t", "T"),)
    )
    async with books(tmp_path, snapshot) as setup:
        for _ in range(2):
            if allowed:
                assert setup.governor.identify(b"sk-a", peer).key_id == "a"
            else:
                with pytest.raises(Forbidden, match="may not be used from"):
                    setup.governor.identify(b"sk-a", peer)


async def test_a_key_with_a_network_that_is_none_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = policy(key("a", "t", networks=("10.1.0.0/99",)), tenants=(TenantPolicy("t", "T"),))
    async with books(tmp_path, snapshot) as setup:
        with pytest.raises(Unauthenticated):
            setup.who("a")
        assert "10.1.0.0/99 are no networks" in caplog.text


async def test_endpoints_models_and_kinds_are_those_of_key_tenant_and_tier(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t", endpoints=("embeddings",), models=("nano", "small")),
        key("b", "t"),
        tenants=(TenantPolicy("t", "T", tier="free", models=("nano", "big")),),
        tiers=(TierPolicy("free", weight=3),),
    )
    async with books(tmp_path, snapshot) as setup:
        assert setup.who("a").reach.models == {"nano"}
        assert (setup.who("b").reach.models, setup.who("b").weight) == ({"nano", "big"}, 3)
        with pytest.raises(Forbidden, match="for embeddings only, not for chat"):
            await setup.admit("a")
        with pytest.raises(Forbidden, match="may not use the model 'other'"):
            await setup.governor.admit(setup.who("b"), Claim("r", "other", "messages", 1, 1))
        with pytest.raises(Forbidden, match="the tier 'free' allows text, not image") as caught:
            await setup.admit("b", kinds=("image",))
        assert caught.value.code == "tier_forbids"
        setup.governor.refund(await setup.admit("b"))


async def test_a_tier_that_the_policy_lacks_lets_nobody_in(tmp_path: Path) -> None:
    snapshot = policy(key("a", "t"), tenants=(TenantPolicy("t", "T", tier="gold"),))
    async with books(tmp_path, snapshot) as setup:
        with pytest.raises(Unauthenticated):
            setup.who("a")


async def test_a_rotated_key_is_one_key_under_two_secrets_until_the_old_one_ends(tmp_path: Path) -> None:
    old = msgspec.structs.replace(key("old", "t"), id="a", expires_ms=NOW_MS + 1000)
    new = msgspec.structs.replace(key("new", "t"), id="a")
    limits = LimitRules(concurrent_requests=1)
    keys = tuple(msgspec.structs.replace(one, limits=limits) for one in (old, new))
    for order in (keys, keys[::-1]):
        async with books(tmp_path, policy(*order, tenants=(TenantPolicy("t", "T"),))) as setup:
            admission = await setup.admit("old")
            await refused(setup, "new")
            setup.governor.refund(admission)
            setup.clock.ms += 1000
            with pytest.raises(Unauthenticated, match="expired"):
                setup.who("old")
            await setup.run("new")


async def test_a_row_names_the_project_and_a_promise_is_kept_book_of(tmp_path: Path) -> None:
    snapshot = policy(
        key("a", "t", project_id="p"),
        key("b", "u"),
        tenants=(TenantPolicy("t", "T", tier="enterprise"), TenantPolicy("u", "U")),
        tiers=(ENTERPRISE,),
        projects=(ProjectPolicy("p", "t", "P"),),
    )
    async with books(tmp_path, snapshot) as setup:
        assert setup.who("a") == Principal("t", "a", "p", setup.who("a").reach, 8)
        assert setup.who("a").reach.pool == "big"
        for name in ("a", "b"):
            admission = await setup.admit(name)
            setup.governor.unserved(admission, outcome(0, "refused"))
            setup.governor.unserved(admission, outcome(0, "refused"))
        await setup.ledger.close()
        (row,) = stored(setup.db_path).values()
        assert row[1:4] + row[6:7] == ("t", "p", "a", "refused")
        assert setup.governor.open_admissions == {}


async def test_a_limiter_that_is_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with books(tmp_path, limited(requests_per_s=1.0)) as setup:
        assert setup.governor.limits == (True, "")
        monkeypatch.setattr(MemoryLimiter, "degraded", "limits are counted here alone")
        assert setup.governor.limits == (True, "limits are counted here alone")
        assert b"sextant_governance_limits_degraded 1.0" in setup.registry.exposition()
        monkeypatch.setattr(MemoryLimiter, "trouble", "no answer")
        assert setup.governor.limits == (False, "no answer")
