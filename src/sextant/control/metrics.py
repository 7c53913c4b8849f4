"""The supervisor's metrics, made from its status file and served by control's `/metrics`."""

from __future__ import annotations

from sextant.control.settings import Status
from sextant.telemetry.table import Registry


def exposition(status: Status | None) -> bytes:
    """The Prometheus text of engine readiness and process restarts; empty families without a status."""
    registry = Registry()
    ready = registry["sextant_engine_ready"]
    restarts = registry["sextant_engine_restarts"]
    for process in () if status is None else status.processes:
        if process.kind == "engine":
            ready.labels(process.model, process.upstream).set(process.state == "ready")
        restarts.labels(process.name).inc(process.restarts)
    return registry.exposition()
