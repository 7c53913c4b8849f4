"""What a change of the document changes in its bundle: by object for Kubernetes, by line for text."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import yaml

from sextant.operations.bundles import MANIFEST
from sextant.spec.bundle import File

VALUE_CHARACTERS = 120
"""Of longer values so much is shown, from shortly before where they differ."""
CONTEXT_CHARACTERS = 24
"""Of what two long values have in common before that."""

Kind = Literal["added", "removed", "changed"]


class Change(msgspec.Struct, frozen=True):
    """One file or one object that differs. `lines` says how: `path: old -> new` for objects, a unified diff
    for text; empty for what is there on one side alone."""

    kind: Kind
    path: str
    what: str = ""
    """The object, as `Kind namespace/name`; empty: the file as a whole."""
    lines: tuple[str, ...] = ()


def changes(old: Mapping[str, File], new: Mapping[str, File]) -> tuple[Change, ...]:
    """Everything in which two bundles differ, by path; the manifest, which only repeats it, left out."""
    found: list[Change] = []
    for path in sorted({*old, *new} - {MANIFEST}):
        if path not in old:
            found.append(Change("added", path))
        elif path not in new:
            found.append(Change("removed", path))
        elif old[path].content != new[path].content:
            found.extend(_of_file(path, old[path].content, new[path].content))
        elif old[path].executable != new[path].executable:
            word = "executable" if new[path].executable else "no longer executable"
            found.append(Change("changed", path, lines=(f"now {word}",)))
    return tuple(found)


def _of_file(path: str, old: bytes, new: bytes) -> Iterator[Change]:
    before, after = _objects(path, old), _objects(path, new)
    if before is None or after is None:
        yield Change("changed", path, lines=tuple(_text_lines(path, old, new)))
        return
    found = []
    for name in dict.fromkeys((*before, *after)):
        if name not in before:
            found.append(Change("added", path, name))
        elif name not in after:
            found.append(Change("removed", path, name))
        elif before[name] != after[name]:
            found.append(Change("changed", path, name, tuple(_value_lines("", before[name], after[name]))))
    yield from found or [Change("changed", path, lines=("only the order or the comments",))]


def _objects(path: str, content: bytes) -> dict[str, Any] | None:
    """The Kubernetes objects of a YAML file by name; None where it holds anything else."""
    if not path.endswith((".yaml", ".yml")):
        return None
    try:
        documents = [each for each in yaml.safe_load_all(content) if each is not None]
    except yaml.YAMLError:
        return None
    found: dict[str, Any] = {}
    for each in documents:
        if not isinstance(each, dict) or not {"apiVersion", "kind", "metadata"} <= set(each):
            return None
        metadata = each["metadata"] if isinstance(each["metadata"], dict) else {}
        place = "/".join(str(metadata[key]) for key in ("namespace", "name") if key in metadata)
        found[f"{each['kind']} {place}"] = each
    return found if len(found) == len(documents) else None


def _value_lines(path: str, old: Any, new: Any) -> Iterator[str]:
    """`path: old -> new` for every value that differs."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            here = f"{path}.{key}" if path else str(key)
            yield from _value_lines(here, old.get(key, _NOTHING), new.get(key, _NOTHING))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_lines(path, old, new)
    else:
        start = _same_start(old, new)
        yield f"{path}: {_shown(old, start)} -> {_shown(new, start)}"


def _list_lines(path: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    """Items with a name are compared by it, others by their place."""
    names = [[each.get("name") for each in side if isinstance(each, dict)] for side in (old, new)]
    named = all(
        len(found) == len(side) and None not in found and len({*found}) == len(found)
        for found, side in zip(names, (old, new), strict=True)
    )
    before = {each["name"] if named else place: each for place, each in enumerate(old)}
    after = {each["name"] if named else place: each for place, each in enumerate(new)}
    for key in dict.fromkeys((*before, *after)):
        yield from _value_lines(f"{path}[{key}]", before.get(key, _NOTHING), after.get(key, _NOTHING))


class _Nothing:
    """Where one side has no such value."""


_NOTHING = _Nothing()


def _same_start(old: Any, new: Any) -> int:
    """How many characters of two long values may be left out, since both begin with them."""
    if isinstance(old, _Nothing) or isinstance(new, _Nothing):
        return 0
    before, after = _text(old), _text(new)
    if max(len(before), len(after)) <= VALUE_CHARACTERS:
        return 0
    same = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return max(0, min(same, len(after)) - CONTEXT_CHARACTERS)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _shown(value: Any, start: int) -> str:
    if isinstance(value, _Nothing):
        return "nothing"
    text = _text(value)
    shown = text[start : start + VALUE_CHARACTERS]
    return f"{'…' if start else ''}{shown}{'…' if start + len(shown) < len(text) else ''}"


def _text_lines(path: str, old: bytes, new: bytes) -> Iterator[str]:
    try:
        before, after = old.decode().splitlines(), new.decode().splitlines()
    except UnicodeDecodeError:
        yield f"{len(old)} bytes -> {len(new)} bytes"
        return
    yield from difflib.unified_diff(before, after, f"old/{path}", f"new/{path}", lineterm="")
