"""A prediction that needs no calibration, for tests of sizing and ranking: plain bandwidth over bytes."""

from __future__ import annotations

from sextant.planner.memory import cache_on_rank, weights_on_rank
from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Cost, Estimate, Layout, MemoryUse, Question, Speed


def fake_predict(question: Question, layout: Layout, accelerator: Accelerator, memory: MemoryUse) -> Speed:
    """Decode reads the active weights once a step, prefill computes at half the peak."""
    model, work = question.architecture, question.workload
    decode = layout.decode or layout
    active = model.params_active / model.params_total
    weights = weights_on_rank(model, question.precision, decode) * active * decode.pp
    cache = cache_on_rank(model, question.kv_precision, decode, work.context_tokens) * decode.pp
    tpot_ms = 1e3 * (weights + cache) / accelerator.bandwidth_bytes_per_s
    flops = accelerator.flops_per_s.bf16 / 2 * decode.replica
    ttft_ms = 1e3 * 2 * model.params_active * work.input_tokens / flops
    one_ms = ttft_ms + work.output_tokens * tpot_ms
    targets = question.targets
    inside = all(
        wanted is None or got <= wanted
        for wanted, got in (
            (targets.ttft_ms_p99, ttft_ms),
            (targets.tpot_ms_p99, tpot_ms),
            (targets.end_to_end_ms, one_ms),
        )
    )
    most = memory.requests_fit * decode.dp * 1e3 / one_ms if inside else 0.0
    return Speed(
        concurrency=decode.dp,
        ttft_ms=estimate(ttft_ms, "ms"),
        tpot_ms=estimate(tpot_ms, "ms"),
        ttft_ms_p99=estimate(ttft_ms, "ms"),
        tpot_ms_p99=estimate(tpot_ms, "ms"),
        output_tokens_per_s=estimate(most * work.output_tokens, "tokens/s"),
        requests_per_s_max=estimate(most, "requests/s"),
    )


def fake_cost(question: Question, accelerator: Accelerator, layout: Layout, speed: Speed) -> Cost:
    """The hour's price on demand, where the catalogue has one."""
    del question, speed
    each = accelerator.usd_per_h.on_demand
    if each is None:
        return Cost(missing=(f"{accelerator.id} has no price per hour",))
    return Cost(usd_per_h=estimate(each * layout.count, "USD/h"))


def estimate(value: float, unit: str) -> Estimate:
    """A number that is sure of itself."""
    return Estimate(value=value, low=value, high=value, unit=unit, basis="derived", sources=("fake",))
