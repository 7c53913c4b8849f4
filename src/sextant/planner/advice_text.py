"""An Advice in words: sections of lines in one language, by the message catalogue that is handed in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from sextant.spec.advice import CRITERIA, Advice, AppliedRule, Change, RankedMode, Said

Catalogue = Mapping[str, str]


class Section(msgspec.Struct, frozen=True):
    """A title and its lines."""

    title: str
    lines: tuple[str, ...]


def say(said: Said, words: Catalogue) -> str:
    """A sentence of the catalogue with its values. Raises KeyError for a key that the catalogue lacks."""
    values = {name: _shown(value, words) for name, value in said.values.items()}
    return words[said.key].format(**values)


def ranking_table(advice: Advice, words: Catalogue) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns (those that end in `>` are numbers) and one row a mode, with the stars of each criterion."""
    criteria = tuple(words[f"column.{criterion}"] for criterion in CRITERIA)
    columns = (
        words["column.rank"],
        words["column.mode"],
        f"{words['column.score']}>",
        *criteria,
    )
    return columns, [_row(one, words) for one in advice.ranking]


def sections(advice: Advice, words: Catalogue) -> tuple[Section, ...]:
    """All that is said below the ranking; empty sections are left out."""
    first = words[f"mode.{advice.first}"]
    found = [
        Section(words["title.why"].format(mode=first), _lines(advice.ranking[0].why, words)),
        Section(words["title.why-not"], tuple(_why_not(advice.ranking[1:], words))),
        Section(
            words["title.rules"],
            tuple(_rule_line(rule, words) for rule in advice.rules),
        ),
        Section(words["title.contradictions"], _lines(advice.contradictions, words)),
        Section(words["title.notes"], _lines(advice.notes, words)),
        Section(words["title.assumed"], _lines(advice.assumed, words)),
        Section(words["title.weights"], tuple(_weights(advice, words))),
        Section(
            words["title.changes"],
            tuple(say(change_said(change), words) for change in advice.changes) or (words["change.none"],),
        ),
    ]
    return tuple(section for section in found if section.lines)


def change_said(change: Change) -> Said:
    """The sentence of a change."""
    value = f"@{change.requirement}.{change.value}" if isinstance(change.value, str) else change.value
    return Said(
        f"change.{change.requirement}.{change.direction}", {"value": value, "mode": f"@mode.{change.mode}"}
    )


def _rule_line(rule: AppliedRule, words: Catalogue) -> str:
    name, basis = words[f"rule.{rule.rule}.name"], words[f"basis.{rule.basis}"]
    return words["rule.line"].format(name=name, basis=basis, said=say(rule.said, words))


def _row(one: RankedMode, words: Catalogue) -> tuple[str, ...]:
    return (
        words["cell.excluded"] if one.rank is None else str(one.rank),
        words[f"mode.{one.mode}"],
        f"{one.score:.1f}",
        *("★" * one.stars[criterion] for criterion in CRITERIA),
    )


def _lines(said: Sequence[Said], words: Catalogue) -> tuple[str, ...]:
    return tuple(say(one, words) for one in said)


def _why_not(others: Sequence[RankedMode], words: Catalogue) -> Iterator[str]:
    separator = "；" if words["list.comma"] == "、" else "; "
    for one in others:
        reasons = separator.join(say(said, words) for said in one.why)
        yield f"{words[f'mode.{one.mode}']}{words['label.colon']}{reasons}"


def _weights(advice: Advice, words: Catalogue) -> Iterator[str]:
    for one in sorted(advice.weights, key=lambda weight: -weight.weight):
        yield words["weight.line"].format(
            criterion=words[f"criterion.{one.criterion}"],
            weight=f"{one.weight:g}",
            share=f"{100 * one.share:.0f}",
            because=say(one.because, words),
        )
    yield words["weight.formula"]


def _shown(value: str | float | tuple[str, ...], words: Catalogue) -> str:
    if isinstance(value, tuple):
        return words["list.comma"].join(_shown(one, words) for one in value)
    if isinstance(value, str):
        return words[value[1:]] if value.startswith("@") else value
    return f"{value:,.0f}" if value == int(value) else f"{value:,g}"
