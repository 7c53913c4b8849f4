"""What the supervisor keeps running, each as a `Member`: how it is started and how it is asked how it is.

Neighbours: `supervisor.py` owns the members, `child.py` and `remote_watch.py` run one.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from sextant.app.centre_plan import forwarder_program, forwarder_settings
from sextant.app.child import Child, Condition, Program
from sextant.app.engine_metrics import idle_check
from sextant.app.entry import DRAIN_GRACE_S
from sextant.app.identity import IdentityWatch, KnownPeer
from sextant.app.model_plan import EnginePlan
from sextant.app.plan import Plan
from sextant.app.probe import Peer, Probe, connect_probe, fresh_file_probe, http_probe, ledger_probe
from sextant.app.remote_watch import RemoteWatch
from sextant.app.state import StateDir
from sextant.app.stores import secret_variables
from sextant.base.config import resolve_secret
from sextant.security.spiffe import Peers
from sextant.spec.snapshot import GatewaySettings, TlsFiles

Kind = Literal["ledger", "identity", "engine", "gateway", "control", "forwarder"]
Headers = Callable[[], Mapping[str, str]]
OnChange = Callable[[Child | RemoteWatch], None]

REMOTE_PROBE_TIMEOUT_S = 10.0
WORK_PROBE_TIMEOUT_S = 60.0
"""An engine answers between two steps; one step over a long prompt of a large model may take this long."""


class Member(msgspec.Struct):
    """One supervised thing and what it is for."""

    name: str
    kind: Kind
    runner: Child | RemoteWatch
    engine: EnginePlan | None = None
    serves: bool = True
    """False for an engine that no route table names: not yet, or not any more."""
    peer: Peer | None = None
    """Who must answer for an engine that runs elsewhere, where it is known by an id."""
    since_ms: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def condition(self) -> Condition:
        return self.runner.condition


def members_of(
    plan: Plan, state: StateDir, gateways: Mapping[str, GatewaySettings], on_change: OnChange
) -> list[Member]:
    """All that `plan` runs, in the order of starting. `gateways` are the workers' settings by name."""
    return [
        _ledger(plan, state, on_change),
        *_identity(plan, state, on_change),
        *(engine_member(engine, state, on_change) for engine in plan.engines),
        *_gateways(plan, state, gateways, on_change),
        _control(plan, state, on_change),
        *_forwarder(plan, state, on_change),
    ]


def engine_member(engine: EnginePlan, state: StateDir, on_change: OnChange) -> Member:
    """One engine, or the watch over one that runs elsewhere. Raises Misconfigured for a missing secret."""
    launch, name = engine.launch, f"engine-{engine.upstream_id}"
    parts = urlsplit(launch.base_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    key = bearer(launch.api_key_ref)
    health_headers = key if launch.health_needs_key else dict
    if not launch.argv:
        health_headers()  # a missing secret is told at the start, not by a failing probe
        peer = None
        if engine.peer_id is not None:
            peer = KnownPeer(IdentityWatch(state.identity_file, Peers()), engine.peer_id)
        url = f"{origin}{launch.health_path}"
        probe = http_probe(url, health_headers, timeout_s=REMOTE_PROBE_TIMEOUT_S, peer=peer)
        return Member(name, "engine", RemoteWatch(name, probe, on_change), engine, peer=peer)
    work_probe = None
    if launch.metrics_path is not None:  # answered by the engine's own loop, between two decoding steps
        work_probe = http_probe(f"{origin}{launch.metrics_path}", key, timeout_s=WORK_PROBE_TIMEOUT_S)
    program = Program(
        name=name,
        argv=launch.argv,
        log_file=state.logs / f"{name}.log",
        probe=http_probe(f"{origin}{launch.health_path}", health_headers),
        work_probe=work_probe,
        env=launch.env,
        files=launch.files,
        secret_env=launch.secret_env,
        memory_max_bytes=launch.memory_max_bytes,
        idle=idle_check(engine.metrics),
        ready_timeout_s=launch.ready_timeout_s,
        stop_timeout_s=launch.stop_timeout_s,
    )
    return Member(name, "engine", Child(program, on_change), engine)


def gateway_probe(plan: Plan, settings: GatewaySettings, path: str) -> Probe:
    """A probe of one gateway worker's own `path`."""
    if settings.probe_port:
        return http_probe(f"http://127.0.0.1:{settings.probe_port}{path}")
    return _listener_probe(plan.url, path, plan.gateway.tls, dict)


def bearer(ref: str | None) -> Headers:
    """A maker of the header that carries the secret behind `ref`, read anew each time; no header for None."""
    return lambda: {} if ref is None else {"Authorization": f"Bearer {resolve_secret(ref)}"}


def _ledger(plan: Plan, state: StateDir, on_change: OnChange) -> Member:
    store = plan.store
    numbered = () if plan.document.spec.centre is None else ("--numbered",)
    arguments: tuple[str | Path, ...] = ("--db", state.ledger_db, *numbered)
    if not store.is_sqlite:
        arguments = ("--store", state.ledger_url_file)
        arguments += ("--password", store.password_ref) if store.password_ref else ()
    arguments += ("--socket", state.ledger_socket, "--policy", state.policy_file)
    program = Program(
        name="ledger",
        argv=_module("sextant.app.ledger_process", *arguments, "--log-level", plan.log_level),
        log_file=state.logs / "ledger.log",
        probe=ledger_probe(state.ledger_socket),
        files={} if store.is_sqlite else {str(state.ledger_url_file): store.url.encode()},
        env=secret_variables([store.password_ref]),
    )
    return Member("ledger", "ledger", Child(program, on_change))


def _identity(plan: Plan, state: StateDir, on_change: OnChange) -> Iterator[Member]:
    """Who keeps our certificate fresh. It is well as soon as it has written down what it knows, which may be
    that nobody answers."""
    spiffe = plan.document.spec.security.spiffe
    if spiffe is None:
        return
    asked = ("--address", spiffe.workload_api, "--trust-domain", spiffe.trust_domain)
    arguments = (*asked, "--file", state.identity_file, "--log-level", plan.log_level)
    program = Program(
        name="identity",
        argv=_module("sextant.app.identity_process", *arguments),
        log_file=state.logs / "identity.log",
        probe=fresh_file_probe(state.identity_file, math.inf),
    )
    yield Member("identity", "identity", Child(program, on_change))


def _gateways(
    plan: Plan, state: StateDir, gateways: Mapping[str, GatewaySettings], on_change: OnChange
) -> Iterator[Member]:
    for name, settings in gateways.items():
        file = state.run / f"{name}.json"
        program = Program(
            name=name,
            argv=_module("sextant.app.gateway_process", "--settings", file, "--log-level", plan.log_level),
            log_file=state.logs / f"{name}.log",
            probe=gateway_probe(plan, settings, "/health"),
            files={str(file): msgspec.json.encode(settings)},
            env=_gateway_secrets(plan),
            stop_timeout_s=DRAIN_GRACE_S + 5.0,
        )
        yield Member(name, "gateway", Child(program, on_change))


def _control(plan: Plan, state: StateDir, on_change: OnChange) -> Member:
    file = state.control_file
    admin = bearer(f"file:{state.admin_secret}")
    program = Program(
        name="control",
        argv=_module("sextant.app.control_process", "--settings", file, "--log-level", plan.log_level),
        log_file=state.logs / "control.log",
        probe=_listener_probe(plan.control_url, "/health", plan.control.tls, admin),
        files={str(file): msgspec.json.encode(plan.control)},
        env=secret_variables(plan.control.secret_refs),
    )
    return Member("control", "control", Child(program, on_change))


def _forwarder(plan: Plan, state: StateDir, on_change: OnChange) -> Iterator[Member]:
    settings = forwarder_settings(plan.document, state)
    if settings is not None:
        program = forwarder_program(settings, state, plan.log_level)
        yield Member("forwarder", "forwarder", Child(program, on_change))


def _listener_probe(url: str, path: str, tls: TlsFiles | None, headers: Headers) -> Probe:
    """A probe of a listener of ours; only a connection where it would ask us for a certificate."""
    if tls is not None and tls.client_ca_file is not None:
        parts = urlsplit(url)
        return connect_probe(parts.hostname or "", parts.port or 443)
    return http_probe(f"{url}{path}", headers)


def _gateway_secrets(plan: Plan) -> dict[str, str]:
    """The environment secrets that routes and limits refer to, for the gateways alone."""
    refs = [upstream.api_key_ref for model in plan.models for upstream in model.upstreams]
    shared = plan.gateway.shared_limits
    return secret_variables([*refs, shared.password_ref if shared is not None else None])


def _module(name: str, *arguments: str | Path) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *map(str, arguments))
