"""How the pages write amounts, counts and times: exact, with their currency and their time zone."""

from __future__ import annotations

import datetime
import zoneinfo

from sextant.spec.money import decimal_of
from sextant.spec.policy import NANO

_DAY_MS = 86_400_000


def money(nano: int, currency: str) -> str:
    """An exact amount: `1,234.50 CNY`."""
    sign, digits = ("-", decimal_of(-nano)) if nano < 0 else ("", decimal_of(nano))
    whole, _, fraction = digits.partition(".")
    return f"{sign}{int(whole):,}.{fraction} {currency}"


def rounded(nano: int, currency: str) -> str:
    """An amount to a hundredth, for where the exact one is near: `1,234.50 CNY`, nearer to nothing than that
    `< 0.01 CNY` or, of debts, `> -0.01 CNY`."""
    if 0 < abs(nano) < NANO // 100:
        return f"{'<' if nano > 0 else '>'} {'-' if nano < 0 else ''}0.01 {currency}"
    return f"{nano / NANO:,.2f} {currency}"


def count(number: float) -> str:
    """`12,345`; of a rate its decimals too: `0.5`."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,g}"


def plain(number: float) -> str:
    """A number as a form takes it back: `1500`, `0.5`."""
    return decimal_of(round(number * NANO), 0)


def share(part: float, whole: float) -> int:
    """Per cent, from 0 to 100; 100 of nothing at all, which any use exceeds."""
    if whole <= 0:
        return 100
    return max(0, min(100, round(100 * part / whole)))


def zone(name: str) -> datetime.tzinfo:
    """A time zone by name; UTC for one that is not known here."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return datetime.UTC


def moment(at_ms: int, time_zone: str) -> str:
    """A time with its zone: `2026-11-22 16:30 UTC+8`."""
    at = datetime.datetime.fromtimestamp(at_ms / 1000, zone(time_zone))
    offset = at.utcoffset() or datetime.timedelta()
    if not offset:
        return f"{at:%Y-%m-%d %H:%M} UTC"
    hours, minutes = divmod(abs(int(offset.total_seconds())) // 60, 60)
    sign = "-" if offset.days < 0 else "+"
    return f"{at:%Y-%m-%d %H:%M} UTC{sign}{hours}{f':{minutes:02d}' if minutes else ''}"


def machine_moment(at_ms: int) -> str:
    """A time for programs, in UTC: `2026-11-22T08:30:00Z`."""
    return f"{datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def today(now_ms: int, time_zone: str) -> datetime.date:
    """The day that it is there."""
    return datetime.datetime.fromtimestamp(now_ms / 1000, zone(time_zone)).date()


def days_before(last: datetime.date, days: int) -> list[datetime.date]:
    """So many days that end with `last`, oldest first."""
    return [last - datetime.timedelta(days=back) for back in range(days - 1, -1, -1)]


def day_start_ms(day: datetime.date) -> int:
    """The beginning of a day as control's usage counts it."""
    return (day - datetime.date(1970, 1, 1)).days * _DAY_MS
