"""Rules for what an object may do: bounds, lasting images, privileges, secrets, walls of namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sextant.operations.verify.findings import Cluster, Noted, Object
from sextant.operations.verify.pods import all_pods, containers_of, defined, named

DECLARED = "sextant.dev/not-restricted"
"""Annotation of a namespace that trusts its pods further than `restricted`: why it does."""
ENFORCE = "pod-security.kubernetes.io/enforce"
LEVELS = ("restricted", "baseline", "privileged")
"""Of Pod Security, the strictest first (kubernetes.io/docs/concepts/security/pod-security-standards)."""
BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
"""What `baseline` lets a container add."""


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
    """What Pod Security's `restricted` profile would refuse, and roots that may be written; but for what a
    namespace of the bundle's own declares to allow, with its reason."""
    levels = _declared(cluster)
    for body, template in all_pods(cluster.objects):
        level, _ = levels.get(body["metadata"].get("namespace", ""), (LEVELS[0], ""))
        for least, what in _privileges(template):
            if LEVELS.index(least) > LEVELS.index(level):
                yield f"{named(body)}: {what}"


def privileges_declared(cluster: Cluster) -> Iterator[Noted]:
    """What is let through because its namespace declares it, one note for each workload."""
    levels = _declared(cluster)
    for body, template in all_pods(cluster.objects):
        level, why = levels.get(body["metadata"].get("namespace", ""), (LEVELS[0], ""))
        let = [what for least, what in _privileges(template) if LEVELS.index(least) <= LEVELS.index(level)]
        if let:
            yield Noted("SX-V008", f"{named(body)}: {', '.join(let)}", why)
    for space, (level, why) in sorted(levels.items()):
        yield Noted("SX-V010", f"namespace {space}: pods are held to {level}", why)


def _declared(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Level and reason of each namespace of the bundle that says why its pods are not restricted."""
    found = {}
    for body in cluster.objects:
        if body["kind"] == "Namespace":
            level = body["metadata"].get("labels", {}).get(ENFORCE)
            why = body["metadata"].get("annotations", {}).get(DECLARED, "").strip()
            if level in LEVELS[1:] and why:
                found[body["metadata"]["name"]] = (level, why)
    return found


def _privileges(template: Object) -> Iterator[tuple[str, str]]:
    """What a pod asks for beyond `restricted`, with the strictest level that allows it."""
    spec = template["spec"]
    own = spec.get("securityContext", {})
    if not own.get("runAsNonRoot") or own.get("runAsUser", 0) == 0:
        yield "baseline", "may run as root"
    if own.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "baseline", "no seccomp profile"
    if spec.get("automountServiceAccountToken") is not False:
        yield "privileged", "is handed a token"
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "privileged", "shares the host's namespaces"
    allowed = {"configMap", "csi", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    for volume in spec.get("volumes", ()):
        if not set(volume) - {"name"} <= allowed:
            level = "privileged" if "hostPath" in volume else "baseline"
            yield level, f"the volume {volume['name']} is of a kind that is refused"
    for container in containers_of(template):
        context = container.get("securityContext", {})
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
        capabilities = context.get("capabilities", {})
        added = set(capabilities.get("add", ()))
        if context.get("privileged") or not added <= BASELINE_CAPABILITIES:
            yield "privileged", f"{container['name']} keeps privileges"
        elif not wanted.items() <= context.items() or capabilities.get("drop") != ["ALL"] or added:
            yield "baseline", f"{container['name']} keeps privileges"


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
    levels = _declared(cluster)
    for body in cluster.objects:
        if body["kind"] != "Namespace":
            continue
        name = body["metadata"]["name"]
        if body["metadata"]["labels"].get(ENFORCE) != "restricted" and name not in levels:
            yield f"namespace {name}: pods are not restricted, and no annotation {DECLARED} says why"
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
