"""Checking a read document against its models, and wording what pydantic found.

Second step of `document.load_document`, after `reading.py`. It knows no field of the document: what it
says comes from the models' own types and descriptions, from the error, and from the document's `Wording`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sextant.spec.problems import Place, Problem, shown
from sextant.spec.reading import Path, Tree, dotted

NAMES_SHOWN = 12
"""Longer lists of keys are cut in messages."""

M = TypeVar("M", bound=BaseModel)
Detail = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Wording:
    """What the models cannot say themselves: `not_yet` maps a field, or `field=value`, to the reason why this
    version refuses it; `patterns` maps a regular expression to what it means."""

    not_yet: Mapping[str, str]
    patterns: Mapping[str, str]


def check(
    model: type[M], tree: Tree, *, wording: Wording, context: Mapping[str, Any]
) -> tuple[M | None, list[Problem]]:
    """The validated document, or None and every fault found."""
    if not isinstance(tree.value, dict):
        return None, [
            Problem(
                tree.values[()],
                "",
                f"the document is {shown(tree.value, '')}",
                f"a mapping with {_listed(_names(model))}",
            )
        ]
    refused, problems = _not_yet(tree, wording)
    try:
        return model.model_validate(tree.value, context=dict(context)), problems
    except ValidationError as error:
        words = _Words(model, tree, wording)
        for detail in error.errors(include_url=False):
            path = words.path(detail["loc"])
            if not any(path[: len(start)] == start for start in refused):
                problems.append(words.problem(path, detail))
        return None, _without_echoes(problems)


def walk_fields(
    model: type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every field of `model`, depth first, by its path in the document; list items add `[]` to the name."""
    for name, info in _fields(model).items():
        here = (*path, name)
        yield here, info
        for inner in inner_models(info.annotation):
            item = (*path, f"{name}[]") if _is_list(info.annotation) else here
            yield from walk_fields(inner, item)


def inner_models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's type is made of: one, several for a union, none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in inner_models(part)]


def _literals(annotation: Any) -> tuple[Any, ...]:
    """The values that a Literal allows, also one that may be left out."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return tuple(value for part in typing.get_args(annotation) for value in _literals(part))


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _names(model: type[BaseModel]) -> list[str]:
    return list(_fields(model))


def _not_yet(tree: Tree, wording: Wording) -> tuple[set[Path], list[Problem]]:
    refused: set[Path] = set()
    problems = []
    for spot, reason in wording.not_yet.items():
        field, _, value = spot.partition("=")
        path = tuple(field.split("."))
        present, found = _at(tree.value, path)
        if not present or (value and found != value):
            continue
        place = tree.values[path] if value else tree.keys[path]
        # A refused `kind` leaves nothing to check the rest of its mapping against.
        refused.add(path[:-1] if path[-1] == "kind" else path)
        said = f"`{value}` is refused" if value else "is refused"
        problems.append(Problem(place, field, f"{said}: {reason}"))
    return refused, problems


def _at(value: Any, path: Path) -> tuple[bool, Any]:
    for part in path:
        inside = part in value if isinstance(value, dict) else isinstance(value, list)
        if not inside or (isinstance(value, list) and not (isinstance(part, int) and part < len(value))):
            return False, None
        value = value[part]
    return True, value


def _listed(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:NAMES_SHOWN])} and {more} more"


def _nearest(word: str, known: list[str]) -> str | None:
    """The known name nearest to `word`, ignoring case, `_` and `-`; None when nothing is near."""

    def plain(name: str) -> str:
        return name.replace("_", "").replace("-", "").lower()

    by_plain = {plain(name): name for name in known}
    swapped = [name for name in by_plain if sorted(name) == sorted(plain(word))]
    found = swapped or difflib.get_close_matches(plain(word), by_plain, n=1, cutoff=0.6)
    return by_plain[found[0]] if found else None


def _without_echoes(problems: list[Problem]) -> list[Problem]:
    """Drops `is missing` where an unknown key beside it is that very key, misspelt."""
    meant = {problem.field.rpartition(".")[0] + problem.write for problem in problems if problem.write}

    def echo(problem: Problem) -> bool:
        parent, _, key = problem.field.rpartition(".")
        return problem.said == "is missing" and f"{parent}write `{key}`" in meant

    return [problem for problem in problems if not echo(problem)]


def _pattern(path: Path) -> tuple[str, ...]:
    """A path as `walk_fields` writes it."""
    found: list[str] = []
    for part in path:
        if isinstance(part, int):
            found[-1] += "[]"
        else:
            found.append(part)
    return tuple(found)


class _Words:
    """Turns pydantic's errors into problems."""

    def __init__(self, model: type[BaseModel], tree: Tree, wording: Wording) -> None:
        self._model = model
        self._tree = tree
        self._wording = wording

    def path(self, loc: tuple[int | str, ...]) -> Path:
        """Pydantic's location without the tags of discriminated unions."""
        path: list[str | int] = []
        for index, part in enumerate(loc):
            _, here = _at(self._tree.value, tuple(path))
            if index + 1 < len(loc) and isinstance(here, dict) and path and here.get("kind") == part:
                continue
            path.append(part)
        return tuple(path)

    def problem(self, path: Path, detail: Detail) -> Problem:
        context = detail.get("ctx", {})
        if "at" in context:
            parts = str(context["at"]).split(".")
            path = tuple(int(part) if part.isdigit() else part for part in parts)
        elif detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
            path = (*path, "kind")
        field = dotted(path)
        wording = _BY_TYPE.get(detail["type"])
        if wording is not None:
            said, expected, write = wording(self, path, detail)
        elif "expected" in context and "write" in context:
            said, expected, write = detail["msg"], context["expected"], context["write"]
            if said.startswith("not "):
                said = f"{shown(detail['input'], field)} is {said}"
        else:
            said, expected, write = detail["msg"], "", ""
        return Problem(self._place(path, detail["type"]), field, said, expected, write)

    def _place(self, path: Path, kind: str) -> Place:
        marks = self._tree.keys if kind == "extra_forbidden" else self._tree.values
        if path in marks:
            return marks[path]
        while path:
            path = path[:-1]
            if path in self._tree.keys:
                return self._tree.keys[path]
            if path in self._tree.values:
                return self._tree.values[path]
        return Place(1, 1)

    def info(self, path: Path) -> FieldInfo | None:
        models: list[type[BaseModel]] = [self._model]
        info: FieldInfo | None = None
        for index, part in enumerate(path):
            if isinstance(part, int):
                continue
            found = [fields[part] for model in models if part in (fields := _fields(model))]
            if not found:
                return None
            info = found[0]
            models = self._chosen(inner_models(info.annotation), path[: index + 1])
        return info

    def siblings(self, path: Path) -> list[str]:
        parent = self.info(path[:-1])
        models = [self._model] if parent is None else self._chosen(inner_models(parent.annotation), path[:-1])
        return [name for model in models for name in _names(model)]

    def _chosen(self, models: list[type[BaseModel]], path: Path) -> list[type[BaseModel]]:
        """Of a union's models, those whose `kind` is the one written."""
        _, value = _at(self._tree.value, path)
        kind = value.get("kind") if isinstance(value, dict) else None
        fitting = [
            model
            for model in models
            if "kind" in model.model_fields and kind in typing.get_args(model.model_fields["kind"].annotation)
        ]
        return fitting or models

    def unknown_key(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        key = str(path[-1])
        siblings = self.siblings(path)
        expected = f"one of {_listed(siblings)}"
        _, parent = _at(self._tree.value, path[:-1])
        near = _nearest(key, [name for name in siblings if name not in parent]) or _nearest(key, siblings)
        if near is not None:
            return "unknown key", expected, f"write `{near}`"
        homes = list(dict.fromkeys(known[:-1] for known, _ in walk_fields(self._model) if known[-1] == key))
        if not homes:
            return "unknown key", expected, "delete it"
        if _pattern(path[:-1]) in homes:
            return (
                f"unknown key with `kind: {parent.get('kind')}`",
                expected,
                "delete it, or choose another kind",
            )
        return "unknown key", expected, f"`{key}` belongs under {' or '.join(map('.'.join, homes))}"

    def missing(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        info = self.info(path)
        key = path[-1]
        if info is None:
            return "is missing", "", f"add `{key}`"
        literal = (
            typing.get_args(info.annotation) if typing.get_origin(info.annotation) is typing.Literal else ()
        )
        example = next(iter([*literal, *(info.examples or [])]), None)
        write = f"add `{key}: {example}`" if example is not None else f"add `{key}:` with what it needs"
        return "is missing", (info.description or "").rstrip("."), write

    def wrong_choice(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        info = self.info(path)
        choices = [str(choice) for choice in _literals(info.annotation)] if info else []
        return self._choice(str(path[-1]), choices, path, detail["input"])

    def wrong_kind(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        if "kind" in detail["input"]:
            return self._choice("kind", self._kinds(path[:-1]), path, detail["input"]["kind"])
        _, expected, write = self._choice("kind", self._kinds(path[:-1]), path, None)
        return "is missing", expected, write

    def _choice(self, key: str, choices: list[str], path: Path, given: object) -> tuple[str, str, str]:
        near = _nearest(str(given), choices) or (choices[0] if len(choices) == 1 else None)
        said = f"{shown(given, dotted(path))} is not a known value"
        return (
            said,
            " or ".join(choices),
            f"`{key}: {near}`" if near else f"`{key}: {choices[0]}`" if choices else "",
        )

    def _kinds(self, path: Path) -> list[str]:
        info = self.info(path)
        models = inner_models(info.annotation) if info else []
        return [
            str(kind) for model in models for kind in typing.get_args(model.model_fields["kind"].annotation)
        ]

    def not_mapping(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        info, value = self.info(path), detail["input"]
        models = inner_models(info.annotation) if info else []
        keys = list(dict.fromkeys(name for model in models for name in _names(model)))
        said = (
            "there is nothing under it" if value is None else f"{shown(value, dotted(path))} is not a mapping"
        )
        write = ""
        if len(models) > 1 and value in self._kinds(path):
            write = f"`{path[-1]}: {{kind: {value}}}`"
        elif value is None and info is not None and not info.is_required():
            write = "delete the line, or put keys under it"
        return said, f"a mapping with {_listed(keys)}", write

    def not_list(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        value = detail["input"]
        said = f"{shown(value, dotted(path))} is not a list"
        return said, "a list", f"`{path[-1]}: [{json.dumps(value)}]`" if isinstance(value, str | int) else ""

    def not_text(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        value = detail["input"]
        said = f"{shown(value, dotted(path))} is not text"
        if isinstance(value, bool):
            return (
                said,
                "text",
                "put quotes around it: YAML reads a bare yes, no, on and off as true or false",
            )
        return said, "text", "put quotes around it" if isinstance(value, int | float) else ""

    def not_number(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        value, whole = detail["input"], detail["type"].startswith("int")
        said = f"{shown(value, dotted(path))} is not a {'whole ' if whole else ''}number"
        write = f"`{path[-1]}: {value}` without quotes" if isinstance(value, str) and value.isdigit() else ""
        if not write and path and str(path[-1]).endswith("_s") and isinstance(value, str):
            write = "the number of seconds, without a unit"
        return said, "a whole number" if whole else "a number", write

    def not_bool(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        return f"{shown(detail['input'], dotted(path))} is neither true nor false", "true or false", ""

    def bound(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        word, name, far = _BOUNDS[detail["type"]]
        limit = detail["ctx"][name]
        said = f"{shown(detail['input'], dotted(path))} is too {far}"
        return said, f"{word} {limit:g}" if isinstance(limit, float) else f"{word} {limit}", ""

    def length(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        context = detail["ctx"]
        least, most = context.get("min_length"), context.get("max_length")
        what = "characters" if detail["type"].startswith("string") else "items"
        expected = f"at most {most} {what}" if most is not None else f"at least {least} {what}"
        return f"it is too {'long' if most is not None else 'short'}", expected, ""

    def pattern(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        expected = self._wording.patterns.get(
            detail["ctx"]["pattern"], f"text matching {detail['ctx']['pattern']}"
        )
        return f"{shown(detail['input'], dotted(path))} is not accepted", expected, ""

    def not_finite(self, path: Path, detail: Detail) -> tuple[str, str, str]:
        return f"{shown(detail['input'], dotted(path))} is not a finite number", "a finite number", ""


_BOUNDS = {
    "greater_than_equal": ("at least", "ge", "small"),
    "greater_than": ("more than", "gt", "small"),
    "less_than_equal": ("at most", "le", "large"),
    "less_than": ("less than", "lt", "large"),
}

_Phrase = Callable[[_Words, Path, Detail], tuple[str, str, str]]
_BY_TYPE: dict[str, _Phrase] = {
    "extra_forbidden": _Words.unknown_key,
    "missing": _Words.missing,
    "literal_error": _Words.wrong_choice,
    "union_tag_invalid": _Words.wrong_kind,
    "union_tag_not_found": _Words.wrong_kind,
    "model_type": _Words.not_mapping,
    "model_attributes_type": _Words.not_mapping,
    "tuple_type": _Words.not_list,
    "string_type": _Words.not_text,
    "int_type": _Words.not_number,
    "float_type": _Words.not_number,
    "bool_type": _Words.not_bool,
    "finite_number": _Words.not_finite,
    "string_too_short": _Words.length,
    "string_too_long": _Words.length,
    "too_short": _Words.length,
    "too_long": _Words.length,
    "string_pattern_mismatch": _Words.pattern,
    **dict.fromkeys(_BOUNDS, _Words.bound),
}
