"""Values replaced by short typed tokens (`<CN_ID_1>`), and the request's own memory of which was which.

The way back is exact: another spelling of the same value (`138 0013 8000` after `13800138000`) gets the same
number with a letter (`<PHONE_1b>`), so that a model sees one telephone and the answer gets back what stood
there. A token that the text itself holds is never given out. Neighbours: `restore.py` puts values back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from sextant.privacy.normal import normalise
from sextant.privacy.restore import FORMS, may_hold_tokens
from sextant.privacy.spans import Span

_LETTERS = "bcdefghijklmnopqrstuvwxyz"
_SEPARATORS = re.compile(r"[\s\-().·•・/]+")
_EXACT = frozenset({"SECRET", "IP"})
"""Types whose separators are part of the value."""


def literal_tokens(texts: Iterable[str]) -> Iterator[str]:
    """Names of what looks like a token in `texts` already, without the brackets."""
    for text in texts:
        if may_hold_tokens(text):
            for match in FORMS.finditer(text):
                yield match[match.lastindex or 0]


class _OfType(msgspec.Struct):
    """The tokens of one type: by value, the names of each value's spellings, and the last number."""

    tokens: dict[str, str]
    spellings: dict[str, list[str]]
    last: int = 0


class Vault:
    """The tokens given out for one request."""

    __slots__ = ("_by_type", "_reserved", "values")

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """`reserved` are token names that must not be given out."""
        self.values: dict[str, str] = {}
        """What each token's name (`CN_ID_1`) stands for."""
        self._reserved = frozenset(reserved)
        self._by_type: dict[str, _OfType] = {}

    def token(self, type_: str, value: str) -> str:
        """The token of `value`: a new one, or the one it has."""
        of_type = self._by_type.get(type_)
        if of_type is None:
            of_type = self._by_type[type_] = _OfType({}, {})
        token = of_type.tokens.get(value)
        if token is None:
            name = self._name(type_, value, of_type)
            token = of_type.tokens[value] = f"<{name}>"
            self.values[name] = value
        return token

    def _name(self, type_: str, value: str, of_type: _OfType) -> str:
        canonical = _canonical(type_, value)
        same = of_type.spellings.get(canonical)
        if same is None:
            same = of_type.spellings[canonical] = []
        else:
            for letter in _LETTERS[len(same) - 1 :]:
                name = same[0] + letter
                if name not in self._reserved and name not in self.values:
                    same.append(name)
                    return name
        while True:
            of_type.last += 1
            name = f"{type_}_{of_type.last}"
            if name not in self._reserved and name not in self.values:
                same.append(name)
                return name


def mask(text: str, spans: Iterable[Span], vault: Vault) -> str:
    """`text` with each span replaced by its token. The spans are in order and do not overlap."""
    pieces: list[str] = []
    begin = 0
    for span in spans:
        start, end = span.start, span.end
        pieces += text[begin:start], vault.token(span.type, text[start:end])
        begin = end
    pieces.append(text[begin:])
    return "".join(pieces)


def _canonical(type_: str, value: str) -> str:
    """Equal for two spellings of one value."""
    if type_ in _EXACT:
        return value
    if value.isalnum() and value.isascii():
        return value.upper()
    return _SEPARATORS.sub("", normalise(value).text).upper()
