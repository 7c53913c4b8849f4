"""Memory by part: the formulas, the documented cases, and that more memory never fits less."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.planner.memory import (
    BITS,
    GIB,
    OVERHEADS,
    cache_bytes,
    cache_on_rank,
    memory_use,
    training_accelerators,
    weights_bytes,
    weights_on_rank,
)
from sextant.spec.architecture import PRECISIONS, KvPrecision, Precision
from sextant.spec.facts import load_catalog
from sextant.spec.planning import Engine, Layout, MemoryUse, Question, Wishes, Workload

CATALOG = load_catalog()
ONE = Layout()
MODELS = sorted(CATALOG.models)


def use_of(
    model: str, precision: Precision, accelerator: str, layout: Layout = ONE, **more: object
) -> MemoryUse:
    device = CATALOG.accelerator(accelerator)
    question = Question(
        architecture=CATALOG.model(model),
        precision=precision,
        accelerators=(device,),
        **more,  # type: ignore[arg-type]
    )
    return memory_use(question, layout, device)


@pytest.mark.parametrize(
    ("model", "precision", "bytes_per_token"),
    [
        ("V2-Lite", "bf16", 31_104),
        ("V2", "bf16", 69_120),
        ("R1", "bf16", 70_272),
        ("V3.2", "fp8", 61 * (656 + 132)),
        ("DeepSeek-R1-Distill-Qwen-1.5B", "bf16", 28_672),
        ("DeepSeek-R1-Distill-Qwen-7B", "bf16", 57_344),
        ("DeepSeek-R1-Distill-Llama-8B", "bf16", 131_072),
        ("DeepSeek-R1-Distill-Qwen-14B", "bf16", 196_608),
        ("DeepSeek-R1-Distill-Qwen-32B", "bf16", 262_144),
        ("DeepSeek-R1-Distill-Llama-70B", "bf16", 327_680),
    ],
)
def test_the_cache_follows_the_model_s_own_formula(
    model: str, precision: KvPrecision, bytes_per_token: int
) -> None:
    assert cache_bytes(CATALOG.model(model), precision, 1000) == 1000 * bytes_per_token


@pytest.mark.parametrize(("model", "about"), [("V4-Flash", 3200), ("V4-Pro", 4600)])
def test_v4_compresses_its_cache(model: str, about: int) -> None:
    per_token = cache_bytes(CATALOG.model(model), "fp8", 131_072) / 131_072
    assert per_token == pytest.approx(about, rel=0.04)
    short = cache_bytes(CATALOG.model(model), "fp8", 64) / 64
    assert short > 4 * per_token, "a short context is all window"


def test_only_windowed_layers_stop_growing() -> None:
    gpt = CATALOG.model("gpt-oss-120b")
    of_head = 2 * 8 * 64 * 2
    assert cache_bytes(gpt, "bf16", 100) == of_head * 36 * 100
    assert cache_bytes(gpt, "bf16", 1000) == of_head * (18 * 1000 + 18 * 128)


def test_tensor_parallelism_shares_gqa_up_to_its_heads_and_never_mla() -> None:
    llama, r1 = CATALOG.model("Llama-3.1-70B"), CATALOG.model("R1")
    whole = cache_bytes(llama, "bf16", 1000)
    assert cache_on_rank(llama, "bf16", Layout(tp=4), 1000) == whole // 4
    assert cache_on_rank(llama, "bf16", Layout(tp=8), 1000) == whole // 8
    assert cache_on_rank(llama, "bf16", Layout(tp=16), 1000) == whole // 8
    assert cache_on_rank(r1, "bf16", Layout(tp=8), 1000) == cache_bytes(r1, "bf16", 1000)
    assert cache_on_rank(r1, "bf16", Layout(tp=8, pp=2), 1000) == 31 * 576 * 2 * 1000


def test_attention_dp_divides_requests_instead() -> None:
    wishes = Wishes(concurrency=64, context_tokens=8192)
    shared = use_of("R1", "fp8", "H200", Layout(tp=8), wishes=wishes)
    divided = use_of("R1", "fp8", "H200", Layout(tp=8, attention_dp=8, ep=8), wishes=wishes)
    assert divided.kv_cache_bytes * 8 == shared.kv_cache_bytes
    assert divided.requests_fit > 4 * shared.requests_fit
    assert divided.weights_bytes > shared.weights_bytes, "attention weights are held by every rank"


@pytest.mark.parametrize(
    ("model", "precision", "accelerator", "layout", "fits"),
    [
        ("R1", "fp8", "H100", Layout(tp=8), False),
        ("R1", "fp8", "H200", Layout(tp=8), True),
        ("R1", "fp8", "H100", Layout(tp=8, pp=2), True),
        ("R1", "fp8", "H20", Layout(tp=8), True),
        ("R1", "fp8", "MI300X", Layout(tp=8), True),
        ("R1", "bf16", "H200", Layout(tp=8), False),
        ("R1", "bf16", "H200", Layout(tp=8, pp=2), True),
        ("R1", "int4", "H100", Layout(tp=8), True),
        ("R1", "int4", "A100-80", Layout(tp=8), True),
        ("R1", "int4", "L40S", Layout(tp=8), False),
        ("DeepSeek-R1-Distill-Qwen-7B", "bf16", "A100-80", Layout(), True),
        ("LLaMA-65B", "bf16", "A100-80", Layout(), False),
        ("DeepSeek-R1-Distill-Llama-70B", "bf16", "H100", Layout(), False),
        ("DeepSeek-R1-Distill-Llama-70B", "bf16", "H100", Layout(tp=4), True),
        ("DeepSeek-R1-Distill-Llama-70B", "int4", "H100", Layout(), True),
        ("V4-Flash", "fp4", "H100", Layout(tp=4), True),
        ("V4-Flash", "fp4", "H100", Layout(tp=2), False),
        ("V4-Pro", "fp4", "B200", Layout(tp=8), True),
        ("V4-Pro", "fp4", "H200", Layout(tp=4), False),
        ("DeepSeek-R1-Distill-Qwen-32B", "bf16", "RTX-4090", Layout(), False),
        ("DeepSeek-R1-Distill-Qwen-7B", "int4", "RTX-4090", Layout(), True),
        ("V4-Flash", "q2", "Jetson-Thor", Layout(), True),
        ("R1", "q4", "CPU", Layout(), True),
    ],
)
def test_documented_cases(
    model: str, precision: Precision, accelerator: str, layout: Layout, fits: bool
) -> None:
    engine: Engine = "llamacpp" if precision in ("q4", "q2") else "vllm"
    use = use_of(model, precision, accelerator, layout, engine=engine)
    assert use.fits is fits, use


@pytest.mark.parametrize(
    ("model", "accelerator", "all_weights", "lora"),
    [
        ("LLaMA-65B", "A100-80", 16, 2),  # the rule of sixteen cards
        ("DeepSeek-R1-Distill-Qwen-7B", "A100-80", 2, 1),
        ("R1", "H200", 80, 16),
        ("sextant-nano", "Pi-5", 1, 1),
    ],
)
def test_fine_tuning_takes_what_is_documented(
    model: str, accelerator: str, all_weights: int, lora: int
) -> None:
    known, card = CATALOG.model(model), CATALOG.accelerator(accelerator)
    assert training_accelerators(known, card) == all_weights
    assert training_accelerators(known, card, lora=True) == lora


def test_65b_has_room_for_three_requests_on_two_cards_and_for_many_on_four() -> None:
    load = Workload(input_tokens=1024, output_tokens=1024)
    two, four = (
        use_of("LLaMA-65B", "bf16", "A100-80", Layout(tp=tp), workload=load).requests_fit for tp in (2, 4)
    )
    assert two == 3 and four > 20


def test_nano_fits_a_raspberry_pi_many_times() -> None:
    work = Workload(input_tokens=500, output_tokens=500)
    use = use_of("sextant-nano", "q8", "Pi-5", engine="embedded", workload=work)
    assert use.fits
    assert use.weights_bytes == pytest.approx(18_806_784, abs=2)
    assert use.tokens_fit == 4096
    assert use.requests_fit > 1000


def test_measured_checkpoints_win_over_ideal_sizes() -> None:
    r1 = CATALOG.model("R1")
    assert weights_bytes(r1, "fp8") == (688_590_641_561, True)
    assert weights_bytes(r1, "int4") == (400_000_000_000, True)
    size_bytes, measured = weights_bytes(r1, "bf16")
    assert (size_bytes, measured) == (1_342_000_000_000, False)
    for facts in ("fp8", "int4"):
        on_one = weights_on_rank(r1, facts, Layout())  # type: ignore[arg-type]
        assert on_one == pytest.approx(r1.checkpoints[facts], rel=1e-9)  # type: ignore[index]


def test_the_first_break_names_numbers() -> None:
    work = Workload(input_tokens=7168, output_tokens=1024)
    wishes = Wishes(concurrency=64)
    use = use_of("R1-Distill-Llama-70B", "bf16", "H100", Layout(tp=4), workload=work, wishes=wishes)
    assert use.first_break is not None
    assert use.first_break.key == "kv_cache"
    assert use.first_break.text == (
        "KV cache of 64 requests × 8k needs 40 GiB on each accelerator, 35.5 GiB are free"
    )
    assert use.first_break.numbers["needed_bytes"] == 64 * 8192 * 327_680 / 4


@pytest.mark.parametrize(
    ("model", "accelerator", "layout", "work", "key"),
    [
        ("R1", "H100", Layout(tp=8), Workload(), "weights"),
        ("Llama-3.1-70B", "H100", Layout(tp=2), Workload(input_tokens=200_000), "context"),
        ("Llama-3.1-70B", "B200", Layout(), Workload(), None),
    ],
)
def test_what_breaks_first(
    model: str, accelerator: str, layout: Layout, work: Workload, key: str | None
) -> None:
    found = use_of(model, "fp8", accelerator, layout, workload=work).first_break
    assert (found and found.key) == key


def test_overheads_alone_can_break_it() -> None:
    device = CATALOG.accelerator("H100")
    question = Question(architecture=CATALOG.model("Llama-3.1-8B"), precision="bf16", accelerators=(device,))
    weights = weights_on_rank(question.architecture, "bf16", Layout())
    tight = msgspec.structs.replace(device, memory_bytes=int(weights / 0.9) + 2**20)
    found = memory_use(question, Layout(), tight).first_break
    assert found is not None
    assert found.key == "overheads"


def test_the_parts_add_up() -> None:
    use = use_of("R1", "fp8", "H200", Layout(tp=8))
    parts = use.weights_bytes + use.activations_bytes + use.runtime_bytes + use.graphs_bytes
    parts += use.fragmentation_bytes + use.reserve_bytes + use.free_bytes
    assert parts == use.capacity_bytes
    assert use.reserve_bytes == pytest.approx(use.capacity_bytes / 10, rel=1e-6)
    assert use.weights_bytes / GIB == pytest.approx(641.3 / 8, rel=1e-3)


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_r1_in_fp8_fits_four_b200_with_the_engines_that_it_was_measured_with(engine: Engine) -> None:
    use = use_of("R1", "fp8", "B200", Layout(tp=4), engine=engine)
    assert use.fits, use
    assert not use_of("R1", "fp8", "B200", Layout(tp=4), engine="vllm").fits, "90 % of all has to do there"


def test_what_an_engine_leaves_alone_is_counted_as_the_engine_counts_it() -> None:
    vllm, sglang, trtllm = (
        use_of("Llama-3.1-70B", "fp8", "H200", Layout(tp=2), engine=engine)
        for engine in ("vllm", "sglang", "trtllm")
    )
    beside = vllm.activations_bytes + vllm.runtime_bytes + vllm.graphs_bytes + vllm.fragmentation_bytes
    assert sglang.reserve_bytes + beside == vllm.reserve_bytes
    assert trtllm.free_bytes == pytest.approx(0.9 * (trtllm.free_bytes + trtllm.reserve_bytes), rel=1e-6)
    for use in (vllm, sglang, trtllm):
        parts = use.weights_bytes + beside + use.reserve_bytes + use.free_bytes
        assert parts == use.capacity_bytes


def test_every_precision_and_engine_has_its_numbers() -> None:
    assert set(BITS) == set(PRECISIONS)
    assert set(OVERHEADS) == set(Engine.__args__)  # type: ignore[attr-defined]


layouts = st.builds(
    lambda tp, pp, split, ep: Layout(
        tp=2**tp, pp=pp, attention_dp=2**tp if split else 1, ep=2**tp if ep else 1
    ),
    st.integers(0, 4),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    layout=layouts,
    sizes=st.lists(st.integers(2**30, 2**39), min_size=2, max_size=2),
    requests=st.integers(1, 4000),
    kv=st.sampled_from(["bf16", "fp8"]),
    engine=st.sampled_from(["vllm", "sglang", "trtllm"]),
)
def test_more_memory_never_fits_less(
    *, model: str, layout: Layout, sizes: list[int], requests: int, kv: KvPrecision, engine: Engine
) -> None:
    device = CATALOG.accelerator("H100")
    question = Question(
        architecture=CATALOG.model(model),
        precision="fp8",
        kv_precision=kv,
        engine=engine,
        accelerators=(device,),
        workload=Workload(input_tokens=1000, output_tokens=500),
    )
    less, more = (
        memory_use(
            question, layout, msgspec.structs.replace(device, memory_bytes=memory_bytes), requests=requests
        )
        for memory_bytes in sorted(sizes)
    )
    assert more.fits or not less.fits
    assert more.tokens_fit >= less.tokens_fit
    assert more.requests_fit >= less.requests_fit


@settings(max_examples=100, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    layout=layouts,
    tokens=st.integers(1, 200_000),
    extra=st.integers(0, 5000),
)
def test_a_longer_context_never_needs_less(model: str, layout: Layout, tokens: int, extra: int) -> None:
    one = CATALOG.model(model)
    assert cache_on_rank(one, "fp8", layout, tokens + extra) >= cache_on_rank(one, "fp8", layout, tokens)
    assert cache_on_rank(one, "bf16", layout, tokens) >= cache_on_rank(one, "fp8", layout, tokens)
