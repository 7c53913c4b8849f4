"""Where an accelerator's memory goes, part by part, and what of the load fits.

First step of a plan; `parallel.py` proposes the layouts, `options.py` asks here whether they fit. Bytes
throughout, for the fullest accelerator of a layout. Never a flat factor: weights by what each rank holds, the
KV cache by the model's own formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from sextant.spec.architecture import KvPrecision, ModelArchitecture, Precision
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Break, Engine, Layout, MemoryUse, Question

GIB = 2**30
MIB = 2**20

BITS: Mapping[Precision, float] = {
    "bf16": 16.0,
    "fp8": 8.002,  # one FP32 scale for a block of 128 x 128 (DeepSeek-V3 technical report, section 3.3)
    "int8": 8.125,  # one FP16 scale for a group of 128
    "fp4": 4.5,  # NVFP4: one FP8 scale for 16 values
    "int4": 4.16,  # AWQ, GPTQ: an FP16 scale and a 4-bit zero for a group of 128
    "q8": 8.5008,  # GGUF kinds: llama.cpp tools/quantize/README.md, measured on Llama-3.1-8B
    "q4": 4.8944,
    "q2": 3.1593,
}
"""Bits for one weight, scales included."""
GGUF: frozenset[Precision] = frozenset({"q8", "q4", "q2"})
"""Kinds that quantise embeddings too; others keep them in BF16."""

LATENT_FP8_BYTES = 656
"""V3.2's latent in vLLM's FP8 cache: 512 FP8 values, 16 bytes of scales, 64 BF16 rope values."""
INDEX_SCALE_BYTES = 4
"""The FP32 scale beside the indexer's key of one token."""
V4_INDEX_BYTES = 64
"""V4: the indexer's key of one compressed block of 4 tokens (KAITO proposal 20260722)."""
V4_INDEXED_RATIO = 4
BLOCK_TOKENS = 16
"""Tokens of one page of the cache in vLLM; half a page is lost for each request."""
SEQUENCES_SAMPLED = 256
"""Rows of logits that are alive at once."""


ShareOf = Literal["memory", "memory for weights and cache", "what else leaves free"]
"""What an engine's share is a share of. vLLM's holds all that it takes. SGLang's holds weights and cache;
activations, graphs and runtime come out of the rest. TensorRT-LLM's is of what all but the cache leaves."""


class Overheads(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine takes for itself."""

    utilisation: float
    """Share that it uses of what `share_of` says; the rest is the reserve."""
    share_of: ShareOf = "memory"
    runtime_bytes: int
    """Context and libraries."""
    collective_bytes: int
    """Buffers of collectives, with more than one rank."""
    graph_bytes_per_layer: int
    batched_tokens: int
    """Tokens of one forward step, which the activations are sized for."""
    fragmentation: float
    """Share of the used memory that the allocator cannot hand out."""


_SERVING = Overheads(
    utilisation=0.90,  # gpu_memory_utilization, mem_fraction_static: about 0.9 in vLLM and SGLang
    runtime_bytes=551 * MIB,  # aiconfigurator systems/h100_sxm.yaml, remark on other_mem
    collective_bytes=392 * MIB,  # the same file, nccl_mem of 4 and 8
    graph_bytes_per_layer=16 * MIB,  # estimate: about 1 GiB for 61 layers
    batched_tokens=8192,
    fragmentation=0.01,  # estimate
)
_SGLANG = msgspec.structs.replace(  # docs.sglang.ai, mem_fraction_static: weights and the cache's pool
    _SERVING, share_of="memory for weights and cache"
)
_TRTLLM = msgspec.structs.replace(  # nvidia.github.io/TensorRT-LLM, kvcacheconfig: 90 % of the free memory
    _SERVING, share_of="what else leaves free"
)
_LLAMA = Overheads(
    utilisation=0.95,
    runtime_bytes=300 * MIB,
    collective_bytes=0,
    graph_bytes_per_layer=0,
    batched_tokens=512,
    fragmentation=0.01,
)
OVERHEADS: Mapping[Engine, Overheads] = {
    "vllm": _SERVING,
    "sglang": _SGLANG,
    "trtllm": _TRTLLM,
    "mindie": _SERVING,
    "llamacpp": _LLAMA,
    "embedded": _LLAMA,
}
BREAKS = ("context", "weights", "overheads", "kv_cache")
"""Keys of what can break here, in the order in which it is looked at."""
TRAINING_BYTES = 16
"""Of one parameter in mixed precision with Adam: weights and gradients in BF16, FP32 weights and two moments
(Rajbhandari et al. 2020, ZeRO, section 3.1). Spread over all accelerators by ZeRO-3."""
LORA_BYTES = 2.2
"""The same with LoRA: frozen BF16 weights, and about one per cent of parameters that are trained."""
TRAINING_UTILISATION = 0.9
"""The rest is for activations, kept small by computing them anew."""
HOST_SHARE = 0.10
"""What the system keeps of memory that it shares with the model, at least."""


def memory_use(
    question: Question, layout: Layout, accelerator: Accelerator, *, requests: int | None = None
) -> MemoryUse:
    """Where the memory of the fullest accelerator goes when the layout has `requests` in flight, all replicas
    together (None: what the question wishes, or one for each replica)."""
    model, engine = question.architecture, OVERHEADS[question.engine]
    wished = question.wishes.concurrency or layout.dp
    in_replica = math.ceil((requests or wished) / layout.dp)
    on_rank = math.ceil(in_replica / layout.attention_dp)
    tokens = question.wishes.context_tokens or question.workload.context_tokens

    capacity = accelerator.memory_bytes
    weights = weights_on_rank(model, question.precision, layout)
    activations = _activations(model, layout, engine.batched_tokens)
    runtime = engine.runtime_bytes + (engine.collective_bytes if layout.replica > 1 else 0)
    graphs = 0 if accelerator.kind == "cpu" else engine.graph_bytes_per_layer * _stage_layers(model, layout)
    per_token = cache_on_rank(model, question.kv_precision, layout, BLOCK_TOKENS) / BLOCK_TOKENS
    fragmentation = math.ceil(
        engine.fragmentation * (weights + activations) + on_rank * per_token * BLOCK_TOKENS / 2
    )
    beside = activations + runtime + graphs + fragmentation
    reserve = _reserve(engine, accelerator, weights, beside)
    free = capacity - weights - beside - reserve
    cache = on_rank * cache_on_rank(model, question.kv_precision, layout, tokens)
    one = cache_on_rank(model, question.kv_precision, layout, tokens)
    use = MemoryUse(
        capacity_bytes=capacity,
        weights_bytes=weights,
        kv_cache_bytes=cache,
        activations_bytes=activations,
        runtime_bytes=runtime,
        graphs_bytes=graphs,
        fragmentation_bytes=fragmentation,
        reserve_bytes=reserve,
        free_bytes=free,
        tokens_fit=_tokens_fit(model, question.kv_precision, layout, free),
        requests_fit=max(0, free // one) * layout.attention_dp if one else 0,
    )
    return msgspec.structs.replace(use, first_break=_first_break(use, model, tokens, on_rank))


def _reserve(engine: Overheads, accelerator: Accelerator, weights: int, beside: int) -> int:
    """Bytes that an engine leaves alone beside its weights and what else it takes."""
    capacity, kept = accelerator.memory_bytes, 1 - engine.utilisation
    if accelerator.shares_host_memory:
        return math.ceil(capacity * max(kept, HOST_SHARE))
    if engine.share_of == "what else leaves free":
        return math.ceil(kept * max(0, capacity - weights - beside))
    if engine.share_of == "memory for weights and cache":
        return max(0, math.ceil(capacity * kept) - beside)
    return math.ceil(capacity * kept)


def weights_bytes(model: ModelArchitecture, precision: Precision) -> tuple[int, bool]:
    """Bytes of the whole model's weights, and whether that is a published checkpoint's measured size."""
    measured = model.checkpoints.get(precision)
    if measured is not None:
        return measured, True
    embedding = 0.0 if precision in GGUF else _embedding_params(model)
    bits = (model.params_total - embedding) * BITS[precision] + embedding * BITS["bf16"]
    return math.ceil(bits / 8), False


def training_accelerators(model: ModelArchitecture, accelerator: Accelerator, *, lora: bool = False) -> int:
    """How many of them fine-tune the model, all its weights or with LoRA: a power of two within a server,
    whole servers beyond. The 16 A100-80 that a 65B model is said to take come out of this."""
    bytes_each = LORA_BYTES if lora else TRAINING_BYTES
    least = math.ceil(model.params_total * bytes_each / (TRAINING_UTILISATION * accelerator.memory_bytes))
    if least <= accelerator.per_node:
        return min(1 << (least - 1).bit_length(), accelerator.per_node)
    return math.ceil(least / accelerator.per_node) * accelerator.per_node


def weights_on_rank(model: ModelArchitecture, precision: Precision, layout: Layout) -> int:
    """Bytes of weights on the fullest rank: experts divided among all ranks of a stage; attention, shared and
    dense parts and embeddings among the ranks that share one request, and so repeated by attention-DP."""
    total, _ = weights_bytes(model, precision)
    scale = total / model.params_total
    embedding = min(_embedding_params(model), model.params_total)
    experts = min(model.expert_params, model.params_total - embedding)
    rest = model.params_total - embedding - experts
    stage = _stage_layers(model, layout) / model.layers
    uneven = 1.0
    if model.is_mixture and layout.ep > 1:
        uneven = math.ceil(model.experts_routed / layout.ep) * layout.ep / model.experts_routed
    held = stage * (experts * uneven / layout.tp + rest / layout.attention_tp)
    return math.ceil(scale * (held + embedding / layout.attention_tp))


def cache_bytes(model: ModelArchitecture, precision: KvPrecision, tokens: int) -> int:
    """KV cache of one request of `tokens` tokens, one copy, all layers."""
    return cache_on_rank(model, precision, Layout(), tokens)


def cache_on_rank(model: ModelArchitecture, precision: KvPrecision, layout: Layout, tokens: int) -> int:
    """KV cache of one request on a rank that serves it. MLA and V4 keep one latent, which every rank of a
    tensor-parallel group holds whole; GQA divides its KV heads among at most as many ranks."""
    width = 2 if precision == "bf16" else 1
    if model.attention == "v4":
        whole = float(_v4_cache(model, width, tokens))
    elif model.attention == "gqa":
        ranks = min(layout.attention_tp, model.kv_heads)
        heads = math.ceil(model.kv_heads / ranks)
        window = model.window_layers * min(tokens, model.window_tokens)
        whole = 2.0 * heads * model.head_dim * width * (model.growing_layers * tokens + window)
        whole += model.state_bytes_per_request / layout.attention_tp
    else:
        whole = float(model.layers * tokens * _latent_bytes(model, width))
    return math.ceil(whole * _stage_layers(model, layout) / model.layers)


def _latent_bytes(model: ModelArchitecture, width: int) -> int:
    plain = (model.kv_lora_rank + model.rope_dim) * width
    if model.attention == "mla":
        return plain
    index = model.indexer_dim + INDEX_SCALE_BYTES
    return (LATENT_FP8_BYTES if width == 1 else plain) + index


def _v4_cache(model: ModelArchitecture, width: int, tokens: int) -> int:
    window = min(tokens, model.window_tokens) * model.head_dim * width
    total = 0
    for ratio_text, layers in model.compression_layers.items():
        ratio = int(ratio_text)
        layer = window
        if ratio:
            layer += tokens // ratio * model.head_dim * width
        if ratio == V4_INDEXED_RATIO:
            layer += tokens // V4_INDEXED_RATIO * V4_INDEX_BYTES
        total += layers * layer
    return total


def _stage_layers(model: ModelArchitecture, layout: Layout) -> int:
    return math.ceil(model.layers / layout.pp)


def _embedding_params(model: ModelArchitecture) -> float:
    """Input and output embedding."""
    return 2.0 * model.vocabulary * model.hidden


def _activations(model: ModelArchitecture, layout: Layout, tokens: int) -> int:
    """The widest moment of a forward step in BF16: the residual stream and its copies, queries with keys, the
    gate and up projections (of the experts a token passes through, or of a dense layer), and FP32 logits."""
    queries = model.heads * (model.head_dim + model.nope_dim + model.rope_dim) / layout.attention_tp
    mixture = (model.experts_active + model.experts_shared) * (2 * model.moe_intermediate + model.hidden)
    dense = 2 * model.dense_intermediate
    wide = max(mixture, dense) / layout.tp
    logits = SEQUENCES_SAMPLED * model.vocabulary * 4 / layout.attention_tp
    return math.ceil(tokens * 2 * (4 * model.hidden + max(queries, wide)) + logits)


def _tokens_fit(model: ModelArchitecture, precision: KvPrecision, layout: Layout, free_bytes: int) -> int:
    """Longest context of one request, up to the model's own; by halving, for V4 is no straight line."""
    low, high = 0, model.context_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if cache_on_rank(model, precision, layout, middle) <= free_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _first_break(use: MemoryUse, model: ModelArchitecture, tokens: int, requests: int) -> Break | None:
    usable = use.capacity_bytes - use.reserve_bytes
    if tokens > model.context_tokens:
        return Break(
            key="context",
            numbers={"context_tokens": tokens, "most_tokens": model.context_tokens},
            text=f"a context of {tokens} tokens is asked, {model.id} was made for {model.context_tokens}",
        )
    if use.weights_bytes > usable:
        return _short("weights", "the weights need", use.weights_bytes, usable)
    if use.free_bytes < 0:
        needs = usable - use.free_bytes
        return _short("overheads", "weights, activations and the engine need", needs, usable)
    if use.kv_cache_bytes > use.free_bytes:
        what = f"KV cache of {requests} request{'s' * (requests != 1)} × {_thousands(tokens)} needs"
        found = _short("kv_cache", what, use.kv_cache_bytes, use.free_bytes, end="free")
        numbers = {**found.numbers, "requests": requests, "context_tokens": tokens}
        return msgspec.structs.replace(found, numbers=numbers)
    return None


def _short(key: str, what: str, needed_bytes: int, there_bytes: int, *, end: str = "usable") -> Break:
    return Break(
        key=key,
        numbers={"needed_bytes": needed_bytes, "there_bytes": there_bytes},
        text=f"{what} {_gib(needed_bytes)} on each accelerator, {_gib(there_bytes)} are {end}",
    )


def _gib(amount_bytes: int) -> str:
    return f"{amount_bytes / GIB:.3g} GiB" if amount_bytes < 100 * GIB else f"{amount_bytes / GIB:.0f} GiB"


def _thousands(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens} tokens"
