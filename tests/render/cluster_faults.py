"""What schemas cannot say of a cluster's objects, found by looking at all of them together.

Each finder takes every object of a bundle and the needs it lists, and yields what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from sextant.spec.bundle import Need

Object = dict[str, Any]
Finder = Callable[[list[Object], tuple[Need, ...]], Iterator[str]]

PORTS = re.compile(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
TEMPLATED = ("Deployment", "DaemonSet", "Job", "StatefulSet")
UNCOUNTED = ("requests.ephemeral-storage", "requests.rdma/rdma_shared_device_a")
"""What quotas leave open: it is not scarce."""
MEBIBYTES = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}


def pods_of(body: Object) -> Iterator[tuple[Object, int]]:
    """Templates of pods with how many of each one replica has."""
    if body["kind"] in TEMPLATED:
        yield body["spec"]["template"], 1
    elif body["kind"] == "LeaderWorkerSet":
        group = body["spec"]["leaderWorkerTemplate"]
        yield group["leaderTemplate"], 1
        yield group["workerTemplate"], group["size"] - 1


def containers_of(template: Object) -> list[Object]:
    """First containers and others."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def all_pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Every template with the object it belongs to."""
    for body in objects:
        for template, _ in pods_of(body):
            yield body, template


def _name(body: Object) -> str:
    return f"{body['kind']} {body['metadata'].get('namespace', '')}/{body['metadata']['name']}"


def _defined(objects: list[Object], kind: str) -> set[tuple[str, str]]:
    return {
        (body["metadata"].get("namespace", ""), body["metadata"]["name"])
        for body in objects
        if body["kind"] == kind
    }


def twins(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Two objects of one name."""
    seen = set()
    for body in objects:
        if body["kind"] == "HorizontalPodAutoscaler":
            continue  # the alternative to a ScaledObject
        if _name(body) in seen:
            yield f"{_name(body)} stands there twice"
        seen.add(_name(body))


def names_that_lead_nowhere(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Accounts, ConfigMaps, claims, secrets and priority classes that are neither made nor listed."""
    listed = " ".join(need.name for need in needs)
    issued = {
        (body["metadata"]["namespace"], body["spec"]["secretName"])
        for body in objects
        if body["kind"] == "Certificate"
    }
    maps, claims = _defined(objects, "ConfigMap"), _defined(objects, "PersistentVolumeClaim")
    accounts, classes = _defined(objects, "ServiceAccount"), _defined(objects, "PriorityClass")
    for body, template in all_pods(objects):
        space, spec = body["metadata"]["namespace"], template["spec"]
        if (space, spec["serviceAccountName"]) not in accounts:
            yield f"{_name(body)}: no service account {spec['serviceAccountName']}"
        if "priorityClassName" in spec and ("", spec["priorityClassName"]) not in classes:
            yield f"{_name(body)}: no priority class {spec['priorityClassName']}"
        for wanted in _maps(spec):
            if (space, wanted) not in maps:
                yield f"{_name(body)}: no ConfigMap {wanted}"
        for wanted in _claims(spec):
            if (space, wanted) not in claims:
                yield f"{_name(body)}: no claim {wanted}"
        for wanted in _secrets(spec):
            if (space, wanted) not in issued and f"Secret {space}/{wanted}" not in listed:
                yield f"{_name(body)}: no secret {space}/{wanted}"


def _maps(spec: Object) -> Iterator[str]:
    for volume in spec["volumes"]:
        if "configMap" in volume:
            yield volume["configMap"]["name"]


def _claims(spec: Object) -> Iterator[str]:
    for volume in spec["volumes"]:
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"]["claimName"]


def _secrets(spec: Object) -> Iterator[str]:
    for volume in spec["volumes"]:
        if "secret" in volume:
            yield volume["secret"]["secretName"]
        for source in volume.get("projected", {}).get("sources", ()):
            yield source["secret"]["name"]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for variable in container.get("env", ()):
            if "valueFrom" in variable:
                yield variable["valueFrom"]["secretKeyRef"]["name"]
        for source in container.get("envFrom", ()):
            yield source["secretRef"]["name"]


def volumes_that_do_not_meet(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Mounts without a volume, volumes that nobody mounts, two mounts at one path."""
    for body, template in all_pods(objects):
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        if len(volumes) != len(set(volumes)):
            yield f"{_name(body)}: a volume stands there twice"
        mounted = set()
        for container in containers_of(template):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            if len(paths) != len(set(paths)):
                yield f"{_name(body)}: two mounts at one path"
            mounted |= {mount["name"] for mount in container.get("volumeMounts", ())}
        for name in mounted ^ set(volumes):
            yield f"{_name(body)}: the volume {name} is not both there and mounted"


def selectors_that_miss(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Selectors that choose no pods, and workloads whose selector differs from their pods' labels."""
    labels = [
        (body["metadata"]["namespace"], template["metadata"]["labels"])
        for body, template in all_pods(objects)
    ]
    for body in objects:
        selector = _selector(body)
        if not selector:
            continue
        space = body["metadata"]["namespace"]
        pods = [found for where, found in labels if where == space]
        if body["kind"] == "ServiceMonitor":
            pods = [
                each["metadata"]["labels"]
                for each in objects
                if each["kind"] == "Service" and each["metadata"]["namespace"] == space
            ]
        if not any(selector.items() <= found.items() for found in pods):
            yield f"{_name(body)}: its selector chooses nothing"


def _selector(body: Object) -> dict[str, str]:
    spec = body.get("spec", {})
    if body["kind"] == "Service":
        return dict(spec["selector"])
    if body["kind"] == "NetworkPolicy":
        return dict(spec["podSelector"].get("matchLabels", {}))
    if body["kind"] in ("Deployment", "DaemonSet", "PodDisruptionBudget", "ServiceMonitor"):
        return dict(spec["selector"]["matchLabels"])
    return {}


def ports_that_do_not_meet(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Services, probes and monitors that name a port nobody opens; policies that keep one shut."""
    for body, template in all_pods(objects):
        for container in template["spec"]["containers"]:
            named = {port["name"] for port in container.get("ports", ())}
            if not all(PORTS.fullmatch(name) for name in named):
                yield f"{_name(body)}: a port's name is not one"
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in named:
                    yield f"{_name(body)}: the {probe} asks the port {port}"
    services = [body for body in objects if body["kind"] == "Service"]
    for service in services:
        space, selector = service["metadata"]["namespace"], service["spec"]["selector"]
        for port in service["spec"]["ports"]:
            opened = [
                opening["containerPort"]
                for body, template in all_pods(objects)
                if body["metadata"]["namespace"] == space
                and selector.items() <= template["metadata"]["labels"].items()
                for container in template["spec"]["containers"]
                for opening in container.get("ports", ())
                if opening["name"] == port["targetPort"]
            ]
            if not opened:
                yield f"{_name(service)}: nobody opens {port['targetPort']}"
            elif not _let_in(objects, space, selector, opened[0]):
                yield f"{_name(service)}: no network policy lets anybody in to {opened[0]}"
    for monitor in objects:
        if monitor["kind"] == "ServiceMonitor":
            chosen = monitor["spec"]["selector"]["matchLabels"]
            ports = {
                port["name"]
                for service in services
                if chosen.items() <= service["metadata"]["labels"].items()
                for port in service["spec"]["ports"]
            }
            if monitor["spec"]["endpoints"][0]["port"] not in ports:
                yield f"{_name(monitor)}: no service has the port it reads"


def _let_in(objects: list[Object], space: str, selector: Object, port: int) -> bool:
    return any(
        allowed["port"] == port
        for body in objects
        if body["kind"] == "NetworkPolicy" and body["metadata"]["namespace"] == space
        if body["spec"]["podSelector"].get("matchLabels", {"": ""}).items() <= selector.items()
        for rule in body["spec"].get("ingress", ())
        for allowed in rule.get("ports", ())
    )


def pods_without_bounds(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Containers without requests or limits, or with an image by no tag or a moving one."""
    for body, template in all_pods(objects):
        for container in containers_of(template):
            amounts = container.get("resources", {})
            for side in ("requests", "limits"):
                if not {"cpu", "memory", "ephemeral-storage"} <= set(amounts.get(side, ())):
                    yield f"{_name(body)}: {container['name']} has no {side}"
            tag = container["image"].partition("@")[0].rpartition("/")[2].rpartition(":")
            if not tag[1] or tag[2] == "latest":
                yield f"{_name(body)}: {container['image']} has no lasting tag"


def pods_with_privileges(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """What Pod Security's `restricted` profile would refuse, and roots that may be written."""
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    for body, template in all_pods(objects):
        spec = template["spec"]
        own = spec.get("securityContext", {})
        if not own.get("runAsNonRoot") or own.get("runAsUser", 0) == 0:
            yield f"{_name(body)}: may run as root"
        if own.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{_name(body)}: no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{_name(body)}: is handed a token"
        if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{_name(body)}: shares the host's namespaces"
        for volume in spec["volumes"]:
            if not set(volume) - {"name"} <= allowed:
                yield f"{_name(body)}: the volume {volume['name']} is of a kind that is refused"
        for container in containers_of(template):
            context = container.get("securityContext", {})
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
            dropped = context.get("capabilities", {}).get("drop") == ["ALL"]
            if not wanted.items() <= context.items() or not dropped or context["capabilities"].get("add"):
                yield f"{_name(body)}: {container['name']} keeps privileges"


def secrets_in_the_open(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Secrets with values, and variables that hold one."""
    for body in objects:
        if body["kind"] == "Secret":
            yield f"{_name(body)}: a secret's value stands in the bundle"
    for body, template in all_pods(objects):
        for container in containers_of(template):
            for variable in container.get("env", ()):
                named = re.search(r"KEY|TOKEN|PASSWORD|SECRET", variable["name"])
                if named and variable.get("value"):
                    yield f"{_name(body)}: {variable['name']} is written out"


def namespaces_without_walls(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Namespaces without default deny, quota, defaults, or Pod Security."""
    for body in objects:
        if body["kind"] != "Namespace":
            continue
        name = body["metadata"]["name"]
        if body["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"namespace {name}: pods are not restricted"
        for kind in ("ResourceQuota", "LimitRange"):
            if not any(where == name for where, _ in _defined(objects, kind)):
                yield f"namespace {name}: no {kind}"
        shut = [
            each
            for each in objects
            if each["kind"] == "NetworkPolicy"
            and each["metadata"]["namespace"] == name
            and each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        ]
        if not shut:
            yield f"namespace {name}: traffic is not denied by default"


def scaled_by_two(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Workloads that an autoscaler owns and that name replicas too, and scalers without a workload."""
    there = {
        (body["metadata"].get("namespace"), body["kind"], body["metadata"]["name"]): body for body in objects
    }
    for body in objects:
        if body["kind"] != "ScaledObject":
            continue
        target = body["spec"]["scaleTargetRef"]
        found = there.get((body["metadata"]["namespace"], target["kind"], target["name"]))
        if found is None or found["apiVersion"] != target["apiVersion"]:
            yield f"{_name(body)}: scales nothing"
        elif "replicas" in found["spec"]:
            yield f"{_name(found)}: names replicas that an autoscaler sets"
        if body["spec"]["minReplicaCount"] > body["spec"]["maxReplicaCount"]:
            yield f"{_name(body)}: its bounds are the wrong way round"


def quotas_that_do_not_hold(objects: list[Object], needs: tuple[Need, ...]) -> Iterator[str]:
    """Namespaces whose planned pods do not fit their quota."""
    quotas = {
        body["metadata"]["namespace"]: body["spec"]["hard"]
        for body in objects
        if body["kind"] == "ResourceQuota"
    }
    asked: dict[tuple[str, str], float] = {}
    for body in objects:
        replicas = _replicas(objects, body)
        for template, count in pods_of(body):
            for container in template["spec"]["containers"]:
                for name, amount in container["resources"]["requests"].items():
                    key = (body["metadata"]["namespace"], f"requests.{name}")
                    asked[key] = asked.get(key, 0) + number(amount) * count * replicas
    for (space, name), amount in asked.items():
        if name in UNCOUNTED:
            continue
        allowed = quotas[space].get(name, "0")
        if amount > number(allowed):
            yield f"namespace {space}: {amount:g} of {name} are asked for and {allowed} allowed"


def _replicas(objects: list[Object], body: Object) -> int:
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


FINDERS: tuple[Finder, ...] = (
    twins,
    names_that_lead_nowhere,
    volumes_that_do_not_meet,
    selectors_that_miss,
    ports_that_do_not_meet,
    pods_without_bounds,
    pods_with_privileges,
    secrets_in_the_open,
    namespaces_without_walls,
    scaled_by_two,
    quotas_that_do_not_hold,
)


def faults_among(objects: list[Object], needs: tuple[Need, ...]) -> list[str]:
    """All that the finders find."""
    return [fault for finder in FINDERS for fault in finder(objects, needs)]
