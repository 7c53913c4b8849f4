"""The model card, written from measurements: card.json for programs, CARD.md for readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sextant.workshop.nano.curriculum import GOAL_FAMILIES

_ABOUT = {
    "arithmetic": "addition and subtraction, up to three digits, working in the reasoning",
    "comparison": "larger, smaller, yes or no, sign, extreme of several; integers and decimals",
    "sorting": "numbers and words sorted, lists reversed, words spelled out and backwards",
    "lookup": "a value out of key–value text, JSON, tables, or an earlier turn",
    "json": "answers that are one JSON document",
    "tools": "choosing a tool and copying the arguments",
    "tool_results": "the turn after a tool's result",
    "units": "conversion between whole numbers of units",
    "calendar": "weekdays, months, dates, clock times",
    "identity": "who are you",
    "greeting": "hello, thanks, goodbye",
    "outside": "an honest refusal of what it cannot do",
    "repeat": "saying back, counting",
}


def facts(folder: Path, measurements: Path) -> dict[str, Any]:
    """What the card states, from the artefacts and the measurement files."""
    config = json.loads((folder / "hf" / "config.json").read_text(encoding="utf-8"))
    runs = json.loads((folder / "training_runs.json").read_text(encoding="utf-8"))
    measured = json.loads(measurements.read_text(encoding="utf-8"))
    shards = list((folder / "hf").glob("*.safetensors"))
    gguf = folder / "sextant-nano.gguf"
    return {
        "name": "sextant-nano",
        "licence": "Apache-2.0",
        "architecture": config["architectures"][0],
        "parameters": runs["parameters"],
        "context_tokens": runs["context_tokens"],
        "trained_row_tokens": max(run["length"] for run in runs["runs"]),
        "files": {
            "gguf": {"name": gguf.name, "type": "Q8_0", "bytes": gguf.stat().st_size},
            "safetensors": {"type": "bf16", "bytes": sum(s.stat().st_size for s in shards)},
        },
        "training": runs,
        **measured,
    }


def write(folder: Path, measurements: Path) -> None:
    """Write card.json and CARD.md beside the artefacts."""
    card = facts(folder, measurements)
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "CARD.md").write_text(_text(card), encoding="utf-8")


def _row(family: str, row: dict[str, Any]) -> str:
    shown = [
        f"{row[lang]['accuracy']:.1%} ({row[lang]['right']}/{row[lang]['asked']})" if lang in row else "–"
        for lang in ("en", "zh")
    ]
    return (
        f"| {family}{' *' if family in GOAL_FAMILIES else ''} | {_ABOUT[family]} | {shown[0]} | {shown[1]} |"
    )


def _text(card: dict[str, Any]) -> str:
    training = card["training"]
    seconds = sum(run["seconds"] for run in training["runs"])
    tokens = sum(run["tokens"] for run in training["runs"])
    files, runs = card["files"], training["runs"]
    lines = [
        "# sextant-nano",
        "",
        "A demonstration model. It exists so that Sextant can be tried, tested and taught without",
        "downloading weights; it is no general assistant, knows no facts about the world, and says so",
        "when asked for more.",
        "",
        "DeepSeek-V3 architecture (MLA with q- and kv-LoRA, one leading dense layer, MoE with one shared",
        "and eight routed experts, two active, sigmoid router),",
        f"{card['parameters'] / 1e6:.1f} M parameters, trained from random initialisation on generated text",
        "(`python -m sextant.workshop.nano`). Apache-2.0.",
        "",
        "## Measured",
        "",
        "Held-out problems (one in eight by a hash of the problem's identity; none is in the training",
        f"data), temperature 0, thinking {'on' if card['thinking'] else 'off'}, asked over HTTP through",
        f"{card['through']}, {card['measured_at']}. Goal for the rows with *: {card['goal']:.0%}.",
        "A problem's identity counts within its task: a sum that is held out from arithmetic may stand",
        "inside a JSON problem that was trained.",
        "",
        "| task | what | English | Chinese |",
        "|---|---|---|---|",
        *(_row(family, row) for family, row in card["accuracy"].items()),
        "",
        f"Perplexity of held-out answers given their prompts: {card['perplexity']['answers']:.4f} over",
        f"{card['perplexity']['tokens']:,} tokens (low: an answer is nearly determined by its question).",
        "",
        *_reach(card),
        "## Weaknesses",
        "",
        *(f"- {line}" for line in training["weaknesses"]),
        "",
        "## Files and cost",
        "",
        f"- `{files['gguf']['name']}`: {files['gguf']['type']}, {files['gguf']['bytes'] / 1e6:.1f} MB;",
        f"  `hf/`: bf16 safetensors, {files['safetensors']['bytes'] / 1e6:.1f} MB.",
        f"- Training: {tokens / 1e9:.2f} G tokens in {seconds / 60:.0f} minutes on one",
        f"  {runs[0]['device']}, in {len(runs)} runs, each from the one before (`training_runs.json`).",
        f"- Context: served at {card['context_tokens']} tokens;",
        f"  trained on rows of {card['trained_row_tokens']}.",
        "",
    ]
    return "\n".join(lines)


def _reach(card: dict[str, Any]) -> list[str]:
    """The look-up accuracy by prompt length, where it was measured."""
    reach = card.get("lookup_by_prompt_tokens")
    if not reach:
        return []
    shown = ", ".join(f"{length} tokens {row['right']}/{row['asked']}" for length, row in reach.items())
    return [f"Look-up among ever more made-up keys, by length of the prompt: {shown}.", ""]
