"""Limits, amounts, factors and times as people type and read them, and as the admin API takes them.

Amounts are decimals here and integer billionths there; a limit is `NAME=VALUE`, and `NAME=none` removes it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from sextant.base.errors import BadRequest

LIMIT_HELP = (
    "NAME=VALUE, again for more: requests_per_s, burst_requests, tokens_per_min, concurrent_requests, "
    "tokens_per_day, spend_per_month (an amount); NAME=none removes one."
)
_SPEND = "spend_per_month"
_SPEND_FIELD = "spend_nano_per_month"
_WHOLE = ("burst_requests", "tokens_per_min", "concurrent_requests", "tokens_per_day")
LIMITS = ("requests_per_s", *_WHOLE, _SPEND)
PPM = 1_000_000
AMOUNT_NANO_MAX = 1 << 62
"""As `store.accounts_database` has it, which would import a database."""


def limits_of(given: Sequence[str], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The limits `before` with those of the `NAME=VALUE` options put over them, as the API takes them. Raises
    BadRequest."""
    limits = {name: value for name, value in (before or {}).items() if value is not None}
    for option in given:
        name, equals, value = option.partition("=")
        name = name.strip().replace("-", "_")
        if name not in LIMITS or not equals:
            raise BadRequest(f"--limit {option}: expected NAME=VALUE, with NAME one of {', '.join(LIMITS)}")
        field = _SPEND_FIELD if name == _SPEND else name
        if value.strip().lower() in ("none", ""):
            limits.pop(field, None)
        else:
            limits[field] = _limit(name, value.strip())
    return limits


def _limit(name: str, value: str) -> float | int:
    if name == _SPEND:
        return amount_nano(value)
    try:
        number = Decimal(value.replace("_", ""))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number < 0 or (name in _WHOLE and number != int(number)):
        kind = "a whole number" if name in _WHOLE else "a number"
        raise BadRequest(f"--limit {name}={value}: expected {kind} from 0, or none")
    return int(number) if name in _WHOLE else float(number)


def limits_shown(limits: dict[str, Any]) -> str:
    """Limits in one line, as they are typed; `none` where there is none."""
    shown = []
    for name in LIMITS:
        value = limits.get(_SPEND_FIELD if name == _SPEND else name)
        if value is None or (name == "burst_requests" and value == 0):
            continue
        shown.append(
            f"{name}={amount(value) if name == _SPEND else f'{value:g}' if name == LIMITS[0] else value}"
        )
    return ", ".join(shown) or "none"


def amount_nano(text: str) -> int:
    """Billionths of a decimal amount as typed. Raises BadRequest; also for a comma, which is a point to some
    and nothing to others: 12,50 must not become 1,250."""
    from sextant.spec.money import nano_of

    return nano_of(text.strip().replace("_", ""))


def paid_nano(text: str) -> int:
    """Billionths of an amount that moves: more than nothing, and what the books can hold. Raises
    BadRequest."""
    nano = amount_nano(text)
    if not 0 < nano <= AMOUNT_NANO_MAX:
        raise BadRequest(
            f"amount {text}: expected more than 0 and at most {amount(AMOUNT_NANO_MAX)} of its currency"
        )
    return nano


def amount(nano: int, currency: str = "") -> str:
    """An amount for people: `12.50 USD`."""
    from sextant.spec.money import decimal_of

    return f"{decimal_of(nano)} {currency}".rstrip()


def factor_ppm(text: str, name: str) -> int:
    """Parts per million of a factor as `0.5`. Raises BadRequest."""
    try:
        value = Decimal(text) * PPM
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or value < 0 or value != int(value):
        raise BadRequest(f"{name} {text}: expected a number as 0.5, with at most 6 decimals")
    return int(value)


def day_of(text: str, name: str) -> datetime.date:
    """A day as `2026-11-22`. Raises BadRequest."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} {text}: expected a day as 2026-11-22") from None


def moment_ms(text: str, name: str) -> int:
    """A day or a moment as `2026-12-01` or `2026-12-01T00:00+08:00`, UTC where it names no zone, as Unix
    milliseconds. Raises BadRequest."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(
            f"{name} {text}: expected a moment as 2026-12-01 or 2026-12-01T00:00+08:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000)


def month_of(text: str) -> str:
    """A month as `2026-11`. Raises BadRequest."""
    if re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) is None:
        raise BadRequest(f"month {text}: expected a month as 2026-11")
    return text


def day_shown(milliseconds: int) -> str:
    """The day of a moment, in this machine's zone; `never` for 0."""
    if not milliseconds:
        return "never"
    return datetime.datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d")


def moment_shown(milliseconds: int) -> str:
    """A moment, in this machine's zone."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def path_part(text: str) -> str:
    """`text` as one part of a URL's path."""
    from urllib.parse import quote

    return quote(text, safe="")
