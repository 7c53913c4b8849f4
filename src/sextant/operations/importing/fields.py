"""Reading one mapping of a foreign file so that nothing in it is dropped silently.

Every field is taken by name and type, passed over as bookkeeping, or noted as not carried over by `rest`.
A value of the wrong type stops the import: guessing at limits or scopes could let somebody do more than
before. Rows of database dumps hold numbers, flags, lists and JSON as text; those are read as what they mean.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import json
from collections.abc import Mapping
from typing import Any

from sextant.base.errors import BadDocument
from sextant.operations.importing.plan import Note
from sextant.spec.problems import shown

_TRUE = {"t", "true", "1", "yes", "on"}
_FALSE = {"f", "false", "0", "no", "off"}


class Fields:
    """The fields of one mapping found at `where`; faults and leftovers go to `notes`."""

    def __init__(self, value: Any, where: str, notes: list[Note]) -> None:
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise BadDocument(f"{where}: expected a mapping, found {shown(value, where)}", field=where)
        self.where = where
        self.notes = notes
        self._left = {str(name): item for name, item in value.items() if not _empty(item)}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def raw(self, name: str) -> Any:
        """The value as it stands; None where there is none."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str:
        """Empty where there is none."""
        value = self.raw(name)
        if value is None:
            return ""
        if isinstance(value, bool | list | dict):
            raise self._wrong(name, value, "text")
        return str(value)

    def whole(self, name: str) -> int | None:
        """A whole number."""
        number = self.number(name)
        if number is None:
            return None
        if number != number.to_integral_value():
            raise self._wrong(name, str(number), "a whole number")
        return int(number)

    def number(self, name: str) -> decimal.Decimal | None:
        """A decimal, as written."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = decimal.Decimal(str(value))
            except decimal.InvalidOperation:
                number = decimal.Decimal("nan")
            if number.is_finite() and abs(number) < decimal.Decimal(10) ** 18:
                return number
        raise self._wrong(name, value, "a number")

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        value = self.raw(name)
        word = str(value).lower()
        if value is None or word in _FALSE:
            return False
        if word in _TRUE:
            return True
        raise self._wrong(name, value, "true or false")

    def names(self, name: str) -> tuple[str, ...]:
        """A list of texts: a list, a PostgreSQL array, or text with commas or line breaks."""
        value = self.raw(name)
        if value is None:
            return ()
        if isinstance(value, str):
            if value.startswith("{") and value.endswith("}"):
                rows = list(csv.reader([value[1:-1]], escapechar="\\")) if len(value) > 2 else []
                return tuple(rows[0]) if rows else ()
            is_json = value.startswith("[")
            value = self._json(name, value) if is_json else value.replace("\n", ",").split(",")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, value, "a list of names")
        return tuple(item.strip() for item in value if item.strip())

    def mapping(self, name: str) -> Fields:
        """A mapping, or JSON text of one; an empty one where there is none."""
        value = self.raw(name)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = self._json(name, value)
        return Fields(value, f"{self.where}.{name}", self.notes)

    def items(self) -> list[tuple[str, Any]]:
        """All that is left, taken."""
        left = list(self._left.items())
        self._left.clear()
        return left

    def time_ms(self, name: str) -> int:
        """A date and time, UTC where it names no zone, as Unix milliseconds; 0 where there is none."""
        value = self.raw(name)
        if value is None:
            return 0
        try:
            moment = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            raise self._wrong(name, value, "a date and time") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return int(moment.timestamp() * 1000)

    def passes(self, *names: str) -> None:
        """These only keep the source's own books; they mean nothing elsewhere."""
        for name in names:
            self._left.pop(name, None)

    def leave(self, name: str, why: str) -> None:
        """Notes that `name` is not carried over, if it is there."""
        if name in self._left:
            del self._left[name]
            self.note(why, name)

    def rest(self, why: str) -> None:
        """Notes whatever nobody asked for."""
        for name in sorted(self._left):
            self.note(why, name)
        self._left.clear()

    def note(self, said: str, name: str = "") -> None:
        """Notes what is left out."""
        self.notes.append(Note("left out", f"{self.where}.{name}" if name else self.where, said))

    def changed(self, said: str, name: str = "") -> None:
        """Notes what becomes of something that has no equal here."""
        self.notes.append(Note("changed", f"{self.where}.{name}" if name else self.where, said))

    def _json(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._wrong(name, text, "JSON") from None

    def _wrong(self, name: str, value: Any, expected: str) -> BadDocument:
        spot = f"{self.where}.{name}"
        return BadDocument(
            f"{spot}: expected {expected}, found {shown(value, spot)}; correct it in the source, then import "
            f"again",
            field=spot,
        )


def _empty(value: Any) -> bool:
    return (
        value is None or (isinstance(value, str | list | dict) and len(value) == 0) or value in ("{}", "[]")
    )
