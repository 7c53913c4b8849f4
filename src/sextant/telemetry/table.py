"""The metric table: every metric of Sextant, declared once with kind, unit, labels and help.

Code gets its collectors from `Registry`; dashboards, alerts and the reference page are generated from
`TABLE`. Names follow OpenTelemetry's GenAI semantic conventions in Prometheus form where one exists
(`gen_ai.server.request.duration` is `gen_ai_server_request_duration_seconds`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import prometheus_client as prom

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric. `name` is the exported Prometheus name (a counter's without `_total`)."""

    name: str
    kind: Kind
    help: str
    unit: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, help_: str, *labels: str, unit: str = "1") -> Metric:
    return Metric(name, "counter", help_, unit, labels)


def _gauge(name: str, help_: str, *labels: str, unit: str = "1") -> Metric:
    return Metric(name, "gauge", help_, unit, labels)


def _histogram(name: str, help_: str, *labels: str, unit: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(name, "histogram", help_, unit, labels, buckets)


_REPLICA = ("model", "upstream")


def _engine_histogram(name: str, help_: str) -> Metric:
    """As the engine measured it; the buckets served are the engine's, which may be others."""
    told = f"{help_} As the engine measured it, in its own buckets."
    return _histogram(name, told, *_REPLICA, unit="s", buckets=LATENCY_BUCKETS_S)


TABLE: tuple[Metric, ...] = (
    # Requests, as the gateway sees them.
    _histogram(
        "gen_ai_server_request_duration_seconds",
        "Time from a request's last byte to its answer's last byte.",
        "endpoint",
        "model",
        "outcome",
        unit="s",
        buckets=LATENCY_BUCKETS_S,
    ),
    _histogram(
        "gen_ai_server_time_to_first_token_seconds",
        "Time from a request's last byte to the first token sent.",
        "endpoint",
        "model",
        unit="s",
        buckets=LATENCY_BUCKETS_S,
    ),
    _histogram(
        "gen_ai_server_time_per_output_token_seconds",
        "Mean time between output tokens of one streamed answer.",
        "endpoint",
        "model",
        unit="s",
        buckets=LATENCY_BUCKETS_S,
    ),
    _histogram(
        "inference_latency_seconds",
        "Time spent in the engine per request, as the gateway sees it.",
        "model",
        unit="s",
        buckets=LATENCY_BUCKETS_S,
    ),
    _counter("gen_ai_client_token_usage_tokens", "Tokens used.", "model", "type", unit="token"),
    _counter("sextant_gateway_requests", "Answers by status code.", "endpoint", "status"),
    _counter("sextant_gateway_errors", "Errors by code.", "endpoint", "code"),
    _gauge("sextant_gateway_requests_in_progress", "Requests with an engine call under way."),
    _gauge("sextant_gateway_queue_length", "Requests waiting for a place."),
    _gauge("sextant_model_requests_in_progress", "Requests with a call to this model's engine.", "model"),
    _gauge("sextant_model_queue_length", "Requests waiting for a place of this model.", "model"),
    _gauge("sextant_gateway_tenants_waiting", "Tenants with a request waiting for a place."),
    _gauge("sextant_model_places", "Requests that may run at a time on this model.", "model"),
    _counter("sextant_gateway_media_parts", "Images and sounds sent to an engine.", "model", "kind"),
    _counter("sextant_gateway_media_bytes", "Their bytes, decoded.", "model", "kind", unit="By"),
    _counter(
        "sextant_gateway_client_disconnects", "Clients that left before their answer ended.", "endpoint"
    ),
    _counter("sextant_gateway_keepalives", "Keep-alive comments and blank lines sent."),
    _gauge(
        "sextant_gateway_upstream_requests",
        "Requests that a replica works on or may get, those that wait for a place included; one that may go "
        "to several counts at each.",
        *_REPLICA,
    ),
    _gauge("sextant_gateway_snapshot_version", "Version in use of a snapshot.", "snapshot"),
    _gauge("sextant_gateway_ready", "1 while the gateway can serve."),
    # Transport.
    _gauge("sextant_transport_connections", "Open client connections."),
    _counter("sextant_transport_rejected_requests", "Requests refused before a handler saw them.", "reason"),
    _counter("sextant_transport_upstream_connects", "New upstream connections.", "result"),
    _counter(
        "sextant_transport_upstream_retries", "Requests sent again because a pooled connection was stale."
    ),
    _gauge("sextant_transport_upstream_idle_connections", "Pooled upstream connections."),
    _counter(
        "sextant_transport_upstream_peers_refused",
        "Upstreams that were not who they should be by SPIFFE id, or whom no authority vouches for.",
    ),
    # Our own SPIFFE identity.
    _gauge(
        "sextant_identity_expires_in_seconds",
        "Until our certificate ends; negative afterwards. Absent before there is one.",
        unit="s",
    ),
    _counter("sextant_identity_rotations", "Certificates of ours that followed the first."),
    # Governance and the ledger.
    _counter("sextant_governance_refusals", "Requests refused by governance.", "code"),
    _counter(
        "sextant_governance_limited",
        "Requests refused by a limit: which, and whether of a key, a project or a tenant.",
        "limit",
        "scope",
    ),
    _gauge("sextant_governance_limits_degraded", "1 while limits cannot be kept as configured."),
    _gauge("sextant_governance_open_admissions", "Requests admitted and neither settled nor refunded yet."),
    _counter(
        "sextant_privacy_findings",
        "Personal data found in prompts. The tenants' own types are `PATTERN`.",
        "type",
        "action",
    ),
    _counter(
        "sextant_gateway_fallbacks",
        "Requests that another model was asked to answer, since the one that they name could not.",
        "model",
        "instead",
    ),
    _counter("sextant_ledger_rows", "Usage rows made durable."),
    _gauge("sextant_ledger_pending_rows", "Usage rows not yet durable."),
    _gauge("sextant_ledger_connected", "1 while the ledger acknowledges."),
    _histogram(
        "sextant_ledger_commit_seconds",
        "Time from a batch's dispatch to its acknowledgement.",
        unit="s",
        buckets=LATENCY_BUCKETS_S,
    ),
    # Limits in Redis.
    _gauge("sextant_limits_connected", "1 while limits are kept in Redis and it answers."),
    _histogram(
        "sextant_limits_call_seconds",
        "Round trips to Redis; many admissions share one.",
        unit="s",
        buckets=LATENCY_BUCKETS_S,
    ),
    _counter(
        "sextant_limits_local_admissions", "Requests admitted by this process's own limits, Redis being away."
    ),
    _counter("sextant_limits_reaped_holds", "Holds ended here that gateways which died had left in Redis."),
    # Supervisor and engines.
    _gauge(
        "sextant_engine_ready", "1 while an engine replica answers its health check.", "model", "upstream"
    ),
    _counter("sextant_engine_restarts", "Times a process was started again after it died.", "process"),
    _gauge("sextant_follow_applied", "1, with the commit that the deployment serves.", "revision"),
    _gauge("sextant_follow_in_step", "1 while the newest commit of the branch that is followed serves."),
    _gauge(
        "sextant_follow_last_contact_timestamp_seconds",
        "When the repository that is followed last answered; 0: never.",
        unit="s",
    ),
    _counter("sextant_follow_failures", "Looks at the repository that ended in trouble."),
    _gauge("sextant_forward_waiting_rows", "Rows of the ledger that the centre has not confirmed yet."),
    _gauge(
        "sextant_forward_waiting_age_seconds",
        "Age of the oldest row that the centre has not confirmed yet; 0 for none.",
        unit="s",
    ),
    _gauge(
        "sextant_forward_last_success_timestamp_seconds",
        "When the centre last answered, in Unix time; 0 for never. It is asked at least once a minute.",
        unit="s",
    ),
    _counter("sextant_forward_rows", "Rows that the centre took, those that it holds included."),
    _counter(
        "sextant_forward_held_rows", "Rows that the centre held when they came: it knew no tenant for them."
    ),
    _counter(
        "sextant_forward_differing_rows",
        "Rows that the centre has already, with another content; it keeps its.",
    ),
    _counter("sextant_control_sign_ups", "Sign-ups of strangers, by what became of them.", "outcome"),
    _gauge(
        "sextant_site_last_contact_age_seconds",
        "Time since a site of this centre was last heard of; its box asks at least once a minute.",
        "site",
        unit="s",
    ),
    _gauge(
        "sextant_site_held_rows", "Rows of a site that are held: its record names no tenant for them.", "site"
    ),
    # An engine's own metrics under one name each; `spec/data/engines.toml` says which is which.
    _gauge(
        "sextant_engine_metrics_readable",
        "1 while an engine's own metrics can be read, 0 when they cannot.",
        *_REPLICA,
    ),
    _gauge("sextant_engine_requests_running", "Requests that the engine is decoding.", *_REPLICA),
    _gauge("sextant_engine_requests_waiting", "Requests waiting inside the engine.", *_REPLICA),
    _gauge("sextant_engine_kv_cache_used_ratio", "Used share of the KV cache, 0 to 1.", *_REPLICA),
    _counter("sextant_engine_prompt_tokens", "Prompt tokens processed.", *_REPLICA, unit="token"),
    _counter("sextant_engine_generated_tokens", "Tokens generated.", *_REPLICA, unit="token"),
    _counter("sextant_engine_cached_tokens", "Prompt tokens found in a cache.", *_REPLICA, unit="token"),
    _counter("sextant_engine_preemptions", "Requests set back to make room in the KV cache.", *_REPLICA),
    _engine_histogram(
        "sextant_engine_time_to_first_token_seconds", "From a request's arrival to its first token."
    ),
    _engine_histogram(
        "sextant_engine_time_per_output_token_seconds", "Mean time between output tokens of one request."
    ),
    _engine_histogram("sextant_engine_queue_seconds", "Time that a request waited inside the engine."),
    _engine_histogram("sextant_engine_request_seconds", "From a request's arrival to its end."),
)


class Registry:
    """Collectors made from the table for one process; an unknown name is a KeyError at start, not later."""

    def __init__(self, table: tuple[Metric, ...] = TABLE) -> None:
        self.prometheus = prom.CollectorRegistry(auto_describe=True)
        self._table = {metric.name: metric for metric in table}
        self._collectors: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The collector of `name`, registered on first use; bind its children once with `.labels(...)`."""
        found = self._collectors.get(name)
        if found is None:
            found = self._collectors[name] = self._make(self._table[name])
        return found

    def _make(self, metric: Metric) -> Any:
        if metric.kind == "histogram":
            return prom.Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.prometheus
            )
        maker = prom.Counter if metric.kind == "counter" else prom.Gauge
        return maker(metric.name, metric.help, metric.labels, registry=self.prometheus)

    def exposition(self) -> bytes:
        """The Prometheus text format 0.0.4 of everything registered so far."""
        return prom.generate_latest(self.prometheus)
