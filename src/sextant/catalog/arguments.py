"""How an engine is called in a container or on several machines: argv and environment from a plan's layout.

`sextant.engines` starts an engine on this machine; this says the same for a bundle, where one replica may
span machines. The facts both share stand in `spec/data/engines.toml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from sextant.base.errors import Unsupported
from sextant.spec.engine_data import EngineData
from sextant.spec.planning import Layout

Role = Literal["whole", "prefill", "decode"]
"""What a group of machines does: all of it, or one half of a plan that splits prefill from decode."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of one model, as the machines that run it must be told."""

    engine: EngineData
    kind: str
    """The engine's name: vllm, sglang, …"""
    model_name: str
    """What callers of the engine write as `model`."""
    model_path: str
    """Folder or file of the weights, on the machine or in the container."""
    layout: Layout = Layout()
    role: Role = "whole"
    host: str = "0.0.0.0"
    port: int = 8000
    context_tokens: int = 0
    """0: what the model was made for."""
    memory_share: float | None = None
    max_sequences: int | None = None
    precision: str | None = None
    kv_precision: str | None = None
    args: tuple[str, ...] = ()
    """The document's further arguments."""
    env: Mapping[str, str] = {}
    per_node: int = 8
    """Accelerators of one machine."""
    leader: str = "$(LWS_LEADER_ADDRESS)"
    """How a worker names the first machine of its group, where there are several."""
    rank: str = "$(LWS_WORKER_INDEX)"
    """How a machine names its own number in the group."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run on each machine of one replica. `argv` is empty where the image's own entry point is
    meant."""

    argv: tuple[str, ...]
    """Of the first machine, which answers."""
    worker_argv: tuple[str, ...] = ()
    """Of every other machine; empty: there is only one."""
    env: Mapping[str, str] = {}
    secret_env: Mapping[str, str] = {}
    """Variable to the name of the secret it carries (`engine-key`); never a value."""
    files: Mapping[str, bytes] = {}
    """Further files, by path, that the engine reads."""
    nodes: int = 1
    """Machines of one replica."""
    per_node: int = 1
    """Accelerators that each of them needs."""
    port: int = 8000
    health_path: str = "/health"
    metrics_path: str = ""


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported for a layout that the engine cannot do."""
    raise Unsupported(f"{serving.kind}: not in this version")
