"""Strict reading of answers with the clients' own published types.

The clients build their models leniently (`construct`), so a missing or misspelt field goes unseen. Here a
value must validate in pydantic's strict mode, must come back unchanged when dumped (so the right member of
every union was chosen), and may hold no field that the types do not know, except those named in `EXTRA`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, get_args

import pydantic

EXTRA = frozenset(
    (
        # DeepSeek's own fields, which OpenAI's types do not know
        "reasoning_content",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        "reasoning_tokens_estimated",
        # what DeepSeek's and OpenAI's servers send in a Response, but the client's type leaves out
        "store",
    )
)


def read_strictly(kind: Any, data: bytes | str | dict[str, Any]) -> Any:
    """`data` as `kind`, with no leniency. Raises AssertionError or pydantic's ValidationError."""
    text = json.dumps(data) if isinstance(data, dict) else data
    adapter = _adapter(kind)
    value = adapter.validate_json(text, strict=True)
    given = json.loads(text)
    dumped = json.loads(adapter.dump_json(value, by_alias=True, exclude_unset=True))
    assert dumped == given, f"{dumped} is not {given}"
    strangers = sorted(set(_strangers(value, kind.__name__ if isinstance(kind, type) else "value")))
    assert not strangers, f"fields that the published types do not know: {strangers}"
    return value


def members_by_type(union: Any) -> dict[str, Any]:
    """The members of a union of models by the literal value of their `type` field."""
    members: dict[str, Any] = {}
    for member in get_args(get_args(union)[0]):
        for name in get_args(member.model_fields["type"].annotation):
            members[name] = member
    return members


def read_events(stream: bytes) -> list[tuple[str | None, str]]:
    """(event name, data) of a whole stream of server-sent events; comments are left out."""
    assert stream.endswith(b"\n\n"), stream[-80:]
    events: list[tuple[str | None, str]] = []
    for block in stream.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        name = next((line[7:] for line in lines if line.startswith("event: ")), None)
        data = [line[6:] for line in lines if line.startswith("data: ")]
        assert len(data) == 1, block
        events.append((name, data[0]))
    return events


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Building one takes long: the clients defer it."""
    return pydantic.TypeAdapter(kind)


def _strangers(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        for name in value.model_extra or {}:
            if name not in EXTRA:
                yield f"{place}.{name}"
        for name in value.model_fields_set & set(type(value).model_fields):
            yield from _strangers(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _strangers(item, f"{place}[]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strangers(item, f"{place}.{name}")
