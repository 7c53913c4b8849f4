"""Speed that no hardware has is not predicted: the bound of work, bands, tails, and parts of a split."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.planner.bands import MOST
from sextant.planner.calibration import forests
from sextant.planner.memory import memory_use
from sextant.planner.phases import Point, decode_step, prompt, rate_flops_per_s
from sextant.planner.roofline import MOST_COMPUTE_SHARE, Model, predictor, times
from sextant.spec.architecture import Precision
from sextant.spec.calibration import load_calibration
from sextant.spec.facts import load_catalog
from sextant.spec.planning import Engine, Layout, Question, Speed, Workload

CATALOG = load_catalog()
CALIBRATION = load_calibration()
MODEL = Model(calibration=CALIBRATION, trees=forests(CALIBRATION))
PREDICT = predictor(CALIBRATION)


def predicted(question: Question, layout: Layout) -> Speed:
    card = question.accelerators[0]
    use = memory_use(question, layout, card, requests=1)
    return PREDICT(question, layout, card, msgspec.structs.replace(use, requests_fit=4096))


def asked(model: str, accelerator: str, kept: tuple[Engine, Precision], tokens: tuple[int, int]) -> Question:
    return Question(
        architecture=CATALOG.model(model),
        precision=kept[1],
        engine=kept[0],
        accelerators=(CATALOG.accelerator(accelerator),),
        workload=Workload(requests_per_s=1.0, input_tokens=tokens[0], output_tokens=tokens[1]),
    )


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(sorted(CATALOG.models)),
    accelerator=st.sampled_from(sorted(CATALOG.accelerators)),
    kept=st.sampled_from([("vllm", "fp8"), ("sglang", "fp4"), ("llamacpp", "q8"), ("trtllm", "bf16")]),
    layout=st.sampled_from([Layout(), Layout(tp=8), Layout(tp=8, attention_dp=8, ep=8), Layout(tp=4, pp=2)]),
    tokens=st.tuples(st.integers(10, 4000), st.integers(10, 2000)),
)
def test_no_more_is_promised_than_the_work_allows(
    *, model: str, accelerator: str, kept: tuple[Engine, Precision], layout: Layout, tokens: tuple[int, int]
) -> None:
    question = asked(model, accelerator, kept, tokens)
    rate = rate_flops_per_s(question.accelerators[0], kept[1])
    most = predicted(question, layout).requests_per_s_max.value
    operations_per_s = 2 * question.architecture.params_active * sum(tokens) * most
    assert operations_per_s <= MOST_COMPUTE_SHARE * rate * layout.count * 1.001


@pytest.mark.parametrize("accelerator", ["jetson-thor", "cpu-desktop", "raspberry-pi-5", "mi300x", "h200"])
def test_a_band_begins_at_what_is_possible_and_ends_somewhere(accelerator: str) -> None:
    question = asked("r1-distill-qwen-7b", accelerator, ("llamacpp", "q4"), (2048, 512))
    speed = predicted(question, Layout())
    point = Point(
        architecture=question.architecture,
        precision="q4",
        kv_precision=question.kv_precision,
        engine="llamacpp",
        accelerator=question.accelerators[0],
        layout=Layout(),
        concurrency=float(speed.concurrency),
        input_tokens=2048.0,
        output_tokens=512.0,
    )
    least_ms = 1000 * min(prompt(point).compute_s, decode_step(point).weights_s)
    for time in (speed.ttft_ms, speed.tpot_ms):
        assert min(least_ms, time.value) <= time.low <= time.value <= time.high
        assert time.high / time.low <= MOST**2 * 1.001


def test_a_lone_request_waits_for_nobody() -> None:
    question = asked("r1-distill-qwen-1.5b", "raspberry-pi-5", ("llamacpp", "q4"), (200, 30))
    wishes = msgspec.structs.replace(question.wishes, concurrency=1)
    speed = predicted(msgspec.structs.replace(question, wishes=wishes), Layout())
    assert speed.ttft_ms_p99.value == pytest.approx(speed.ttft_ms.value)
    several = msgspec.structs.replace(question, wishes=msgspec.structs.replace(wishes, concurrency=8))
    waiting = predicted(several, Layout())
    assert waiting.ttft_ms_p99.value > waiting.ttft_ms.value


def test_sixteen_times_a_split_deployment_carries_sixteen_times_as_much() -> None:
    question = asked("deepseek-r1", "h20", ("vllm", "fp8"), (2048, 512))
    part = Layout(tp=8)

    def split(prefill: int, decode: int) -> Layout:
        return Layout(
            prefill=msgspec.structs.replace(part, dp=prefill),
            decode=msgspec.structs.replace(part, dp=decode),
        )

    one, many = (predicted(question, split(times, 3 * times)) for times in (1, 16))
    assert many.requests_per_s_max.value == pytest.approx(16 * one.requests_per_s_max.value)


def test_what_is_too_much_for_the_prompts_machines_waits_there() -> None:
    point = Point(
        architecture=CATALOG.model("deepseek-r1"),
        precision="fp8",
        engine="vllm",
        accelerator=CATALOG.accelerator("h20"),
        layout=Layout(tp=8, dp=8),
        prefill=Layout(tp=8),
        concurrency=4000.0,
        input_tokens=8000.0,
        output_tokens=10.0,
    )
    ttft_s, tpot_s = times(MODEL, point)
    rate = point.concurrency / (ttft_s + point.output_tokens * tpot_s)
    assert rate * prompt(point).compute_s == pytest.approx(MOST_COMPUTE_SHARE)


def test_processors_compute_kinds_of_gguf_in_integers() -> None:
    cpu, gpu = CATALOG.accelerator("raspberry-pi-5"), CATALOG.accelerator("h200")
    assert rate_flops_per_s(cpu, "q4") == cpu.flops_per_s.int8 > cpu.flops_per_s.bf16
    assert rate_flops_per_s(cpu, "bf16") == cpu.flops_per_s.bf16
    assert rate_flops_per_s(gpu, "q4") == gpu.flops_per_s.bf16
