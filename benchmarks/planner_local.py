"""`make bench-planner-local`: the planner, calibrated on this machine, against what the machine then does.

Starts the whole stack with the bundled engine, measures the loads of a calibration and others, in passes
that hold both, fits to the calibration's own alone (`operations/measure_calibration.py`), and predicts the
others: concurrencies and lengths that the fit has not seen. Goal: TTFT and TPOT within 25 % at each. The
engine has one core, all else and the load the other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine, report
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.processes import BenchmarkError, stop_cleanly_on_sigterm
from benchmarks.servers import BUILD
from benchmarks.stack import Cores, numbers, running_stack
from sextant.operations.measure import KEY_VARIABLE, Load, Measured, measured
from sextant.operations.measure_calibration import PASSES, explained, loads
from sextant.planner.local_speed import loop_of, run
from sextant.spec.facts import load_catalog
from sextant.spec.local_calibration import LocalCalibration
from sextant.spec.planning import Question

WITHIN = 0.25
HELD_OUT = (
    Load(concurrency=1, rounds=2, input_tokens=256, output_tokens=128),
    Load(concurrency=1, rounds=2, input_tokens=1024, output_tokens=32),
    Load(concurrency=2, rounds=3, input_tokens=128, output_tokens=96),
    Load(concurrency=3, rounds=3, input_tokens=640, output_tokens=64),
    Load(concurrency=4, rounds=3, input_tokens=96, output_tokens=128),
    Load(concurrency=6, rounds=2, input_tokens=320, output_tokens=48),
    Load(concurrency=8, rounds=2, input_tokens=160, output_tokens=96),
)
SHORT = 2
"""So many of them in the short form."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One load that the fit has not seen: measured, predicted, ratio."""

    measured: Measured
    ttft_ms: float
    tpot_ms: float

    @property
    def ratios(self) -> tuple[float, float]:
        """Predicted over measured: TTFT, TPOT."""
        return self.ttft_ms / self.measured.ttft_ms, self.tpot_ms / self.measured.tpot_ms


def rows_of(calibration: LocalCalibration, seen: tuple[Measured, ...]) -> list[Row]:
    """Each measurement beside its prediction."""
    found = []
    for one in seen:
        times = run(calibration, loop_of(one.point))
        found.append(Row(measured=one, ttft_ms=times.ttft_s * 1000, tpot_ms=times.tpot_s * 1000))
    return found


def measure(options: argparse.Namespace, work: Path) -> tuple[LocalCalibration, list[Row]]:
    """Starts the stack, measures both sorts of loads, fits to one and predicts the other."""
    catalog = load_catalog()
    question = Question(
        architecture=catalog.model("sextant-nano"),
        precision="q8",
        engine="embedded",
        accelerators=(catalog.accelerator("cpu-desktop"),),
    )
    fitted = loads(question.architecture.context_tokens)
    held = HELD_OUT if options.form == "full" else HELD_OUT[:SHORT]
    cores = Cores(str(options.engine_core), str(options.load_core), str(options.load_core))
    os.sched_setaffinity(0, numbers(cores.load))
    with running_stack(work, cores) as stack:
        way = stack.sextant
        os.environ[KEY_VARIABLE] = way.key
        url = f"http://127.0.0.1:{way.port}"
        passes = PASSES if options.form == "full" else 1
        seen = asyncio.run(measured(url, (*fitted, *held), passes=passes))
    calibration = explained(seen[: len(fitted)], question, url)
    return calibration, rows_of(calibration, seen[len(fitted) :])


def goals_of(rows: list[Row]) -> list[Goal]:
    """The worst of each time, as the larger factor of miss."""
    worst = [max(max(row.ratios[at], 1 / row.ratios[at]) for row in rows) for at in (0, 1)]
    return [
        Goal(f"worst_{name}_miss", miss, 1 + WITHIN, at_least=False)
        for name, miss in zip(("ttft", "tpot"), worst, strict=True)
    ]


def page(calibration: LocalCalibration, rows: list[Row], about: dict[str, Any]) -> str:
    """The Markdown page of a run."""
    head = (
        *("in flight", "in/out tokens", "TTFT ms predicted", "measured", "ratio"),
        *("TPOT ms predicted", "measured", "ratio"),
    )
    cells = [
        [
            str(row.measured.concurrency),
            f"{row.measured.input_tokens}/{row.measured.output_tokens}",
            f"{row.ttft_ms:.1f}",
            f"{row.measured.ttft_ms:.1f}",
            f"{row.ratios[0]:.2f}",
            f"{row.tpot_ms:.2f}",
            f"{row.measured.tpot_ms:.2f}",
            f"{row.ratios[1]:.2f}",
        ]
        for row in rows
    ]
    return (
        "# The planner on this machine\n\n"
        + report.machine_list(about)
        + f"- calibrated with {len(calibration.points)} loads; band x{calibration.band:.2f}\n\n"
        + report.table(head, cells)
        + "\n## Goals\n\n"
        + report.goals_table(goals_of(rows))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=("full", "short"), default="full")
    parser.add_argument("--engine-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory for the result files")
    options = parser.parse_args()
    stop_cleanly_on_sigterm()
    out = options.out or (Path(__file__).parent / "results" if options.form == "full" else BUILD)
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    about = machine.describe(work)
    try:
        calibration, rows = measure(options, work)
    except BenchmarkError as error:
        print(f"the benchmark was stopped: {error}")
        print(last_line("planner-local", {"error": str(error)[:300]}, []))
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text, goals = page(calibration, rows, about), goals_of(rows)
    (out / "planner-local.md").write_text(text)
    print(text)
    print(last_line("planner-local", {"rows": len(rows), "band": round(calibration.band, 3)}, goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
