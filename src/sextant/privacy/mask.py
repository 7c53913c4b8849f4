"""Values replaced by short typed tokens (`<CN_ID_1>`), and the request's own memory of which was which.

The way back is exact: another spelling of the same value (`138 0013 8000` after `13800138000`) gets the same
number with a letter (`<PHONE_1b>`), so that a model sees one telephone and the answer gets back what stood
there. A token that the text itself holds is never given out. Neighbours: `restore.py` puts values back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sextant.privacy.normal import normalise
from sextant.privacy.restore import FORMS
from sextant.privacy.spans import Span

_LETTERS = "bcdefghijklmnopqrstuvwxyz"
_SEPARATORS = re.compile(r"[\s\-().·•・/]+")
_EXACT = frozenset({"SECRET", "IP"})
"""Types whose separators are part of the value."""


def literal_tokens(texts: Iterable[str]) -> Iterator[str]:
    """Names of what looks like a token in `texts` already, without the brackets."""
    for text in texts:
        for match in FORMS.finditer(text):
            yield match[match.lastindex or 0]


class Vault:
    """The tokens given out for one request."""

    __slots__ = ("_by_value", "_numbers", "_reserved", "_spellings", "values")

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """`reserved` are token names that must not be given out."""
        self.values: dict[str, str] = {}
        """What each token's name (`CN_ID_1`) stands for."""
        self._reserved = frozenset(reserved)
        self._by_value: dict[tuple[str, str], str] = {}
        self._spellings: dict[tuple[str, str], list[str]] = {}
        self._numbers: dict[str, int] = {}

    def token(self, type_: str, value: str) -> str:
        """The token of `value`: a new one, or the one it has."""
        name = self._by_value.get((type_, value))
        if name is None:
            name = self._name(type_, value)
            self._by_value[type_, value] = name
            self.values[name] = value
        return f"<{name}>"

    def _name(self, type_: str, value: str) -> str:
        same = self._spellings.setdefault((type_, _canonical(type_, value)), [])
        if same:
            for letter in _LETTERS[len(same) - 1 :]:
                name = same[0] + letter
                if name not in self._reserved and name not in self.values:
                    same.append(name)
                    return name
        while True:
            number = self._numbers[type_] = self._numbers.get(type_, 0) + 1
            name = f"{type_}_{number}"
            if name not in self._reserved and name not in self.values:
                same.append(name)
                return name


def mask(text: str, spans: Iterable[Span], vault: Vault) -> str:
    """`text` with each span replaced by its token. The spans are in order and do not overlap."""
    pieces: list[str] = []
    begin = 0
    for span in spans:
        pieces.append(text[begin : span.start])
        pieces.append(vault.token(span.type, text[span.start : span.end]))
        begin = span.end
    pieces.append(text[begin:])
    return "".join(pieces)


def _canonical(type_: str, value: str) -> str:
    """Equal for two spellings of one value."""
    if type_ in _EXACT:
        return value
    return _SEPARATORS.sub("", normalise(value).text).upper()
