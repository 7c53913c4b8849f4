"""What the planner knows of a model: the sizes that decide memory and speed, none of the weights.

Filled from `data/architectures.toml` (`facts.py`), read by `planner/`. Counts are of the whole model, before
any parallelism. `sources` says for each field where its value comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

Attention = Literal["mla", "gqa", "sparse-mla", "v4"]
"""How a layer keeps what it has read: one compressed latent (MLA), keys and values of each KV head (GQA; one
head for each query head is plain multi-head attention), MLA with an indexer that picks the tokens
(DeepSeek-V3.2), or compressed blocks beside a window (DeepSeek-V4)."""

Precision = Literal["bf16", "fp8", "int8", "fp4", "int4", "q8", "q4", "q2"]
"""How weights are kept. `int4` is AWQ or GPTQ, `fp4` NVFP4 or MXFP4, `q…` GGUF's Q8_0, Q4_K_M, Q2_K."""

KvPrecision = Literal["bf16", "fp8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class PrecisionFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a way to keep weights is expected to cost in accuracy, and where that was measured."""

    id: Precision
    title: str
    accuracy: str
    source: str


class ModelArchitecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model. 0 where the model has no such thing."""

    id: str
    aliases: tuple[str, ...] = ()
    family: str
    layers: int
    hidden: int
    vocabulary: int
    context_tokens: int
    """The longest context it was made for."""
    attention: Attention
    heads: int
    kv_heads: int
    """GQA: heads of keys and values. MLA and V4 keep one."""
    head_dim: int
    """GQA: of keys and values. MLA: of a value; a query has `nope_dim + rope_dim`. V4: of its one KV head."""
    nope_dim: int = 0
    rope_dim: int = 0
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    indexer_heads: int = 0
    indexer_dim: int = 0
    indexer_top_tokens: int = 0
    """How many tokens a query attends to, where an indexer picks them."""
    kv_layers: int = 0
    """Layers whose cache grows with the context; 0: all of them."""
    window_layers: int = 0
    """Layers that keep only the last `window_tokens`; they are not counted in `kv_layers`."""
    window_tokens: int = 0
    state_bytes_per_request: int = 0
    """What layers with a fixed state (linear attention) keep for one request."""
    compression_layers: Mapping[str, int] = {}
    """V4: compression ratio to number of layers; ratio 0 keeps the window alone."""
    experts_routed: int = 0
    experts_shared: int = 0
    experts_active: int = 0
    """Routed experts that a token passes through in one layer; shared ones come on top."""
    moe_intermediate: int = 0
    dense_intermediate: int = 0
    first_dense_layers: int = 0
    """Layers without experts, before those with; all `layers` in a dense model."""
    params_total: float
    params_active: float
    """Parameters that one token passes through."""
    native_precision: Precision = "bf16"
    """What its makers publish."""
    checkpoints: Mapping[Precision, int] = {}
    """Measured bytes of a published checkpoint."""
    sources: Mapping[str, str] = {}
    """Field to the id of its source; `*` for fields without an entry of their own."""

    @property
    def is_mixture(self) -> bool:
        """Whether it has routed experts."""
        return self.experts_routed > 0

    @property
    def usual_kv_precision(self) -> KvPrecision:
        """Of the KV cache unless another is asked for: V4 runs with FP8 alone (KAITO proposal 20260722)."""
        return "fp8" if self.attention == "v4" else "bf16"

    @property
    def growing_layers(self) -> int:
        """Layers whose cache grows with the context."""
        return self.kv_layers or self.layers - self.window_layers

    @property
    def expert_layers(self) -> int:
        """Layers with routed experts."""
        return self.layers - self.first_dense_layers if self.is_mixture else 0

    @property
    def expert_params(self) -> float:
        """Parameters of all routed experts together: three matrices for each expert of each layer."""
        return 3.0 * self.hidden * self.moe_intermediate * self.experts_routed * self.expert_layers
