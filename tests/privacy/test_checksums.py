"""The fast sums against the plain ones of the standards."""

from __future__ import annotations

import random
import re

from sextant.privacy.checksums import is_date, is_luhn, is_resident_id
from sextant.privacy.numbers import _CARD_KINDS, _CARDS

WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def plain_luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def plain_resident_id(number: str) -> bool:
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == number[17].upper() and is_date(number[6:14])


def test_every_check_digit_is_judged_as_the_standards_say() -> None:
    rng = random.Random(1)
    right = 0
    for _ in range(500):
        begin = "".join(rng.choice("0123456789") for _ in range(rng.randint(12, 18)))
        body = f"110105{rng.randint(1900, 2099)}{rng.randint(1, 12):02}{rng.randint(1, 31):02}{begin[:3]}"
        for last in "0123456789":
            assert is_luhn(begin + last) == plain_luhn(begin + last)
        for last in "0123456789Xx":
            assert is_resident_id(body + last) == plain_resident_id(body + last)
            right += is_resident_id(body + last)
    assert 400 < right < 600


def test_what_is_no_number_has_no_check_digit() -> None:
    good = "11010519491231002X"
    assert is_resident_id(good)
    for wrong in (good[:-1], good + "X", "１" + good[1:], "x" + good[1:], "²" + good[1:], ""):
        assert not is_resident_id(wrong)


def test_issuers_by_length_are_those_of_the_list() -> None:
    for number in (f"{begin:04}{'0' * 15}" for begin in range(10_000)):
        for length in range(13, 20):
            plain = any(length in lengths and re.match(begin, number) for begin, lengths in _CARD_KINDS)
            assert (_CARDS[length].match(number[:length]) is not None) == plain
