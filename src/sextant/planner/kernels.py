"""What kernels cost beyond the usual where no measured point shows them (`spec/data/kernels.toml`).

The correction of `calibration.py` is learnt from points; an engine of early 2025 with AWQ experts, or sparse
attention under vLLM, has none, so its extra time is added to what was predicted. Stands between
`phases.py` (bytes and operations) and `roofline.py` (which adds it).
"""

from __future__ import annotations

import msgspec

from sextant.planner.calibration import COMPUTE_SHARE, WEIGHTS_SHARE
from sextant.planner.phases import WEIGHT_BYTES, Point, experts_touched, prompt_attention_s, rate_flops_per_s
from sextant.spec.hardware import Accelerator
from sextant.spec.kernels import AttentionKernel, ExpertsKernel, Kernels
from sextant.spec.planning import Layout


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds more of one step of decoding, and of one prompt that is read alone."""

    step_s: float = 0.0
    prompt_s: float = 0.0
    sources: tuple[str, ...] = ()


def extra(point: Point, kernels: Kernels) -> Extra:
    """What `point` takes beyond the usual; nothing where it has no such kernel."""
    step_s = prompt_s = 0.0
    sources = []
    slow = _experts_kernel(point, kernels)
    if slow is not None:
        step_s += _experts_s(slow, point, point.layout, point.batch)
        prompt_s += _experts_s(slow, point, point.prefilling, _fresh_tokens(point))
        sources.append(slow.source)
    for kernel in kernels.attention.values():
        if kernel.engine == point.engine and kernel.attention == point.architecture.attention:
            step_s += _padded_step_s(kernel, point)
            prompt_s += _latent_prompt_s(kernel, point)
            sources.append(kernel.source)
    return Extra(step_s=step_s, prompt_s=prompt_s, sources=tuple(sources))


def _experts_kernel(point: Point, kernels: Kernels) -> ExpertsKernel | None:
    """The kernel for its experts that an engine of that age has: the oldest that it is old enough for."""
    if not point.architecture.is_mixture:
        return None
    had = [
        kernel
        for kernel in kernels.experts.values()
        if kernel.engine == point.engine
        and kernel.precision == point.precision
        and kernel.least_age_months <= point.engine_age_months
    ]
    return max(had, key=lambda kernel: kernel.least_age_months, default=None)


def _experts_s(kernel: ExpertsKernel, point: Point, layout: Layout, tokens: float) -> float:
    """Seconds more of a pass of `tokens` through all layers with experts."""
    model = point.architecture
    expert_bytes = 3.0 * model.hidden * model.moe_intermediate * WEIGHT_BYTES[point.precision]
    read_bytes = experts_touched(model, tokens) * expert_bytes / layout.tp
    slower = 1 / kernel.bandwidth_share - 1 / WEIGHTS_SHARE
    layer_s = kernel.layer_overhead_s + slower * read_bytes / point.accelerator.bandwidth_bytes_per_s
    return model.expert_layers * layer_s


def _padded_step_s(kernel: AttentionKernel, point: Point) -> float:
    """Heads that are filled up read nothing more, but are computed for each request of the rank."""
    requests = max(1.0, point.batch / point.layout.attention_dp)
    heads = point.architecture.heads / point.layout.attention_tp
    added = max(0.0, kernel.heads_least - heads)
    operations = requests * added * _head_operations(point)
    return operations / (kernel.decode_share * _rate(point.accelerator))


def _latent_prompt_s(kernel: AttentionKernel, point: Point) -> float:
    """Each token of a prompt meets the latent of as many others as the indexer picks, with all heads."""
    heads = max(float(kernel.heads_least), point.architecture.heads / point.prefilling.attention_tp)
    operations = _fresh_tokens(point) * heads * _head_operations(point)
    usual_s = prompt_attention_s(point) / COMPUTE_SHARE
    return max(0.0, operations / (kernel.prompt_share * _rate(point.accelerator)) - usual_s)


def _head_operations(point: Point) -> float:
    """Of one query and one head in all layers: with the latent and its position for the scores, with the
    latent for the values."""
    model = point.architecture
    keys = min(point.input_tokens + point.output_tokens / 2, float(model.indexer_top_tokens))
    return 2.0 * (2 * model.kv_lora_rank + model.rope_dim) * keys * model.growing_layers


def _fresh_tokens(point: Point) -> float:
    return max(1.0, point.input_tokens * (1 - point.prefix_hit_share))


def _rate(accelerator: Accelerator) -> float:
    return rate_flops_per_s(accelerator, "bf16")
