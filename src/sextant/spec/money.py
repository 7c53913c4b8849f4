"""Amounts between what people write and what Sextant counts: decimals outside, integer billionths inside.

Neighbours: `policy.py` holds the integers; the price files, the command line and invoices the decimals.
"""

from __future__ import annotations

import re

from sextant.base.errors import BadRequest
from sextant.spec.policy import NANO

_DECIMAL = re.compile(r"(-?)(\d{1,15})(?:\.(\d{1,9}))?", re.ASCII)
_DIGITS = 9
_SHOWN_MIN = 2


def nano_of(text: str, field: str = "amount") -> int:
    """Billionths of a decimal as `12.5` or `-0.003`. Raises BadRequest for anything else, as an exponent,
    more than nine decimals (nothing is rounded in silence), or more than 15 digits before the point."""
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise BadRequest(
            f"{text[:40]!r} is no amount; write a decimal as 12.50, with at most {_DIGITS} decimals",
            field=field,
        )
    sign, whole, fraction = found[1], found[2], found[3] or ""
    nano = int(whole) * NANO + int(fraction.ljust(_DIGITS, "0"))
    return -nano if sign else nano


def decimal_of(nano: int, digits_min: int = _SHOWN_MIN) -> str:
    """The exact decimal of `nano` billionths, with at least `digits_min` digits after the point: `12.50`."""
    whole, fraction = divmod(abs(nano), NANO)
    shown = f"{fraction:09d}".rstrip("0").ljust(digits_min, "0")
    return f"{'-' if nano < 0 else ''}{whole}{'.' if shown else ''}{shown}"
