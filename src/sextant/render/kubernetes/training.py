"""Training on machines that may be taken away: a namespace of its own, a queue, checkpoints, a job.

What the job runs is the user's. It is told where checkpoints go, how often to write one, and that it must
stop; a machine that is taken away does not count as its failure. Two ways to start all machines together:
Kueue (a Job that it lets go) or Volcano (a job of its own kind, which begins anew as a whole).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.kubernetes import network, quotas
from sextant.render.kubernetes.cluster import (
    CORES_PER_ACCELERATOR,
    MEMORY_PER_ACCELERATOR,
    SHARED_MEMORY_PER_ACCELERATOR,
    USER,
    Cluster,
)
from sextant.render.kubernetes.identity import service_accounts
from sextant.render.kubernetes.objects import Object, Part, cluster_wide, cores, dns_label, gibibytes, made
from sextant.render.kubernetes.pods import (
    Placing,
    claimed,
    container,
    memory_folder,
    pod,
    resources,
    scratch,
)
from sextant.render.kubernetes.upkeep import NODE_CLASS
from sextant.render.kubernetes.weights import FILESYSTEM_CLASS
from sextant.spec.bundle import Need
from sextant.spec.deploy_sections import Training
from sextant.spec.rendering import Device

COMPONENT = "training"
CAPACITY_LABEL, SPOT = "sextant.dev/capacity", "spot"
"""On nodes that may be taken away, and a taint of the same key, so that nothing else is put there."""
CHECKPOINTS = "checkpoints"
CHECKPOINT_PATH = "/checkpoints"
RENDEZVOUS_PORT = 29_400
"""Where machines of one job find each other: torchrun's usual port."""
STORAGE_GIB = 96
"""Of each machine's own disk, for what is gone with the pod."""
MARGIN_S = 10
"""Of the provider's notice, for noticing it and for taking the pod away."""
NO_SUCH_COMMAND = (126, 127)
"""What a shell answers for a command that cannot be run: to try again is of no use."""
KEPT_S = 7 * 86_400
"""So long a job that has ended stays to be looked at."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What all builders of the training's objects agree on."""

    cluster: Cluster
    training: Training
    device: Device
    part: Part

    @property
    def queue(self) -> str:
        """Name of its queue, of its job, and of what belongs to them."""
        return self.part.name

    @property
    def grace_s(self) -> int:
        """From the signal to the end."""
        return self.training.notice_s - MARGIN_S

    @property
    def room(self) -> quotas.Room:
        """What its machines take, all together."""
        told = self.training
        count = told.nodes * told.accelerators_per_node
        return quotas.Room(
            cores=count * CORES_PER_ACCELERATOR,
            memory_bytes=count * MEMORY_PER_ACCELERATOR,
            accelerators={self.device.resource: count},
            pods=told.nodes,
        )


def job_of(cluster: Cluster, training: Training) -> Job:
    """The training at that cluster. Raises Unsupported where its accelerators cannot be asked for."""
    devices = [each for each in cluster.order.facts.devices if each.vendor == training.vendor]
    device = next((each for each in devices if not each.kinds), None)
    if device is None:
        raise Unsupported(
            f"spec.training.vendor: how accelerators of {training.vendor} are asked for is not known"
        )
    namespace = dns_label(f"{cluster.namespace}-{COMPONENT}")
    return Job(
        cluster=cluster,
        training=training,
        device=device,
        part=cluster.part(COMPONENT, namespace=namespace),
    )


def administrators_objects(job: Job) -> tuple[Object, ...]:
    """What belongs to the cluster: the namespace with its bounds, the queue, and Karpenter's pool of such
    machines where it is in use."""
    made_of = _kueue_queue if job.training.queue == "kueue" else _volcano_queue
    karpenter = job.cluster.order.deployment.spec.delivery.node_scaling == "karpenter"
    return (
        # A proxy beside the trainer would outlive it, and the job never end.
        *quotas.namespace_objects(job.cluster, job.part.namespace, _quota(job), meshed=False),
        *made_of(job),
        *([_node_pool(job)] if karpenter else []),
    )


def job_objects(job: Job) -> tuple[Object, ...]:
    """What the deployment applies: account, walls, checkpoints, the address of the first machine, the job."""
    namespace = job.part.namespace
    return (
        *service_accounts(job.cluster, namespace, (COMPONENT,)),
        *network.namespace_policies(job.cluster, namespace, meshed=False),
        _policy(job),
        _checkpoints(job),
        *([_local_queue(job)] if job.training.queue == "kueue" else []),
        _addresses(job),
        _job(job) if job.training.queue == "kueue" else _volcano_job(job),
    )


def _quota(job: Job) -> quotas.Room:
    """Once what it takes, and pods beside, since one that ends is there until the next one starts."""
    return msgspec.structs.replace(job.room, pods=2 * job.training.nodes + 2)


def _kueue_queue(job: Job) -> tuple[Object, ...]:
    instance = job.cluster.order.name
    flavour = {
        "nodeLabels": _selector(job),
        "nodeTaints": [{"key": CAPACITY_LABEL, "value": SPOT, "effect": "NoSchedule"}],
        "tolerations": _tolerations(job),
    }
    amounts = _amounts(job)
    name = _wide_name(job)
    group = {
        "coveredResources": list(amounts),
        "flavors": [
            {
                "name": name,
                "resources": [{"name": each, "nominalQuota": amount} for each, amount in amounts.items()],
            }
        ],
    }
    queue = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": job.part.namespace}},
        "queueingStrategy": "BestEffortFIFO",
        "resourceGroups": [group],
        "stopPolicy": "None",
    }
    return (
        cluster_wide("kueue.x-k8s.io/v1beta2/ResourceFlavor", name, instance, flavour),
        cluster_wide("kueue.x-k8s.io/v1beta2/ClusterQueue", name, instance, queue),
    )


def _amounts(job: Job) -> Mapping[str, str]:
    """All that the job asks for, all machines together: a queue lets nothing go that asks for something it
    does not count."""
    nodes = job.training.nodes
    found = {
        "cpu": cores(job.room.cores),
        "memory": gibibytes(job.room.memory_bytes),
        "ephemeral-storage": f"{nodes * STORAGE_GIB}Gi",
    }
    others = {name: nodes * count for name, count in _devices(job).items()}
    return {**found, **{name: str(count) for name, count in others.items()}}


def _wide_name(job: Job) -> str:
    return dns_label(f"{job.part.namespace}-{SPOT}")


def _local_queue(job: Job) -> Object:
    return made("kueue.x-k8s.io/v1beta2/LocalQueue", job.part, {"clusterQueue": _wide_name(job)})


def _volcano_queue(job: Job) -> tuple[Object, ...]:
    spec = {
        "reclaimable": True,
        "weight": 1,
        "capability": _amounts(job),
    }
    instance = job.cluster.order.name
    return (cluster_wide("scheduling.volcano.sh/v1beta1/Queue", _wide_name(job), instance, spec),)


def _node_pool(job: Job) -> Object:
    group, kind, name = NODE_CLASS
    taints = [{"key": CAPACITY_LABEL, "value": SPOT, "effect": "NoSchedule"}]
    if job.device.taint:
        taints.insert(0, {"key": job.device.taint, "value": "true", "effect": "NoSchedule"})
    spec = {
        "template": {
            "metadata": {"labels": _selector(job)},
            "spec": {
                "nodeClassRef": {"group": group, "kind": kind, "name": name},
                "requirements": [
                    {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]},
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [SPOT]},
                ],
                "taints": taints,
                "expireAfter": "Never",
            },
        },
        "limits": {resource: str(count) for resource, count in job.room.accelerators.items()},
        "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "5m"},
    }
    return cluster_wide("karpenter.sh/v1/NodePool", _wide_name(job), job.cluster.order.name, spec)


def _selector(job: Job) -> dict[str, str]:
    label, _, value = job.device.node_label.partition("=")
    return {**({label: value} if label else {}), CAPACITY_LABEL: SPOT}


def _tolerations(job: Job) -> list[Object]:
    own: list[Object] = [{"key": CAPACITY_LABEL, "operator": "Equal", "value": SPOT, "effect": "NoSchedule"}]
    if job.device.taint:
        own.append({"key": job.device.taint, "operator": "Exists", "effect": "NoSchedule"})
    return own


def _policy(job: Job) -> Object:
    """Machines of the job among themselves; and out over HTTPS, for data, unless the profile forbids it."""
    group = {"podSelector": {"matchLabels": job.part.selector}}
    egress: list[Object] = [{"to": [group]}]
    if job.cluster.order.defaults.egress != "none":
        egress.append({"ports": [{"protocol": "TCP", "port": 443}]})
    spec = {
        "podSelector": {"matchLabels": job.part.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [group]}],
        "egress": egress,
    }
    return made("networking.k8s.io/v1/NetworkPolicy", job.part, spec)


def _checkpoints(job: Job) -> Object:
    delivery = job.cluster.order.deployment.spec.delivery
    spec = {
        # The next machine reads what the last one wrote, while that one may still be there.
        "accessModes": ["ReadWriteMany"],
        "storageClassName": delivery.storage_class or FILESYSTEM_CLASS,
        "resources": {"requests": {"storage": f"{job.training.checkpoint_gib}Gi"}},
    }
    return made("v1/PersistentVolumeClaim", job.part, spec, name=CHECKPOINTS)


def _addresses(job: Job) -> Object:
    """Gives each machine a name, before it is ready too."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": job.part.selector,
        "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": "rendezvous"}],
    }
    return made("v1/Service", job.part, spec)


def _job(job: Job) -> Object:
    """A Job that Kueue lets go once all of its machines are there for it."""
    rank = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    spec = {
        "suspend": True,
        "completionMode": "Indexed",
        "completions": job.training.nodes,
        "parallelism": job.training.nodes,
        "backoffLimit": job.training.attempts,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "trainer",
                        "operator": "In",
                        "values": list(NO_SUCH_COMMAND),
                    },
                },
            ]
        },
        # Never two at one checkpoint: the next pod comes when the last one is gone.
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": KEPT_S,
        "template": _template(job, rank, f"{job.queue}-0.{job.queue}"),
    }
    body = made("batch/v1/Job", job.part, spec)
    body["metadata"]["labels"] = {**job.part.labels, "kueue.x-k8s.io/queue-name": job.queue}
    return body


def _volcano_job(job: Job) -> Object:
    """Volcano's own kind of job: with one machine gone, all begin again together."""
    rank = "metadata.labels['volcano.sh/task-index']"
    template = _template(job, rank, f"{job.queue}-trainer-0.{job.queue}")
    del template["spec"]["subdomain"]  # Volcano's `svc` sets it, and makes no policy beside ours
    spec = {
        "schedulerName": "volcano",
        "queue": _wide_name(job),
        "priorityClassName": f"{job.cluster.namespace}-batch",
        "minAvailable": job.training.nodes,
        "maxRetry": job.training.attempts,
        "ttlSecondsAfterFinished": KEPT_S,
        "plugins": {"svc": ["--publish-not-ready-addresses=true", "--disable-network-policy=true"]},
        "policies": [
            {"event": "PodEvicted", "action": "RestartJob"},
            {"event": "PodFailed", "action": "RestartJob"},
        ],
        "tasks": [{"name": "trainer", "replicas": job.training.nodes, "template": template}],
    }
    return made("batch.volcano.sh/v1alpha1/Job", job.part, spec)


def _template(job: Job, rank: str, leader: str) -> Object:
    told = job.training
    volumes = (
        claimed(CHECKPOINTS, CHECKPOINT_PATH, claim=CHECKPOINTS, read_only=False),
        scratch("scratch", "/tmp", "64Gi"),  # noqa: S108 - a volume of the pod's own
        memory_folder(
            "/dev/shm",  # noqa: S108 - the same
            gibibytes(told.accelerators_per_node * SHARED_MEMORY_PER_ACCELERATOR),
        ),
    )
    body: dict[str, Any] = {
        "command": list(told.command),
        "env": _environment(job, rank, leader),
        "ports": [{"name": "rendezvous", "containerPort": RENDEZVOUS_PORT}],
        "resources": _resources(job),
        "volumeMounts": [volume.mount for volume in volumes],
    }
    if told.on_stop:
        body["lifecycle"] = {"preStop": {"exec": {"command": list(told.on_stop)}}}
    placing = Placing(
        node_selector=_selector(job),
        tolerations=tuple(_tolerations(job)),
        priority_class=f"{job.cluster.namespace}-batch",
        runtime_class=job.device.runtime_class,
        spread=False,
    )
    spec = pod(job.part, [container("trainer", told.image, body)], volumes, placing, user=USER)
    spec["restartPolicy"] = "Never"
    spec["terminationGracePeriodSeconds"] = job.grace_s
    spec["subdomain"] = job.queue
    return {"metadata": {"labels": job.part.labels}, "spec": spec}


def _environment(job: Job, rank: str, leader: str) -> list[Object]:
    told = job.training
    plain: Mapping[str, str] = {
        "HOME": "/tmp",  # noqa: S108 - a volume of the pod's own
        **job.device.env,
        "NODES": str(told.nodes),
        "ACCELERATORS": str(told.accelerators_per_node),
        "LEADER_ADDRESS": f"{leader}.{job.part.namespace}.svc",
        "LEADER_PORT": str(RENDEZVOUS_PORT),
        "CHECKPOINT_FOLDER": f"{CHECKPOINT_PATH}/{job.cluster.order.name}",
        "CHECKPOINT_EVERY_S": str(told.checkpoint_minutes * 60),
        "CHECKPOINT_GRACE_S": str(job.grace_s),
    }
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        {"name": "NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": rank}}},
    ]


def _resources(job: Job) -> Object:
    count = job.training.accelerators_per_node
    amounts = resources(
        cores(count * CORES_PER_ACCELERATOR), gibibytes(count * MEMORY_PER_ACCELERATOR), f"{STORAGE_GIB}Gi"
    )
    return {name: {**amount, **_devices(job)} for name, amount in amounts.items()}


def _devices(job: Job) -> dict[str, int]:
    """Accelerators of one machine, and its network where there are several."""
    found = {job.device.resource: job.training.accelerators_per_node}
    if job.training.nodes > 1 and job.device.rdma_resource:
        found[job.device.rdma_resource] = 1
    return found


def training_needs(job: Job) -> tuple[Need, ...]:
    """What the cluster must have for it: the queue's controller, machines, whoever hears that one goes."""
    told, room = job.training, job.room
    queue = ("Kueue 0.15 or newer", "clusterqueues.kueue.x-k8s.io")
    if told.queue == "volcano":
        queue = ("Volcano", "jobs.batch.volcano.sh")
    name, crd = queue
    together = "lets the training go once all of its machines are there"
    if told.queue == "kueue" and told.nodes > 1:
        together += "; switch its `waitForPodsReady` on, or pods of one job may wait for each other"
    count = room.accelerators[job.device.resource]
    labelled = f"{CAPACITY_LABEL}={SPOT}"
    found = [
        Need(kind="cluster", name=name, why=together, check=f"kubectl get crd {crd}"),
        Need(
            kind="hardware",
            name=f"{count} x {job.device.resource} on {told.nodes} machines labelled {labelled}",
            why=f"and tainted {labelled}:NoSchedule, so that nothing else is put there",
            check=f"kubectl get nodes -l {labelled}",
        ),
        Need(
            kind="cluster",
            name="Whoever hears that a machine is taken away, and empties it",
            why="Karpenter with its interruption queue or aws-node-termination-handler at AWS, the kubelet's "
            "graceful shutdown at Google Cloud, the node problem detector with scheduled events at Azure; "
            "without it a trainer is cut off instead of told",
        ),
        Need(
            kind="image",
            name=f"Image {told.image}",
            why=f"the trainer; it runs as uid {USER} with a read-only root",
        ),
    ]
    return tuple(found)


def training_notes(job: Job) -> tuple[str, ...]:
    """What is left to the trainer."""
    told = job.training
    said = [
        f"The trainer is told to stop {job.grace_s} s before its machine goes, and must have written a "
        f"checkpoint by then; that it writes one every {told.checkpoint_minutes} minutes, and begins with "
        f"the newest, is the trainer's own part. No cluster has run it."
    ]
    if told.queue == "kueue" and told.nodes > 1:
        said.append(
            "With one machine gone, Kueue brings another and the rest of the training runs on or ends by "
            "itself: start it elastically (as torchrun with --max-restarts does), or use `queue: volcano`, "
            "which begins anew as a whole."
        )
    return tuple(said)
