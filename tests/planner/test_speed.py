"""Speed: physics, the trees, bands, and what a layout carries."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from benchmarks.planner.own_points import own_points
from benchmarks.planner.points import read
from benchmarks.planner.published import table

from sextant.base.errors import Misconfigured
from sextant.planner import bands
from sextant.planner.calibration import baseline, features, forests, walk
from sextant.planner.communication import all_reduce_s, all_to_all_s
from sextant.planner.memory import memory_use
from sextant.planner.phases import Point, cache_read_bytes, decode_step, experts_touched, prompt
from sextant.planner.roofline import Model, predictor, times
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import load_catalog
from sextant.spec.planning import Layout, Question, Speed, Targets, Workload

CATALOG = load_catalog()
CALIBRATION = load_calibration()
MODEL = Model(calibration=CALIBRATION, trees=forests(CALIBRATION))
SLICE = Path(__file__).parents[2] / "benchmarks/planner/data/serving_points.csv"
TP8 = Layout(tp=8)


def point(**changes: object) -> Point:
    """R1 in FP8 on eight H200."""
    base = Point(
        architecture=CATALOG.model("deepseek-r1"),
        precision="fp8",
        engine="vllm",
        accelerator=CATALOG.accelerator("h200"),
        layout=TP8,
        concurrency=32,
        input_tokens=1024,
        output_tokens=1024,
    )
    return msgspec.structs.replace(base, **changes)


def speed(
    layout: Layout = TP8, accelerator: str = "h200", targets: Targets | None = None, **load: float
) -> Speed:
    card = CATALOG.accelerator(accelerator)
    question = Question(
        architecture=CATALOG.model("deepseek-r1"),
        precision="fp8",
        kv_precision="fp8",
        accelerators=(card,),
        workload=Workload(**{"requests_per_s": 1.0, **load}),  # type: ignore[arg-type]
        targets=targets or Targets(),
    )
    use = memory_use(question, layout, card, requests=1)
    return predictor(CALIBRATION)(question, layout, card, use)


def test_a_ring_moves_its_bytes_twice_and_an_exchange_once() -> None:
    card = CATALOG.accelerator("h200")
    assert all_reduce_s(450e9, 8, card) == pytest.approx(2 * 7 / 8 * 450e9 / card.link_bytes_per_s)
    assert all_to_all_s(450e9, 8, card) == pytest.approx(7 / 8 * 450e9 / card.link_bytes_per_s)
    assert all_reduce_s(1e9, 1, card) == all_to_all_s(1e9, 1, card) == 0.0
    assert all_reduce_s(1e9, 16, card) > 2 * all_reduce_s(1e9, 8, card), "between nodes the network is slower"


def test_one_token_reaches_the_active_experts_and_many_reach_all() -> None:
    model = CATALOG.model("deepseek-r1")
    assert experts_touched(model, 1) == pytest.approx(8)
    assert experts_touched(model, 1e4) == pytest.approx(256)
    assert experts_touched(CATALOG.model("llama-3_1-8b"), 10) == 0


def test_the_cache_that_a_step_reads_is_the_published_size() -> None:
    assert cache_read_bytes(CATALOG.model("deepseek-r1"), 1, 2.0) == 70_272
    assert cache_read_bytes(CATALOG.model("llama-3_1-8b"), 1, 2.0) == 131_072
    v3_2 = CATALOG.model("deepseek-v3_2")
    assert cache_read_bytes(v3_2, 65_536, 1.0) < 0.3 * cache_read_bytes(
        CATALOG.model("deepseek-v3"), 65_536, 1.0
    )
    v4 = CATALOG.model("deepseek-v4-flash")
    assert 0 < cache_read_bytes(v4, 65_536, 1.0) < cache_read_bytes(v3_2, 65_536, 1.0)


def test_a_step_of_one_request_reads_the_active_weights() -> None:
    step = decode_step(point(concurrency=1, layout=Layout(tp=1)))
    assert 35e9 < step.weights_s * 4.8e12 < 42e9, "37.6 billion parameters are active, one byte each"
    assert step.links_s == 0


def test_pipeline_stages_share_no_latency() -> None:
    one, two = decode_step(point(concurrency=1)), decode_step(point(concurrency=1, layout=Layout(tp=8, pp=2)))
    assert two.weights_s == pytest.approx(one.weights_s)


def test_what_the_prefix_cache_holds_is_not_computed() -> None:
    assert prompt(point(prefix_hit_share=0.5)).compute_s < 0.6 * prompt(point()).compute_s


@pytest.mark.parametrize("line", ["", "x", "[3,1.0,0.5]", "0.5 0.5", '["y",1,0,0]', "[3,1,0,[4,1,0]]"])
def test_a_line_that_is_no_tree_is_refused(line: str) -> None:
    target = msgspec.structs.replace(CALIBRATION.targets["tpot"], correction=line or " ")
    with pytest.raises(Misconfigured, match="calibration"):
        forests(msgspec.structs.replace(CALIBRATION, targets={"tpot": target}))


def test_a_tree_is_walked_to_its_leaf() -> None:
    target = msgspec.structs.replace(CALIBRATION.targets["tpot"], correction="[1,2,10,[0,5,20,30]]")
    trees = forests(msgspec.structs.replace(CALIBRATION, targets={"t": target}))["t"].correction
    assert [walk(trees, [a, b]) for a, b in ((0, 2), (5, 3), (6, 3))] == [10, 20, 30]


def test_shipped_points_come_back_near_what_was_measured() -> None:
    """They are among those fitted to, so this shows that the file and the walk agree, not how good it is."""
    points = read(SLICE, CATALOG)
    errors = [abs(math.log(times(MODEL, one.point)[1] * 1000 / one.tpot_ms)) for one in points]
    untaught = [abs(math.log(baseline(one.point).tpot_s * 1000 / one.tpot_ms)) for one in points]
    assert math.exp(sum(errors) / len(errors)) < 1.25
    assert sum(errors) < 0.6 * sum(untaught)


def test_bands_hold_most_shipped_points_and_contain_the_value() -> None:
    inside = []
    for one in read(SLICE, CATALOG):
        values = features(one.point, baseline(one.point))
        low, high = bands.factors(values, MODEL.trees["tpot"], CALIBRATION.targets["tpot"])
        assert low <= 1 <= high
        ratio = one.tpot_ms / 1000 / times(MODEL, one.point)[1]
        inside.append(low <= ratio <= high)
    assert sum(inside) / len(inside) > 0.75


def test_hardware_without_points_is_derived_wider_and_says_so() -> None:
    known, unknown = speed(), speed(accelerator="mi300x")
    assert known.tpot_ms.basis == "calibrated"
    assert unknown.tpot_ms.basis == "derived"
    assert unknown.tpot_ms.high / unknown.tpot_ms.low > known.tpot_ms.high / known.tpot_ms.low
    assert any("no measured point" in one for one in unknown.warnings)


def test_an_unseen_model_widens_too() -> None:
    unseen = sorted(set(CATALOG.models) - set(CALIBRATION.seen.models) - set(CALIBRATION.seen.only))
    here = point(architecture=CATALOG.model(unseen[0]))
    assert bands.basis(here, CALIBRATION) == "derived"
    assert bands.widening(here, CALIBRATION) == CALIBRATION.derived_model > 1
    assert bands.widening(point(), CALIBRATION) == 1


def test_a_model_of_few_points_is_known_in_their_way_only() -> None:
    seen = CALIBRATION.seen.only["r1-distill-qwen-32b"]
    assert seen == ("vllm/bf16/hopper/tp1",)
    model = CATALOG.model("r1-distill-qwen-32b")
    alone = Layout(tp=1)
    here = point(architecture=model, engine="vllm", precision="bf16", layout=alone)
    assert bands.basis(here, CALIBRATION) == "calibrated"
    assert bands.widening(here, CALIBRATION) == 1
    for other in (
        point(architecture=model, engine="vllm", precision="bf16", layout=Layout(tp=2)),
        point(architecture=model, engine="sglang", precision="bf16", layout=alone),
        point(architecture=model, engine="vllm", precision="fp8", layout=alone),
        point(architecture=model, engine="vllm", precision="bf16", accelerator=CATALOG.accelerator("b200")),
    ):
        assert bands.basis(other, CALIBRATION) == "derived"
        assert bands.widening(other, CALIBRATION) == CALIBRATION.derived_model


def test_models_that_fit_one_card_are_predicted_as_they_were_measured() -> None:
    """Learnt from, so this holds the calibration in the package to the points beside it."""
    errors: list[float] = []
    for one in own_points(CATALOG):
        ttft_s, tpot_s = times(MODEL, one.point)
        errors.append(abs(math.log(tpot_s * 1000 / one.tpot_ms)))
        assert 1 / 4 < ttft_s * 1000 / one.ttft_ms < 4
    assert len(errors) == 36
    assert math.exp(sum(errors) / len(errors)) < 1.25


def test_two_replicas_carry_exactly_twice_as_much() -> None:
    one, two = speed(), speed(Layout(tp=8, dp=2))
    assert two.requests_per_s_max.value == pytest.approx(2 * one.requests_per_s_max.value)


def test_a_tighter_target_never_carries_more_and_an_impossible_one_nothing() -> None:
    rates = [
        speed(targets=Targets(tpot_ms_p99=limit)).requests_per_s_max.value
        for limit in (0.01, 12, 25, 50, 500)
    ]
    assert rates[0] == 0
    assert rates == sorted(rates)
    assert speed(targets=Targets(ttft_ms_p99=0.1)).requests_per_s_max.value == 0
    assert speed(targets=Targets(end_to_end_ms=1)).requests_per_s_max.value == 0


def test_as_many_are_in_flight_as_the_load_takes() -> None:
    for wanted in (0.3, 1.1, 2.7, 4.0, 5.5):
        found = speed(requests_per_s=wanted)
        held_s = (found.ttft_ms.value + 512 * found.tpot_ms.value) / 1000
        assert found.concurrency - 1.5 < wanted * held_s <= found.concurrency * 1.0001


def test_more_load_is_never_faster_for_each() -> None:
    light, heavy = speed(requests_per_s=0.1), speed(requests_per_s=5.0)
    assert heavy.tpot_ms.value >= light.tpot_ms.value
    assert heavy.concurrency > light.concurrency
    assert heavy.ttft_ms_p99.value >= heavy.ttft_ms.value


def test_prefill_apart_from_decode_is_predicted_whole() -> None:
    split = Layout(prefill=Layout(tp=8, dp=2), decode=Layout(tp=8))
    found = speed(split)
    assert found.requests_per_s_max.value > 0
    assert found.tpot_ms.low < found.tpot_ms.value < found.tpot_ms.high


def test_published_rows_stay_as_near_as_they_were() -> None:
    _, scores = table()
    assert scores["geometric"] < 1.75
    assert scores["left_out"] < 1.5
