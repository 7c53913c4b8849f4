"""All detectors behind one pass: a set of automata (RE2) says in one look which kinds a text may hold, and
only those are asked.

Neighbours: `numbers`, `codes`, `contacts`, `secrets`, `people` find; `mask.py` replaces. A tenant's own
patterns are RE2 too, whose time is linear in the text whatever the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import re2

from sextant.base.errors import BadRequest
from sextant.privacy import codes, contacts, numbers, people, secrets
from sextant.privacy.normal import normalise
from sextant.privacy.presidio import Presidio
from sextant.privacy.spans import BUILT_IN, OPT_IN, Span, without_overlaps

PATTERN_BYTES = 1024
PATTERN_MEMORY_BYTES = 4 * 1024 * 1024
"""What one compiled pattern of a tenant may take."""
GATES_MEMORY_BYTES = 64 * 1024 * 1024
"""The most that the automata of the gates may take; they use a fraction of it."""
PATTERNS = 64
"""A tenant's own patterns."""
_TYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")

Finder = Callable[[str], Iterable[Span]]
_FINDERS: tuple[tuple[frozenset[str], str, Finder], ...] = (
    (frozenset({"CN_ID", "PHONE", "BANK_CARD"}), numbers.GATE, numbers.find),
    (frozenset({"USCC"}), codes.CREDIT_GATE, codes.find_credit_codes),
    (frozenset({"PASSPORT"}), codes.PASSPORT_GATE, codes.find_passports),
    (frozenset({"PLATE"}), codes.PLATE_GATE, codes.find_plates),
    (frozenset({"EMAIL"}), contacts.EMAIL_GATE, contacts.find_emails),
    (frozenset({"IP"}), contacts.IPV4_GATE, contacts.find_addresses),
    (frozenset({"IP"}), contacts.IPV6_GATE, contacts.find_addresses_v6),
    (frozenset({"BIRTH_DATE"}), contacts.BIRTH_GATE, contacts.find_births),
    (frozenset({"SECRET"}), secrets.PREFIX_GATE, secrets.find_keys),
    (frozenset({"SECRET"}), secrets.URL_GATE, secrets.find_in_urls),
    (frozenset({"SECRET"}), secrets.WORD_GATE, secrets.find_named),
    (frozenset({"NAME"}), people.NAME_GATE, people.find_names),
    (frozenset({"ADDRESS"}), people.ADDRESS_GATE, people.find_postal),
)
"""Types, the gate that lets a text through to what finds them, and that."""


class Detector:
    """Finds what it was made for; made once, used from any thread."""

    def __init__(self, types: Iterable[str] = BUILT_IN, patterns: Mapping[str, str] | None = None) -> None:
        """`types` of `BUILT_IN` and `OPT_IN`; `patterns` are own types with their RE2 expressions. Raises
        BadRequest for a type that does not exist or a pattern that cannot be used, Misconfigured where
        Presidio is asked for and not installed."""
        self.types = frozenset(types)
        unknown = sorted(self.types - {*BUILT_IN, *OPT_IN})
        if unknown:
            raise BadRequest(
                f"there is no detector {unknown[0]!r}; expected {', '.join((*BUILT_IN, *OPT_IN))}",
                field="privacy.opt_in",
            )
        self._finders: list[Finder] = []
        options = re2.Options()
        options.max_mem = GATES_MEMORY_BYTES
        self._set = re2.Set.SearchSet(options)
        for kinds, gate, finder in _FINDERS:
            if kinds & self.types:
                self._set.Add(gate)
                self._finders.append(finder if kinds <= self.types else _only(self.types, finder))
        own = patterns or {}
        if len(own) > PATTERNS:
            raise BadRequest(f"{len(own)} patterns; at most {PATTERNS}", field="privacy.patterns")
        self._own: list[Finder] = [
            _own_finder(name, compile_pattern(name, pattern)) for name, pattern in own.items()
        ]
        if "PRESIDIO" in self.types:
            self._own.append(Presidio().find)
        if self._finders:
            self._set.Compile()

    def find(self, text: str) -> list[Span]:
        """What was found, in order and without overlaps; offsets are those of `text`."""
        normal = normalise(text)
        plain = normal.text
        encoded = plain.encode("utf-8", "replace")
        fired = self._set.Match(encoded) if self._finders else None
        if not fired and not self._own:
            return []
        if not plain.isascii() and b"?" in encoded:
            plain = encoded.decode()  # a lone surrogate, which JSON can carry, has no UTF-8
        spans: list[Span] = []
        for gate in sorted(fired or ()):
            spans += self._finders[gate](plain)
        for find in self._own:
            spans += find(plain)
        if len(spans) > 1:
            spans = without_overlaps(spans)
        if not normal.cuts:
            return spans
        return [Span(*normal.original(s.start, s.end), s.type, s.confidence) for s in spans]


def _only(types: Collection[str], finder: Finder) -> Finder:
    """What `finder` finds of these types: it looks for more than is asked for."""
    return lambda text: [span for span in finder(text) if span.type in types]


def compile_pattern(name: str, expression: str) -> re2._Regexp:
    """A tenant's own pattern. Its first group, where it has one, is what is taken. Raises BadRequest."""
    field = f"privacy.patterns.{name}"
    if not _TYPE_NAME.fullmatch(name) or name in BUILT_IN or name in OPT_IN:
        raise BadRequest(
            f"{name!r} cannot name a type of one's own; expected capitals, digits and underscores, and none "
            f"of {', '.join((*BUILT_IN, *OPT_IN))}",
            field="privacy.patterns",
        )
    if len(expression.encode()) > PATTERN_BYTES:
        raise BadRequest(f"the pattern of {name} is over {PATTERN_BYTES} bytes; make it shorter", field=field)
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES
    options.log_errors = False
    try:
        pattern = re2.compile(expression, options=options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise BadRequest(
            f"the pattern of {name} is no RE2 expression: {said}; see github.com/google/re2/wiki/Syntax",
            field=field,
        ) from None
    if pattern.search("") is not None:
        raise BadRequest(
            f"the pattern of {name} matches nothing at all; it must take a character", field=field
        )
    return pattern


def _own_finder(name: str, pattern: re2._Regexp) -> Finder:
    def find(text: str) -> Iterator[Span]:
        group = 1 if pattern.groups else 0
        for match in pattern.finditer(text):
            start, end = match.span(group)
            if end > start >= 0:
                yield Span(start, end, name, 0.9)

    return find
