"""The arithmetic of rates: GCRA for requests and a token bucket with reservation, in whole numbers.

Pure: the clock is an argument. Flow 1 (serve), inside `memory.py`; the script of the shared limiter computes
the same. A request rate is the generic cell rate algorithm (ITU-T I.371, as a virtual schedule): `tat_us` is
the theoretical arrival time of the next request. A bucket's level is kept in tokens times `MINUTE_US`, so
that a refill of n tokens a minute over any number of microseconds is exact. A clock that goes back costs at
most the wait of a full burst.
"""

from __future__ import annotations

MINUTE_US = 60_000_000


def schedule(tat_us: int, now_us: int, interval_us: int, burst: int) -> int:
    """The theoretical arrival time as it counts at `now_us`: not in the past, and no further ahead than a
    full burst, which only a clock set back or a longer interval of before can have caused."""
    if tat_us <= now_us:
        return now_us
    return min(tat_us, now_us + interval_us * burst)


def wait_us(tat_us: int, now_us: int, interval_us: int, burst: int) -> int:
    """How long until one request conforms, `tat_us` being `schedule`'s; 0: now."""
    early_us = tat_us - now_us - interval_us * (burst - 1)
    return early_us if early_us > 0 else 0


def level_at(level: int, stamp_us: int, now_us: int, tokens_per_min: int) -> int:
    """The bucket's level at `now_us`, of `level` at `stamp_us`: refilled, and never over its capacity."""
    capacity = tokens_per_min * MINUTE_US
    if now_us > stamp_us:
        level += (now_us - stamp_us) * tokens_per_min
    return min(level, capacity)


def refill_wait_us(level: int, tokens: int, tokens_per_min: int) -> int:
    """How long until `tokens` are in the bucket; 0: they are."""
    missing = tokens * MINUTE_US - level
    return -(-missing // tokens_per_min) if missing > 0 else 0
