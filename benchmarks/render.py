"""How long rendering takes, for each mode, and verifying a matrix: `python -m benchmarks.render`.

In this process: a document is read, planned, rendered and given its papers, again and again; then every
document of `tests/verify` is rendered, written and verified with schemas and every validator that is
installed, two at a time, scripts that were seen before not read again (tests/verify/seen_before.py).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.render.host_bundles import HOSTS, PAIR, with_hosts
from tests.render.orders import DISTILLED, EMBEDDED, R1, document
from tests.render.schema_check import schemas
from tests.render.test_kubernetes_hybrid import HYBRID
from tests.verify.seen_before import validators
from tests.verify.test_verify_modes import checked, matrix

from benchmarks import machine, report
from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.processes import stop_cleanly_on_sigterm
from sextant.operations.bundles import render_document
from sextant.operations.verify import verifying
from sextant.operations.verify.findings import Report

MODE_MS = 300.0
MATRIX_S = 60.0
ROUNDS = {"short": 5, "full": 21}
BUILD = Path(".cache/benchmarks")
DELIVERED = {
    "registry": "registry.example.com/llm",
    "repository_url": "https://git.example.com/platform/sextant.git",
}
DOCUMENTS = {
    "on-prem": document("on-prem", **{**with_hosts(DISTILLED, *HOSTS), **PAIR}),
    "private-cloud": document("private-cloud", **R1),
    "hybrid": document("hybrid", **HYBRID),
    "edge": document("edge", **EMBEDDED),
    "container": document("container", **DISTILLED, delivery=DELIVERED),
    "saas": document(
        "saas",
        **DISTILLED,
        delivery={"ingress_host": "llm.example.com"},
        portal={"url": "https://portal.example.com"},
    ),
}


@dataclass(frozen=True)
class Taken:
    """One mode's rounds."""

    mode: str
    files: int
    wall_ms: list[float]
    cpu_ms: list[float]


@dataclass(frozen=True)
class Matrix:
    """The whole matrix, once."""

    documents: int
    clean: int
    wall_s: float
    cpu_s: float


def cpu_s() -> float:
    """Processor time of this process and of the children that it waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time in milliseconds."""
    started_s, cpu_started_s = time.perf_counter(), cpu_s()
    work()
    return (time.perf_counter() - started_s) * 1e3, (cpu_s() - cpu_started_s) * 1e3


def modes(rounds: int, work: Path) -> list[Taken]:
    """Every mode in turn, round after round, so that a busy second meets all alike."""
    places = {mode: work / f"{mode}.yaml" for mode in DOCUMENTS}
    for mode, text in DOCUMENTS.items():
        places[mode].write_text(text)
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in DOCUMENTS}
    files = {mode: len(render_document(place).files) for mode, place in places.items()}
    for _ in range(rounds):
        for mode, place in places.items():
            found[mode].append(timed(lambda place=place: render_document(place)))  # type: ignore[misc]
    return [
        Taken(mode, files[mode], [wall for wall, _ in taken], [cpu for _, cpu in taken])
        for mode, taken in found.items()
    ]


def whole_matrix(work: Path) -> Matrix:
    """Renders, writes and verifies every document, two at a time as the tests do. Schemas are read first."""
    documents = list(matrix())
    schemas()
    verifying.HOST_PROGRAMS = validators()
    place = work / "matrix"
    place.mkdir()
    started_s, cpu_started_s = time.perf_counter(), cpu_s()
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda each: checked(each, place), documents))
    clean = sum(isinstance(each, Report) and not each.faults for each in reports)
    return Matrix(len(documents), clean, time.perf_counter() - started_s, cpu_s() - cpu_started_s)


def goals_of(taken: Sequence[Taken], whole: Matrix) -> list[Goal]:
    return [
        *(
            Goal(f"{each.mode}_ms", median(each.wall_ms) if each.wall_ms else None, MODE_MS, at_least=False)
            for each in taken
        ),
        Goal("matrix_s", whole.wall_s, MATRIX_S, at_least=False),
        Goal("matrix_clean", whole.clean, whole.documents),
    ]


def page(facts: dict[str, Any], taken: Sequence[Taken], whole: Matrix, goals: Sequence[Goal]) -> str:
    """The Markdown page of a run."""
    rows = [
        [each.mode, str(each.files), report.ranged(each.wall_ms, 1), report.ranged(each.cpu_ms, 1)]
        for each in taken
    ]
    return (
        "# Rendering benchmark\n\n"
        + report.machine_list(facts)
        + "\nFrom the document to the bundle's files in memory, planning included: median (low to high).\n\n"
        + report.table(["mode", "files", "ms", "CPU ms"], rows)
        + f"\nThe matrix: {whole.documents} documents rendered, written and verified, {whole.clean} clean, "
        f"in {whole.wall_s:.1f} s ({whole.cpu_s:.1f} s of processor time).\n\n## Goals\n\n"
        + report.goals_table(goals)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=ROUNDS, default="full")
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results")
    options = parser.parse_args()
    stop_cleanly_on_sigterm()
    out = Path(__file__).parent / "results" if options.keep else BUILD
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sextant-bench-"))
    try:
        facts = machine.describe(work) | {"load_average": round(os.getloadavg()[0], 1)}
        taken = modes(ROUNDS[options.form], work)
        whole = whole_matrix(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    goals = goals_of(taken, whole)
    content = {
        "machine": facts,
        "modes": [asdict(each) for each in taken],
        "matrix": asdict(whole),
        "goals": {goal.name: goal.as_json() for goal in goals},
    }
    (out / "render.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "render.md").write_text(page(facts, taken, whole, goals))
    print(page(facts, taken, whole, goals))
    print(last_line("render", {"matrix_cpu_s": round(whole.cpu_s, 1)}, goals))
    return exit_code(goals)


if __name__ == "__main__":
    sys.exit(main())
