"""The gateway and its admin API as replicas behind one service: `sextant up` of the bundle's own document.

Every replica keeps accounts, books and limits in PostgreSQL and Redis, so that any number of them is one
deployment. Secrets are mounted or referenced, never written. TLS 1.3 ends in the pod, with a certificate of
cert-manager's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sextant.catalog.serving import KEY_SECRET
from sextant.render.kubernetes.cluster import USER, Cluster
from sextant.render.kubernetes.engines import engine_secret
from sextant.render.kubernetes.identity import TLS_SECRET, spiffe_id
from sextant.render.kubernetes.objects import Object, cores, gibibytes, made
from sextant.render.kubernetes.pods import Placing, Volume, container, pod, resources, scratch
from sextant.render.kubernetes.sidecar import agent_volume
from sextant.render.own_document import NOT_SERVED, Place, serving_document
from sextant.spec.bundle import Need
from sextant.spec.engine_sections import EmbeddedEngine
from sextant.spec.stores import SQLITE

PORT, CONTROL_PORT = 8000, 8001
FOLDER = "/etc/sextant"
STATE = "/var/lib/sextant/state"
"""Below the volume, not its top: the state directory must belong to the user that runs."""
AGREEMENT_SECRET = "portal-agreement"
AGREEMENT_KEY = "agreement.md"
START_S = 120.0
GRACE_S = 10
"""Before it is told to stop, so that no new connection comes any more."""
DRAIN_S = 120
MEMORY_BYTES = 2 << 30
EMBEDDED_MEMORY_BYTES = 2 << 30
CORES = 2

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """Where replicas keep what they share: as the document says, else where the bundle expects it."""

    store: dict[str, Any]
    limits: dict[str, Any]
    assumed: tuple[str, ...]
    """Which of them the document does not say."""


def stores_of(cluster: Cluster) -> Stores:
    """PostgreSQL and Redis of this deployment."""
    spec = cluster.order.deployment.spec
    store = spec.store.model_dump(mode="json", exclude_none=True)
    limits = spec.limits.model_dump(mode="json", exclude_none=True) if spec.limits is not None else None
    assumed = []
    if spec.store.url == SQLITE:
        assumed.append("spec.store")
        query = f"sslmode=verify-full&sslrootcert={FOLDER}/store/ca.crt"
        store = {
            "url": f"postgresql://sextant@postgresql.{cluster.namespace}.svc/sextant?{query}",
            "password": f"file:{FOLDER}/store/password",
        }
    if limits is None:
        assumed.append("spec.limits")
        limits = {
            "url": f"rediss://redis.{cluster.namespace}.svc:6379",
            "password": f"file:{FOLDER}/limits/password",
            "ca_file": f"{FOLDER}/limits/ca.crt",
        }
    return Stores(store=store, limits=limits, assumed=tuple(assumed))


def own_document(cluster: Cluster) -> str:
    """The document that each replica runs."""
    stores = stores_of(cluster)
    workloads = cluster.workloads
    return serving_document(
        cluster.order,
        Place(
            engines={
                each.served.key: f"{each.base_url}{_api_path(cluster, each.kind)}" for each in workloads
            },
            engine_keys={
                each.served.key: f"file:{FOLDER}/engine-keys/{engine_secret(cluster, each)}"
                for each in workloads
                if each.command.secret_env
            },
            engine_peers={
                each.served.key: spiffe_id(cluster, each.part.namespace, each.part.component)
                for each in workloads
                if each.guarded
            },
            host="0.0.0.0",
            port=PORT,
            control_host="0.0.0.0",
            control_port=CONTROL_PORT,
            tls=(f"{FOLDER}/tls/tls.crt", f"{FOLDER}/tls/tls.key"),
            store=stores.store,
            limits=stores.limits,
            portal=_portal(cluster),
        ),
    )


def _portal(cluster: Cluster) -> dict[str, Any]:
    """`spec.portal` as it is in a pod: the agreement where it is mounted, and the API's public address."""
    spec = cluster.order.deployment.spec
    portal = spec.portal.model_dump(mode="json", exclude_unset=True)
    if spec.portal.agreement is not None:
        portal["agreement"]["file"] = f"{FOLDER}/agreement/{AGREEMENT_KEY}"
    if spec.portal.url is not None and spec.delivery.ingress_host is not None:
        portal.setdefault("api_url", f"https://{spec.delivery.ingress_host}/v1")
    return portal


def _api_path(cluster: Cluster, kind: str) -> str:
    return cluster.order.facts.engines[kind].api_path


def gateway_objects(cluster: Cluster) -> tuple[Object, ...]:
    """Configuration, replicas, services and the budget for disruptions."""
    part = cluster.part("gateway")
    document = own_document(cluster)
    configuration = made("v1/ConfigMap", part)
    configuration["data"] = {"sextant.yaml": document}
    disruptions = {"maxUnavailable": 1, "selector": {"matchLabels": part.selector}}
    return (
        configuration,
        _deployment(cluster, document),
        *_services(cluster),
        made("policy/v1/PodDisruptionBudget", part, disruptions),
    )


def _deployment(cluster: Cluster, document: str) -> Object:
    part = cluster.part("gateway")
    volumes = _volumes(cluster)
    workers = cluster.order.deployment.spec.gateway.workers
    embedded = sum(isinstance(each.entry.engine, EmbeddedEngine) for each in cluster.order.served)
    check = {"port": "https", "scheme": "HTTPS"}
    body = {
        "command": ["sextant", "up", f"{FOLDER}/sextant.yaml", "--state", STATE],
        "env": _environment(cluster),
        "ports": [
            {"name": "https", "containerPort": PORT},
            {"name": "admin", "containerPort": CONTROL_PORT},
        ],
        "resources": resources(
            cores(CORES * workers + 2 * embedded),
            gibibytes(MEMORY_BYTES * workers + EMBEDDED_MEMORY_BYTES * embedded),
            "4Gi",
        ),
        "startupProbe": {
            "httpGet": {**check, "path": "/health"},
            "periodSeconds": 2,
            "failureThreshold": int(START_S / 2),
        },
        "readinessProbe": {
            "httpGet": {**check, "path": "/ready"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {**check, "path": "/health"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": GRACE_S}}},
        "volumeMounts": [volume.mount for volume in volumes],
    }
    placing = Placing(priority_class=f"{cluster.namespace}-serving", apart=True)
    gateway = container("gateway", cluster.sextant_image, body)
    spec = pod(part, [gateway], volumes, placing, user=USER)
    spec["terminationGracePeriodSeconds"] = GRACE_S + DRAIN_S
    deployment: Object = {
        "selector": {"matchLabels": part.selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "minReadySeconds": 5,
        "revisionHistoryLimit": 10,
        "template": {
            # Another document is another pod: a replica reads it once, when it starts.
            "metadata": {"labels": part.labels, "annotations": {"sextant.dev/document": digest(document)}},
            "spec": spec,
        },
    }
    whole = made("apps/v1/Deployment", part, deployment)
    whole["metadata"]["annotations"] = {"secret.reloader.stakater.com/reload": TLS_SECRET}
    return whole


def digest(text: str) -> str:
    """The start of the text's SHA-256: the same text gives the same pods."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _services(cluster: Cluster) -> tuple[Object, ...]:
    part = cluster.part("gateway")
    own = {
        "selector": part.selector,
        "ports": [{"name": "https", "port": 443, "targetPort": "https", "appProtocol": "https"}],
    }
    if cluster.order.deployment.spec.delivery.ingress_host is not None:
        own = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **own}
    admin = {
        "selector": part.selector,
        "ports": [{"name": "admin", "port": 443, "targetPort": "admin", "appProtocol": "https"}],
    }
    return made("v1/Service", part, own), made("v1/Service", part, admin, name="admin")


def _volumes(cluster: Cluster) -> tuple[Volume, ...]:
    keys = sorted({engine_secret(cluster, each) for each in cluster.workloads if each.command.secret_env})
    projected = [{"secret": {"name": name, "items": [{"key": KEY_SECRET, "path": name}]}} for name in keys]
    configuration = {"configMap": {"name": "gateway"}}
    found = [
        Volume(name="document", source=configuration, path=f"{FOLDER}/sextant.yaml", sub_path="sextant.yaml"),
        _secret("tls", TLS_SECRET, f"{FOLDER}/tls"),
        scratch("state", "/var/lib/sextant", "2Gi"),
        scratch("scratch", "/tmp", "1Gi"),  # noqa: S108 - a volume of the pod's own
    ]
    if projected:
        source = {"projected": {"sources": projected, "defaultMode": 0o440}}
        found.append(Volume(name="engine-keys", source=source, path=f"{FOLDER}/engine-keys"))
    stores = stores_of(cluster)
    if "spec.store" in stores.assumed:
        found.append(_secret("store", "store", f"{FOLDER}/store"))
    if "spec.limits" in stores.assumed:
        found.append(_secret("limits", "limits", f"{FOLDER}/limits"))
    if _agrees(cluster):
        found.append(_secret("agreement", AGREEMENT_SECRET, f"{FOLDER}/agreement"))
    if cluster.trust_domain:
        found.append(agent_volume(cluster))
    for path in _files(cluster):
        source = {"secret": {"secretName": FILES, "defaultMode": 0o440}}
        found.append(Volume(name="files", source=source, path=path, sub_path=file_key(path)))
    return tuple(found)


FILES = "sextant-files"
"""Secret with the files that the document names."""
VARIABLES = "sextant-environment"
"""Secret with the variables that the document names."""


def _secret(name: str, secret: str, path: str) -> Volume:
    # 0440 with the pod's group: Sextant refuses secrets that others may read.
    return Volume(name=name, source={"secret": {"secretName": secret, "defaultMode": 0o440}}, path=path)


def _environment(cluster: Cluster) -> list[Object]:
    plain = {"HOME": "/tmp", "SEXTANT_STATE": STATE}  # noqa: S108 - a volume of the pod's own
    named = sorted(ref.removeprefix("env:") for ref in _references(cluster) if ref.startswith("env:"))
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": VARIABLES, "key": name}}} for name in named
    ]
    return [*({"name": name, "value": value} for name, value in plain.items()), *secret]


def file_key(path: str) -> str:
    """Under which key of the secret that file stands."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.strip("/"))


def _files(cluster: Cluster) -> list[str]:
    """Files that the user's document names and that must be inside the pod."""
    spec = cluster.order.deployment.spec
    named = {ref.removeprefix("file:") for ref in _references(cluster) if ref.startswith("file:")}
    if spec.limits is not None and spec.limits.ca_file is not None:
        named.add(spec.limits.ca_file)
    if spec.alerts.smtp is not None and spec.alerts.smtp.ca_file is not None:
        named.add(spec.alerts.smtp.ca_file)
    return sorted(named)


def _references(cluster: Cluster) -> set[str]:
    """References to secrets in what the replicas run of the user's document."""
    spec = cluster.order.deployment.spec
    shown = spec.model_dump(mode="json", exclude=set(NOT_SERVED))
    served = [each.entry.model_dump(mode="json") for each in cluster.order.served]
    return {text for text in _texts([shown, served]) if _REFERENCE.fullmatch(text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def own_secrets(cluster: Cluster) -> tuple[str, ...]:
    """Commands for the secrets that the user's document names: files of the same names beside the bundle's,
    and `sextant.env` with a line `NAME=value` for each variable."""
    make = f"kubectl -n {cluster.namespace} create secret generic"
    files = " ".join(f"--from-file={file_key(path)}" for path in _files(cluster))
    named = any(ref.startswith("env:") for ref in _references(cluster))
    return (
        *([f"{make} {FILES} {files}"] if files else []),
        *([f"{make} {VARIABLES} --from-env-file=sextant.env"] if named else []),
        *([f"{make} {AGREEMENT_SECRET} --from-file={AGREEMENT_KEY}"] if _agrees(cluster) else []),
    )


def _agrees(cluster: Cluster) -> bool:
    return cluster.order.deployment.spec.portal.agreement is not None


def gateway_needs(cluster: Cluster) -> tuple[Need, ...]:
    """What the operator must have for the gateway: stores, and secrets by name."""
    namespace = cluster.namespace
    stores = stores_of(cluster)
    store, limits = urlsplit(stores.store["url"]), urlsplit(stores.limits["url"])
    found = [
        Need(
            kind="storage",
            name=f"PostgreSQL at {store.hostname}",
            why="accounts, books and usage of all replicas",
            check=f"kubectl -n {namespace} run pg-check --rm -it --restart=Never --image="
            f"{cluster.order.images.reference('postgres')} -- pg_isready -h {store.hostname}",
        ),
        Need(
            kind="storage", name=f"Redis at {limits.hostname}", why="limits that all replicas keep together"
        ),
    ]
    wanted: dict[tuple[str, str], tuple[str, ...]] = {
        (where, engine_secret(cluster, each)): (KEY_SECRET,)
        for each in cluster.workloads
        if each.command.secret_env
        for where in (namespace, each.part.namespace)
    }
    if "spec.store" in stores.assumed:
        wanted[namespace, "store"] = ("password", "ca.crt")
    if "spec.limits" in stores.assumed:
        wanted[namespace, "limits"] = ("password", "ca.crt")
    files = _files(cluster)
    if files:
        wanted[namespace, FILES] = tuple(map(file_key, files))
    named = sorted(ref.removeprefix("env:") for ref in _references(cluster) if ref.startswith("env:"))
    if named:
        wanted[namespace, VARIABLES] = tuple(named)
    if _agrees(cluster):
        wanted[namespace, AGREEMENT_SECRET] = (AGREEMENT_KEY,)
    for (where, secret), keys in wanted.items():
        reader = "the gateway reads it" if where == namespace else "the engines there read it"
        found.append(secret_need(where, secret, keys, reader))
    return tuple(found)


def secret_need(namespace: str, name: str, keys: tuple[str, ...], why: str) -> Need:
    """A secret that the operator makes, and how to see that it is there without showing its values."""
    return Need(
        kind="secret",
        name=f"Secret {namespace}/{name}",
        why=f"{why}; keys: {', '.join(keys)}",
        check=f"kubectl -n {namespace} describe secret {name}",
    )


def certificate_names(cluster: Cluster) -> tuple[str, ...]:
    """Host names under which the gateway and the admin API are called."""
    host = cluster.order.deployment.spec.delivery.ingress_host
    inside = [
        name
        for service in ("gateway", "admin")
        for name in (f"{service}.{cluster.namespace}.svc", f"{service}.{cluster.namespace}.svc.cluster.local")
    ]
    return (*([host] if host else []), *inside)
