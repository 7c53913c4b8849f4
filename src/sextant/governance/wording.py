"""What a caller is told of a limit that is in the way: the error of a refusal.

Flow 1 (serve), on the way out. Pure. Neighbours: `limits/limiter.py` (what is refused), `governor.py` (the
only caller), `sextant.gateway.failures` (how it looks in HTTP).
"""

from __future__ import annotations

import datetime
import zoneinfo

from sextant.base.errors import InsufficientBalance, RateLimited, SextantError
from sextant.governance.limits.limiter import Headroom, Refused
from sextant.spec.policy import NANO

RETRY_HELD_S = 1.0
"""Said where only open requests are in the way, which end nobody knows when."""


def limit_error(refused: Refused, currency: str, time_zone: str, now_ms: int) -> SextantError:
    """RateLimited, or InsufficientBalance where funds are short."""
    if refused.limit == "funds" and not refused.held:
        return InsufficientBalance(
            f"Insufficient Balance: this request may cost up to {_amount(refused.needed)} {currency}, and "
            f"{_amount(refused.available)} is available; top up, or ask for fewer tokens with max_tokens."
        )
    text = f"Rate limit reached for {refused.scope.replace(':', ' ', 1)}: {_said(refused, currency)}."
    if refused.limit in ("tokens_per_day", "spend_nano_per_month") and not refused.held:
        monthly = refused.limit == "spend_nano_per_month"
        wait_s = _next_period_s(time_zone, now_ms, monthly=monthly)
        # as OpenAI says it where waiting a moment does not help
        error = RateLimited(text, code="insufficient_quota", retry_after_s=wait_s)
    else:
        wait_s = RETRY_HELD_S if refused.retry_after_ms == 0 else refused.retry_after_ms / 1000
        error = RateLimited(text, retry_after_s=wait_s)
    error.headroom = _headroom(refused, wait_s)
    return error


def _said(refused: Refused, currency: str) -> str:
    allowed, needed, left = refused.allowed, refused.needed, refused.available
    wait = f"try again in {refused.retry_after_ms / 1000:g} s"
    if refused.limit == "requests_per_s":
        return f"its burst of {allowed} requests is used up; {wait}"
    if refused.limit == "concurrent_requests":
        return f"{allowed} requests at a time, all under way; try again when one has ended"
    if refused.limit == "tokens_per_min":
        return (
            f"{allowed} tokens a minute, of which {left} are left, and this request may use {needed}; {wait} "
            "or ask for fewer with max_tokens"
        )
    held = " while others are under way" if refused.held else ""
    if refused.limit == "tokens_per_day":
        return (
            f"{allowed} tokens a day, of which {left} are left{held}, and this request may use {needed}; "
            "ask for fewer with max_tokens, or wait for the next day"
        )
    most, rest, cost = (f"{_amount(nano)} {currency}" for nano in (allowed, left, needed))
    if refused.limit == "spend_nano_per_month":
        return (
            f"{most} a month, of which {rest} is left{held}, and this request may cost {cost}; ask for fewer "
            "tokens with max_tokens, or have the limit raised"
        )
    return (
        f"the balance of {most} is set aside for requests under way but for {rest}, and this one may cost "
        f"{cost}; try again when one has ended"
    )


def _headroom(refused: Refused, wait_s: float) -> tuple[Headroom | None, Headroom | None]:
    """For the headers of requests and of tokens: the one that is used up."""
    told = Headroom(refused.allowed, refused.available, round(wait_s * 1000))
    if refused.limit in ("requests_per_s", "concurrent_requests"):
        return told, None
    return None, told if refused.limit in ("tokens_per_min", "tokens_per_day") else None


def _next_period_s(time_zone: str, now_ms: int, *, monthly: bool) -> float:
    """Seconds until the next day or month begins in `time_zone`."""
    zone = zoneinfo.ZoneInfo(time_zone)
    local = datetime.datetime.fromtimestamp(now_ms / 1000, zone)
    day = local.date()
    following = (day.replace(day=28) + datetime.timedelta(days=4)).replace(day=1) if monthly else None
    following = following or day + datetime.timedelta(days=1)
    begins = datetime.datetime(following.year, following.month, following.day, tzinfo=zone)
    return begins.timestamp() - now_ms / 1000


def _amount(nano: int) -> str:
    """Billionths as a decimal, all its digits, at least two places."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"
