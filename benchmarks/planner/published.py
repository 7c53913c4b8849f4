"""Predicted against published throughput, row by row: `python -m benchmarks.planner.published [OUT.md]`.

The calibration has none of these rows, so "predicted" is out of sample. "Left out" scales it by the geometric
mean of what the other rows measured by the same method say, shrunk; no row calibrates itself. That methods
differ (a batch that ends has a ramp and a tail) was seen on these very rows, so this number is optimistic.
"""

from __future__ import annotations

import math
import sys
import tomllib
from pathlib import Path
from typing import Any

from sextant.planner.calibration import forests
from sextant.planner.phases import Point
from sextant.planner.roofline import Model, times
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import Catalog, load_catalog
from sextant.spec.planning import Layout

DATA = Path(__file__).parents[2] / "src/sextant/spec/data/published.toml"
SHRINK = 1.0
"""Rows' worth of belief in a factor of 1."""
PREFILL_RANKS = 32


def predicted(row: dict[str, Any], catalog: Catalog, model: Model) -> float:
    """Output tokens per second of all the row's accelerators."""
    ranks = row["ranks"]
    layout = Layout(tp=ranks, attention_dp=row.get("attention_dp", 1), ep=row.get("ep", 1))
    apart = Layout(tp=PREFILL_RANKS, attention_dp=PREFILL_RANKS, ep=PREFILL_RANKS)
    point = Point(
        architecture=catalog.model(row["model"]),
        precision=row["precision"],
        engine=row["engine"],
        accelerator=catalog.accelerator(row["accelerator"]),
        layout=layout,
        prefill=apart if row.get("decode_only") else None,
        concurrency=float(row["concurrency"]),
        input_tokens=float(row["input_tokens"]),
        output_tokens=float(row["output_tokens"]),
    )
    ttft_s, tpot_s = times(model, point)
    if row.get("decode_only"):
        return float(point.concurrency / tpot_s)
    return float(point.concurrency * point.output_tokens / (ttft_s + point.output_tokens * tpot_s))


def table() -> tuple[str, dict[str, float]]:
    """The rows and their geometric errors."""
    catalog, calibration = load_catalog(), load_calibration()
    model = Model(calibration=calibration, trees=forests(calibration))
    rows = tomllib.loads(DATA.read_text(encoding="utf-8"))
    said = {name: predicted(row, catalog, model) for name, row in rows.items()}
    errors = {name: math.log(said[name] / row["output_tokens_per_s"]) for name, row in rows.items()}
    lines = [
        "| row | method | predicted | published | ratio | left out: ratio |",
        "|---|---|---|---|---|---|",
    ]
    left: list[float] = []
    for name, row in rows.items():
        others = [
            error
            for other, error in errors.items()
            if other != name and rows[other]["method"] == row["method"]
        ]
        scaled = errors[name] - sum(others) / (len(others) + SHRINK)
        left.append(abs(scaled))
        lines.append(
            f"| {name} | {row['method']} | {said[name]:.0f} | {row['output_tokens_per_s']:.0f} "
            f"| {math.exp(errors[name]):.2f} | {math.exp(scaled):.2f} |"
        )
    plain = sum(map(abs, errors.values())) / len(errors)
    scores = {"geometric": math.exp(plain), "left_out": math.exp(sum(left) / len(left))}
    lines.append(
        f"\nGeometric error {scores['geometric']:.2f}; with the factor of "
        f"other rows of the same method {scores['left_out']:.2f} (methods chosen with these rows in view)."
    )
    return "\n".join(lines), scores


def main() -> None:
    """Prints the table, and adds it to the file that is named."""
    text, _ = table()
    print(text)
    for name in sys.argv[1:]:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(f"\n## Published throughput\n\n{text}\n")


if __name__ == "__main__":
    main()
