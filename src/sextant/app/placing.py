"""What has to be looked at before a plan can be made: each model's files, fetched, judged and, for the
embedded engine, converted where that is needed; the memory it takes; a port for each engine.

Flow 2 (deploy), between the document and `plan.py`. The only part of planning that touches disk and network.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from sextant.app.child import last_words
from sextant.app.conversions import conversion_of, forget_conversions
from sextant.app.events import Doing, Fetching, Tell, Warned
from sextant.app.fitting import MEMORY_SHARE, as_served, fit, refusal_of
from sextant.app.machine import memory_free_bytes
from sextant.app.model_plan import Placement
from sextant.app.plan import bundled_model_path
from sextant.app.pull import (
    LocalSource,
    Progress,
    PullEvent,
    Retrying,
    Verifying,
    WaitingForOther,
    cached,
    fetch,
    parse_source,
    plan_download,
)
from sextant.app.state import StateDir, reserve_port
from sextant.base.config import child_environment
from sextant.base.errors import Misconfigured, SextantError
from sextant.base.lifeline import PARENT_VARIABLE
from sextant.engines.adapters import binding_of
from sextant.engines.cores import default_threads
from sextant.engines.modelfacts import ModelFacts
from sextant.engines.modelfile import inspect
from sextant.spec.document import Deployment, ModelEntry
from sextant.spec.engine_sections import EmbeddedEngine, RemoteEngine

CONVERTER_NEEDS = ("gguf", "numpy")
"""What `sextant.workshop.convert` imports beyond our own dependencies."""
LEAK_FACTOR = 1.5
LEAK_MARGIN_BYTES = 2**30
"""An embedded engine that holds so much more than was reckoned leaks."""
GGUF_ENGINES = ("embedded", "llamacpp")


class Ports:
    """Ports on the loopback address for engines, held as long as their engines may start."""

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def take(self, kind: str) -> int:
        """A port for an engine of this kind; held where that engine can bind a held one."""
        option = binding_of(kind)
        held = reserve_port("127.0.0.1", option)
        port = int(held.getsockname()[1])
        if option == "none":
            held.close()
        else:
            self._held[port] = held
        return port

    def release(self, port: int) -> None:
        """The engine on `port` has ended and will not start again."""
        held = self._held.pop(port, None)
        if held is not None:
            held.close()

    def close(self) -> None:
        for port in tuple(self._held):
            self.release(port)


def place_models(
    entries: Sequence[ModelEntry], state: StateDir, tell: Tell, ports: Ports, *, embedded: int
) -> list[Placement]:
    """One placement for each model; its port is held in `ports`. So many of all models have an `embedded`
    engine.

    Raises SextantError when a model cannot be had, read or held by this machine, with the way out.
    """
    places: list[Placement] = []
    threads = (
        max(1, default_threads() // embedded) if embedded > 1 else 0
    )  # all together, no more than one alone
    left_bytes = memory_free_bytes()
    try:
        for entry in entries:
            place, taken_bytes = _place(entry, state, tell, ports, left_bytes)
            left_bytes -= taken_bytes
            places.append(msgspec.structs.replace(place, threads=threads))
    except BaseException:
        for place in places:
            ports.release(place.port)
        raise
    return places


def embedded_of(document: Deployment) -> int:
    """How many of its models have an embedded engine."""
    return sum(isinstance(entry.engine, EmbeddedEngine) for entry in document.spec.served)


def _place(
    entry: ModelEntry, state: StateDir, tell: Tell, ports: Ports, free_bytes: int
) -> tuple[Placement, int]:
    """The placement, and the memory that it takes of `free_bytes`."""
    engine = entry.engine
    if isinstance(engine, RemoteEngine):
        return Placement(created_s=int(time.time())), 0
    path = files_of(entry, state, tell, free_bytes)
    if path is None:
        return Placement(ports.take(engine.kind), created_s=int(time.time())), 0
    facts = inspect(path)
    for warning in facts.warnings:
        tell(Warned(f"{entry.name}: {warning}"))
    place = Placement(0, facts, created_s=int(Path(facts.files[0]).stat().st_mtime))
    taken_bytes = 0
    if isinstance(engine, EmbeddedEngine):
        _refuse(facts)
        found = fit(facts, wanted_tokens=engine.context_tokens, slots=engine.slots, free_bytes=free_bytes)
        taken_bytes = found.need.total_bytes
        place = msgspec.structs.replace(
            place,
            context_tokens=found.context_tokens,
            memory_max_bytes=int(LEAK_FACTOR * taken_bytes) + LEAK_MARGIN_BYTES,
        )
    return msgspec.structs.replace(place, port=ports.take(engine.kind)), taken_bytes


def _refuse(facts: ModelFacts) -> None:
    refusal = refusal_of(facts)
    if refusal is not None:
        raise Misconfigured(refusal, field="spec.model.source")


def files_of(entry: ModelEntry, state: StateDir, tell: Tell, free_bytes: int) -> Path | None:
    """Where the model is on this disk, fetched and converted as its engine needs it; None when the engine
    brings it along."""
    if entry.source is None:
        return bundled_model_path(entry.name) if isinstance(entry.engine, EmbeddedEngine) else None
    path = _local(entry, state, tell)
    if entry.engine.kind not in GGUF_ENGINES or not path.is_dir():
        return path
    facts = inspect(path)
    if facts.format != "huggingface":
        return path
    _refuse(facts)
    if isinstance(entry.engine, EmbeddedEngine):  # told before an hour of converting, not after it
        wanted, slots = entry.engine.context_tokens, entry.engine.slots
        fit(as_served(facts), wanted_tokens=wanted, slots=slots, free_bytes=free_bytes)
    return _converted(path, facts, state, tell)


def _local(entry: ModelEntry, state: StateDir, tell: Tell) -> Path:
    """The source on this disk. A name is fetched; what was fetched once is not asked for again."""
    assert entry.source is not None
    source = parse_source(entry.source)
    if isinstance(source, LocalSource):
        return source.path
    prefer: Literal["gguf", "safetensors"] = "gguf" if entry.engine.kind in GGUF_ENGINES else "safetensors"
    found = cached(source, state.models, prefer=prefer)
    if found is not None:
        return found
    room_bytes = int(memory_free_bytes() * MEMORY_SHARE) if isinstance(entry.engine, EmbeddedEngine) else None
    state.models.mkdir(mode=0o700, exist_ok=True)
    plan = plan_download(source, state.models, room_bytes=room_bytes, prefer=prefer)
    if room_bytes is not None and plan.weights_bytes > room_bytes:
        raise Misconfigured(
            f"{source} has {plan.weights_bytes / 1e9:.2f} GB of weights and {room_bytes / 1e9:.2f} GB of "
            f"memory can be used here; nothing was downloaded; choose a smaller model or quantisation",
            code="model_too_large",
            field="spec.model.source",
        )
    tell(Doing(f"Fetching {source}: {plan.total_bytes / 1e9:.2f} GB from {plan.endpoint}"))
    return fetch(plan, state.models, lambda event: _tell_pull(event, tell))


def _tell_pull(event: PullEvent, tell: Tell) -> None:
    if isinstance(event, Progress):
        tell(Fetching(event.file, event.done_bytes, event.total_bytes))
    elif isinstance(event, Retrying):
        tell(Warned(f"{event.reason}; the next try is in {event.wait_s:.0f} s"))
    elif isinstance(event, Verifying):
        tell(Doing(f"Checking {event.size_bytes / 1e9:.2f} GB of {event.file} that are here already"))
    elif isinstance(event, WaitingForOther):
        tell(Doing(f"Waiting for process {event.pid or 'elsewhere'}, which fetches the same model"))


def _converted(folder: Path, facts: ModelFacts, state: StateDir, tell: Tell) -> Path:
    """A Hugging Face folder as the GGUF file that llama.cpp reads, made once for what the folder holds."""
    missing = [name for name in CONVERTER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise Misconfigured(
            f"{folder} must be converted for llama.cpp and {', '.join(missing)} is not installed; run: "
            f"pip install {' '.join(CONVERTER_NEEDS)}, or take a GGUF file of the model",
            field="spec.model.source",
        )
    target = conversion_of(folder, state.models)
    if target.is_file():
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    tell(Doing(f"Converting {folder} for llama.cpp, once: {facts.weights_bytes / 1e9:.2f} GB"))
    log = state.logs / "convert.log"
    with log.open("ab") as stream:
        begin = stream.tell()
        argv = [sys.executable, "-m", "sextant.workshop.convert", str(folder), str(target)]
        env = child_environment({PARENT_VARIABLE: str(os.getpid())})  # it ends with us, however we end
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False, env=env
        )
    if done.returncode != 0:
        why = last_words(log, begin) or f"exit status {done.returncode}"
        raise SextantError(f"{folder} cannot be converted: {why}; the log is {log}", code="conversion_failed")
    forget_conversions(folder, state.models, but=target)
    return target
