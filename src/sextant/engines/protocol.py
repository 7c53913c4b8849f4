"""The protocol that every engine adapter follows.

An engine is always its own process (or a remote endpoint) spoken to over the OpenAI protocol; a crash of one
never takes the gateway down. The adapter is pure: it says how to launch and where to look; the supervisor
(`sextant.app`) launches, watches and restarts. Flow 1 reads the `ServedModel` it describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

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


class EngineAdapter(Protocol):
    name: str
    quirks: Quirks
    capabilities: Capabilities
    metric_names: Mapping[str, str]
    """The engine's own metric name to the name in our metric table."""

    def launch(self, replica: Replica) -> Launch:
        """How to start and reach one replica. Pure: touches neither disk nor network.

        Raises Misconfigured when an option is unknown or has a wrong value.
        """
