"""SGLang on one machine or several: every machine runs the same line, with its own number.

Flags from SGLang's Server Arguments, Multi-Node Deployment and PD Disaggregation (docs.sglang.io).
"""

from __future__ import annotations

from sextant.catalog.keyed import run_module
from sextant.catalog.serving import Command, Serving, finished, given, ruled_args, typed

INIT_PORT = 20_000
BOOTSTRAP_PORT = 8998


def command(serving: Serving) -> Command:
    """How that replica is started."""
    start = (
        *(serving.command or serving.engine.command),
        *run_module("sglang.launch_server", "--api-key", "{key}"),
        *_alike(serving),
    )
    leader: tuple[str, ...] = (*start, *serving.args)
    worker: tuple[str, ...] = ()
    if serving.nodes > 1:
        group = ("--nnodes", str(serving.nodes), "--dist-init-addr", f"{serving.leader}:{INIT_PORT}")
        leader = (*start, *group, "--node-rank", "0", *serving.args)
        worker = (*start, *group, "--node-rank", serving.rank, *serving.args)
    return finished(
        serving,
        Command(
            argv=leader,
            worker_argv=worker,
            rdma=serving.nodes > 1 or serving.role != "whole",
        ),
    )


def _alike(serving: Serving) -> tuple[str, ...]:
    share = serving.share
    return (
        *("--model-path", serving.model_path),
        *("--served-model-name", serving.model_name),
        *("--host", serving.host),
        *("--port", str(serving.port)),
        *given("--context-length", serving.context_tokens),
        *("--tp-size", str(share.tp)),
        *given("--pp-size", share.pp if share.pp > 1 else None),
        *(("--dp-size", str(share.attention_dp), "--enable-dp-attention") if share.attention_dp > 1 else ()),
        *_experts(serving),
        *given("--mem-fraction-static", serving.memory_share),
        *given("--max-running-requests", serving.max_sequences),
        *typed(serving, "--dtype", "--quantization"),
        *given("--kv-cache-dtype", "fp8_e4m3" if serving.kv_precision == "fp8" else None),
        *_split(serving),
        "--enable-metrics",
        "--enable-cache-report",
        *ruled_args(serving),
    )


def _experts(serving: Serving) -> tuple[str, ...]:
    """Experts spread over ranks; across machines tokens reach them by DeepEP, which is NVIDIA's alone."""
    if serving.share.ep <= 1:
        return ()
    across = serving.nodes > 1 and serving.vendor == "nvidia"
    return ("--ep-size", str(serving.share.ep), *(("--moe-a2a-backend", "deepep") if across else ()))


def _split(serving: Serving) -> tuple[str, ...]:
    if serving.role == "whole":
        return ()
    transfer = ("--disaggregation-mode", serving.role, "--disaggregation-transfer-backend", "nixl")
    port = ("--disaggregation-bootstrap-port", str(BOOTSTRAP_PORT)) if serving.role == "prefill" else ()
    return (*transfer, *port)
