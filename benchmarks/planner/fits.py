"""What fits and does not, as documented and as planned: `python -m benchmarks.planner.fits [POINTS.csv]`.

Exit code 1 where a documented case comes out otherwise. The cases with their sources: `data/fits.toml`. With
points, every aggregated layout that was measured is a case too: it ran, so it fits.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal, exit_code, last_line
from benchmarks.planner.page import keep_section
from benchmarks.planner.points import read
from sextant.planner.memory import memory_use, training_accelerators
from sextant.spec.facts import Catalog, load_catalog
from sextant.spec.planning import Layout, MemoryUse, Question, Workload

DATA = Path(__file__).parent / "data/fits.toml"
GB = 1e9


def serving(case: dict[str, Any], catalog: Catalog) -> MemoryUse:
    """Memory of the fullest accelerator with one request of the default lengths for each replica."""
    accelerator = catalog.accelerator(case["accelerator"])
    layout = Layout(**{name: case.get(name, 1) for name in ("tp", "pp", "attention_dp", "ep")})
    question = Question(
        architecture=catalog.model(case["model"]),
        precision=case["precision"],
        engine=case.get("engine", "vllm"),
        accelerators=(accelerator,),
    )
    return memory_use(question, layout, accelerator)


def table() -> tuple[str, int]:
    """The cases with verdicts, and how many come out otherwise than documented."""
    catalog, cases = load_catalog(), tomllib.loads(DATA.read_text(encoding="utf-8"))
    wrong = 0
    lines = [
        "| model | precision | on | documented | planner: weights / memory, GB each | verdict | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases["serving"]:
        use = serving(case, catalog)
        right = use.fits is case["fits"]
        wrong += not right
        count = case["tp"] * case.get("pp", 1)
        lines.append(
            f"| {case['model']} | {case['precision']} | {count} × {case['accelerator']} "
            f"| {'fits' if case['fits'] else 'does not fit'} | {'fits' if use.fits else 'does not fit'}: "
            f"{use.weights_bytes / GB:.0f} / {use.capacity_bytes / GB:.0f} "
            f"| {'right' if right else 'wrong'} | {case['source']} |"
        )
    for case in cases["training"]:
        model, accelerator = catalog.model(case["model"]), catalog.accelerator(case["accelerator"])
        needed = training_accelerators(model, accelerator)
        right = needed == case["accelerators"]
        wrong += not right
        lines.append(
            f"| {case['model']} | trained whole | {accelerator.id} | takes {case['accelerators']} "
            f"| takes {needed} | {'right' if right else 'wrong'} | {case['source']} |"
        )
    total = len(cases["serving"]) + len(cases["training"])
    lines.append(f"\n{total - wrong} of {total} right (goal: all: {'missed' if wrong else 'met'}).")
    return "\n".join(lines), wrong


def measured(points: Path) -> str:
    """How many layouts of measured aggregated points the planner says fit, and which it does not."""
    found: dict[tuple[object, ...], str] = {}
    for one in read(points, load_catalog()):
        point = one.point
        if point.prefill is not None:
            continue
        question = Question(
            architecture=point.architecture,
            precision=point.precision,
            engine=point.engine,
            accelerators=(point.accelerator,),
            workload=Workload(
                input_tokens=round(point.input_tokens), output_tokens=round(point.output_tokens)
            ),
        )
        broken = memory_use(question, point.layout, point.accelerator).first_break
        found[one.configuration] = (
            f"{point.layout.tp} × {point.accelerator.id}: {broken.text}" if broken else ""
        )
    lines = [f"{sum(not text for text in found.values())} of {len(found)} measured layouts fit. Not:", ""]
    lines += [f"- {key[1]} {key[3]} with {key[0]} on {text}" for key, text in found.items() if text]
    return "\n".join(lines)


def main() -> int:
    """Prints the tables; with `--keep` adds them to `benchmarks/results/planner.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", type=Path, nargs="?")
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    text, wrong = table()
    if asked.points:
        text = f"{text}\n\n{measured(asked.points)}"
    print(text)
    if asked.keep:
        keep_section("What fits", text)
    goals = [Goal("documented cases that come out otherwise", wrong, 0, at_least=False)]
    print(last_line("planner-fits", {"wrong": wrong}, goals))
    return exit_code(goals)


if __name__ == "__main__":
    raise SystemExit(main())
