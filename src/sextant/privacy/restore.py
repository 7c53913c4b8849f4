"""Tokens replaced by the values they stand for, in whole text and in text that arrives in pieces.

A token comes back as `<CN_ID_1>`, `&lt;CN_ID_1&gt;` in HTML, or `\\u003cCN_ID_1\\u003e` in JSON; inside a
JSON string the value is escaped as JSON wants it. Of a stream nothing is held back but the beginning
of what may become a token of this request. What is no token of it stays as it is, and what was put back is
not read again.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

import msgspec

FORMS = re.compile(
    r"<([A-Z][A-Z0-9_]*_[0-9]+[b-z]?)>"
    r"|&lt;([A-Z][A-Z0-9_]*_[0-9]+[b-z]?)&gt;"
    r"|\\u003[cC]([A-Z][A-Z0-9_]*_[0-9]+[b-z]?)\\u003[eE]"
)
"""A token as models write it; the group that matched is its name."""
_BEGUN = re.compile(
    r"(?:<(?P<plain>[A-Z][A-Z0-9_]*[b-z]?)?"
    r"|&lt;(?P<html>[A-Z][A-Z0-9_]*[b-z]?)?(?P<html_end>&|&g|&gt)?"
    r"|\\u003[cC](?P<json>[A-Z][A-Z0-9_]*[b-z]?)?(?P<json_end>\\|\\u|\\u0|\\u00|\\u003)?"
    r"|&|&l|&lt|\\|\\u|\\u0|\\u00|\\u003)\Z"
)
_LEADS = re.compile(r"[<&\\]")
_encode = msgspec.json.Encoder().encode


def may_hold_tokens(text: str) -> bool:
    """False where no token can stand."""
    return "<" in text or "&lt;" in text or "\\u003" in text


def may_begin_tokens(written: bytes) -> bool:
    """Whether in a string of this JSON something may stand that a token begins with or goes on with after
    its beginning was kept back; False lets the bytes pass as they are."""
    if b"<" in written or b"&" in written:
        return True
    return b"\\" in written and (b"\\\\" in written or b"\\u00" in written)


class Tokens:
    """The tokens of one request, ready for looking up."""

    __slots__ = ("_beginnings", "_longest", "values")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self._longest = 0
        self._beginnings: frozenset[str] = frozenset()
        """Both are made when they are first asked for: most answers hold nothing that begins like a token."""

    @property
    def longest(self) -> int:
        """Characters of the longest form of any of them."""
        if not self._longest:
            self._longest = max(map(len, self.values), default=0) + len(r"\u003c\u003e")
        return self._longest

    def _begins(self, name: str) -> bool:
        """Whether one of them begins so."""
        if not self._beginnings:
            self._beginnings = frozenset(
                name[:length] for name in self.values for length in range(1, len(name) + 1)
            )
        return name in self._beginnings

    def restore(self, text: str, *, json: bool = False) -> str:
        """`text` with its values; `json`: it is JSON, or a piece of it."""

        def value_of(match: re.Match[str]) -> str:
            plain, in_html, in_json = match.groups()
            value = self.values.get(plain or in_html or in_json)
            if value is None:
                return match[0]
            if json or in_json:
                return _encode(value)[1:-1].decode()
            return html.escape(value, quote=False) if in_html else value

        return FORMS.sub(value_of, text)

    def begun(self, text: str) -> int:
        """Where in `text` the beginning of a token stands that its end cuts off; its length if none does."""
        tail = max(0, len(text) - self.longest)
        match = _BEGUN.search(text, tail)
        if match is None:
            return len(text)
        name = match["plain"] or match["html"] or match["json"]
        ended = match["html_end"] or match["json_end"]
        if name is None:
            return len(text) if ended else match.start()
        if name in self.values if ended else self._begins(name):
            return match.start()
        return len(text)


class Restorer:
    """Puts values back in one text that comes in pieces. Give it each piece, then `flush`."""

    __slots__ = ("_held", "_json", "_tokens")

    def __init__(self, tokens: Tokens, *, json: bool = False) -> None:
        self._tokens = tokens
        self._json = json
        self._held = ""

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def feed(self, piece: str) -> str:
        """What can be said now. At most the beginning of one token is kept for the next piece."""
        if not self._held and _LEADS.search(piece) is None:
            return piece
        text = self._held + piece
        cut = self._tokens.begun(text)
        self._held = text[cut:]
        return self._tokens.restore(text[:cut], json=self._json)

    def flush(self) -> str:
        """What was kept: the text has ended, so it is no token."""
        held, self._held = self._held, ""
        return held
