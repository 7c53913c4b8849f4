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
    requests_left,
    schedule,
    wait_us,
)
from sextant.spec.policy import Standing

SCOPES_KEPT = 10_000
"""Scopes remembered before the idle ones are looked for and dropped."""
_SEVERITY: dict[LimitName, int] = {"funds": 4, "spend_nano_per_month": 3, "tokens_per_day": 2}
_RATE_SEVERITY = 1


class _Scope:
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
        per_min = rules.tokens_per_min
        if per_min != NO_LIMIT:
            if self.per_min == NO_LIMIT:
                self.level = per_min * MINUTE_US
            else:
                self.level = level_at(self.level, self.level_us, now_us, per_min)
            self.level_us = now_us
            self.per_min = per_min

    def admits(self, rules: ScopeRules, ask: Ask, now_us: int) -> bool:
        """Whether nothing here is in the way; the books are known."""
        interval_us = rules.interval_us
        if interval_us != NO_LIMIT and self.tat_us - now_us > interval_us * (rules.burst_requests - 1):
            return False
        per_min = rules.tokens_per_min
        if per_min != NO_LIMIT:
            tokens = ask.tokens
            if self.level < (tokens if tokens < per_min else per_min) * MINUTE_US:
                return False
        if self.running >= rules.concurrent_requests != NO_LIMIT:
            return False
        return self.standing is None or not self._booked(rules, ask)

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
                found.append(Refused(scope, "requests_per_s", rules.burst_requests, 1, 0, _ms(wait)))
        per_min = rules.tokens_per_min
        if per_min != NO_LIMIT:
            needed = min(ask.tokens, per_min)
            wait = refill_wait_us(self.level, needed, per_min)
            if wait:
                left = max(0, self.level // MINUTE_US)
                found.append(Refused(scope, "tokens_per_min", per_min, needed, left, _ms(wait)))
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

    def charge(self, rules: ScopeRules, ask: Ask) -> int:
        """Sets aside what `ask` wants; the tokens taken of the bucket, `NO_LIMIT` where there is none."""
        if rules.interval_us != NO_LIMIT:
            self.tat_us += rules.interval_us
        tokens = ask.tokens
        self.running += 1
        self.held_tokens += tokens
        self.held_nano += ask.nano
        per_min = rules.tokens_per_min
        if per_min == NO_LIMIT:
            return NO_LIMIT
        if tokens > per_min:
            tokens = per_min
        self.level -= tokens * MINUTE_US
        return tokens


class _MemoryHold(Hold):
    """A hold with the scopes it is in, and what it took of the bucket of each."""

    ask: Ask | None = None
    parts: tuple[tuple[_Scope, int], ...] = ()


class MemoryLimiter:
    """Implements `limiter.Limiter`."""

    trouble = ""
    degraded = ""

    def __init__(self, now_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._now_us = now_us
        self._scopes: dict[str, _Scope] = {}
        self._sweep_at = SCOPES_KEPT

    def __len__(self) -> int:
        """Scopes remembered."""
        return len(self._scopes)

    async def admit(self, ask: Ask) -> Hold | Refused | Unknown:
        """See `Limiter`."""
        now_us = self._now_us()
        if len(self._scopes) >= self._sweep_at:
            self._forget_idle(now_us)
        found: list[tuple[ScopeRules, _Scope]] = []
        admits = True
        unknown: tuple[str, ...] = ()
        for rules in ask.rules:
            scope = self._scopes.get(rules.scope)
            if scope is None:
                scope = self._scopes[rules.scope] = _Scope()
            found.append((rules, scope))
            scope.refresh(rules, now_us)
            if rules.needs_books and scope.unknown(ask):
                unknown = (*unknown, rules.scope)
            elif not scope.admits(rules, ask, now_us):
                admits = False
        if unknown:
            return Unknown(unknown)
        if not admits:
            return worst([refused for rules, s in found for refused in s.refusals(rules, ask, now_us)])
        parts = tuple([(scope, scope.charge(rules, ask)) for rules, scope in found])
        return _MemoryHold(*_headroom(found, now_us), ask=ask, parts=parts)

    def settle(self, hold: Hold, tokens: int) -> None:
        """See `Limiter`."""
        self._end(hold, tokens)

    def refund(self, hold: Hold) -> None:
        """See `Limiter`."""
        self._end(hold, 0)

    def take(self, standings: Sequence[Standing]) -> None:
        """See `Limiter`. Of scopes that nobody asks about here nothing is remembered."""
        for standing in standings:
            scope = self._scopes.get(standing.scope)
            if scope is not None and (scope.standing is None or scope.standing.version <= standing.version):
                scope.standing = standing

    def _end(self, hold: Hold, tokens: int) -> None:
        if hold.closed or not isinstance(hold, _MemoryHold) or hold.ask is None:
            return
        hold.closed = True
        ask = hold.ask
        for scope, taken in hold.parts:
            scope.running -= 1
            scope.held_tokens -= ask.tokens
            scope.held_nano -= ask.nano
            if taken != NO_LIMIT:
                scope.level += (taken - tokens) * MINUTE_US

    def _forget_idle(self, now_us: int) -> None:
        self._scopes = {name: scope for name, scope in self._scopes.items() if not scope.idle(now_us)}
        self._sweep_at = max(SCOPES_KEPT, 2 * len(self._scopes))


def worst(refusals: Sequence[Refused]) -> Refused:
    """Of several, the one that gives way last: money, then the day, then the longest wait, then what only
    waits for open requests."""
    return max(refusals, key=_severity)


def _severity(refused: Refused) -> tuple[int, int]:
    kind = 0 if refused.held else _SEVERITY.get(refused.limit, _RATE_SEVERITY)
    return kind, refused.retry_after_ms


def _headroom(found: list[tuple[ScopeRules, _Scope]], now_us: int) -> tuple[Headroom | None, Headroom | None]:
    """The tightest limits of requests and of tokens a minute, after this request."""
    requests = tokens = sys.maxsize
    told: tuple[int, int] = (0, 0)
    bucket: _Scope | None = None
    for rules, scope in found:
        interval_us = rules.interval_us
        if interval_us != NO_LIMIT:
            left = requests_left(scope.tat_us, now_us, interval_us, rules.burst_requests)
            if left < requests:
                requests, told = left, (rules.burst_requests, _ms(scope.tat_us - now_us))
        most = rules.concurrent_requests
        if most != NO_LIMIT and most - scope.running < requests:
            requests, told = most - scope.running, (most, 0)
        if rules.tokens_per_min != NO_LIMIT and scope.level < tokens:
            tokens, bucket = scope.level, scope
    room = None
    if bucket is not None:
        per_min = bucket.per_min
        full_us = refill_wait_us(bucket.level, per_min, per_min)
        room = Headroom(per_min, max(0, bucket.level // MINUTE_US), _ms(full_us))
    return (Headroom(told[0], requests, told[1]) if requests != sys.maxsize else None), room


def _ms(us: int) -> int:
    """Microseconds as milliseconds, rounded up."""
    return -(-us // 1000)
