"""Perplexity of held-out answers given their prompts, by torch on the shipped safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path

from sextant.workshop.nano import architecture, pack, template, tokens
from sextant.workshop.nano.curriculum import FAMILIES, Sample, held_out
from sextant.workshop.nano.evaluate import SEED
from sextant.workshop.nano.problem import LANGUAGES


def measure(folder: Path, problems: int) -> dict[str, float | int]:
    """Perplexity per token of the taught answers (reasoning included), and the number of tokens it stands
    on.
    """
    import torch

    model, tokenizer = architecture.load(folder).eval(), tokens.load(folder)
    loss, count = 0.0, 0
    for family in FAMILIES:
        for language in LANGUAGES:
            texts = [
                Sample(
                    template.render(p.messages, tools=p.tools),
                    template.completion(thinking=p.thinking, content=p.answer, tool_calls=p.tool_calls),
                )
                for p in held_out(SEED, family, language, problems)
            ]
            for ids, mask in pack.encode(tokenizer, texts, earlier=False):
                with torch.no_grad():
                    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
                kept = torch.tensor(mask[1:], dtype=torch.bool)
                nll = torch.nn.functional.cross_entropy(
                    logits[kept], torch.tensor(ids[1:])[kept], reduction="sum"
                )
                loss, count = loss + nll.item(), count + int(kept.sum())
    return {
        "answers": round(math.exp(loss / count), 5),
        "tokens": count,
        "problems_per_task_and_language": problems,
    }


def merge(folder: Path, problems: int, measurements: Path) -> None:
    """Measure, and put the result into the measurement file."""
    content = json.loads(measurements.read_text(encoding="utf-8")) if measurements.exists() else {}
    content["perplexity"] = measure(folder, problems)
    measurements.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(content["perplexity"]))
