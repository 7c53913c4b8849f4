"""What a request is told of limits that Redis keeps, worked out of the raw state of its scopes."""

from __future__ import annotations

from sextant.governance.limits.limiter import Headroom, ScopeRules
from sextant.governance.limits.memory import Terms
from sextant.governance.limits.rates import MINUTE_US
from sextant.governance.shared.words import headroom_of


def test_tokens_left_are_told_with_their_limit_and_when_all_are_back() -> None:
    rules = (ScopeRules("key:a", tokens_per_min=1000), ScopeRules("tenant:t", tokens_per_min=5000))
    answer = (1, 0, 250 * MINUTE_US, 1, 0, 4000 * MINUTE_US, 1)
    assert headroom_of(answer, tuple(map(Terms, rules)), 7) == (None, Headroom(1000, 250, 45_000))
