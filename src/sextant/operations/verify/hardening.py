"""Rules for what an object may do: bounds, lasting images, privileges, secrets, walls of namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sextant.operations.verify.findings import Cluster
from sextant.operations.verify.pods import all_pods, containers_of, defined, named


def pods_without_bounds(cluster: Cluster) -> Iterator[str]:
    """Containers without requests or limits."""
    for body, template in all_pods(cluster.objects):
        for container in containers_of(template):
            amounts = container.get("resources", {})
            for side in ("requests", "limits"):
                if not {"cpu", "memory", "ephemeral-storage"} <= set(amounts.get(side, ())):
                    yield f"{named(body)}: {container['name']} has no {side}"


def images_that_move(cluster: Cluster) -> Iterator[str]:
    """Images by no tag, or by one that is another image tomorrow; a digest holds whatever the tag."""
    for body, template in all_pods(cluster.objects):
        for container in containers_of(template):
            tagged, _, digest = container["image"].partition("@")
            tag = tagged.rpartition("/")[2].rpartition(":")
            if not digest and (not tag[1] or tag[2] == "latest"):
                yield f"{named(body)}: {container['image']} has no lasting tag"


def images_without_digest(cluster: Cluster) -> set[str]:
    """Images that are named by tag alone."""
    return {
        container["image"]
        for _, template in all_pods(cluster.objects)
        for container in containers_of(template)
        if "@sha256:" not in container["image"]
    }


def folders_of_hosts(cluster: Cluster) -> Iterator[str]:
    """Volumes in a folder of the node that the prerequisites do not name."""
    declared = " ".join(need.name for need in cluster.needs).split()
    for body in cluster.objects:
        if body["kind"] != "PersistentVolume":
            continue
        for way in ("hostPath", "local"):
            path = body["spec"].get(way, {}).get("path")
            if path is not None and path not in declared:
                yield f"{named(body)}: the folder {path} of the node is not among the prerequisites"


def pods_with_privileges(cluster: Cluster) -> Iterator[str]:
    """What Pod Security's `restricted` profile would refuse, and roots that may be written."""
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    for body, template in all_pods(cluster.objects):
        spec = template["spec"]
        own = spec.get("securityContext", {})
        if not own.get("runAsNonRoot") or own.get("runAsUser", 0) == 0:
            yield f"{named(body)}: may run as root"
        if own.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{named(body)}: no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{named(body)}: is handed a token"
        if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{named(body)}: shares the host's namespaces"
        for volume in spec.get("volumes", ()):
            if not set(volume) - {"name"} <= allowed:
                yield f"{named(body)}: the volume {volume['name']} is of a kind that is refused"
        for container in containers_of(template):
            context = container.get("securityContext", {})
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
            dropped = context.get("capabilities", {}).get("drop") == ["ALL"]
            if not wanted.items() <= context.items() or not dropped or context["capabilities"].get("add"):
                yield f"{named(body)}: {container['name']} keeps privileges"


def secrets_in_the_open(cluster: Cluster) -> Iterator[str]:
    """Secrets with values, and variables that hold one."""
    for body in cluster.objects:
        if body["kind"] == "Secret":
            yield f"{named(body)}: a secret's value stands in the bundle"
    for body, template in all_pods(cluster.objects):
        for container in containers_of(template):
            for variable in container.get("env", ()):
                secret = re.search(r"KEY|TOKEN|PASSWORD|SECRET", variable["name"])
                if secret and variable.get("value"):
                    yield f"{named(body)}: {variable['name']} is written out"


def namespaces_without_walls(cluster: Cluster) -> Iterator[str]:
    """Namespaces without default deny, quota, defaults, or Pod Security."""
    for body in cluster.objects:
        if body["kind"] != "Namespace" or body["metadata"]["name"] in cluster.beside:
            continue
        name = body["metadata"]["name"]
        if body["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"namespace {name}: pods are not restricted"
        for kind in ("ResourceQuota", "LimitRange"):
            if not any(where == name for where, _ in defined(cluster.objects, kind)):
                yield f"namespace {name}: no {kind}"
        shut = [
            each
            for each in cluster.objects
            if each["kind"] == "NetworkPolicy"
            and each["metadata"]["namespace"] == name
            and each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        ]
        if not shut:
            yield f"namespace {name}: traffic is not denied by default"
