"""The questions of `sextant advise` on a terminal: words by number or name, Enter for no answer."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from sextant.base.errors import BadRequest
from sextant.cli.output import out
from sextant.spec.advice import LEVELS, Language, Requirements, read_requirements
from sextant.spec.advice_data import catalogue

SEVERAL = ("regulation",)
"""Requirements that take several words."""


def ask(language: Language) -> dict[str, Any]:
    """The answers, by requirement; what was left open is not there. Ctrl-C and end of input end the command
    (typer.Abort)."""
    words = catalogue(language)
    console = out()
    console.print(words["ask.start"], markup=False)
    answers: dict[str, Any] = {}
    for field in Requirements.__struct_fields__:
        answer = _one(field, words)
        if answer is not None:
            answers[field] = answer
    console.print(f"\n{words['ask.again']}\n  {command_line(answers)}\n", markup=False)
    return answers


def command_line(answers: dict[str, Any]) -> str:
    """The command that asks for the same without questions."""
    parts = ["sextant", "advise"]
    for field, value in answers.items():
        for one in value if isinstance(value, tuple) else (value,):
            parts += [f"--{field.replace('_', '-')}", str(one)]
    return shlex.join(parts)


def _one(field: str, words: dict[str, str]) -> Any:
    """One question, again until its answer can be read; None when it is left open."""
    console = out()
    console.print(f"\n{words[f'ask.{field}']}", markup=False)
    levels = LEVELS.get(field, ())
    for number, level in enumerate(levels, 1):
        console.print(f"  {number}  {level:<14} {words[f'{field}.{level}']}", markup=False)
    while True:
        typed = typer.prompt("", default="", show_default=False, prompt_suffix="> ").strip()
        if not typed:
            return None
        parts = typed.replace("，", ",").split(",") if field in SEVERAL else [typed]
        meant = tuple(_level(part.strip(), levels) for part in parts if part.strip())
        answer = meant if field in SEVERAL else meant[0] if meant else typed
        try:
            read_requirements({field: answer})
        except BadRequest as error:
            console.print(f"  {error.message}", markup=False)
            continue
        return answer


def _level(typed: str, levels: tuple[str, ...]) -> str:
    if typed.isdecimal() and 0 < int(typed) <= len(levels):
        return levels[int(typed) - 1]
    return typed
