"""The sections of `benchmarks/results/planner.md`, each written by one part of the benchmark."""

from __future__ import annotations

import re
from pathlib import Path

TABLE = Path(__file__).parents[1] / "results/planner.md"
COMMAND = "make bench-planner POINTS=serving_silicon.csv ARGS=--keep"
HEAD = f"# The planner against measurements\n\nCommand: `{COMMAND}`.\n"


def keep_section(title: str, text: str, page: Path = TABLE) -> None:
    """Writes one section of the page in the place of the section of that title, else at the end."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    sections = re.split(r"^## ", before, flags=re.MULTILINE)[1:]
    kept = {head: body.strip() for head, _, body in (one.partition("\n") for one in sections)}
    kept[title] = text.strip()
    body = "".join(f"\n## {head}\n\n{one}\n" for head, one in kept.items())
    page.write_text(HEAD + body, encoding="utf-8")
