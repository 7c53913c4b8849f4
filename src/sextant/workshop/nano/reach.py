"""How far the context really reaches: look-ups in ever longer texts, asked over HTTP.

The keys are made up and alike, which is harder than the examination: training texts rarely hold more than ten
entries. So this states where look-up ends, whatever the context holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from sextant.workshop.nano import template, tokens
from sextant.workshop.nano.evaluate import Examination, ask
from sextant.workshop.nano.problem import Problem
from sextant.workshop.nano.problem import ask as user_turn
from sextant.workshop.nano.words import pseudo_word

LENGTHS = (250, 500, 1000)
PROBLEMS = 20


def problem(rng: Random, tokenizer: Any, length: int) -> Problem:
    """One look-up whose prompt has about `length` tokens."""
    pairs: dict[str, str] = {}
    while True:
        pairs[pseudo_word(rng) + "_" + pseudo_word(rng)] = pseudo_word(rng)
        if len(pairs) % 8:
            continue
        wanted = rng.choice(list(pairs))
        content = "\n".join(f"{k}: {v}" for k, v in pairs.items()) + f"\nWhat is the {wanted}?"
        messages = user_turn(content)
        if len(tokenizer.encode(template.render(messages)).ids) >= length:
            return Problem(
                "lookup", "en", f"reach {wanted} {length}", messages, pairs[wanted], pairs[wanted], "text"
            )


def measure(examination: Examination, folder: Path, lengths: Sequence[int] = LENGTHS) -> dict[str, Any]:
    """Accuracy by prompt length in tokens."""
    tokenizer, rng = tokens.load(folder), Random(5)
    out = {}
    with ThreadPoolExecutor(examination.concurrency) as threads:
        for length in lengths:
            problems = [problem(rng, tokenizer, length) for _ in range(PROBLEMS)]
            right = sum(o.right for o in threads.map(lambda p: ask(examination, p), problems))
            out[str(length)] = {"right": right, "asked": PROBLEMS}
    return out


def merge(examination: Examination, folder: Path, measurements: Path) -> None:
    """Measure, and put the result into the measurement file."""
    content = json.loads(measurements.read_text(encoding="utf-8")) if measurements.exists() else {}
    content["lookup_by_prompt_tokens"] = measure(examination, folder)
    measurements.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(content["lookup_by_prompt_tokens"]))
