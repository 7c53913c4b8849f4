"""Limits in Redis: the same answers as in memory, and what is held survives whatever happens to whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from shared_limits import (
    KEY,
    LEASE_S,
    NEVER_US,
    Proxy,
    admitted,
    ask,
    limiter,
    refused,
    standing,
    unknown,
    until,
)

from servers import Redis
from sextant.base.errors import LimitsUnavailable, Misconfigured
from sextant.governance.limits.limiter import Hold, ScopeRules
from sextant.governance.shared import limiter as shared_limiter
from sextant.governance.shared.limiter import ASKS_WAITING, FORGOTTEN_S, SharedLimiter
from sextant.governance.shared.words import TOKENS_PER_MIN_MAX
from sextant.spec.stores import SharedLimits
from sextant.telemetry.table import Registry

FIVE = ScopeRules("key:five", interval_us=NEVER_US, burst_requests=5)
TWO_OPEN = ScopeRules("key:two", concurrent_requests=2)
BUCKET = ScopeRules("key:bucket", tokens_per_min=1000)
PREPAID = ScopeRules("tenant:paid", prepaid=True)


async def test_a_refused_request_takes_nothing_of_any_scope(redis_url: str) -> None:
    wide = ScopeRules("tenant:wide", concurrent_requests=100, interval_us=NEVER_US, burst_requests=100)
    async with limiter(redis_url) as one:
        for _ in range(2):
            await admitted(one, ask(wide, TWO_OPEN))
        found = await refused(one, ask(wide, TWO_OPEN))
        assert (found.scope, found.limit, found.held) == ("key:two", "concurrent_requests", True)
        hold = await admitted(one, ask(wide))
        assert hold.requests is not None
        assert hold.requests.remaining == 97


async def test_two_gateways_share_every_limit(redis_url: str) -> None:
    async with limiter(redis_url, "a") as one, limiter(redis_url, "b") as other:
        for number in range(5):
            await admitted((one, other)[number % 2], ask(FIVE))
        assert (await refused(other, ask(FIVE))).limit == "requests_per_s"
        held = [await admitted(one, ask(TWO_OPEN)), await admitted(other, ask(TWO_OPEN))]
        assert (await refused(one, ask(TWO_OPEN))).limit == "concurrent_requests"
        other.settle(held[1], 3)
        other.settle(held[1], 3)  # a second end is none
        other.refund(held[1])
        await until(lambda: not other._ends)
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_a_request_that_begins_again_leaves_no_hold_however_many_ends_are_in_front(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that another model answers gives back what it held and asks anew, under its own id."""
    monkeypatch.setattr(shared_limiter, "ENDS_PER_CALL", 3)
    wide = ScopeRules("tenant:wide", concurrent_requests=100)
    async with limiter(redis_url) as one:
        others = [await admitted(one, ask(wide)) for _ in range(8)]
        first = await admitted(one, ask(TWO_OPEN, request_id="req_again"))
        for hold in (*others, first):
            one.refund(hold)
        again = await admitted(one, ask(TWO_OPEN, request_id="req_again"))
        await until(lambda: not one._ends)
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))
        one.settle(again, 3)
        await until(lambda: not one._ends)
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_tokens_not_used_come_back_and_more_than_reserved_is_taken(redis_url: str) -> None:
    async with limiter(redis_url) as one:
        hold = await admitted(one, ask(BUCKET, tokens=1000))
        assert (await refused(one, ask(BUCKET, tokens=400))).limit == "tokens_per_min"
        one.settle(hold, 300)
        over = await admitted(one, ask(BUCKET, tokens=100))
        assert over.tokens is not None
        assert 600 <= over.tokens.remaining <= 602
        one.settle(over, 750)
        found = await refused(one, ask(BUCKET, tokens=100))
        assert found.retry_after_ms > 1000
        big = await admitted(one, ask(ScopeRules("key:big", tokens_per_min=1000), tokens=50_000))
        assert big.tokens is not None
        assert big.tokens.remaining == 0  # a lone request with a full bucket always passes


async def test_books_and_holds_together_never_exceed_funds(redis_url: str) -> None:
    async with limiter(redis_url, "a") as one, limiter(redis_url, "b") as other:
        assert (await unknown(one, ask(PREPAID, nano=60))).scopes == ("tenant:paid",)
        one.take([standing("tenant:paid", 7, funds_nano=100)])
        hold = await admitted(one, ask(PREPAID, nano=60))
        found = await refused(other, ask(PREPAID, nano=60))
        assert (found.limit, found.allowed, found.needed, found.available, found.held) == (
            "funds", 100, 60, 40, True,
        )  # fmt: skip
        other.take([standing("tenant:paid", 6, funds_nano=1000)])  # older than what is known
        await refused(other, ask(PREPAID, nano=60))
        one.take([standing("tenant:paid", 8, funds_nano=55)])
        one.settle(hold, 10)
        await until(lambda: not one._ends)
        assert (await refused(other, ask(PREPAID, nano=56))).available == 55
        await admitted(other, ask(PREPAID, nano=55))


async def test_amounts_beyond_what_a_double_holds_are_exact(redis_url: str) -> None:
    most = 123_456_789_012_345_678_901
    rich = ScopeRules("tenant:rich", nano_per_month=most)
    async with limiter(redis_url) as one:
        await unknown(one, ask(rich, nano=1))
        one.take([standing("tenant:rich", 1, month_nano=most - 3)])
        assert (await refused(one, ask(rich, nano=4))).available == 3
        await admitted(one, ask(rich, nano=3))
        await refused(one, ask(rich, nano=1))
        one.take([standing("tenant:rich", 2, month_nano=5)])
        await admitted(one, ask(rich, nano=10**15))


@pytest.mark.slow
async def test_a_dead_gateway_loses_its_holds_once_after_its_lease(redis_url: str) -> None:
    async with limiter(redis_url, "b") as other, limiter(redis_url, "c") as third:
        dead = await _dead_with_two_open(redis_url, "a")
        await refused(other, ask(TWO_OPEN))
        assert dead
        await asyncio.sleep(LEASE_S * 2)
        first = await admitted(other, ask(TWO_OPEN))
        await admitted(third, ask(TWO_OPEN))
        await refused(third, ask(TWO_OPEN))  # had they been ended twice, there would be room
        other.refund(first)


async def test_what_a_dead_gateway_booked_is_asked_of_the_ledger(redis_url: str) -> None:
    async with limiter(redis_url, "b", lease_s=5.0) as other:
        await unknown(other, ask(PREPAID, nano=50))
        other.take([standing("tenant:paid", 1, funds_nano=100)])
        await admitted(other, ask(PREPAID, nano=10))
        gone = await _abandoned(redis_url, "a", ask(PREPAID, nano=50))
        assert gone
        async with limiter(redis_url, "a"):  # it starts again and ends what it had left
            await unknown(other, ask(PREPAID, nano=50))
            other.take([standing("tenant:paid", 1, funds_nano=100)])
            await admitted(other, ask(PREPAID, nano=90))


async def test_a_gateway_that_starts_again_ends_what_it_left(redis_url: str) -> None:
    async with limiter(redis_url, "b", lease_s=60.0) as other:
        await _dead_with_two_open(redis_url, "a", lease_s=60.0)
        await refused(other, ask(TWO_OPEN))
        async with limiter(redis_url, "a", lease_s=60.0):
            await admitted(other, ask(TWO_OPEN))
            await admitted(other, ask(TWO_OPEN))
            await refused(other, ask(TWO_OPEN))


async def test_a_lost_answer_is_asked_for_again_and_counts_once(redis_server: Redis) -> None:
    async with Proxy(redis_server.port) as proxy, limiter(proxy.url, timeout_s=5.0) as one:
        await admitted(one, ask(FIVE))
        proxy.swallow = True
        waiting = asyncio.ensure_future(one.admit(ask(FIVE, request_id="again")))
        await asyncio.wait_for(_while_asked(redis_server, "again"), 5)
        proxy.swallow = False
        proxy.cut()
        hold = await waiting
        assert isinstance(hold, Hold)
        for _ in range(3):
            await admitted(one, ask(FIVE))
        await refused(one, ask(FIVE))


async def test_an_end_whose_answer_was_lost_counts_once(redis_server: Redis) -> None:
    async with Proxy(redis_server.port) as proxy, limiter(proxy.url, timeout_s=5.0) as one:
        holds = [await admitted(one, ask(TWO_OPEN)) for _ in range(2)]
        proxy.swallow = True
        one.settle(holds[0], 1)
        await asyncio.wait_for(proxy.passed_on.wait(), 5)
        proxy.swallow = False
        proxy.cut()
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_a_call_that_arrives_late_counts_nothing(redis_server: Redis) -> None:
    """Sent on a connection that was given up, carried out after its successor has reported."""
    async with Proxy(redis_server.port) as proxy, limiter(proxy.url, timeout_s=0.3) as one:
        await admitted(one, ask(TWO_OPEN))
        proxy.held = []
        with pytest.raises(LimitsUnavailable):
            await one.admit(ask(TWO_OPEN))
        late, proxy.held = b"".join(proxy.held), None
        await until(lambda: not one._trouble)
        _, writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
        writer.write(late)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_redis_that_forgets_everything_is_told_again(redis_server: Redis) -> None:
    async with limiter(redis_server.url, "a") as one, limiter(redis_server.url, "b") as other:
        held = await admitted(one, ask(TWO_OPEN))
        redis_server.restart()
        began = time.monotonic()
        second = await _sooner_or_later(other, lambda: ask(TWO_OPEN))
        assert time.monotonic() - began >= LEASE_S / 2  # not before all had time to report
        await refused(other, ask(TWO_OPEN))
        one.settle(held, 5)
        other.settle(second, 5)
        await until(lambda: redis_server.cli("HGET", f"{KEY}s:key:two", "n") == "0")


async def test_a_durable_redis_waits_only_for_those_it_knows(private_redis: Callable[..., Redis]) -> None:
    server = private_redis(durable=True)
    async with limiter(server.url, lease_s=30.0, timeout_s=10.0) as one:
        await admitted(one, ask(TWO_OPEN))
        server.restart()
        await _sooner_or_later(one, lambda: ask(TWO_OPEN), timeout_s=9.0)
        await refused(one, ask(TWO_OPEN))


async def test_scripts_that_redis_dropped_are_sent_again(redis_server: Redis) -> None:
    async with limiter(redis_server.url) as one:
        await admitted(one, ask(FIVE))
        redis_server.cli("SCRIPT", "FLUSH")
        hold = await admitted(one, ask(FIVE))
        redis_server.cli("SCRIPT", "FLUSH")
        one.settle(hold, 1)
        assert (await admitted(one, ask(FIVE))).requests.remaining == 2  # type: ignore[union-attr]


async def test_a_server_that_became_a_replica_is_left_and_found_again(redis_server: Redis) -> None:
    async with limiter(redis_server.url, timeout_s=0.2) as one:
        await admitted(one, ask(TWO_OPEN))
        redis_server.cli("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(LimitsUnavailable):
            await one.admit(ask(TWO_OPEN))
        await until(lambda: "read only replica" in one.trouble)
        redis_server.cli("REPLICAOF", "NO", "ONE")
        await _sooner_or_later(one, lambda: ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_without_memory_redis_admits_nobody_and_still_releases(redis_server: Redis) -> None:
    async with limiter(redis_server.url) as one:
        hold = await admitted(one, ask(TWO_OPEN))
        redis_server.cli("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(LimitsUnavailable, match="maxmemory"):
                await one.admit(ask(TWO_OPEN))
            one.settle(hold, 1)
            await until(lambda: redis_server.cli("HGET", f"{KEY}s:key:two", "n") == "0")
        finally:
            redis_server.cli("CONFIG", "SET", "maxmemory", "0")
        await admitted(one, ask(TWO_OPEN))


async def test_a_server_that_would_evict_limits_is_not_used(redis_server: Redis) -> None:
    redis_server.cli("CONFIG", "SET", "maxmemory", "100mb")
    redis_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        async with limiter(redis_server.url, timeout_s=0.05) as one:
            await until(lambda: "maxmemory-policy noeviction" in one.trouble)
    finally:
        redis_server.cli("CONFIG", "SET", "maxmemory", "0")
        redis_server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.mark.slow
async def test_closed_refuses_soon_and_comes_back_by_itself(redis_server: Redis) -> None:
    async with limiter(redis_server.url, timeout_s=0.3) as one:
        await admitted(one, ask(FIVE))
        redis_server.kill()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(LimitsUnavailable, match="limits cannot be checked now"):
                await one.admit(ask(FIVE))
            assert time.monotonic() - began < 1.5
        assert "limits cannot be checked in Redis" in one.trouble
        redis_server.start()
        await _sooner_or_later(one, lambda: ask(FIVE))
        assert one.trouble == ""


async def test_a_redis_that_hangs_is_given_up_in_time(redis_server: Redis) -> None:
    async with limiter(redis_server.url, timeout_s=0.3, lease_s=5.0) as one:
        await admitted(one, ask(TWO_OPEN))
        with redis_server.frozen():
            began = time.monotonic()
            with pytest.raises(LimitsUnavailable):
                await one.admit(ask(TWO_OPEN))
            assert time.monotonic() - began < 1.5
        await _sooner_or_later(one, lambda: ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_local_goes_on_by_its_own_limits_and_says_so(redis_server: Redis) -> None:
    async with limiter(redis_server.url, timeout_s=0.2, fail="local") as one:
        await admitted(one, ask(TWO_OPEN))
        redis_server.kill()
        mine = [await admitted(one, ask(TWO_OPEN)) for _ in range(2)]
        await refused(one, ask(TWO_OPEN))
        assert one.trouble == ""
        assert "limits cannot be checked in Redis" in one.degraded
        one.settle(mine[0], 1)
        redis_server.start()
        await until(lambda: not one.degraded)
        # Redis is told of what this process still has open: the one from before and the one from meanwhile.
        await until(lambda: redis_server.cli("HGET", f"{KEY}s:key:two", "n") == "2")
        assert (await _answer(one, lambda: ask(TWO_OPEN))).limit == "concurrent_requests"
        one.settle(mine[1], 1)
        await until(lambda: redis_server.cli("HGET", f"{KEY}s:key:two", "n") == "1")


async def test_whoever_leaves_while_waiting_holds_nothing(redis_server: Redis) -> None:
    async with limiter(redis_server.url) as one:
        leavers = [asyncio.ensure_future(one.admit(ask(TWO_OPEN))) for _ in range(2)]
        await asyncio.sleep(0)
        for leaver in leavers:
            leaver.cancel()
        await asyncio.gather(*leavers, return_exceptions=True)
        await until(lambda: not one._open and not one._ends)
        for _ in range(2):
            await admitted(one, ask(TWO_OPEN))


async def test_waiting_admissions_are_bounded(redis_url: str) -> None:
    async with limiter(redis_url) as one:
        await admitted(one, ask(FIVE))
        one._waiting = [None] * ASKS_WAITING  # type: ignore[list-item]
        with pytest.raises(LimitsUnavailable, match=str(ASKS_WAITING)):
            await one.admit(ask(FIVE))
        one._waiting = []


async def test_a_password_by_reference_and_a_wrong_one(
    private_redis: Callable[..., Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = private_redis(password="s3cret")
    monkeypatch.setenv("LIMITS_PASSWORD", "s3cret")
    async with limiter(server.url, warm=False, password_ref="env:LIMITS_PASSWORD") as one:
        await _sooner_or_later(one, lambda: ask(FIVE))
    monkeypatch.setenv("LIMITS_PASSWORD", "wrong")
    with pytest.raises(Misconfigured, match=r"spec\.limits\.username and \.password") as raised:
        async with limiter(server.url, password_ref="env:LIMITS_PASSWORD"):
            pass
    assert "wrong" not in raised.value.message.replace("username", "")


async def test_what_nobody_uses_is_forgotten_by_redis(redis_server: Redis) -> None:
    async with limiter(redis_server.url) as one:
        hold = await admitted(one, ask(TWO_OPEN))
        assert redis_server.cli("PTTL", f"{KEY}s:key:two") == "-1"
        one.settle(hold, 1)
        await until(lambda: redis_server.cli("PTTL", f"{KEY}s:key:two") != "-1")


async def test_a_debt_of_tokens_is_remembered_until_it_is_paid(redis_server: Redis) -> None:
    async with limiter(redis_server.url) as one:
        one.settle(await admitted(one, ask(BUCKET, tokens=60_000)), 60_000)
        await until(lambda: redis_server.cli("PTTL", f"{KEY}s:key:bucket") != "-1")
        assert int(redis_server.cli("PTTL", f"{KEY}s:key:bucket")) > 59 * 60_000
        assert (await refused(one, ask(BUCKET, tokens=1))).retry_after_ms > 58 * 60_000


async def test_tokens_a_minute_count_up_to_what_redis_computes_exactly(redis_server: Redis) -> None:
    for number, limit in enumerate((TOKENS_PER_MIN_MAX - 1, TOKENS_PER_MIN_MAX, 10 * TOKENS_PER_MIN_MAX)):
        rule = ScopeRules(f"key:{number}", tokens_per_min=limit)
        async with limiter(redis_server.url) as one:
            hold = await admitted(one, ask(rule, tokens=TOKENS_PER_MIN_MAX - 2))
            assert hold.tokens is not None
            assert hold.tokens.limit == min(limit, TOKENS_PER_MIN_MAX)
            assert (await refused(one, ask(rule, tokens=TOKENS_PER_MIN_MAX - 2))).retry_after_ms > 50_000


async def test_limits_are_not_shared_between_different_books(redis_server: Redis) -> None:
    async with limiter(redis_server.url, store_id="a") as one, limiter(redis_server.url, "w2", store_id="a"):
        await admitted(one, ask(TWO_OPEN))
        with pytest.raises(Misconfigured, match=r"those of other books.*spec\.limits\.name") as raised:
            await SharedLimiter(SharedLimits(redis_server.url, "w3", store_id="b"), Registry()).start()
        assert raised.value.field == "spec.limits.name"
        async with limiter(redis_server.url, "w3", store_id="b", name="another") as other:
            for _ in range(2):
                await admitted(other, ask(TWO_OPEN))
        await admitted(one, ask(TWO_OPEN))
        await refused(one, ask(TWO_OPEN))


async def test_a_name_is_free_when_the_books_that_had_it_are_long_gone(redis_server: Redis) -> None:
    async with limiter(redis_server.url, store_id="a") as one:
        await admitted(one, ask(TWO_OPEN))
    (owner,) = redis_server.cli("ZRANGE", f"{KEY}owners", "0", "-1").split()
    for gone_s, free in ((FORGOTTEN_S - 30, False), (FORGOTTEN_S + 30, True)):
        redis_server.cli("ZADD", f"{KEY}owners", str(int((time.time() - gone_s) * 1_000_000)), owner)
        if not free:
            with pytest.raises(Misconfigured, match="other books"):
                async with limiter(redis_server.url, "w2", store_id="b"):
                    pass
            continue
        async with limiter(redis_server.url, "w2", store_id="b") as other:
            for _ in range(2):
                await admitted(other, ask(TWO_OPEN))  # what the dead one held is free


async def test_other_books_after_a_loss_of_data_are_refused_while_running(redis_server: Redis) -> None:
    async with limiter(redis_server.url, store_id="a", timeout_s=0.2) as one:
        redis_server.cli("HSET", f"{KEY}meta", "store", "b")  # who came first after Redis had lost all
        redis_server.cli("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: "those of other books" in one.trouble)
        with pytest.raises(LimitsUnavailable, match="other books"):
            await one.admit(ask(TWO_OPEN))


async def _abandoned(url: str, worker: str, *asks: object, lease_s: float = LEASE_S) -> SharedLimiter:
    """A gateway that died with these admissions open: its task ends without a word to Redis."""
    async with limiter(url, worker, lease_s=lease_s) as dead:
        for one in asks:
            await admitted(dead, one)  # type: ignore[arg-type]
    return dead


async def _dead_with_two_open(url: str, worker: str, lease_s: float = LEASE_S) -> SharedLimiter:
    return await _abandoned(url, worker, ask(TWO_OPEN), ask(TWO_OPEN), lease_s=lease_s)


async def _while_asked(server: Redis, request_id: str) -> None:
    """Until Redis has recorded a hold."""
    while not any(request_id in server.cli("HKEYS", key) for key in server.cli("KEYS", f"{KEY}h:*").split()):
        await asyncio.sleep(0.01)


async def _answer(of: SharedLimiter, make: Callable[[], object], timeout_s: float = 10.0) -> object:
    """The first answer that is not "unavailable"."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await of.admit(make())  # type: ignore[arg-type]
        except LimitsUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def _sooner_or_later(of: SharedLimiter, make: Callable[[], object], timeout_s: float = 10.0) -> Hold:
    found = await _answer(of, make, timeout_s)
    assert isinstance(found, Hold), found
    return found
