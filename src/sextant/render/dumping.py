"""Files of a bundle out of plain values, always in the same bytes: YAML, JSON, text, scripts.

YAML is written here rather than by a library, so that a bundle does not change with the library's version,
and so that nothing is ever read back as another type: whatever could be taken for a number, a date or a truth
value stands in quotes. Keys keep the order in which they were given, but for the first ones of an object
(`FIRST_KEYS`). Neighbours: every module of `render/` ends here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sextant.spec.bundle import File

FIRST_KEYS = (
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "spec",
)
"""Of objects and their metadata, in this order; the others follow as they were given."""

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+=,()<>$ -]*(?::[A-Za-z0-9_./@+=,()<>$-]+)*")
_QUANTITY = re.compile(r"[1-9][0-9]*(?:m|Ki|Mi|Gi|Ti|s|min|h)")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"))
"""What YAML 1.1 or 1.2 reads as something else than text."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\ufeff\ufffe\uffff]")


def yaml_file(path: str, *objects: Mapping[str, Any], comment: str = "") -> File:
    """The objects as one YAML file, each a document of its own. `comment` stands above them."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return File(path, (head + "---\n".join(map(yaml_text, objects))).encode())


def yaml_text(value: Any) -> str:
    """One YAML document. Raises ValueError for what YAML has no word for."""
    ordered = _ordered(value) if isinstance(value, Mapping) else value
    return "".join(f"{line}\n" for line in _lines(ordered))


def json_file(path: str, value: Any) -> File:
    """`value` as JSON, indented, in the order given."""
    return File(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def text_file(path: str, text: str) -> File:
    """Text, ended by one line break."""
    return File(path, (text.rstrip("\n") + "\n").encode())


def script_file(path: str, body: str) -> File:
    """A shell script that stops at the first error and at any variable that is not set."""
    return File(path, f"#!/bin/sh\nset -eu\n{body.strip()}\n".encode(), executable=True)


def _ordered(value: Mapping[str, Any]) -> dict[str, Any]:
    first = {key: value[key] for key in FIRST_KEYS if key in value}
    rest = {key: each for key, each in value.items() if key not in first}
    metadata = first.get("metadata")
    if isinstance(metadata, Mapping):
        first["metadata"] = _ordered(metadata)
    return {**first, **rest}


def _lines(value: Any) -> Iterator[str]:
    """The lines of a value that stands alone."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _pair(_text(str(key)), each)
    elif isinstance(value, list | tuple) and value:
        for each in value:
            yield from _item(each)
    else:
        yield from _scalar(value)


def _pair(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield f"{key}:"
        for line in _lines(value):
            yield f"  {line}" if line else line
    elif isinstance(value, list | tuple) and value:
        yield f"{key}:"
        yield from _lines(value)
    else:
        first, *rest = _scalar(value)
        yield f"{key}: {first}"
        yield from rest


def _item(value: Any) -> Iterator[str]:
    lines = _lines(value)
    yield f"- {next(lines)}"
    for line in lines:
        yield f"  {line}" if line else line


def _scalar(value: Any) -> list[str]:
    """One line, or several for a text of several lines."""
    if value is None:
        return ["null"]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, int):
        return [str(value)]
    if isinstance(value, float):
        return [_number(value)]
    if isinstance(value, str):
        return _block(value) or [_text(value)]
    if isinstance(value, Mapping | list | tuple):
        return ["{}" if isinstance(value, Mapping) else "[]"]
    raise ValueError(f"{type(value).__name__} has no form in YAML; expected text, numbers, lists, mappings")


def _number(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{value} has no form in Kubernetes' YAML; expected a finite number")
    text = repr(value)
    mantissa, mark, exponent = text.partition("e")
    if mark and "." not in mantissa:
        mantissa += ".0"
    return mantissa + mark + exponent


def _block(text: str) -> list[str]:
    """A text of several lines as a literal block; empty where it must be quoted."""
    body = text.rstrip("\n")
    if "\n" not in text or not body or _UNPRINTABLE.search(text):
        return []
    ends = len(text) - len(body)
    keep = {0: "-", 1: ""}.get(ends, "+")
    lines = body.split("\n")
    if not lines[0] or lines[0][0] in " \t" or any(line and not line.strip() for line in lines):
        return []  # its indentation could be mistaken for the block's
    return [f"|{keep}", *(f"  {line}" if line else "" for line in lines), *[""] * max(0, ends - 1)]


def _text(text: str) -> str:
    """Text in one line: as it stands where nothing else can be read in it, else in double quotes."""
    if _QUANTITY.fullmatch(text):
        return text
    if _PLAIN.fullmatch(text) and not text.endswith(" ") and text.casefold() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)
