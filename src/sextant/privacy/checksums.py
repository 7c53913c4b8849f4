"""Check digits of personal numbers. Pure; each takes the bare characters, without separators."""

from __future__ import annotations

import datetime
from operator import mul

_ZERO = ord("0")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_CODE_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_NO_VALUE = 255
_CODE_VALUES = bytes(_CODE_ALPHABET.find(chr(code)) % 256 for code in range(256))
"""The value of each character by its code, `_NO_VALUE` for those that are not of the alphabet."""
_CODE_WEIGHTS = tuple(pow(3, place, 31) for place in range(17))
_LUHN_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_ID_ZEROS = _ZERO * sum(_ID_WEIGHTS)
EARLIEST_YEAR, LATEST_YEAR = 1900, 2099


def is_resident_id(number: str) -> bool:
    """GB 11643-1999: 17 digits and the check character of ISO 7064 MOD 11-2, with a real date in it."""
    if len(number) != 18 or not number.isascii() or not number[:17].isdecimal():
        return False
    total = sum(map(mul, number.encode(), _ID_WEIGHTS)) - _ID_ZEROS
    return _ID_CHECKS[total % 11] == number[17].upper() and is_date(number[6:14])


def is_credit_code(code: str) -> bool:
    """GB 32100-2015: 18 characters of an alphabet of 31, the last a check character mod 31."""
    if len(code) != 18 or not code.isascii():
        return False
    values = code.upper().encode().translate(_CODE_VALUES)
    return _NO_VALUE not in values and values[17] == -sum(map(mul, values, _CODE_WEIGHTS)) % 31


def is_luhn(number: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = number.encode("ascii")
    plain, doubled = digits[::-2], digits[-2::-2]
    return (sum(plain) - _ZERO * len(plain) + sum(doubled.translate(_LUHN_DOUBLED))) % 10 == 0


def is_date(digits: str) -> bool:
    """Whether YYYYMMDD is a day between 1900 and 2099."""
    try:
        day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return EARLIEST_YEAR <= day.year <= LATEST_YEAR
