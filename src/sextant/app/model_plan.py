"""One model of the document: what the gateway serves of it and which engine must run for it. Pure.

Second half of `plan.py`. What had to be looked at first, files and memory, comes in as a `Placement`.
"""

from __future__ import annotations

import re
from collections.abc import Container

import msgspec

from sextant.app.engine_metrics import Target, target_of
from sextant.app.fitting import CONTEXT_TOKENS_DEFAULT_MAX
from sextant.app.state import StateDir
from sextant.base.errors import Misconfigured
from sextant.engines import embedded, llamacpp
from sextant.engines.adapters import adapter_of, capabilities_of
from sextant.engines.keeper import STOP_MARGIN_S, kept
from sextant.engines.modelfacts import ModelFacts
from sextant.engines.protocol import Launch, Replica
from sextant.spec.document import ModelEntry
from sextant.spec.engine_sections import EmbeddedEngine, LaunchedEngine, RemoteEngine
from sextant.spec.snapshot import ServedModel, Upstream

EMBEDDED_CONCURRENCY_MAX = 512
"""Requests handed to an embedded engine at a time, at most; further ones wait in the model's own bounded
queue. It stays below the threads of llama.cpp's HTTP pool (`embedded.HTTP_THREADS`), so that health checks
always find one."""
REQUESTS_PER_SLOT = 2
"""Requests handed to llama.cpp for each of its slots where the document does not say: one that is decoded and
one that is ready when it ends. llama.cpp wakes all that wait for each token of any: with hundreds inside it
answers a quarter of what it can."""
NEEDS_FILES = ("vllm", "sglang", "llamacpp")
"""Engines that are told what to load; the others bring their model along."""


class EnginePlan(msgspec.Struct, frozen=True):
    """One replica of one model. `launch.argv` is empty for an endpoint that runs elsewhere."""

    upstream_id: str
    model_id: str
    launch: Launch
    metrics: Target | None = None
    """Where its own metrics are read."""
    file: str = ""
    """The model's file or folder on this machine; empty where the engine brings it or runs elsewhere."""
    peer_id: str | None = None
    """SPIFFE id of an endpoint that runs elsewhere, where it is known by one."""


class Placement(msgspec.Struct, frozen=True):
    """What was found for one model: its port, its files (None where the engine brings them or runs
    elsewhere), the context that fits this machine (0: the engine decides)."""

    port: int = 0
    facts: ModelFacts | None = None
    context_tokens: int = 0
    created_s: int = 0
    """When the model was made, as far as is known; clients want one."""
    memory_max_bytes: int = 0
    """Beyond this an embedded engine leaks; 0 for no bound."""
    threads: int = 0
    """Of an embedded engine where the document does not say; 0: all cores but one."""


def plan_model(
    entry: ModelEntry, place: Placement, state: StateDir, upstream_id: str
) -> tuple[ServedModel, EnginePlan]:
    """The model as served, and its engine.

    Raises Misconfigured when the engine cannot do it, with the reason and the way out.
    """
    engine = entry.engine
    if isinstance(engine, EmbeddedEngine):
        return _embedded(entry, engine, place, state, upstream_id)
    if isinstance(engine, RemoteEngine):
        return _remote(entry, engine, place, upstream_id)
    return _launched(entry, engine, place, state, upstream_id)


def upstream_id_of(name: str, taken: Container[str]) -> str:
    """A name for a replica of the model `name`: none of `taken`, and one that can stand in a file's name."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    number, found = 1, f"{plain}-0"
    while found in taken:
        number += 1
        found = f"{plain}.{number}-0"
    return found


def _embedded(
    entry: ModelEntry, engine: EmbeddedEngine, place: Placement, state: StateDir, upstream_id: str
) -> tuple[ServedModel, EnginePlan]:
    facts = place.facts
    assert facts is not None, "an embedded engine is planned with its model's file"
    replica = Replica(
        id=upstream_id,
        model_id=entry.name,
        model_path=facts.path,
        context_tokens=place.context_tokens,
        port=place.port,
        key_file=str(state.secrets / "engine"),
        settings_file=str(state.run / f"engine-{upstream_id}.json"),
        options={
            **engine.model_dump(exclude={"kind", "context_tokens"}),
            "threads": engine.threads or place.threads or None,
        },
        weights_bytes=facts.weights_bytes,
        facts=facts,
    )
    launch = adapter_of("embedded").launch(replica)
    launch = msgspec.structs.replace(launch, memory_max_bytes=place.memory_max_bytes)
    served = _served(entry, place, launch, upstream_id)
    bound = entry.concurrent_requests or REQUESTS_PER_SLOT * engine.slots
    served = msgspec.structs.replace(
        served,
        context_tokens=place.context_tokens,
        capabilities=embedded.capabilities_of(facts),
        quirks=embedded.quirks_of(facts),
        concurrent_requests=min(bound, EMBEDDED_CONCURRENCY_MAX),
    )
    return served, _engine(entry, upstream_id, launch, facts)


def _remote(
    entry: ModelEntry, engine: RemoteEngine, place: Placement, upstream_id: str
) -> tuple[ServedModel, EnginePlan]:
    replica = Replica(
        id=upstream_id,
        model_id=entry.name,
        model_path="",
        context_tokens=engine.context_tokens,
        port=0,
        key_file="",
        settings_file="",
        base_url=engine.base_url,
        api_key_ref=engine.api_key,
        upstream_model=engine.upstream_model or entry.name,
    )
    launch = adapter_of("remote").launch(replica)
    quirks = adapter_of(engine.speaks or "remote").quirks
    served = _served(entry, place, launch, upstream_id)
    served = msgspec.structs.replace(
        served,
        upstreams=tuple(msgspec.structs.replace(one, peer_id=engine.peer_id) for one in served.upstreams),
        context_tokens=engine.context_tokens,
        capabilities=engine.capabilities.struct(),
        quirks=msgspec.structs.replace(quirks, compliant=engine.compliant),
        media_urls=engine.media_urls,
    )
    planned = _engine(entry, upstream_id, launch, None)
    return served, msgspec.structs.replace(planned, peer_id=engine.peer_id)


def _launched(
    entry: ModelEntry, engine: LaunchedEngine, place: Placement, state: StateDir, upstream_id: str
) -> tuple[ServedModel, EnginePlan]:
    facts = place.facts
    if facts is None and engine.kind in NEEDS_FILES:
        raise Misconfigured(
            f"the engine {engine.kind} must be told what to load for {entry.name}; "
            f"add `source: PATH` (or a name to fetch) beside its name",
            field="spec.model.source",
        )
    trained = facts.context_tokens if facts is not None else 0
    if engine.kind == "llamacpp":  # keeps the whole context of every slot, as the embedded engine does
        trained = min(trained, CONTEXT_TOKENS_DEFAULT_MAX)
    replica = Replica(
        id=upstream_id,
        model_id=entry.name,
        model_path=facts.path if facts is not None else "",
        context_tokens=engine.context_tokens or trained,
        port=place.port,
        key_file=str(state.secrets / "engine"),
        settings_file=str(state.run / f"engine-{upstream_id}.json"),
        options=engine.model_dump(exclude={"kind", "context_tokens", "capabilities", "memory_limit_gib"}),
        weights_bytes=facts.weights_bytes if facts is not None else 0,
        facts=facts,
    )
    adapter = adapter_of(engine.kind)
    launch = adapter.launch(replica)
    launch = msgspec.structs.replace(
        launch,
        argv=kept(launch.argv, grace_s=launch.stop_timeout_s),
        memory_max_bytes=int((engine.memory_limit_gib or 0) * 2**30),
        stop_timeout_s=launch.stop_timeout_s + STOP_MARGIN_S,
    )
    told = engine.capabilities
    capable = capabilities_of(engine.kind, replica) if told is None else told.struct()
    served = msgspec.structs.replace(
        _served(entry, place, launch, upstream_id), capabilities=capable, quirks=adapter.quirks
    )
    if replica.context_tokens:
        served = msgspec.structs.replace(served, context_tokens=replica.context_tokens)
    if engine.kind == "llamacpp" and not entry.concurrent_requests:
        bound = REQUESTS_PER_SLOT * (engine.max_sequences or llamacpp.SLOTS)
        served = msgspec.structs.replace(served, concurrent_requests=bound)
    return served, _engine(entry, upstream_id, launch, facts)


def _engine(entry: ModelEntry, upstream_id: str, launch: Launch, facts: ModelFacts | None) -> EnginePlan:
    names = adapter_of(entry.engine.kind).metric_names
    target = target_of(entry.name, upstream_id, launch, names)
    return EnginePlan(upstream_id, entry.name, launch, target, facts.path if facts is not None else "")


def _served(entry: ModelEntry, place: Placement, launch: Launch, upstream_id: str) -> ServedModel:
    upstream = Upstream(
        id=upstream_id,
        base_url=launch.base_url,
        api_key_ref=launch.api_key_ref,
        upstream_model=launch.upstream_model,
        ready=False,
        reason="it is starting",
    )
    return ServedModel(
        id=entry.name,
        engine=entry.engine.kind,
        upstreams=(upstream,),
        aliases=entry.aliases,
        created_s=place.created_s,
        pool=entry.pool or "",
        tenants=entry.tenants,
        clears_personal_data=(entry.personal_data or _clearance(entry)) == "cleared",
        concurrent_requests=entry.concurrent_requests or 0,
        queue_length=entry.queue_length or 0,
    )


def _clearance(entry: ModelEntry) -> str:
    """What the document does not say: an endpoint that runs elsewhere is outside the trust zone."""
    return "guarded" if isinstance(entry.engine, RemoteEngine) else "cleared"
