"""Every kind of engine from one document: started as its adapter says, ready by its own health check, asked
with its key, its metrics read, stopped. Recorded answers stand in for the engines (`recorded_engine.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_engine import place

from sextant.app.plan import bundled_model_path
from stack_under_test import Stack, alive, stack, until

pytestmark = pytest.mark.slow

KINDS = ("vllm", "sglang", "llamacpp", "triton", "trtllm", "nim", "mindie")
STAND_IN = str(Path(__file__).with_name("recorded_engine.py"))


def model_folder(folder: Path) -> str:
    """As much of a Hugging Face folder as is looked at before a start."""
    config = {"model_type": "qwen2", "vocab_size": 2, "hidden_size": 2, "num_hidden_layers": 1}
    more = {"num_attention_heads": 1, "intermediate_size": 2, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    head = json.dumps(
        {"model.layers.0.w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(16))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    return str(folder)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("six")
    (folder / "model").mkdir()
    source, commands = (
        model_folder(folder / "model"),
        {kind: [sys.executable, STAND_IN, kind] for kind in KINDS},
    )
    place(folder)
    commands |= {"sglang": [sys.executable], "triton": [sys.executable, str(folder / "main.py")]}
    models: list[dict[str, Any]] = []
    for kind in KINDS:
        engine = {
            "kind": kind,
            "command": commands[kind],
            "stop_timeout_s": 1.0,
            "env": {"PYTHONPATH": str(folder)},
        }
        own = str(bundled_model_path("sextant-nano")) if kind == "llamacpp" else source
        models.append({"name": f"org/{kind}", "source": own, "engine": engine})
    written = {"apiVersion": "sextant.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "six"}}
    (folder / "six.yaml").write_text(json.dumps({**written, "spec": {"models": models}}))
    with stack(document=folder / "six.yaml") as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_ready_and_answers(six: Stack, kind: str) -> None:
    until(lambda: six.chat(model=f"org/{kind}").status == 200, f"{kind} serves")
    answer = six.chat(model=f"org/{kind}")
    assert answer.json()["model"] == f"org/{kind}"
    assert answer.json()["choices"][0]["message"]["content"]
    streamed = six.chat(model=f"org/{kind}", stream=True)
    assert streamed.status == 200
    assert streamed.body.rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize("kind", KINDS)
def test_its_metrics_are_served_under_our_names(six: Stack, kind: str) -> None:
    wanted = f'sextant_engine_generated_tokens_total{{model="org/{kind}",'

    def there() -> bool:
        text = six.ask("GET", "/metrics", port=six.control_port).body.decode()
        return any(row.startswith(wanted) and float(row.rpartition(" ")[2]) > 0 for row in text.splitlines())

    until(there, f"the metrics of {kind} are read", 20)


def test_tools_are_refused_where_no_parser_reads_them(six: Stack) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for kind in ("vllm", "sglang", "triton", "nim"):
        refused = six.chat(model=f"org/{kind}", tools=[tool])
        assert refused.status == 422
        assert refused.json()["error"]["param"] == "tools"


def test_no_key_stands_in_any_command_line(six: Stack) -> None:
    key = (six.root / "secrets" / "engine").read_text().strip()
    lines = [file.read_bytes().decode() for file in Path("/proc").glob("[0-9]*/cmdline") if readable(file)]
    assert len(key) > 20
    assert any("recorded_engine" in line for line in lines)
    assert not any(key in line for line in lines)


def readable(file: Path) -> bool:
    try:
        return bool(file.read_bytes())
    except OSError:
        return False


def test_a_stop_ends_them_all(six: Stack) -> None:
    pids = [process["pid"] for process in six.processes().values()]
    assert len(pids) >= 6
    assert six.stop() == 0
    until(lambda: not any(map(alive, pids)), "nothing is left")
