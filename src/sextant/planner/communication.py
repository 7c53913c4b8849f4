"""Time that accelerators of one replica spend talking to each other, for one pass over the model.

Textbook costs: a ring all-reduce moves `2 (n - 1) / n` of its bytes over each link (Thakur et al. 2005), an
all-to-all `(n - 1) / n`. Latency per message is left to the calibrated overhead per layer. Neighbours:
`phases.py` (what asks), `spec/hardware.py` (the links).
"""

from __future__ import annotations

from sextant.spec.hardware import Accelerator
from sextant.spec.planning import Layout

ACTIVATION_BYTES = 2
"""Activations travel as BF16."""
SYNCS_PER_LAYER = 2
"""After attention and after the feed-forward part."""


def link_bytes_per_s(accelerator: Accelerator, ranks: int) -> float:
    """The slowest link among `ranks` accelerators, one direction, bytes/s."""
    if ranks <= accelerator.domain:
        return accelerator.link_bytes_per_s or accelerator.network_bytes_per_s
    return accelerator.network_bytes_per_s or accelerator.link_bytes_per_s


def all_reduce_s(size_bytes: float, ranks: int, accelerator: Accelerator) -> float:
    """Seconds for one ring all-reduce of `size_bytes` among `ranks`; 0 for one rank."""
    link = link_bytes_per_s(accelerator, ranks)
    if ranks < 2 or not link:
        return 0.0
    return 2 * (ranks - 1) / ranks * size_bytes / link


def all_to_all_s(size_bytes: float, ranks: int, accelerator: Accelerator) -> float:
    """Seconds in which each of `ranks` sends `size_bytes` spread over the others; 0 for one rank."""
    link = link_bytes_per_s(accelerator, ranks)
    if ranks < 2 or not link:
        return 0.0
    return (ranks - 1) / ranks * size_bytes / link


def pass_s(tokens: float, hidden: int, layers: int, active: int, place: tuple[Layout, Accelerator]) -> float:
    """Seconds of communication in one pass of `tokens` (of the whole replica) through all layers.

    Attention is reduced among the ranks that share it; with expert parallelism over data-parallel attention
    each token goes to `active` experts and back, else the feed-forward part is reduced too.
    """
    layout, accelerator = place
    group_bytes = tokens / layout.attention_dp * hidden * ACTIVATION_BYTES
    if layout.attention_dp == 1:
        return layers * SYNCS_PER_LAYER * all_reduce_s(group_bytes, layout.tp, accelerator)
    rank_bytes = tokens / layout.tp * hidden * ACTIVATION_BYTES * max(1, min(active, layout.ep))
    shared = all_reduce_s(group_bytes, layout.attention_tp, accelerator)
    return layers * (shared + 2 * all_to_all_s(rank_bytes, layout.tp, accelerator))
