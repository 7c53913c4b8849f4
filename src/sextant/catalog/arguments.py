"""How an engine is called in a container or on several machines: argv and environment from a plan's layout.

`sextant.engines` starts an engine on this machine; this says the same for a bundle, where one replica may
span machines. The facts both share stand in `spec/data/engines.toml`. One file per engine beside this one;
what they take and give stands in `serving.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sextant.base.errors import Unsupported
from sextant.catalog import images, llamacpp, mindie, nim, sglang, triton, trtllm, vllm
from sextant.catalog.serving import Command, Role, Serving
from sextant.spec.engine_data import EngineData, Traits
from sextant.spec.engine_sections import LaunchedEngine
from sextant.spec.planning import Layout
from sextant.spec.rendering import Order, ServedModel
from sextant.spec.snapshot import Capabilities

__all__ = [
    "Command",
    "Role",
    "Serving",
    "capabilities_of",
    "command",
    "remarks",
    "serving_of",
    "traits_of",
]

COMMANDS: Mapping[str, Callable[[Serving], Command]] = {
    "vllm": vllm.command,
    "sglang": sglang.command,
    "triton": triton.command,
    "trtllm": trtllm.command,
    "nim": nim.command,
    "mindie": mindie.command,
    "llamacpp": llamacpp.command,
}


def command(serving: Serving) -> Command:
    """How that replica is started. Raises Unsupported, with the reason, for a layout that the engine cannot
    do."""
    made = COMMANDS.get(serving.kind)
    if made is None:
        raise Unsupported(
            f"the engine `{serving.kind}` is not started on its own; expected one of {', '.join(COMMANDS)}"
        )
    return made(serving)


def serving_of(
    order: Order, served: ServedModel, *, model_path: str, in_container: bool, role: Role = "whole"
) -> Serving:
    """One replica of a launched model of the order, from its plan and its section of the document. In a
    container the image's program is used, else the document's. Raises Unsupported for another engine."""
    engine = served.entry.engine
    if not isinstance(engine, LaunchedEngine):
        raise Unsupported(f"{served.entry.name}: the engine `{engine.kind}` is not started on its own")
    _refuse_meaningless(order.facts.engines[engine.kind], engine, served.entry.name)
    option = served.option
    program = images.image_of(order, served).command if in_container else engine.command
    return Serving(
        engine=order.facts.engines[engine.kind],
        kind=engine.kind,
        model_name=served.key,
        model_path=model_path,
        traits=traits_of(order, served),
        layout=option.layout if option is not None else Layout(tp=engine.tensor_parallel),
        role=role,
        vendor=served.vendor,
        command=program,
        context_tokens=served.context_tokens,
        memory_share=engine.memory_share,
        max_sequences=engine.max_sequences,
        precision=engine.precision,
        kv_precision=served.kv_precision,
        backend=engine.backend,
        args=engine.args,
        env=engine.env,
        per_node=option.accelerator.per_node if option is not None else max(1, engine.tensor_parallel),
    )


def _refuse_meaningless(data: EngineData, engine: LaunchedEngine, name: str) -> None:
    """Raises Unsupported for an option that means nothing to this engine, with the reason."""
    for option, reason in data.refused.items():
        value = getattr(engine, option)
        if value != LaunchedEngine.model_fields[option].default:
            raise Unsupported(
                f"{name}: {option} is {value}, which the engine {engine.kind} cannot follow: {reason}",
                field=f"spec.engine.{option}",
            )
    if engine.backend is not None and not data.backends:
        raise Unsupported(
            f"{name}: backend is {engine.backend}, and the engine {engine.kind} has none; remove it, or use "
            f"kind: triton",
            field="spec.engine.backend",
        )


def capabilities_of(order: Order, served: ServedModel) -> Capabilities:
    """What the engine can do with that model: what hangs on an argument (a parser of tool calls) it has only
    where that is given. Raises Unsupported for an engine that is not started on its own."""
    serving = serving_of(order, served, model_path="/", in_container=False)
    ruled = [arg for rule in serving.engine.rules_for(serving.traits) for arg in rule.args]
    given = {argument.partition("=")[0] for argument in (*ruled, *serving.args)}
    missing: dict[str, Any] = {
        name: False for name, flag in serving.engine.capability_flags.items() if flag not in given
    }
    known = msgspec.structs.replace(serving.engine.capabilities, **missing)
    return triton.capabilities_behind(serving.backend, known)


def remarks(order: Order) -> tuple[str, ...]:
    """What whoever runs the bundle must know of its engines, a sentence for each model it is about."""
    found = []
    for served in order.served:
        engine = served.entry.engine
        if isinstance(engine, LaunchedEngine):
            said = order.facts.engines[engine.kind].remarks
            for backend in dict.fromkeys(("", engine.backend or "")):
                if backend in said:
                    found.append(f"{served.entry.name}: {said[backend]}.")
    return tuple(found)


def traits_of(order: Order, served: ServedModel) -> Traits:
    """What is known of the model's files without having them: by the catalogue's name for the model."""
    model = served.architecture
    if model is None:
        return Traits()
    known = order.facts.traits.get(model.id, Traits())
    sizes = {
        "kv_lora_rank": model.kv_lora_rank,
        "qk_rope_head_dim": model.rope_dim,
        "qk_nope_head_dim": model.nope_dim,
        "v_head_dim": model.head_dim,
    }
    return Traits(known.architecture, known.chat_template, sizes if model.kv_lora_rank else {})
