"""NVIDIA NIM for LLMs, on one machine: environment alone, the image's own entry point."""

from __future__ import annotations

import shlex

from sextant.base.errors import Unsupported
from sextant.catalog.serving import Command, Serving, finished, given, ruled_args, typed


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for several machines and a split of prefill from
    decode."""
    serving.one_machine()
    if serving.role != "whole":
        raise Unsupported(
            f"nim: the plan of {serving.model_name} splits prefill from decode, which a NIM container "
            f"does not; use vllm or sglang"
        )
    share = serving.share
    passed = (
        *given("--gpu-memory-utilization", serving.memory_share),
        *given("--max-num-seqs", serving.max_sequences),
        *typed(serving, "--dtype", "--quantization"),
        *given("--kv-cache-dtype", "fp8" if serving.kv_precision == "fp8" else None),
        *given("--data-parallel-size", share.attention_dp if share.attention_dp > 1 else None),
        *(("--enable-expert-parallel",) if share.ep > 1 else ()),
        "--enable-prompt-tokens-details",
        "--exclude-tools-when-tool-choice-none",
        *ruled_args(serving),
        *serving.args,
    )
    env = {
        "NIM_MODEL_PATH": serving.model_path,
        "NIM_SERVED_MODEL_NAME": serving.model_name,
        "NIM_SERVER_PORT": str(serving.port),
        "NIM_MAX_MODEL_LEN": str(serving.context_tokens or ""),
        "NIM_TENSOR_PARALLEL_SIZE": str(share.attention_tp),
        "NIM_PIPELINE_PARALLEL_SIZE": str(share.pp) if share.pp > 1 else "",
        "NIM_PASSTHROUGH_ARGS": shlex.join(passed),
    }
    set_ = {name: value for name, value in env.items() if value}
    return finished(serving, Command(argv=serving.command, env=set_))
