"""Metrics of the supervisor, the forwarder and `sextant follow`, made from their status files and served by
control's `/metrics`."""

from __future__ import annotations

from pathlib import Path

from sextant.control.settings import ControlSettings, Status, read_sync
from sextant.spec.sites import read_forward_status
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


def forward_metrics(settings: ControlSettings, *, now_ms: int) -> bytes:
    """How forwarding to the centre stands; empty where there is no centre."""
    found = read_forward_status(Path(settings.forward_status_file)) if settings.forward_status_file else None
    if found is None:
        return b""
    registry = Registry()
    age_ms = max(0, now_ms - found.waiting_since_ms) if found.waiting_since_ms else 0
    registry["sextant_forward_waiting_rows"].set(found.waiting_rows)
    registry["sextant_forward_waiting_age_seconds"].set(age_ms / 1000)
    registry["sextant_forward_last_success_timestamp_seconds"].set(found.success_ms / 1000)
    registry["sextant_forward_rows"].inc(found.sent_rows)
    registry["sextant_forward_held_rows"].inc(found.held_rows)
    registry["sextant_forward_differing_rows"].inc(found.differing_rows)
    return registry.exposition()


def follow_metrics(settings: ControlSettings, status: Status | None) -> bytes:
    """How the deployment stands to the repository that it follows; empty where it follows none."""
    found = read_sync(Path(settings.sync_file)) if settings.sync_file else None
    if found is None:
        return b""
    registry = Registry()
    applied = status.applied.revision if status is not None and status.applied is not None else ""
    if applied:
        registry["sextant_follow_applied"].labels(applied).set(1)
    registry["sextant_follow_in_step"].set(bool(applied) and applied == found.newest)
    registry["sextant_follow_last_contact_timestamp_seconds"].set(found.reached_ms / 1000)
    registry["sextant_follow_failures"].inc(found.failures)
    return registry.exposition()


def engine_metrics(settings: ControlSettings) -> bytes:
    """What the supervisor last read of the engines' own metrics; empty before it read any."""
    try:
        return Path(settings.engine_metrics_file).read_bytes()
    except OSError:
        return b""
