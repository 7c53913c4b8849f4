"""Text as the detectors read it: full-width forms, other scripts' digits, look-alike letters, odd spaces and
dashes become ASCII, characters of no width vanish; with the way back to the original's offsets.

Each character becomes one or none, so offsets change only where something vanished. The result is for looking
only: what is masked is cut out of the original.
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
}
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
_ODD = re.compile(f"[{_MAPPED}{_VANISH}\U0001d400-\U0001d7cd]")
_ODD_RUN = re.compile(f"[{_VANISH}]+")


class Normal(msgspec.Struct, frozen=True):
    """Normalised text. `cuts` are the places in it where characters vanished, `lost` how many had by then."""

    text: str
    cuts: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()

    def original(self, index: int) -> int:
        """Where the character at `index` stands in the original text."""
        if not self.cuts:
            return index
        place = bisect.bisect_right(self.cuts, index)
        return index + (self.lost[place - 1] if place else 0)


def normalise(text: str) -> Normal:
    """`text` in plain characters. Costs next to nothing where there are no odd ones."""
    if text.isascii() or _ODD.search(text) is None:
        return Normal(text)
    plain = _ODD.sub(_plain, text)
    if _ODD_RUN.search(plain) is None:
        return Normal(plain)
    pieces: list[str] = []
    cuts: list[int] = []
    lost: list[int] = []
    begin = gone = 0
    for run in _ODD_RUN.finditer(plain):
        pieces.append(plain[begin : run.start()])
        cuts.append(run.start() - gone)
        gone += run.end() - run.start()
        lost.append(gone)
        begin = run.end()
    pieces.append(plain[begin:])
    return Normal("".join(pieces), tuple(cuts), tuple(lost))


def _plain(match: re.Match[str]) -> str:
    character = match[0]
    known = _LOOKALIKES.get(character)
    if known is not None:
        return known
    folded = unicodedata.normalize("NFKC", character)
    return folded if len(folded) == 1 and folded.isascii() else character
