"""What a cluster must have before a bundle is applied: operators by their custom resources, classes."""

from __future__ import annotations

from sextant.render.kubernetes.cluster import USER, Cluster, distinct
from sextant.render.kubernetes.compiled import compiled_claim, compiled_folder
from sextant.render.kubernetes.gateway import secret_need
from sextant.render.kubernetes.identity import agent_socket
from sextant.render.kubernetes.pods import GROUP
from sextant.render.kubernetes.upkeep import NODE_CLASS, VELERO_NAMESPACE
from sextant.render.kubernetes.weights import FILESYSTEM_CLASS, is_fetched, node_folder
from sextant.spec.bundle import Need

_OPERATORS = (
    ("certificates.cert-manager.io", "cert-manager", "makes and renews the gateway's certificate"),
    ("scaledobjects.keda.sh", "KEDA 2.17 or newer", "scales gateway and engines"),
    ("servicemonitors.monitoring.coreos.com", "Prometheus operator", "reads metrics, records, alerts"),
    ("schedules.velero.io", "Velero", "backs the objects up"),
)


def cluster_needs(cluster: Cluster) -> tuple[Need, ...]:
    """What must be installed, and classes, nodes and secrets that the manifests name."""
    delivery = cluster.order.deployment.spec.delivery
    found = [
        Need(
            kind="cluster",
            name="Kubernetes 1.33 or newer",
            why="pods sleep before they stop; from 1.35 on autoscalers honour `tolerance`, before that "
            "they need the feature gate HPAConfigurableTolerance for more than ten replicas",
            check="kubectl version",
        ),
        *(_operator(*each) for each in _OPERATORS),
        Need(
            kind="cluster",
            name="kube-state-metrics and the kubelet's metrics in Prometheus",
            why="the gateway scales by CPU too",
        ),
    ]
    if any(each.nodes > 1 for each in cluster.workloads):
        found.append(
            _operator(
                "leaderworkersets.leaderworkerset.x-k8s.io",
                "LeaderWorkerSet 0.7 or newer",
                "runs replicas that span several machines",
            )
        )
    if cluster.trust_domain:
        found.extend(_spire(cluster))
    found.extend(_hardware(cluster))
    if cluster.workloads:
        found.extend(_weights(cluster, delivery.storage_class or FILESYSTEM_CLASS))
    group, kind, name = NODE_CLASS
    if delivery.node_scaling == "karpenter":
        found.append(
            Need(
                kind="cluster",
                name=f"{kind} {name}",
                why="which machines Karpenter makes; yours, by the provider of your cloud",
                check=f"kubectl get {kind.lower()}es.{group} {name}",
            )
        )
    backup = cluster.order.deployment.spec.continuity.backup
    if backup is not None:
        secret = f"{cluster.namespace}-backup"
        found.append(
            secret_need(VELERO_NAMESPACE, secret, ("cloud",), "Velero signs in to the object store with it")
        )
    else:
        found.append(
            Need(
                kind="storage",
                name="Velero's backup location `default`",
                why="spec.continuity.backup is not set",
                check=f"kubectl -n {VELERO_NAMESPACE} get backupstoragelocation default",
            )
        )
    found.append(
        secret_need(
            cluster.namespace, "warm-up", ("api-key",), "the warm-up job asks with it; made on the way"
        )
    )
    return tuple(found)


def _spire(cluster: Cluster) -> list[Need]:
    why = f"issues the SPIFFE ids of the trust domain {cluster.trust_domain}; one agent on every node"
    return [
        _operator("clusterspiffeids.spire.spiffe.io", "SPIRE with its controller manager", why),
        Need(
            kind="cluster",
            name="SPIFFE CSI driver csi.spiffe.io",
            why=f"puts the agent's socket into pods, as {agent_socket(cluster)}",
            check="kubectl get csidriver csi.spiffe.io",
        ),
    ]


def _hardware(cluster: Cluster) -> list[Need]:
    found = []
    resources = sorted({each.resource for each in cluster.workloads if each.resource})
    for resource in resources:
        count = sum(each.accelerators for each in cluster.workloads if each.resource == resource)
        path = resource.replace(".", "\\.")
        found.append(
            Need(
                kind="hardware",
                name=f"{count} x {resource}",
                why="what the plan takes; the vendor's device plugin and exporter run on those nodes",
                check=f"kubectl get nodes -o jsonpath='{{.items[*].status.allocatable.{path}}}'",
            )
        )
    return found


def _weights(cluster: Cluster, storage_class: str) -> list[Need]:
    found = [
        Need(
            kind="storage",
            name=f"StorageClass {storage_class}",
            why="a file system that many pods read, for weights; Rook-Ceph's is meant",
            check=f"kubectl get storageclass {storage_class}",
        )
    ]
    found.extend(
        Need(
            kind="storage",
            name=f"Folder {node_folder(namespace)} on every node that serves, owned by uid {USER}",
            why="the node's own copy of the weights; without it engines read the shared volume",
            check=f"install -d -o {USER} -g {USER} {node_folder(namespace)}",
        )
        for namespace in cluster.namespaces
        if cluster.workloads_in(namespace)
    )
    found.extend(
        Need(
            kind="storage",
            name=f"Folder {compiled_folder(namespace)} on every node that serves, of group {GROUP}",
            why="engines keep there what they compile, each in a folder of its own; without it they compile "
            "anew at each start",
            check=f"install -d -o root -g {GROUP} -m 1770 {compiled_folder(namespace)}",
        )
        for namespace in cluster.namespaces
        if compiled_claim(cluster, namespace)
    )
    for workload in distinct(cluster.workloads):
        if not is_fetched(workload):
            found.append(
                Need(
                    kind="storage",
                    name=f"Weights of {workload.served.entry.name} on the volume `weights` of "
                    f"{workload.part.namespace}",
                    why=f"the document names no source to fetch from; put them into the folder "
                    f"{workload.served.key} there, with a file `.whole` that names their version",
                )
            )
    for namespace in cluster.namespaces:
        if any(is_fetched(each) for each in cluster.workloads_in(namespace)):
            why = "optional: a token, or a mirror's address"
            found.append(secret_need(namespace, "hub", ("HF_TOKEN", "HF_ENDPOINT"), why))
    return found


def _operator(crd: str, name: str, why: str) -> Need:
    return Need(kind="cluster", name=name, why=why, check=f"kubectl get crd {crd}")
