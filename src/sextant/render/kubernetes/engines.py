"""The engines as pods: Deployments where a replica fits one machine, LeaderWorkerSets where it spans more.

The counts are the plan's. Replicas themselves are left to the autoscaler (`scaling.py`): an apply that named
them would undo it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sextant.catalog.serving import KEY_SECRET
from sextant.catalog.sglang import BOOTSTRAP_PORT
from sextant.render.kubernetes.cluster import LOOKS_PORT, MODELS_PATH, MTLS_PORT, Cluster, Workload
from sextant.render.kubernetes.compiled import KEEP, compiled_environment, compiled_mount, folder_of
from sextant.render.kubernetes.objects import (
    ACCELERATORS,
    POOL_LABEL,
    ROLE_LABEL,
    Object,
    cores,
    gibibytes,
    made,
)
from sextant.render.kubernetes.pods import (
    Placing,
    Volume,
    claimed,
    container,
    memory_folder,
    pod,
    resources,
    scratch,
)
from sextant.render.kubernetes.sidecar import (
    LOOKS_NAME,
    MTLS_NAME,
    sidecar,
    sidecar_files,
    sidecar_volumes,
)
from sextant.render.kubernetes.weights import (
    AHEAD,
    CACHE_CLAIM,
    CACHE_PATH,
    CHOOSE,
    WEIGHTS_CLAIM,
    WEIGHTS_PATH,
)

PORT_NAME = "http"
PHASE_LABEL = "sextant.dev/phase"
"""Which half of a request it answers, where those are apart."""
POD_ADDRESS = {"vllm": "VLLM_NIXL_SIDE_CHANNEL_HOST"}
"""By which variable an engine is told where the other half reaches it (NixlConnector Usage, docs.vllm.ai)."""
BOOTSTRAP = {"sglang": {"sglang.ai/bootstrap-port": str(BOOTSTRAP_PORT)}}
"""Annotation by which the router knows where prefill pods hand over (SGLang Model Gateway)."""
PROBE_S = 10
READ_AHEAD_ROOM_BYTES = 8 << 30
"""For the engine's own processes beside weights in the page cache."""
DRAIN_S = 120
"""What an engine is given to finish its answers before it is killed."""
GRACE_S = 15
"""Before it is told to stop, so that the gateway has noticed that it is no longer ready."""


def engine_objects(cluster: Cluster, workload: Workload) -> tuple[Object, ...]:
    """The engine and its service, with a budget for disruptions where there is more than one replica."""
    made_of = _leader_worker_set if workload.nodes > 1 else _deployment
    proxied = (sidecar_files(cluster, workload),) if workload.guarded else ()
    return (
        made_of(cluster, workload),
        _service(workload),
        *_disruptions(workload),
        *_files(workload),
        *proxied,
    )


def engine_secret(cluster: Cluster, workload: Workload) -> str:
    """Name of the secret that holds the key of that engine: one for the shared ones, one for each pool."""
    pool = workload.served.entry.pool
    return f"{KEY_SECRET}-{pool}" if pool in cluster.pools else KEY_SECRET


def _deployment(cluster: Cluster, workload: Workload) -> Object:
    spec = {
        "selector": {"matchLabels": workload.part.selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": _rolling(workload)},
        "progressDeadlineSeconds": math.ceil(workload.start_s) + 600,
        "revisionHistoryLimit": 5,
        "template": _template(cluster, workload, workload.command.argv, leads=True),
    }
    return _counted(workload, made("apps/v1/Deployment", workload.part, spec))


def _leader_worker_set(cluster: Cluster, workload: Workload) -> Object:
    command = workload.command
    leader = _template(cluster, workload, command.argv, leads=True)
    worker = _template(cluster, workload, command.worker_argv or command.argv, leads=False)
    spec = {
        "leaderWorkerTemplate": {
            "size": workload.nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": leader,
            "workerTemplate": worker,
        },
        "startupPolicy": "LeaderCreated",
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": _rolling(workload),
        },
        "networkConfig": {"subdomainPolicy": "Shared"},
    }
    return _counted(workload, made("leaderworkerset.x-k8s.io/v1/LeaderWorkerSet", workload.part, spec))


def _rolling(workload: Workload) -> Object:
    """One more first where there is room for one; else a new replica finds no accelerator free until an old
    one is gone. Of several one may be away: at their most there is no room either."""
    room = workload.replicas_most > workload.replicas
    away = 1 if not room or workload.replicas > 1 else 0
    return {"maxSurge": int(room), "maxUnavailable": away}


def _counted(workload: Workload, body: Object) -> Object:
    """With what was planned of it as annotations."""
    body["metadata"]["annotations"] = {
        ACCELERATORS: str(workload.accelerators),
        "sextant.dev/replicas": str(workload.replicas),
    }
    return body


def _template(cluster: Cluster, workload: Workload, argv: tuple[str, ...], *, leads: bool) -> Object:
    volumes = _volumes(cluster, workload)
    image = workload.image
    body: dict[str, Any] = {
        **({"command": list(argv)} if argv else {}),
        "env": _environment(cluster, workload),
        "resources": _resources(workload),
        "volumeMounts": [volume.mount for volume in volumes],
    }
    proxied = sidecar_volumes(cluster, workload) if leads and workload.guarded else ()
    if leads:
        if not proxied:
            body["ports"] = [{"name": PORT_NAME, "containerPort": workload.command.port}]
        body.update(_probes(workload))
        body["lifecycle"] = {"preStop": {"sleep": {"seconds": GRACE_S}}}
    spec = pod(
        workload.part,
        [container("engine", image, body)],
        (*volumes, *proxied),
        _placing(cluster, workload),
        user=workload.user,
    )
    spec["initContainers"] = [_chooser(workload, volumes)]
    if proxied:
        spec["initContainers"].append(sidecar(cluster, workload))
    spec["terminationGracePeriodSeconds"] = DRAIN_S + GRACE_S
    labels = {**workload.part.labels, ROLE_LABEL: "leader" if leads else "worker"}
    if workload.role != "whole":
        labels[PHASE_LABEL] = workload.role
    if workload.served.entry.pool:
        labels[POOL_LABEL] = workload.served.entry.pool
    annotations = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    if workload.role == "prefill" and leads:
        annotations |= BOOTSTRAP.get(workload.kind, {})
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def _chooser(workload: Workload, volumes: tuple[Volume, ...]) -> Object:
    """Takes the weights from the node's cache where they are whole, else from the shared volume, and reads
    them ahead; finds the folder of compiled code. What it reads counts against its own memory, which is the
    engine's: it ends before that begins."""
    writable = ("models", *(volume.name for volume in compiled_mount(workload)))
    wanted = ("weights", "weights-cache", *writable)
    ahead = is_read_ahead(workload)
    body = {
        "command": ["/bin/sh", "-eu", "-c", CHOOSE + KEEP + AHEAD],
        "args": ["choose", workload.served.key, folder_of(workload), "read" if ahead else "leave"],
        "resources": resources(
            cores(workload.cpu) if ahead else "100m",
            gibibytes(workload.memory_bytes) if ahead else "64Mi",
            "64Mi",
        ),
        "volumeMounts": [
            {**volume.mount, "readOnly": volume.name not in writable}
            for volume in volumes
            if volume.name in wanted
        ],
    }
    return container("weights", workload.image, body)


def is_read_ahead(workload: Workload) -> bool:
    """Whether what one pod reads of the weights has room in its memory beside what the engine takes."""
    read_bytes = workload.served.weights_bytes / workload.nodes
    return bool(workload.resource) and read_bytes + READ_AHEAD_ROOM_BYTES <= workload.memory_bytes


def _volumes(cluster: Cluster, workload: Workload) -> tuple[Volume, ...]:
    files = (
        Volume(
            name="engine-files",
            source={"configMap": {"name": f"{workload.part.name}-files"}},
            path=path,
            sub_path=_file_key(path),
        )
        for path in workload.command.files
    )
    return (
        # Compiled code lies there too where the node keeps none.
        scratch("models", MODELS_PATH, "8Gi" if compiled_mount(workload) else "16Mi"),
        claimed("weights", WEIGHTS_PATH, claim=WEIGHTS_CLAIM),
        claimed("weights-cache", CACHE_PATH, claim=CACHE_CLAIM),
        *compiled_mount(workload),
        scratch("scratch", "/tmp", "16Gi"),  # noqa: S108 - a volume of the pod's own
        memory_folder("/dev/shm", gibibytes(workload.shared_memory_bytes)),  # noqa: S108 - the same
        *files,
    )


def _environment(cluster: Cluster, workload: Workload) -> list[Object]:
    device = workload.device.env if workload.device is not None else {}
    plain: Mapping[str, str] = {
        "HOME": "/tmp/home",  # noqa: S108 - a volume of the pod's own
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 - the same
        **compiled_environment(workload),
        **device,
        **workload.command.env,
    }
    key = engine_secret(cluster, workload)
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": key, "key": secret}}}
        for name, secret in workload.command.secret_env.items()
    ]
    own = []
    if workload.role != "whole" and workload.kind in POD_ADDRESS:
        address = {"fieldRef": {"fieldPath": "status.podIP"}}
        own.append({"name": POD_ADDRESS[workload.kind], "valueFrom": address})
    return [*({"name": name, "value": value} for name, value in plain.items()), *own, *secrets]


def _resources(workload: Workload) -> Object:
    amounts = resources(cores(workload.cpu), gibibytes(workload.memory_bytes), "32Gi")
    more: dict[str, int] = {}
    if workload.resource:
        more[workload.resource] = workload.per_pod
    if workload.command.rdma and workload.device is not None and workload.device.rdma_resource:
        more[workload.device.rdma_resource] = 1
    return {name: {**amount, **more} for name, amount in amounts.items()}


def _probes(workload: Workload) -> Object:
    port = LOOKS_PORT if workload.guarded else PORT_NAME
    check = {"httpGet": {"path": workload.command.health_path, "port": port}}
    return {
        "startupProbe": {
            **check,
            "periodSeconds": PROBE_S,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(workload.start_s / PROBE_S),
        },
        "readinessProbe": {**check, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
        # A busy engine answers late; a dead one not for a minute.
        "livenessProbe": {**check, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 4},
    }


def _placing(cluster: Cluster, workload: Workload) -> Placing:
    device = workload.device
    return Placing(
        node_selector=workload.node_selector,
        tolerations=workload.tolerations,
        priority_class=f"{cluster.namespace}-serving",
        runtime_class=device.runtime_class if device is not None else "",
        apart=workload.share is None,
        spread=workload.nodes == 1,
    )


def _service(workload: Workload) -> Object:
    spec = {
        "type": "ClusterIP",
        "selector": {**workload.part.selector, ROLE_LABEL: "leader"},
        "ports": [{"name": PORT_NAME, "port": workload.command.port, "targetPort": PORT_NAME}],
    }
    if workload.guarded:
        spec["ports"] = [
            {"name": MTLS_NAME, "port": MTLS_PORT, "targetPort": MTLS_NAME},
            {"name": LOOKS_NAME, "port": LOOKS_PORT, "targetPort": LOOKS_NAME},
        ]
    return made("v1/Service", workload.part, spec)


def _disruptions(workload: Workload) -> tuple[Object, ...]:
    """One pod at a time, and with it its replica, may be taken away on purpose. Of a single replica nothing
    may: a drain then waits until somebody decides."""
    pods = 1 if workload.replicas > 1 else 0
    spec = {"maxUnavailable": pods, "selector": {"matchLabels": workload.part.selector}}
    return (made("policy/v1/PodDisruptionBudget", workload.part, spec),)


def _files(workload: Workload) -> tuple[Object, ...]:
    files = workload.command.files
    if not files:
        return ()
    body = made("v1/ConfigMap", workload.part, name=f"{workload.part.name}-files")
    body["data"] = {_file_key(path): content.decode() for path, content in files.items()}
    return (body,)


def _file_key(path: str) -> str:
    return path.strip("/").replace("/", "-")
