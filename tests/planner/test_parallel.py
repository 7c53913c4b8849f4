"""Layouts: what is proposed where and why, splits, and wishes that exclude one another."""

from __future__ import annotations

import pytest

from sextant.planner.parallel import MOST_RANKS, contradictions, replicas, splits, times
from sextant.spec.facts import load_catalog
from sextant.spec.planning import Engine, Layout, Question, Wishes, Workload

CATALOG = load_catalog()
NO_WISHES = Wishes()


def asked(model: str, accelerator: str, wishes: Wishes = NO_WISHES, engine: Engine = "vllm") -> Question:
    return Question(
        architecture=CATALOG.model(model),
        precision="fp8",
        engine=engine,
        accelerators=(CATALOG.accelerator(accelerator),),
        wishes=wishes,
    )


def proposed(
    model: str, accelerator: str, wishes: Wishes = NO_WISHES, engine: Engine = "vllm"
) -> tuple[Layout, ...]:
    return replicas(asked(model, accelerator, wishes, engine), CATALOG.accelerator(accelerator))


@pytest.mark.parametrize("model", sorted(CATALOG.models))
@pytest.mark.parametrize("accelerator", sorted(CATALOG.accelerators))
def test_every_layout_is_possible(model: str, accelerator: str) -> None:
    device, one = CATALOG.accelerator(accelerator), CATALOG.model(model)
    found = proposed(model, accelerator)
    assert found
    for layout in found:
        assert layout.why
        assert layout.dp == 1
        assert layout.replica <= MOST_RANKS
        assert one.heads % layout.attention_tp == 0
        assert layout.tp % layout.attention_dp == 0
        assert layout.ep == 1 or one.experts_routed % layout.ep == 0
        assert layout.tp <= device.domain or layout.attention_tp == 1, "tensor parallelism stays in the link"
    assert [layout.replica for layout in found] == sorted(layout.replica for layout in found)


def test_one_device_is_not_spread() -> None:
    for accelerator, engine in (("Pi-5", "llamacpp"), ("Jetson-Thor", "vllm"), ("H100", "embedded")):
        assert [(one.tp, one.pp) for one in proposed("nano", accelerator, engine=engine)] == [(1, 1)]  # type: ignore[arg-type]


def test_llama_cpp_divides_layers() -> None:
    found = proposed("R1", "RTX-4090", engine="llamacpp")
    assert [(one.tp, one.pp) for one in found] == [(1, 1), (1, 2), (1, 4), (1, 8)]


def test_mla_models_get_attention_dp_and_dense_ones_do_not() -> None:
    assert any(one.attention_dp == one.ep == 8 and "latent" in one.why for one in proposed("R1", "H200"))
    assert all(one.attention_dp == 1 == one.ep for one in proposed("Llama-3.1-70B", "H200"))
    assert all(one.attention_dp == 1 for one in proposed("Qwen3-235B-A22B", "H200"))


def test_experts_go_over_nodes_and_racks() -> None:
    assert (32, 32) in [(one.tp, one.ep) for one in proposed("R1", "H100")]
    assert (64, 1) in [(one.tp, one.ep) for one in proposed("R1", "GB200")]
    assert not any(one.pp > 1 for one in proposed("R1", "GB200")), "the link joins the whole rack"


@pytest.mark.parametrize(
    ("wishes", "fields"),
    [
        (Wishes(tp=4), {"tp": 4}),
        (Wishes(pp=3), {"pp": 3, "tp": 8}),
        (Wishes(ep=16), {"ep": 16}),
        (Wishes(tp=8, attention_dp=4), {"tp": 8, "attention_dp": 4, "ep": 8}),
        (Wishes(attention_dp=8), {"attention_dp": 8}),
        (Wishes(tp=4, pp=2), {"tp": 4, "pp": 2}),
    ],
)
def test_wishes_are_kept(wishes: Wishes, fields: dict[str, int]) -> None:
    found = proposed("R1", "H200", wishes)
    assert found
    for layout in found:
        assert {name: getattr(layout, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("wishes", "key"),
    [
        (Wishes(count=9, tp=8), "count"),
        (Wishes(count=16, most=8), "most"),
        (Wishes(tp=8, dp=2, most=8), "most"),
        (Wishes(tp=8, attention_dp=3), "attention_dp"),
        (Wishes(tp=8, ep=3), "ep"),
        (Wishes(tp=3), "tp"),
        (Wishes(pp=62), "pp"),
        (Wishes(split=True, count=1), "split"),
        (Wishes(context_tokens=200_000), "context"),
    ],
)
def test_contradictions_are_named(wishes: Wishes, key: str) -> None:
    found = contradictions(asked("R1", "H200", wishes))
    assert [one.key for one in found] == [key]
    assert found[0].text


def test_a_dense_model_has_no_experts_to_divide() -> None:
    assert [one.key for one in contradictions(asked("Llama-3.1-8B", "H200", Wishes(ep=8)))] == ["ep"]


def test_possible_wishes_contradict_nothing() -> None:
    wishes = Wishes(count=16, tp=8, pp=1, dp=2, ep=8, attention_dp=8, split=True, most=16)
    assert contradictions(asked("R1", "H200", wishes)) == ()
    assert contradictions(asked("R1", "H200")) == ()


def test_splits_try_every_proportion_and_multiply() -> None:
    found = splits(Layout(tp=8), Layout(tp=4), replicas=4)
    assert [(one.prefill and one.prefill.dp, one.decode and one.decode.dp) for one in found] == [
        (1, 3),
        (2, 2),
        (3, 1),
    ]
    assert [one.count for one in found] == [4 + 24, 8 + 16, 12 + 8]
    assert times(found[0], 3).count == 3 * found[0].count
    assert times(Layout(tp=8, dp=2), 3).count == 48
    assert splits(Layout(), Layout(), replicas=1) == ()


def test_the_workload_s_own_length_can_be_too_long() -> None:
    question = Question(
        architecture=CATALOG.model("llama-65b"),
        precision="bf16",
        accelerators=(CATALOG.accelerator("A100"),),
        workload=Workload(input_tokens=2000, output_tokens=100),
    )
    assert [one.key for one in contradictions(question)] == ["context"]
