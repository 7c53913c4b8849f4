"""Reading YAML with positions: text in, plain values and the place of every key and value out.

First step of `document.load_document`; `problems.py` turns places into messages. Stricter than YAML:
duplicate keys, anchors, tags, several documents and anything large or deep are refused, so that a small file
can neither say two things at once nor unfold into a large one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from sextant.spec.problems import Place, Problem

DOCUMENT_BYTES = 256 * 1024
"""The most a deployment document may hold."""
DOCUMENT_NODES = 20_000
"""The most keys, values and items it may hold."""
DOCUMENT_DEPTH = 24
"""How deep it may nest."""

Path = tuple[str | int, ...]

_OUR_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclasses.dataclass(frozen=True)
class Tree:
    """A read document: plain `value`, and where each path's key and value stand."""

    value: Any
    keys: dict[Path, Place]
    values: dict[Path, Place]


def read_tree(text: str) -> tuple[Tree | None, list[Problem]]:
    """The document in `text`, or None and what is wrong with it as YAML."""
    if len(text.encode("utf-8", "surrogatepass")) > DOCUMENT_BYTES:
        return None, [
            Problem(
                Place(1, 1), "", f"the file holds more than {DOCUMENT_BYTES} bytes", "a deployment document"
            )
        ]
    try:
        bound = _check_bounds(text)
        if bound is not None:
            return None, [bound]
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return None, [_syntax(error)]
    if node is None:
        return None, [
            Problem(
                Place(1, 1),
                "",
                "the document is empty",
                "a mapping with apiVersion, kind, metadata and spec",
                "start from the built-in one: `sextant up` without a file uses it",
            )
        ]
    build = _Build()
    value = build.value(node, ())
    return Tree(value, build.keys, build.values), build.problems


def _place(mark: Any) -> Place:
    return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)


def _check_bounds(text: str) -> Problem | None:
    """Walks the event stream, which is lazy and not recursive, before anything is built from it."""
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = _place(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                return Problem(
                    place,
                    "",
                    "the file holds a second document (`---`)",
                    "one document a file",
                    "put each deployment into a file of its own",
                )
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            return Problem(
                place,
                "",
                "anchors and aliases (`&name`, `*name`) are not accepted",
                "plain values",
                "write the value out where it is needed",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if depth > DOCUMENT_DEPTH:
            return Problem(place, "", f"nested deeper than {DOCUMENT_DEPTH} levels", "a deployment document")
        if nodes > DOCUMENT_NODES:
            return Problem(place, "", f"more than {DOCUMENT_NODES} keys and values", "a deployment document")
    return None


def _syntax(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    context, start = getattr(error, "context", None), getattr(error, "context_mark", None)
    if context and start is not None:
        context = f"{context} that starts in line {start.line + 1}"
    hint = ""
    if "\\t" in repr(said):
        hint = "indent with spaces, not tabs"
    elif "mapping values are not allowed" in said:
        hint = "check the indentation, and quote a value that holds `: `"
    elif "found character" in said and "cannot start any token" in said:
        hint = "quote the value"
    return Problem(
        _place(mark), "", f"not valid YAML: {said}" + (f" ({context})" if context else ""), "valid YAML", hint
    )


class _Build:
    """Plain values from YAML nodes, noting places and faults on the way."""

    def __init__(self) -> None:
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.values[path] = _place(node.start_mark)
        if node.tag not in _OUR_TAGS:
            return self._tagged(node, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            here = (*path, key)
            place = _place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(place, path, "a key is a list or a mapping", "a name as key")
            elif key == "<<":
                self._refuse(
                    place, here, "merge keys (`<<`) are not accepted", "plain keys", "write the keys out"
                )
            elif key in found:
                self._refuse(
                    place,
                    here,
                    f"the key is there twice (first in line {self.keys[here].line})",
                    "each key once",
                    "delete one of the two",
                )
            else:
                self.keys[here] = place
                found[key] = self.value(value_node, here)
        return found

    def _tagged(self, node: yaml.Node, path: Path) -> str | None:
        if node.tag == _TIMESTAMP:
            return str(node.value)
        place, said = _place(node.start_mark), f"the tag {node.tag} is not accepted"
        self._refuse(place, path, said, "plain values", "delete the tag (`!…`), or quote the value")
        return None

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            return self._scalars.construct_object(node, deep=True)
        except (ValueError, OverflowError, yaml.YAMLError):
            self._refuse(
                _place(node.start_mark), path, "the value cannot be read", "a plain value", "quote it"
            )
            return None

    def _refuse(self, place: Place, path: Path, said: str, expected: str, write: str = "") -> None:
        self.problems.append(Problem(place, dotted(path), said, expected, write))


def dotted(path: Path) -> str:
    """A path for people: `spec.sites[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
