"""Pods as Pod Security's `restricted` profile wants them, and what their containers have in common.

No pod runs as root, writes to its own image, keeps a Linux capability or is handed a service account's token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sextant.render.kubernetes.objects import Object, Part

GROUP = 65532
PRIVILEGES: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""`securityContext` of every container."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume and where a container sees it."""

    name: str
    source: Mapping[str, Any]
    """For example `{"emptyDir": {}}`."""
    path: str
    read_only: bool = True
    sub_path: str = ""

    @property
    def mount(self) -> Object:
        """The container's side."""
        own: Object = {"name": self.name, "mountPath": self.path}
        if self.sub_path:
            own["subPath"] = self.sub_path
        return {**own, "readOnly": True} if self.read_only else own


class Placing(msgspec.Struct, frozen=True, kw_only=True):
    """Where pods may run and which others they keep away from."""

    node_selector: Mapping[str, str] = {}
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priority_class: str = ""
    runtime_class: str = ""
    spread: bool = True
    """Over nodes and zones, as far as there are any."""
    apart: bool = False
    """Never two of the part on one node."""


def scratch(name: str, path: str, limit: str) -> Volume:
    """A folder of the pod's own, gone with it, of at most `limit`."""
    return Volume(name=name, source={"emptyDir": {"sizeLimit": limit}}, path=path, read_only=False)


def memory_folder(path: str, limit: str) -> Volume:
    """A folder in memory, which counts against the container's memory limit."""
    source = {"emptyDir": {"medium": "Memory", "sizeLimit": limit}}
    return Volume(name="shared-memory", source=source, path=path, read_only=False)


def claimed(name: str, path: str, *, claim: str, read_only: bool = True) -> Volume:
    """A persistent volume claim of the same namespace."""
    told: Object = {"claimName": claim}
    # Read only at the volume too: the kubelet then leaves owners and modes of its files alone.
    source = {"persistentVolumeClaim": {**told, "readOnly": True} if read_only else told}
    return Volume(name=name, source=source, path=path, read_only=read_only)


def container(name: str, image: str, body: Mapping[str, Any]) -> Object:
    """One container. `body` must say its resources; everything is added that all of them have."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        **body,
        "securityContext": PRIVILEGES,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def resources(cpu: str, memory: str, storage: str, **more: str) -> Object:
    """Requests and limits, equal, so that the pod is never the first to be evicted."""
    amounts = {"cpu": cpu, "memory": memory, "ephemeral-storage": storage, **more}
    return {"requests": dict(amounts), "limits": dict(amounts)}


def pod(
    part: Part, containers: Sequence[Object], volumes: Sequence[Volume], placing: Placing, *, user: int
) -> Object:
    """`spec` of a pod that runs as `user`. Add what only one kind of pod needs."""
    spec: Object = {
        "serviceAccountName": part.component,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            # One group for all pods, so that volumes which several kinds of them use keep theirs.
            "fsGroup": GROUP,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        "volumes": _sources(volumes),
        **_placed(part, placing),
    }
    return spec


def _sources(volumes: Sequence[Volume]) -> list[Object]:
    """Each volume once, however many containers or paths see it."""
    found: dict[str, Object] = {}
    for volume in volumes:
        found.setdefault(volume.name, {"name": volume.name, **volume.source})
    return list(found.values())


def _placed(part: Part, placing: Placing) -> Object:
    own: Object = {}
    if placing.priority_class:
        own["priorityClassName"] = placing.priority_class
    if placing.runtime_class:
        own["runtimeClassName"] = placing.runtime_class
    if placing.node_selector:
        own["nodeSelector"] = dict(placing.node_selector)
    if placing.tolerations:
        own["tolerations"] = [dict(each) for each in placing.tolerations]
    if placing.spread:
        own["topologySpreadConstraints"] = [
            _spread(part, "topology.kubernetes.io/zone"),
            _spread(part, "kubernetes.io/hostname"),
        ]
    if placing.apart:
        term = {"labelSelector": {"matchLabels": part.selector}, "topologyKey": "kubernetes.io/hostname"}
        own["affinity"] = {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
            }
        }
    return own


def _spread(part: Part, key: str) -> Object:
    """One apart at most, where that is possible: a lost zone must not keep pods from starting elsewhere."""
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": part.selector},
    }
