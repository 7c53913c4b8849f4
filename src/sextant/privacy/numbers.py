"""Numbers written in digits: resident ID, bank card, mobile and landline.

One look for runs of ten or more digits with their separators; then each window of a run is tried for what its
length allows. A window of several groups has the same separator throughout, so that a date beside a telephone
number does not become a bank card. Neighbours: `detector.py` calls `find`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from sextant.privacy import checksums, context
from sextant.privacy.spans import Span

GATE = r"[0-9](?:[ ()（）\-]{0,2}[0-9]){9}"
"""What must occur for this file to be asked (RE2)."""
MOST_GROUPS = 6

_RUN = re.compile(
    r"[0-9](?=[0-9 ()（）\-]{9})"
    r"(?:(?<![A-Za-z0-9_].)|(?<=(?i:id|no).)|(?<=(?i:tel).)|(?<=(?i:card).)|(?<=(?i:phone).))[0-9]*+"
    r"(?:[Xx](?![A-Za-z0-9_])|(?![A-Za-z_])(?:[ ()（）\-]{1,2}[0-9]++(?![A-Za-z_]))*+"
    r"(?:[ ()（）\-]{1,2}[0-9]++[Xx](?![A-Za-z0-9_]))?)"
)
"""Groups of digits, none of which goes on as a word; the last may end with X. The first digit stands before
what must precede it, so that `re` can skip to digits; nothing is tried twice."""
_GROUP = re.compile(r"[0-9]+[Xx]?")
LEAST_RUN_DIGITS = 10
_PROVINCES = frozenset(
    str(code)
    for first, last in ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71), (81, 83))
    for code in range(first, last + 1)
)
"""GB/T 2260, and 81 to 83 for residents of Hong Kong, Macao and Taiwan."""
_MOBILE = re.compile(r"1(?:3\d|4[014-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])\d{8}")
_AREA = re.compile(r"0(?:10|2[0-57-9]|[3-9]\d{2})")
_CARD_KINDS = (
    (r"62|60[0-9]|81", range(16, 20)),
    (r"4", (13, 16, 19)),
    (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),
    (r"3[47]", (15,)),
    (r"35(?:2[89]|[3-8])", (16,)),
    (r"30[0-5]|3[689]", (14,)),
    (r"6(?:011|4[4-9]|5)", (16, 19)),
    (r"9(?:558|559|0|8)|10[03]|68|69", (16, 17, 18, 19)),
)
"""Issuers by how their numbers begin and how long they are: UnionPay, Visa, Mastercard, American Express,
JCB, Diners, Discover, and older cards of Chinese banks."""
_LEAST_DIGITS_AFTER_PLUS, _MOST_DIGITS = 7, 19
"""No number looked for here is shorter or longer; without a plus, none is shorter than `LEAST_RUN_DIGITS`."""
_MOST_PHONE_DIGITS = 16
_PHONE_DIGITS_WITHOUT_PLUS = frozenset({10, 11, 12, 13, 15})
"""Area and number, a mobile, a mobile behind 86 or 0086, a North American number."""
_CARDS = {
    length: re.compile("|".join(begin for begin, lengths in _CARD_KINDS if length in lengths))
    for length in range(13, 20)
}
_UNIT = re.compile(
    r"(?i) ?(?:[元分万亿块条次个件人%]|美元|字节|(?:ms|us|ns|kb|mb|bytes?|rows?|tokens?|usd|rmb)\b)"
)
"""After a number: it counts or pays for something."""


_Window = Sequence[tuple[int, int]]
"""Groups that are tried as one number: where each begins and ends in the text."""


def find(text: str) -> list[Span]:
    """Spans of CN_ID, BANK_CARD and PHONE in normalised text."""
    spans: list[Span] = []
    for run in _RUN.finditer(text):
        written = run[0]
        if not written.isalnum():
            spans += _among(text, [match.span() for match in _GROUP.finditer(text, *run.span())])
            continue
        place = start, end = run.span()
        digits_count = end - start - (written[-1] in "Xx")
        if digits_count < LEAST_RUN_DIGITS or end - start > _MOST_DIGITS:
            continue
        if not _continues(text, start) and not _goes_on(text, end):
            span = _judge(text, (place,), written)
            if span is not None:
                spans.append(span)
    return spans


def _among(text: str, groups: list[tuple[int, int]]) -> list[Span]:
    """What there is in a run of several groups."""
    spans: list[Span] = []
    digits_count = sum(end - start for start, end in groups) - (text[groups[-1][1] - 1] in "Xx")
    if digits_count < LEAST_RUN_DIGITS:
        return spans
    first = 1 if _continues(text, groups[0][0]) else 0
    if _goes_on(text, groups[-1][1]):
        groups.pop()
    while first < len(groups):
        found = _longest(text, groups, first)
        if found is None:
            first += 1
            continue
        span, first = found
        spans.append(span)
    return spans


def _continues(text: str, start: int) -> bool:
    """Whether a run's first group ends something larger: a fraction, a UUID, a name with a number."""
    if start < 2 or (one := text[start - 1]) not in "._-/":
        return False
    two = text[start - 2]
    if not two.isascii():
        return False
    return (one in "._" and two.isdecimal()) or (one in "-_/" and two.isalpha())


def _goes_on(text: str, end: int) -> bool:
    """Whether a run's last group is the beginning of something larger."""
    one = text[end : end + 1]
    if one not in (".", "-", "_"):
        return False
    two = text[end + 1 : end + 2]
    if not two.isascii():
        return False
    return (one == "." and two.isdecimal()) or (one in "-_" and two.isalpha())


def _longest(text: str, groups: _Window, first: int) -> tuple[Span, int] | None:
    """What begins with group `first`, the longest number first; and the group after it."""
    digits = ""
    windows = []
    begin = groups[first][0]
    least = _LEAST_DIGITS_AFTER_PLUS if "+" in text[max(0, begin - 2) : begin] else LEAST_RUN_DIGITS
    for after, (start, end) in enumerate(groups[first : first + MOST_GROUPS], first + 1):
        digits += text[start:end]
        if least <= len(digits) <= _MOST_DIGITS:
            windows.append((after, digits))
    for after, digits in reversed(windows):
        span = _judge(text, groups[first:after], digits)
        if span is not None:
            return span, after
    return None


def _judge(text: str, window: _Window, digits: str) -> Span | None:
    """The one number that `digits`, written as the groups of `window`, can be."""
    length = len(digits)
    bare = digits.isdecimal()
    if length >= 13:
        start, end = window[0][0], window[-1][1]
        alone = len(window) == 1
        if length == 18 and digits[:2] in _PROVINCES and checksums.is_resident_id(digits):
            if alone or _evenly_joined(text, window):
                return Span(start, end, "CN_ID", 0.99)
        elif not bare:
            return None
        elif length == 15 and (alone or _evenly_joined(text, window)) and _is_old_id(text, start, digits):
            return Span(start, end, "CN_ID", 0.8)
        if bare and _is_card(text, window, digits) and (alone or _evenly_joined(text, window)):
            return Span(start, end, "BANK_CARD", 0.95)
    if bare and length <= _MOST_PHONE_DIGITS:
        return _phone(text, window, digits)
    return None


def _evenly_joined(text: str, window: _Window) -> bool:
    """Whether one separator stands between all groups."""
    joints = {text[before[1] : after[0]] for before, after in pairwise(window)}
    return len(joints) == 1 and joints <= {" ", "-"}


def _is_old_id(text: str, start: int, digits: str) -> bool:
    """15 digits of before 1999, which have no check digit: only where the text says so."""
    dated = digits[:2] in _PROVINCES and checksums.is_date("19" + digits[6:12])
    return dated and "id" in context.said_before(text, start)


def _is_card(text: str, window: _Window, digits: str) -> bool:
    if len(window) > 1 and any(not 4 <= end - start <= 6 for start, end in window[:-1]):
        return False
    if _CARDS[len(digits)].match(digits) is None:
        return False
    if not checksums.is_luhn(digits) or len(set(digits)) < 2:
        return False
    if len(digits) == 18 and digits[:2] in _PROVINCES and checksums.is_date(digits[6:14]):
        return False  # a mistyped resident ID rather
    said = context.said_before(text, window[0][0])
    return "other" not in said or "card" in said


def _phone(text: str, window: _Window, digits: str) -> Span | None:
    """A mobile or landline number; its country code belongs to the span."""
    start, end = window[0][0], window[-1][1]
    if start > 0 and text[start - 1] in "(（":
        start -= 1
    plus = start > 0 and text[start - 1] == "+"
    start -= plus
    if not plus and len(digits) not in _PHONE_DIGITS_WITHOUT_PLUS:
        return None
    confidence = _phone_confidence(window, digits, plus)
    if not confidence:
        return None
    said = context.said_before(text, start)
    if "phone" in said:
        return Span(start, end, "PHONE", 0.94)
    if confidence < 0.5 or ("other" in said and not plus):
        return None
    if len(window) == 1 and not plus and _UNIT.match(text, end):
        return None
    return Span(start, end, "PHONE", confidence)


def _phone_confidence(window: _Window, digits: str, plus: bool) -> float:
    """0: no telephone number; below 0.5: only where the text says so."""
    national = digits
    if digits.startswith("0086") and len(digits) >= 14:
        national = digits[4:]
    elif digits.startswith("86") and len(digits) >= 12 and (plus or len(digits) == 13):
        national = digits[2:]
    if len(national) == 11 and _MOBILE.fullmatch(national):
        return 0.9 if len(window) <= 4 else 0.0
    if national is not digits and plus and len(national) in (9, 10, 11, 12):
        return 0.85 if _AREA.match("0" + national.lstrip("0")) else 0.0
    area = _AREA.match(digits)
    if area is not None and len(digits) - area.end() in (7, 8):
        return 0.85 if window[0][1] - window[0][0] == area.end() and len(window) <= 3 else 0.4
    if plus and 8 <= len(digits) <= 15:
        return 0.85
    return _north_american(digits, window)


def _north_american(digits: str, window: _Window) -> float:
    bare = digits.removeprefix("1") if len(digits) == 11 else digits
    if len(bare) != 10 or bare[0] in "01" or bare[3] in "01":
        return 0.0
    if [end - start for start, end in window[-3:]] == [3, 3, 4]:
        return 0.8
    return 0.4
