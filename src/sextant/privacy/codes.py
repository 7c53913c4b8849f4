"""Codes of letters and digits: unified social credit code, passport and travel permit, number plate.

Neighbours: `detector.py` calls these when their gate has matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sextant.privacy import checksums, context
from sextant.privacy.spans import Span

_CREDIT_CHARACTER = "[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy]"
CREDIT_GATE = (
    r"\b(?:9[1-3]|[15][1239]|[Yy]1|[234678ANan][1-9])[0-9]{2}[ -]?[0-9]{4}[ -]?"
    rf"(?:{_CREDIT_CHARACTER}{{4}}[ -]?){{2}}{_CREDIT_CHARACTER}[ -]?{_CREDIT_CHARACTER}\b"
)
PASSPORT_GATE = r"(?i)[A-Z][A-Z]?[0-9]{7}|passport|护照|通行证"
PLATE_GATE = r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-Za-z]|WJ"

_CREDIT = re.compile(
    r"[1-9ANYany](?<![A-Za-z0-9_].)(?:(?<=9)[1-3]|(?<=[15])[1239]|(?<=[Yy])1|(?<=[234678ANan])[1-9])"
    rf"[0-9]{{2}}[ -]?[0-9]{{4}}[ -]?(?:{_CREDIT_CHARACTER}{{4}}[ -]?){{2}}"
    rf"{_CREDIT_CHARACTER}[ -]?{_CREDIT_CHARACTER}(?![A-Za-z0-9_])"
)
_SEPARATORS = str.maketrans("", "", " -")
_PASSPORT = re.compile(
    r"[CDEGHMPScdeghmps](?<![A-Za-z0-9_\-.].)(?:(?<=[EeGg])[0-9]{8}|(?<=[Ee])[A-HJ-NP-Za-hj-np-z][0-9]{7}"
    r"|(?<=[DSPdsp])[Ee]?[0-9]{7}|(?<=[CcHhMm])[A-Za-z]?[0-9]{8})(?![A-Za-z0-9_]|[-.][A-Za-z0-9])"
)
_FOREIGN_PASSPORT = re.compile(
    r"[A-Z0-9](?<![A-Za-z0-9_\-.].)"
    r"(?:(?<=[A-Z])[A-Z]?[0-9]{7,9}|(?<=[0-9])[0-9]{6,8}|(?<=[A-Z])[0-9]{6}[A-Z0-9]{2})(?![A-Za-z0-9_])"
)
_PASSPORT_WORD = re.compile(
    r"[护通证PpTt](?:(?<=护)照|(?<=通)行证|(?<=证)件|(?<=[Pp])(?i:assport)|(?<=[Tt])(?i:ravel document))"
)
_PLATE = re.compile(
    r"(?:[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使](?<![A-Za-z0-9].)[A-HJ-NP-Za-hj-np-z]"
    r"[ ·•・.\-]?(?:[DFdf][A-HJ-NP-Za-hj-np-z0-9][0-9]{4}|[0-9]{5}[A-HJKa-hjk]"
    r"|[A-HJ-NP-Za-hj-np-z0-9]{5}|[A-HJ-NP-Za-hj-np-z0-9]{4}[挂学警港澳领使])"
    r"|W(?<![A-Za-z0-9].)J ?[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]?"
    r"[0-9]{4,5}[0-9XBTSHJD]?)(?![A-Za-z0-9_])"
)


def find_credit_codes(text: str) -> Iterator[Span]:
    """Spans of USCC in normalised text."""
    for match in _CREDIT.finditer(text):
        code = match[0].translate(_SEPARATORS)
        if code.isdecimal() and code[0] not in "159":
            continue  # a long number that happens to fit
        if code[:17].isdecimal() and checksums.is_date(code[6:14]):
            continue  # a mistyped resident ID rather
        if checksums.is_credit_code(code):
            yield Span(match.start(), match.end(), "USCC", 0.98)


def find_passports(text: str) -> Iterator[Span]:
    """Spans of PASSPORT: Chinese ones by their form, others only where the text says so."""
    for match in _PASSPORT.finditer(text):
        said = context.said_before(text, match.start())
        if "passport" in said:
            yield Span(match.start(), match.end(), "PASSPORT", 0.94)
        elif "other" not in said:
            sure = 0.7 if match[0][0].upper() in "EG" else 0.55
            yield Span(match.start(), match.end(), "PASSPORT", sure)
    if _PASSPORT_WORD.search(text) is None:
        return
    for match in _FOREIGN_PASSPORT.finditer(text):
        if "passport" in context.said_before(text, match.start()):
            yield Span(match.start(), match.end(), "PASSPORT", 0.9)


def find_plates(text: str) -> Iterator[Span]:
    """Spans of PLATE: ordinary and new-energy plates, trailers, police, WJ."""
    for match in _PLATE.finditer(text):
        told = "plate" in context.said_before(text, match.start())
        digits = sum(character.isdecimal() for character in match[0])
        if told or digits >= 3:
            yield Span(match.start(), match.end(), "PLATE", 0.93 if told else 0.8)
