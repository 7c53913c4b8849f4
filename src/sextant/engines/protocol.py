"""The protocol that every engine adapter follows.

An engine is always its own process (or a remote endpoint) spoken to over the OpenAI protocol; a crash of one
never takes the gateway down. The adapter is pure: it says how to launch and where to look; the supervisor
(`sextant.app`) launches, watches and restarts. Flow 1 reads the `ServedModel` it describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from sextant.engines.modelfacts import ModelFacts
from sextant.spec.snapshot import Capabilities, Quirks


class Replica(msgspec.Struct, frozen=True):
    """One replica to run: what the supervisor tells an adapter. Paths are absolute.

    `port` is already reserved for this replica (the supervisor holds a bound SO_REUSEPORT socket), so an
    engine that we launch must bind it with SO_REUSEPORT. `options` are `spec.engine`'s own options. For an
    engine that runs elsewhere `base_url` and `api_key_ref` come from the document and `port` is 0.
    """

    id: str
    model_id: str
    model_path: str
    context_tokens: int
    port: int
    key_file: str
    settings_file: str
    options: Mapping[str, object] = {}
    host: str = "127.0.0.1"
    base_url: str = ""
    api_key_ref: str | None = None
    upstream_model: str | None = None
    weights_bytes: int = 0
    """Of the model on disk, 0 when unknown: large ones get longer to become ready."""
    facts: ModelFacts | None = None
    """What the model's own files say, for rules such as which parser reads its reasoning; None where they are
    not known."""


class ServerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `spec.engine` may say to any engine that we launch as a program of its own."""

    command: tuple[str, ...] = ()
    """The program and its first arguments; empty: the adapter's own default, found on PATH."""
    args: tuple[str, ...] = ()
    """Further arguments, after ours."""
    env: Mapping[str, str] = {}
    tensor_parallel: int = 1
    memory_share: float | None = None
    """Of each accelerator's memory; None leaves it to the engine."""
    max_sequences: int | None = None
    """Requests decoded together; None leaves it to the engine."""
    precision: str | None = None
    """Weights' type or quantisation, in the engine's own word; None leaves it to the engine."""
    backend: Literal["vllm", "tensorrtllm"] | None = None
    """What Triton serves the model by; None: vLLM. Other engines have none."""
    ready_timeout_s: float | None = None
    """None: `ready_timeout_of` the weights' size."""
    stop_timeout_s: float = 30.0


READY_TIMEOUT_MIN_S = 900.0
READY_TIMEOUT_PER_GIB_S = 18.0
READY_TIMEOUT_MAX_S = 10_800.0


def ready_timeout_of(weights_bytes: int) -> float:
    """How long a start may take, s: 15 minutes and 18 s per GiB of weights, at most 3 hours (KAITO's rule for
    the startup probe, proposal 20260722)."""
    wanted_s = READY_TIMEOUT_MIN_S + READY_TIMEOUT_PER_GIB_S * weights_bytes / 2**30
    return min(wanted_s, READY_TIMEOUT_MAX_S)


class Launch(msgspec.Struct, frozen=True):
    """A process to start: argv, extra environment, the HTTP address it will answer on. `argv` is empty for an
    engine that runs elsewhere. `files` (path to content) are written, mode 0600, before the start.

    `base_url` is the API root. `health_path` and `metrics_path` are full targets on its origin.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    base_url: str
    health_path: str
    metrics_path: str | None
    ready_timeout_s: float
    stop_timeout_s: float
    files: Mapping[str, bytes] = {}
    api_key_ref: str | None = None
    upstream_model: str | None = None
    health_needs_key: bool = False
    memory_max_bytes: int = 0
    """Resident memory of it and all that it starts, beyond which it counts as leaking; 0 for no bound."""
    secret_env: Mapping[str, str] = {}
    """Environment variable to the reference of the secret that it carries; argv is no place for one."""


class EngineAdapter(Protocol):
    name: str

    @property
    def quirks(self) -> Quirks: ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do at most; `adapters.capabilities_of` says what it can with one model."""

    @property
    def metric_names(self) -> Mapping[str, str]:
        """The engine's own metric name to the name in our metric table."""

    def launch(self, replica: Replica) -> Launch:
        """How to start and reach one replica. Pure: touches neither disk nor network.

        Raises Misconfigured when an option is unknown or has a wrong value.
        """
