"""What one step of decoding and one prompt take at the hardware's full rates, before any efficiency factor.

A step of decoding reads the weights that its batch touches and the batch's KV cache; a prompt computes. Both
then talk over the links. The roofline (Williams et al. 2009) takes the slower of reading and computing.
Stands in flow 2 between `spec/` (the nouns) and `calibration.py` (how far engines stay below these rates).
"""

from __future__ import annotations

import msgspec

from sextant.planner.communication import pass_s
from sextant.planner.memory import GGUF, GIB, cache_on_rank, weights_on_rank
from sextant.spec.architecture import KvPrecision, ModelArchitecture, Precision
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Engine, Layout

WEIGHT_BYTES: dict[Precision, float] = {
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5625,
    "int4": 0.5625,
    "q8": 1.0625,
    "q4": 0.6,
    "q2": 0.33,
}
"""Bytes per parameter with block scales: 4 bits and one FP8 scale for 16; GGUF's mean bits per weight / 8."""
OUTSIDE_BYTES: dict[Precision, float] = {"fp4": 1.0, "int4": 1.0, "q2": 1.0625}
"""Of a parameter outside the routed experts, where only those are kept so narrow: FP8 beside FP4 and INT4,
Q8_0 beside two bits (antirez/ds4 pull request 716, 2026-08-06: IQ2_XXS and Q2_K experts; attention, shared
experts and output Q8)."""
KV_BYTES: dict[KvPrecision, float] = {"bf16": 2.0, "fp8": 1.0}
MLA_QUERY_DIM = 192
"""Query width of one MLA head in DeepSeek-V2 and V3: 128 and 64 for the position."""
CACHE_ROOM = 0.9
"""Share of the memory that engines use."""
ENGINE_BYTES = 4 * GIB
"""Activations, graphs and buffers, roughly: `memory.py` says whether a load fits, this how near it comes."""
LEAST_ROOM = 0.03
"""Share of the memory that is taken to be left for the cache at least."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one deployment. `layout` decodes; `prefill` is None unless prompts run elsewhere."""

    architecture: ModelArchitecture
    precision: Precision
    kv_precision: KvPrecision = "fp8"
    engine: Engine
    accelerator: Accelerator
    layout: Layout
    prefill: Layout | None = None
    concurrency: float
    """Requests in flight, in all replicas together."""
    input_tokens: float
    output_tokens: float
    prefix_hit_share: float = 0.0
    engine_age_months: float = 0.0
    """How much older the engine is than the newest that was measured."""

    @property
    def batch(self) -> float:
        """Requests in one step of a decoding replica; pipeline stages work on different ones."""
        return max(1.0, self.concurrency / self.layout.dp / self.layout.pp)

    @property
    def prefilling(self) -> Layout:
        """Where prompts run."""
        return self.prefill or self.layout


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one step of decoding at full rates, by what takes them."""

    weights_s: float
    cache_s: float
    compute_s: float
    links_s: float


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one prompt, alone, at full rates, by what takes them."""

    compute_s: float
    weights_s: float
    links_s: float


def decode_step(point: Point) -> Step:
    """One token for each request of a replica's batch, half the answer already written."""
    model, layout, accelerator = point.architecture, point.layout, point.accelerator
    requests = max(1.0, point.batch / layout.attention_dp)
    tokens = point.input_tokens + point.output_tokens / 2
    read = requests * cache_read_bytes(model, tokens, KV_BYTES[point.kv_precision]) / _cache_ranks(point)
    flops = 2.0 * model.params_active * point.batch / layout.tp
    return Step(
        weights_s=touched_weights_bytes(point, layout, point.batch) / accelerator.bandwidth_bytes_per_s,
        cache_s=read / accelerator.bandwidth_bytes_per_s,
        compute_s=flops / rate_flops_per_s(accelerator, point.precision),
        links_s=_links_s(point, layout, point.batch),
    )


def prompt(point: Point) -> Prompt:
    """The part of one prompt that the prefix cache does not hold."""
    model, layout, accelerator = point.architecture, point.prefilling, point.accelerator
    tokens = max(1.0, point.input_tokens * (1 - point.prefix_hit_share))
    rate = rate_flops_per_s(accelerator, point.precision)
    compute_s = 2.0 * model.params_active * tokens / (layout.tp * rate)
    return Prompt(
        compute_s=compute_s + prompt_attention_s(point),
        weights_s=touched_weights_bytes(point, layout, tokens) / accelerator.bandwidth_bytes_per_s,
        links_s=_links_s(point, layout, tokens),
    )


def prompt_attention_s(point: Point) -> float:
    """The part of a prompt's seconds in which its queries meet keys and values."""
    model, tokens = point.architecture, max(1.0, point.input_tokens * (1 - point.prefix_hit_share))
    seen = point.input_tokens * tokens
    if model.indexer_top_tokens:
        seen = min(seen, model.indexer_top_tokens * tokens) + 0.1 * seen
    width = MLA_QUERY_DIM if model.attention in ("mla", "sparse-mla") else model.head_dim
    attention_flops = 2.0 * model.growing_layers * model.heads * width * seen
    return attention_flops / (point.prefilling.tp * rate_flops_per_s(point.accelerator, "bf16"))


def cache_filled(point: Point) -> float:
    """The load's KV cache over what is left for it on the fullest rank; above 1 requests wait for room."""
    model, layout, accelerator = point.architecture, point.layout, point.accelerator
    taken = weights_on_rank(model, point.precision, layout) + ENGINE_BYTES
    most = accelerator.memory_bytes
    room = max(CACHE_ROOM * most - taken, LEAST_ROOM * most)
    requests = max(1.0, point.concurrency / layout.dp / layout.attention_dp)
    tokens = round(point.input_tokens + point.output_tokens)
    return requests * cache_on_rank(model, point.kv_precision, layout, tokens) / room


def rate_flops_per_s(accelerator: Accelerator, precision: Precision) -> float:
    """Operations per second with weights so kept; formats without a unit are computed as the next wider."""
    rates = accelerator.flops_per_s
    if precision == "fp4":
        return rates.fp4 or rates.fp8 or rates.bf16 or rates.int8
    if precision == "fp8":
        return rates.fp8 or rates.bf16 or rates.int8
    if precision == "int8":
        return rates.int8 or rates.bf16 or rates.fp8
    if precision in GGUF and accelerator.kind == "cpu":
        return max(rates.bf16, rates.int8)  # llama.cpp's dot products on processors are of 8-bit integers
    return rates.bf16 or rates.int8 or rates.fp8


def experts_touched(model: ModelArchitecture, tokens: float) -> float:
    """How many routed experts of a layer `tokens` reach, where routing is even:
    `E (1 - (1 - k/E)^tokens)`."""
    if not model.is_mixture:
        return 0.0
    missed: float = (1 - model.experts_active / model.experts_routed) ** min(max(tokens, 1.0), 1e6)
    return float(model.experts_routed * (1.0 - missed))


def touched_weights_bytes(point: Point, layout: Layout, tokens: float) -> float:
    """Bytes of weights that the ranks of each stage read, one after the other, for a pass of `tokens`."""
    model = point.architecture
    width = WEIGHT_BYTES[point.precision]
    outside = OUTSIDE_BYTES.get(point.precision, width) if model.is_mixture else width
    expert = 3.0 * model.hidden * model.moe_intermediate
    dense = 3.0 * model.hidden * model.dense_intermediate * model.first_dense_layers
    head = float(model.vocabulary * model.hidden)
    always = model.expert_layers * (model.experts_active + model.experts_shared) * expert
    attention = max(model.params_active - always - dense - head, 2.0 * model.hidden**2 * model.layers)
    shared = model.expert_layers * model.experts_shared * expert
    routed = model.expert_layers * experts_touched(model, tokens) * expert
    head_width = outside if point.precision == "q2" else WEIGHT_BYTES["bf16"]
    apart = (attention * outside + head * head_width + shared * outside) / layout.attention_tp
    return apart + (routed * width + dense * width) / layout.tp


def cache_read_bytes(model: ModelArchitecture, tokens: float, width: float) -> float:
    """Bytes of KV cache that a query of one request reads, all layers, `width` bytes an element."""
    if model.attention == "gqa":
        heads = 2.0 * model.kv_heads * model.head_dim * width
        window = model.window_layers * min(tokens, model.window_tokens)
        return heads * (model.growing_layers * tokens + window) + model.state_bytes_per_request
    if model.attention == "v4":
        blocks = 0.0
        for ratio_text, layers in model.compression_layers.items():
            ratio = int(ratio_text)
            kept = tokens / ratio if ratio else 0.0
            picked = min(kept, model.indexer_top_tokens) if ratio == 4 else kept
            blocks += layers * (min(tokens, model.window_tokens or 128) + picked)
        return blocks * model.head_dim * width
    latent: float = (model.kv_lora_rank + model.rope_dim) * width * model.growing_layers
    if model.indexer_top_tokens:
        keys = tokens * model.indexer_dim * model.growing_layers
        return latent * min(tokens, model.indexer_top_tokens) + keys
    return latent * tokens


def _cache_ranks(point: Point) -> float:
    """Among how many ranks one request's cache is divided; MLA's latent is repeated on each."""
    model, layout = point.architecture, point.layout
    if model.attention != "gqa":
        return 1.0
    return float(min(layout.attention_tp, model.kv_heads))


def _links_s(point: Point, layout: Layout, tokens: float) -> float:
    model = point.architecture
    return pass_s(tokens, model.hidden, model.layers, model.experts_active, (layout, point.accelerator))
