"""vLLM on one machine or several: `vllm serve` and its workers.

Several machines: with one rank of attention per request, `--nnodes` and `--headless` split tensors and layers
over all of them; with attention divided by request, each machine runs its share of data-parallel ranks. Flags
from vLLM's pages Parallelism and Scaling, Data Parallel Deployment, and NixlConnector Usage (docs.vllm.ai).
"""

from __future__ import annotations

import json
import shlex

from sextant.base.errors import Unsupported
from sextant.catalog.serving import Command, Serving, finished, given, ruled_args, typed
from sextant.spec.planning import Layout

MASTER_PORT = 29_500
RPC_PORT = 13_345
SIDE_CHANNEL_PORT = 5600


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported where its attention ranks do not divide among its
    machines."""
    share = serving.share
    start = (*(serving.command or serving.engine.command), serving.model_path)
    shared = (*_parallel(share), *_alike(serving), *_split(serving))
    leader = (*start, *_address(serving), *shared)
    worker: tuple[str, ...] = ()
    if serving.nodes > 1 and share.attention_dp > 1:
        here = _ranks_per_node(serving)
        ranks: tuple[str, ...] = (
            "--data-parallel-size-local",
            str(here),
            "--data-parallel-address",
            serving.leader,
        )
        ranks = (*ranks, "--data-parallel-rpc-port", str(RPC_PORT))
        leader = (*leader, *ranks)
        headless = shlex.join((*start, *shared, *ranks, "--headless", *serving.args))
        worker = (
            "sh",
            "-c",
            f"exec {headless} --data-parallel-start-rank $(({_shell(serving.rank)} * {here}))",
        )
    elif serving.nodes > 1:
        group: tuple[str, ...] = ("--nnodes", str(serving.nodes), "--master-addr", serving.leader)
        group = (*group, "--master-port", str(MASTER_PORT))
        worker = (*start, *shared, *group, "--node-rank", serving.rank, "--headless", *serving.args)
        leader = (*leader, *group, "--node-rank", "0")
    return finished(
        serving,
        Command(
            argv=(*leader, *serving.args),
            worker_argv=worker,
            env=_environment(serving),
            rdma=serving.nodes > 1 or serving.role != "whole",
        ),
    )


def _address(serving: Serving) -> tuple[str, ...]:
    return (
        *("--served-model-name", serving.model_name),
        *("--host", serving.host),
        *("--port", str(serving.port)),
    )


def _parallel(share: Layout) -> tuple[str, ...]:
    return (
        *("--tensor-parallel-size", str(share.attention_tp)),
        *given("--pipeline-parallel-size", share.pp if share.pp > 1 else None),
        *given("--data-parallel-size", share.attention_dp if share.attention_dp > 1 else None),
        *(("--enable-expert-parallel",) if share.ep > 1 else ()),
    )


def _alike(serving: Serving) -> tuple[str, ...]:
    """What every machine of the group must be told alike."""
    return (
        *given("--max-model-len", serving.context_tokens),
        *given("--gpu-memory-utilization", serving.memory_share),
        *given("--max-num-seqs", serving.max_sequences),
        *typed(serving, "--dtype", "--quantization"),
        *given("--kv-cache-dtype", "fp8" if serving.kv_precision == "fp8" else None),
        "--enable-prompt-tokens-details",
        "--exclude-tools-when-tool-choice-none",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        *ruled_args(serving),
    )


def _split(serving: Serving) -> tuple[str, ...]:
    if serving.role == "whole":
        return ()
    told = {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_producer" if serving.role == "prefill" else "kv_consumer",
        "kv_load_failure_policy": "fail",
    }
    return ("--kv-transfer-config", json.dumps(told, separators=(",", ":")))


def _environment(serving: Serving) -> dict[str, str]:
    if serving.role == "whole":
        return {}
    return {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(SIDE_CHANNEL_PORT)}


def _ranks_per_node(serving: Serving) -> int:
    ranks = serving.share.attention_dp
    if ranks % serving.nodes or serving.share.pp > 1:
        raise Unsupported(
            f"vllm: {ranks} groups of ranks with {serving.share.pp} pipeline stages do not divide among "
            f"{serving.nodes} machines; expected a multiple of {serving.nodes} and one stage"
        )
    return ranks // serving.nodes


def _shell(rank: str) -> str:
    """The machine's number for the shell's arithmetic: a variable's name, or the number itself."""
    return rank.strip("${}()")
