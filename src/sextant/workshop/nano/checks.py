"""The rules that accept or reject an answer, by name. Each takes the reply of a chat completion and the
expectation.

A rule judges the final answer alone (the reasoning is free), and ignores only what does not change the
meaning:
white space at the ends, a final full stop, JSON layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Reply:
    """What came back: the text, and the tool calls as (name, arguments as JSON text)."""

    content: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()


def _bare(text: str) -> str:
    return text.strip().rstrip(".。!！").strip()


def number(reply: Reply, expected: Any) -> bool:
    """The last number in the text is the expected one."""
    found = _NUMBER.findall(reply.content)
    return not reply.tool_calls and bool(found) and found[-1] == str(expected)


def text(reply: Reply, expected: Any) -> bool:
    """The text is the expected one."""
    return not reply.tool_calls and _bare(reply.content) == _bare(str(expected))


def items(reply: Reply, expected: Any) -> bool:
    """The comma-separated items are the expected ones, in order."""
    got = [part.strip() for part in re.split(r"[,，、]", _bare(reply.content))]
    return not reply.tool_calls and got == [str(item) for item in expected]


def json_value(reply: Reply, expected: Any) -> bool:
    """The text is one JSON document equal to the expected value, types included."""
    try:
        value = json.loads(reply.content)
    except ValueError:
        return False
    return not reply.tool_calls and _canonical(value) == _canonical(expected)


def calls(reply: Reply, expected: Any) -> bool:
    """Exactly the expected calls, in order: name, and arguments equal as JSON values."""
    try:
        got = [(name, _canonical(json.loads(arguments))) for name, arguments in reply.tool_calls]
    except ValueError:
        return False
    return got == [(name, _canonical(arguments)) for name, arguments in expected]


def mentions(reply: Reply, expected: Any) -> bool:
    """Every expected fragment stands in the text."""
    return not reply.tool_calls and all(str(part) in reply.content for part in expected)


def _canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


RULES: Mapping[str, Callable[[Reply, Any], bool]] = {
    "number": number,
    "text": text,
    "items": items,
    "json": json_value,
    "calls": calls,
    "mentions": mentions,
}


def accepts(check: str, reply: Reply, expected: Any) -> bool:
    """Judge `reply` by the rule called `check`."""
    return RULES[check](reply, expected)
