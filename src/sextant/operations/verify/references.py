"""Rules for what objects say of each other: names, volumes, selectors, ports."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sextant.operations.verify.findings import Cluster, Object
from sextant.operations.verify.pods import all_pods, containers_of, defined, named, serving_of

PORTS = re.compile(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def twins(cluster: Cluster) -> Iterator[str]:
    """Two objects of one name."""
    seen = set()
    for body in cluster.objects:
        if any(body is each for each in cluster.optional):
            continue  # an alternative, of the same name by right
        if named(body) in seen:
            yield f"{named(body)} stands there twice"
        seen.add(named(body))


def names_that_lead_nowhere(cluster: Cluster) -> Iterator[str]:
    """Accounts, ConfigMaps, claims, secrets and priority classes that are neither made nor listed."""
    listed = {need.name for need in cluster.needs}
    issued = {
        (body["metadata"]["namespace"], body["spec"]["secretName"])
        for body in cluster.objects
        if body["kind"] == "Certificate"
    }
    maps, claims = defined(cluster.objects, "ConfigMap"), defined(cluster.objects, "PersistentVolumeClaim")
    accounts, classes = defined(cluster.objects, "ServiceAccount"), defined(cluster.objects, "PriorityClass")
    for body, template in all_pods(cluster.objects):
        space, spec = body["metadata"]["namespace"], template["spec"]
        if (space, spec.get("serviceAccountName", "default")) not in accounts:
            yield f"{named(body)}: no service account {spec.get('serviceAccountName', 'default')}"
        if "priorityClassName" in spec and ("", spec["priorityClassName"]) not in classes:
            yield f"{named(body)}: no priority class {spec['priorityClassName']}"
        for wanted in _maps(spec):
            if (space, wanted) not in maps:
                yield f"{named(body)}: no ConfigMap {wanted}"
        for wanted in _claims(spec):
            if (space, wanted) not in claims:
                yield f"{named(body)}: no claim {wanted}"
        for wanted in _secrets(spec):
            if (space, wanted) not in issued and f"Secret {space}/{wanted}" not in listed:
                yield f"{named(body)}: no secret {space}/{wanted}"


def _maps(spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            yield volume["configMap"]["name"]


def _claims(spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"]["claimName"]


def _secrets(spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        if "secret" in volume:
            yield volume["secret"]["secretName"]
        for source in volume.get("projected", {}).get("sources", ()):
            if "secret" in source:
                yield source["secret"]["name"]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for variable in container.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield variable["valueFrom"]["secretKeyRef"]["name"]
        for source in container.get("envFrom", ()):
            yield source["secretRef"]["name"]


def volumes_that_do_not_meet(cluster: Cluster) -> Iterator[str]:
    """Mounts without a volume, volumes that nobody mounts, two mounts at one path."""
    for body, template in all_pods(cluster.objects):
        volumes = [volume["name"] for volume in template["spec"].get("volumes", ())]
        if len(volumes) != len(set(volumes)):
            yield f"{named(body)}: a volume stands there twice"
        mounted = set()
        for container in containers_of(template):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            if len(paths) != len(set(paths)):
                yield f"{named(body)}: two mounts at one path"
            mounted |= {mount["name"] for mount in container.get("volumeMounts", ())}
        for name in mounted ^ set(volumes):
            yield f"{named(body)}: the volume {name} is not both there and mounted"


def selectors_that_miss(cluster: Cluster) -> Iterator[str]:
    """Selectors that choose no pods, and workloads whose selector differs from their pods' labels."""
    labels = [
        (body["metadata"]["namespace"], template["metadata"]["labels"])
        for body, template in all_pods(cluster.objects)
    ]
    for body in cluster.objects:
        selector = _selector(body)
        if not selector:
            continue
        space = body["metadata"]["namespace"]
        pods = [found for where, found in labels if where == space]
        if body["kind"] == "ServiceMonitor":
            pods = [
                each["metadata"]["labels"]
                for each in cluster.objects
                if each["kind"] == "Service" and each["metadata"]["namespace"] == space
            ]
        if not any(selector.items() <= found.items() for found in pods):
            yield f"{named(body)}: its selector chooses nothing"


def _selector(body: Object) -> dict[str, str]:
    spec = body.get("spec", {})
    if body["kind"] == "Service":
        return dict(spec["selector"])
    if body["kind"] == "NetworkPolicy":
        return dict(spec["podSelector"].get("matchLabels", {}))
    if body["kind"] in ("Deployment", "DaemonSet", "PodDisruptionBudget", "ServiceMonitor"):
        return dict(spec["selector"]["matchLabels"])
    return {}


def ports_that_do_not_meet(cluster: Cluster) -> Iterator[str]:
    """Services, probes and monitors that name a port nobody opens; policies that keep one shut."""
    for body, template in all_pods(cluster.objects):
        numbers = {port["containerPort"] for each in serving_of(template) for port in each.get("ports", ())}
        for container in serving_of(template):
            opened = {port["name"] for port in container.get("ports", ())}
            if not all(PORTS.fullmatch(name) for name in opened):
                yield f"{named(body)}: a port's name is not one"
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = container.get(probe, {})
                port = asked.get("httpGet", asked.get("tcpSocket", {})).get("port")
                if port is not None and port not in opened and port not in numbers:
                    yield f"{named(body)}: the {probe} asks the port {port}"
    services = [body for body in cluster.objects if body["kind"] == "Service"]
    for service in services:
        space, selector = service["metadata"]["namespace"], service["spec"]["selector"]
        for port in service["spec"]["ports"]:
            reached = [
                opening["containerPort"]
                for body, template in all_pods(cluster.objects)
                if body["metadata"]["namespace"] == space
                and selector.items() <= template["metadata"]["labels"].items()
                for container in serving_of(template)
                for opening in container.get("ports", ())
                if opening["name"] == port["targetPort"]
            ]
            if not reached:
                yield f"{named(service)}: nobody opens {port['targetPort']}"
            elif not _let_in(cluster.objects, space, selector, reached[0]):
                yield f"{named(service)}: no network policy lets anybody in to {reached[0]}"
    for monitor in cluster.objects:
        if monitor["kind"] == "ServiceMonitor":
            chosen = monitor["spec"]["selector"]["matchLabels"]
            ports = {
                port["name"]
                for service in services
                if chosen.items() <= service["metadata"]["labels"].items()
                for port in service["spec"]["ports"]
            }
            if monitor["spec"]["endpoints"][0]["port"] not in ports:
                yield f"{named(monitor)}: no service has the port it reads"


def _let_in(objects: list[Object], space: str, selector: Object, port: int) -> bool:
    return any(
        allowed["port"] == port
        for body in objects
        if body["kind"] == "NetworkPolicy" and body["metadata"]["namespace"] == space
        if body["spec"]["podSelector"].get("matchLabels", {"": ""}).items() <= selector.items()
        for rule in body["spec"].get("ingress", ())
        for allowed in rule.get("ports", ({"port": port},))  # a rule that names none lets all in
    )
