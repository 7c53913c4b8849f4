"""Command lines from layouts: every engine, one machine and several, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from tests.render.orders import DISTILLED, EMBEDDED, R1, order

from sextant.base.errors import Unsupported
from sextant.catalog.arguments import COMMANDS, capabilities_of, command, serving_of
from sextant.catalog.serving import KEY_SECRET, Command, Serving
from sextant.spec.engine_data import Traits, engines
from sextant.spec.planning import Layout

GOLDEN = Path(__file__).parent / "golden" / "commands.json"
TP8 = Layout(tp=8)
ACROSS = Layout(tp=16)
STAGES = Layout(tp=8, pp=2)
SPREAD = Layout(tp=16, attention_dp=16, ep=16)
SPLIT = Layout(prefill=Layout(tp=4), decode=Layout(tp=8, attention_dp=8, ep=8))
R1_TRAITS = Traits("deepseek_v3", "</think> <｜Assistant｜> <｜tool▁calls▁begin｜> ```json")


def serving(kind: str, layout: Layout = TP8, **more: object) -> Serving:
    made = Serving(
        engine=engines()[kind],
        kind=kind,
        model_name="r1",
        model_path="/models/r1",
        layout=layout,
        context_tokens=65_536,
        traits=R1_TRAITS,
        command=("python3", "/f/main.py") if kind == "triton" else (),
    )
    return msgspec.structs.replace(made, **more)  # type: ignore[arg-type]


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def cases() -> dict[str, Command]:
    made = {f"{kind} tp8": command(serving(kind)) for kind in COMMANDS}
    for kind in ("vllm", "sglang"):
        made[f"{kind} tp16 on two machines"] = command(serving(kind, ACROSS))
        made[f"{kind} dp16 ep16 on two machines"] = command(serving(kind, SPREAD))
        made[f"{kind} prefill"] = command(serving(kind, SPLIT, role="prefill"))
        made[f"{kind} decode"] = command(serving(kind, SPLIT, role="decode"))
    return made


def test_command_lines_are_as_reviewed() -> None:
    assert json.loads(msgspec.json.encode(cases())) == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_engine_is_told_model_port_context_and_has_its_key_apart(kind: str) -> None:
    made = command(serving(kind, port=9123, args=() if kind == "mindie" else ("--mine", "1")))
    whole = " ".join((*made.argv, *made.env.values(), *(text.decode() for text in made.files.values())))
    context = {"triton": "32768", "llamacpp": str(4 * 65_536)}.get(kind, "65536")
    for told in ("/models/r1", "r1", "9123", context):
        assert told in whole
    assert set(made.secret_env.values()) == ({KEY_SECRET} if engines()[kind].key_variable else set())
    assert (made.nodes, made.per_node, made.port, made.worker_argv) == (1, 8, 9123, ())
    assert made.health_path == engines()[kind].health_path
    if kind != "mindie":
        assert "--mine" in whole


def test_vllm_spreads_tensors_and_stages_over_machines() -> None:
    for layout, ranks in ((ACROSS, "16"), (STAGES, "8")):
        made = command(serving("vllm", layout))
        assert (made.nodes, made.per_node, made.rdma) == (2, 8, True)
        for argv in (made.argv, made.worker_argv):
            assert after(argv, "--nnodes") == "2"
            assert after(argv, "--tensor-parallel-size") == ranks
            assert after(argv, "--master-addr") == "$(LWS_LEADER_ADDRESS)"
        assert after(made.argv, "--node-rank") == "0"
        assert after(made.worker_argv, "--node-rank") == "$(LWS_WORKER_INDEX)"
        assert "--headless" in made.worker_argv
        assert "--headless" not in made.argv
        assert "--port" not in made.worker_argv


def test_vllm_divides_attention_among_machines(tmp_path: Path) -> None:
    """The worker's line is really run, with a program in vLLM's place."""
    made = command(serving("vllm", SPREAD, args=("--x", "a 'b' $HOME")))
    assert after(made.argv, "--data-parallel-size") == "16"
    assert after(made.argv, "--tensor-parallel-size") == "1"
    assert after(made.argv, "--data-parallel-size-local") == "8"
    assert "--enable-expert-parallel" in made.argv
    fake_vllm = tmp_path / "vllm"
    fake_vllm.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    fake_vllm.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LWS_WORKER_INDEX": "1"}
    expanded = [part.replace("$(LWS_LEADER_ADDRESS)", "10.0.0.1") for part in made.worker_argv]
    done = subprocess.run(expanded, env=environment, capture_output=True, text=True, check=True)
    said = tuple(done.stdout.splitlines())
    assert after(said, "--data-parallel-start-rank") == "8"
    assert after(said, "--data-parallel-address") == "10.0.0.1"
    assert after(said, "--x") == "a 'b' $HOME"
    assert "--headless" in said


def test_sglang_runs_the_same_line_everywhere_with_its_number() -> None:
    made = command(serving("sglang", SPREAD))
    assert (after(made.argv, "--tp-size"), after(made.argv, "--dp-size")) == ("16", "16")
    assert "--enable-dp-attention" in made.argv
    assert (after(made.argv, "--ep-size"), after(made.argv, "--moe-a2a-backend")) == ("16", "deepep")
    assert after(made.worker_argv, "--dist-init-addr") == "$(LWS_LEADER_ADDRESS):20000"
    differing = {(one, other) for one, other in zip(made.argv, made.worker_argv, strict=True) if one != other}
    assert differing == {("0", "$(LWS_WORKER_INDEX)")}
    assert "deepep" not in command(serving("sglang", SPREAD, vendor="amd")).argv


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_prefill_and_decode_have_layouts_and_words_of_their_own(kind: str) -> None:
    prefill = command(serving(kind, SPLIT, role="prefill"))
    decode = command(serving(kind, SPLIT, role="decode"))
    assert (prefill.per_node, decode.per_node) == (4, 8)
    said = {"vllm": ("kv_producer", "kv_consumer"), "sglang": ("prefill", "decode")}[kind]
    assert any(said[0] in part for part in prefill.argv)
    assert any(said[1] in part for part in decode.argv)
    assert prefill.rdma


def test_no_key_stands_in_any_command_line() -> None:
    for made in cases().values():
        text = " ".join((*made.argv, *made.worker_argv, *made.env.values()))
        assert "API_KEY=" not in text
        assert "$(VLLM_API_KEY)" not in text


def test_mindie_is_told_by_one_file() -> None:
    made = command(serving("mindie", Layout(tp=8, attention_dp=2, ep=4)))
    (text,) = made.files.values()
    model = json.loads(text)["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]
    assert (model["worldSize"], model["dp"], model["tp"], model["moe_ep"], model["moe_tp"]) == (8, 2, 4, 4, 2)
    assert made.env["MIES_CONFIG_JSON_PATH"] in made.files


@pytest.mark.parametrize(
    ("kind", "layout", "more", "said"),
    [
        *(
            (kind, ACROSS, {}, "spans 2 machines")
            for kind in ("triton", "trtllm", "nim", "mindie", "llamacpp")
        ),
        *((kind, SPLIT, {"role": "decode"}, "prefill from decode") for kind in ("trtllm", "nim", "mindie")),
        ("triton", Layout(tp=8, attention_dp=8), {}, "divides attention"),
        ("llamacpp", Layout(tp=8, ep=8), {}, "divides attention, experts"),
        ("mindie", TP8, {"context_tokens": 0}, r"spec\.engine\.context_tokens"),
        ("vllm", Layout(tp=12), {}, "do not fill machines of 8"),
        ("vllm", Layout(tp=24, attention_dp=8), {}, "do not divide among 3 machines"),
        ("vllm", Layout(tp=8, pp=2, attention_dp=8), {}, "one stage"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(
    kind: str, layout: Layout, more: dict[str, object], said: str
) -> None:
    with pytest.raises(Unsupported, match=said):
        command(serving(kind, layout, **more))


def test_a_stranger_is_refused() -> None:
    with pytest.raises(Unsupported, match="not started on its own"):
        command(msgspec.structs.replace(serving("vllm"), kind="embedded"))
    made = order("on-prem", **EMBEDDED)
    with pytest.raises(Unsupported, match="not started on its own"):
        serving_of(made, made.served[0], model_path="/m", in_container=True)


def test_a_serving_comes_from_plan_and_document() -> None:
    engine = {
        "kind": "vllm", "memory_share": 0.85, "max_sequences": 64, "precision": "fp8",
        "context_tokens": 32_768, "args": ["--seed", "1"], "env": {"A": "b"},
        "command": ["venv/bin/vllm", "serve"],
    }  # fmt: skip
    made = order("private-cloud", model=R1["model"], engine=engine, sites=R1["sites"])
    inside = command(serving_of(made, made.served[0], model_path="/m", in_container=True))
    outside = command(serving_of(made, made.served[0], model_path="/m", in_container=False))
    assert (inside.argv[:3], outside.argv[:3]) == (
        ("vllm", "serve", "/m"),
        ("venv/bin/vllm", "serve", "/m"),
    )
    for flag, value in (
        ("--gpu-memory-utilization", "0.85"), ("--max-num-seqs", "64"), ("--quantization", "fp8"),
        ("--max-model-len", "32768"), ("--seed", "1"), ("--tensor-parallel-size", "8"),
        ("--served-model-name", "deepseek-r1"), ("--reasoning-parser", "deepseek_r1"),
    ):  # fmt: skip
        assert after(inside.argv, flag) == value
    assert inside.env["A"] == "b"


def test_tensorrt_llm_is_told_the_rest_by_a_file() -> None:
    share = Layout(tp=8, attention_dp=8, ep=4)
    made = command(serving("trtllm", share, kv_precision="fp8", precision="bfloat16", max_sequences=64))
    for flag, value in (
        ("--tp_size", "8"), ("--ep_size", "4"), ("--max_batch_size", "64"), ("--max_num_tokens", "8192"),
        ("--reasoning_parser", "deepseek-r1"), ("--tool_parser", "deepseekv3"),
    ):  # fmt: skip
        assert after(made.argv, flag) == value
    assert json.loads(made.files[after(made.argv, "--extra_llm_api_options")]) == {
        "dtype": "bfloat16",
        "enable_attention_dp": True,
        "enable_chunked_prefill": True,
        "kv_cache_config": {"dtype": "fp8"},
        "return_perf_metrics": True,
        "enable_iter_perf_stats": True,
    }
    plain = command(serving("trtllm", Layout(tp=8, pp=2), precision="modelopt", per_node=16))
    assert after(plain.argv, "--pp_size") == "2"
    assert "modelopt" not in str(plain), "the checkpoint says it itself"
    with pytest.raises(Unsupported, match="int7"):
        command(serving("trtllm", precision="int7"))


@pytest.mark.parametrize(("kind", "said"), [("trtllm", "what the weights leave"), ("mindie", "npuMemSize")])
def test_an_option_that_means_nothing_to_the_engine_is_refused_in_bundles_too(kind: str, said: str) -> None:
    accelerators = {"trtllm": "H200", "mindie": "910C"}[kind]
    sites = [{"name": "a", "accelerators": [{"name": accelerators, "count": 16}]}]
    made = order("on-prem", model=R1["model"], engine={"kind": kind, "memory_share": 0.8}, sites=sites)
    with pytest.raises(Unsupported, match=f"memory_share is 0.8, which the engine {kind} .*{said}"):
        serving_of(made, made.served[0], model_path="/m", in_container=False)


def test_v4_keeps_its_cache_in_fp8() -> None:
    spec = {**R1, "model": {"name": "deepseek-v4-flash", "source": "hf:deepseek-ai/DeepSeek-V4-Flash"}}
    made = order("private-cloud", **spec)
    argv = command(serving_of(made, made.served[0], model_path="/m", in_container=True)).argv
    assert (after(argv, "--kv-cache-dtype"), after(argv, "--tool-call-parser")) == ("fp8", "deepseek_v4")


def test_a_distillation_reasons_and_calls_no_tools() -> None:
    made = order("on-prem", **DISTILLED)
    found = capabilities_of(made, made.served[0])
    assert (found.reasoning, found.tools) == (True, False)


if __name__ == "__main__":  # writes the golden file anew
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(msgspec.json.format(msgspec.json.encode(cases()), indent=1) + b"\n")


def test_a_precision_that_the_engine_does_not_know_is_refused_with_near_ones() -> None:
    data = engines()["vllm"]
    assert data.is_dtype("bfloat16") and not data.is_dtype("compressed-tensors")
    with pytest.raises(Unsupported, match=r"knows no `int8`.*experts_int8.*need no precision here"):
        data.is_dtype("int8")


def test_an_engine_whose_quantisations_are_not_known_gets_any_word() -> None:
    assert not engines()["sglang"].is_dtype("something-new")
