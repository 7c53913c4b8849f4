"""A slow, plain model of what a limiter must do, and a machine that plays any limiter against it.

The model counts in fractions and in another way than the limiters: a request rate is a leaky bucket of
requests, tokens a minute are one of tokens. A limiter's clock must be the machine's.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from sextant.governance.limits.limiter import NO_LIMIT, Ask, Hold, Limiter, Refused, ScopeRules, Unknown
from sextant.spec.policy import Standing

SCOPES = ("key:a", "project:p", "tenant:t")
RULES = {
    "key:a": ScopeRules("key:a", 200_000, 3, tokens_per_min=600, concurrent_requests=4, tokens_per_day=900),
    "project:p": ScopeRules("project:p", tokens_per_min=1100, nano_per_month=5000),
    "tenant:t": ScopeRules("tenant:t", 70_000, 6, concurrent_requests=6, tokens_per_day=2000, prepaid=True),
}
MEMBERS = (("key:a",), ("project:p", "tenant:t"), SCOPES, ("tenant:t",))
"""Scopes of a request: its key's, project's and tenant's, or some of them."""
DAY, MONTH = 20261122, 202611


@dataclasses.dataclass
class ModelScope:
    """One scope as the model sees it. `us` is the time of its last look."""

    rules: ScopeRules
    us: int = 0
    requests: Fraction = Fraction(0)
    spent: Fraction = Fraction(0)
    open: int = 0
    held_tokens: int = 0
    held_nano: int = 0
    standing: Standing | None = None

    def look(self, us: int) -> None:
        """Both buckets leak until `us`."""
        passed, self.us = us - self.us, us
        if self.rules.interval_us != NO_LIMIT:
            self.requests = max(Fraction(0), self.requests - Fraction(passed, self.rules.interval_us))
        if self.rules.tokens_per_min != NO_LIMIT:
            leaked = Fraction(passed * self.rules.tokens_per_min, 60_000_000)
            self.spent = max(Fraction(0), self.spent - leaked)

    def capped(self, tokens: int) -> int:
        per_min = self.rules.tokens_per_min
        return 0 if per_min == NO_LIMIT else min(tokens, per_min)

    def refuses(self, ask: Ask) -> set[str]:
        """All limits that are in the way."""
        rules, found = self.rules, set()
        if rules.interval_us != NO_LIMIT and self.requests + 1 > rules.burst_requests:
            found.add("requests_per_s")
        if rules.tokens_per_min != NO_LIMIT and self.spent + self.capped(ask.tokens) > rules.tokens_per_min:
            found.add("tokens_per_min")
        if rules.concurrent_requests != NO_LIMIT and self.open >= rules.concurrent_requests:
            found.add("concurrent_requests")
        if self.standing is not None:
            found |= self.booked(ask, self.standing)
        return found

    def booked(self, ask: Ask, books: Standing) -> set[str]:
        """Limits that the books and the holds are in the way of."""
        rules, found = self.rules, set()
        day_tokens = books.day_tokens if books.day >= ask.day else 0
        month_nano = books.month_nano if books.month >= ask.month else 0
        tokens, nano = self.held_tokens + ask.tokens, self.held_nano + ask.nano
        if rules.tokens_per_day != NO_LIMIT and ask.tokens and day_tokens + tokens > rules.tokens_per_day:
            found.add("tokens_per_day")
        if rules.nano_per_month != NO_LIMIT and ask.nano and month_nano + nano > rules.nano_per_month:
            found.add("spend_nano_per_month")
        if rules.prepaid and nano > books.funds_nano and ask.nano > books.funds_nano - self.held_nano:
            found.add("funds")
        return found


class LimiterMachine(RuleBasedStateMachine):
    """Admits, settles, refunds, lets time pass and books change; the limiter and the model must agree on
    every verdict. A subclass makes the limiter, drives its coroutine and moves its clock."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.us = 1_000_000_000
        self.model = {name: ModelScope(rules, self.us) for name, rules in RULES.items()}
        self.open: dict[str, tuple[Hold, Ask]] = {}
        self.count = 0
        self.day = DAY
        self.limiter = self.make()

    def make(self) -> Limiter:
        raise NotImplementedError

    def ask(self, ask: Ask) -> Hold | Refused | Unknown:
        """The limiter's answer."""
        raise NotImplementedError

    def pass_time(self, us: int) -> None:
        """Moves the limiter's clock on."""

    @rule(
        target=holds,
        members=st.sampled_from(MEMBERS),
        tokens=st.integers(0, 1500),
        nano=st.integers(0, 3000),
    )
    def admit(self, members: tuple[str, ...], tokens: int, nano: int) -> str:
        self.count += 1
        name = f"req_{self.count}"
        rules = tuple(RULES[scope] for scope in members)
        ask = Ask(name, rules, tokens, nano, self.day, MONTH)
        found = self.ask(ask)
        scopes = [self.model[scope] for scope in members]
        for scope in scopes:
            scope.look(self.us)
        missing = {s.rules.scope for s in scopes if s.rules.needs_books and s.standing is None}
        if missing:
            assert isinstance(found, Unknown), found
            assert set(found.scopes) == missing
            return name
        if isinstance(found, Unknown):  # it may forget what nobody asked about, and is told again
            self.limiter.take([books for s in scopes if (books := s.standing) is not None])
            found = self.ask(ask)
        refusals = {(s.rules.scope, limit) for s in scopes for limit in s.refuses(ask)}
        if refusals:
            assert isinstance(found, Refused), (found, refusals)
            assert (found.scope, found.limit) in refusals
            assert found.available < found.needed
            return name
        assert isinstance(found, Hold), found
        for scope in scopes:
            scope.requests += 1
            scope.spent += scope.capped(tokens)
            scope.open += 1
            scope.held_tokens += tokens
            scope.held_nano += nano
        self.open[name] = (found, ask)
        return name

    @rule(name=holds, used=st.integers(0, 1600), booked=st.booleans())
    def settle(self, name: str, used: int, booked: bool) -> None:
        """The row is durable; the books that count it come first, or (a ledger that tells nothing) not."""
        entry = self.open.pop(name, None)
        if entry is None:
            return
        hold, ask = entry
        if booked:
            self.take({rules.scope: (used, min(used, ask.nano)) for rules in ask.rules})
        self.limiter.settle(hold, used)
        self.limiter.refund(hold)
        self.limiter.settle(hold, used)
        self.end(ask, used)

    @rule(name=holds)
    def refund(self, name: str) -> None:
        entry = self.open.pop(name, None)
        if entry is not None:
            self.limiter.refund(entry[0])
            self.limiter.settle(entry[0], 1000)
            self.end(entry[1], 0)

    def end(self, ask: Ask, used: int) -> None:
        for rules in ask.rules:
            scope = self.model[rules.scope]
            scope.open -= 1
            scope.held_tokens -= ask.tokens
            scope.held_nano -= ask.nano
            scope.look(self.us)
            if rules.tokens_per_min != NO_LIMIT:
                scope.spent = max(Fraction(0), scope.spent + used - scope.capped(ask.tokens))

    @rule(funds=st.integers(0, 8000))
    def top_up(self, funds: int) -> None:
        self.take(dict.fromkeys(SCOPES, (0, 0)), funds)

    @rule(scope=st.sampled_from(SCOPES))
    def hear_old_news(self, scope: str) -> None:
        """A standing that comes late changes nothing."""
        books = self.model[scope].standing
        if books is not None and books.version > 1:
            self.limiter.take([msgspec.structs.replace(books, version=1, funds_nano=10**9, day_tokens=0)])

    @rule(us=st.sampled_from((1, 999, 70_000, 200_000, 1_000_000, 20_000_000, 61_000_000)))
    def wait(self, us: int) -> None:
        self.us += us
        self.pass_time(us)

    @rule()
    def next_day(self) -> None:
        self.day += 1

    @invariant()
    def books_and_holds_stay_within(self) -> None:
        assert all(scope.open >= 0 and scope.held_tokens >= 0 for scope in self.model.values())

    def take(self, used: dict[str, tuple[int, int]], funds: int = 0) -> None:
        """Books after `used` (tokens, nano) by scope; `funds` more."""
        fresh = []
        for name, (tokens, nano) in used.items():
            old: Any = self.model[name].standing or Standing(name, 0, self.day, 0, MONTH, 0, 0)
            today = old.day_tokens if old.day == self.day else 0
            standing = Standing(
                name,
                old.version + 1,
                self.day,
                today + tokens,
                MONTH,
                old.month_tokens + tokens,
                old.month_nano + nano,
                max(0, old.funds_nano - nano) + funds,
            )
            self.model[name].standing = standing
            fresh.append(standing)
        self.limiter.take(fresh)
