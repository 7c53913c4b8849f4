"""MindIE on Ascend NPUs, on one machine: one JSON file.

It takes no API key: whoever reaches its port is answered, so a bundle must keep others away from it.
"""

from __future__ import annotations

import json
from typing import Any

from sextant.base.errors import Unsupported
from sextant.catalog.serving import Command, Serving, finished

MAX_BATCH_REQUESTS = 200
"""Decoded together where `max_sequences` does not say: MindIE's own default."""


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for several machines, a split of prefill from decode,
    and a context that is not known."""
    serving.one_machine()
    if serving.role != "whole":
        raise Unsupported(
            f"mindie: the plan of {serving.model_name} splits prefill from decode, which is not supported "
            f"here; use vllm or sglang"
        )
    if not serving.context_tokens:
        raise Unsupported(
            f"mindie: the context of {serving.model_name} is not known, and MindIE must be told; write "
            f"spec.engine.context_tokens"
        )
    path = f"{serving.files_folder}/mindie.json"
    settings = json.dumps(_configuration(serving), indent=2).encode() + b"\n"
    return finished(
        serving,
        Command(
            argv=(*(serving.command or serving.engine.command), *serving.args),
            env={"MIES_CONFIG_JSON_PATH": path},
            files={path: settings},
        ),
    )


def _configuration(serving: Serving) -> dict[str, Any]:
    return {
        "Version": "1.0.0",
        "ServerConfig": {
            "ipAddress": serving.host,
            "managementIpAddress": serving.host,
            "port": serving.port,
            "managementPort": serving.port,
            "metricsPort": serving.port,
            "allowAllZeroIpListening": serving.host == "0.0.0.0",
            "httpsEnabled": False,
            "interCommTLSEnabled": False,
            "inferMode": "standard",
            "openAiSupport": "vllm",
        },
        "BackendConfig": {
            "backendName": "mindieservice_llm_engine",
            "modelInstanceNumber": 1,
            "npuDeviceIds": [list(range(serving.share.replica))],
            "tokenizerProcessNumber": 8,
            "multiNodesInferEnabled": False,
            "interNodeTLSEnabled": False,
            "ModelDeployConfig": {
                "maxSeqLen": serving.context_tokens,
                "maxInputTokenLen": serving.context_tokens - 1,
                "truncation": False,
                "ModelConfig": [_model(serving)],
            },
            "ScheduleConfig": {
                "maxBatchSize": serving.max_sequences or MAX_BATCH_REQUESTS,
                "maxIterTimes": serving.context_tokens,
                "maxPrefillTokens": serving.context_tokens,
            },
        },
    }


def _model(serving: Serving) -> dict[str, Any]:
    share = serving.share
    model = {
        "modelInstanceType": "Standard",
        "modelName": serving.model_name,
        "modelWeightPath": serving.model_path,
        "worldSize": share.replica,
        "cpuMemSize": 0,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
    }
    if share.attention_dp > 1 or share.ep > 1:
        model |= {"dp": share.attention_dp, "tp": share.attention_tp}
        model |= {"moe_ep": share.ep, "moe_tp": share.tp // share.ep}
    return model
