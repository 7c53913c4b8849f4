"""What the README says of cold starts: predicted part by part, without and with the node's caches."""

from __future__ import annotations

from sextant.render.kubernetes.cluster import Cluster, distinct
from sextant.spec.planning import Estimate


def start_notes(cluster: Cluster) -> tuple[str, ...]:
    """One sentence for each model that was planned, and what it rests on."""
    found = []
    for workload in distinct(cluster.workloads):
        start = workload.served.start
        if start is None:
            continue
        parts = ", ".join(
            f"{part.name} {part.bare.value:.0f} / {part.cached.value:.0f}" for part in start.parts
        )
        found.append(
            f"Cold start of {workload.served.entry.name}, predicted from pod to first answer: "
            f"{_banded(start.bare)} on a node that has nothing, {_banded(start.cached)} with image, weights "
            f"and compiled code on it ({parts} s). `sextant plan --explain` says where each comes from."
        )
    return tuple(found)


def _banded(estimate: Estimate) -> str:
    return f"{estimate.value:.0f} s ({estimate.low:.0f} to {estimate.high:.0f})"
