"""NVIDIA's aiconfigurator on serving points, for the same table as the planner's own predictions.

Runs in an environment of its own (`pip install aiconfigurator==0.12.0`) and imports nothing of Sextant:
`python aiconfigurator_rows.py POINTS.csv OUT.json [SECONDS]`. Each row of an aggregated deployment is
asked with the layout, precision and batch that it names; what has no tables is recorded as refused, with
the reason.
"""

from __future__ import annotations

import csv
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

from aiconfigurator.cli.api import cli_estimate  # type: ignore[import-not-found]

ORDER_SEED = 5
DEFAULT_BUDGET_S = 600.0


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


def main() -> None:
    """Asks for rows in a fixed random order until the time is spent; writes what it has."""
    points, out = sys.argv[1], sys.argv[2]
    budget_s = float(sys.argv[3]) if len(sys.argv) > 3 else DEFAULT_BUDGET_S
    logging.disable(logging.CRITICAL)
    with Path(points).open(encoding="utf-8", newline="") as file:
        rows = [(index, row) for index, row in enumerate(csv.DictReader(file)) if row["mode"] == "agg"]
    random.Random(ORDER_SEED).shuffle(rows)
    until = time.monotonic() + budget_s
    answers: dict[str, Any] = {}
    for index, row in rows:
        if time.monotonic() > until:
            break
        answers[str(index)] = estimate(row)
    Path(out).write_text(json.dumps({"aiconfigurator": "0.12.0", "answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main()
