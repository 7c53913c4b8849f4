"""Namespaces with their bounds: Pod Security, quotas that add up to what there is, defaults for containers.

The shared namespace may hold what gateway and shared engines need at their most replicas. What accelerators
are left is shared out among lines of business by `spec.delivery.quotas`; an engine of a line's own counts
there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.kubernetes.cluster import (
    CORES_PER_ACCELERATOR,
    MEMORY_PER_ACCELERATOR,
    Cluster,
    Workload,
)
from sextant.render.kubernetes.gateway import (
    CORES,
    EMBEDDED_MEMORY_BYTES,
    MEMORY_BYTES,
)
from sextant.render.kubernetes.objects import GIB, Object, cluster_wide, gibibytes, made
from sextant.render.kubernetes.router import CORES as ROUTER_CORES
from sextant.render.kubernetes.router import MEMORY_BYTES as ROUTER_BYTES
from sextant.render.kubernetes.router import REPLICAS as ROUTERS
from sextant.render.kubernetes.router import routed
from sextant.spec.engine_sections import EmbeddedEngine

POD_SECURITY = "restricted"
SERVING_PRIORITY, BATCH_PRIORITY = 1_000_000, 1_000
SMALL_CORES, SMALL_BYTES = 4, 8 * GIB
"""For jobs, and for pods that are being replaced."""
LEAST_LINE_CORES = 1
PROXY_CORES, PROXY_BYTES = 2, GIB
"""Limits of a mesh's proxy in each pod (Istio's own defaults, values.yaml of 1.27)."""


SIDECAR_BYTES = GIB // 2
"""Beside an engine that is known by a SPIFFE id; with a core of its own."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace may ask for in all."""

    cores: int = 0
    memory_bytes: int = 0
    accelerators: Mapping[str, int] = {}
    """By extended resource."""
    pods: int = 0

    def plus(self, other: Room) -> Room:
        """Both together."""
        names = sorted({*self.accelerators, *other.accelerators})
        return Room(
            cores=self.cores + other.cores,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            accelerators={
                name: self.accelerators.get(name, 0) + other.accelerators.get(name, 0) for name in names
            },
            pods=self.pods + other.pods,
        )


def needed(cluster: Cluster, namespace: str) -> Room:
    """What the pods of that namespace ask for at their most replicas."""
    room = Room(cores=SMALL_CORES, memory_bytes=SMALL_BYTES, pods=10)
    for workload in cluster.workloads_in(namespace):
        room = room.plus(_of_workload(workload))
        if cluster.order.mode == "container" and workload.nodes == 1:
            room = room.plus(_one_more(workload))
    for _ in routed(cluster, namespace):
        room = room.plus(_of_router())
    if namespace == cluster.namespace:
        room = room.plus(_of_gateway(cluster))
        if cluster.order.mode == "container":
            room = room.plus(_of_gateway(cluster))  # blue and green side by side
    if cluster.trust_domain:
        guarded = Room(cores=room.pods, memory_bytes=SIDECAR_BYTES * room.pods)
        room = room.plus(guarded)
    if _is_meshed(cluster):
        proxies = Room(cores=PROXY_CORES * room.pods, memory_bytes=PROXY_BYTES * room.pods)
        room = room.plus(proxies)
    return room


def _one_more(workload: Workload) -> Room:
    """A new version's first replica, beside all of the old one's."""
    own = {workload.resource: workload.per_pod} if workload.resource else {}
    return Room(cores=workload.cpu, memory_bytes=workload.memory_bytes, accelerators=own, pods=1)


def _of_workload(workload: Workload) -> Room:
    pods = workload.nodes * workload.replicas_most
    on_nodes = _nodes(workload)
    return Room(
        # The engine's pods with the container that chooses weights, and the cache's pod of every node.
        cores=workload.cpu * pods + math.ceil(on_nodes / 2),
        memory_bytes=workload.memory_bytes * pods + on_nodes * GIB,
        accelerators={workload.resource: workload.per_pod * pods} if workload.resource else {},
        pods=pods + on_nodes,
    )


def _of_router() -> Room:
    pods = ROUTERS + 1
    return Room(cores=pods * ROUTER_CORES, memory_bytes=pods * ROUTER_BYTES, pods=pods)


def _nodes(workload: Workload) -> int:
    """Nodes that may hold it, at most."""
    return workload.nodes * workload.replicas_most + 2


def _of_gateway(cluster: Cluster) -> Room:
    spec = cluster.order.deployment.spec
    replicas = spec.scaling.max_replicas + 1
    embedded = sum(isinstance(each.entry.engine, EmbeddedEngine) for each in cluster.order.served)
    return Room(
        cores=replicas * (CORES * spec.gateway.workers + 2 * embedded),
        memory_bytes=replicas * (MEMORY_BYTES * spec.gateway.workers + EMBEDDED_MEMORY_BYTES * embedded),
        pods=replicas,
    )


def capacity(cluster: Cluster) -> Mapping[str, int]:
    """Accelerators of the deployment by extended resource: what its sites have; where no site says, or nodes
    come as they are needed and no line of business has a share of them, what its engines may grow to."""
    counted: dict[str, int] = {}
    for namespace in cluster.namespaces:
        for name, count in needed(cluster, namespace).accelerators.items():
            counted[name] = counted.get(name, 0) + count
    sites = sum(each.count for site in cluster.order.deployment.spec.sites for each in site.accelerators)
    shared = any(each.share is not None for each in cluster.workloads)
    delivery = cluster.order.deployment.spec.delivery
    grows = delivery.node_scaling != "none" and not delivery.quotas
    if sites and len(counted) == 1 and not shared:
        return {
            name: max(sites, count if grows else _planned(cluster, name)) for name, count in counted.items()
        }
    return counted


def _planned(cluster: Cluster, resource: str) -> int:
    return sum(each.accelerators for each in cluster.workloads if each.resource == resource)


def rooms(cluster: Cluster) -> Mapping[str, Room]:
    """What each namespace may hold; of accelerators that it may not use, none.

    Raises Unsupported where a line's engines need more than its share, or all together more than there is."""
    whole = capacity(cluster)
    percents = {each.name: each.percent for each in cluster.order.deployment.spec.delivery.quotas}
    wanted = {namespace: needed(cluster, namespace) for namespace in cluster.namespaces}
    kept: dict[str, Mapping[str, int]] = {}
    for name, count in whole.items():
        _refuse_more_than_there_is(cluster, name, count)
        most = {namespace: room.accelerators.get(name, 0) for namespace, room in wanted.items()}
        planned = {namespace: _planned_in(cluster, namespace, name) for namespace in wanted}
        # With lines of business beside them, engines of no line do not grow.
        kept[name] = planned if percents else _grown(planned, most, count)
    found = {
        namespace: msgspec.structs.replace(
            room, accelerators={name: kept[name][namespace] for name in room.accelerators}
        )
        for namespace, room in wanted.items()
    }
    lines = {cluster.of_pool(pool): pool for pool in cluster.pools if pool in percents}
    left = {
        name: count - sum(kept[name][namespace] for namespace in wanted if namespace not in lines)
        for name, count in whole.items()
    }
    shares = {name: _shared_out(count, percents) for name, count in left.items()}
    for namespace, pool in lines.items():
        own = {name: share[pool] for name, share in shares.items()}
        found[namespace] = _line(cluster, pool, own, left)
    return {
        name: msgspec.structs.replace(room, accelerators={**dict.fromkeys(whole, 0), **room.accelerators})
        for name, room in found.items()
    }


def within(cluster: Cluster, rooms: Mapping[str, Room]) -> Cluster:
    """The cluster whose engines grow no further than their namespaces may hold: a replica more would be asked
    for again and again, and never come."""
    return msgspec.structs.replace(
        cluster, workloads=tuple(_within(cluster, each, rooms) for each in cluster.workloads)
    )


def _within(cluster: Cluster, workload: Workload, rooms: Mapping[str, Room]) -> Workload:
    if not workload.resource:
        return workload
    beside = sum(
        each.accelerators
        for each in cluster.workloads_in(workload.part.namespace)
        if each is not workload and each.resource == workload.resource
    )
    room = rooms[workload.part.namespace].accelerators[workload.resource] - beside
    most = max(workload.replicas, min(workload.replicas_most, room // (workload.per_pod * workload.nodes)))
    return msgspec.structs.replace(workload, replicas_most=most)


def _shared_out(count: int, percents: Mapping[str, int]) -> Mapping[str, int]:
    """`count` pieces by those shares, none left over: whole ones first, then one more to whoever's rest is
    the largest, the first of two alike."""
    found = {name: count * percent // 100 for name, percent in percents.items()}
    over = count * sum(percents.values()) // 100 - sum(found.values())
    by_rest = sorted(percents, key=lambda name: -(count * percents[name] % 100))
    return {name: whole + (name in by_rest[:over]) for name, whole in found.items()}


def _planned_in(cluster: Cluster, namespace: str, resource: str) -> int:
    """Accelerators of a namespace's engines as planned."""
    return sum(each.accelerators for each in cluster.workloads_in(namespace) if each.resource == resource)


def _grown(planned: Mapping[str, int], most: Mapping[str, int], count: int) -> Mapping[str, int]:
    """What each may have of `count`: as planned, and of the rest one after the other, as far as each can use
    it. Together they never have more than there is, so that nobody's replica takes another's place."""
    found = dict(planned)
    spare = count - sum(planned.values())
    while spare > 0 and any(found[name] < most[name] for name in found):
        for name in found:
            if spare > 0 and found[name] < most[name]:
                found[name] += 1
                spare -= 1
    return found


def _refuse_more_than_there_is(cluster: Cluster, resource: str, count: int) -> None:
    """Raises Unsupported where the engines together are planned on more than the sites have."""
    spec = cluster.order.deployment.spec
    sites = sum(each.count for site in spec.sites for each in site.accelerators)
    kinds = {each.name for site in spec.sites for each in site.accelerators}
    shared = any(each.share is not None for each in cluster.workloads)
    planned = _planned(cluster, resource)
    if len(kinds) != 1 or shared or spec.delivery.node_scaling != "none" or planned <= sites:
        return
    parts = ", ".join(
        f"{_planned_in(cluster, namespace, resource)} in {namespace}" for namespace in cluster.namespaces
    )
    raise Unsupported(
        f"spec.sites has {sites} {resource}, and the models together are planned on {planned} ({parts}); add "
        f"accelerators, or write a smaller spec.scaling.min_replicas",
        field="spec.sites",
    )


def _line(cluster: Cluster, pool: str, accelerators: Mapping[str, int], left: Mapping[str, int]) -> Room:
    """One line of business: its share of what is left, and CPU and memory to go with it."""
    namespace = cluster.of_pool(pool)
    planned: dict[str, int] = {}
    for workload in cluster.workloads_in(namespace):
        if workload.resource:
            planned[workload.resource] = planned.get(workload.resource, 0) + workload.accelerators
    for name, count in planned.items():
        if count > accelerators.get(name, 0):
            raise Unsupported(
                f"spec.delivery.quotas: the share of `{pool}` is {accelerators.get(name, 0)} of "
                f"{left[name]} {name}, and its models need {count}; give it more, or them fewer replicas"
            )
    count = sum(accelerators.values())
    own = needed(cluster, namespace)
    return Room(
        cores=max(own.cores, count * CORES_PER_ACCELERATOR, LEAST_LINE_CORES),
        memory_bytes=max(own.memory_bytes, count * MEMORY_PER_ACCELERATOR, GIB),
        accelerators=accelerators,
        pods=max(own.pods, 10 + 2 * count),
    )


def namespace_objects(
    cluster: Cluster, namespace: str, room: Room, *, meshed: bool = True
) -> tuple[Object, ...]:
    """The namespace, its quota, and the defaults of its containers. Not `meshed`: without a mesh's proxies,
    where the others have them."""
    part = cluster.part("namespace", namespace=namespace)
    labels = {
        **part.labels,
        **{f"pod-security.kubernetes.io/{mode}": POD_SECURITY for mode in ("enforce", "audit", "warn")},
        **({"istio-injection": "enabled"} if meshed and _is_meshed(cluster) else {}),
    }
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    memory = gibibytes(room.memory_bytes)
    hard = {
        "requests.cpu": str(room.cores),
        "limits.cpu": str(room.cores),
        "requests.memory": memory,
        "limits.memory": memory,
        **{f"requests.{name}": str(count) for name, count in sorted(room.accelerators.items())},
        "pods": str(room.pods),
        "services.nodeports": "0" if not _is_open(cluster, namespace) else "2",
        "services.loadbalancers": "1" if _is_open(cluster, namespace) else "0",
    }
    limits = {
        "type": "Container",
        "default": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
        "defaultRequest": {"cpu": "250m", "memory": "512Mi", "ephemeral-storage": "256Mi"},
    }
    return (
        body,
        made("v1/ResourceQuota", part, {"hard": hard}, name="share"),
        made("v1/LimitRange", part, {"limits": [limits]}, name="defaults"),
    )


def _is_meshed(cluster: Cluster) -> bool:
    return cluster.order.deployment.spec.delivery.mesh == "istio"


def _is_open(cluster: Cluster, namespace: str) -> bool:
    """Whether a load balancer stands in front of it; that takes a node port for each of its ports."""
    return namespace == cluster.namespace and cluster.order.deployment.spec.delivery.ingress_host is not None


def priority_classes(cluster: Cluster) -> tuple[Object, ...]:
    """Serving goes before jobs, and jobs put nobody out."""
    serving = cluster_wide(
        "scheduling.k8s.io/v1/PriorityClass", f"{cluster.namespace}-serving", cluster.order.name
    )
    batch = cluster_wide(
        "scheduling.k8s.io/v1/PriorityClass", f"{cluster.namespace}-batch", cluster.order.name
    )
    return (
        {**serving, "value": SERVING_PRIORITY, "description": "Gateway and engines."},
        {
            **batch,
            "value": BATCH_PRIORITY,
            "preemptionPolicy": "Never",
            "description": "Jobs beside them.",
        },
    )
