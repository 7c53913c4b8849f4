"""Rules for how much and how many: scaling, quotas, accelerators, time to load, disruption."""

from __future__ import annotations

from collections.abc import Iterator

from sextant.operations.verify.findings import Cluster, Object, label_text
from sextant.operations.verify.pods import named, number, pods_of, replicas_of

UNCOUNTED = ("requests.ephemeral-storage", "requests.rdma/rdma_shared_device_a")
"""What quotas leave open: it is not scarce."""
ACCELERATORS = "sextant.dev/accelerators"
REPLICAS = "sextant.dev/replicas"
MODEL = "sextant.dev/model"
TOPOLOGIES = (
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)
"""Labels that every node carries (kubernetes.io/docs/reference/labels-annotations-taints)."""


def scaled_by_two(cluster: Cluster) -> Iterator[str]:
    """Workloads that an autoscaler owns and that name replicas too, and scalers without a workload."""
    there = {
        (body["metadata"].get("namespace"), body["kind"], body["metadata"]["name"]): body
        for body in cluster.objects
    }
    for body in cluster.objects:
        if body["kind"] != "ScaledObject":
            continue
        target = body["spec"]["scaleTargetRef"]
        found = there.get((body["metadata"]["namespace"], target["kind"], target["name"]))
        if found is None or found["apiVersion"] != target["apiVersion"]:
            yield f"{named(body)}: scales nothing"
        elif "replicas" in found["spec"]:
            yield f"{named(found)}: names replicas that an autoscaler sets"
        if body["spec"]["minReplicaCount"] > body["spec"]["maxReplicaCount"]:
            yield f"{named(body)}: its bounds are the wrong way round"


def quotas_that_do_not_hold(cluster: Cluster) -> Iterator[str]:
    """Namespaces whose planned pods do not fit their quota."""
    quotas = {
        body["metadata"]["namespace"]: body["spec"]["hard"]
        for body in cluster.objects
        if body["kind"] == "ResourceQuota"
    }
    asked: dict[tuple[str, str], float] = {}
    for body in cluster.objects:
        replicas = replicas_of(cluster.objects, body)
        for template, count in pods_of(body):
            for container in template["spec"]["containers"]:
                for name, amount in container["resources"]["requests"].items():
                    key = (body["metadata"]["namespace"], f"requests.{name}")
                    asked[key] = asked.get(key, 0) + number(amount) * count * replicas
    for (space, name), amount in asked.items():
        if name in UNCOUNTED or space not in quotas:
            continue  # of a namespace without a quota another rule speaks
        allowed = quotas[space].get(name, "0")
        if amount > number(allowed):
            yield f"namespace {space}: {amount:g} of {name} are asked for and {allowed} allowed"


def scaled_twice(cluster: Cluster) -> Iterator[str]:
    """Workloads with two autoscalers, which pull against each other."""
    owners: dict[tuple[str, str, str], str] = {}
    for body in cluster.objects:
        if body["kind"] not in ("ScaledObject", "HorizontalPodAutoscaler"):
            continue
        if any(body is each for each in cluster.optional):
            continue
        target = body["spec"]["scaleTargetRef"]
        key = (body["metadata"].get("namespace", ""), target["kind"], target["name"])
        if key in owners:
            yield f"{named(body)}: {target['kind']} {target['name']} is scaled by {owners[key]} too"
        owners[key] = named(body)


def accelerators_that_differ(cluster: Cluster) -> Iterator[str]:
    """Workloads that take another number of accelerators than was planned."""
    annotated = [
        (body, int(body["metadata"]["annotations"][ACCELERATORS]))
        for body in cluster.objects
        if ACCELERATORS in body["metadata"].get("annotations", {})
    ]
    if cluster.planned is not None:
        planned = sorted(each.accelerators for each in cluster.planned if each.accelerators)
        there = sorted(count for _, count in annotated if count)
        if planned != there:
            yield f"engines take {there} accelerators and the plan says {planned}"
    for body, count in annotated:
        replica = sum(
            _devices(container) * many
            for template, many in pods_of(body)
            for container in template["spec"]["containers"]
        )
        replicas = int(body["metadata"]["annotations"].get(REPLICAS, "1"))
        if replica and replica * replicas != count:
            yield (
                f"{named(body)}: {replicas} replicas of {replica:g} accelerators are not the {count} planned"
            )


def _devices(container: Object) -> float:
    """Whole accelerators that a container asks for; shares of one (MIG, MPS, time slices) do not count."""
    limits = container.get("resources", {}).get("limits", {})
    return sum(
        number(amount)
        for name, amount in limits.items()
        if "/" in name and not name.startswith(("rdma/", "nvidia.com/mig-")) and not name.endswith(".shared")
    )


def probes_that_give_up_early(cluster: Cluster) -> Iterator[str]:
    """Engines that are killed, or a rollout that is called failed, before the weights can be loaded."""
    loads = {each.model: each.load_s for each in cluster.planned or ()}
    for body in cluster.objects:
        model = body["metadata"].get("labels", {}).get(MODEL)
        if ACCELERATORS not in body["metadata"].get("annotations", {}) or model not in loads:
            continue
        leader = next(template for template, _ in pods_of(body))["spec"]["containers"][0]
        probe = leader.get("startupProbe")
        if probe is None:
            yield f"{named(body)}: no startup probe leaves time for loading {model}"
            continue
        allowed_s = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        if allowed_s < loads[model]:
            yield (
                f"{named(body)}: the startup probe gives up after {allowed_s} s and loading takes about "
                f"{loads[model]:.0f} s"
            )
        deadline_s = body["spec"].get("progressDeadlineSeconds")
        if deadline_s is not None and deadline_s < allowed_s:
            yield f"{named(body)}: the rollout is called failed after {deadline_s} s, before its probe is"


def budgets_that_block(cluster: Cluster) -> Iterator[str]:
    """PodDisruptionBudgets that want as many pods as there are at least: no node can be emptied."""
    for body in cluster.objects:
        if body["kind"] != "PodDisruptionBudget":
            continue
        least = body["spec"].get("minAvailable")
        if "maxUnavailable" in body["spec"] and least is not None:
            yield f"{named(body)}: minAvailable and maxUnavailable exclude each other"
        chosen = body["spec"]["selector"]["matchLabels"]
        for workload in cluster.objects:
            labels = [template["metadata"]["labels"] for template, _ in pods_of(workload)]
            if not any(chosen.items() <= each.items() for each in labels):
                continue
            there = workload["spec"].get("replicas", replicas_of(cluster.objects, workload))
            if least == "100%" or (isinstance(least, int) and least >= max(there, 1)):
                yield f"{named(body)}: wants {least} pods of {label_text(chosen)} and {there} are sure"


def topologies_unknown(cluster: Cluster) -> Iterator[str]:
    """Spread and affinity over labels that no node carries by itself, or for pods that are others."""
    for body in cluster.objects:
        for template, _ in pods_of(body):
            spec, labels = template["spec"], template["metadata"].get("labels", {})
            for each in spec.get("topologySpreadConstraints", ()):
                if each["topologyKey"] not in TOPOLOGIES:
                    yield f"{named(body)}: nodes do not carry the label {each['topologyKey']}"
                if not each.get("labelSelector", {}).get("matchLabels", {}).items() <= labels.items():
                    yield f"{named(body)}: spreads pods that are not its own"
            for way in ("podAffinity", "podAntiAffinity"):
                rules = spec.get("affinity", {}).get(way, {})
                terms = [
                    *rules.get("requiredDuringSchedulingIgnoredDuringExecution", ()),
                    *(
                        each["podAffinityTerm"]
                        for each in rules.get("preferredDuringSchedulingIgnoredDuringExecution", ())
                    ),
                ]
                for term in terms:
                    if term["topologyKey"] not in TOPOLOGIES:
                        yield f"{named(body)}: nodes do not carry the label {term['topologyKey']}"
