"""What the servers around the accelerators must have, and what of the user's falls short.

Pure rules with the numbers in each sentence; `options.py` puts them beside every option.
"""

from __future__ import annotations

import math

from sextant.planner.memory import GIB, weights_bytes
from sextant.spec.hardware import Accelerator, Host
from sextant.spec.planning import Layout, Question

ACCELERATORS_PER_SOCKET = 4
"""One CPU socket for four accelerators: the product's rule, 1:4."""
HOST_GIB_PER_ACCELERATOR = 16
"""For the engine's processes and pinned buffers; an estimate."""
RELEASES_ON_DISK = 2
"""The checkpoint that serves and the next one, at once."""
LOAD_MINUTES = 30
"""A start that reads weights for longer is warned of: the same bound as KAITO's startup probe."""


def host_needed(question: Question, layout: Layout, accelerator: Accelerator) -> Host:
    """What each server needs for this layout. Bytes and bytes/s."""
    on_node = min(accelerator.per_node, layout.count)
    if accelerator.shares_host_memory:
        return Host(accelerators=on_node, storage_bytes=_storage_bytes(question))
    total, _ = weights_bytes(question.architecture, question.precision)
    held = total * min(1.0, accelerator.per_node / _replica(layout))
    spread = _replica(layout) > accelerator.domain or layout.prefill is not None
    return Host(
        accelerators=on_node,
        cpu_sockets=math.ceil(on_node / ACCELERATORS_PER_SOCKET),
        memory_bytes=math.ceil(held) + on_node * HOST_GIB_PER_ACCELERATOR * GIB,
        storage_bytes=_storage_bytes(question),
        network_bytes_per_s=accelerator.network_bytes_per_s * on_node if spread else None,
    )


def host_warnings(question: Question, needed: Host) -> tuple[str, ...]:
    """What of the user's servers falls short of what is needed; what was not said is not checked."""
    has, found = question.host, []
    if has.cpu_sockets is not None and has.cpu_sockets < (needed.cpu_sockets or 0):
        found.append(
            f"{has.cpu_sockets} CPU sockets for {needed.accelerators} accelerators; the rule 1:4 asks for "
            f"{needed.cpu_sockets}"
        )
    for name, has_bytes, needed_bytes in (
        ("host memory", has.memory_bytes, needed.memory_bytes),
        ("storage", has.storage_bytes, needed.storage_bytes),
    ):
        if has_bytes is not None and needed_bytes is not None and has_bytes < needed_bytes:
            found.append(
                f"{name}: {has_bytes / GIB:.0f} GiB in each server, {needed_bytes / GIB:.0f} GiB are needed"
            )
    if has.storage_bytes_per_s:
        minutes = weights_bytes(question.architecture, question.precision)[0] / has.storage_bytes_per_s / 60
        if minutes > LOAD_MINUTES:
            found.append(f"storage: reading the weights takes {minutes:.0f} minutes at each start")
    if has.network_bytes_per_s is not None and needed.network_bytes_per_s is not None:
        there, wanted = has.network_bytes_per_s, needed.network_bytes_per_s
        if there < wanted:
            found.append(
                f"network: {there * 8 / 1e9:.0f} Gbit/s for each server, this layout crosses servers and is "
                f"predicted with {wanted * 8 / 1e9:.0f} Gbit/s"
            )
    return tuple(found)


def _storage_bytes(question: Question) -> int:
    return RELEASES_ON_DISK * weights_bytes(question.architecture, question.precision)[0]


def _replica(layout: Layout) -> int:
    return max(one.replica for one in (layout.prefill, layout.decode, layout) if one is not None)
