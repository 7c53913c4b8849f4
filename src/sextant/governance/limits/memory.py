"""Limits kept in the memory of one gateway process.

Flow 1 (serve): exact for one process; with several, `sextant.governance.shared` keeps them in Redis. A scope
that is idle (nothing open, its bucket full) is forgotten: it begins anew as it was. What the books say is
asked for again then. Neighbours: `limiter.py` (the protocol and what must hold), `rates.py` (the arithmetic).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from sextant.governance.limits.limiter import (
    NO_LIMIT,
    Ask,
    Headroom,
    Hold,
    LimitName,
    Refused,
    ScopeRules,
    Unknown,
)
from sextant.governance.limits.rates import (
    MINUTE_US,
    level_at,
    refill_wait_us,
    schedule,
    wait_us,
)
from sextant.spec.policy import Standing

SCOPES_KEPT = 10_000
"""Scopes remembered before the idle ones are looked for and dropped."""
_SEVERITY: dict[LimitName, int] = {"funds": 4, "spend_nano_per_month": 3, "tokens_per_day": 2}
_RATE_SEVERITY = 1


class ScopeState:
    """What is known and open of one scope."""

    __slots__ = ("held_nano", "held_tokens", "level", "level_us", "per_min", "running", "standing", "tat_us")

    def __init__(self) -> None:
        self.tat_us = 0
        self.per_min = NO_LIMIT
        self.level = 0
        self.level_us = 0
        self.running = 0
        self.held_tokens = 0
        self.held_nano = 0
        self.standing: Standing | None = None

    def idle(self, now_us: int) -> bool:
        """Whether a new one in its place would behave the same."""
        if self.running or self.tat_us > now_us:
            return False
        if self.per_min == NO_LIMIT:
            return True
        return level_at(self.level, self.level_us, now_us, self.per_min) == self.per_min * MINUTE_US

    def refresh(self, rules: ScopeRules, now_us: int) -> None:
        """Brings rate and bucket to `now_us`."""
        if rules.interval_us != NO_LIMIT:
            self.tat_us = schedule(self.tat_us, now_us, rules.interval_us, rules.burst_requests)
        if rules.tokens_per_min != NO_LIMIT:
            self.refill(rules.tokens_per_min, now_us)

    def refill(self, per_min: int, now_us: int) -> None:
        """Brings the bucket to `now_us`; a new one is full."""
        if self.per_min == NO_LIMIT:
            self.level = per_min * MINUTE_US
        else:
            self.level = level_at(self.level, self.level_us, now_us, per_min)
        self.level_us = now_us
        self.per_min = per_min

    def unknown(self, ask: Ask) -> bool:
        """Whether the ledger must be asked first: never heard of, or a package has expired since."""
        standing = self.standing
        return standing is None or 0 < standing.funds_until_ms <= ask.now_ms

    def refusals(self, rules: ScopeRules, ask: Ask, now_us: int) -> list[Refused]:
        """All that is in the way."""
        found = self._booked(rules, ask)
        scope, interval_us = rules.scope, rules.interval_us
        if interval_us != NO_LIMIT:
            wait = wait_us(self.tat_us, now_us, interval_us, rules.burst_requests)
            if wait:
                found.append(Refused(scope, "requests_per_s", rules.burst_requests, 1, 0, milliseconds(wait)))
        per_min = rules.tokens_per_min
        if per_min != NO_LIMIT:
            needed = min(ask.tokens, per_min)
            wait = refill_wait_us(self.level, needed, per_min)
            if wait:
                left = max(0, self.level // MINUTE_US)
                found.append(Refused(scope, "tokens_per_min", per_min, needed, left, milliseconds(wait)))
        most = rules.concurrent_requests
        if self.running >= most != NO_LIMIT:
            found.append(Refused(scope, "concurrent_requests", most, 1, 0, held=most > 0))
        return found

    def _booked(self, rules: ScopeRules, ask: Ask) -> list[Refused]:
        """What the books and the open holds are in the way of."""
        found: list[Refused] = []
        standing = self.standing
        if standing is None:
            return found
        scope, tokens, nano = rules.scope, ask.tokens, ask.nano
        most = rules.tokens_per_day
        if most != NO_LIMIT and tokens:
            left = most - (standing.day_tokens if standing.day >= ask.day else 0)
            if tokens > left - self.held_tokens:
                free = max(0, left - self.held_tokens)
                found.append(Refused(scope, "tokens_per_day", most, tokens, free, held=tokens <= left))
        most = rules.nano_per_month
        if most != NO_LIMIT and nano:
            left = most - (standing.month_nano if standing.month >= ask.month else 0)
            if nano > left - self.held_nano:
                free = max(0, left - self.held_nano)
                found.append(Refused(scope, "spend_nano_per_month", most, nano, free, held=nano <= left))
        funds = standing.funds_nano
        if rules.prepaid and nano > funds - self.held_nano:
            free = max(0, funds - self.held_nano)
            found.append(Refused(scope, "funds", funds, nano, free, held=nano <= funds))
        return found


class _Bound:
    """The limits of one key, its project and its tenant with the scopes that they are kept in, sorted by what
    is to be done for them: each list has only the scopes with such a limit."""

    __slots__ = ("booked", "buckets", "crowds", "rates", "rules", "scopes")

    def __init__(self, rules: tuple[ScopeRules, ...], scopes: tuple[ScopeState, ...]) -> None:
        self.rules = rules
        self.scopes = scopes
        both = tuple(zip(rules, scopes, strict=True))
        self.rates = tuple(
            (scope, rule.interval_us, rule.interval_us * rule.burst_requests, rule.burst_requests)
            for rule, scope in both
            if rule.interval_us != NO_LIMIT
        )
        self.buckets = tuple(
            (scope, rule.tokens_per_min) for rule, scope in both if rule.tokens_per_min != NO_LIMIT
        )
        self.crowds = tuple(
            (scope, rule.concurrent_requests) for rule, scope in both if rule.concurrent_requests != NO_LIMIT
        )
        self.booked = tuple((scope, rule) for rule, scope in both if rule.needs_books)

    def admits(self, ask: Ask, now_us: int) -> bool:
        """Whether the books are known as far as they matter, and nothing is in the way; buckets are brought
        to `now_us`."""
        for scope, interval_us, ahead_us, _ in self.rates:
            if scope.tat_us - now_us > ahead_us - interval_us:
                return False
        tokens = ask.tokens
        for scope, per_min in self.buckets:
            # also where a hold gave tokens back since, at a clock that stood still: a bucket never overflows
            if scope.level_us != now_us or scope.per_min != per_min or scope.level > per_min * MINUTE_US:
                scope.refill(per_min, now_us)
            if scope.level < (tokens if tokens < per_min else per_min) * MINUTE_US:
                return False
        for scope, most in self.crowds:
            if scope.running >= most:
                return False
        for scope, rule in self.booked:
            standing = scope.standing
            if standing is None or 0 < standing.funds_until_ms <= ask.now_ms:
                return False
            most = rule.tokens_per_day
            if most >= 0 and tokens:
                used = standing.day_tokens if standing.day >= ask.day else 0
                if tokens > most - used - scope.held_tokens:
                    return False
            most, nano = rule.nano_per_month, ask.nano
            if most >= 0 and nano:
                used = standing.month_nano if standing.month >= ask.month else 0
                if nano > most - used - scope.held_nano:
                    return False
            if rule.prepaid and nano > standing.funds_nano - scope.held_nano:
                return False
        return True

    def charge(self, ask: Ask, now_us: int) -> _MemoryHold:
        """Sets aside what `ask` wants, and says what is left then of the tightest limits."""
        tokens, nano = ask.tokens, ask.nano
        requests = level = sys.maxsize
        limit = reset_us = 0
        bucket = NO_LIMIT
        for scope, interval_us, ahead_us, burst in self.rates:
            since_us = scope.tat_us - now_us
            busy_us = (since_us if since_us > 0 else 0) + interval_us
            scope.tat_us = now_us + busy_us
            left = (ahead_us - busy_us) // interval_us
            if left < requests:
                requests, limit, reset_us = left, burst, busy_us
        for scope in self.scopes:
            scope.running += 1
            scope.held_tokens += tokens
            scope.held_nano += nano
        for scope, most in self.crowds:
            left = most - scope.running
            if left < requests:
                requests, limit, reset_us = left, most, 0
        for scope, per_min in self.buckets:
            scope.level -= (tokens if tokens < per_min else per_min) * MINUTE_US
            if scope.level < level:
                level, bucket = scope.level, per_min
        return _MemoryHold(
            Headroom(limit, requests, milliseconds(reset_us)) if requests != sys.maxsize else None,
            bucket_headroom(level, bucket) if bucket != NO_LIMIT else None,
            False,
            ask,
            self,
        )


class _MemoryHold(Hold):
    """A hold with what it was charged by."""

    ask: Ask | None = None
    bound: _Bound | None = None


class MemoryLimiter:
    """Implements `limiter.Limiter`."""

    trouble = ""
    degraded = ""

    def __init__(self, now_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._now_us = now_us
        self._scopes: dict[str, ScopeState] = {}
        self._bound: dict[int, _Bound] = {}
        """By the identity of a key's rules, which stay the same as long as its policy does."""
        self._sweep_at = SCOPES_KEPT

    def __len__(self) -> int:
        """Scopes remembered."""
        return len(self._scopes)

    def admit_now(self, ask: Ask) -> Hold | None:
        """See `Limiter`."""
        return self._admit(ask, self._now_us())

    async def admit(self, ask: Ask) -> Hold | Refused | Unknown:
        """See `Limiter`."""
        now_us = self._now_us()
        return self._admit(ask, now_us) or self._reasons(ask, now_us)

    def _admit(self, ask: Ask, now_us: int) -> Hold | None:
        rules = ask.rules
        bound = self._bound.get(id(rules))
        if bound is None or bound.rules is not rules:
            bound = self._bind(rules, now_us)
        return bound.charge(ask, now_us) if bound.admits(ask, now_us) else None

    def _bind(self, rules: tuple[ScopeRules, ...], now_us: int) -> _Bound:
        if len(self._scopes) >= self._sweep_at:
            self._forget_idle(now_us)
        if len(self._bound) >= SCOPES_KEPT:
            self._bound.clear()
        scopes = []
        for rule in rules:
            scope = self._scopes.get(rule.scope)
            if scope is None:
                scope = self._scopes[rule.scope] = ScopeState()
            scopes.append(scope)
        found = self._bound[id(rules)] = _Bound(rules, tuple(scopes))
        return found

    def _reasons(self, ask: Ask, now_us: int) -> Refused | Unknown:
        """Why `ask` was not admitted at `now_us`."""
        both = tuple(zip(ask.rules, self._bound[id(ask.rules)].scopes, strict=True))
        for rule, scope in both:
            scope.refresh(rule, now_us)
        unknown = tuple([rule.scope for rule, scope in both if rule.needs_books and scope.unknown(ask)])
        if unknown:
            return Unknown(unknown)
        return worst([refused for rule, scope in both for refused in scope.refusals(rule, ask, now_us)])

    def settle(self, hold: Hold, tokens: int) -> None:
        """See `Limiter`."""
        if hold.closed or not isinstance(hold, _MemoryHold) or hold.ask is None or hold.bound is None:
            return
        hold.closed = True
        ask, bound = hold.ask, hold.bound
        taken, nano = ask.tokens, ask.nano
        for scope in bound.scopes:
            scope.running -= 1
            scope.held_tokens -= taken
            scope.held_nano -= nano
        for scope, per_min in bound.buckets:
            scope.level += ((taken if taken < per_min else per_min) - tokens) * MINUTE_US

    def refund(self, hold: Hold) -> None:
        """See `Limiter`."""
        self.settle(hold, 0)

    def take(self, standings: Sequence[Standing]) -> None:
        """See `Limiter`. Of scopes that nobody asks about here nothing is remembered."""
        for standing in standings:
            scope = self._scopes.get(standing.scope)
            if scope is not None and (scope.standing is None or scope.standing.version <= standing.version):
                scope.standing = standing

    def _forget_idle(self, now_us: int) -> None:
        self._scopes = {name: scope for name, scope in self._scopes.items() if not scope.idle(now_us)}
        self._bound.clear()
        self._sweep_at = max(SCOPES_KEPT, 2 * len(self._scopes))


def worst(refusals: Sequence[Refused]) -> Refused:
    """Of several, the one that gives way last: money, then the day, then the longest wait, then what only
    waits for open requests."""
    return max(refusals, key=_severity)


def _severity(refused: Refused) -> tuple[int, int]:
    kind = 0 if refused.held else _SEVERITY.get(refused.limit, _RATE_SEVERITY)
    return kind, refused.retry_after_ms


def bucket_headroom(level: int, per_min: int) -> Headroom:
    """What is told of a bucket of tokens."""
    full_us = refill_wait_us(level, per_min, per_min)
    return Headroom(per_min, level // MINUTE_US if level > 0 else 0, milliseconds(full_us))


def milliseconds(us: int) -> int:
    """Microseconds as milliseconds, rounded up."""
    return -(-us // 1000)
