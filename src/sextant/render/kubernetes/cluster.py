"""What all builders of one bundle agree on: namespaces, and the engines with what each of their pods needs.

Made once from the order (`cluster_of`), then handed to every builder of this package.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog.arguments import command, serving_of
from sextant.catalog.devices import device_of
from sextant.catalog.images import OWN, image_of
from sextant.catalog.serving import Command, Role, Serving
from sextant.render.kubernetes.objects import GIB, Part, dns_label
from sextant.render.kubernetes.sharing import Share, share_of
from sextant.spec.engine_sections import EmbeddedEngine, LaunchedEngine, RemoteEngine
from sextant.spec.rendering import Device, Order, ServedModel

LOOPBACK = "127.0.0.1"
MODELS_PATH = "/models"
"""Folder in which an engine finds its model, by `ServedModel.key`."""
GGUF_FILE = "model.gguf"
"""What a single file of weights is called there."""
USER = 65532
"""Who runs in images that were made for root."""
START_BASE_S = 900.0
START_S_PER_GIB = 18.0
START_S_LEAST, START_S_MOST = 1800.0, 10_800.0
"""How long an engine may take to start: KAITO's rule, 15 min and 18 s a GiB of weights, in 30 to 180 min."""
CORES_PER_ACCELERATOR = 8
MEMORY_PER_ACCELERATOR = 32 * GIB
"""Host memory of an engine's pod beside its accelerators, where the plan asks for none."""
SHARED_MEMORY_PER_ACCELERATOR = 8 * GIB
CPU_ENGINE_CORES = 8
ROUTER_PORT = 8090
"""Where the router before a split engine answers."""
MTLS_PORT, LOOKS_PORT = 8443, 8444
"""Where the proxy beside a guarded engine answers the gateway, and who looks at health and metrics."""
ROUTER_METRICS_PORT = 29_000
"""Where it serves its own metrics."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as pods: what runs, on how many machines, with which accelerators."""

    served: ServedModel
    part: Part
    role: Role = "whole"
    """What of each request it answers: all, or with prefill and decode apart one of the two."""
    command: Command
    image: str
    user: int
    resource: str
    """Extended resource of its accelerators; empty: none."""
    per_pod: int
    """Of that resource, for each pod."""
    nodes: int
    """Pods of one replica."""
    replicas: int
    """That the plan wants."""
    replicas_most: int
    device: Device | None
    share: Share | None
    start_s: float
    """Longest start before the pod counts as failed."""
    guarded: bool = False
    """Whether a proxy beside it ends mutual TLS, and the engine itself listens on the loopback address."""

    @property
    def kind(self) -> str:
        """Of the engine: vllm, sglang, …"""
        return self.served.entry.engine.kind

    @property
    def model_label(self) -> str:
        """Name of the model's own objects, whatever part of its requests this engine answers."""
        return dns_label(self.served.key)

    @property
    def router(self) -> Part:
        """What stands before both halves, where prefill and decode are apart."""
        return msgspec.structs.replace(self.part, component="router", model=self.model_label)

    @property
    def front(self) -> Part:
        """Whose service the gateway calls for that model."""
        return self.part if self.role == "whole" else self.router

    @property
    def accelerators(self) -> int:
        """Of the extended resource, all planned replicas together."""
        return self.per_pod * self.nodes * self.replicas

    @property
    def target(self) -> tuple[str, str]:
        """apiVersion and kind of the object that is scaled."""
        return (
            ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
            if self.nodes > 1
            else ("apps/v1", "Deployment")
        )

    @property
    def node_selector(self) -> dict[str, str]:
        """Labels of nodes that have its accelerators."""
        label, _, value = (self.device.node_label if self.device is not None else "").partition("=")
        return {label: value} if label else {}

    @property
    def tolerations(self) -> tuple[Mapping[str, str], ...]:
        """Of what such nodes are tainted with."""
        if self.device is None or not self.device.taint:
            return ()
        return ({"key": self.device.taint, "operator": "Exists", "effect": "NoSchedule"},)

    @property
    def cpu(self) -> int:
        """Cores of one pod."""
        return max(1, self.per_pod) * CORES_PER_ACCELERATOR if self.resource else CPU_ENGINE_CORES

    @property
    def memory_bytes(self) -> int:
        """Host memory of one pod, shared memory included."""
        if not self.resource:
            return int(self.served.weights_bytes * 1.5) + 8 * GIB
        option = self.served.option
        told = option.host.memory_bytes if option is not None else None
        if told and option is not None and option.host.accelerators:
            return max(16 * GIB, int(told * 0.9) * self.per_pod // option.host.accelerators)
        return self.per_pod * MEMORY_PER_ACCELERATOR

    @property
    def shared_memory_bytes(self) -> int:
        """Of `/dev/shm`."""
        return max(1, self.per_pod) * SHARED_MEMORY_PER_ACCELERATOR if self.resource else GIB

    @property
    def base_url(self) -> str:
        """Where the gateway reaches its API."""
        if self.guarded:
            return f"https://{self.front.name}.{self.front.namespace}.svc:{MTLS_PORT}"
        port = self.command.port if self.role == "whole" else ROUTER_PORT
        return f"http://{self.front.name}.{self.front.namespace}.svc:{port}"


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle's namespaces and engines."""

    order: Order
    namespace: str
    pools: tuple[str, ...]
    """Lines of business or tenant pools with namespaces of their own."""
    workloads: tuple[Workload, ...]
    site: str = ""
    """Which of several, where there are several."""

    def part(self, component: str, *, namespace: str = "", model: str = "") -> Part:
        """A part of this deployment."""
        return Part(
            instance=self.order.name,
            namespace=namespace or self.namespace,
            component=component,
            model=model,
        )

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All of them, the gateway's first."""
        return (self.namespace, *(self.of_pool(pool) for pool in self.pools))

    def of_pool(self, pool: str) -> str:
        """Name of a pool's namespace."""
        return dns_label(f"{self.namespace}-{pool}")

    def workloads_in(self, namespace: str) -> tuple[Workload, ...]:
        """The engines whose pods run there."""
        return tuple(each for each in self.workloads if each.part.namespace == namespace)

    @property
    def trust_domain(self) -> str:
        """Of the SPIFFE ids of its pods; empty where they have none."""
        spiffe = self.order.deployment.spec.security.spiffe
        return spiffe.trust_domain if spiffe is not None else ""

    @property
    def sextant_image(self) -> str:
        """The product's own image."""
        return self.order.images.reference(OWN)


def cluster_of(order: Order, pools: tuple[str, ...], *, site: str = "") -> Cluster:
    """The namespaces and engines of the order. Models of a pool in `pools` run in its namespace.

    Raises Unsupported for what cannot run as pods."""
    namespace = dns_label(order.deployment.spec.delivery.namespace)
    bare = Cluster(order=order, namespace=namespace, pools=pools, workloads=(), site=site)
    found = tuple(
        _workload(bare, served, role)
        for served in order.served
        if not _stays(served)
        for role in _roles(order, served)
    )
    return msgspec.structs.replace(bare, workloads=tuple(_bounded(order, found, each) for each in found))


def _bounded(order: Order, workloads: tuple[Workload, ...], workload: Workload) -> Workload:
    """The workload with no more replicas than the sites have accelerators for beside the others' planned
    ones. Where nodes come and go, or no site says what it has, the document's bound alone holds."""
    spec = order.deployment.spec
    stated = sum(each.count for site in spec.sites for each in site.accelerators)
    kinds = {each.name for site in spec.sites for each in site.accelerators}
    mixed = len(kinds) > 1 or len({each.resource for each in workloads if each.resource}) > 1
    if not stated or mixed or workload.share or not workload.resource or spec.delivery.node_scaling != "none":
        return workload
    others = sum(each.accelerators for each in workloads if each is not workload)
    room = (stated - others) // (workload.per_pod * workload.nodes)
    most = max(workload.replicas, min(workload.replicas_most, room))
    return msgspec.structs.replace(workload, replicas_most=most)


def _stays(served: ServedModel) -> bool:
    """Whether the gateway's own pod serves it, or somebody else's endpoint. Raises Unsupported."""
    engine = served.entry.engine
    if isinstance(engine, EmbeddedEngine) and served.entry.source is not None:
        raise Unsupported(
            f"the model `{served.entry.name}` has the embedded engine and a source; on a cluster that engine "
            f"serves the bundled model alone: write `kind: llamacpp` or `kind: vllm` for it"
        )
    return isinstance(engine, EmbeddedEngine | RemoteEngine)


def distinct(workloads: tuple[Workload, ...]) -> tuple[Workload, ...]:
    """One engine of each model: both halves of a split one have the same weights and the same router."""
    return tuple({(each.part.namespace, each.served.key): each for each in workloads}.values())


def _roles(order: Order, served: ServedModel) -> tuple[Role, ...]:
    """What engines the model's plan wants. Raises Unsupported where a split cannot be rendered."""
    if served.option is None or served.option.layout.prefill is None:
        return ("whole",)
    refused = {
        "spec.mode": order.mode == "container",
        "spec.delivery.gpu_sharing": order.deployment.spec.delivery.gpu_sharing != "none",
    }
    field = next((name for name, is_so in refused.items() if is_so), None)
    if field is not None:
        raise Unsupported(
            f"the plan for `{served.entry.name}` splits prefill from decode, which goes with neither the "
            f"mode `container` nor shared accelerators; write `split: false` in spec.planning",
            field=field,
        )
    return ("prefill", "decode")


def _workload(cluster: Cluster, served: ServedModel, role: Role) -> Workload:
    engine = served.entry.engine
    if not isinstance(engine, LaunchedEngine):
        raise Unsupported(f"the engine `{engine.kind}` does not run as pods of its own")
    order = cluster.order
    device = _device(order, served)
    share = share_of(served, device, order.deployment.spec.delivery.gpu_sharing)
    guarded = bool(cluster.trust_domain)
    serving = _serving(order, served, share, role)
    if guarded:
        serving = msgspec.structs.replace(serving, host=LOOPBACK)
    started = command(serving)
    if guarded:
        _refuse_open(served, role, started)
    image = image_of(order, served)
    pool = served.entry.pool
    scaling = order.deployment.spec.scaling
    replicas = max(serving.share.dp if served.option is not None else 1, scaling.min_replicas)
    return Workload(
        served=served,
        part=cluster.part(
            "engine",
            namespace=cluster.of_pool(pool) if pool in cluster.pools and pool else "",
            model=dns_label(served.key if role == "whole" else f"{served.key}-{role}"),
        ),
        role=role,
        command=started,
        image=order.images.reference(image.name),
        user=image.user or USER,
        resource=_resource(device, share),
        per_pod=1 if share is not None else (started.per_node if device is not None else 0),
        nodes=started.nodes,
        replicas=replicas,
        replicas_most=max(replicas, scaling.max_replicas),
        device=device,
        share=share,
        start_s=start_s(served),
        guarded=guarded,
    )


def _refuse_open(served: ServedModel, role: Role, started: Command) -> None:
    """Raises Unsupported for an engine that would answer others than the proxy beside it."""
    name, kind, field = served.entry.name, served.entry.engine.kind, "spec.security.spiffe"
    if role != "whole":
        raise Unsupported(
            f"the plan for `{name}` splits prefill from decode: their router calls both halves and shows no "
            f"certificate, so mutual TLS would end before it; write `split: false` in spec.planning, or "
            f"leave {field} out",
            field=field,
        )
    told = (*started.argv, *started.env.values(), *(each.decode() for each in started.files.values()))
    if not any(LOOPBACK in each for each in told):
        raise Unsupported(
            f"the engine {kind} of `{name}` cannot be told to listen on {LOOPBACK} alone, so anybody who "
            f"reaches its pod could pass by the proxy that checks SPIFFE ids; use vllm, sglang, trtllm, "
            f"triton or llamacpp, or leave {field} out",
            field=field,
        )
    taken = {MTLS_PORT, LOOKS_PORT}
    if started.port in taken:
        raise Unsupported(
            f"the engine {kind} of `{name}` listens on port {started.port}, which the proxy beside it needs",
            field=field,
        )


def _resource(device: Device | None, share: Share | None) -> str:
    if share is not None:
        return share.resource
    return device.resource if device is not None else ""


def start_s(served: ServedModel) -> float:
    """The longest start of that engine in seconds: what the document says, else by the weights, and
    never less than twice the predicted time or a start without caches at its slowest."""
    told: float | None = getattr(served.entry.engine, "ready_timeout_s", None)
    if told is not None:
        return max(told, served.load_s)
    by_weights = START_BASE_S + START_S_PER_GIB * served.weights_bytes / GIB
    predicted = max(2 * served.load_s, served.start.ready_s_high if served.start is not None else 0.0)
    return max(min(max(by_weights, START_S_LEAST), START_S_MOST), predicted)


def _device(order: Order, served: ServedModel) -> Device | None:
    """How the accelerators that serve it are asked for; None: it needs none. Raises Unsupported."""
    found = device_of(order, served)
    return found if found.resource and served.option is not None else None


def _serving(order: Order, served: ServedModel, share: Share | None, role: Role) -> Serving:
    path = f"{MODELS_PATH}/{served.key}"
    if served.entry.engine.kind == "llamacpp":
        path = f"{path}/{GGUF_FILE}"
    serving = serving_of(order, served, model_path=path, in_container=True, role=role)
    if share is None or share.memory_share is None:
        return serving
    return msgspec.structs.replace(serving, memory_share=share.memory_share)
