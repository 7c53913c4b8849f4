"""What `--explain` says of the memory: its numbers make the bytes that `memory.py` counts."""

from __future__ import annotations

import re

import pytest

from sextant.planner.memory import GIB, MIB, cache_on_rank, memory_use, weights_on_rank
from sextant.planner.memory_working import memory_working
from sextant.planner.phases import Point, decode_step
from sextant.spec.architecture import KvPrecision
from sextant.spec.facts import load_catalog
from sextant.spec.planning import Engine, Estimate, Layout, Option, Question, Speed, Wishes, Workload

CATALOG = load_catalog()
ONE = Estimate(value=1.0, low=1.0, high=1.0, unit="ms", basis="stated")
SPEED = Speed(
    concurrency=1,
    ttft_ms=ONE,
    tpot_ms=ONE,
    ttft_ms_p99=ONE,
    tpot_ms_p99=ONE,
    output_tokens_per_s=ONE,
    requests_per_s_max=ONE,
)


def working(
    model: str, card: str, layout: Layout, *, kv: KvPrecision = "bf16", engine: Engine = "vllm"
) -> dict[str, Estimate]:
    accelerator, architecture = CATALOG.accelerator(card), CATALOG.model(model)
    question = Question(
        architecture=architecture,
        precision=architecture.native_precision,
        kv_precision=kv,
        engine=engine,
        accelerators=(accelerator,),
        workload=Workload(input_tokens=2048, output_tokens=512),
        wishes=Wishes(concurrency=16),
    )
    use = memory_use(question, layout, accelerator)
    option = Option(accelerator=accelerator, count=layout.count, layout=layout, memory=use, speed=SPEED)
    found = dict(memory_working(question, option))
    assert sum(part.value for part in found.values()) == pytest.approx(accelerator.memory_bytes / GIB)
    return found


def numbers(text: str) -> list[float]:
    return [float(one.replace(",", "")) for one in re.findall(r"[\d,]*\.?\d+", text)]


def test_the_latent_cache_multiplies_out() -> None:
    found = working("deepseek-r1", "h200", Layout(tp=8))["KV cache"]
    requests, tokens, layers, rank, rope, width = numbers(found.formula)
    assert requests == 16 and tokens == 2560
    assert requests * tokens * layers * (rank + rope) * width == pytest.approx(found.value * GIB)
    apart = working("deepseek-r1", "h200", Layout(tp=8, attention_dp=8, ep=8))["KV cache"]
    assert numbers(apart.formula)[0] == 2 and apart.value == pytest.approx(found.value / 8)


def test_the_cache_of_heads_multiplies_out() -> None:
    found = working("r1-distill-llama-70b", "h100-sxm", Layout(tp=4))["KV cache"]
    requests, tokens, two, layers, heads, dim, width = numbers(found.formula)
    assert heads == 2  # eight of them over four ranks
    assert requests * tokens * two * layers * heads * dim * width == pytest.approx(found.value * GIB)


def test_weights_name_the_checkpoint_or_the_bits() -> None:
    measured = working("deepseek-r1", "h200", Layout(tp=8))["weights"]
    assert numbers(measured.formula)[0] == pytest.approx(641.3, abs=0.1)
    assert measured.sources == ("the catalogue's size of the checkpoint",)
    staged = working("deepseek-r1", "h100-sxm", Layout(tp=8, pp=2))["weights"]
    assert staged.formula.endswith("2 stages") and staged.value < measured.value
    computed = working("r1-distill-llama-70b", "h100-sxm", Layout(tp=4))["weights"]
    params, bits, size, ranks = numbers(computed.formula)
    assert size == pytest.approx(params * 1e9 * bits / 8 / GIB, rel=0.05) and computed.sources == ()
    assert computed.value == pytest.approx(size / ranks, rel=0.01)


def test_the_engine_and_what_it_leaves_alone() -> None:
    found = working("deepseek-r1", "h200", Layout(tp=8))
    assert sum(numbers(found["runtime"].formula)) * MIB == pytest.approx(found["runtime"].value * GIB)
    assert numbers(found["graphs"].formula)[0] * 61 * MIB == pytest.approx(found["graphs"].value * GIB)
    assert found["reserve"].formula.startswith("10%")
    alone = working("sextant-nano", "cpu-desktop", Layout(), engine="embedded")
    assert "collectives" not in alone["runtime"].formula and alone["reserve"].formula.startswith("10%")
    assert alone["graphs"].value == 0.0


@pytest.mark.parametrize(
    ("model", "kv", "said"), [("deepseek-v3_2", "fp8", "indexer"), ("deepseek-v4-flash", "fp8", "window")]
)
def test_other_caches_say_what_they_keep(model: str, kv: KvPrecision, said: str) -> None:
    assert said in working(model, "h200", Layout(tp=8), kv=kv)["KV cache"].formula


def test_heads_that_do_not_divide_fill_the_fullest_rank() -> None:
    """Eight KV heads over five ranks: some hold two."""
    model = CATALOG.model("r1-distill-qwen-14b")
    whole = cache_on_rank(model, "bf16", Layout(), 1000)
    assert cache_on_rank(model, "bf16", Layout(tp=5), 1000) == whole * 2 / 8


def test_a_step_reads_the_cache_of_each_request_whole_on_each_rank() -> None:
    card = CATALOG.accelerator("h200")
    point = Point(
        architecture=CATALOG.model("deepseek-r1"),
        precision="fp8",
        kv_precision="bf16",
        engine="vllm",
        accelerator=card,
        layout=Layout(tp=8),
        concurrency=16,
        input_tokens=2048,
        output_tokens=512,
    )
    read_bytes = 16 * (2048 + 256) * 61 * (512 + 64) * 2
    assert decode_step(point).cache_s == pytest.approx(read_bytes / card.bandwidth_bytes_per_s)


def test_experts_that_do_not_divide_fill_the_fullest_rank() -> None:
    """256 experts over 48 ranks: some hold six, 6 x 48 / 256 of an even share."""
    model = CATALOG.model("deepseek-r1")
    even = weights_on_rank(model, "fp8", Layout(tp=48, attention_dp=48, ep=1))
    uneven = weights_on_rank(model, "fp8", Layout(tp=48, attention_dp=48, ep=48))
    share = model.expert_params / model.params_total * model.checkpoints["fp8"] / 48
    assert uneven - even == pytest.approx(share * (6 * 48 / 256 - 1), rel=1e-6)


def test_the_longer_stage_is_the_fullest() -> None:
    """61 layers in two stages are 31 and 30."""
    model = CATALOG.model("deepseek-r1")
    whole, staged = (weights_on_rank(model, "fp8", Layout(tp=8, pp=pp)) for pp in (1, 2))
    embedding = 2 * model.vocabulary * model.hidden / model.params_total * model.checkpoints["fp8"] / 8
    assert staged - embedding == pytest.approx((whole - embedding) * 31 / 61, rel=1e-6)
