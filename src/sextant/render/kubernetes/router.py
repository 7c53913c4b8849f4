"""The router before an engine whose prefill and decode are apart: it sends each request to one pod of both.

It finds the pods by their labels, through the API server: they come and go, and a half must be told by
address where the other half's cache is. vLLM's and SGLang's own routers do that.
"""

from __future__ import annotations

from sextant.catalog.keyed import run_module
from sextant.catalog.serving import KEY_SECRET
from sextant.render.kubernetes import network
from sextant.render.kubernetes.cluster import (
    ROUTER_METRICS_PORT,
    ROUTER_PORT,
    USER,
    Cluster,
    Workload,
    distinct,
)
from sextant.render.kubernetes.engines import PHASE_LABEL, PORT_NAME, engine_secret
from sextant.render.kubernetes.objects import MODEL_LABEL, ROLE_LABEL, Object, cores, gibibytes, made
from sextant.render.kubernetes.pods import Placing, Volume, container, pod, resources, scratch
from sextant.spec.bundle import Need

REPLICAS = 2
CORES, MEMORY_BYTES = 2, 2 << 30
METRICS_NAME = "metrics"
CHECK_S = 10
"""Between two looks at each engine; of three without an answer it is called unhealthy. By itself a router
looks once a minute."""
GRACE_S, DRAIN_S = 10, 120
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where programs in pods look for who they are."""
TOKEN_S = 3607
KEYS = {"vllm": "OPENAI_API_KEY", "sglang": "ENGINE_API_KEY"}
"""By which variable the router is told the engines' key. vLLM's sends it to them and asks callers for none,
which the network policy makes up for; SGLang's asks callers for it too. Seen with vllm-router 0.1.17 and
sglang-router 0.3.2."""


def routed(cluster: Cluster, namespace: str = "") -> tuple[Workload, ...]:
    """The engines that have a router, one half of each; of one namespace, or of all."""
    split = tuple(each for each in cluster.workloads if each.role != "whole")
    return tuple(each for each in distinct(split) if not namespace or each.part.namespace == namespace)


def router_objects(cluster: Cluster, workload: Workload) -> tuple[Object, ...]:
    """Who may look at pods, the router's replicas and service, its walls, its budget for disruptions."""
    part = workload.router
    disruptions = {"maxUnavailable": 1, "selector": {"matchLabels": part.selector}}
    service = {
        "type": "ClusterIP",
        "selector": part.selector,
        "ports": [
            {"name": PORT_NAME, "port": ROUTER_PORT, "targetPort": PORT_NAME},
            {"name": METRICS_NAME, "port": ROUTER_METRICS_PORT, "targetPort": METRICS_NAME},
        ],
    }
    return (
        *_may_look_at_pods(workload),
        _deployment(cluster, workload),
        made("v1/Service", part, service),
        network.router_policy(cluster, workload),
        made("policy/v1/PodDisruptionBudget", part, disruptions),
    )


def router_command(workload: Workload) -> tuple[str, ...]:
    """How the router is started. Its flags are those that the Python and the Rust form of it share."""
    model = f"{MODEL_LABEL}={workload.model_label}"
    chosen = {
        phase: (f"{model}-{phase}", f"{PHASE_LABEL}={phase}", f"{ROLE_LABEL}=leader")
        for phase in ("prefill", "decode")
    }
    start = {
        "vllm": ("vllm-router", "--vllm-pd-disaggregation"),
        "sglang": (
            "python3",
            *run_module("sglang_router.launch_router", "--api-key", "{key}"),
            "--pd-disaggregation",
            "--history-backend",
            "none",
        ),
    }[workload.kind]
    return (
        *start,
        "--service-discovery",
        *("--service-discovery-namespace", workload.part.namespace),
        *("--service-discovery-port", str(workload.command.port)),
        *("--prefill-selector", *chosen["prefill"]),
        *("--decode-selector", *chosen["decode"]),
        *("--prefill-policy", "cache_aware"),
        *("--decode-policy", "power_of_two"),
        *("--host", "0.0.0.0"),
        *("--port", str(ROUTER_PORT)),
        *("--health-check-interval-secs", str(CHECK_S)),
        # Of the pod: the network policy lets nobody in but whoever reads metrics.
        *("--prometheus-host", "0.0.0.0"),
        *("--prometheus-port", str(ROUTER_METRICS_PORT)),
    )


def router_needs(cluster: Cluster) -> tuple[Need, ...]:
    """What halves need of the network between them."""
    if not routed(cluster):
        return ()
    return (
        Need(
            kind="network",
            name="RDMA between the nodes of prefill and decode",
            why="each request's KV cache crosses it once; over TCP the first token waits for it",
        ),
    )


def router_notes(cluster: Cluster) -> tuple[str, ...]:
    """What has been shown of prefill and decode apart."""
    kinds = sorted({each.kind for each in routed(cluster)})
    return tuple(
        f"Prefill and decode of {kind} are apart: its router was run with these arguments against stand-ins "
        f"for the API server and the engines; the engines' hand-over of caches has not been run."
        for kind in kinds
    )


def _may_look_at_pods(workload: Workload) -> tuple[Object, Object]:
    part = workload.router
    role = made("rbac.authorization.k8s.io/v1/Role", part)
    role["rules"] = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    binding = made("rbac.authorization.k8s.io/v1/RoleBinding", part)
    account = {"kind": "ServiceAccount", "name": part.component, "namespace": part.namespace}
    binding["subjects"] = [account]
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": part.name}
    return role, binding


def _deployment(cluster: Cluster, workload: Workload) -> Object:
    part = workload.router
    volumes = (
        _identity(),
        scratch("scratch", "/tmp", "1Gi"),  # noqa: S108 - a volume of the pod's own
    )
    key = {"name": engine_secret(cluster, workload), "key": KEY_SECRET}
    body = {
        "command": list(router_command(workload)),
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the same
            {"name": KEYS[workload.kind], "valueFrom": {"secretKeyRef": key}},
        ],
        "ports": [
            {"name": PORT_NAME, "containerPort": ROUTER_PORT},
            {"name": METRICS_NAME, "containerPort": ROUTER_METRICS_PORT},
        ],
        "resources": resources(cores(CORES), gibibytes(MEMORY_BYTES), "2Gi"),
        # Ready with one pod of each half, which may take as long as an engine takes to load.
        "readinessProbe": {**_asks("/readiness"), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_asks("/liveness"), "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": GRACE_S}}},
        "volumeMounts": [volume.mount for volume in volumes],
    }
    image = cluster.order.images.reference(f"{workload.kind}-router")
    placing = Placing(priority_class=f"{cluster.namespace}-serving", apart=True)
    spec = pod(part, [container("router", image, body)], volumes, placing, user=USER)
    spec["terminationGracePeriodSeconds"] = GRACE_S + DRAIN_S
    deployment = {
        "replicas": REPLICAS,
        "selector": {"matchLabels": part.selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return made("apps/v1/Deployment", part, deployment)


def _asks(path: str) -> Object:
    return {"httpGet": {"path": path, "port": PORT_NAME}, "timeoutSeconds": 3}


def _identity() -> Volume:
    """Who the pod is, for the API server: named here, for no pod is handed that unasked."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_S}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    source = {"projected": {"sources": sources, "defaultMode": 0o440}}
    return Volume(name="identity", source=source, path=TOKEN_FOLDER)
