"""The document that a bundle's own gateway runs with: the user's, moved to where the bundle puts things.

A model whose engine is a unit or a pod of its own becomes a remote endpoint here, so that `sextant up` starts
what belongs to its own machine and nothing else. Sections that only rendering needs are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog import arguments
from sextant.render.dumping import yaml_text
from sextant.spec.engine_sections import LaunchedEngine
from sextant.spec.rendering import Order, ServedModel

NOT_SERVED = ("profile", "scaling", "continuity", "delivery", "sites", "workload", "training")
"""Sections of the document that `sextant up` has no use for."""
REMOTE_CONTEXT_TOKENS = 65_536
"""What the document's remote engines take where nothing says more."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bundle's gateway and admin API stand, and what is beside them. Unset: as the user's document
    says."""

    engines: Mapping[str, str] = {}
    """`ServedModel.key` to the API root of the engine that runs elsewhere in the bundle."""
    engine_keys: Mapping[str, str] = {}
    """`ServedModel.key` to the reference of that engine's key (`file:/…`)."""
    engine_peers: Mapping[str, str] = {}
    """`ServedModel.key` to that engine's SPIFFE id, where it is known by one."""
    sources: Mapping[str, str] = {}
    """`ServedModel.key` to the file or folder of a model that this process loads itself."""
    host: str = ""
    port: int = 0
    control_host: str = ""
    control_port: int = 0
    tls: tuple[str, str] | None = None
    """Certificate and key, for both addresses."""
    client_ca: str = ""
    """With `tls`: callers of the gateway must show a certificate signed by one of these."""
    workers: int = 0
    trusted_proxies: tuple[str, ...] = ()
    store: Mapping[str, Any] | None = None
    """`spec.store`, whole."""
    limits: Mapping[str, Any] | None = None
    """`spec.limits`, whole."""
    portal: Mapping[str, Any] | None = None
    """`spec.portal`, whole."""


def serving_document(order: Order, place: Place) -> str:
    """The document as YAML text. It can be read by `sextant up` as it stands, once the files it names are
    there. Raises Unsupported."""
    if order.deployment.spec.centre is not None and order.mode != "edge":
        raise Unsupported(
            f"{order.name}: spec.centre is for a box that keeps its books itself; the mode {order.mode} "
            f"keeps them where its sites share them: use the mode edge for the box, and no spec.centre here",
            field="spec.centre",
        )
    spec = order.deployment.spec.model_dump(mode="json", exclude_unset=True, by_alias=True)
    for name in (*NOT_SERVED, "model", "engine", "models"):
        spec.pop(name, None)
    sections = {
        **spec,
        "mode": "edge" if order.mode == "edge" else "on-prem",
        "models": [_model(order, served, place) for served in order.served],
        "gateway": _gateway(spec.get("gateway", {}), place),
        "control": _control(spec.get("control", {}), place),
    }
    for name, told in (("store", place.store), ("limits", place.limits), ("portal", place.portal)):
        if told is not None:
            sections[name] = dict(told)
    return yaml_text(
        {
            "apiVersion": order.deployment.api_version,
            "kind": order.deployment.kind,
            "metadata": {"name": order.name},
            "spec": {name: value for name, value in sections.items() if value not in ({}, None)},
        }
    )


def _model(order: Order, served: ServedModel, place: Place) -> dict[str, Any]:
    entry, key = served.entry, served.key
    dumped = entry.model_dump(mode="json", exclude_unset=True, by_alias=True)
    plain = {name: value for name, value in dumped.items() if value not in (None, [], {})}
    if order.defaults.personal_data is not None:
        plain.setdefault("personal_data", order.defaults.personal_data)
    if key in place.sources:
        plain["source"] = place.sources[key]
    if key not in place.engines:
        return plain
    plain.pop("source", None)
    plain.setdefault("personal_data", "cleared")
    plain["engine"] = _remote(order, served, place)
    return plain


def _remote(order: Order, served: ServedModel, place: Place) -> dict[str, Any]:
    """The engine elsewhere in the bundle, as the gateway must know it."""
    key, engine = served.key, served.entry.engine
    remote: dict[str, Any] = {"kind": "remote", "base_url": place.engines[key]}
    if key in place.engine_keys:
        remote["api_key"] = place.engine_keys[key]
    if key in place.engine_peers:
        remote["peer_id"] = place.engine_peers[key]
    remote["upstream_model"] = key
    remote["context_tokens"] = served.context_tokens or REMOTE_CONTEXT_TOKENS
    if isinstance(engine, LaunchedEngine):
        remote["speaks"] = engine.kind
        told = engine.capabilities
        known = msgspec.to_builtins(arguments.capabilities_of(order, served))
        remote["capabilities"] = known if told is None else told.model_dump(mode="json")
    return remote


def _gateway(said: Mapping[str, Any], place: Place) -> dict[str, Any]:
    own = _address(said, place.host, place.port, place)
    if place.tls is not None and place.client_ca:
        own["tls"]["client_ca_file"] = place.client_ca
    if place.workers:
        own["workers"] = place.workers
    if place.trusted_proxies:
        own["trusted_proxies"] = list(place.trusted_proxies)
    return own


def _control(said: Mapping[str, Any], place: Place) -> dict[str, Any]:
    return _address(said, place.control_host, place.control_port, place)


def _address(said: Mapping[str, Any], host: str, port: int, place: Place) -> dict[str, Any]:
    own = dict(said)
    if host:
        own["host"] = host
    if port:
        own["port"] = port
    if place.tls is not None:
        own["tls"] = {"cert_file": place.tls[0], "key_file": place.tls[1]}
    return own
