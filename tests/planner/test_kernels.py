"""Kernels that no point shows: their figures follow from what was published, and where they count."""

from __future__ import annotations

import math

import msgspec
import pytest

from sextant.planner.calibration import forests
from sextant.planner.kernels import Extra, extra
from sextant.planner.phases import Point
from sextant.planner.roofline import Model, step_s, times
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import load_catalog
from sextant.spec.kernels import load_kernels
from sextant.spec.planning import Layout

CATALOG = load_catalog()
KERNELS = load_kernels()
CALIBRATION = load_calibration()
MODEL = Model(calibration=CALIBRATION, trees=forests(CALIBRATION))
TP8 = Layout(tp=8)
AWQ = Point(
    architecture=CATALOG.model("V3"),
    precision="int4",
    engine="vllm",
    accelerator=CATALOG.accelerator("A100-80"),
    layout=TP8,
    concurrency=1.0,
    input_tokens=128.0,
    output_tokens=256.0,
    engine_age_months=14.0,
)
SPARSE = msgspec.structs.replace(
    AWQ,
    architecture=CATALOG.model("V3.2"),
    precision="fp8",
    accelerator=CATALOG.accelerator("H200"),
    input_tokens=4096.0,
    engine_age_months=0.0,
)


@pytest.mark.parametrize("name", sorted(KERNELS.experts))
def test_a_kernel_s_figures_say_what_was_measured(name: str) -> None:
    kernel = KERNELS.experts[name]
    of_it = msgspec.structs.replace(
        AWQ,
        accelerator=CATALOG.accelerator(kernel.accelerator),
        engine_age_months=kernel.least_age_months,
    )
    misses = []
    for batch, tokens_per_s in kernel.measured.items():
        seconds = step_s(MODEL, msgspec.structs.replace(of_it, concurrency=float(batch)))
        misses.append(abs(math.log(float(batch) / seconds / tokens_per_s)))
    assert math.exp(sum(misses) / len(misses)) < 1.1
    assert max(misses) < math.log(1.3)


def test_the_oldest_kernel_that_an_engine_can_have_counts() -> None:
    triton, cuda, marlin = (
        extra(msgspec.structs.replace(AWQ, engine_age_months=age), KERNELS) for age in (14.0, 13.0, 12.0)
    )
    assert triton.step_s > cuda.step_s > 0
    assert triton.sources != cuda.sources
    assert marlin == Extra()


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "fp8"},
        {"engine": "sglang"},
        {"architecture": CATALOG.model("Llama-3.1-70B")},
        {"engine_age_months": 0.0},
    ],
)
def test_nothing_else_is_slowed_down(other: dict[str, object]) -> None:
    assert extra(msgspec.structs.replace(AWQ, **other), KERNELS) == Extra()


def test_sparse_attention_under_vllm_wants_whole_groups_of_heads() -> None:
    spread = msgspec.structs.replace(SPARSE, layout=Layout(tp=8, attention_dp=8, ep=8))
    padded, whole = extra(SPARSE, KERNELS), extra(spread, KERNELS)
    assert padded.step_s > 0
    assert whole.step_s == 0, "128 heads on each rank: nothing is filled up"
    assert padded.prompt_s > 0
    assert extra(msgspec.structs.replace(SPARSE, engine="sglang"), KERNELS) == Extra()


def test_filled_up_heads_cost_as_many_operations_as_they_are() -> None:
    kernel = KERNELS.attention["vllm-flashmla-sparse"]
    loaded = msgspec.structs.replace(SPARSE, concurrency=100.0)
    operations = 100 * (64 - 16) * 2 * (512 + 64 + 512) * 2048 * 61
    rate = CATALOG.accelerator("H200").flops_per_s.bf16
    assert extra(loaded, KERNELS).step_s == pytest.approx(operations / (kernel.decode_share * rate))


def test_prompts_of_others_are_slow_too() -> None:
    lone, loaded = SPARSE, msgspec.structs.replace(SPARSE, concurrency=64.0)
    bare = msgspec.structs.replace(CALIBRATION, kernels=type(CALIBRATION.kernels)())
    without = Model(calibration=bare, trees=MODEL.trees)
    more = [times(MODEL, point)[1] - times(without, point)[1] for point in (lone, loaded)]
    steps = [extra(point, KERNELS).step_s for point in (lone, loaded)]
    assert more[0] == pytest.approx(steps[0])
    assert more[1] == pytest.approx(steps[1] + 63 / 256 * extra(loaded, KERNELS).prompt_s)
