"""Numbers by day, for the script that draws them and for the table beside it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sextant.console.told import UsageLine
from sextant.console.words import Words
from sextant.spec.policy import NANO

Value = Callable[[UsageLine], float]


class Series(msgspec.Struct, frozen=True):
    """One line of a chart: `scale` tells which lines share an axis."""

    label: str
    scale: str
    values: tuple[float, ...]


class Chart(msgspec.Struct, frozen=True):
    """Days and what happened on each."""

    days: tuple[str, ...]
    series: tuple[Series, ...]

    @property
    def rows(self) -> list[tuple[str, tuple[float, ...]]]:
        """The same as a table, days without use left out, newest first."""
        found = list(zip(self.days, zip(*(one.values for one in self.series), strict=True), strict=True))
        return [(day, values) for day, values in reversed(found) if any(values)]

    @property
    def json(self) -> str:
        """For the script."""
        return msgspec.json.encode(self).decode()


def daily_chart(days: Sequence[datetime.date], lines: Iterable[UsageLine], words: Words) -> Chart:
    """Requests and tokens of each day. `lines` may tell days apart further; they are added up."""
    kept = list(lines)
    sides: tuple[tuple[str, str, Value], ...] = (
        ("input", "tokens", lambda line: line.input_tokens),
        ("output", "tokens", lambda line: line.output_tokens),
        ("requests", "requests", lambda line: line.requests),
    )
    return _chart(days, kept, [(words(f"usage.{key}"), scale, value) for key, scale, value in sides])


def cost_chart(
    days: Sequence[datetime.date], lines: Iterable[UsageLine], currency: str, words: Words
) -> Chart:
    """What each day cost in `currency`, to look at: amounts are floats here."""
    kept = [line for line in lines if line.currency == currency]
    label = f"{words('usage.cost')}, {currency}"
    return _chart(days, kept, [(label, "cost", lambda line: line.cost_nano / NANO)])


def _chart(
    days: Sequence[datetime.date], lines: list[UsageLine], sides: list[tuple[str, str, Value]]
) -> Chart:
    names = tuple(day.isoformat() for day in days)
    series = []
    for label, scale, value in sides:
        found = dict.fromkeys(names, 0.0)
        for line in lines:
            if line.day in found:
                found[line.day] += value(line)
        series.append(Series(label, scale, tuple(found.values())))
    return Chart(names, tuple(series))
