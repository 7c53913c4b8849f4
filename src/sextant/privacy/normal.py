"""Text as the detectors read it: full-width forms, other scripts' digits, look-alike letters, odd spaces and
dashes become ASCII, characters of no width vanish, and the escapes of JSON in a text (`\\n`, `\\u7535`)
become what they stand for; with the way back to the original's offsets.

Each character or escape becomes one character or none, so offsets change only where something was shortened.
The result is for looking only: what is masked is cut out of the original.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from itertools import pairwise

import msgspec

_ZEROS = (
    "\u0660\u06f0\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d66\u0e50\u0ed0\u0f20\u1040\u17e0"
    "\u1810\uff10\U0001d7ce\U0001d7d8\U0001d7e2\U0001d7ec\U0001d7f6\U0001fbf0"
)
"""The zero of each script's digits (Unicode 15, category Nd); nine more follow it."""
_LOOKALIKES = {
    **dict(zip("АВЕКМНОРСТУХЅІЈаеорсухѕіј", "ABEKMHOPCTYXSIJaeopcyxsij", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρ", "ABEZHIKMNOPTYXovp", strict=True)),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\u00ad", "-"),
    **dict.fromkeys("\u00a0\u202f\u205f\u3000", " "),
    **{chr(code): " " for code in range(0x2000, 0x200B)},
    **{chr(0x2460 + n): str(n + 1) for n in range(9)},
    **dict(zip("⓪〇", "00", strict=True)),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **{chr(ord(zero) + n): str(n) for zero in _ZEROS for n in range(10)},
    **{chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0x1D400, 0x1D6A4)},
}
"""The last are the letters of mathematics."""
_VANISH = "\u200b-\u200f\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069\u180e\ufe00-\ufe0f\u0300-\u036f"
_PUNCTUATION = frozenset("！＂＃＄％＆＇（）＊，：；＜＝＞？［＼］＾｀｛｜｝～／")
"""Full-width forms that every Chinese text has: not worth a copy of it, the detectors know them."""


def _class(characters: list[str]) -> str:
    """A regular expression's set of `characters`, as ranges."""
    codes = sorted({ord(character) for character in characters})
    ranges, begin = [], codes[0]
    for code, after in pairwise([*codes, codes[-1] + 2]):
        if after != code + 1:
            ranges.append(f"\\U{begin:08x}-\\U{code:08x}")
            begin = after
    return "".join(ranges)


_MAPPED = _class([character for character in _LOOKALIKES if character not in _PUNCTUATION])
_ODD = re.compile(f"[{_MAPPED}{_VANISH}][{_MAPPED}{_VANISH}]*+")
_ASCII = {ord(character): plain for character, plain in _LOOKALIKES.items()}
_VANISHING = re.compile(f"[{_VANISH}]")
_SHORTENED = re.compile(
    rf"""[\\{_VANISH}](?:(?<!\\)[{_VANISH}]*+|(?<!\\.)\\*+(?:u(?P<code>[0-9a-fA-F]{{4}})|[nrt"'/]))"""
)
"""The first character stands before what follows it, so that `re` can skip to it."""


class Normal(msgspec.Struct, frozen=True):
    """Normalised text. `cuts` are the places in it where something was left out, `lost` how many characters
    had been by then; where an escape ends, the place is also in `escapes`."""

    text: str
    cuts: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    escapes: frozenset[int] = frozenset()

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]`, which is not empty, stands in the original text."""
        if not self.cuts:
            return start, end
        return self._place(start), self._place(end) if end in self.escapes else self._place(end - 1) + 1

    def _place(self, index: int) -> int:
        place = bisect.bisect_right(self.cuts, index)
        return index + (self.lost[place - 1] if place else 0)


def normalise(text: str) -> Normal:
    """`text` in plain characters. Costs next to nothing where there are no odd ones."""
    escaped = "\\" in text
    if not text.isascii() and _ODD.search(text) is not None:
        text = _ODD.sub(_plain, text)
        if not escaped and _VANISHING.search(text) is None:
            return Normal(text)
    elif not escaped:
        return Normal(text)
    pieces: list[str] = []
    cuts: list[int] = []
    lost: list[int] = []
    escapes: list[int] = []
    begin = gone = length = 0
    for match in _SHORTENED.finditer(text):
        meant = _unescaped(match)
        piece = text[begin : match.start()] + meant
        length += len(piece)
        pieces.append(piece)
        begin = match.end()
        gone = begin - length
        cuts.append(length)
        lost.append(gone)
        if meant:
            escapes.append(length)
    if not pieces:
        return Normal(text)
    pieces.append(text[begin:])
    return Normal("".join(pieces), tuple(cuts), tuple(lost), frozenset(escapes))


def _unescaped(match: re.Match[str]) -> str:
    if match[0][0] != "\\":
        return ""
    if match["code"] is None:
        return " " if match[0][-1] in "nrt" else match[0][-1]
    character = chr(int(match["code"], 16))
    return "" if _VANISHING.match(character) else _LOOKALIKES.get(character, character)


def _plain(match: re.Match[str]) -> str:
    return match[0].translate(_ASCII)
