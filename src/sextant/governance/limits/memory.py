"""Limits kept in the memory of one gateway process.

Flow 1 (serve): exact for one process; with several, `sextant.governance.shared` keeps them in Redis. A scope
that is idle (nothing open, its bucket full) is forgotten: it begins anew as it was. What the books say is
asked for again then. Neighbours: `limiter.py` (the protocol and what must hold), `rates.py` (the arithmetic).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence

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


class Terms:
    """The rules of one scope, laid out for the decision; `NO_LIMIT` where there is none."""

    __slots__ = (
        "ahead_us",
        "burst",
        "capacity",
        "concurrent",
        "interval_us",
        "needs_books",
        "per_day",
        "per_min",
        "per_month_nano",
        "prepaid",
        "rules",
        "slack_us",
    )

    def __init__(self, rules: ScopeRules) -> None:
        self.rules = rules
        self.interval_us = rules.interval_us
        self.burst = rules.burst_requests
        self.ahead_us = rules.interval_us * rules.burst_requests
        """How far the schedule may be ahead after a request, and before one."""
        self.slack_us = rules.interval_us * (rules.burst_requests - 1)
        self.per_min = rules.tokens_per_min
        self.capacity = rules.tokens_per_min * MINUTE_US
        self.concurrent = rules.concurrent_requests
        self.per_day = rules.tokens_per_day
        self.per_month_nano = rules.nano_per_month
        self.prepaid = rules.prepaid
        self.needs_books = rules.needs_books


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

    def admits(self, terms: Terms, ask: Ask, now_us: int) -> bool:
        """Whether the books are known as far as they matter, and nothing here is in the way. Brings rate and
        bucket to `now_us`, as `refresh` does. The one function that every request passes for each of its
        scopes, so it is written out."""
        interval_us = terms.interval_us
        if interval_us >= 0:
            early_us = self.tat_us - now_us
            if early_us <= 0:
                self.tat_us = now_us
            elif early_us > terms.slack_us:
                return False
        per_min = terms.per_min
        tokens = ask.tokens
        if per_min >= 0:
            if per_min != self.per_min:
                self.refresh(terms.rules, now_us)
            else:
                since_us = now_us - self.level_us
                if since_us > 0:
                    level = self.level + since_us * per_min
                    self.level = level if level < terms.capacity else terms.capacity
                self.level_us = now_us
            if self.level < (tokens if tokens < per_min else per_min) * MINUTE_US:
                return False
        if self.running >= terms.concurrent >= 0:
            return False
        if not terms.needs_books:
            return True
        standing = self.standing
        if standing is None or 0 < standing.funds_until_ms <= ask.now_ms:
            return False
        most = terms.per_day
        if most >= 0 and tokens:
            used = standing.day_tokens if standing.day >= ask.day else 0
            if tokens > most - used - self.held_tokens:
                return False
        nano = ask.nano
        most = terms.per_month_nano
        if most >= 0 and nano:
            used = standing.month_nano if standing.month >= ask.month else 0
            if nano > most - used - self.held_nano:
                return False
        return not terms.prepaid or nano <= standing.funds_nano - self.held_nano

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


_Part = tuple[Terms, _Scope]


class _MemoryHold(Hold):
    """A hold with the scopes it is in, each with the terms it was charged by."""

    ask: Ask | None = None
    parts: tuple[_Part, ...] = ()


class MemoryLimiter:
    """Implements `limiter.Limiter`."""

    trouble = ""
    degraded = ""

    def __init__(self, now_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._now_us = now_us
        self._scopes: dict[str, _Scope] = {}
        self._bound: dict[int, tuple[tuple[ScopeRules, ...], tuple[_Part, ...]]] = {}
        """By the identity of a key's rules, which stay the same as long as its policy does: the rules, and
        their terms with the scopes."""
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
        if bound is None or bound[0] is not rules:
            bound = self._bind(rules, now_us)
        parts = bound[1]
        for terms, scope in parts:
            if not scope.admits(terms, ask, now_us):
                return None
        tokens, nano = ask.tokens, ask.nano
        found = []
        for part in parts:
            terms, scope = part
            interval_us, per_min = terms.interval_us, terms.per_min
            if interval_us >= 0:
                scope.tat_us += interval_us
            if per_min >= 0:
                scope.level -= (tokens if tokens < per_min else per_min) * MINUTE_US
            scope.running += 1
            scope.held_tokens += tokens
            scope.held_nano += nano
            found.append((terms, scope.tat_us, scope.level, scope.running))
        requests, room = headroom(found, now_us)
        return _MemoryHold(requests, room, False, ask, parts)

    def _bind(
        self, rules: tuple[ScopeRules, ...], now_us: int
    ) -> tuple[tuple[ScopeRules, ...], tuple[_Part, ...]]:
        if len(self._scopes) >= self._sweep_at:
            self._forget_idle(now_us)
        if len(self._bound) >= SCOPES_KEPT:
            self._bound.clear()
        parts = []
        for rule in rules:
            scope = self._scopes.get(rule.scope)
            if scope is None:
                scope = self._scopes[rule.scope] = _Scope()
            parts.append((Terms(rule), scope))
        found = self._bound[id(rules)] = (rules, tuple(parts))
        return found

    def _reasons(self, ask: Ask, now_us: int) -> Refused | Unknown:
        """Why `ask` was not admitted at `now_us`."""
        parts = self._bound[id(ask.rules)][1]
        for terms, scope in parts:
            scope.refresh(terms.rules, now_us)
        unknown = tuple([t.rules.scope for t, scope in parts if t.needs_books and scope.unknown(ask)])
        if unknown:
            return Unknown(unknown)
        return worst([refused for t, scope in parts for refused in scope.refusals(t.rules, ask, now_us)])

    def settle(self, hold: Hold, tokens: int) -> None:
        """See `Limiter`."""
        if hold.closed or not isinstance(hold, _MemoryHold) or hold.ask is None:
            return
        hold.closed = True
        taken, nano = hold.ask.tokens, hold.ask.nano
        for terms, scope in hold.parts:
            scope.running -= 1
            scope.held_tokens -= taken
            scope.held_nano -= nano
            per_min = terms.per_min
            if per_min >= 0:
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


def headroom(
    found: Iterable[tuple[Terms, int, int, int]], now_us: int
) -> tuple[Headroom | None, Headroom | None]:
    """The tightest limits of requests and of tokens a minute, after this request: of each scope its terms,
    `tat_us`, level and requests that run."""
    requests = tokens = sys.maxsize
    limit = reset_us = 0
    bucket: Terms | None = None
    for terms, tat_us, level, running in found:
        interval_us = terms.interval_us
        if interval_us >= 0:
            left = (terms.ahead_us + now_us - tat_us) // interval_us
            if left < requests:
                requests, limit, reset_us = left, terms.burst, tat_us - now_us
        most = terms.concurrent
        if most >= 0 and most - running < requests:
            requests, limit, reset_us = most - running, most, 0
        if terms.per_min >= 0 and level < tokens:
            tokens, bucket = level, terms
    room = None
    if bucket is not None:
        full_us = refill_wait_us(tokens, bucket.per_min, bucket.per_min)
        room = Headroom(bucket.per_min, tokens // MINUTE_US if tokens > 0 else 0, _ms(full_us))
    if requests == sys.maxsize:
        return None, room
    return Headroom(limit, requests, _ms(reset_us)), room


def _ms(us: int) -> int:
    """Microseconds as milliseconds, rounded up."""
    return -(-us // 1000)
