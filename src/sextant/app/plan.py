"""From a deployment document to what must run: served models, engine launches, settings. Pure but for model
files.

`sextant up` calls `make_plan` once; the supervisor carries it out.
"""

from __future__ import annotations

import ipaddress
import time
from importlib import resources
from pathlib import Path

import msgspec

from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured
from sextant.control.settings import ControlSettings
from sextant.engines import embedded, remote
from sextant.engines.gguf import ModelFile, read_model_file
from sextant.engines.protocol import Launch, Replica
from sextant.spec.document import Deployment, EmbeddedEngine, RemoteEngine
from sextant.spec.snapshot import GatewaySettings, ServedModel, TlsFiles, Upstream

NANO_FILE = "sextant-nano.gguf"
EMBEDDED_CONCURRENCY_MAX = 512
"""Requests handed to embedded engines at a time; further ones wait in the gateway's own bounded queue. It
stays below the threads of llama.cpp's HTTP pool (`embedded.HTTP_THREADS`), so that health checks always find
one."""


class EnginePlan(msgspec.Struct, frozen=True):
    """One replica of one model. `launch.argv` is empty for an endpoint that runs elsewhere."""

    upstream_id: str
    model_id: str
    launch: Launch


class Plan(msgspec.Struct, frozen=True):
    """All that `sextant up` will run."""

    models: tuple[ServedModel, ...]
    engines: tuple[EnginePlan, ...]
    gateway: GatewaySettings
    control: ControlSettings
    log_level: str
    warnings: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return _url(self.gateway.host, self.gateway.port, self.gateway.tls)

    @property
    def control_url(self) -> str:
        return _url(self.control.host, self.control.port, self.control.tls)


class Overrides(msgspec.Struct, frozen=True):
    """Flags of `sextant up` that stand over the document."""

    host: str | None = None
    port: int | None = None
    control_port: int | None = None
    insecure: bool = False


def make_plan(document: Deployment, state: StateDir, overrides: Overrides, engine_port: int) -> Plan:
    """What to run for `document`. `engine_port` is the port reserved for the engine.

    Raises Misconfigured when this installation cannot do it, with the reason and the way out.
    """
    gateway, control = document.spec.gateway, document.spec.control
    engine = document.spec.engine
    model, engines = (
        _embedded(document, engine, state, engine_port)
        if isinstance(engine, EmbeddedEngine)
        else _remote(document, engine)
    )
    limits = gateway.limits.struct()
    if isinstance(engine, EmbeddedEngine):
        bound = min(limits.concurrent_requests, EMBEDDED_CONCURRENCY_MAX)
        limits = msgspec.structs.replace(limits, concurrent_requests=bound)
    host = overrides.host or gateway.host
    port = overrides.port or gateway.port
    control_port = overrides.control_port or control.port
    if port == control_port:
        raise Misconfigured(
            f"the API and the admin API cannot share port {port}; "
            f"give the admin API its own: --control-port PORT"
        )
    gateway_tls = gateway.tls.struct() if gateway.tls else None
    control_tls = control.tls.struct() if control.tls else None
    warnings = [
        *_exposure(host, gateway_tls, "the API", overrides.insecure),
        *_exposure(control.host, control_tls, "the admin API", overrides.insecure),
    ]
    return Plan(
        models=(model,),
        engines=engines,
        gateway=GatewaySettings(
            host=host,
            port=port,
            routes_file=str(state.routes_file),
            policy_file=str(state.policy_file),
            ledger_socket=str(state.ledger_socket),
            tls=gateway_tls,
            cors_origins=gateway.cors_origins,
            limits=limits,
            access_log=document.spec.observability.access_log,
        ),
        control=ControlSettings(
            host=control.host,
            port=control_port,
            accounts_db=str(state.accounts_db),
            ledger_db=str(state.ledger_db),
            policy_file=str(state.policy_file),
            routes_file=str(state.routes_file),
            status_file=str(state.status_file),
            tls=control_tls,
        ),
        log_level=document.spec.observability.log_level,
        warnings=tuple(warnings),
    )


def bundled_model_path(name: str) -> Path:
    """The file of a model that the distribution carries. Raises Misconfigured when it is not there."""
    path = Path(str(resources.files("sextant").joinpath("models", "nano", NANO_FILE)))
    if not path.is_file():
        raise Misconfigured(
            f"the bundled model {name} is missing ({path}); this installation is incomplete: install it again"
        )
    return path


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def context_of(model: ModelFile, wanted: int | None) -> int:
    """The context to serve. Raises Misconfigured when more is wanted than the model was trained for."""
    trained = model.context_tokens
    if wanted is None:
        return trained or ServedModel("", "", ()).context_tokens
    if trained and wanted > trained:
        raise Misconfigured(
            f"spec.engine.context_tokens is {wanted}, but {model.name} was trained for {trained}; "
            f"write at most that",
            field="spec.engine.context_tokens",
        )
    return wanted


def _embedded(
    document: Deployment, engine: EmbeddedEngine, state: StateDir, port: int
) -> tuple[ServedModel, tuple[EnginePlan, ...]]:
    name = document.spec.model.name
    file = read_model_file(bundled_model_path(name))
    context = context_of(file, engine.context_tokens)
    upstream_id = f"{name}-0"
    options = engine.model_dump(exclude={"kind", "context_tokens"})
    replica = Replica(
        id=upstream_id,
        model_id=name,
        model_path=file.path,
        context_tokens=context,
        port=port,
        key_file=str(state.secrets / "engine"),
        settings_file=str(state.run / f"engine-{upstream_id}.json"),
        options=options,
    )
    adapter = embedded.EmbeddedEngine()
    launch = adapter.launch(replica)
    model = _served(document, adapter.name, launch, upstream_id)
    capable = embedded.capabilities_of(file)
    quirks = embedded.quirks_of(file)
    model = msgspec.structs.replace(
        model, context_tokens=context, capabilities=capable, quirks=quirks, created_s=file.modified_s
    )
    return model, (EnginePlan(upstream_id, name, launch),)


def _remote(document: Deployment, engine: RemoteEngine) -> tuple[ServedModel, tuple[EnginePlan, ...]]:
    name = document.spec.model.name
    upstream_id = f"{name}-0"
    replica = Replica(
        id=upstream_id,
        model_id=name,
        model_path="",
        context_tokens=engine.context_tokens,
        port=0,
        key_file="",
        settings_file="",
        base_url=engine.base_url,
        api_key_ref=engine.api_key,
        upstream_model=engine.upstream_model or name,
    )
    adapter = remote.RemoteEngine()
    launch = adapter.launch(replica)
    model = _served(document, adapter.name, launch, upstream_id)
    quirks = msgspec.structs.replace(adapter.quirks, compliant=engine.compliant)
    capable = engine.capabilities.struct()
    model = msgspec.structs.replace(
        model,
        context_tokens=engine.context_tokens,
        capabilities=capable,
        quirks=quirks,
        created_s=int(time.time()),  # the endpoint's own date is unknown; clients want one
    )
    return model, (EnginePlan(upstream_id, name, launch),)


def _served(document: Deployment, engine: str, launch: Launch, upstream_id: str) -> ServedModel:
    upstream = Upstream(
        id=upstream_id,
        base_url=launch.base_url,
        api_key_ref=launch.api_key_ref,
        upstream_model=launch.upstream_model,
        ready=False,
        reason="it is starting",
    )
    return ServedModel(
        id=document.spec.model.name,
        engine=engine,
        upstreams=(upstream,),
        aliases=document.spec.model.aliases,
    )


def _exposure(host: str, tls: TlsFiles | None, what: str, insecure: bool) -> list[str]:
    """Refuses plain HTTP on an address that others can reach, or warns where that was asked for."""
    if tls is not None or is_loopback(host):
        return []
    if not insecure:
        raise Misconfigured(
            f"{what} would listen on {host} without TLS, so keys and prompts could be read on the way; name "
            f"a certificate in the document (spec.gateway.tls), put a TLS proxy in front and listen on "
            f"127.0.0.1, or say --insecure if nothing but trusted machines can reach {host}"
        )
    return [f"{what} listens on {host} without TLS: keys and prompts travel in clear text"]


def _url(host: str, port: int, tls: TlsFiles | None) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{shown}]' if ':' in shown else shown}:{port}"
