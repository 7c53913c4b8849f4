"""Measured serving points as the planner's nouns.

The file's layouts are partly ambiguous; how each is read is said at the line that does it. One
measurement that stands in it several times (under two names of one model, or from two exports) is taken
once, in the record that names its workers. DeepSeek-R1 and V3 are one model here: they differ in weights
only.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import msgspec

from sextant.planner.phases import Point
from sextant.spec.facts import Catalog
from sextant.spec.planning import Layout

MODELS = {
    "deepseek-v3.2": "deepseek-v3_2",
    "deepseek-r1": "deepseek-v3",
    "deepseek-v3": "deepseek-v3",
    "minimax-m2.5": "minimax-m2_5",
    "gpt-oss-120b": "gpt-oss-120b",
    "llama-3.1-70b": "llama-3_1-70b",
    "llama-3.1-8b": "llama-3_1-8b",
    "qwen3.5-397b": "qwen3_5-397b",
    "qwen3-32b": "qwen3-32b",
    "qwen3-235b": "qwen3-235b",
    "kimi-k2.5": "kimi-k2_5",
    "glm-5": "glm-5",
}
SYSTEMS = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
}
CONCURRENCY = re.compile(r"silicon_concurrency=([\d.]+)")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A point and what was measured on it."""

    row: int
    point: Point
    complete: bool
    """Whether the record says how many workers there were."""
    ttft_ms: float
    tpot_ms: float

    @property
    def configuration(self) -> tuple[object, ...]:
        """What one fold of a cross-validation holds out whole: engine, model, system, precision, layout."""
        point = self.point
        return (
            point.engine,
            point.architecture.id,
            point.accelerator.id,
            point.precision,
            _shape(point.layout),
            _shape(point.prefill) if point.prefill else None,
        )


def _shape(layout: Layout) -> tuple[int, ...]:
    """Without the number of workers: rows that do not name it must not fall apart from those that do."""
    return (layout.tp, layout.attention_dp, layout.ep)


def read(path: Path, catalog: Catalog) -> list[Measured]:
    """All measurements of the file, each once."""
    best: dict[tuple[float, ...], Measured] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for index, row in enumerate(csv.DictReader(file)):
            one = measured(index, row, catalog)
            key = (one.ttft_ms, one.tpot_ms, one.point.input_tokens, one.point.output_tokens)
            if key not in best or one.complete > best[key].complete:
                best[key] = one
    return list(best.values())


def measured(index: int, row: dict[str, str], catalog: Catalog) -> Measured:
    """One row."""
    name = row["model_path"].split("/")[-1].casefold()
    model = next(id_ for start, id_ in MODELS.items() if name.startswith(start))
    decode = _layout(row, "" if row["mode"] == "agg" else "decode_")
    prefill = None if row["mode"] == "agg" else _layout(row, "prefill_")
    said = CONCURRENCY.search(row["silicon_data_source"])
    batch = float(row["batch_size"] or row["decode_batch_size"] or 1) * decode.attention_dp * decode.dp
    point = Point(
        architecture=catalog.model(model),
        precision=row["precision"] or "fp8",  # type: ignore[arg-type]
        engine=row["backend"],  # type: ignore[arg-type]
        accelerator=catalog.accelerator(SYSTEMS[row["system"]]),
        layout=decode,
        prefill=prefill,
        concurrency=float(said[1]) if said else batch,
        input_tokens=float(row["isl"]),
        output_tokens=float(row["osl"]),
    )
    return Measured(
        row=index,
        point=point,
        complete=row["mode"] == "agg" or bool(row["decode_num_workers"]),
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
    )


def _layout(row: dict[str, str], prefix: str) -> Layout:
    def number(name: str) -> int:
        return int(float(row.get(prefix + name) or 1)) or 1

    tp, attention_dp = number("tp_size"), number("attention_dp_size")
    moe_tp, ep = number("moe_tp_size"), number("moe_ep_size")
    ranks = tp * attention_dp
    if not prefix and moe_tp == ep > 1 and moe_tp * ep == ranks:
        ranks = ep  # tensor and expert parallelism of the same accelerators, multiplied
        attention_dp = min(attention_dp, ep)
    if not prefix and tp == attention_dp > 1 and ep == tp * tp:
        ranks = attention_dp = ep = tp  # the same, with data-parallel attention
    return Layout(tp=ranks, attention_dp=attention_dp, ep=min(ep, ranks), dp=number("num_workers"))
