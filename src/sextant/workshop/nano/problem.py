"""One checkable problem of the nano model's curriculum, and the rule that keeps held-out problems out of
training.

Flow 4 (Model) starts here: families make problems, `curriculum` dresses them as conversations, `pack`
turns them
into tokens, `evaluate` asks the held-out ones over HTTP. Neighbours: `checks` (accepting an answer).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
HELD_OUT_ONE_IN = 8

Message = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A problem: what the user says, what a right answer is, and the answer the model is taught.

    `key` is the canonical problem without its wording ("add 17 25"): two wordings of one problem share it.
    `check` names the rule in `checks` that judges an answer against `expected`.
    """

    family: str
    language: Language
    key: str
    messages: tuple[Message, ...]
    answer: str
    expected: Any
    check: str
    thinking: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = field(default=())

    @property
    def held_out(self) -> bool:
        return is_held_out(self.family, self.key)


def is_held_out(family: str, key: str) -> bool:
    """Whether the problem belongs to the held-out set, in either language: one in eight, by a hash of its
    identity.
    """
    digest = hashlib.sha256(f"{family}\x00{key}".encode()).digest()
    return digest[0] % HELD_OUT_ONE_IN == 0


def ask(text: str) -> tuple[Message, ...]:
    """A conversation of one user turn."""
    return ({"role": "user", "content": text},)


def call(name: str, arguments: dict[str, Any], index: int = 0) -> dict[str, Any]:
    """A tool call as the OpenAI schema writes it: the arguments are a JSON text."""
    return {
        "id": f"call_{index}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }
