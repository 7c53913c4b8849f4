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
    text, code, wait_s = _said(refused, currency)
    if refused.limit in ("tokens_per_day", "spend_nano_per_month") and not refused.held:
        monthly = refused.limit == "spend_nano_per_month"
        wait_s = _next_period_s(time_zone, now_ms, monthly=monthly)
    error = RateLimited(
        f"Rate limit reached for {refused.scope.replace(':', ' ', 1)}: {text}.",
        code=code,
        retry_after_s=wait_s,
    )
    error.headroom = _headroom(refused, wait_s)
    return error


def _said(refused: Refused, currency: str) -> tuple[str, str, float]:
    """Words, the error's code, and how long to wait in seconds."""
    allowed, needed, left = refused.allowed, refused.needed, refused.available
    wait_s = refused.retry_after_ms / 1000
    if refused.limit == "requests_per_s":
        return f"{allowed} requests at once are all used; try again in {wait_s:g} s", _RATE, wait_s
    if refused.limit == "concurrent_requests":
        text = f"{allowed} requests at a time, all under way; try again when one has ended"
        return text, _RATE, RETRY_HELD_S
    if refused.limit == "tokens_per_min":
        text = (
            f"{allowed} tokens a minute, of which {left} are left, and this request may use {needed}; "
            f"try again in {wait_s:g} s, or ask for fewer with max_tokens"
        )
        return text, _RATE, wait_s
    held = " while others are under way" if refused.held else ""
    code = _RATE if held else _QUOTA
    if refused.limit == "tokens_per_day":
        text = (
            f"{allowed} tokens a day, of which {left} are left{held}, and this request may use {needed}; "
            "ask for fewer with max_tokens, or wait for the next day"
        )
        return text, code, RETRY_HELD_S
    most, rest, cost = (f"{_amount(nano)} {currency}" for nano in (allowed, left, needed))
    if refused.limit == "spend_nano_per_month":
        text = (
            f"{most} a month, of which {rest} is left{held}, and this request may cost {cost}; ask for fewer "
            "tokens with max_tokens, or have the limit raised"
        )
        return text, code, RETRY_HELD_S
    text = (
        f"the balance of {most} is set aside for requests under way but for {rest}, and this one may cost "
        f"{cost}; try again when one has ended"
    )
    return text, code, RETRY_HELD_S


_RATE = "rate_limit_exceeded"
_QUOTA = "insufficient_quota"
"""As OpenAI says it where waiting a moment does not help."""


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
