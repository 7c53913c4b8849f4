"""Validators that remember, for a matrix of documents whose bundles share most of their files.

shellcheck follows what scripts source and takes most of a matrix's time. Scripts are the same from bundle to
bundle but for settings.sh, which only gives values to names; so scripts are not read again where their text
and those names were seen before, and settings.sh is read each time by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from sextant.operations.verify.host_programs import HOST_PROGRAMS
from sextant.operations.verify.running import Bench, Validator, said_by

REMEMBERED = ("shellcheck", "workflow of GitHub", "pipeline of GitLab")
SETTINGS = "settings.sh"
Said = list[tuple[str, str]]
Run = Callable[[Bench, str, Sequence[Path]], Iterable[tuple[Path, str]]]


def validators() -> tuple[Validator, ...]:
    """All of them; those that cost most with a memory of their own."""
    return tuple(
        msgspec.structs.replace(each, run=_remembering(each.run)) if each.name in REMEMBERED else each
        for each in HOST_PROGRAMS
    )


def _remembering(run: Run) -> Run:
    seen: dict[tuple[tuple[str, str], ...], Said] = {}

    def remembered(bench: Bench, program: str, paths: Sequence[Path]) -> list[tuple[Path, str]]:
        key = tuple((path.relative_to(bench.top).as_posix(), _text(path, bench)) for path in paths)
        if key not in seen:
            judged = run(bench, program, paths)
            seen[key] = [(path.relative_to(bench.top).as_posix(), said) for path, said in judged]
            return [(bench.top / path, said) for path, said in seen[key]]
        own = [path for path in paths if path.name == SETTINGS]
        found = [(path, said_by((program, path), bench).complaint) for path in own]
        return [*found, *((bench.top / path, said) for path, said in seen[key])]

    return remembered


def _text(path: Path, bench: Bench) -> str:
    """What a verdict depends on: the text, of settings the names alone."""
    text = path.read_text("utf-8", errors="replace").replace(str(bench.root), "")
    return "\n".join(re.findall(r"^\w+=", text, re.MULTILINE)) if path.name == SETTINGS else text
