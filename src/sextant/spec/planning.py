"""The nouns of a plan: what is asked, how a model may be spread, what that takes, and what comes out.

`cli/` or the document makes a `Question`; `planner/` answers with a `Plan`. Units stand in the names.

A layout counts accelerators so: one replica is `tp * pp` of them and `dp` replicas stand side by side, so it
has `tp * pp * dp`. `attention_dp` divides the requests of one replica among groups of `tp / attention_dp`
ranks; `ep` divides the experts of one replica among `ep` ranks (1: each expert is cut across all `tp` ranks).
What vLLM calls "DP8 TP1 EP8" is tp 8, attention_dp 8, ep 8, dp 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from sextant.spec.architecture import KvPrecision, ModelArchitecture, Precision
from sextant.spec.hardware import Accelerator, Host

Engine = Literal["vllm", "sglang", "trtllm", "llamacpp", "mindie", "embedded"]
Basis = Literal["calibrated", "derived", "stated"]
"""Where a number comes from: fitted to measurements of such hardware; from physics and another class's
efficiency; said by the user or a source."""


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What arrives."""

    requests_per_s: float = 1.0
    """Mean."""
    input_tokens: int = 2048
    output_tokens: int = 512
    prefix_hit_share: float = 0.0
    """Share of the input found in the prefix cache, 0 to 1."""
    swing: float = 1.0
    """Peak over mean; 1: steady."""

    @property
    def context_tokens(self) -> int:
        """Tokens of one request when its answer is complete."""
        return self.input_tokens + self.output_tokens

    @property
    def peak_requests_per_s(self) -> float:
        """What must be carried."""
        return self.requests_per_s * self.swing


class Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is promised; None: nothing."""

    ttft_ms_p99: float | None = None
    tpot_ms_p99: float | None = None
    end_to_end_ms: float | None = None


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the user has decided already; None: the planner chooses."""

    count: int | None = None
    """Accelerators in all, exactly."""
    most: int | None = None
    """Accelerators in all, at most."""
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | None = None
    attention_dp: int | None = None
    split: bool | None = None
    """Whether prefill and decode run on separate accelerators."""
    concurrency: int | None = None
    """Requests in flight that must fit, in all; None: what the load needs."""
    context_tokens: int | None = None
    """Tokens of one request that must fit; None: input and output of the workload."""


class StatedCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Costs that only the user knows; None: not said."""

    power_usd_per_kwh: float | None = None
    pue: float | None = None
    space_usd_per_month: float | None = None
    staff_usd_per_month: float | None = None
    usd_per_h: float | None = None
    """For one accelerator, instead of the catalogue's."""
    price_usd: float | None = None
    """Of one accelerator, instead of the catalogue's."""
    most_usd_per_month: float | None = None
    co2_g_per_kwh: float | None = None


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be planned."""

    architecture: ModelArchitecture
    precision: Precision
    kv_precision: KvPrecision = "bf16"
    engine: Engine = "vllm"
    accelerators: tuple[Accelerator, ...]
    """Those to consider."""
    workload: Workload = Workload()
    targets: Targets = Targets()
    wishes: Wishes = Wishes()
    costs: StatedCosts = StatedCosts()
    host: Host = Host()


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a model is spread. With `prefill` and `decode`, those two are the layouts, each with its own `dp`,
    and the numbers of this one say nothing."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    attention_dp: int = 1
    prefill: Layout | None = None
    decode: Layout | None = None
    why: str = ""

    @property
    def replica(self) -> int:
        """Accelerators that hold one copy of the model."""
        return self.tp * self.pp

    @property
    def count(self) -> int:
        """Accelerators in all."""
        if self.prefill is not None and self.decode is not None:
            return self.prefill.count + self.decode.count
        return self.replica * self.dp

    @property
    def attention_tp(self) -> int:
        """Ranks that share one request's attention."""
        return self.tp // self.attention_dp


class Break(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first thing that does not fit: a key for translations, the numbers, and a sentence."""

    key: str
    numbers: Mapping[str, float] = {}
    text: str


class MemoryUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where one accelerator's memory goes (the fullest one of the layout), in bytes."""

    capacity_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    """What the asked requests need at their full length."""
    activations_bytes: int
    runtime_bytes: int
    graphs_bytes: int
    fragmentation_bytes: int
    reserve_bytes: int
    free_bytes: int
    """What is left for the KV cache; negative when the rest does not fit."""
    tokens_fit: int
    """Longest context of one request."""
    requests_fit: int
    """Requests at full length, in one replica."""
    first_break: Break | None = None

    @property
    def fits(self) -> bool:
        """Whether all of it has room."""
        return self.first_break is None


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number with the band that holds it 80 % of the time, and where it comes from."""

    value: float
    low: float
    high: float
    unit: str
    basis: Basis
    formula: str = ""
    sources: tuple[str, ...] = ()


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast a layout is at `concurrency` requests in flight, all replicas together."""

    concurrency: int
    ttft_ms: Estimate
    tpot_ms: Estimate
    ttft_ms_p99: Estimate
    tpot_ms_p99: Estimate
    output_tokens_per_s: Estimate
    requests_per_s_max: Estimate
    """Most that it carries inside the targets; its value is 0 when one request alone misses them."""
    running_most: int | None = None
    """Requests that one replica answers at once, where that was measured; None: as many as fit in memory."""
    warnings: tuple[str, ...] = ()


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an option costs; None where a price is missing, which `missing` names."""

    usd_per_h: Estimate | None = None
    usd_per_mtok: Estimate | None = None
    """Per million output tokens at the load asked for."""
    capital_usd: Estimate | None = None
    kwh_per_mtok: Estimate | None = None
    missing: tuple[str, ...] = ()


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to do it, that meets what was asked."""

    accelerator: Accelerator
    count: int
    layout: Layout
    memory: MemoryUse
    speed: Speed
    cost: Cost | None = None
    no_cost: str = ""
    """Why there is no cost."""
    host: Host = Host()
    """What each server needs."""
    warnings: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What comes close and does not meet it, and what would have to be given up."""

    accelerator: Accelerator
    layout: Layout | None = None
    first_break: Break
    give_up: str
    nearness: float = 0.0
    """Share of the wish that is met; 1 would meet it."""


class PrecisionChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to keep the weights, and what it is expected to cost in accuracy."""

    precision: Precision
    weights_bytes: int
    measured: bool
    """Whether that is a published checkpoint's size."""
    accuracy: str
    source: str


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer. `cheapest`, `fastest` and `most_efficient` are indexes into `options`; None: none."""

    question: Question
    options: tuple[Option, ...]
    cheapest: int | None = None
    fastest: int | None = None
    most_efficient: int | None = None
    refusals: tuple[Refusal, ...] = ()
    precisions: tuple[PrecisionChoice, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


Predict = Callable[[Question, Layout, Accelerator, MemoryUse], Speed]
"""How fast a layout is (planner/roofline.py)."""

CostOf = Callable[[Question, Accelerator, Layout, Speed], Cost]
"""What a layout costs (planner/cost.py)."""
