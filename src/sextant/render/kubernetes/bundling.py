"""A cluster's objects as a bundle: which file holds what, what must be there first, what is typed when.

For every mode that runs on Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping

from sextant.catalog.serving import KEY_SECRET
from sextant.render.dumping import yaml_file
from sextant.render.kubernetes import network, quotas, scaling, upkeep, watching
from sextant.render.kubernetes.cluster import Cluster, Workload, distinct
from sextant.render.kubernetes.compiled import compiled_claim, compiled_volume
from sextant.render.kubernetes.dashboard import dashboard_object
from sextant.render.kubernetes.engines import engine_objects, engine_secret
from sextant.render.kubernetes.gateway import (
    certificate_names,
    gateway_needs,
    gateway_objects,
    own_secrets,
    stores_of,
)
from sextant.render.kubernetes.identity import certificates, roles, service_accounts, spiffe_ids
from sextant.render.kubernetes.needs import cluster_needs
from sextant.render.kubernetes.objects import Object
from sextant.render.kubernetes.router import routed, router_needs, router_notes, router_objects
from sextant.render.kubernetes.router_watching import router_alerts, router_monitor, router_panels
from sextant.render.kubernetes.sharing import OPERATOR_NAMESPACE, device_plugin_config
from sextant.render.kubernetes.starting import start_notes
from sextant.render.kubernetes.warming import KEY_SECRET as WARM_UP_SECRET
from sextant.render.kubernetes.warming import warm_up_objects
from sextant.render.kubernetes.weights import cache_volume, is_fetched, weights_objects
from sextant.spec.bundle import Bundle, File, Step

APPLY = "kubectl apply --server-side --field-manager=sextant -f"
SECRETS_WHY = (
    "Their values stand in no file of this bundle. Files that are named here are yours: each holds one value "
    "and no line break (`sextant.env`: a line NAME=value each); delete them afterwards."
)
COMPARE = "sextant diff . NEW_DOCUMENT"
RENDER = "sextant render NEW_DOCUMENT -o ."
"""What of an upgrade concerns a bundle as a whole, however many clusters it is for."""
PREVIOUS = "PREVIOUS"
"""The operator's copy of the bundle before."""


def cluster_bundle(cluster: Cluster) -> Bundle:
    """The whole deployment on one cluster. Raises Unsupported for what does not fit."""
    rooms = quotas.rooms(cluster)
    cluster = quotas.within(cluster, rooms)
    files = [*_cluster_files(cluster, rooms), *_manifests(cluster), *_others(cluster)]
    return Bundle(
        name=cluster.order.name,
        mode=cluster.order.mode,
        files=tuple(sorted(files, key=lambda file: file.path)),
        needs=(*cluster_needs(cluster), *gateway_needs(cluster), *router_needs(cluster)),
        install=_install(cluster),
        verify=_verify(cluster),
        upgrade=_upgrade(cluster),
        rollback=_rollback(cluster),
        uninstall=_uninstall(cluster),
        diagram=_diagram(cluster),
        notes=_notes(cluster, rooms),
    )


def _cluster_files(cluster: Cluster, rooms: Mapping[str, quotas.Room]) -> list[File]:
    """What the cluster's administrator applies."""
    named: list[Object] = []
    for namespace in cluster.namespaces:
        named.extend(quotas.namespace_objects(cluster, namespace, rooms[namespace]))
    caches = [
        volume
        for namespace in cluster.namespaces
        for volume in (*cache_volume(cluster, namespace), *compiled_volume(cluster, namespace))
    ]
    delivery = cluster.order.deployment.spec.delivery
    shares = tuple(each.share for each in cluster.workloads if each.share is not None)
    sharing = device_plugin_config(shares, cluster.order.name)
    pools = upkeep.node_pools(cluster) if delivery.node_scaling == "karpenter" else ()
    return [
        yaml_file("cluster/00-namespaces.yaml", *named, *quotas.priority_classes(cluster)),
        yaml_file("cluster/10-roles.yaml", *roles(cluster)),
        *([yaml_file("cluster/20-node-caches.yaml", *caches)] if caches else []),
        *([yaml_file("cluster/30-accelerator-sharing.yaml", sharing)] if sharing else []),
        *([yaml_file("cluster/40-nodes.yaml", *pools)] if pools else []),
        yaml_file("cluster/50-backup.yaml", *upkeep.velero(cluster)),
        *([yaml_file("cluster/60-identities.yaml", *spiffe_ids(cluster))] if cluster.trust_domain else []),
    ]


def _manifests(cluster: Cluster) -> list[File]:
    """The deployment itself."""
    accounts: list[Object] = []
    policies: list[Object] = []
    weights: list[Object] = []
    for namespace in cluster.namespaces:
        accounts.extend(service_accounts(cluster, namespace, _components(cluster, namespace)))
        policies.extend(network.namespace_policies(cluster, namespace))
        fetches = any(is_fetched(each) for each in cluster.workloads_in(namespace))
        policies.extend(network.job_policies(cluster, namespace, fetches=fetches))
        weights.extend((*weights_objects(cluster, namespace), *compiled_claim(cluster, namespace)))
    policies.append(network.gateway_policy(cluster))
    policies.extend(network.engine_policy(cluster, each) for each in cluster.workloads)
    monitors = [watching.gateway_monitor(cluster)]
    scaled = [scaling.gateway_scaling(cluster)]
    engines: list[File] = []
    for workload in cluster.workloads:
        monitors.extend(watching.engine_monitor(cluster, workload))
        if workload.command.metrics_path:
            scaled.append(scaling.engine_scaling(cluster, workload))
        path = f"manifests/40-{workload.part.name}.yaml"
        engines.append(yaml_file(path, *engine_objects(cluster, workload)))
    for workload in routed(cluster):
        path = f"manifests/45-{workload.router.name}.yaml"
        engines.append(yaml_file(path, *router_objects(cluster, workload)))
        monitors.append(router_monitor(workload))
    certified = certificates(cluster, certificate_names(cluster))
    return [
        yaml_file("manifests/00-accounts.yaml", *accounts),
        yaml_file("manifests/10-network.yaml", *policies),
        yaml_file("manifests/20-certificates.yaml", *certified),
        *([yaml_file("manifests/30-weights.yaml", *weights)] if weights else []),
        *engines,
        yaml_file("manifests/50-gateway.yaml", *gateway_objects(cluster)),
        yaml_file("manifests/60-watching.yaml", *monitors, watching.rules(cluster, router_alerts(cluster))),
        yaml_file("manifests/70-scaling.yaml", *scaled),
    ]


def _components(cluster: Cluster, namespace: str) -> tuple[str, ...]:
    """Kinds of pods in a namespace: each has an account."""
    workloads = cluster.workloads_in(namespace)
    own = ("gateway", "warm-up") if namespace == cluster.namespace else ()
    fetch = ("fetch",) if any(is_fetched(each) for each in workloads) else ()
    router = ("router",) if any(each.role != "whole" for each in workloads) else ()
    return (*own, *(("engine", "node-cache") if workloads else ()), *router, *fetch)


def _others(cluster: Cluster) -> list[File]:
    hpa = "Instead of the gateway's ScaledObject, on a cluster without KEDA; never beside it."
    page = "For Grafana's sidecar, which looks for this label; or import the JSON."
    return [
        yaml_file("after/warm-up.yaml", *warm_up_objects(cluster)),
        yaml_file("optional/hpa.yaml", scaling.alternative_hpa(cluster), comment=hpa),
        yaml_file("optional/dashboard.yaml", dashboard_object(cluster, router_panels(cluster)), comment=page),
        yaml_file("optional/descheduler.yaml", upkeep.descheduler(cluster)),
        *_ceph_files(cluster),
    ]


def _ceph_files(cluster: Cluster) -> list[File]:
    """Only where the bundle's volumes are Rook's: the document names no class of its own."""
    if not cluster.workloads or cluster.order.deployment.spec.delivery.storage_class is not None:
        return []
    told = "For a cluster with Rook-Ceph and without the class that the volumes name; the administrator's."
    return [yaml_file("optional/rook-ceph.yaml", *upkeep.ceph_storage(cluster), comment=told)]


def _install(cluster: Cluster) -> tuple[Step, ...]:
    namespace = cluster.namespace
    steps = [
        Step(
            "Apply what belongs to the cluster.",
            (f"{APPLY} cluster/",),
            "This needs an administrator's rights.",
        ),
        *_sharing(cluster),
        *_node_groups(cluster),
        Step("Make the secrets.", _secrets(cluster), SECRETS_WHY),
        Step("Apply the deployment.", (f"{APPLY} manifests/",)),
    ]
    fetching = [each for each in distinct(cluster.workloads) if is_fetched(each)]
    if fetching:
        waits = tuple(
            f"kubectl -n {each.part.namespace} wait --for=condition=complete --timeout=24h "
            f"job/fetch-{each.model_label}"
            for each in fetching
        )
        steps.append(Step("Wait for the weights.", waits, "Engines start when theirs are whole."))
    steps.append(Step("Wait until it serves.", _waits(cluster)))
    exec_ = f"kubectl -n {namespace} exec deploy/gateway -c gateway --"
    steps.append(
        Step(
            "Warm the caches up.",
            (
                f"{exec_} sextant key create --tenant default --name warm-up",
                f"kubectl -n {namespace} create secret generic {WARM_UP_SECRET} "
                f"--from-file=api-key=/dev/stdin",
                f"{APPLY} after/",
            ),
            "The second command reads the key that the first one showed: paste it and press Ctrl-D twice. "
            "Hot prompts of your own go into after/warm-up.yaml before the third.",
        )
    )
    return tuple(steps)


def _sharing(cluster: Cluster) -> tuple[Step, ...]:
    shares = [each.share for each in cluster.workloads if each.share is not None]
    if not shares:
        return ()
    config = '{"spec":{"devicePlugin":{"config":{"name":"sextant-device-plugin","default":"sextant"}}}}'
    commands = [
        f"kubectl -n {OPERATOR_NAMESPACE} patch clusterpolicies.nvidia.com/cluster-policy --type merge "
        f"-p '{config}'"
    ]
    profiles = sorted({each.profile for each in shares if each.profile})
    if profiles:
        commands.append(
            f"kubectl label nodes -l nvidia.com/gpu.present=true --overwrite "
            f"nvidia.com/mig.config=all-{profiles[0]}"
        )
    why = "Accelerators are cut once for each node; pods on them are restarted by it."
    return (Step("Share accelerators.", tuple(commands), why),)


def _node_groups(cluster: Cluster) -> tuple[Step, ...]:
    if cluster.order.deployment.spec.delivery.node_scaling != "cluster-autoscaler":
        return ()
    least = max((each.nodes * each.replicas for each in cluster.workloads if each.resource), default=0)
    most = sum(each.nodes * each.replicas_most for each in cluster.workloads if each.resource)
    prefix = "cluster.x-k8s.io/cluster-api-autoscaler-node-group"
    command = (
        f'kubectl annotate --overwrite machinedeployment "$ACCELERATOR_NODES" {prefix}-min-size={least} '
        f"{prefix}-max-size={most}"
    )
    why = "The Cluster Autoscaler's provider for Cluster API reads these. Name your MachineDeployment first."
    return (Step("Let nodes come and go.", (command,), why),)


def _secrets(cluster: Cluster) -> tuple[str, ...]:
    """One command for each secret of ours; those of the operator's own are read from files."""
    namespace = cluster.namespace
    places: dict[str, list[str]] = {}
    for workload in cluster.workloads:
        if workload.command.secret_env:
            found = places.setdefault(engine_secret(cluster, workload), [namespace])
            if workload.part.namespace not in found:
                found.append(workload.part.namespace)
    commands = [
        f'key="$(openssl rand -hex 32)"; for namespace in {" ".join(where)}; do printf %s "$key" | '
        f'kubectl -n "$namespace" create secret generic {name} --from-file={KEY_SECRET}=/dev/stdin; done'
        for name, where in sorted(places.items())
    ]
    assumed = stores_of(cluster).assumed
    for name, field in (("store", "spec.store"), ("limits", "spec.limits")):
        if field in assumed:
            commands.append(
                f"kubectl -n {namespace} create secret generic {name} "
                f"--from-file=password={name}-password --from-file=ca.crt={name}-ca.crt"
            )
    if cluster.order.deployment.spec.continuity.backup is not None:
        commands.append(
            f"kubectl -n {upkeep.VELERO_NAMESPACE} create secret generic {namespace}-backup "
            f"--from-file=cloud=object-store-credentials"
        )
    return (*commands, *own_secrets(cluster))


def _waits(cluster: Cluster) -> tuple[str, ...]:
    found = []
    for workload in cluster.workloads:
        seconds = int(workload.start_s) + 600
        at = f"-n {workload.part.namespace} --timeout={seconds}s"
        if workload.nodes > 1:
            found.append(f"kubectl wait {at} --for=condition=Available leaderworkerset/{workload.part.name}")
        else:
            found.append(f"kubectl rollout status {at} deployment/{workload.part.name}")
    for workload in routed(cluster):
        part = workload.router
        found.append(f"kubectl rollout status -n {part.namespace} --timeout=300s deployment/{part.name}")
    return (*found, f"kubectl rollout status -n {cluster.namespace} --timeout=300s deployment/gateway")


def _verify(cluster: Cluster) -> tuple[Step, ...]:
    namespace = cluster.namespace
    forward = f"kubectl -n {namespace} port-forward service/gateway 8443:443 &"
    return (
        Step("Everything fits the cluster.", ("kubectl apply --server-side --dry-run=server -f manifests/",)),
        Step("It serves.", _waits(cluster)),
        Step(
            "It answers.",
            (
                f"kubectl -n {namespace} get secret sextant-ca -o jsonpath='{{.data.ca\\.crt}}' "
                "| base64 -d > ca.crt",
                forward,
                f"curl --cacert ca.crt --connect-to gateway.{namespace}.svc:443:127.0.0.1:8443 "
                f"https://gateway.{namespace}.svc/ready",
            ),
        ),
        Step("Scaling reads its metrics.", (f"kubectl -n {namespace} get scaledobjects,hpa",)),
    )


def _upgrade(cluster: Cluster) -> tuple[Step, ...]:
    return (
        Step(
            "See what changes, and render it.",
            (COMPARE, f"cp -R . {PREVIOUS}", RENDER, "kubectl diff --server-side -f manifests/"),
            f"NEW_DOCUMENT is the document as it shall be; {PREVIOUS} a new folder outside of this one: the "
            "way back.",
        ),
        Step(
            "Apply it.",
            (
                *_without_jobs(cluster),
                f"{APPLY} cluster/",
                f"{APPLY} manifests/",
            ),
            "Jobs cannot be changed, so those that fetch are made again; what is there is not fetched twice.",
        ),
        Step("Wait until it serves.", _waits(cluster)),
    )


def _rollback(cluster: Cluster) -> tuple[Step, ...]:
    return (
        Step(
            "Take the pods back.",
            (f"kubectl -n {cluster.namespace} rollout undo deployment/gateway",),
            "At once, for the gateway; the bundle before this one takes engines back too.",
        ),
        Step(
            "Apply the bundle before this one.",
            (*_without_jobs(cluster), f"{APPLY} {PREVIOUS}/manifests/"),
            f"{PREVIOUS} is the copy that was made when upgrading.",
        ),
    )


def _without_jobs(cluster: Cluster) -> tuple[str, ...]:
    return tuple(
        f"kubectl -n {each.part.namespace} delete job fetch-{each.model_label} --ignore-not-found"
        for each in distinct(cluster.workloads)
        if is_fetched(each)
    )


def _uninstall(cluster: Cluster) -> tuple[Step, ...]:
    return (
        Step("Take the deployment away.", ("kubectl delete --ignore-not-found -f after/ -f manifests/",)),
        Step(
            "Take the namespaces away.",
            ("kubectl delete --ignore-not-found -f cluster/",),
            "Weights and secrets go with them; PostgreSQL, Redis and backups stay.",
        ),
    )


def _diagram(cluster: Cluster) -> str:
    lines = [
        "flowchart LR",
        "  callers([callers]) -->|TLS 1.3| gateway[gateway replicas]",
        "  gateway --> postgres[(PostgreSQL)]",
        "  gateway --> redis[(Redis)]",
        "  keda{{KEDA}} -. replicas .-> gateway",
    ]
    for number, workload in enumerate(cluster.workloads):
        if workload.role == "whole":
            lines.append(f"  gateway --> e{number}[{_told(workload)}]")
        else:
            router = workload.router.name
            lines.append(f"  gateway --> {router} --> e{number}[{_told(workload)}]")
        lines.append(f"  keda -. replicas .-> e{number}")
        lines.append(f"  weights[(weights)] --> e{number}")
    return "\n".join(lines)


def _told(workload: Workload) -> str:
    machines = f"{workload.nodes} machines" if workload.nodes > 1 else "1 machine"
    return f"{workload.part.name}, {workload.replicas} x {machines}, {workload.accelerators} accelerators"


def _between(cluster: Cluster) -> str:
    """What protects requests on their way from gateway to engines."""
    if cluster.trust_domain:
        return (
            "Gateway and engines know each other by SPIFFE ids in mutual TLS 1.3. The machines of one "
            "replica talk to each other as their libraries do, in the clear; so do probes and Prometheus, "
            "which reach health and metrics alone."
        )
    return (
        "Requests from gateway to engines are plain HTTP inside the cluster, which network policies confine "
        "to that pair; where traffic must be encrypted there too, write `spec.security.spiffe`, or use a "
        "network plug-in or mesh that does it."
    )


def _notes(cluster: Cluster, rooms: Mapping[str, quotas.Room]) -> tuple[str, ...]:
    assumed = [
        f"The document does not say `{field}`; the bundle expects it where sextant.yaml in the ConfigMap "
        f"`gateway` says."
        for field in stores_of(cluster).assumed
    ]
    shares = [
        f"Namespace {namespace}: {room.cores} cores, "
        + (", ".join(f"{count} {name}" for name, count in room.accelerators.items()) or "no accelerators")
        for namespace, room in rooms.items()
    ]
    left_out = [
        f"Engines of {each.served.entry.name} serve no metrics, so their replicas do not scale."
        for each in cluster.workloads
        if not each.command.metrics_path
    ]
    several = any(each.nodes > 1 for each in cluster.workloads)
    groups = (
        "Pods of a group start together only with gang scheduling: switch it on in the LeaderWorkerSet "
        "controller, with Volcano or Kueue. RDMA needs nodes whose container runtime allows locked memory "
        "without bound; the pods ask for no capability."
    )
    return (
        "No cluster has run this bundle: every object passes the schemas of Kubernetes 1.36 and of the "
        "custom resources.",
        "Replicas are left to KEDA: manifests name none, so that applying them again does not undo it.",
        _between(cluster),
        "Engine pods run as a user without rights and with a read-only root. Images that were made for root "
        "may need more writable folders than /tmp.",
        "A renewed certificate is read when a pod starts: let a reloader restart the gateway (its annotation "
        "is there), or type `kubectl rollout restart deployment/gateway` within 60 days.",
        *([groups] if several else []),
        *start_notes(cluster),
        *router_notes(cluster),
        *assumed,
        *left_out,
        *shares,
    )
