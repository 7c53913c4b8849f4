"""How a model can be spread over accelerators: every replica worth asking about, each with its reason.

Tensor parallelism stays where the fast link reaches, pipelines go beyond it, attention-DP keeps MLA's latent
from being held by every rank, expert parallelism divides the experts, and a split runs prompts and answers
apart. Whether a layout fits says `memory.py`, how fast it is `roofline.py`, which wins `options.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from sextant.spec.architecture import ModelArchitecture
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Break, Layout, Question, Wishes

MOST_RANKS = 64
"""Ranks of one replica that are considered; 64 holds the largest model of the catalogue many times."""
MOST_STAGES = 8

SINGLE = frozenset({"jetson", "cpu"})
"""Kinds without a link that one model could be spread over."""


RUNS_ON: Mapping[str, tuple[str, ...]] = {"trtllm": ("NVIDIA",), "mindie": ("Huawei",)}
"""Engines made for one maker's accelerators; the others have a port for each class of the catalogue."""


ON_PROCESSORS = "embedded"
"""The engine that comes with the package: llama.cpp as built for processors alone."""


def not_on(engine: str, accelerator: Accelerator) -> str:
    """What that engine runs on, where that is not this accelerator; else nothing."""
    if engine == ON_PROCESSORS:
        return "" if accelerator.kind == "cpu" else "processors"
    makers = RUNS_ON.get(engine, (accelerator.vendor,))
    return "" if accelerator.vendor in makers else " and ".join(makers)


def replicas(question: Question, accelerator: Accelerator) -> tuple[Layout, ...]:
    """The layouts of one replica (dp 1) that the model, the engine, the hardware and the wishes allow, fewest
    accelerators first."""
    found = []
    for tp, pp, why in _shapes(question, accelerator):
        for layout in _spreads(question, Layout(tp=tp, pp=pp, why=why)):
            if _wished(layout, question.wishes):
                found.append(layout)
    return tuple(sorted(dict.fromkeys(found), key=lambda layout: (layout.replica, layout.pp)))


def splits(decode: Layout, prefill: Layout, *, replicas: int) -> tuple[Layout, ...]:
    """Prefill and decode apart in each proportion of that many replicas: prompts on `prefill`, answers on
    `decode`. None for fewer than two."""
    found = []
    for reading in range(1, replicas):
        found.append(
            Layout(
                prefill=msgspec.structs.replace(prefill, dp=reading),
                decode=msgspec.structs.replace(decode, dp=replicas - reading),
                why=f"prompts on {reading} of {replicas} replicas, so that no long prompt delays an answer",
            )
        )
    return tuple(found)


def times(layout: Layout, count: int) -> Layout:
    """`count` of them side by side."""
    if layout.prefill is not None and layout.decode is not None:
        prefill = msgspec.structs.replace(layout.prefill, dp=layout.prefill.dp * count)
        decode = msgspec.structs.replace(layout.decode, dp=layout.decode.dp * count)
        return msgspec.structs.replace(layout, prefill=prefill, decode=decode)
    return msgspec.structs.replace(layout, dp=layout.dp * count)


def contradictions(question: Question) -> tuple[Break, ...]:
    """Wishes that no hardware can meet, or that exclude one another."""
    wishes, model = question.wishes, question.architecture
    found = []

    def no(key: str, text: str, **numbers: float) -> None:
        found.append(Break(key=key, numbers=numbers, text=text))

    fixed = (wishes.tp or 1) * (wishes.pp or 1) * (wishes.dp or 1)
    if wishes.count is not None and wishes.count % fixed:
        no("count", f"{wishes.count} accelerators are not a multiple of tp × pp × dp = {fixed}", fixed=fixed)
    if wishes.most is not None and max(fixed, wishes.count or 0) > wishes.most:
        asked = max(fixed, wishes.count or 0)
        no("most", f"{asked} accelerators are asked and at most {wishes.most} allowed", asked=asked)
    if wishes.tp and wishes.attention_dp and wishes.tp % wishes.attention_dp:
        no("attention_dp", f"attention_dp {wishes.attention_dp} does not divide tp {wishes.tp}")
    if wishes.tp and wishes.ep and wishes.tp % wishes.ep:
        no("ep", f"ep {wishes.ep} does not divide tp {wishes.tp}")
    if wishes.ep and wishes.ep > 1 and not model.is_mixture:
        no("ep", f"{model.id} has no experts to divide; ep is 1 for it")
    if wishes.tp and not wishes.attention_dp and model.heads % wishes.tp:
        no("tp", f"tp {wishes.tp} does not divide the {model.heads} attention heads of {model.id}")
    if wishes.pp and wishes.pp > model.layers:
        no("pp", f"{wishes.pp} stages are more than the {model.layers} layers of {model.id}")
    if wishes.split and (wishes.count == 1 or wishes.most == 1):
        no("split", "prefill and decode apart need two accelerators at least")
    asked_tokens = wishes.context_tokens or question.workload.context_tokens
    if asked_tokens > model.context_tokens:
        no("context", f"{asked_tokens} tokens are asked, {model.id} was made for {model.context_tokens}")
    return tuple(found)


def _shapes(question: Question, accelerator: Accelerator) -> Iterator[tuple[int, int, str]]:
    """Ranks and stages of one replica, with the reason."""
    if accelerator.kind in SINGLE or question.engine == "embedded":
        yield 1, 1, "one device, nothing to spread over"
        return
    if question.engine == "llamacpp":
        for stages in _powers(accelerator.per_node):
            yield 1, stages, "llama.cpp gives each card a share of the layers"
        return
    wishes, domain = question.wishes, accelerator.domain
    ranks = sorted({*_powers(min(domain, MOST_RANKS)), *([wishes.tp] if wishes.tp else [])})
    for tp in ranks:
        yield tp, 1, "tensor parallel inside the fast link" if tp > 1 else "one accelerator holds it"
    node = max(size for size in _powers(min(domain, MOST_RANKS)))
    depths = {2, 4, MOST_STAGES, *([wishes.pp] if wishes.pp else [])}
    for pp in sorted(depths - {1}):
        if wishes.pp == pp or (domain < MOST_RANKS and node * pp <= MOST_RANKS):
            yield (
                wishes.tp or node,
                pp,
                f"{pp} stages of {wishes.tp or node}: between nodes only activations pass",
            )
    if question.architecture.is_mixture:
        for tp in (node * 2, node * 4):
            if domain < tp <= MOST_RANKS:
                yield tp, 1, "experts over several nodes"


def _spreads(question: Question, shape: Layout) -> Iterator[Layout]:
    """The ways to run attention and experts in a replica of that shape."""
    model, tp = question.architecture, shape.tp
    beyond_node = shape.why.startswith("experts over")
    if not beyond_node and model.heads % tp == 0:
        yield shape
        if model.is_mixture and tp > 1 and _divides_experts(model, tp):
            yield msgspec.structs.replace(shape, ep=tp, why=f"{shape.why}; whole experts on each rank")
    if tp == 1:
        return
    wished = question.wishes.attention_dp
    if wished and wished not in (1, tp) and tp % wished == 0:
        experts = tp if model.is_mixture and _divides_experts(model, tp) else 1
        yield msgspec.structs.replace(shape, attention_dp=wished, ep=experts, why="as wished")
    if model.is_mixture and model.attention != "gqa" and _divides_experts(model, tp):
        why = "attention-DP: each request's latent is kept once, not on every rank; experts divided"
        yield msgspec.structs.replace(shape, attention_dp=tp, ep=tp, why=why)


def _divides_experts(model: ModelArchitecture, ranks: int) -> bool:
    return model.experts_routed % ranks == 0


def _wished(layout: Layout, wishes: Wishes) -> bool:
    pairs = (
        (wishes.tp, layout.tp),
        (wishes.pp, layout.pp),
        (wishes.ep, layout.ep),
        (wishes.attention_dp, layout.attention_dp),
    )
    return all(wish is None or wish == value for wish, value in pairs)


def _powers(most: int) -> tuple[int, ...]:
    """1, 2, 4, … up to `most`."""
    return tuple(2**power for power in range(max(1, most).bit_length()))
