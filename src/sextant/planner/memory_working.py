"""How each part of a plan's memory comes about, as a sentence with its numbers: for `sextant plan --explain`.

`memory.py` computes; this says it again in words, and a test holds the two together. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from sextant.planner.memory import (
    BITS,
    BLOCK_TOKENS,
    GIB,
    MIB,
    OVERHEADS,
    SEQUENCES_SAMPLED,
    cache_on_rank,
    weights_bytes,
)
from sextant.spec.planning import Estimate, Option, Question

CHECKPOINT_SOURCE = "the catalogue's size of the checkpoint"
ENGINES_SAY = "about 0.9 of the memory in vLLM and SGLang, 0.95 taken for llama.cpp"
AICONFIGURATOR = "aiconfigurator systems/h100_sxm.yaml: other_mem, nccl_mem"
OWN_ESTIMATE = "estimate: not looked up"


def memory_working(question: Question, option: Option) -> Iterator[tuple[str, Estimate]]:
    """(part, its GiB on the fullest accelerator with formula and sources), what is free last."""
    use, layout = option.memory, option.layout.decode or option.layout
    engine, model = OVERHEADS[question.engine], question.architecture
    kept = use.reserve_bytes / use.capacity_bytes
    runtime = f"context and libraries {engine.runtime_bytes / MIB:.0f} MiB"
    if layout.replica > 1:
        runtime += f", buffers of collectives {engine.collective_bytes / MIB:.0f} MiB"
    measured = weights_bytes(model, question.precision)[1]
    activations = (
        f"{engine.batched_tokens} tokens of a step x 2 bytes x (4 x {model.hidden} + the widest part) + "
        f"logits of {SEQUENCES_SAMPLED} sequences"
    )
    lost = f"{engine.fragmentation:.0%} of weights and activations, half of {BLOCK_TOKENS} tokens a request"
    parts = (
        ("weights", use.weights_bytes, _weights(question, option), CHECKPOINT_SOURCE if measured else ""),
        ("KV cache", use.kv_cache_bytes, _cache(question, option), ""),
        ("activations", use.activations_bytes, activations, ""),
        ("runtime", use.runtime_bytes, runtime, AICONFIGURATOR),
        ("graphs", use.graphs_bytes, f"{engine.graph_bytes_per_layer / MIB:.0f} MiB a layer", OWN_ESTIMATE),
        ("fragmentation", use.fragmentation_bytes, lost, OWN_ESTIMATE),
        ("reserve", use.reserve_bytes, f"{kept:.0%} of the memory that the engine leaves alone", ENGINES_SAY),
    )
    taken = sum(size for _, size, _, _ in parts)
    for name, size, formula, source in (*parts, ("free", use.capacity_bytes - taken, "what is left", "")):
        value = size / GIB
        yield (
            name,
            Estimate(
                value=value,
                low=value,
                high=value,
                unit="GiB",
                basis="derived",
                formula=formula,
                sources=(source,) if source else (),
            ),
        )


def _weights(question: Question, option: Option) -> str:
    layout, model = option.layout.decode or option.layout, question.architecture
    total, measured = weights_bytes(model, question.precision)
    whole = (
        f"checkpoint of {total / GIB:.4g} GiB"
        if measured
        else f"{model.params_total / 1e9:.4g} B parameters x {BITS[question.precision]:g} bits = "
        f"{total / GIB:.4g} GiB with embeddings"
    )
    stages = f", {layout.pp} stages" if layout.pp > 1 else ""
    if not model.is_mixture:
        return f"{whole} / {layout.attention_tp} ranks{stages}"
    return f"{whole}: experts / {layout.tp} ranks, the rest / {layout.attention_tp}{stages}"


def _cache(question: Question, option: Option) -> str:
    layout, model = option.layout.decode or option.layout, question.architecture
    tokens = question.wishes.context_tokens or question.workload.context_tokens
    one = cache_on_rank(model, question.kv_precision, layout, tokens)
    requests = option.memory.kv_cache_bytes // one if one else 0
    return f"{requests} requests on a rank x {tokens} tokens; {_per_token(question, option)}"


def _per_token(question: Question, option: Option) -> str:
    model, layout = question.architecture, option.layout.decode or option.layout
    width = 2 if question.kv_precision == "bf16" else 1
    if model.attention == "gqa":
        heads = -(-model.kv_heads // min(layout.attention_tp, model.kv_heads))
        return f"2 x {model.growing_layers} layers x {heads} KV heads x {model.head_dim} x {width} bytes"
    if model.attention == "v4":
        return f"a window of {model.window_tokens} and compressed blocks of {model.head_dim} x {width} bytes"
    latent = f"{model.layers} layers x ({model.kv_lora_rank} + {model.rope_dim}) x {width} bytes"
    if model.attention == "sparse-mla":
        return f"{latent} and the indexer's key, whole on each rank"
    return f"{latent}, whole on each rank"
