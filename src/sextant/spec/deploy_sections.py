"""What the document says of a rendered deployment: scaling, continuity, delivery. For `document.py`.

`sextant render` acts on these; `sextant up`, which runs one host, does not need them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sextant.spec.fields import (
    Argument,
    BackupPlace,
    Cron,
    FilePath,
    Host,
    ImageName,
    Interface,
    Name,
    Positive,
    Registry,
    Section,
    items,
)

Mode = Literal["on-prem", "private-cloud", "hybrid", "edge", "container", "saas"]
Profile = Literal["finance", "healthcare", "manufacturing", "government", "logistics"]
Percent = Annotated[int, Field(ge=1, le=100)]


class Scaling(Section):
    """When replicas are added and taken away. Replicas of an engine are whole copies of the model."""

    min_replicas: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1, description="Least replicas of the gateway, and of each engine."
    )
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = Field(8, description="Most replicas.")
    requests_per_s_per_replica: Positive = Field(
        200.0, description="Requests per second of one gateway replica, above which one more is started."
    )
    cpu_percent_high: Percent = Field(75, description="CPU use above which one more is started.")
    cpu_percent_low: Percent = Field(30, description="CPU use below which one is taken away.")
    gpu_percent_high: Percent = Field(
        90, description="Accelerator use above which an engine's replica is added."
    )
    gpu_high_minutes: Annotated[int, Field(ge=1, le=1440)] = Field(
        10, description="So long must accelerator use stay above it."
    )
    scale_to_zero: bool = Field(
        False, description="Whether engines without requests are stopped; the next request waits for a start."
    )


class Standby(Section):
    """A second front server that takes over the address when the first one fails."""

    address: Host = Field(description="The address that both share.", examples=["10.0.0.10"])
    peer: Host = Field(description="Address of the other server.", examples=["10.0.0.12"])
    interface: Interface = Field("eth0", description="Network interface that carries the address.")
    router_id: Annotated[int, Field(ge=1, le=255)] = Field(
        51, description="VRRP router id; unique among pairs of one network."
    )


class Backup(Section):
    """Where copies of accounts and ledger go."""

    repository: BackupPlace = Field(
        description="Where backups are kept; credentials are referenced by the bundle, never written here.",
        examples=["s3:https://s3.example.com/sextant"],
    )
    schedule: Cron | None = Field(
        None, description="When, in cron's fields; unset: as the profile says, else `0 2 * * *`."
    )
    keep_days: Annotated[int, Field(ge=1, le=36_500)] | None = Field(
        None, description="How long each is kept; unset: as the profile says, else 30."
    )


class Continuity(Section):
    """What happens when a server, a site or its data is lost."""

    standby: Standby | None = Field(None, description="Hot standby of the front server; unset: none.")
    backup: Backup | None = Field(None, description="Backups; unset: none.")
    rpo_s: Annotated[int, Field(ge=1, le=604_800)] | None = Field(
        None, description="Most data, in seconds, that may be lost; unset: as the profile says, else 300."
    )


class Training(Section):
    """A training job on machines that the provider may take away, at one site of a hybrid. What it runs is
    yours: the bundle gives it machines, a queue, a volume for checkpoints and time to write one."""

    site: Name | None = Field(None, description="Which site's machines; unset: the public one's.")
    image: ImageName = Field(
        description="Image of the trainer, which must run without root.",
        examples=["registry.example.com/ml/trainer:3.2"],
    )
    command: Annotated[tuple[Argument, ...], items(least=1, most=256)] = Field(
        description="What it runs on each machine. `$(NODE_RANK)`, `$(NODES)`, `$(LEADER_ADDRESS)`, "
        "`$(CHECKPOINT_FOLDER)`, `$(CHECKPOINT_EVERY_S)` and `$(CHECKPOINT_GRACE_S)` are filled in. It "
        "begins with the newest checkpoint, and writes one when it is told to stop (SIGTERM).",
        examples=[["torchrun", "train.py", "--resume", "$(CHECKPOINT_FOLDER)"]],
    )
    on_stop: Annotated[tuple[Argument, ...], items(most=256)] = Field(
        (), description="A command that makes the trainer write a checkpoint, for one that ignores SIGTERM."
    )
    vendor: Literal["nvidia", "amd", "intel", "huawei"] = Field(
        "nvidia", description="Who made the accelerators."
    )
    nodes: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Machines, all of which start together."
    )
    accelerators_per_node: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="Accelerators of each machine."
    )
    checkpoint_minutes: Annotated[int, Field(ge=1, le=1440)] = Field(
        15, description="How often the trainer is told to write a checkpoint: as much work is lost at most."
    )
    checkpoint_gib: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="Size of the volume that checkpoints are kept on."
    )
    notice_s: Annotated[int, Field(ge=20, le=3600)] = Field(
        120,
        description="How long before a machine is taken away the provider says so: 120 at AWS, 30 at Google "
        "Cloud and Azure.",
    )
    attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        6, description="Failures of its own after which the job has failed; machines taken away do not count."
    )
    queue: Literal["kueue", "volcano"] = Field(
        "kueue", description="What makes it wait until all of its machines are there."
    )


class Quota(Section):
    """One line of business and its share."""

    name: Name = Field(description="Line of business.", examples=["risk"])
    percent: Percent = Field(description="Its share of the deployment's accelerators, CPU and memory.")


class Delivery(Section):
    """How the rendered bundle is made and where it goes."""

    namespace: Name = Field("sextant", description="Kubernetes namespace.")
    images_lock: FilePath | None = Field(
        None,
        description="File with image digests, one `repository:tag@sha256:…` a line; what it does not name "
        "stays by tag, and the bundle lists it.",
        examples=["images.lock"],
    )
    registry: Registry | None = Field(
        None, description="Registry of yours that mirrors the images; unset: each image's own."
    )
    ingress_host: Host | None = Field(None, description="Host name under which callers reach the API.")
    storage_class: Name | None = Field(
        None, description="Storage class for weights and data; unset: Rook-Ceph."
    )
    repository_url: Annotated[Argument, Field(min_length=1, max_length=1024)] | None = Field(
        None,
        description="Git repository that a GitOps controller reads the bundle from.",
        examples=["https://git.example.com/platform/sextant.git"],
    )
    gpu_sharing: Literal["none", "mig", "mps", "time-slicing"] = Field(
        "none", description="How one accelerator is shared among engines."
    )
    front: Literal["nginx", "haproxy"] = Field("nginx", description="The proxy in front of the gateway.")
    orchestration: Literal["systemd", "compose"] = Field(
        "systemd", description="What runs the processes of a server without a cluster."
    )
    mesh: Literal["istio", "none"] = Field("none", description="Service mesh of the clusters.")
    node_scaling: Literal["none", "cluster-autoscaler", "karpenter"] = Field(
        "none", description="What adds and removes nodes below the pods."
    )
    quotas: Annotated[tuple[Quota, ...], items(most=64)] = Field(
        (), description="Lines of business and their shares; 100 per cent together at most."
    )
