"""What a request is told of limits that Redis keeps, worked out of the raw state of its scopes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sextant.governance.limits.limiter import NO_LIMIT, Ask, Headroom, ScopeRules
from sextant.governance.limits.memory import MemoryLimiter
from sextant.governance.limits.rates import MINUTE_US
from sextant.governance.shared.words import headroom_of


def test_tokens_left_are_told_with_their_limit_and_when_all_are_back() -> None:
    rules = (ScopeRules("key:a", tokens_per_min=1000), ScopeRules("tenant:t", tokens_per_min=5000))
    answer = (1, 0, 250 * MINUTE_US, 1, 0, 4000 * MINUTE_US, 1)
    assert headroom_of(answer, rules, 7) == (None, Headroom(1000, 250, 45_000))


@given(
    interval_us=st.one_of(st.just(NO_LIMIT), st.integers(1, 10**6)),
    burst=st.integers(1, 50),
    per_min=st.one_of(st.just(NO_LIMIT), st.integers(0, 10**6)),
    concurrent=st.one_of(st.just(NO_LIMIT), st.integers(1, 50)),
    tokens=st.integers(0, 10**5),
)
def test_redis_and_memory_tell_the_same(
    interval_us: int, burst: int, per_min: int, concurrent: int, tokens: int
) -> None:
    """The script answers with the state after the request, which is the memory's own."""
    limiter = MemoryLimiter(lambda: 7)
    rules = (
        ScopeRules("key:a", interval_us, burst, per_min, concurrent),
        ScopeRules("tenant:t", tokens_per_min=2000, concurrent_requests=3),
    )
    hold = limiter.admit_now(Ask("r", rules, tokens, 0))
    assert hold is not None, "nothing runs, and a bucket's worth is always admitted"
    state = [
        value for scope in limiter._scopes.values() for value in (scope.tat_us, scope.level, scope.running)
    ]
    assert headroom_of((1, *state), rules, 7) == (hold.requests, hold.tokens)
