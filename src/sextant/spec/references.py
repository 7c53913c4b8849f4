"""Which secrets a document refers to, wherever they stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

_STARTS = ("env:", "file:/", "sealed:/")


def secret_references(section: BaseModel) -> tuple[str, ...]:
    """The references in a section that was read: sorted, each once. Nothing else of a document begins like
    one."""
    return tuple(sorted(set(_within(section.model_dump(mode="json", exclude_unset=True)))))


def sealed_references(section: BaseModel) -> tuple[str, ...]:
    """Those of them that an HSM opens: `sealed:/path`."""
    return tuple(one for one in secret_references(section) if one.startswith("sealed:"))


def _within(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _within(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _within(each)
    elif isinstance(value, str) and value.startswith(_STARTS):
        yield value
