"""What an engine must be told to serve one replica of a plan, and how it is called: nouns of `arguments.py`.

A replica is one copy of the model: `layout.tp * layout.pp` accelerators on one machine or several. Its `dp`
replicas are so many of these side by side, which is the bundle's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from sextant.base.errors import Unsupported
from sextant.spec.engine_data import EngineData, Traits
from sextant.spec.planning import Layout

Role = Literal["whole", "prefill", "decode"]
"""What a group of machines does: all of it, or one half of a plan that splits prefill from decode."""

KEY_SECRET = "engine-key"
"""Name of the secret that every engine's key stands under in `Command.secret_env`."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of one model, as the machines that run it must be told."""

    engine: EngineData
    kind: str
    """The engine's name: vllm, sglang, …"""
    model_name: str
    """What callers of the engine write as `model`."""
    model_path: str
    """Folder or file of the weights, on the machine or in the container."""
    traits: Traits = Traits()
    """What is known of the model's files; the engine's rules ask for it."""
    layout: Layout = Layout()
    role: Role = "whole"
    vendor: str = "nvidia"
    command: tuple[str, ...] = ()
    """The program; empty: the engine's own, as its image or package has it."""
    host: str = "0.0.0.0"
    port: int = 8000
    context_tokens: int = 0
    """0: what the model was made for."""
    memory_share: float | None = None
    max_sequences: int | None = None
    precision: str | None = None
    kv_precision: str | None = None
    backend: str | None = None
    """What Triton serves it by: `tensorrtllm`, or vLLM where it says nothing."""
    args: tuple[str, ...] = ()
    """The document's further arguments."""
    env: Mapping[str, str] = {}
    per_node: int = 8
    """Accelerators of one machine."""
    leader: str = "$(LWS_LEADER_ADDRESS)"
    """How a worker names the first machine of its group, where there are several."""
    rank: str = "$(LWS_WORKER_INDEX)"
    """How a machine names its own number in the group."""
    files_folder: str = "/etc/sextant/engine"
    """Where files that the engine reads are put."""

    @property
    def share(self) -> Layout:
        """The layout of this role."""
        half = {"prefill": self.layout.prefill, "decode": self.layout.decode}.get(self.role)
        return half or self.layout

    @property
    def nodes(self) -> int:
        """Machines of one replica. Raises Unsupported where they would not be full."""
        replica = self.share.replica
        if replica <= self.per_node:
            return 1
        if replica % self.per_node:
            raise Unsupported(
                f"{self.kind}: one replica of {self.model_name} needs {replica} accelerators, which do not "
                f"fill machines of {self.per_node}; expected a multiple of {self.per_node}"
            )
        return replica // self.per_node

    def one_machine(self) -> None:
        """Raises Unsupported where the replica spans machines."""
        if self.nodes > 1:
            raise Unsupported(
                f"{self.kind}: one replica of {self.model_name} spans {self.nodes} machines, which is not "
                f"supported with this engine; use vllm or sglang, or fewer and larger accelerators"
            )


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run on each machine of one replica. `argv` is empty where the image's own entry point is
    meant."""

    argv: tuple[str, ...]
    """Of the first machine, which answers."""
    worker_argv: tuple[str, ...] = ()
    """Of every other machine; empty: there is only one."""
    env: Mapping[str, str] = {}
    secret_env: Mapping[str, str] = {}
    """Variable to the name of the secret it carries (`KEY_SECRET`); never a value."""
    files: Mapping[str, bytes] = {}
    """Further files, by path, that the engine reads."""
    nodes: int = 1
    """Machines of one replica."""
    per_node: int = 1
    """Accelerators that each of them needs."""
    port: int = 8000
    health_path: str = "/health"
    metrics_path: str = ""
    rdma: bool = False
    """Whether machines exchange so much that a network with RDMA is wanted."""


def given(flag: str, value: object | None) -> tuple[str, ...]:
    """`flag` and its value as arguments; nothing where no value (None, zero, empty) is given."""
    return (flag, str(value)) if value else ()


def typed(serving: Serving, dtype_flag: str, quantisation_flag: str) -> tuple[str, ...]:
    """The document's `precision` as one of two arguments: engines tell a data type from a quantisation."""
    if serving.precision is None:
        return ()
    is_dtype = serving.engine.is_dtype(serving.precision)
    return (dtype_flag if is_dtype else quantisation_flag, serving.precision)


def ruled_args(serving: Serving) -> tuple[str, ...]:
    """The arguments that the engine's rules give for this model."""
    return tuple(arg for rule in serving.engine.rules_for(serving.traits) for arg in rule.args)


def finished(serving: Serving, command: Command) -> Command:
    """`command` with what every engine has alike: environment, key, addresses, the size of its machines."""
    data = serving.engine
    ruled = [pair for rule in data.rules_for(serving.traits) for pair in rule.env.items()]
    replica = serving.share.replica
    return msgspec.structs.replace(
        command,
        env={**data.env, **dict(ruled), **command.env, **serving.env},
        secret_env={data.key_variable: KEY_SECRET} if data.key_variable else {},
        nodes=serving.nodes,
        per_node=min(replica, serving.per_node),
        port=serving.port,
        health_path=data.health_path,
        metrics_path=data.metrics_path,
    )
