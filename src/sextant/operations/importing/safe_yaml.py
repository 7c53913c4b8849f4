"""A foreign YAML file, within bounds: size, depth, and how far its anchors unfold.

Looser than a deployment document (anchors and merge keys are common in such files) and bounded before
anything is built, so that a few lines cannot unfold into gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sextant.base.errors import BadDocument

FILE_BYTES = 8 * 1024 * 1024
NODES = 200_000
DEPTH = 50


def read_yaml(path: Path) -> Any:
    """The document in the file. Raises BadDocument, with the line where it is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise BadDocument(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES:
        raise BadDocument(f"{path}: holds more than {FILE_BYTES} bytes; a configuration is smaller")
    try:
        text = data.decode("utf-8-sig")
        _check_bounds(text, path)
        return yaml.safe_load(text)
    except UnicodeDecodeError:
        raise BadDocument(f"{path}: is not UTF-8 text; name the configuration file itself") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        said = getattr(error, "problem", None) or "a value cannot be read"
        raise BadDocument(f"{path}{line}: not valid YAML: {said}") from None


def _check_bounds(text: str, path: Path) -> None:
    """Counts nodes as they would unfold. An alias counts as much as what it stands for."""
    counted: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            nodes += counted.get(str(event.anchor), NODES)
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor:
                counted[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                counted[anchor] = nodes - before
        if nodes > NODES or len(opened) > DEPTH:
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise BadDocument(
                f"{path}{line}: unfolds to more than {NODES} values or nests deeper than {DEPTH}; a "
                f"configuration is smaller"
            )
