"""Triton's OpenAI front end on one machine, with its vLLM backend or with TensorRT-LLM: a model repository
and a line. The repository for TensorRT-LLM stands in `triton_trtllm.py`."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog import triton_trtllm, trtllm
from sextant.catalog.keyed import run_file
from sextant.catalog.serving import Command, Serving, finished, given
from sextant.spec.snapshot import Capabilities

RESTRICTED = "inference,model-repository,model-management"
"""The APIs of the front end that want the key; health and metrics do not."""
VLLM = "vllm"
TENSORRTLLM = "tensorrtllm"
"""The backends, as the front end's `--backend` and `spec.engine.backend` name them."""
CONFIG = b'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
"""Of a model that the vLLM backend serves."""


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for several machines, a split of prefill from decode,
    and, with the vLLM backend, divided attention."""
    serving.one_machine()
    share, backend = serving.share, serving.backend or VLLM
    if serving.role != "whole" or (share.attention_dp > 1 and backend == VLLM):
        raise Unsupported(
            f"triton: the plan of {serving.model_name} divides attention or splits prefill from decode, "
            f"which its {backend} backend is not known to do; use vllm or sglang"
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
                *("--backend", backend),
                *("--host", serving.host),
                *("--openai-port", str(serving.port)),
                *given("--default-max-tokens", serving.context_tokens // 2),
                *("--model-repository", repository),
                *("--tokenizer", serving.model_path),
                *serving.args,
            ),
            files={f"{repository}/{path}": content for path, content in _repository(serving).items()},
        ),
    )


def capabilities_behind(backend: str | None, known: Capabilities) -> Capabilities:
    """What of the front end's abilities is left with that backend: log probabilities are vLLM's alone."""
    return known if backend != TENSORRTLLM else msgspec.structs.replace(known, logprobs=False)


def _repository(serving: Serving) -> dict[str, bytes]:
    name, share = serving.model_name, serving.share
    if serving.backend != TENSORRTLLM:
        return {f"{name}/config.pbtxt": CONFIG, f"{name}/1/model.json": _settings(serving)}
    if serving.memory_share is not None:
        raise Unsupported(
            f"triton: memory_share is {serving.memory_share}, which TensorRT-LLM cannot follow: it takes a "
            f"share of what the weights leave; remove it",
            field="spec.engine.memory_share",
        )
    known = triton_trtllm.llm_arguments(
        trtllm.told(serving, measured=False),
        model_path=serving.model_path,
        context_tokens=serving.context_tokens,
        max_sequences=serving.max_sequences,
    )
    spread = {
        "tensor_parallel_size": share.tp,
        "pipeline_parallel_size": share.pp if share.pp > 1 else None,
        "moe_expert_parallel_size": share.ep if share.ep > 1 else None,
    }
    return triton_trtllm.repository_files(name, {**known, **spread})


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
