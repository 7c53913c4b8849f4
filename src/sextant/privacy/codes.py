"""Codes of letters and digits: unified social credit code, passport and travel permit, number plate.

Neighbours: `detector.py` calls these when their gate has matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sextant.privacy import checksums, context
from sextant.privacy.spans import Span

CREDIT_GATE = r"[1-9ANYany][ -]?[1-9][ -]?(?:[0-9][ -]?){6}(?:[0-9A-Za-z][ -]?){9}[0-9A-Za-z]"
PASSPORT_GATE = r"(?i)[A-Z][A-Z]?[0-9]{7}|passport|护照|通行证"
PLATE_GATE = r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-Za-z]|WJ"

_CREDIT = re.compile(
    r"(?<![A-Za-z0-9_])(?:9[ -]?[1-3]|[15][ -]?[1239]|[Yy][ -]?1|[234678ANan][ -]?[1-9])[ -]?"
    r"(?:[0-9][ -]?){6}"
    r"(?:[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy][ -]?){9}"
    r"[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy](?![A-Za-z0-9_])"
)
_SEPARATOR = re.compile("[ -]")
LEAST_GROUP = 4
"""Characters of each group of a credit code that is written in groups, but for the last."""
_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9_\-.])(?:[EeGg][0-9]{8}|[Ee][A-HJ-NP-Za-hj-np-z][0-9]{7}|[DSPdsp][Ee]?[0-9]{7}"
    r"|[CcHhMm][A-Za-z]?[0-9]{8})(?![A-Za-z0-9_]|[-.][A-Za-z0-9])"
)
_FOREIGN_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9_\-.])(?:[A-Z]{0,2}[0-9]{7,9}|[A-Z][0-9]{6}[A-Z0-9]{2})(?![A-Za-z0-9_])"
)
_TOLD_PASSPORT = context.said_before("护照", "通行证", "证件", "passport(?: no| number)?", "travel document")
_PLATE = re.compile(
    r"(?<![A-Za-z0-9])(?:[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-HJ-NP-Za-hj-np-z]"
    r"[ ·•・.\-]?(?:[DFdf][A-HJ-NP-Za-hj-np-z0-9][0-9]{4}|[0-9]{5}[A-HJKa-hjk]"
    r"|[A-HJ-NP-Za-hj-np-z0-9]{5}|[A-HJ-NP-Za-hj-np-z0-9]{4}[挂学警港澳领使])"
    r"|WJ ?[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]?[0-9]{4,5}[0-9XBTSHJD]?)"
    r"(?![A-Za-z0-9_])"
)
_TOLD_PLATE = context.said_before(
    "车牌", "牌照", "车号", "车辆", "号牌", "plate", "licen[cs]e plate", "vehicle"
)


def find_credit_codes(text: str) -> Iterator[Span]:
    """Spans of USCC in normalised text."""
    for match in _CREDIT.finditer(text):
        groups = _SEPARATOR.split(match[0])
        code = "".join(groups)
        if min(map(len, groups[:-1]), default=LEAST_GROUP) < LEAST_GROUP:
            continue  # words and numbers that stand side by side
        if code.isdecimal() and code[0] not in "159":
            continue  # a long number that happens to fit
        if code[:17].isdecimal() and checksums.is_date(code[6:14]):
            continue  # a mistyped resident ID rather
        if checksums.is_credit_code(code):
            yield Span(match.start(), match.end(), "USCC", 0.98)


def find_passports(text: str) -> Iterator[Span]:
    """Spans of PASSPORT: Chinese ones by their form, others only where the text says so."""
    for match in _PASSPORT.finditer(text):
        head = context.before(text, match.start())
        told = _TOLD_PASSPORT.search(head) is not None
        if told or context.OTHER_NUMBER.search(head) is None:
            sure = 0.94 if told else (0.7 if match[0][0].upper() in "EG" else 0.55)
            yield Span(match.start(), match.end(), "PASSPORT", sure)
    for match in _FOREIGN_PASSPORT.finditer(text):
        if _TOLD_PASSPORT.search(context.before(text, match.start())) is not None:
            yield Span(match.start(), match.end(), "PASSPORT", 0.9)


def find_plates(text: str) -> Iterator[Span]:
    """Spans of PLATE: ordinary and new-energy plates, trailers, police, WJ."""
    for match in _PLATE.finditer(text):
        told = _TOLD_PLATE.search(context.before(text, match.start())) is not None
        digits = sum(character.isdecimal() for character in match[0])
        if told or digits >= 3:
            yield Span(match.start(), match.end(), "PLATE", 0.93 if told else 0.8)
