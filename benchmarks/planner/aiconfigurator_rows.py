"""NVIDIA's aiconfigurator on serving points, for the same table as the planner's own predictions.

Runs in an environment of its own (`pip install aiconfigurator==0.12.0`) and imports nothing of Sextant:
`python aiconfigurator_rows.py POINTS.csv|PUBLISHED.toml OUT.json [SECONDS]`. Each row of an aggregated
deployment is asked with the layout, precision and batch that it names; what has no tables is recorded as
refused, with the reason. Published rows are asked with the layout that the planner is asked with.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import random
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiconfigurator.cli.api import cli_estimate  # type: ignore[import-not-found]

ORDER_SEED = 5
DEFAULT_BUDGET_S = 600.0
MODELS = {"deepseek-r1": "deepseek-ai/DeepSeek-R1", "deepseek-v3": "deepseek-ai/DeepSeek-V3"}
SYSTEMS = {"h100-sxm": "h100_sxm", "h200": "h200_sxm", "b200": "b200_sxm", "gb200": "gb200"}
"""Its names; what it has none for is asked by ours, and refused by it."""
MODES = {"fp8": ("fp8_block", "fp8_block"), "int4": ("int4_wo", "int4_wo")}


def layout(row: dict[str, str]) -> dict[str, int]:
    """The row's parallelism as aiconfigurator takes it."""

    def number(name: str) -> int:
        return int(float(row[name] or 1)) or 1

    tp, attention_dp = number("tp_size"), number("attention_dp_size")
    moe_tp, moe_ep = number("moe_tp_size"), number("moe_ep_size")
    if moe_tp > 1 and moe_tp == moe_ep and moe_tp * moe_ep == tp * attention_dp:
        # Recorded as tensor times expert parallelism, of the same accelerators.
        tp, attention_dp, moe_tp = (moe_ep, 1, 1) if attention_dp == 1 else (1, moe_ep, 1)
    return {
        "tp_size": tp,
        "attention_dp_size": attention_dp,
        "moe_tp_size": moe_tp,
        "moe_ep_size": moe_ep,
    }


def estimate(row: dict[str, str]) -> dict[str, Any]:
    """TTFT and TPOT in milliseconds, or why there are none."""
    try:
        found = cli_estimate(
            row["model_path"],
            row["system"],
            backend_name=row["backend"],
            isl=int(row["isl"]),
            osl=int(row["osl"]),
            batch_size=int(float(row["batch_size"])),
            gemm_quant_mode=row["gemm_quant_mode"] or None,
            moe_quant_mode=row["moe_quant_mode"] or None,
            **layout(row),
        )
        return {"ttft_ms": float(found.ttft), "tpot_ms": float(found.tpot)}
    except Exception as error:  # a refusal of whatever kind is a row of the table
        return {"refused": f"{type(error).__name__}: {str(error)[:160]}"}


def points(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Aggregated rows of a file of serving points, in a fixed random order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(str(index), row) for index, row in enumerate(csv.DictReader(file)) if row["mode"] == "agg"]
    random.Random(ORDER_SEED).shuffle(rows)
    yield from rows


def published(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Published rows in the shape of serving points; a batch is that of one group of data-parallel attention.
    Of a batch that ends half is in flight."""
    for name, row in tomllib.loads(path.read_text(encoding="utf-8")).items():
        attention_dp, ep = row.get("attention_dp", 1), row.get("ep", 1)
        in_flight = row["requests"] // 2 if "requests" in row else row["concurrency"]
        gemm, moe = MODES.get(row["precision"], ("", ""))
        yield (
            name,
            {
                "model_path": MODELS.get(row["model"], row["model"]),
                "system": SYSTEMS.get(row["accelerator"], row["accelerator"]),
                "backend": row["engine"],
                "isl": str(row["input_tokens"]),
                "osl": str(row["output_tokens"]),
                "batch_size": str(max(1, in_flight // attention_dp)),
                "gemm_quant_mode": gemm,
                "moe_quant_mode": moe,
                "tp_size": str(row["ranks"] // attention_dp),
                "attention_dp_size": str(attention_dp),
                "moe_tp_size": str(row["ranks"] // ep),
                "moe_ep_size": str(ep),
            },
        )


def main() -> None:
    """Asks for rows until the time is spent; writes what it has."""
    source, out = Path(sys.argv[1]), sys.argv[2]
    budget_s = float(sys.argv[3]) if len(sys.argv) > 3 else DEFAULT_BUDGET_S
    logging.disable(logging.CRITICAL)
    until = time.monotonic() + budget_s
    answers: dict[str, Any] = {}
    for name, row in published(source) if source.suffix == ".toml" else points(source):
        if time.monotonic() > until:
            break
        answers[name] = estimate(row)
    about = {"aiconfigurator": "0.12.0", "points_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    Path(out).write_text(json.dumps({**about, "answers": answers}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
