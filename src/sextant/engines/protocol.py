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


class Launch(msgspec.Struct, frozen=True):
    """A process to start: argv, extra environment, the HTTP address it will answer on. `argv` is empty for an
    engine that runs elsewhere. `secret_files` maps an environment name to the file holding its value."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    base_url: str
    health_path: str
    metrics_path: str | None
    ready_timeout_s: float
    stop_timeout_s: float


class EngineAdapter(Protocol):
    name: str
    quirks: Quirks
    capabilities: Capabilities
    metric_names: Mapping[str, str]
    """The engine's own metric name to the name in our metric table."""
