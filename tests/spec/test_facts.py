"""The catalogue: every value has a source, a user's file is checked the same way, near names are offered."""

from __future__ import annotations

import msgspec
import pytest

from sextant.base.errors import Misconfigured, NotFound, Unsupported
from sextant.spec.facts import UNSOURCED, Source, load_catalog
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Layout, Question

CATALOG = load_catalog()


def test_every_value_has_a_dated_source() -> None:
    for noun in (*CATALOG.models.values(), *CATALOG.accelerators.values()):
        for field in noun.__struct_fields__:
            if field not in UNSOURCED:
                assert CATALOG.source_of(noun, field).date is not None, (noun.id, field)


def test_no_source_is_left_over() -> None:
    used = {source for noun in CATALOG.models.values() for source in noun.sources.values()}
    used |= {source for noun in CATALOG.accelerators.values() for source in noun.sources.values()}
    used |= {facts.source for facts in CATALOG.precisions}
    used |= {one.source for one in CATALOG.unfit.values()}
    assert set(CATALOG.sources) - used == set()


@pytest.mark.parametrize("name", ["atlas-500", "Atlas 500 A2", "ascend-310B"])
def test_what_no_engine_serves_on_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(Unsupported, match=r"MindIE runs on Atlas 300I Duo .*hiascend.*kind: embedded"):
        CATALOG.accelerator(name)


def test_a_users_own_facts_of_it_are_taken() -> None:
    own = '[accelerator.atlas-500]\nlike = "atlas-300i-duo"\ntitle = "ours"\nmemory_bytes = 12_000_000_000\n'
    assert load_catalog(own).accelerator("Atlas-500").memory_bytes == 12_000_000_000
    with pytest.raises(Misconfigured, match="there is no section `unfit`"):
        load_catalog('[unfit.mine]\ntitle = "x"\n')


def test_general_knowledge_is_marked_as_an_estimate() -> None:
    for id_, source in CATALOG.sources.items():
        if "not looked up" in source.where:
            assert source.kind == "estimate", id_


def test_no_name_means_two_things() -> None:
    for entries in (CATALOG.models, CATALOG.accelerators):
        names = [name.casefold() for one in entries.values() for name in {one.id, *one.aliases} - {""}]
        folded = [(one.id, {n.casefold() for n in (one.id, *one.aliases)}) for one in entries.values()]
        assert len({name for _, own in folded for name in own}) == sum(len(own) for _, own in folded), names


def test_models_and_accelerators_that_teams_ask_for_are_there() -> None:
    for name in ("V2-Lite", "V2", "V3", "V3.1", "R1", "V3.2", "V4-Flash", "V4-Pro", "sextant-nano"):
        assert CATALOG.model(name).family == "deepseek"
    for size in ("Qwen-1.5B", "Qwen-7B", "Llama-8B", "Qwen-14B", "Qwen-32B", "Llama-70B"):
        assert CATALOG.model(f"deepseek-ai/DeepSeek-R1-Distill-{size}")
    for name in (
        "A100-80",
        "A800",
        "H100",
        "H200",
        "H800",
        "H20",
        "B200",
        "B300",
        "GB200",
        "GB300",
        "L40S",
        "L4",
    ):
        assert CATALOG.accelerator(name).vendor == "NVIDIA"
    for name in (
        "MI250X",
        "MI300X",
        "910B",
        "Gaudi-3",
        "Jetson-Thor",
        "Orin",
        "Pi-5",
        "CPU",
        "RTX-5090",
        "4090",
    ):
        assert CATALOG.accelerator(name)


@pytest.mark.parametrize(
    ("asked", "offered"),
    [("h10", "H100"), ("DeepSeek-R2", "DeepSeek-R1"), ("qwen-7b", "DeepSeek-R1-Distill-Qwen-7B")],
)
def test_an_unknown_name_is_answered_with_the_nearest(asked: str, offered: str) -> None:
    find = CATALOG.accelerator if asked == "h10" else CATALOG.model
    with pytest.raises(NotFound, match=f"no .* `{asked}` in the catalogue; nearest: .*{offered}"):
        find(asked)


def test_a_name_like_no_other_is_answered_with_the_number_of_entries() -> None:
    with pytest.raises(NotFound, match=f"there are {len(CATALOG.accelerators)} of them"):
        CATALOG.accelerator("%%%%")


OWN = """
[source.mine]
where = "our own measurement"
date = 2026-11-01
[accelerator.h100-sxm]
watts = 500
usd_per_h = { on_demand = 1.5 }
[accelerator.x9]
like = "h200"
memory_bytes = 200_000_000_000
sources = { memory_bytes = "mine" }
"""


def test_a_user_s_file_changes_and_adds() -> None:
    catalog = load_catalog(OWN, "my.toml")
    h100 = catalog.accelerator("H100")
    assert (h100.watts, h100.usd_per_h.on_demand) == (500, 1.5)
    assert catalog.source_of(h100, "watts") == Source(where="my.toml", kind="user")
    assert catalog.source_of(h100, "bandwidth_bytes_per_s").kind == "looked up"
    x9 = catalog.accelerator("x9")
    assert x9.bandwidth_bytes_per_s == CATALOG.accelerator("h200").bandwidth_bytes_per_s
    assert x9.aliases == ()
    assert catalog.source_of(x9, "memory_bytes").where == "our own measurement"
    assert CATALOG.accelerator("H100").watts == 700


def test_what_a_user_leaves_alone_keeps_its_source() -> None:
    """Also where the catalogue's own entry is like another and has a source for its own fields alone."""
    own = load_catalog("[accelerator.h200]\nwatts = 650", "my.toml")
    h200 = own.accelerator("h200")
    assert own.source_of(h200, "watts").where == "my.toml"
    assert own.source_of(h200, "bandwidth_bytes_per_s") == CATALOG.source_of(
        CATALOG.accelerator("h200"), "bandwidth_bytes_per_s"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model.deepseek-r1]\nlayrs = 3", "model.deepseek-r1: there is no field `layrs`; nearest: layers"),
        ("[model.m]\nlayers = 3", "model.m: Object missing required field"),
        ("[model.m]\nlike = 'r9'", "like = `r9` is not in the catalogue"),
        ("[model.a]\nlike='b'\n[model.b]\nlike='a'", "goes round"),
        ("[model.deepseek-r1]\nlayers = 0", "layers is 0; expected more than 0"),
        ("[model.deepseek-r1]\nkv_lora_rank = 0", "needs kv_lora_rank"),
        ("[model.deepseek-r1]\nexperts_active = 300", "300 active experts are more than all 256"),
        ("[model.deepseek-r1]\nparams_active = 1e15", "active parameters are more than all"),
        ("[model.qwen3-32b]\nkv_heads = 7", "64 heads do not divide among 7 KV heads"),
        ("[model.gpt-oss-120b]\nkv_layers = 30", "more than all 36 layers"),
        ("[model.deepseek-v4-pro.compression_layers]\n4 = 1", "compression_layers add up to 1, not 61"),
        ("[accelerator.h100-sxm]\nwatts = 'hot'", "Expected `float`, got `str`"),
        ("[accelerator.h100-sxm]\nwatts = -1", "watts is -1.0; expected a number of 0 or more"),
        ("[accelerator.h100-sxm]\nwatts = inf", "watts is inf"),
        ("[accelerator.h100-sxm.flops_per_s]\nbf16 = -1", "flops_per_s is -1.0"),
        (
            "[accelerator.h100-sxm]\nsources = { watts = 'nobody' }",
            "the source `nobody` of watts is not given",
        ),
        ("[accelerator.h100-sxm]\nsources = { wats = 'vendor' }", "sources names wats, which is no field"),
        ("[accelerator]\nh100-sxm = 3", "accelerator.h100-sxm is `3`; expected a table"),
        ("[gpu.x]\nwatts = 1", "there is no section `gpu`"),
        ("source = 3", "source is `3`; expected a table of them"),
        ("[precision.fp8]\nsource = 'nobody'", "the source `nobody` of accuracy is not given"),
        ("[model.deepseek-v4-pro.compression_layers]\nx = 61", "ratios x; expected whole numbers"),
        ("[model.deepseek-r1]\nsources = 'x'", "sources is no table"),
        ("layers =", "my.toml: not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load_catalog(text, "my.toml")
    assert said in refused.value.message


def test_units_survive_a_round_trip() -> None:
    for accelerator in CATALOG.accelerators.values():
        assert msgspec.json.decode(msgspec.json.encode(accelerator), type=Accelerator) == accelerator
    question = Question(
        architecture=CATALOG.model("r1"), precision="fp8", accelerators=(CATALOG.accelerator("h200"),)
    )
    assert msgspec.json.decode(msgspec.json.encode(question), type=Question) == question
    split = Layout(prefill=Layout(tp=8, dp=2), decode=Layout(tp=16, attention_dp=16))
    assert msgspec.json.decode(msgspec.json.encode(split), type=Layout) == split
    assert split.count == 32


@pytest.mark.parametrize(
    ("name", "source", "model"),
    [
        ("r1", "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "r1-distill-qwen-1_5b"),
        ("assistant", "hf:deepseek-ai/DeepSeek-R1@main", "deepseek-r1"),
        (
            "assistant",
            "modelscope:org/DeepSeek-R1-Distill-Qwen-7B:Q4_K_M",
            "r1-distill-qwen-7b",
        ),
        ("deepseek-r1", "models/mine.gguf", "deepseek-r1"),
        ("deepseek-r1", None, "deepseek-r1"),
    ],
)
def test_what_is_loaded_says_more_than_what_it_is_called(name: str, source: str | None, model: str) -> None:
    assert CATALOG.served(name, (), source).id == model


def test_a_model_that_nobody_knows_is_named_by_its_source() -> None:
    with pytest.raises(NotFound, match="DeepSeek-R9"):
        CATALOG.served("mine", ("ours",), "hf:deepseek-ai/DeepSeek-R9")
