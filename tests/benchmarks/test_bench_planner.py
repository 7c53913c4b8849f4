"""The planner's benchmark: what it keeps, and whom it believes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from benchmarks.planner import page, speed

ROOT = Path(__file__).parents[2]


def test_a_section_is_written_in_its_place_and_others_stay(tmp_path: Path) -> None:
    table = tmp_path / "planner.md"
    for title, text in (("One", "first"), ("Two", "second\n"), ("One", "first again")):
        page.keep_section(title, text, table)
    assert table.read_text() == f"{page.HEAD}\n## One\n\nfirst again\n\n## Two\n\nsecond\n"


def test_the_committed_page_names_the_command_that_makes_it_and_has_every_section() -> None:
    text = page.TABLE.read_text()
    assert text.startswith(page.HEAD)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Serving points",
        "## Published throughput",
        "## What fits",
    ]


def test_the_peer_s_rows_are_those_of_one_file() -> None:
    told = json.loads((ROOT / "benchmarks/planner/data/aiconfigurator_points.json").read_text())
    slice_of_it = ROOT / "benchmarks/planner/data/serving_points.csv"
    assert told["points_sha256"] != hashlib.sha256(slice_of_it.read_bytes()).hexdigest()
    assert all({"ttft_ms", "tpot_ms"} <= one.keys() or "refused" in one for one in told["answers"].values())


def test_a_plan_s_median_is_held_against_what_is_promised_of_it() -> None:
    found = {
        "one plan, in process": [0.1, 0.2, 0.9],
        "one plan, whole command": [0.4, 0.5, 0.1],
        "sextant version, whole command": [9.0, 9.0, 9.0],
    }
    goals = speed.goals_of(found)
    assert [(goal.name, goal.figure, goal.verdict) for goal in goals] == [
        ("one plan, in process, s", 0.2, "met"),
        ("one plan, whole command, s", 0.4, "missed"),
    ]


def test_what_is_timed_is_a_plan_with_options() -> None:
    assert speed.one_plan().plan.options
    kinds = {option.accelerator.id for option in speed.sweep().plan.options}
    assert {"h200", "mi300x", "ascend-910c"} <= kinds
