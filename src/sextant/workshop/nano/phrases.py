"""A tiny phrase grammar, so that each task is asked in hundreds of ways from a few lines.

`[What is|Compute] {a} + {b}[?|]`: brackets choose one alternative (they nest), braces are slots, filled
after the
choice.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

Node = str | tuple[tuple["Node", ...], ...]


@lru_cache(maxsize=4096)
def parse(pattern: str) -> tuple[Node, ...]:
    """The pattern as a tree: a text, or a choice between sequences. Raises ValueError when brackets don't
    match.
    """
    nodes, end = _sequence(pattern, 0, nested=False)
    if end != len(pattern):
        raise ValueError(f"unmatched ']' in the phrase {pattern!r}")
    return nodes


def _sequence(source: str, at: int, *, nested: bool) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    plain = ""
    while at < len(source) and not (source[at] == "]" or (nested and source[at] == "|")):
        if source[at] != "[":
            plain += source[at]
            at += 1
            continue
        options: list[tuple[Node, ...]] = []
        while True:
            option, at = _sequence(source, at + 1, nested=True)
            options.append(option)
            if at >= len(source):
                raise ValueError(f"unmatched '[' in the phrase {source!r}")
            if source[at] == "]":
                break
        nodes += [plain, tuple(options)]
        plain = ""
        at += 1
    nodes.append(plain)
    return tuple(nodes), at


def _choose(rng: Random, nodes: tuple[Node, ...]) -> str:
    return "".join(node if isinstance(node, str) else _choose(rng, rng.choice(node)) for node in nodes)


def say(rng: Random, pattern: str, **slots: object) -> str:
    """One wording of `pattern`, its slots filled."""
    text = _choose(rng, parse(pattern))
    parts = text.split("{")
    out = parts[0]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        out += str(slots[name]) + rest
    return out
