"""Walking over Kubernetes objects: pods, containers, names, quantities. What the rules have in common."""

from __future__ import annotations

from collections.abc import Iterator

from sextant.operations.verify.findings import Object

TEMPLATED = ("DaemonSet", "Deployment", "Job", "ReplicaSet", "Rollout", "StatefulSet")
MEBIBYTES = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}


def pods_of(body: Object) -> Iterator[tuple[Object, int]]:
    """Templates of pods with how many of each one replica has."""
    if body["kind"] == "Job" and "tasks" in body["spec"]:  # Volcano's
        for task in body["spec"]["tasks"]:
            yield task["template"], task["replicas"]
    elif body["kind"] in TEMPLATED:
        yield body["spec"]["template"], body["spec"].get("parallelism", 1)
    elif body["kind"] == "LeaderWorkerSet":
        group = body["spec"]["leaderWorkerTemplate"]
        yield group["leaderTemplate"], 1
        yield group["workerTemplate"], group["size"] - 1
    elif body["kind"] == "CronJob":
        yield body["spec"]["jobTemplate"]["spec"]["template"], 1


def containers_of(template: Object) -> list[Object]:
    """First containers and others."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def serving_of(template: Object) -> list[Object]:
    """Containers that run as long as the pod does: also first ones that are started and left running."""
    first = [
        each for each in template["spec"].get("initContainers", ()) if each.get("restartPolicy") == "Always"
    ]
    return [*first, *template["spec"]["containers"]]


def all_pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Every template with the object it belongs to."""
    for body in objects:
        for template, _ in pods_of(body):
            yield body, template


def named(body: Object) -> str:
    """How faults call an object: kind, namespace, name."""
    return f"{body['kind']} {body['metadata'].get('namespace', '')}/{body['metadata']['name']}"


def defined(objects: list[Object], kind: str) -> set[tuple[str, str]]:
    """(namespace, name) of every object of that kind."""
    return {
        (body["metadata"].get("namespace", ""), body["metadata"]["name"])
        for body in objects
        if body["kind"] == kind
    }


def replicas_of(objects: list[Object], body: Object) -> int:
    """The least number of replicas: an autoscaler's bound, or one where there is none."""
    for scaler in objects:
        if scaler["kind"] == "ScaledObject":
            target = scaler["spec"]["scaleTargetRef"]
            same = scaler["metadata"]["namespace"] == body["metadata"].get("namespace")
            if same and (target["kind"], target["name"]) == (body["kind"], body["metadata"]["name"]):
                return int(scaler["spec"]["minReplicaCount"])
    return 1


def number(quantity: str | int) -> float:
    """A quantity in its own unit: cores, MiB, pieces."""
    text = str(quantity)
    if text[-2:] in MEBIBYTES:
        return float(text[:-2]) * MEBIBYTES[text[-2:]]
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
