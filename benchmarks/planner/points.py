"""Measured serving points as the planner's nouns.

The file's layouts are partly ambiguous; how each is read is said at the line that does it. One measurement
that stands in it several times (under two names of one model, from two exports, with digits cut or with its
layout told otherwise) is taken once, in the record that names its workers: left twice, it could stand on both
sides of a cross-validation. DeepSeek-R1 and V3 are one model here: they differ in weights only.
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
MEASURED = re.compile(r"measured=(\d+)-(\d+)")
NEWEST = (2026, 4)
"""Year and month of the newest points."""
RELEASED = {
    ("trtllm", "1.0.0rc3"): (2025, 7),
    ("trtllm", "1.2.0rc6.post1"): (2026, 1),
    ("trtllm", "1.3.0rc1"): (2026, 2),
    ("trtllm", "1.3.0rc5"): (2026, 3),
    ("sglang", "0.5.1.post1"): (2025, 8),
    ("sglang", "0.5.6.post2"): (2025, 12),
    ("sglang", "0.5.8.post1"): (2026, 2),
    ("sglang", "0.5.9"): (2026, 3),
    ("vllm", "0.12.0"): (2025, 12),
    ("vllm", "0.15.1"): (2026, 2),
    ("vllm", "0.16.0"): (2026, 3),
    ("vllm", "0.17.0"): (2026, 3),
}
"""Months of the versions that stand without a date of measurement: of their first dated point, else of their
release. The package index's upload dates of all twelve (looked up 2026-11-22) lie in the same month or, for
trtllm 1.3.0rc1 and rc5, sglang 0.5.9 and vllm 0.16.0, up to five days before its first day."""
SAME_TTFT, SAME_TPOT = 0.0006, 0.003
"""Points of one model, engine and pair of lengths that lie closer than these shares are one measurement."""


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

    @property
    def ranks(self) -> tuple[object, ...]:
        """More coarsely: layouts of as many ranks are held out together, whatever they are recorded as."""
        point = self.point
        decode, before = point.layout.tp, point.prefill.tp if point.prefill else 0
        return (point.engine, point.architecture.id, point.accelerator.id, point.precision, decode, before)

    @property
    def lengths(self) -> tuple[float, float]:
        """Input and output tokens."""
        return (self.point.input_tokens, self.point.output_tokens)


def _shape(layout: Layout) -> tuple[int, ...]:
    """Without the number of workers: rows that do not name it must not fall apart from those that do."""
    return (layout.tp, layout.attention_dp, layout.ep)


def read(path: Path, catalog: Catalog) -> list[Measured]:
    """All measurements of the file, each once."""
    with path.open(encoding="utf-8", newline="") as file:
        every = [measured(index, row, catalog) for index, row in enumerate(csv.DictReader(file))]
    kept: list[Measured] = []
    near: list[Measured] = []
    for one in sorted(every, key=lambda each: (_load(each), each.ttft_ms, not each.complete)):
        near = [each for each in near if _load(each) == _load(one) and _near(each, one)]
        twin = next((each for each in near if _same(each, one)), None)
        if twin is None:
            near.append(one)
            kept.append(one)
        elif one.complete and not twin.complete:
            near[near.index(twin)] = kept[kept.index(twin)] = one
    return sorted(kept, key=lambda each: each.row)


def _load(one: Measured) -> tuple[object, ...]:
    point = one.point
    return (point.engine, point.architecture.id, point.input_tokens, point.output_tokens)


def _near(one: Measured, other: Measured) -> bool:
    return abs(one.ttft_ms / other.ttft_ms - 1) <= SAME_TTFT


def _same(one: Measured, other: Measured) -> bool:
    return _near(one, other) and abs(one.tpot_ms / other.tpot_ms - 1) <= SAME_TPOT


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
        engine_age_months=_age_months(row),
    )
    return Measured(
        row=index,
        point=point,
        complete=row["mode"] == "agg" or bool(row["decode_num_workers"]),
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
    )


def _age_months(row: dict[str, str]) -> float:
    said = MEASURED.search(row["silicon_data_source"])
    year, month = (
        (int(said[1]), int(said[2]))
        if said
        else RELEASED.get((row["backend"], row["backend_version"]), NEWEST)
    )
    return float((NEWEST[0] - year) * 12 + NEWEST[1] - month)


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
