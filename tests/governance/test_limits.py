"""Limits in memory: against a plain model, at each bound, and with a clock that goes back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits_model import LimiterMachine

from sextant.governance.limits import memory as memory_module
from sextant.governance.limits.limiter import Ask, Headroom, Hold, Limiter, Refused, ScopeRules, Unknown
from sextant.governance.limits.memory import MemoryLimiter
from sextant.governance.limits.rules import merged, rules_of
from sextant.spec.policy import LimitRules, Standing

DAY, MONTH = 20261122, 202611


class Clock:
    def __init__(self) -> None:
        self.us = 5_000_000_000

    def __call__(self) -> int:
        return self.us


def now(admission: Coroutine[Any, Any, Hold | Refused | Unknown]) -> Hold | Refused | Unknown:
    """The answer of a limiter that never waits."""
    try:
        admission.send(None)
    except StopIteration as done:
        answer: Hold | Refused | Unknown = done.value
        return answer
    raise AssertionError("a limiter in memory has nothing to wait for")


class MemoryMachine(LimiterMachine):
    def make(self) -> Limiter:
        return MemoryLimiter(lambda: self.us)

    def ask(self, ask: Ask) -> Hold | Refused | Unknown:
        return now(self.limiter.admit(ask))  # type: ignore[arg-type]


TestAgainstTheModel = pytest.mark.slow(MemoryMachine.TestCase)
TestAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


class Limits:
    """A limiter, its clock, and short ways to ask it."""

    def __init__(self, *rules: ScopeRules) -> None:
        self.clock = Clock()
        self.limiter = MemoryLimiter(self.clock)
        self.rules = rules

    def ask(self, tokens: int = 0, nano: int = 0, **more: Any) -> Hold | Refused | Unknown:
        return now(self.limiter.admit(Ask("req", self.rules, tokens, nano, DAY, MONTH, **more)))

    def admit(self, tokens: int = 0, nano: int = 0) -> Hold:
        found = self.ask(tokens, nano)
        assert isinstance(found, Hold), found
        return found

    def refuse(self, tokens: int = 0, nano: int = 0) -> Refused:
        found = self.ask(tokens, nano)
        assert isinstance(found, Refused), found
        return found


def rules(scope: str = "key:a", *, prepaid: bool = False, **limits: Any) -> ScopeRules:
    found = rules_of(scope, LimitRules(**limits), prepaid=prepaid)
    assert found is not None
    return found


def test_the_rate_is_a_burst_and_then_one_each_interval() -> None:
    limits = Limits(rules(requests_per_s=5.0))
    rooms = [limits.admit().requests for _ in range(5)]
    assert [room and room.remaining for room in rooms] == [4, 3, 2, 1, 0]
    assert rooms[0] == Headroom(5, 4, 200)
    refused = limits.refuse()
    assert (refused.limit, refused.allowed, refused.retry_after_ms) == ("requests_per_s", 5, 200)
    limits.clock.us += 199_999
    assert limits.refuse().retry_after_ms == 1
    limits.clock.us += 1
    limits.admit()
    limits.refuse()


@given(rate=st.floats(0.01, 50_000), burst=st.integers(0, 50))
def test_never_more_than_burst_and_rate_in_any_window(rate: float, burst: int) -> None:
    limits = Limits(rules(requests_per_s=rate, burst_requests=burst))
    begun_us, admitted = limits.clock.us, 0
    for _ in range(120):
        found = limits.ask()
        if isinstance(found, Refused):
            assert found.retry_after_ms > 0
            limits.clock.us += found.retry_after_ms * 1000
        else:
            admitted += 1
        passed_s = (limits.clock.us - begun_us) / 1e6
        assert admitted <= (burst or max(1, int(rate))) + math.floor(passed_s * rate + 1e-9)
    assert admitted >= 60, "who waits as told is let in"


@given(steps=st.lists(st.tuples(st.integers(1, 900), st.integers(0, 30_000_000)), min_size=1, max_size=40))
def test_the_wait_for_tokens_is_exact(steps: list[tuple[int, int]]) -> None:
    limits = Limits(rules(tokens_per_min=777))
    for tokens, pause_us in steps:
        found = limits.ask(tokens)
        if isinstance(found, Refused):
            wait_us = found.retry_after_ms * 1000
            limits.clock.us += wait_us - 1000
            assert isinstance(limits.ask(tokens), Refused), "a millisecond earlier it is too soon"
            limits.clock.us += 1000
            limits.admit(tokens)
        limits.clock.us += pause_us


def test_a_lone_request_with_a_full_bucket_passes_and_pays_what_it_used_beyond() -> None:
    limits = Limits(rules(tokens_per_min=600))
    hold = limits.admit(tokens=100_000)
    assert hold.tokens == Headroom(600, 0, 60_000)
    limits.limiter.settle(hold, 1200)
    assert limits.refuse(tokens=1).retry_after_ms == 60_100
    limits.clock.us += 120_000_000
    limits.admit(tokens=600)


def test_tokens_not_used_come_back_and_the_bucket_never_overflows() -> None:
    limits = Limits(rules(tokens_per_min=600))
    hold = limits.admit(tokens=600)
    limits.clock.us += 30_000_000
    limits.limiter.settle(hold, 100)
    limits.admit(tokens=600)
    limits.refuse(tokens=1)


def test_a_bucket_never_overflows_at_a_clock_that_stands_still() -> None:
    limits = Limits(rules(tokens_per_min=600))
    hold = limits.admit(tokens=600)
    limits.clock.us += 60_000_000
    limits.admit(tokens=0)
    limits.limiter.refund(hold)
    assert limits.admit(tokens=600).tokens == Headroom(600, 0, 60_000)
    limits.refuse(tokens=1)


def test_all_scopes_are_checked_before_any_is_charged() -> None:
    limits = Limits(
        rules("key:a", requests_per_s=3.0, tokens_per_min=1000),
        rules("project:p", concurrent_requests=5),
        rules("tenant:t", concurrent_requests=1),
    )
    hold = limits.admit(tokens=100)
    for _ in range(50):
        assert limits.refuse(tokens=100).scope == "tenant:t"
    limits.limiter.refund(hold)
    after = limits.admit(tokens=100)
    assert after.tokens == Headroom(1000, 900, 6000)
    assert after.requests == Headroom(1, 0, 0), "the tenant's, which is tightest"


def test_of_several_limits_the_one_that_takes_longest_is_named() -> None:
    limits = Limits(
        rules("key:a", requests_per_s=1.0),
        rules("tenant:t", tokens_per_min=60),
        rules("project:p", concurrent_requests=1),
    )
    limits.admit(tokens=60)
    refused = limits.refuse(tokens=10)
    assert (refused.scope, refused.limit, refused.retry_after_ms) == ("tenant:t", "tokens_per_min", 10_000)


def test_a_scope_never_heard_of_is_asked_for_and_an_expired_package_again() -> None:
    limits = Limits(rules("tenant:t", prepaid=True))
    assert limits.ask(1, 5) == Unknown(("tenant:t",))
    limits.limiter.take([Standing("tenant:t", 0, 0, 0, 0, 0, 0)])
    assert limits.refuse(1, 5).limit == "funds"
    limits.limiter.take([Standing("tenant:t", 1, DAY, 0, MONTH, 0, 0, 100, funds_until_ms=5000)])
    assert isinstance(limits.ask(1, 5, now_ms=4999), Hold)
    assert limits.ask(1, 5, now_ms=5000) == Unknown(("tenant:t",))
    assert isinstance(limits.ask(1, 5), Hold), "what the ledger has just said again is true"


def test_books_and_holds_together_never_exceed_the_funds() -> None:
    limits = Limits(rules("tenant:t", prepaid=True))
    limits.ask()
    limits.limiter.take([Standing("tenant:t", 1, DAY, 0, MONTH, 0, 0, 100)])
    first, second = limits.admit(1, 60), limits.admit(1, 40)
    held = limits.refuse(1, 1)
    assert (held.limit, held.held, held.available, held.needed) == ("funds", True, 0, 1)
    limits.limiter.take([Standing("tenant:t", 2, DAY, 1, MONTH, 1, 10, 90)])
    assert limits.refuse(1, 1).available == 0, "both count until the hold has ended"
    limits.limiter.settle(first, 1)
    assert limits.refuse(1, 51).available == 50
    limits.limiter.refund(second)
    assert not limits.refuse(1, 91).held
    limits.admit(1, 90)


def test_an_older_standing_that_comes_late_changes_nothing() -> None:
    limits = Limits(rules("tenant:t", prepaid=True))
    limits.ask()
    limits.limiter.take([Standing("tenant:t", 2, DAY, 1, MONTH, 1, 90, 10)])
    limits.limiter.take([Standing("tenant:t", 1, DAY, 0, MONTH, 0, 0, 100)])
    assert limits.refuse(1, 11).available == 10


def test_a_new_day_and_a_new_month_begin_at_nothing() -> None:
    limits = Limits(rules("key:a", tokens_per_day=100, spend_nano_per_month=100))
    limits.ask()
    limits.limiter.take([Standing("key:a", 1, DAY, 100, MONTH, 100, 100)])
    assert limits.refuse(1, 0).limit == "tokens_per_day"
    assert limits.refuse(0, 1).limit == "spend_nano_per_month"
    limits.limiter.take([Standing("key:a", 2, DAY - 1, 100, MONTH - 1, 100, 100)])
    limits.admit(100, 100)


def test_a_clock_that_goes_back_costs_a_full_burst_at_most() -> None:
    limits = Limits(rules(requests_per_s=5.0, tokens_per_min=600))
    for _ in range(5):
        limits.admit(tokens=120)
    limits.clock.us -= 3_600_000_000
    assert limits.refuse(tokens=1).retry_after_ms <= 1000
    limits.clock.us += 1_000_000
    limits.admit(tokens=10)


def test_a_scope_that_is_idle_is_forgotten_and_an_open_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "SCOPES_KEPT", 50)
    limits = Limits()
    limits.limiter._sweep_at = 50
    limits.rules = (rules("key:open", requests_per_s=1.0, concurrent_requests=1),)
    limits.admit()
    for number in range(500):
        limits.rules = (rules(f"key:{number}", requests_per_s=1.0),)
        limits.limiter.refund(limits.admit())
        limits.clock.us += 1_000_000
        assert len(limits.limiter) <= 51
    limits.rules = (rules("key:open", requests_per_s=1.0, concurrent_requests=1),)
    assert limits.refuse().limit == "concurrent_requests"


async def test_parallel_requests_never_exceed_the_limit_by_one() -> None:
    limiter = MemoryLimiter()
    rule = rules(concurrent_requests=7)
    running = most = refused = 0

    async def one(number: int) -> None:
        nonlocal running, most, refused
        found = await limiter.admit(Ask(str(number), (rule,), 0, 0))
        if not isinstance(found, Hold):
            refused += 1
            return
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (number % 3))
        running -= 1
        limiter.settle(found, 0)

    await asyncio.gather(*(one(number) for number in range(200)))
    assert (most, refused > 0) == (7, True)
    assert isinstance(await limiter.admit(Ask("last", (rule,), 0, 0)), Hold)


def test_limits_that_change_keep_what_is_used() -> None:
    limits = Limits(rules(tokens_per_min=600, concurrent_requests=3))
    limits.admit(tokens=600)
    limits.rules = (rules(tokens_per_min=60_000, concurrent_requests=2),)
    limits.clock.us += 1_000_000
    limits.admit(tokens=1000)
    assert limits.refuse(tokens=0).limit == "concurrent_requests"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"requests_per_s": 3.0}, ScopeRules("s", 333_334, 3)),
        ({"requests_per_s": 0.25}, ScopeRules("s", 4_000_000, 1)),
        ({"requests_per_s": 2.0, "burst_requests": 9}, ScopeRules("s", 500_000, 9)),
        ({"requests_per_s": 0.0}, ScopeRules("s", concurrent_requests=0)),
        ({"tokens_per_min": 0}, ScopeRules("s", concurrent_requests=0)),
        ({"tokens_per_day": 0}, ScopeRules("s", tokens_per_day=0)),
        ({}, None),
        ({"burst_requests": 4}, None),
    ],
)
def test_rules_are_whole_numbers(given_: dict[str, Any], expected: ScopeRules | None) -> None:
    assert rules_of("s", LimitRules(**given_)) == expected


def test_a_tenants_own_limits_replace_those_of_its_tier_one_by_one() -> None:
    tier = LimitRules(requests_per_s=5, burst_requests=20, tokens_per_min=1000)
    own = LimitRules(tokens_per_min=9000, tokens_per_day=7)
    expected = LimitRules(requests_per_s=5, burst_requests=20, tokens_per_min=9000, tokens_per_day=7)
    assert merged(tier, own) == expected
    assert merged(tier, LimitRules(requests_per_s=2)) == LimitRules(requests_per_s=2, tokens_per_min=1000)


def test_more_keys_than_are_remembered_bound_share_the_same_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept by key is a shorter way to the scopes: dropped at its bound, nothing is lost."""
    monkeypatch.setattr(memory_module, "SCOPES_KEPT", 8)
    limits = Limits()
    shared = rules("tenant:t", concurrent_requests=20)
    open_ones = []
    for number in range(20):
        limits.rules = (rules(f"key:{number}", requests_per_s=1.0), shared)
        open_ones.append(limits.admit())
        assert len(limits.limiter._bound) <= 8
    limits.rules = (rules("key:last", requests_per_s=1.0), shared)
    assert limits.refuse().limit == "concurrent_requests"
    limits.limiter.refund(open_ones[0])
    limits.admit()


async def test_what_is_decided_at_once_is_decided_the_same_way_by_waiting() -> None:
    limiter = MemoryLimiter()
    ask = Ask("a", (rules(concurrent_requests=1),), 0, 0)
    hold = limiter.admit_now(ask)
    assert hold is not None and limiter.admit_now(ask) is None
    refused = await limiter.admit(ask)
    assert isinstance(refused, Refused) and refused.limit == "concurrent_requests"
    limiter.settle(hold, 0)
    assert isinstance(await limiter.admit(ask), Hold)
