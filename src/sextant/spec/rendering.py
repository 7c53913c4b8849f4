"""What rendering is given: the document, what was planned for each of its models, the facts it may use.

`operations/bundles.py` puts an `Order` together, `render/` turns it into a `Bundle`. Nothing here is read
from the machine that renders, so the same order gives the same bytes anywhere. Neighbours: `bundle.py` (what
comes out), `deploy_sections.py` (what the document says), `render_data.py` (where the facts are read).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from sextant.base.errors import Unsupported
from sextant.spec.architecture import ModelArchitecture
from sextant.spec.cold_start import ColdStart
from sextant.spec.document import Deployment, ModelEntry
from sextant.spec.engine_data import EngineData, Traits
from sextant.spec.planning import Option

Vendor = Literal["nvidia", "amd", "intel", "huawei", "cpu"]
"""Who made the accelerator; `cpu`: none is used."""

Proof = Literal["executed", "schema-valid", "unverified", "unsupported"]
"""What of a combination has been shown: it ran; its files pass their schemas; nothing; it cannot work."""


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One container image, by tag. Its digest, if any, is the user's (`Images.digests`)."""

    name: str
    """How bundles call it, for example `vllm-nvidia`."""
    engine: str = ""
    """The engine it holds; empty: it is no engine."""
    backend: str = ""
    """The backend of the engine that it is made for (`spec.engine.backend`); empty: the usual one."""
    vendor: str = ""
    accelerators: tuple[str, ...] = ()
    """The accelerators, by id, that it is made for; empty: all of the vendor's."""
    command: tuple[str, ...] = ()
    """The engine's program inside it; empty: the engine's usual one."""
    repository: str
    tag: str
    engine_version: str = ""
    """Of the engine in it; empty: it is no engine."""
    skew: str = ""
    """What it means that the engine's arguments were written for another version; empty: they were not."""
    user: int = 65532
    """The uid that it can run as; 0: only as root, as far as is known."""
    port: int = 0
    """What it listens on unless told otherwise; 0: nothing."""
    source: str
    """Where repository, tag and user stand."""
    date: datetime.date

    @property
    def tagged(self) -> str:
        """`repository:tag`, as a lock file names it."""
        return f"{self.repository}:{self.tag}"


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """The images a bundle may name, and the digests that the user locked."""

    known: Mapping[str, Image]
    digests: Mapping[str, str] = {}
    """`repository:tag` to `sha256:…`, from the user's images.lock; never made up."""
    registry: str = ""
    """A registry of the user's that mirrors them, put in front of each repository; empty: each one's own."""

    def reference(self, name: str) -> str:
        """What a manifest names: `repository:tag`, with `@sha256:…` where it is locked.

        Raises Unsupported for an image that is not in the table."""
        image = self.known.get(name)
        if image is None:
            raise Unsupported(
                f"there is no image `{name}` in the table of images; known: {', '.join(self.known)}"
            )
        digest = self.digests.get(image.tagged)
        if digest is None and image.tag == "latest":
            raise Unsupported(
                f"the image {image.tagged} is published as `latest` alone, which is another one tomorrow; "
                f"write its digest into the images lock: `{image.tagged}@sha256:…`",
                field="spec.delivery.images_lock",
            )
        place = _mirrored(image.repository, self.registry)
        return f"{place}:{image.tag}@{digest}" if digest else f"{place}:{image.tag}"

    def is_pinned(self, name: str) -> bool:
        """Whether the user locked that image's digest."""
        return name in self.known and self.known[name].tagged in self.digests


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a vendor's accelerators are asked for."""

    vendor: Vendor
    kinds: tuple[str, ...] = ()
    """Only accelerators of these classes or ids; empty: all of the vendor's."""
    resource: str = ""
    """Kubernetes extended resource of one accelerator; empty: none is needed."""
    node_label: str = ""
    """`key=value` that nodes with it carry, by the vendor's own labeller."""
    taint: str = ""
    """Key of the taint that such nodes usually carry."""
    paths: tuple[str, ...] = ()
    """Device files that a container or a unit must reach; `*` stands for numbers."""
    groups: tuple[str, ...] = ()
    """Groups on the host that may open them."""
    compose: str = ""
    """Docker's name of the driver for device reservations; empty: device files are mapped."""
    runtime_class: str = ""
    visible: str = ""
    """The environment variable that picks accelerators by number."""
    env: Mapping[str, str] = {}
    rdma_resource: str = ""
    source: str
    date: datetime.date


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One combination of vendor, engine and mode, and what has been shown of it."""

    vendor: Vendor
    engine: str
    mode: str
    proof: Proof
    reason: str = ""
    """Why not, or what is missing; never empty for `unsupported` and `unverified`."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What comes with Sextant and rendering may use."""

    engines: Mapping[str, EngineData]
    devices: tuple[Device, ...]
    cells: tuple[Cell, ...]
    traits: Mapping[str, Traits] = {}
    """What is known of the files of a model of the catalogue, by its id."""


class ProfileDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `spec.profile` changes where the document says nothing."""

    name: str = ""
    """Empty: no profile."""
    why: str = ""
    usage_days: int = 400
    """Usage rows and invoices are kept so long."""
    audit_days: int = 365
    log_days: int = 30
    backup_keep_days: int = 30
    backup_schedule: str = "0 2 * * *"
    rpo_s: int = 300
    zones: tuple[str, ...] = ("edge", "serving", "data")
    """Network zones from the outside in; traffic passes only between neighbours."""
    egress: Literal["open", "listed", "none"] = "listed"
    """What the bundle's own machines and pods may reach outside of it."""
    encryption: Literal["disk", "disk-and-transit", "hsm"] = "disk-and-transit"
    """Storage encrypted; traffic inside the bundle too; keys held by an HSM as well."""
    edge_share: float = 0.0
    """Share of requests that are answered at the edge where a document has edge sites, 0 to 1."""
    personal_data: Literal["guarded", "cleared"] | None = None
    """Of models that do not say; None: as the document's own rule."""
    audit_copy: bool = False
    """Whether the audit trail is also shipped to write-once storage."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the document and how it is to be served."""

    entry: ModelEntry
    option: Option | None = None
    """The plan's choice; None for embedded and remote engines."""
    architecture: ModelArchitecture | None = None
    """None where the catalogue does not know the model."""
    weights_bytes: int = 0
    """On disk; 0: not known."""
    kv_precision: str = "bf16"
    """Of the KV cache, as it was planned."""
    load_s: float = 0.0
    """Predicted time from start to ready."""
    start: ColdStart | None = None
    """The same part by part, from the pod's object to its first answer; None where nothing was planned."""

    @property
    def key(self) -> str:
        """A name fit for files and objects: its name, and its pool if it has one. Engines of a bundle serve
        the model under it."""
        named = self.entry.name if self.entry.pool is None else f"{self.entry.name}-{self.entry.pool}"
        return re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-")

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together: what the document says, else what fits by the plan and the
        model was made for; 0 where neither is known."""
        stated: int | None = getattr(self.entry.engine, "context_tokens", None)
        if stated:
            return stated
        if self.architecture is None:
            return 0
        fits = self.option.memory.tokens_fit if self.option is not None else 0
        made_for = self.architecture.context_tokens
        return min(made_for, fits) if fits else made_for

    @property
    def vendor(self) -> Vendor:
        """Whose accelerators serve it."""
        if self.option is None:
            return "cpu"
        return vendor_of(self.option.accelerator.vendor)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be rendered."""

    deployment: Deployment
    served: tuple[ServedModel, ...]
    images: Images
    facts: Facts
    version: str
    """Of Sextant."""
    defaults: ProfileDefaults = ProfileDefaults()

    @property
    def name(self) -> str:
        """Of the deployment; objects and files are named after it."""
        return self.deployment.metadata.name

    @property
    def mode(self) -> str:
        """Which of the six."""
        return self.deployment.spec.mode


def vendor_of(named: str) -> Vendor:
    """The vendor by the catalogue's name for it. Raises Unsupported."""
    folded = named.casefold()
    for start, vendor in _VENDORS.items():
        if folded.startswith(start):
            return vendor
    raise Unsupported(
        f"accelerators of `{named}` are not supported by `sextant render`; expected NVIDIA, AMD, "
        f"Intel or Huawei"
    )


_VENDORS: dict[str, Vendor] = {
    "nvidia": "nvidia",
    "amd": "amd",
    "intel": "intel",
    "huawei": "huawei",
    "ascend": "huawei",
    "any": "cpu",
    "cpu": "cpu",
    "raspberry": "cpu",
}


def _mirrored(repository: str, registry: str) -> str:
    """`repository` below the user's registry, without its own registry's name."""
    if not registry:
        return repository
    first, _, rest = repository.partition("/")
    own = bool(rest) and ("." in first or ":" in first or first == "localhost")
    return f"{registry}/{rest if own else repository}"
