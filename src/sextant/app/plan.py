"""From a deployment document to what must run: served models, engine launches, settings. Pure.

`sextant up` calls `make_plan` once; the supervisor carries it out. Neighbours: `model_plan.py` (one model),
`placing.py` (what has to be looked at first).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from sextant.app.centre_plan import forwarder_settings, with_fallbacks
from sextant.app.control_plan import alert_settings, oidc_settings, portal_settings
from sextant.app.model_plan import EnginePlan, Placement, plan_model, upstream_id_of
from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured
from sextant.control.settings import ControlSettings
from sextant.spec.document import Deployment
from sextant.spec.snapshot import GatewaySettings, ServedModel, TlsFiles
from sextant.spec.stores import SharedLimits, StoreSettings

NANO_FILE = "sextant-nano.gguf"

RUNS_WHOLE = ("on-prem", "edge")
"""Modes that one host runs all of."""


class Flag(msgspec.Struct, frozen=True):
    """A flag of `sextant up` that stands over a field of the document. `name` is how it was typed."""

    name: str
    value: str | int | None


class Plan(msgspec.Struct, frozen=True):
    """All that `sextant up` will run."""

    models: tuple[ServedModel, ...]
    engines: tuple[EnginePlan, ...]
    gateway: GatewaySettings
    """Of each worker, but for what `gateway_workers` adds."""
    control: ControlSettings
    log_level: str
    document: Deployment
    places: tuple[Placement, ...]
    """What was found for each of its models."""
    store: StoreSettings = StoreSettings()
    workers: int = 1
    warnings: tuple[str, ...] = ()
    flags: Mapping[str, Flag] = {}
    """By the field of the document that each stands over."""

    @property
    def url(self) -> str:
        return _url(self.gateway.host, self.gateway.port, self.gateway.tls)

    @property
    def control_url(self) -> str:
        return _url(self.control.host, self.control.port, self.control.tls)


def gateway_workers(plan: Plan, probe_ports: Sequence[int]) -> dict[str, GatewaySettings]:
    """The settings of each gateway process by its name. Several share the port, and each has one of its own
    on the loopback address for probes."""
    if plan.workers == 1:
        return {"gateway": plan.gateway}
    shared = plan.gateway.shared_limits
    return {
        f"gateway-{number}": msgspec.structs.replace(
            plan.gateway,
            reuse_port=True,
            probe_port=port,
            worker=str(number),
            shared_limits=shared and msgspec.structs.replace(shared, worker=f"{shared.worker}:{number}"),
        )
        for number, port in zip(range(1, plan.workers + 1), probe_ports, strict=True)
    }


class Overrides(msgspec.Struct, frozen=True):
    """Flags of `sextant up` that stand over the document."""

    host: str | None = None
    port: int | None = None
    control_port: int | None = None
    insecure: bool = False

    def by_field(self) -> dict[str, Flag]:
        """What was given, by the field of the document that it stands over."""
        given = {
            "spec.gateway.host": Flag("--host", self.host),
            "spec.gateway.port": Flag("--port", self.port),
            "spec.control.port": Flag("--control-port", self.control_port),
        }
        return {field: flag for field, flag in given.items() if flag.value is not None}


class Listeners(msgspec.Struct, frozen=True):
    """Where the two APIs listen, and what should be said about that."""

    host: str
    port: int
    control_host: str
    control_port: int
    warnings: tuple[str, ...] = ()


def listeners(document: Deployment, overrides: Overrides) -> Listeners:
    """The addresses of both APIs. Raises Misconfigured where they cannot be used so."""
    gateway, control = document.spec.gateway, document.spec.control
    found = Listeners(
        overrides.host or gateway.host,
        overrides.port or gateway.port,
        control.host,
        overrides.control_port or control.port,
    )
    if found.port == found.control_port:
        raise Misconfigured(
            f"the API and the admin API cannot share port {found.port}; "
            f"give the admin API its own: --control-port PORT"
        )
    gateway_tls = gateway.tls.struct() if gateway.tls else None
    control_tls = control.tls.struct() if control.tls else None
    warnings = (
        *_exposure(found.host, gateway_tls, "the API", overrides.insecure),
        *_exposure(found.control_host, control_tls, "the admin API", overrides.insecure),
    )
    return msgspec.structs.replace(found, warnings=warnings)


def make_plan(
    document: Deployment, state: StateDir, overrides: Overrides, places: Sequence[Placement]
) -> Plan:
    """What to run for `document`. `places` has what was found for each of its models, in their order.

    Raises Misconfigured when this installation cannot do it, with the reason and the way out.
    """
    gateway, control = document.spec.gateway, document.spec.control
    ids: list[str] = []
    for entry in document.spec.served:
        ids.append(upstream_id_of(entry.name, ids))
    models, engines = plan_models(document, state, list(zip(places, ids, strict=True)))
    at = listeners(document, overrides)
    warnings = [*warnings_of(document, models), *_shared_in_clear(document), *at.warnings]
    limits = document.spec.limits
    forwarder = forwarder_settings(document, state)
    return Plan(
        models=models,
        engines=engines,
        gateway=GatewaySettings(
            host=at.host,
            port=at.port,
            routes_file=str(state.routes_file),
            policy_file=str(state.policy_file),
            ledger_socket=str(state.ledger_socket),
            tls=gateway.tls.struct() if gateway.tls else None,
            cors_origins=gateway.cors_origins,
            trusted_proxies=gateway.trusted_proxies,
            limits=gateway.limits.struct(),
            shared_limits=None if limits is None else SharedLimits(worker=str(state.root), **limits.values()),
            access_log=document.spec.observability.access_log,
            identity_file=str(state.identity_file) if document.spec.security.spiffe else "",
        ),
        control=ControlSettings(
            host=at.control_host,
            port=at.control_port,
            accounts_db=str(state.accounts_db),
            ledger_db=str(state.ledger_db),
            ledger_socket=str(state.ledger_socket),
            policy_file=str(state.policy_file),
            routes_file=str(state.routes_file),
            status_file=str(state.status_file),
            store=document.spec.store.struct(),
            sync_file=str(state.sync_file),
            engine_metrics_file=str(state.engine_metrics_file),
            forward_status_file=forwarder.status_file if forwarder else "",
            tls=control.tls.struct() if control.tls else None,
            oidc=oidc_settings(control.oidc),
            alerts=alert_settings(document.spec.alerts),
            portal=portal_settings(document.spec.portal),
        ),
        log_level=document.spec.observability.log_level,
        document=document,
        places=tuple(places),
        store=document.spec.store.struct(),
        workers=gateway.workers,
        warnings=tuple(warnings),
        flags=overrides.by_field(),
    )


def plan_models(
    document: Deployment, state: StateDir, places: Sequence[tuple[Placement, str]]
) -> tuple[tuple[ServedModel, ...], tuple[EnginePlan, ...]]:
    """The models of `document` as served, and their engines. `places` has what was found for each and the id
    of its replica, in their order. Raises Misconfigured."""
    made = [
        plan_model(entry, place, state, upstream_id)
        for entry, (place, upstream_id) in zip(document.spec.served, places, strict=True)
    ]
    workers = document.spec.gateway.workers
    models = with_fallbacks(document, [_of_one_worker(served, workers) for served, _ in made])
    return tuple(models), tuple(engine for _, engine in made)


def warnings_of(document: Deployment, models: Sequence[ServedModel]) -> list[str]:
    """What should be said of these models in this document."""
    places = document.spec.gateway.limits.struct().concurrent_requests
    return [*_crowded(models, places), *_more_elsewhere(document)]


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


def _crowded(models: Sequence[ServedModel], places: int) -> list[str]:
    """A warning where the models may have more requests under way than the gateway has places."""
    asked = sum(model.concurrent_requests for model in models)
    if len(models) < 2 or asked <= places:
        return []
    return [
        f"the models may have {asked} requests under way and the gateway {places}, so a busy model can keep "
        f"the others waiting; raise gateway.limits.concurrent_requests to {asked}"
    ]


def _of_one_worker(served: ServedModel, workers: int) -> ServedModel:
    """Its places in each of several workers: all together no more than its engine has, but one in each."""
    places = served.concurrent_requests
    return msgspec.structs.replace(served, concurrent_requests=places and max(1, places // workers))


def _more_elsewhere(document: Deployment) -> list[str]:
    """Where the document's mode has more parts than one host runs."""
    if document.spec.mode in RUNS_WHOLE:
        return []
    return [
        f"spec.mode is {document.spec.mode}: only what runs on this host is started; "
        f"`sextant render FILE -o DIR` writes the rest"
    ]


def _shared_in_clear(document: Deployment) -> list[str]:
    """A warning for each shared store that is reached over a network without a proof of who answers."""
    store, limits = document.spec.store, document.spec.limits
    found = []
    if store.is_exposed:
        found.append(
            "spec.store.url does not say sslmode=verify-full: whoever is on the way to PostgreSQL may read "
            "and change what is kept there"
        )
    if limits is not None and limits.is_exposed:
        found.append(
            "spec.limits.url has no TLS: whoever is on the way to Redis may read its password and change "
            "limits; write rediss://"
        )
    return found


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
