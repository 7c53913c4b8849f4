"""The charts of the plan's report, as SVG text: bars in a stack, curves with bands, and sensitivity bars.

Pure: numbers in, text out. Colours come from the page's variables, so that print and dark screens follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
TICKS = 5
COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8")


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One line: its points, and a band around it where there is one."""

    name: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float], ...] = ()
    """(low, high) for each point."""


def stack(parts: Sequence[tuple[str, float]], unit: str) -> str:
    """One horizontal bar of parts, the last of them what is free, with a legend; parts of nothing are left
    out."""
    shown = [(name, value) for name, value in parts if value > 0]
    whole = sum(value for _, value in shown) or 1.0
    left, found = 0.0, []
    for index, (name, value) in enumerate(shown):
        wide = value / whole * WIDTH
        colour = "--free" if name == parts[-1][0] else COLOURS[index % len(COLOURS)]
        across, down = index % 3 * 213, 62 + index // 3 * 20
        found.append(
            f'<rect x="{left:.1f}" y="8" width="{wide:.1f}" height="40" fill="var({colour})"/>'
            f'<rect x="{across}" y="{down}" width="12" height="12" fill="var({colour})"/>'
            f'<text x="{across + 18}" y="{down + 10}">{escape(name)} {value:,.1f} {unit}</text>'
        )
        left += wide
    return _svg("".join(found), 66 + math.ceil(len(shown) / 3) * 20)


def lines(curves: Sequence[Curve], x_title: str, y_title: str, x_ticks: Sequence[float] = ()) -> str:
    """Curves over common axes that start at 0, with a legend; `x_ticks` where five round ones do not fit."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    tops = [high for curve in curves for _, high in curve.band]
    x_most = x_ticks[-1] if x_ticks else _round_up(max(x for x, _ in points))
    y_most = _round_up(max([y for _, y in points] + tops))

    def at(x: float, y: float) -> str:
        return (
            f"{LEFT + x / x_most * (WIDTH - LEFT - RIGHT):.1f},"
            f"{HEIGHT - BOTTOM - min(1.0, y / y_most) * (HEIGHT - TOP - BOTTOM):.1f}"
        )

    at_ticks = x_ticks or [x_most * tick / TICKS for tick in range(TICKS + 1)]
    found = [_axes(at_ticks, y_most, x_title, y_title)]
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        if curve.band:
            upper = [at(x, high) for (x, _), (_, high) in zip(curve.points, curve.band, strict=True)]
            lower = [at(x, low) for (x, _), (low, _) in zip(curve.points, curve.band, strict=True)]
            outline = " ".join([*upper, *reversed(lower)])
            found.append(f'<polygon points="{outline}" fill="var({colour})" opacity=".15"/>')
        drawn = " ".join(at(x, y) for x, y in curve.points)
        found.append(f'<polyline points="{drawn}" fill="none" stroke="var({colour})" stroke-width="2"/>')
        down = HEIGHT + 14 + index * 18
        found.append(
            f'<rect x="{LEFT}" y="{down - 9}" width="12" height="4" fill="var({colour})"/>'
            f'<text x="{LEFT + 18}" y="{down - 3}">{escape(curve.name)}</text>'
        )
    return _svg("".join(found), HEIGHT + 14 + 18 * len(curves))


def tornado(bars: Sequence[tuple[str, float, float]], middle: float, unit: str) -> str:
    """For each name a bar from its low to its high outcome, around `middle`."""
    ends = [end for _, low, high in bars for end in (low, high)]
    if not ends:
        return ""
    least, most = min([*ends, middle]), max([*ends, middle])
    span = (most - least) or 1.0
    names = 230

    def across(value: float) -> float:
        return names + (value - least) / span * (WIDTH - names - 70)

    found = []
    for index, (name, low, high) in enumerate(bars):
        y = 24 + index * 26
        start, end = sorted((across(low), across(high)))
        wide, moved = max(1.0, end - start), abs(high - low)
        found.append(
            f'<text x="{names - 10}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{start:.1f}" y="{y}" width="{wide:.1f}" height="16" fill="var(--c1)"/>'
            f'<text x="{end + 4:.1f}" y="{y + 12}" class="small">{_short(moved)}</text>'
        )
    tall = 24 + len(bars) * 26
    found.append(
        f'<line x1="{across(middle):.1f}" x2="{across(middle):.1f}" y1="18" y2="{tall}" stroke="var(--ink)"/>'
        f'<text x="{across(middle):.1f}" y="12" text-anchor="middle">{_short(middle)} {escape(unit)}</text>'
    )
    return _svg("".join(found), tall + 8)


def ranges(bars: Sequence[tuple[str, float, float]], unit: str) -> str:
    """For each name a bar from its low to its high, on one axis from 0; the name stands above its bar."""
    most = max((high for _, _, high in bars), default=0.0) or 1.0
    wide = WIDTH - 130
    found = []
    for index, (name, low, high) in enumerate(bars):
        y, start = 4 + index * 38, low / most * wide
        length = max(3.0, (high - low) / most * wide)
        said = _short(low) if _short(low) == _short(high) else f"{_short(low)}-{_short(high)}"
        found.append(
            f'<text x="0" y="{y + 11}">{escape(name)}</text>'
            f'<rect x="{start:.1f}" y="{y + 16}" width="{length:.1f}" height="14" fill="var(--c1)"/>'
            f'<text x="{start + length + 4:.1f}" y="{y + 28}">{said} {escape(unit)}</text>'
        )
    return _svg("".join(found), 8 + len(bars) * 38)


def _axes(x_ticks: Sequence[float], y_most: float, x_title: str, y_title: str) -> str:
    found = []
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    for tick in range(TICKS + 1):
        y = HEIGHT - BOTTOM - tall * tick / TICKS
        found.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(y_most * tick / TICKS)}</text>'
        )
    for value in x_ticks:
        x = LEFT + wide * value / x_ticks[-1]
        found.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_short(value)}</text>'
        )
    found.append(
        f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text x="14" y="{TOP + tall / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {TOP + tall / 2})">{escape(y_title)}</text>'
    )
    return "".join(found)


def _svg(inside: str, tall: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {tall:.0f}" role="img">{inside}</svg>'


def _round_up(value: float) -> float:
    """The next number that five ticks divide well."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)


def _short(value: float) -> str:
    """A number as an axis shows it: 1.2M, 35k, 0.5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
