"""Which images of a bundle are named by tag alone: in objects, compose files, pipelines, Dockerfiles, kits.

A tag is its makers' to move; a digest is not. Allowed, and listed for whoever keeps the images lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from sextant.operations.verify.subject import LOADER, Subject

DIGEST = "@sha256:"
KIT = "kit/images.txt"
_FROM = re.compile(r"^FROM (?:--\S+ )*(\S+)(?: AS (\S+))?$", re.MULTILINE | re.IGNORECASE)
_TAGGED = re.compile(r"[\w.:/-]+:[\w.-]+")
"""A reference that ends in a tag; what a variable fills in is none."""


def images_by_tag(subject: Subject) -> frozenset[str]:
    """Those images, as they are named."""
    return frozenset(
        image for image in _named(subject) if DIGEST not in image and _TAGGED.fullmatch(image) is not None
    )


def _named(subject: Subject) -> Iterator[str]:
    for path, text in subject.texts.items():
        if path.endswith("Dockerfile"):
            yield from _bases(text)
        elif path == KIT:
            yield from (line for line in text.splitlines() if not line.startswith("#"))
        elif path.endswith((".yaml", ".yml")):
            yield from _of_values(subject.objects.get(path) or _read(text))


def _bases(text: str) -> Iterator[str]:
    """Images that a Dockerfile begins with, but for its own stages."""
    stages: set[str] = set()
    for image, stage in _FROM.findall(text):
        if image not in stages:
            yield image
        stages.add(stage)


def _read(text: str) -> tuple[Any, ...]:
    """What cannot be read is a fault by another rule."""
    try:
        return tuple(yaml.load_all(text, Loader=LOADER))
    except yaml.YAMLError:
        return ()


def _of_values(value: Any) -> Iterator[str]:
    """Every `image`, as text or as a mapping with `name`."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _of_values(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            named = each.get("name") if key == "image" and isinstance(each, dict) else each
            if key == "image" and isinstance(named, str):
                yield named
            else:
                yield from _of_values(each)
