"""The document that `sextant up` of a server runs with, and the model files that come with the bundle.

Engines that are units of their own become remote endpoints on this server; TLS is the front's where there is
one; files of models are looked for in the release. Neighbours: `own_document.py`, which writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sextant.render.hosts.places import (
    CENTRE_CA,
    CERTIFICATE,
    CERTIFICATE_KEY,
    CLIENT_CA,
    ENGINE_KEY,
    METRICS_CA,
    MODELS,
    Ground,
)
from sextant.render.own_document import Place, serving_document
from sextant.spec.bundle import Need
from sextant.spec.centre_sections import Centre
from sextant.spec.document import Deployment, Tls
from sextant.spec.fields import Section
from sextant.spec.rendering import ServedModel
from sextant.spec.security_sections import Hsm

HUBS = ("hf:", "modelscope:")


def served_document(ground: Ground, containers: Mapping[str, str] | None = None) -> str:
    """YAML text, for `sextant up`. `containers` are the API roots of launched models that are containers."""
    launched = {served.key: ground.engine_port(served) for served in ground.launched}
    place = Place(
        engines=containers or {key: f"http://127.0.0.1:{port}/v1" for key, port in launched.items()},
        engine_keys=dict.fromkeys(
            launched, "file:/run/secrets/engine-key" if ground.contained else f"file:{ENGINE_KEY}"
        ),
        sources={served.key: f"{MODELS}/{_file(served)}" for served in ground.embedded if _file(served)},
        host="0.0.0.0" if ground.contained else "127.0.0.1" if ground.has_front else "",
        port=ground.port,
        control_host="0.0.0.0" if ground.contained else "",
        trusted_proxies=(f"{ground.front_host}/32",) if ground.has_front else (),
    )
    deployment = _with_own_tls(ground)
    return serving_document(msgspec.structs.replace(ground.order, deployment=deployment), place)


def models_of_kit(ground: Ground) -> tuple[str, ...]:
    """Model files that must stand in the bundle's models/ before it is installed."""
    return tuple(sorted({_file(served) for served in ground.embedded} - {""}))


def model_needs(ground: Ground) -> tuple[Need, ...]:
    """Those files, for who installs."""
    return tuple(
        Need("storage", f"models/{name} in this folder", "is a model of the document", f"ls models/{name}")
        for name in models_of_kit(ground)
    )


def tls_needs(ground: Ground) -> tuple[Need, ...]:
    """The certificate, where callers arrive over TLS."""
    if not ground.has_front and ground.order.deployment.spec.gateway.tls is None:
        return ()
    hsm = ground.order.deployment.spec.security.hsm
    if hsm is not None and hsm.tls_key is not None:
        why = f"callers arrive over TLS 1.3; `--cert`, for the key {hsm.tls_key} in the HSM"
        return (Need("secret", "a TLS certificate", why),)
    return (
        Need("secret", "a TLS certificate and its key", "callers arrive over TLS 1.3; `--cert`, `--key`"),
    )


def centre_needs(ground: Ground) -> tuple[Need, ...]:
    """What a box needs of its centre."""
    centre = ground.order.deployment.spec.centre
    if centre is None:
        return ()
    found = [
        Need(
            "account",
            f"the site {centre.site} at {centre.url}",
            "takes the box's usage; its credential is shown once",
            f"sextant site create {centre.site} --tenant default=TENANT   # at the centre",
        )
    ]
    if centre.ca_file is not None:
        found.append(
            Need(
                "secret",
                CENTRE_CA,
                f"certificate authorities of {centre.url}; readable by sextant",
                f"sudo ls -l {CENTRE_CA}",
            )
        )
    return tuple(found)


def _file(served: ServedModel) -> str:
    """The file's own name; empty for a bundled model and for one that is fetched by name."""
    source = served.entry.source or ""
    return "" if source.startswith(HUBS) else source.rstrip("/").rpartition("/")[2]


def _with_own_tls(ground: Ground) -> Deployment:
    """The document with certificates where the installation keeps them; the gateway's own TLS ends at the
    front, where there is one. The centre's are there too."""
    deployment = ground.order.deployment
    spec = deployment.spec
    changes: dict[str, Section] = {}
    if spec.gateway.tls is not None:
        authority = CLIENT_CA if spec.gateway.tls.client_ca_file is not None else None
        tls = None if ground.has_front else _tls(authority)
        changes["gateway"] = _changed(spec.gateway, tls=tls)
    if spec.control.tls is not None:
        changes["control"] = _changed(spec.control, tls=_tls(None))
    if spec.security.hsm is not None:
        changes["security"] = _changed(spec.security, hsm=_hsm_here(spec.security.hsm))
    if spec.centre is not None:
        changes["centre"] = _with_own_authorities(spec.centre)
    return deployment.model_copy(update={"spec": spec.model_copy(update=changes)})


def _hsm_here(hsm: Hsm) -> Section | None:
    """The HSM as the server needs it; None where only releases are signed with it, which is done
    elsewhere."""
    return _changed(hsm, signing_key=None) if hsm.serves else None


def _with_own_authorities(centre: Centre) -> Section:
    """The centre's section with its files of authorities where the installation keeps them."""
    moved: dict[str, object] = {}
    if centre.ca_file is not None:
        moved["ca_file"] = CENTRE_CA
    if centre.metrics is not None and centre.metrics.ca_file is not None:
        moved["metrics"] = _changed(centre.metrics, ca_file=METRICS_CA)
    return _changed(centre, **moved)


def _tls(client_ca: str | None) -> Tls:
    files = {"cert_file": CERTIFICATE, "key_file": CERTIFICATE_KEY}
    return Tls.model_construct(
        None, **(files if client_ca is None else {**files, "client_ca_file": client_ca})
    )


def _changed(section: Section, **changes: object) -> Section:
    """`section` with what it was told, and `changes`; None takes a field away."""
    told = {name: getattr(section, name) for name in section.model_fields_set} | changes
    return type(section).model_construct(
        None, **{name: value for name, value in told.items() if value is not None}
    )
