"""How each engine is started: launch lines as golden files, options, rules for model families, secrets.

A golden file is `recorded/ENGINE/launch.json`; after a wanted change, write what the test prints.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sextant.base.errors import Misconfigured
from sextant.catalog.keyed import KEY_VARIABLE, run_file, run_module
from sextant.engines import embedded
from sextant.engines.adapters import ADAPTERS, adapter_of, binding_of, capabilities_of
from sextant.engines.hf_folder import inspect_folder
from sextant.engines.modelfacts import ModelFacts
from sextant.engines.protocol import Launch, Replica, ServerOptions, ready_timeout_of
from sextant.engines.server_engine import ServerEngine
from sextant.spec.engine_data import Traits

RECORDED = Path(__file__).parent / "recorded"
LAUNCHED = ("vllm", "sglang", "llamacpp", "triton", "trtllm", "nim", "mindie")
TEMPLATES = Path(__file__).parents[1] / "templates"
PROMPT = "{% if add_generation_prompt %}<｜Assistant｜>"
R1 = PROMPT + "<think>{% endif %}{{ content.split('</think>')[-1] }}<｜tool▁calls▁begin｜> ```json"
V3 = PROMPT + "{% endif %}<｜tool▁calls▁begin｜> ```json"
V31 = PROMPT + "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}<｜tool▁calls▁begin｜>"
DEEPSEEK_SIZES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}


def facts(architecture: str, template: str = "", sizes: dict[str, int] | None = None) -> ModelFacts:
    """A model's facts, of which the rules ask three; the rest is empty."""
    empty = {int: 0, str: "", bool: False, tuple[str, ...]: ()}
    rest = {f.name: empty.get(f.type) for f in msgspec.structs.fields(ModelFacts) if f.required}
    told = {"architecture": architecture, "chat_template": template, "sizes": sizes or {}}
    return ModelFacts(**{**rest, **told})  # type: ignore[arg-type]


def replica(options: dict[str, object] | None = None, **changes: Any) -> Replica:
    made = Replica(
        id="r1-0",
        model_id="deepseek-r1",
        model_path="/models/deepseek-r1",
        context_tokens=32768,
        port=40001,
        key_file="/state/secrets/engine",
        settings_file="/state/run/engine-r1-0.json",
        options=options or {},
        weights_bytes=641 * 2**30,
        facts=facts("deepseek_v3", R1, DEEPSEEK_SIZES),
    )
    return msgspec.structs.replace(made, **changes)


def written(launch: Launch) -> Any:
    """A launch as its golden file holds it: what is not as it would be anyway."""
    bare = Launch((), {}, "", "", None, 0.0, 0.0)
    plain = msgspec.to_builtins(launch)
    plain["files"] = {path: readable(content) for path, content in launch.files.items()}
    return {name: value for name, value in plain.items() if getattr(launch, name) != getattr(bare, name)}


def readable(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()


FULL: dict[str, object] = {"tensor_parallel": 8, "memory_share": 0.9, "max_sequences": 64, "precision": "fp8"}


@pytest.mark.parametrize("kind", LAUNCHED)
def test_launch_is_the_golden_one(kind: str) -> None:
    adapter = adapter_of(kind)
    assert isinstance(adapter, ServerEngine)
    options = {name: value for name, value in FULL.items() if name not in adapter.data.refused}
    options |= {"args": ["--last", "word"], "env": {"OMP_NUM_THREADS": "8"}}
    launch = adapter.launch(replica(options))
    text = json.dumps(written(launch), indent=2, ensure_ascii=False) + "\n"
    golden = RECORDED / kind / "launch.json"
    assert golden.exists(), text
    assert golden.read_text() == text, text


@pytest.mark.parametrize("kind", LAUNCHED)
def test_no_secret_stands_in_argv_files_or_plain_environment(kind: str) -> None:
    launch = ADAPTERS[kind].launch(replica())
    assert "secrets/engine" not in json.dumps([launch.argv, written(launch).get("files"), dict(launch.env)])
    assert (launch.api_key_ref is None) == (not launch.secret_env)
    assert set(launch.secret_env.values()) <= {"file:/state/secrets/engine"}
    assert not set(launch.secret_env) & set(launch.env)


@pytest.mark.parametrize("kind", LAUNCHED)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 3}, "unknown field `slots`; its options are command, args"),
        ({"tensor_parallel": 0}, "tensor_parallel is 0, expected 1 or more"),
        ({"memory_share": 1.5}, "memory_share is 1.5, expected more than 0 and at most 1"),
        ({"max_sequences": "many"}, "Expected `int | null`, got `str`"),
        ({"stop_timeout_s": -1.0}, "stop_timeout_s is -1.0, expected 0 or more"),
    ],
)
def test_wrong_options_are_told(kind: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        ADAPTERS[kind].launch(replica(options))
    assert said in caught.value.message
    assert caught.value.message.startswith(f"engine {kind}: ")


OURS = [
    ("vllm", ["--port", "9"], "--port"),
    ("vllm", ["--enforce-eager", "--port=9"], "--port"),
    ("vllm", ["--served_model_name", "x"], "--served_model_name"),
    ("vllm", ["--api-key=sekret-of-the-test"], "--api-key"),
    ("vllm", ["--max-model-len", "9"], "--max-model-len"),
    ("sglang", ["--model", "/x"], "--model"),
    ("sglang", ["--host=0.0.0.0"], "--host"),
    ("llamacpp", ["-m", "/x"], "-m"),
    ("llamacpp", ["--parallel", "9"], "--parallel"),
    ("triton", ["--openai-port", "9"], "--openai-port"),
    ("trtllm", ["--max-seq-len", "9"], "--max-seq-len"),
    ("trtllm", ["--config=/mine.yaml"], "--config"),
    ("nim", ["--port", "9"], "--port"),
]


@pytest.mark.parametrize(("kind", "args", "flag"), OURS)
def test_arguments_that_are_ours_are_refused_by_name(kind: str, args: list[str], flag: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        ADAPTERS[kind].launch(replica({"args": args}))
    assert f"engine {kind}: spec.engine.args holds {flag}, which is set" in caught.value.message
    assert "sekret" not in caught.value.message
    assert caught.value.field == "spec.engine.args"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("vllm", "VLLM_API_KEY"), ("nim", "NIM_SERVER_PORT"), ("mindie", "MIES_CONFIG_JSON_PATH")],
)
def test_variables_that_are_ours_are_refused_by_name(kind: str, name: str) -> None:
    with pytest.raises(Misconfigured, match=f"spec.engine.env holds {name}, which is set"):
        ADAPTERS[kind].launch(replica({"env": {name: "sekret-of-the-test"}}))


def test_how_much_an_engine_takes_may_be_said_otherwise() -> None:
    args = ["--tensor-parallel-size=4", "--gpu-memory-utilization", "0.5", "--tool-call-parser", "hermes"]
    assert ADAPTERS["vllm"].launch(replica({"args": args})).argv[-5:] == tuple(args)


def test_a_model_repository_of_ones_own_counts_in_both_spellings() -> None:
    launch = ADAPTERS["triton"].launch(replica({"args": ["--model-repository=/mine"]}, model_path=""))
    assert "--model-repository" not in launch.argv
    assert launch.files == {}


@pytest.mark.parametrize("kind", LAUNCHED)
def test_what_an_engine_cannot_follow_is_refused_with_the_reason(kind: str) -> None:
    adapter = adapter_of(kind)
    assert isinstance(adapter, ServerEngine)
    for option, reason in adapter.data.refused.items():
        assert option in ServerOptions.__struct_fields__
        with pytest.raises(Misconfigured) as caught:
            adapter.launch(replica({option: FULL[option]}))
        assert reason in caught.value.message


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp", "triton", "trtllm", "mindie"])
def test_a_missing_model_is_told(kind: str) -> None:
    with pytest.raises(Misconfigured, match="told what to load for deepseek-r1"):
        ADAPTERS[kind].launch(replica(model_path="", facts=None))


def test_engines_that_bring_their_model_need_none() -> None:
    nim = ADAPTERS["nim"].launch(replica(model_path="", facts=None, context_tokens=0))
    assert {"NIM_MODEL_PATH", "NIM_MAX_MODEL_LEN"}.isdisjoint(nim.env)
    own = ["--model-repository", "/models/trt"]
    triton = ADAPTERS["triton"].launch(replica({"args": own}, model_path="", facts=None))
    assert triton.argv[-2:] == tuple(own)
    assert triton.files == {}


def test_an_unknown_context_is_left_to_the_engine() -> None:
    launch = ADAPTERS["vllm"].launch(replica(context_tokens=0))
    assert "--max-model-len" not in launch.argv
    with pytest.raises(Misconfigured, match="and MindIE must be told"):
        ADAPTERS["mindie"].launch(replica(context_tokens=0))


def test_large_models_get_longer_to_start() -> None:
    launch = ADAPTERS["vllm"].launch(replica())
    assert launch.ready_timeout_s == ready_timeout_of(641 * 2**30) > 10_000
    assert ADAPTERS["vllm"].launch(replica({"ready_timeout_s": 5.0})).ready_timeout_s == 5.0


def test_a_container_is_handed_the_variables_by_name() -> None:
    command = ["docker", "run", "--rm", "--gpus", "all", "--network", "host", "nvcr.io/nim/x:2.0.12"]
    launch = ADAPTERS["nim"].launch(replica({"command": command}))
    assert launch.argv[:2] == ("docker", "run")
    assert launch.argv[-1] == command[-1]
    named = [launch.argv[i + 1] for i, word in enumerate(launch.argv) if word == "--env"]
    assert set(named) == {*launch.env, *launch.secret_env}
    assert not any("=" in name for name in named)


RULES = [
    ("vllm", facts("deepseek_v3", R1), ("deepseek_r1", "deepseek_v3")),
    ("vllm", facts("deepseek_v3", V3), (None, "deepseek_v3")),
    ("vllm", facts("deepseek_v3", V31), ("deepseek_v3", "deepseek_v31")),
    ("vllm", facts("deepseek_v32"), ("deepseek_v3", "deepseek_v32")),
    ("vllm", facts("deepseek_v4"), ("deepseek_v4", "deepseek_v4")),
    ("vllm", facts("qwen2", R1), ("deepseek_r1", None)),
    ("vllm", facts("llama", R1), ("deepseek_r1", None)),
    ("vllm", facts("qwen2", "{{ messages }}"), (None, None)),
    ("vllm", None, (None, None)),
    ("sglang", facts("deepseek_v3", R1), ("deepseek-r1", "deepseekv3")),
    ("sglang", facts("deepseek_v3", V31), ("deepseek-v3", "deepseekv31")),
    ("sglang", facts("deepseek_v4"), ("deepseek-v4", "deepseekv4")),
    ("sglang", facts("llama", R1), ("deepseek-r1", None)),
    ("trtllm", facts("deepseek_v3", R1), ("deepseek-r1", "deepseekv3")),
    ("trtllm", facts("deepseek_v3", V31), (None, "deepseekv3.1")),
    ("trtllm", facts("deepseek_v32"), (None, "deepseek_v32")),
    ("trtllm", facts("qwen2", R1), ("deepseek-r1", None)),
]


PARSER_FLAGS = {"trtllm": ("--reasoning_parser", "--tool_parser")}


@pytest.mark.parametrize(("kind", "known", "parsers"), RULES)
def test_parsers_follow_the_model(
    kind: str, known: ModelFacts | None, parsers: tuple[str | None, str | None]
) -> None:
    made = replica(facts=known)
    argv = ADAPTERS[kind].launch(made).argv
    capable = capabilities_of(kind, made)
    flags = PARSER_FLAGS.get(kind, ("--reasoning-parser", "--tool-call-parser"))
    for flag, parser, has in (
        (flags[0], parsers[0], capable.reasoning),
        (flags[1], parsers[1], capable.tools),
    ):
        assert argv.count(flag) == (parser is not None)
        assert has == (parser is not None)
        if parser is not None:
            assert argv[argv.index(flag) + 1] == parser


@pytest.mark.parametrize(
    ("template", "architecture", "parsers"),
    [
        ("deepseek-v2", "deepseek_v2", []),
        ("deepseek-r1-distill", "qwen2", ["--reasoning-parser deepseek_r1"]),
        ("deepseek-r1-distill", "llama", ["--reasoning-parser deepseek_r1"]),
        (
            "deepseek-v3.1",
            "deepseek_v3",
            ["--reasoning-parser deepseek_v3", "--enable-auto-tool-choice --tool-call-parser deepseek_v31"],
        ),
    ],
)
def test_official_templates_meet_their_rules(template: str, architecture: str, parsers: list[str]) -> None:
    text = (TEMPLATES / f"{template}.jinja").read_text()
    rules = adapter_of("vllm").data.rules_for(Traits(architecture, text))  # type: ignore[attr-defined]
    assert [" ".join(rule.args) for rule in rules] == parsers


def test_the_rule_for_heads_is_fed_from_the_models_folder(tmp_path: Path) -> None:
    sizes = {"kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32}
    folder = model_folder(tmp_path, {"model_type": "deepseek_v3", **sizes})
    known = inspect_folder(folder)
    assert (known.architecture, dict(known.sizes)) == ("deepseek_v3", sizes)
    assert ADAPTERS["vllm"].launch(replica(facts=known)).env["VLLM_MLA_DISABLE"] == "1"


def model_folder(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with no more of a model than its facts need."""
    sizes = {"vocab_size": 2, "hidden_size": 2, "intermediate_size": 2, "num_attention_heads": 1}
    whole = {**sizes, "num_hidden_layers": 1, "max_position_embeddings": 8, **config}
    (folder / "config.json").write_text(json.dumps(whole))
    tensor = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    head = json.dumps(dict.fromkeys(names, tensor)).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(16))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    return folder


def test_a_parser_of_the_users_own_counts() -> None:
    made = replica({"args": ["--tool-call-parser=hermes"]}, facts=facts("qwen2"))
    assert capabilities_of("vllm", made).tools
    assert not capabilities_of("vllm", made).reasoning


@pytest.mark.parametrize(
    ("sizes", "disabled"),
    [
        (DEEPSEEK_SIZES, False),
        ({}, False),
        (DEEPSEEK_SIZES | {"kv_lora_rank": 64}, True),
        ({"v_head_dim": 32}, True),
    ],
)
def test_small_heads_turn_native_mla_off(sizes: dict[str, int], disabled: bool) -> None:
    launch = ADAPTERS["vllm"].launch(replica(facts=facts("deepseek_v3", R1, sizes)))
    assert (launch.env.get("VLLM_MLA_DISABLE") == "1") == disabled
    other = ADAPTERS["vllm"].launch(replica(facts=facts("qwen2", R1, sizes)))
    assert "VLLM_MLA_DISABLE" not in other.env


def test_the_users_environment_counts_over_ours() -> None:
    sizes = {"kv_lora_rank": 64}
    launch = ADAPTERS["vllm"].launch(
        replica({"env": {"VLLM_MLA_DISABLE": "0"}}, facts=facts("deepseek_v3", R1, sizes))
    )
    assert launch.env["VLLM_MLA_DISABLE"] == "0"


KEYED_SERVER = """
import json, multiprocessing, os, pathlib, sys

LINE = pathlib.Path("/proc/self/cmdline")

def child(queue):
    queue.put(LINE.read_text())

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(json.dumps([sys.argv[1:], LINE.read_text(), dict(os.environ), queue.get(timeout=30)]))
    process.join()
"""
"""As engines do, it starts a process that imports it again."""


@pytest.mark.parametrize(
    ("start", "name"), [(run_module, "server_of_the_test"), (run_file, "server_of_the_test.py")]
)
def test_a_keyed_server_gets_its_key_but_not_in_argv(tmp_path: Path, start: Any, name: str) -> None:
    (tmp_path / "server_of_the_test.py").write_text(KEYED_SERVER)
    place = name if start is run_module else str(tmp_path / name)
    command = [sys.executable, *start(place, "--key", "Bearer {key}"), "--port", "1"]
    environment = {**os.environ, KEY_VARIABLE: "sekret-of-the-test", "PYTHONPATH": str(tmp_path)}
    output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    argv, line, left, child_line = json.loads(output)
    assert argv == ["--port", "1", "--key", "Bearer sekret-of-the-test"]
    assert "sekret-of-the-test" not in line + child_line
    assert "multiprocessing" in child_line
    assert KEY_VARIABLE not in left


@pytest.mark.parametrize(
    ("start", "missing"),
    [
        (run_module("nosuchengine.serve"), "the Python package nosuchengine"),
        (run_file("/nosuchengine/main.py"), "the file /nosuchengine/main.py"),
    ],
)
def test_an_engine_that_is_not_installed_is_one_line(start: tuple[str, ...], missing: str) -> None:
    environment = {**os.environ, KEY_VARIABLE: "sekret-of-the-test"}
    done = subprocess.run([sys.executable, *start], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"sextant: the engine cannot be started: {missing} is not there for "
        f"{sys.executable}; install it, or name the right one as spec.engine.command\n"
    )


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(Misconfigured, match="'tgi'; expected one of embedded, remote, vllm"):
        adapter_of("tgi")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_kind_has_its_adapter(kind: str) -> None:
    assert adapter_of(kind).name == kind
    assert adapter_of(kind).quirks == ADAPTERS[kind].quirks


def test_the_external_llama_server_has_the_quirks_of_the_embedded_one() -> None:
    assert ADAPTERS["llamacpp"].quirks == embedded.QUIRKS
    assert ADAPTERS["llamacpp"].metric_names == ADAPTERS["embedded"].metric_names


def test_a_port_held_as_the_data_says_can_be_bound() -> None:
    """What `binding_of` is for: an engine binds a held port only with the option that the holder set."""
    for kind in LAUNCHED:
        option = binding_of(kind)
        if option == "none":
            continue
        with socket.socket() as held, socket.socket() as engine:
            held.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            held.bind(("127.0.0.1", 0))
            engine.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            engine.bind(held.getsockname())
            engine.listen()
            with socket.create_connection(engine.getsockname(), 2) as client:
                assert client.getpeername() == engine.getsockname()
