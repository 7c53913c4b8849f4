"""TensorRT-LLM by its own server, `trtllm-serve`, on one machine: its PyTorch backend reads the checkpoint.

There is no engine to compile: NVIDIA has removed the TensorRT backend and `trtllm-build` from its releases
after 1.2 (its Migration Guide: TensorRT Backend Removed). What has no argument stands in a file that
`--extra_llm_api_options` names; JSON is YAML. The server takes no key: a bundle must keep others away from
its port, which also has ways to change weights. `triton_trtllm.py` hands the same settings to the LLM API.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog.serving import Command, Serving, finished, given, ruled_args

MAX_NUM_TOKENS = 8192
"""Tokens of one pass over the model: the server's own default. Longer prompts go in as chunks."""
CACHE_SHARE = 0.9
"""Of the memory that weights and buffers leave, for the KV cache: what the planner counts with."""
SETTINGS_FLAG = "--extra_llm_api_options"
"""The argument that names the file; releases from 1.2 on take `--config` as well."""

LIMITS = (
    *("--max_num_tokens", str(MAX_NUM_TOKENS)),
    *("--kv_cache_free_gpu_memory_fraction", str(CACHE_SHARE)),
)
"""What `spec.engine.args` may say otherwise."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What has no argument of the server's."""

    fp8_cache: bool = False
    attention_dp: bool = False
    dtype: str | None = None
    measured: bool = True
    """Whether the server counts what `/prometheus/metrics` shows."""


def settings(told: Told) -> dict[str, Any]:
    """The LLM API's arguments for it, in their own names (TorchLlmArgs)."""
    named = {
        "dtype": told.dtype,
        "enable_attention_dp": told.attention_dp,
        "enable_chunked_prefill": True,
        "kv_cache_config": {"dtype": "fp8"} if told.fp8_cache else None,
        "return_perf_metrics": told.measured,
        "enable_iter_perf_stats": told.measured,
    }
    return {name: value for name, value in named.items() if value}


def as_file(made: dict[str, Any]) -> bytes:
    """Settings as the text of their file."""
    return json.dumps(made, indent=2).encode() + b"\n"


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for several machines, and for a split of prefill from
    decode."""
    serving.one_machine()
    if serving.role != "whole":
        raise Unsupported(
            f"trtllm: the plan of {serving.model_name} splits prefill from decode, which needs a "
            f"coordinator that is not rendered; use vllm or sglang"
        )
    share = serving.share
    path = f"{serving.files_folder}/trtllm.json"
    return finished(
        serving,
        Command(
            argv=(
                *(serving.command or serving.engine.command),
                serving.model_path,
                *("--host", serving.host),
                *("--port", str(serving.port)),
                *given("--max_seq_len", serving.context_tokens),
                *("--tp_size", str(share.tp)),
                *given("--pp_size", share.pp if share.pp > 1 else None),
                *given("--ep_size", share.ep if share.ep > 1 else None),
                *given("--max_batch_size", serving.max_sequences),
                *LIMITS,
                *(SETTINGS_FLAG, path),
                *ruled_args(serving),
                *serving.args,
            ),
            files={path: as_file(settings(told(serving)))},
        ),
    )


def told(serving: Serving, *, measured: bool = True) -> Told:
    """What has no argument of the server's, for that replica."""
    precision = serving.precision
    is_dtype = precision is not None and serving.engine.is_dtype(precision)
    return Told(
        fp8_cache=serving.kv_precision == "fp8",
        attention_dp=serving.share.attention_dp > 1,
        dtype=precision if is_dtype else None,
        measured=measured,
    )
