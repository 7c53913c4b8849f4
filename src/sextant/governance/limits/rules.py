"""From the policy's limits to the rules that a limiter follows.

Flow 1 (serve), once for each key when a policy comes in. Pure. Neighbours: `governor.py` asks, `limiter.py`
has the nouns.
"""

from __future__ import annotations

import math

import msgspec

from sextant.governance.limits.limiter import NO_LIMIT, ScopeRules
from sextant.spec.policy import LimitRules

SECOND_US = 1_000_000


def merged(of_tier: LimitRules, own: LimitRules) -> LimitRules:
    """A tenant's limits: its own replace those of its tier one by one. A rate of its own comes with its own
    burst."""
    given = {
        name: value
        for name, value in msgspec.structs.asdict(own).items()
        if value is not None and name != "burst_requests"
    }
    if own.requests_per_s is not None or own.burst_requests:
        given["burst_requests"] = own.burst_requests
    return msgspec.structs.replace(of_tier, **given)


def rules_of(scope: str, limits: LimitRules, *, prepaid: bool = False) -> ScopeRules | None:
    """`limits` for `scope`; None where nothing is limited. A rate or a number of tokens a minute that is not
    above zero lets nobody in."""
    rate, per_min = limits.requests_per_s, limits.tokens_per_min
    concurrent = limits.concurrent_requests
    if (rate is not None and rate <= 0) or (per_min is not None and per_min <= 0):
        rate, per_min, concurrent = None, None, 0
    rules = ScopeRules(
        scope,
        # rounded up: what is let through is never more than the rate
        NO_LIMIT if rate is None else math.ceil(SECOND_US / rate),
        max(1, limits.burst_requests or int(rate or 1)),
        NO_LIMIT if per_min is None else per_min,
        NO_LIMIT if concurrent is None else max(0, concurrent),
        NO_LIMIT if limits.tokens_per_day is None else max(0, limits.tokens_per_day),
        NO_LIMIT if limits.spend_nano_per_month is None else max(0, limits.spend_nano_per_month),
        prepaid,
    )
    return None if rules == ScopeRules(scope, burst_requests=rules.burst_requests) else rules
