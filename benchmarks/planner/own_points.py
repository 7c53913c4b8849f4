"""Serving points that were measured for Sextant itself (`measure_vllm.py`): the models that fit one card,
which the vendor's collection leaves out. They stand in `data/vllm_h200_points.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.planner.points import Measured
from sextant.planner.phases import Point
from sextant.spec.facts import Catalog
from sextant.spec.planning import Layout

OWN = Path(__file__).parent / "data/vllm_h200_points.csv"
FIRST_ROW = 1_000_000
"""Rows are numbered from here, apart from those of any other file."""


def own_points(catalog: Catalog) -> list[Measured]:
    """All of them. The engine was the newest, so its age is none."""
    with OWN.open(encoding="utf-8", newline="") as file:
        return [_measured(FIRST_ROW + place, row, catalog) for place, row in enumerate(csv.DictReader(file))]


def _measured(number: int, row: dict[str, str], catalog: Catalog) -> Measured:
    point = Point(
        architecture=catalog.model(row["model"]),
        precision=row["precision"],  # type: ignore[arg-type]
        kv_precision=row["kv_precision"],  # type: ignore[arg-type]
        engine=row["engine"],  # type: ignore[arg-type]
        accelerator=catalog.accelerator(row["accelerator"]),
        layout=Layout(tp=int(row["tp"])),
        concurrency=float(row["concurrency"]),
        input_tokens=float(row["input_tokens"]),
        output_tokens=float(row["output_tokens"]),
    )
    return Measured(
        row=number,
        point=point,
        complete=True,
        ttft_ms=float(row["ttft_ms"]),
        tpot_ms=float(row["tpot_ms"]),
    )
