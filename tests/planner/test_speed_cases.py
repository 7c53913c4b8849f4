"""Speed: what remembering predictions may not change, the cache's room, points read once, what fits."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import msgspec
import pytest
from benchmarks.planner import fits
from benchmarks.planner.points import read
from benchmarks.planner.published import left_out

from sextant.planner import roofline
from sextant.planner.calibration import forests
from sextant.planner.phases import Point, cache_filled
from sextant.planner.roofline import Model, times
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import load_catalog
from sextant.spec.planning import Layout

CATALOG = load_catalog()
CALIBRATION = load_calibration()
TREES = forests(CALIBRATION)
SLICE = Path(__file__).parents[2] / "benchmarks/planner/data/serving_points.csv"
POINT = Point(
    architecture=CATALOG.model("deepseek-r1"),
    precision="fp8",
    engine="vllm",
    accelerator=CATALOG.accelerator("h200"),
    layout=Layout(tp=8),
    concurrency=32,
    input_tokens=1024,
    output_tokens=1024,
)


def fresh() -> Model:
    return Model(calibration=CALIBRATION, trees=TREES)


@pytest.mark.parametrize(
    "changes",
    [
        {"concurrency": 33.0},
        {"input_tokens": 2048.0},
        {"output_tokens": 512.0},
        {"prefix_hit_share": 0.5},
        {"engine": "sglang"},
        {"precision": "fp4"},
        {"kv_precision": "bf16"},
        {"engine_age_months": 9.0},
        {"layout": Layout(tp=4)},
        {"prefill": Layout(tp=4)},
        {"accelerator": CATALOG.accelerator("b200")},
        {"architecture": CATALOG.model("deepseek-v3_2")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_remembered_prediction_is_of_that_very_load(changes: dict[str, object]) -> None:
    other = msgspec.structs.replace(POINT, **changes)
    used = fresh()
    times(used, POINT)
    assert times(used, other) == times(fresh(), other)
    assert times(used, POINT) == times(fresh(), POINT)
    assert len(used.known) == 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "MOST_KNOWN", 4)
    used = fresh()
    for concurrency in range(1, 10):
        one = msgspec.structs.replace(POINT, concurrency=float(concurrency))
        assert times(used, one) == times(fresh(), one)
        assert len(used.known) <= 4


def test_the_cache_fills_with_requests_and_less_with_more_room() -> None:
    twice = msgspec.structs.replace(POINT, concurrency=64)
    assert cache_filled(twice) == pytest.approx(2 * cache_filled(POINT))
    larger = msgspec.structs.replace(POINT, accelerator=CATALOG.accelerator("b300"))
    assert 0 < cache_filled(larger) < cache_filled(POINT) < 1
    apart = msgspec.structs.replace(POINT, layout=Layout(tp=8, attention_dp=8, ep=8))
    assert cache_filled(apart) < 0.5 * cache_filled(POINT)
    none = msgspec.structs.replace(POINT, accelerator=CATALOG.accelerator("l4"))
    assert cache_filled(none) > 1, "weights alone fill it, and the room stays above nothing"


def test_a_measurement_that_stands_twice_is_read_once(tmp_path: Path) -> None:
    with SLICE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "agg"]
    row = rows[0]
    cut = {**row, "silicon_ttft_ms": f"{float(row['silicon_ttft_ms']) * 1.0004:.6f}"}
    other = {**row, "silicon_ttft_ms": f"{float(row['silicon_ttft_ms']) * 1.01:.6f}"}
    slower = {**row, "silicon_tpot_ms": f"{float(row['silicon_tpot_ms']) * 1.01:.6f}"}
    path = tmp_path / "points.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows([row, cut, other, slower])
    assert [one.row for one in read(path, CATALOG)] == [0, 2, 3]


def test_ages_are_months_before_the_newest_points() -> None:
    ages = {one.point.engine_age_months for one in read(SLICE, CATALOG)}
    assert min(ages) >= 0 and max(ages) <= 12
    assert len(ages) > 3


def test_documented_cases_fit_or_not_as_documented() -> None:
    text, wrong = fits.table()
    assert wrong == 0, text
    assert "does not fit" in text and "takes 16" in text


def test_measured_layouts_fit_but_for_what_is_recorded_impossibly() -> None:
    first = fits.measured(SLICE).splitlines()[0]
    right, of = int(first.split()[0]), int(first.split()[2])
    assert of > 30
    assert right >= 0.95 * of, first


def test_leaving_a_row_out_uses_the_others_and_not_itself() -> None:
    told: list[tuple[object, ...]] = [("a",)] * 5
    shared = left_out([math.log(2)] * 5, told)
    assert all(abs(one) < 0.2 for one in shared), "five rows that agree explain each other"
    lone = left_out([0.0, 0.0, 0.0, 0.0, math.log(4)], told)
    assert lone[4] == pytest.approx(math.log(4)), "what is only true of a row cannot explain it"
