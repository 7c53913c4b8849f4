"""What is said to the scripts and what they answer, in msgpack.

The scripts decide and charge; refusals and headroom are worked out here from the raw state that they return,
by the same arithmetic as in memory. Neighbours: `state.lua` says what the fields mean, `limiter.py` sends.

Redis computes with doubles, exact up to 2^53: tokens a minute are therefore cut at `TOKENS_PER_MIN_MAX`, and
amounts of limits and funds travel as text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from sextant.governance.limits.limiter import NO_LIMIT, Ask, Headroom, Refused, ScopeRules
from sextant.governance.limits.memory import ScopeState, bucket_headroom, milliseconds, worst
from sextant.spec.policy import Standing

TOKENS_PER_MIN_MAX = 100_000_000
"""A higher limit counts as this one."""
_NOT_LIMITED = ""
_ADMITTED_FIELDS, _REFUSED_FIELDS = 3, 12

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode


class RuleSet(msgspec.Struct, frozen=True):
    """The rules of one key, ready to be sent again and again."""

    given: tuple[ScopeRules, ...]
    rules: tuple[ScopeRules, ...]
    """As they count: `given`, cut to what Redis can compute."""
    packed: msgspec.Raw
    books: tuple[str, ...]
    """Scopes of which a standing is needed."""


def rule_set(rules: tuple[ScopeRules, ...]) -> RuleSet:
    """`rules` as the script reads them."""
    kept = tuple(_within_reach(rule) for rule in rules)
    values = [
        (
            rule.scope,
            rule.interval_us,
            rule.burst_requests,
            rule.tokens_per_min,
            rule.concurrent_requests,
            rule.tokens_per_day,
            _NOT_LIMITED if rule.nano_per_month == NO_LIMIT else str(rule.nano_per_month),
            rule.prepaid,
        )
        for rule in kept
    ]
    books = tuple(rule.scope for rule in kept if rule.needs_books)
    return RuleSet(rules, kept, msgspec.Raw(pack(values)), books)


def _within_reach(rule: ScopeRules) -> ScopeRules:
    if rule.tokens_per_min <= TOKENS_PER_MIN_MAX:
        return rule
    return msgspec.structs.replace(rule, tokens_per_min=TOKENS_PER_MIN_MAX)


def batch_of_asks(asks: Sequence[tuple[Ask, RuleSet]], *, again: bool) -> bytes:
    """The argument of `admit.lua`. `again`: some may have been admitted by a call whose answer was lost."""
    sets: list[msgspec.Raw] = []
    numbers: dict[int, int] = {}
    said = []
    for ask, rules in asks:
        number = numbers.get(id(rules))
        if number is None:
            sets.append(rules.packed)
            number = numbers[id(rules)] = len(sets)
        said.append((ask.request_id, number, ask.tokens, ask.nano, ask.day, ask.month, ask.now_ms))
    return pack((sets, said, again))


def standing_values(standing: Standing, *, asked: bool) -> tuple[Any, ...]:
    """`standing` as `settle.lua` reads it. `asked`: it was asked for since the scope was in doubt."""
    return (
        standing.scope,
        standing.version,
        standing.day,
        standing.day_tokens,
        standing.month,
        str(standing.month_nano),
        str(standing.funds_nano),
        standing.funds_until_ms,
        asked,
    )


def hold_to_record(ask: Ask) -> list[Any]:
    """The hold of `ask` as the script keeps it, for a server that does not have it: nothing of the bucket was
    taken there, so nothing is given back."""
    parts = [value for rule in ask.rules for value in (rule.scope, NO_LIMIT)]
    return [ask.tokens, ask.nano, *parts]


def headroom_of(
    answer: Sequence[Any], rules: tuple[ScopeRules, ...], now_us: int
) -> tuple[Headroom | None, Headroom | None]:
    """What an admitted request may be told of the tightest limits of requests and of tokens a minute, as
    `limits/memory.py` tells it."""
    requests = level = sys.maxsize
    limit = reset_us = 0
    bucket = NO_LIMIT
    at = 1
    for rule in rules:
        interval_us, burst = rule.interval_us, rule.burst_requests
        if interval_us != NO_LIMIT:
            busy_us = answer[at] - now_us
            left = (interval_us * burst - busy_us) // interval_us
            if left < requests:
                requests, limit, reset_us = left, burst, busy_us
        most = rule.concurrent_requests
        if most != NO_LIMIT and most - answer[at + 2] < requests:
            requests, limit, reset_us = most - answer[at + 2], most, 0
        if rule.tokens_per_min != NO_LIMIT and answer[at + 1] < level:
            level, bucket = answer[at + 1], rule.tokens_per_min
        at += _ADMITTED_FIELDS
    return (
        Headroom(limit, requests, milliseconds(reset_us)) if requests != sys.maxsize else None,
        bucket_headroom(level, bucket) if bucket != NO_LIMIT else None,
    )


def refusal_of(answer: Sequence[Any], rules: tuple[ScopeRules, ...], ask: Ask, now_us: int) -> Refused:
    """Why a request was refused: of several reasons the one that gives way last."""
    refusals: list[Refused] = []
    for number, rule in enumerate(rules):
        start = 1 + number * _REFUSED_FIELDS
        values = answer[start : start + _REFUSED_FIELDS]
        scope = ScopeState()
        scope.tat_us, scope.level, scope.running, scope.held_tokens, scope.held_nano = values[:5]
        if values[5]:
            day, day_tokens, month, month_nano, funds, until_ms = values[6:]
            scope.standing = Standing(
                rule.scope, 0, day, day_tokens, month, 0, int(month_nano), int(funds), until_ms
            )
        refusals += scope.refusals(rule, ask, now_us)
    return worst(refusals)
