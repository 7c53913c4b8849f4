"""What is wrong with a document, and how it is said: place, field, value, expectation, what to write instead.

Used by `reading.py` (YAML faults) and `checking.py` (wrong fields); `document.load_document` raises the
rendered whole as one BadDocument. No message shows a value that may be a secret.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

PROBLEMS_SHOWN = 20
"""More problems than these are counted, not listed."""
VALUE_CHARS = 60
"""Longer values are cut in messages."""
SECRET_CHARS = 4096
"""How much of a value is looked at to tell whether it is a secret; far less of it is shown."""
SOURCE_CHARS = 100
"""Longer source lines are cut before anything else looks at them."""

SECRET_NAME = re.compile(
    r"(?i)(api_?key|secret|token|passw|credential|private_?key|^pin$)(?!s?_?(per|count|file|ms))"
)
SECRET_VALUE = re.compile(
    r"\b(sk-|ghp_|hf_|AKIA|eyJ|xox)[A-Za-z0-9_-]{8,}|-----BEGIN|://[^/@\s]*:[^/@\s]+@|(?i:[?&;]\w*passw\w*=[^&\s])"
)

_KEY = re.compile(r"([\w.-]+)[\"']?\s*:\s*(?=\S)")


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """A position in the file, both counted from 1."""

    line: int
    column: int


@dataclasses.dataclass(frozen=True)
class Problem:
    """One fault: where, in which field, what is wrong, what was expected, what to write instead."""

    place: Place
    field: str
    said: str
    expected: str = ""
    write: str = ""


def render(problems: Sequence[Problem], name: str, text: str) -> str:
    """All problems for a terminal, in file order, each with its line and a caret."""
    ordered = sorted(problems, key=lambda problem: problem.place)
    lines = text.splitlines()
    parts = [_one(problem, name, lines) for problem in ordered[:PROBLEMS_SHOWN]]
    if len(ordered) > PROBLEMS_SHOWN:
        parts.append(f"… and {len(ordered) - PROBLEMS_SHOWN} more")
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return f"{name}: {count}\n\n" + "\n\n".join(parts)


def shown(value: object, field: str) -> str:
    """A value for a message: short, and hidden when it may be a secret."""
    if may_be_secret(str(value)[:SECRET_CHARS], field):
        return "(hidden: it may be a secret)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"`{value}`" if isinstance(value, str) else str(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


def may_be_secret(value: str, field: str) -> bool:
    """Whether a value should not be repeated: by its field's name, or by its look."""
    last = field.rpartition(".")[2]
    if SECRET_NAME.search(last):
        return not value.startswith(("env:", "file:", "sealed:")) and value not in {"", "None"}
    return bool(SECRET_VALUE.search(value))


def _one(problem: Problem, name: str, lines: list[str]) -> str:
    place = problem.place
    head = f"{name}:{place.line}:{place.column}: "
    head += f"{problem.field}: {problem.said}" if problem.field else problem.said
    rows = [head]
    if 0 < place.line <= len(lines):
        source = _safe_source(lines[place.line - 1].expandtabs(1))
        number = f"{place.line:>5}"
        rows.append(f"{number} | {source}")
        rows.append(f"{' ' * len(number)} | {' ' * (min(place.column, len(source) + 1) - 1)}^")
    if problem.expected:
        rows.append(f"      expected: {problem.expected}")
    if problem.write:
        rows.append(f"      instead:  {problem.write}")
    return "\n".join(map(_printable, rows))


def _safe_source(line: str) -> str:
    """A source line without what may be a secret and without control characters, cut at SOURCE_CHARS."""
    line = _printable(line[:SOURCE_CHARS])
    for pair in _KEY.finditer(line):
        if may_be_secret(line[pair.end() :].strip("\"' "), pair.group(1)):
            line = f"{line[: pair.end()]}***"
            break
    if SECRET_VALUE.search(line):
        line = "(hidden: it may hold a secret)"
    return line if len(line) < SOURCE_CHARS else line[: SOURCE_CHARS - 1] + "…"


def _printable(text: str) -> str:
    """Text without control and direction characters, which could rewrite what a terminal shows."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
