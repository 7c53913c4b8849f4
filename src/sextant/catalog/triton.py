"""Triton's OpenAI front end with its vLLM backend, on one machine: two small files and a line."""

from __future__ import annotations

import json
from typing import Any

from sextant.base.errors import Unsupported
from sextant.catalog.keyed import run_file
from sextant.catalog.serving import Command, Serving, finished, given

RESTRICTED = "inference,model-repository,model-management"
"""The APIs of the front end that want the key; health and metrics do not."""
CONFIG = b'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
"""Of a model that the vLLM backend serves."""


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for several machines, divided attention, and a split of
    prefill from decode."""
    serving.one_machine()
    share = serving.share
    if share.attention_dp > 1 or serving.role != "whole":
        raise Unsupported(
            f"triton: the plan of {serving.model_name} divides attention or splits prefill from decode, "
            f"which its vLLM backend is not known to do; use vllm or sglang"
        )
    program = serving.command or serving.engine.command
    repository = f"{serving.files_folder}/repository"
    return finished(
        serving,
        Command(
            argv=(
                *program[:-1],
                *run_file(
                    program[-1], "--openai-restricted-api", RESTRICTED, "authorization", "Bearer {key}"
                ),
                *("--backend", "vllm"),
                *("--host", serving.host),
                *("--openai-port", str(serving.port)),
                *given("--default-max-tokens", serving.context_tokens // 2),
                *("--model-repository", repository),
                *("--tokenizer", serving.model_path),
                *serving.args,
            ),
            files={
                f"{repository}/{serving.model_name}/config.pbtxt": CONFIG,
                f"{repository}/{serving.model_name}/1/model.json": _settings(serving),
            },
        ),
    )


def _settings(serving: Serving) -> bytes:
    """The vLLM backend's arguments, in its own names."""
    share = serving.share
    model: dict[str, Any] = {
        "model": serving.model_path,
        "max_model_len": serving.context_tokens,
        "tensor_parallel_size": share.tp,
        "pipeline_parallel_size": share.pp if share.pp > 1 else None,
        "enable_expert_parallel": share.ep > 1,
        "gpu_memory_utilization": serving.memory_share,
        "max_num_seqs": serving.max_sequences,
        "kv_cache_dtype": "fp8" if serving.kv_precision == "fp8" else None,
    }
    if serving.precision is not None:
        is_dtype = serving.engine.is_dtype(serving.precision)
        model["dtype" if is_dtype else "quantization"] = serving.precision
    return json.dumps({key: value for key, value in model.items() if value}, indent=2).encode() + b"\n"
