"""What looks after the cluster's side of a deployment: Velero, the descheduler, nodes that come and go.

Backups hold the objects of the namespaces. Accounts and books are PostgreSQL's, whose own backups keep them;
weights are fetched again.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sextant.render.dumping import yaml_text
from sextant.render.kubernetes.cluster import Cluster, Workload
from sextant.render.kubernetes.objects import Object, cluster_wide
from sextant.render.kubernetes.weights import FILESYSTEM_CLASS

VELERO_NAMESPACE = "velero"
CEPH_NAMESPACE, CEPH_FILESYSTEM = "rook-ceph", "sextant"
"""Where Rook's own examples put its cluster, and what the file system is called there."""
KUBE_SYSTEM = "kube-system"
NODE_CLASS = ("karpenter.cluster.x-k8s.io", "ClusterAPINodeClass", "sextant-accelerators")
"""Karpenter's provider for what Cluster API manages, as OpenStack and vSphere are; the object is the
administrator's."""
EMPTY_FOR = "30m"


def velero(cluster: Cluster) -> tuple[Object, ...]:
    """A schedule for the namespaces, and the place of the copies where the document names an object store."""
    spec = cluster.order.deployment.spec.continuity
    defaults = cluster.order.defaults
    backup = spec.backup
    place = _object_store(backup.repository) if backup is not None else None
    keep_days = backup.keep_days if backup is not None else None
    schedule = backup.schedule if backup is not None else None
    name = f"{cluster.namespace}-objects"
    location = cluster.namespace if place is not None else "default"
    template = {
        "includedNamespaces": list(cluster.namespaces),
        # References to secrets are kept, their values are the secret store's.
        "excludedResources": ["secrets", "events", "pods", "replicasets.apps"],
        "snapshotVolumes": False,
        "storageLocation": location,
        "ttl": f"{24 * (keep_days or defaults.backup_keep_days)}h0m0s",
    }
    body = _velero("Schedule", name, cluster)
    body["spec"] = {"schedule": schedule or defaults.backup_schedule, "template": template}
    if place is None:
        return (body,)
    return _location(cluster, location, place, cluster.site), body


def copies_of(site: str, cluster: Cluster) -> tuple[Object, ...]:
    """Another site's copies, for this one to restore from, never to write; none without an object store."""
    backup = cluster.order.deployment.spec.continuity.backup
    place = _object_store(backup.repository) if backup is not None else None
    if place is None:
        return ()
    body = _location(cluster, f"{cluster.namespace}-{site}", place, site)
    body["spec"]["accessMode"] = "ReadOnly"
    return (body,)


def _location(cluster: Cluster, name: str, place: tuple[str, str, str], site: str) -> Object:
    url, bucket, prefix = place
    below = "/".join(part for part in (prefix, site) if part)
    body = _velero("BackupStorageLocation", name, cluster)
    body["spec"] = {
        "provider": "aws",
        "objectStorage": {"bucket": bucket, **({"prefix": below} if below else {})},
        "credential": {"name": f"{cluster.namespace}-backup", "key": "cloud"},
        "config": {"s3Url": url, "s3ForcePathStyle": "true", "region": "default"},
    }
    return body


def _velero(kind: str, name: str, cluster: Cluster) -> Object:
    body = cluster_wide(f"velero.io/v1/{kind}", name, cluster.order.name)
    body["metadata"]["namespace"] = VELERO_NAMESPACE
    return body


def _object_store(repository: str) -> tuple[str, str, str] | None:
    """URL, bucket and prefix of `s3:https://host/bucket/prefix`; None for another kind of place."""
    if not repository.startswith(("s3:http://", "s3:https://")):
        return None
    parts = urlsplit(repository.removeprefix("s3:"))
    bucket, _, prefix = parts.path.strip("/").partition("/")
    return (f"{parts.scheme}://{parts.netloc}", bucket, prefix) if bucket else None


def ceph_storage(cluster: Cluster) -> tuple[Object, ...]:
    """Rook's file system and its storage class, for a cluster where Rook-Ceph runs and has neither yet.
    Weights and checkpoints lie on it: three copies of each on different hosts, kept when the file system's
    object is deleted."""
    instance = cluster.order.name
    three = {"failureDomain": "host", "replicated": {"size": 3, "requireSafeReplicaSize": True}}
    filesystem = cluster_wide("ceph.rook.io/v1/CephFilesystem", CEPH_FILESYSTEM, instance)
    filesystem["metadata"]["namespace"] = CEPH_NAMESPACE
    filesystem["spec"] = {
        "metadataPool": three,
        "dataPools": [{"name": "replicated", **three}],
        "preserveFilesystemOnDelete": True,
        "metadataServer": {"activeCount": 1, "activeStandby": True},
    }
    secrets = {
        f"csi.storage.k8s.io/{step}-secret-{part}": told
        for step, name in (
            ("provisioner", "rook-csi-cephfs-provisioner"),
            ("controller-expand", "rook-csi-cephfs-provisioner"),
            ("node-stage", "rook-csi-cephfs-node"),
        )
        for part, told in (("name", name), ("namespace", CEPH_NAMESPACE))
    }
    storage = cluster_wide("storage.k8s.io/v1/StorageClass", FILESYSTEM_CLASS, instance)
    storage |= {
        "provisioner": f"{CEPH_NAMESPACE}.cephfs.csi.ceph.com",
        "parameters": {
            "clusterID": CEPH_NAMESPACE,
            "fsName": CEPH_FILESYSTEM,
            "pool": f"{CEPH_FILESYSTEM}-replicated",
            **secrets,
        },
        "reclaimPolicy": "Retain",
        "allowVolumeExpansion": True,
    }
    return filesystem, storage


def descheduler(cluster: Cluster) -> Object:
    """A policy against what scheduling leaves behind: twins on one node, uneven zones, accelerators used here
    and there. It takes only pods that have a place to go, and never the last one."""
    ours = {"include": list(cluster.namespaces)}
    plugins = {
        "RemoveDuplicates": {"namespaces": ours},
        "RemovePodsViolatingTopologySpreadConstraint": {
            "namespaces": ours,
            "constraints": ["DoNotSchedule", "ScheduleAnyway"],
        },
        "RemovePodsViolatingNodeAffinity": {
            "namespaces": ours,
            "nodeAffinityType": ["requiredDuringSchedulingIgnoredDuringExecution"],
        },
        "RemovePodsHavingTooManyRestarts": {
            "namespaces": ours,
            "podRestartThreshold": 20,
            "includingInitContainers": True,
        },
    }
    resources = sorted({each.resource for each in cluster.workloads if each.resource})
    if resources:
        # Nodes whose accelerators are less than half used are emptied, so that whole nodes are free for
        # replicas that need all of one.
        plugins["HighNodeUtilization"] = {
            "thresholds": {"cpu": 50, "memory": 50, **dict.fromkeys(resources, 50)},
            "evictableNamespaces": {"exclude": [KUBE_SYSTEM]},
        }
    evictor = {
        "name": "DefaultEvictor",
        "args": {"nodeFit": True, "minReplicas": 2, "evictLocalStoragePods": True},
    }
    balance = [name for name in plugins if name not in _DESCHEDULES]
    profile = {
        "name": cluster.namespace,
        "pluginConfig": [evictor, *({"name": name, "args": args} for name, args in plugins.items())],
        "plugins": {
            "deschedule": {"enabled": [name for name in plugins if name in _DESCHEDULES]},
            "balance": {"enabled": balance},
        },
    }
    policy = {
        "apiVersion": "descheduler/v1alpha2",
        "kind": "DeschedulerPolicy",
        "profiles": [profile],
    }
    body = cluster_wide("v1/ConfigMap", f"{cluster.namespace}-descheduler-policy", cluster.order.name)
    body["metadata"]["namespace"] = KUBE_SYSTEM
    body["data"] = {"policy.yaml": yaml_text(policy)}
    return body


_DESCHEDULES = frozenset({"RemovePodsViolatingNodeAffinity", "RemovePodsHavingTooManyRestarts"})
"""Plugins of the extension point `deschedule`; the others balance."""


def node_pools(cluster: Cluster) -> tuple[Object, ...]:
    """Karpenter's pool of accelerator nodes for each kind, of at most what the engines may grow to."""
    found = []
    kinds: dict[str, list[Workload]] = {}
    for workload in cluster.workloads:
        if workload.resource:
            kinds.setdefault(workload.resource, []).append(workload)
    group, kind, name = NODE_CLASS
    for number, (resource, workloads) in enumerate(sorted(kinds.items())):
        device = workloads[0].device
        most = sum(each.per_pod * each.nodes * each.replicas_most for each in workloads)
        label, _, value = (device.node_label if device is not None else "").partition("=")
        template: Object = {
            "spec": {
                "nodeClassRef": {"group": group, "kind": kind, "name": name},
                "requirements": [
                    {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]},
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
                ],
                "expireAfter": "Never",
            }
        }
        if label:
            template["metadata"] = {"labels": {label: value}}
        if device is not None and device.taint:
            template["spec"]["taints"] = [{"key": device.taint, "value": "true", "effect": "NoSchedule"}]
        spec = {
            "template": template,
            "limits": {resource: str(most)},
            "disruption": {
                "consolidationPolicy": "WhenEmpty",
                "consolidateAfter": EMPTY_FOR,
                "budgets": [{"nodes": "1"}],
            },
        }
        named = f"{cluster.namespace}-accelerators" + (f"-{number + 1}" if number else "")
        found.append(cluster_wide("karpenter.sh/v1/NodePool", named, cluster.order.name, spec))
    return tuple(found)
