"""The deployment document: one YAML file that says what is wanted. These models are its only definition.

First step of flow 2 (deploy) and the input of `sextant up`. The JSON Schema and the reference page are
generated from here (`schema.py`); `reading.py` finds places, `checking.py` words the errors. A field stands
here only when something acts on it, or when it informs planning (`workload`, `sites`); what the design
foresees and this version cannot do is listed in `NOT_YET` and refused with the reason.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from sextant.base.errors import BadDocument
from sextant.spec import checking, problems, reading
from sextant.spec.centre_sections import Centre, Fallback
from sextant.spec.control_sections import Alerts, Oidc
from sextant.spec.deploy_sections import Continuity, Delivery, Mode, Profile, Scaling, Training
from sextant.spec.engine_sections import EmbeddedEngine, Engine, RemoteEngine
from sextant.spec.fields import (
    PATTERNS,
    FilePath,
    Host,
    ModelAlias,
    ModelName,
    ModelSource,
    Name,
    Origin,
    Port,
    Positive,
    ProxyNetwork,
    Section,
    items,
)
from sextant.spec.limits import Limits
from sextant.spec.peer_checks import conflict_of_peers
from sextant.spec.planning_sections import Planning
from sextant.spec.portal_section import Portal, conflict_of_portal
from sextant.spec.references import sealed_references
from sextant.spec.security_sections import Security
from sextant.spec.snapshot import TlsFiles
from sextant.spec.store_sections import SharedLimits, Store
from sextant.spec.stores import SQLITE

BUNDLED_MODELS = ("sextant-nano",)
"""Models that the distribution carries."""

Conflict = tuple[str, str, str, str]
"""Field, what is wrong, what was expected, what to write."""

NOT_YET: dict[str, str] = {
    "spec.model.revision": "write it into the source, as in `source: hf:org/name@revision`",
    "spec.model.precision": "a file has the precision that it was written in; see spec.engine.precision",
    "spec.model.adapters": "adapters are not in this version",
    "spec.rollout": "releases are not in this version; `sextant apply` has a changed document served",
    "spec.governance": "prices, budgets and limits change while it serves, so they are no part of "
    "the document: `sextant price`, `sextant budget`, `sextant tier` and `--limit` of `sextant key`, or the "
    "admin API",
}
"""What the design foresees and this version refuses, by field or `field=value`, with the reason."""


class Metadata(Section):
    name: Name = Field(description="Name of this deployment.", examples=["my-deepseek"])


class Model(Section):
    """The model as callers see it."""

    name: ModelName = Field(description="The name callers send as `model`.", examples=["sextant-nano"])
    aliases: Annotated[tuple[ModelAlias, ...], items(most=32)] = Field(
        (),
        description="Other names accepted for it, such as `deepseek-chat`; `claude-*` stands for every name "
        "that begins so.",
    )
    source: ModelSource | None = Field(
        None,
        description="What to load: a GGUF file, a folder in Hugging Face's layout, or a name to fetch: "
        "`hf:org/name`, `modelscope:org/name`, each with `@revision` and `:file` where wanted; unset: the "
        "bundled model of that name, or whatever a remote endpoint serves.",
        examples=["models/my-model.gguf", "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"],
    )
    concurrent_requests: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Requests that its engine works on at a time; unset: two for each slot of a llama.cpp "
        "engine, else an even share of `gateway.limits.concurrent_requests` among the models.",
    )
    queue_length: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Requests that wait for one of its places; unset: an even share of "
        "`gateway.limits.queue_length`.",
    )
    personal_data: Literal["cleared", "guarded"] | None = Field(
        None,
        description="`cleared`: the model may see personal data; `guarded`: privacy policies of tenants are "
        "applied to what goes there. Unset: `guarded` for a remote endpoint, `cleared` for an engine that is "
        "started here.",
    )
    pool: Name | None = Field(
        None,
        description="Name of a pool of engines: tenants whose tier names it are served by it, others by "
        "the entry of the same name without a pool, if there is one.",
        examples=["professional"],
    )
    tenants: Annotated[tuple[Name, ...], items(most=1000)] = Field(
        (),
        description="Tenants that may use and see it, in tiers that allow models of their own; unset: all "
        "tenants.",
    )


class ModelEntry(Model):
    """One of several models."""

    engine: Engine = Field(description="What runs this model.")


class Workload(Section):
    """What is expected of the deployment. Informs planning; it limits nothing."""

    requests_per_s: Positive | None = Field(None, description="Arriving requests, mean.")
    input_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Prompt length, median.")
    output_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Answer length, median.")
    ttft_ms_p99: Positive | None = Field(
        None, description="Time to first token wanted at the 99th percentile."
    )
    tpot_ms_p99: Positive | None = Field(
        None, description="Time per output token wanted at the 99th percentile."
    )


class Accelerators(Section):
    name: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="Accelerator type.", examples=["H20"]
    )
    count: Annotated[int, Field(ge=1, le=100_000)] = Field(description="How many.", examples=[8])


class Site(Section):
    """A place with hardware. Informs planning and rendering; `sextant up` deploys nothing there."""

    name: Name = Field(description="Name of the site.", examples=["shanghai-1"])
    kind: Literal["public", "private", "edge"] = Field("private", description="Who runs it.")
    region: str | None = Field(None, description="Region, in the provider's words.")
    zone: str | None = Field(None, description="Failure zone.")
    accelerators: Annotated[tuple[Accelerators, ...], items(most=64)] = Field(
        (), description="What stands there."
    )
    price_usd_per_h: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Price of all of it per hour."
    )
    address: Host | None = Field(
        None, description="Where the other sites reach its gateway: a host name or an address."
    )
    hosts: Annotated[tuple[Host, ...], items(most=10_000)] = Field(
        (), description="Its servers, by name or address, for bundles without a cluster."
    )


class Tls(Section):
    """TLS 1.3. Relative paths are taken from the document's folder."""

    cert_file: FilePath = Field(description="Certificate chain, PEM.", examples=["tls/server.pem"])
    key_file: FilePath = Field(description="Its private key, PEM.", examples=["tls/server.key"])
    client_ca_file: FilePath | None = Field(
        None, description="When set, clients must show a certificate signed by one of these."
    )

    def struct(self) -> TlsFiles:
        return TlsFiles(**self.model_dump())


class Gateway(Section):
    """The data plane: the API that applications call."""

    host: Host = Field(
        "127.0.0.1", description="Address to listen on; any but a loopback address needs `tls`."
    )
    port: Port = Field(8000, description="Port to listen on.")
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        1, description="Processes that share the port; more than one needs `spec.limits`."
    )
    tls: Tls | None = Field(
        None, description="Certificate and key; unset: plain HTTP, on a loopback address only."
    )
    cors_origins: Annotated[tuple[Origin, ...], items(most=64)] = Field(
        (), description="Web origins whose pages may call the API; none by default."
    )
    trusted_proxies: Annotated[tuple[ProxyNetwork, ...], items(most=64)] = Field(
        (),
        description="Networks of proxies in front: from there, and only there, the caller's address is taken "
        "from `X-Forwarded-For`. None by default.",
    )
    limits: Limits = Field(Limits(), description="Every bound of the gateway.")


class Control(Section):
    """The admin API. It always needs the admin credential."""

    host: Host = Field(
        "127.0.0.1", description="Address to listen on; any but a loopback address needs `tls`."
    )
    port: Port = Field(8001, description="Port to listen on.")
    tls: Tls | None = Field(
        None, description="Certificate and key; unset: plain HTTP, on a loopback address only."
    )
    oidc: Oidc | None = Field(
        None, description="A provider that people sign in through; unset: by local passwords alone."
    )


class Observability(Section):
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity logged."
    )
    access_log: bool = Field(True, description="One log line a request, without prompt or answer.")


class Spec(Section):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["model", "engine"]}, {"required": ["models"]}]}
    )

    mode: Mode = Field("on-prem", description="How `sextant render` deploys it.")
    profile: Profile | None = Field(
        None, description="Industry whose defaults the rendered bundle takes; unset: none."
    )
    model: Model | None = Field(None, description="The model to serve.")
    engine: Engine | None = Field(None, description="What runs the model.")
    models: Annotated[tuple[ModelEntry, ...], items(most=64)] = Field(
        (), description="Several models, each with its engine, instead of `model` and `engine`."
    )
    workload: Workload = Field(Workload(), description="What is expected of it; informs planning.")
    sites: Annotated[tuple[Site, ...], items(most=256)] = Field(
        (), description="Where hardware is; informs planning."
    )
    planning: Planning = Field(Planning(), description="What else `sextant plan` goes by.")
    gateway: Gateway = Field(Gateway(), description="The API that applications call.")
    control: Control = Field(Control(), description="The admin API.")
    centre: Centre | None = Field(
        None, description="The centre that a box at the edge sends its usage to; unset: none."
    )
    overflow: Fallback | None = Field(
        None,
        description="When another gateway answers for this one's engines, where both keep the same books: a "
        "hybrid's public site for its private one, whose models are MODEL-public there; unset: never.",
    )
    alerts: Alerts = Field(Alerts(), description="How alerts reach people.")
    portal: Portal = Field(Portal(), description="The portal of tenants' people, and signing up.")
    store: Store = Field(Store(), description="Where accounts and the ledger live.")
    limits: SharedLimits | None = Field(
        None,
        description="Where limits of tenants, projects and keys are counted; unset: in the memory of the one "
        "gateway process.",
    )
    observability: Observability = Field(Observability(), description="Logs.")
    security: Security = Field(Security(), description="Keys in a hardware security module.")
    scaling: Scaling = Field(Scaling(), description="How a rendered deployment grows and shrinks.")
    continuity: Continuity = Field(Continuity(), description="Standby and backups of a rendered deployment.")
    delivery: Delivery = Field(Delivery(), description="How the rendered bundle is made and where it goes.")
    training: Training | None = Field(
        None, description="Training on a hybrid's machines that may be taken away; unset: none."
    )

    @property
    def served(self) -> tuple[ModelEntry, ...]:
        """All models with their engines, however they were written."""
        if self.model is None or self.engine is None:
            return self.models
        return (ModelEntry(**dict(self.model), engine=self.engine),)

    @model_validator(mode="after")
    def _fits_together(self) -> Spec:
        conflict = _conflict(self)
        if conflict is not None:
            field, said, expected, write = conflict
            raise PydanticCustomError(
                "conflict", "{said}", {"at": field, "said": said, "expected": expected, "write": write}
            )
        return self


class Deployment(Section):
    """One deployment document."""

    api_version: Literal["sextant.dev/v1alpha1"] = Field(
        alias="apiVersion", description="Version of this format."
    )
    kind: Literal["ModelDeployment"] = Field(description="Always `ModelDeployment`.")
    metadata: Metadata = Field(description="What it is called.")
    spec: Spec = Field(description="What is wanted.")


_WORDING = checking.Wording(not_yet=NOT_YET, patterns=PATTERNS)


def load_document(path: str | Path | None) -> Deployment:
    """The document in the file `path`, checked; None means the built-in one.

    Raises BadDocument, whose message names every fault with its line, field and what to write instead.
    """
    if path is None:
        return parse_document(builtin_text(), name="the built-in document")
    file = Path(path)
    return parse_document(_read(file), name=str(path), folder=file.absolute().parent)


def parse_document(text: str, *, name: str = "document", folder: Path | None = None) -> Deployment:
    """The document in `text`. `folder` is where relative paths in it start. Raises BadDocument."""
    found: list[problems.Problem] = []
    deployment: Deployment | None = None
    tree, faults = reading.read_tree(text)
    found.extend(faults)
    if tree is not None:
        deployment, faults = checking.check(Deployment, tree, wording=_WORDING, context={"folder": folder})
        found.extend(faults)
    if found or deployment is None:
        raise BadDocument(
            problems.render(found, name, text), field=min(found, key=lambda p: p.place).field or None
        )
    return deployment


def builtin_text() -> str:
    """The document that `sextant up` uses when it is given none."""
    return resources.files("sextant.spec").joinpath("data/builtin.yaml").read_text(encoding="utf-8")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(reading.DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        raise BadDocument(
            f"{file}: there is no such file; `sextant up` without a file uses a built-in one"
        ) from None
    except IsADirectoryError:
        raise BadDocument(f"{file}: this is a directory; name the document inside it") from None
    except OSError as error:
        raise BadDocument(f"{file}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadDocument(
            f"{file}:{line}: byte 0x{data[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
        ) from None


def _conflict(spec: Spec) -> Conflict | None:
    """What is wrong where right fields do not fit together."""
    if spec.gateway.workers > 1 and spec.limits is None:
        return (
            "spec.gateway.workers",
            f"{spec.gateway.workers} workers have no limits store to share",
            "1 worker, or a Redis that counts limits for all of them",
            "`limits: {url: redis://HOST:PORT}` in spec, or delete the line",
        )
    if spec.gateway.port == spec.control.port:
        return (
            "spec.gateway.port",
            f"port {spec.gateway.port} is also the port of spec.control",
            "two different ports",
            f"for example `port: {spec.gateway.port % 65535 + 1}`",
        )
    return (
        _conflict_of_delivery(spec)
        or _both_forms(spec)
        or _conflict_of_models(spec)
        or _conflict_of_centre(spec)
        or _conflict_of_overflow(spec)
        or conflict_of_portal(spec.portal, mails=spec.alerts.smtp is not None)
        or _conflict_of_secrets(spec)
        or conflict_of_peers(spec.security, _engines(spec))
    )


def _engines(spec: Spec) -> list[tuple[str, Engine]]:
    """Every engine with its place."""
    if spec.engine is not None:
        return [("spec.engine", spec.engine)]
    return [(f"spec.models.{number}.engine", each.engine) for number, each in enumerate(spec.models)]


def _conflict_of_delivery(spec: Spec) -> Conflict | None:
    if spec.scaling.min_replicas > spec.scaling.max_replicas:
        return (
            "spec.scaling.min_replicas",
            f"{spec.scaling.min_replicas} is more than max_replicas, {spec.scaling.max_replicas}",
            "at most max_replicas",
            f"`min_replicas: {spec.scaling.max_replicas}`",
        )
    if spec.scaling.cpu_percent_low >= spec.scaling.cpu_percent_high:
        return (
            "spec.scaling.cpu_percent_low",
            f"{spec.scaling.cpu_percent_low} is not below cpu_percent_high, {spec.scaling.cpu_percent_high}",
            "less than cpu_percent_high, or replicas come and go without end",
            f"`cpu_percent_low: {max(1, spec.scaling.cpu_percent_high // 2)}`",
        )
    if spec.training is not None and spec.mode != "hybrid":
        return (
            "spec.training",
            f"the mode is {spec.mode}, which trains nothing",
            "`mode: hybrid`, whose sites may have machines that are taken away",
            "delete the section, or write `mode: hybrid`",
        )
    if spec.training is not None and spec.training.image.endswith(":latest"):
        return (
            "spec.training.image",
            f"`{spec.training.image}` is another image tomorrow",
            "a tag that stays, or a digest",
            "for example `registry.example.com/trainer:3.2`",
        )
    shares = sum(quota.percent for quota in spec.delivery.quotas)
    if shares > 100:
        return (
            "spec.delivery.quotas",
            f"the shares add up to {shares} per cent",
            "100 per cent together at most",
            "smaller shares",
        )
    return None


def _conflict_of_centre(spec: Spec) -> Conflict | None:
    if spec.centre is None:
        return None
    if spec.store.url != SQLITE:
        return (
            "spec.centre",
            f"needs the ledger in a file of this box; spec.store is {spec.store.url}",
            f"`{SQLITE}`",
            "delete spec.store, or spec.centre",
        )
    engines = {model.name: model.engine for model in spec.served}
    for number, one in enumerate(spec.centre.fallback.models if spec.centre.fallback else ()):
        place = f"spec.centre.fallback.models.{number}"
        if one.name not in engines or isinstance(engines[one.name], RemoteEngine):
            said = f"`{one.name}` does not run here"
            return f"{place}.name", said, "a model whose engine runs on this box", "one of `models`"
        if not isinstance(engines.get(one.at_centre), RemoteEngine):
            said = f"`{one.at_centre}` is no model with the engine remote"
            return f"{place}.at_centre", said, "an entry of `models` that leads to the centre", "add one"
    return None


def _conflict_of_overflow(spec: Spec) -> Conflict | None:
    engines = {model.name: model.engine for model in spec.served}
    for number, one in enumerate(spec.overflow.models if spec.overflow else ()):
        place = f"spec.overflow.models.{number}"
        if one.name not in engines:
            return f"{place}.name", f"there is no model `{one.name}`", "a model of this document", "its name"
        if spec.mode == "hybrid":
            public = f"{one.name}-public"
            if one.at_centre != public:
                said = f"the public site's is not `{one.at_centre}`"
                return f"{place}.at_centre", said, "the name that the bundle gives it", f"`{public}`"
        elif one.at_centre == one.name or not isinstance(engines.get(one.at_centre), RemoteEngine):
            said = f"`{one.at_centre}` is no other model with the engine remote"
            return f"{place}.at_centre", said, "an entry of `models` that leads elsewhere", "add one"
    return None


def _conflict_of_secrets(spec: Spec) -> Conflict | None:
    sealed = sealed_references(spec)
    if sealed and (spec.security.hsm is None or spec.security.hsm.sealing_key is None):
        return (
            "spec.security.hsm.sealing_key",
            f"is not set, and only that key opens {sealed[0]}",
            "the label of the key that the secret was sealed with",
            "`sealing_key: LABEL` in spec.security.hsm, or `file:/path` instead of the sealed secret",
        )
    hsm = spec.security.hsm
    if hsm is not None and hsm.tls_key is not None and hsm.signing_key is not None:
        return (
            "spec.security.hsm.signing_key",
            "would be in one token with the front's TLS key, beside which OpenSSL's engine finds no key",
            "a token of its own where releases are made",
            "delete the line, and sign with `./sign.sh 'pkcs11:…'`",
        )
    return None


def _both_forms(spec: Spec) -> Conflict | None:
    if spec.models:
        given = next((name for name in ("model", "engine") if getattr(spec, name) is not None), None)
        if given is None:
            return None
        return (
            f"spec.{given}",
            "stands beside spec.models",
            "either `models`, or `model` and `engine`",
            "move it into an entry of spec.models",
        )
    for name in ("model", "engine"):
        if getattr(spec, name) is None:
            return f"spec.{name}", "is missing", "a mapping", f"write `{name}:`, or `models:` for several"
    return None


def _conflict_of_models(spec: Spec) -> Conflict | None:
    """What is wrong with one model, or between two."""
    taken: dict[str, dict[str | None, str]] = {}
    for number, model in enumerate(spec.served):
        place = "spec.model" if spec.model is not None else f"spec.models.{number}"
        unknown = model.source is None and model.name not in BUNDLED_MODELS
        if isinstance(model.engine, EmbeddedEngine) and unknown:
            return (
                f"{place}.name",
                f"`{model.name}` is not carried by this distribution",
                f"one of {', '.join(BUNDLED_MODELS)}, or a model with a source",
                f"to offer a bundled model under this name too, add it to {place}.aliases; to serve a model "
                f"of yours, add `source: PATH`",
            )
        if model.name in model.aliases:
            said = f"`{model.name}` is the model's own name"
            return f"{place}.aliases", said, "other names only", "delete it"
        for name in (model.name, *model.aliases):
            others = taken.setdefault(name, {})
            if model.pool in others or set(others.values()) - {model.name}:
                field = f"{place}.name" if name == model.name else f"{place}.aliases"
                pool = f" in the pool `{model.pool}`" if model.pool in others and model.pool else ""
                said = f"`{name}` is the name of another model already{pool}"
                return field, said, "a name that no other model has", "choose another"
            others[model.pool] = model.name
    return None
