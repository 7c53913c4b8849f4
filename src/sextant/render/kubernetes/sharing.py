"""One accelerator shared among engines: slices by MIG, or equal parts by MPS or time-slicing. NVIDIA's alone.

Decided from the plan's memory: a share holds the weights, the KV cache and the rest that the planner counted.
"""

from __future__ import annotations

import math

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.dumping import yaml_text
from sextant.render.kubernetes.objects import GIB, Object
from sextant.spec.rendering import Device, ServedModel

SHARES_MOST = 16
"""Clients of one accelerator: MPS takes 48 at most, and with more than this each has too little to serve."""
KEPT_FREE = 0.05
"""Of a share without walls, for what is not counted."""
OPERATOR_NAMESPACE = "gpu-operator"
CONFIG_MAP = "sextant-device-plugin"

_MIG_PROFILES: dict[str, tuple[tuple[int, str], ...]] = {
    "a100-80": ((10, "1g.10gb"), (20, "2g.20gb"), (40, "3g.40gb"), (80, "7g.80gb")),
    "h100-sxm": ((10, "1g.10gb"), (20, "1g.20gb"), (40, "3g.40gb"), (80, "7g.80gb")),
    "h200": ((18, "1g.18gb"), (35, "1g.35gb"), (71, "3g.71gb"), (141, "7g.141gb")),
    "b200": ((23, "1g.23gb"), (45, "1g.45gb"), (90, "3g.90gb"), (180, "7g.180gb")),
}
"""GB and name of each slice, from NVIDIA's MIG user guide, Supported MIG Profiles, November 2026."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one accelerator that one replica gets."""

    way: str
    """mig, mps or time-slicing."""
    resource: str
    parts: int = 1
    """Equal parts of one accelerator; 1 for MIG, whose slices are cut by profile."""
    profile: str = ""
    """MIG profile."""
    memory_share: float | None = None
    """Of the accelerator's memory, which the engine must keep to by itself; None: it sees its slice only."""


def share_of(served: ServedModel, device: Device | None, way: str) -> Share | None:
    """The part of an accelerator that a replica of the model needs; None: whole ones.

    Raises Unsupported where the document asks for sharing and the plan or the vendor cannot."""
    if way == "none" or device is None or served.option is None:
        return None
    option = served.option
    said = f"`{served.entry.name}` on {option.accelerator.title}: spec.delivery.gpu_sharing is `{way}`"
    if served.vendor != "nvidia":
        raise Unsupported(f"{said}, which NVIDIA's accelerators alone can; leave it out")
    if option.layout.replica > 1:
        raise Unsupported(
            f"{said}, but one replica spans {option.layout.replica} accelerators; sharing is "
            f"for models that fit a part of one"
        )
    use = option.memory
    needed = use.capacity_bytes - use.free_bytes + use.kv_cache_bytes
    if way == "mig":
        profile = _mig_profile(option.accelerator.id, needed, said)
        return Share(way=way, resource=f"nvidia.com/mig-{profile}", profile=profile)
    parts = min(SHARES_MOST, math.floor(use.capacity_bytes * (1 - KEPT_FREE) / needed)) if needed else 1
    if parts < 2:
        raise Unsupported(
            f"{said}, but a replica needs {needed / GIB:.0f} GiB, more than half of it; leave it out"
        )
    return Share(
        way=way,
        resource="nvidia.com/gpu.shared",
        parts=parts,
        memory_share=math.floor((1 - KEPT_FREE) / parts * 100) / 100,
    )


def device_plugin_config(shares: tuple[Share, ...], instance: str) -> Object | None:
    """Configuration of NVIDIA's device plugin for those shares, for the GPU operator to read; None: it needs
    none. Raises Unsupported where two engines want different parts."""
    cut = {(each.way, each.parts) for each in shares if each.way != "mig"}
    if not shares:
        return None
    if len(cut) > 1:
        raise Unsupported(
            f"engines want accelerators cut into {sorted(parts for _, parts in cut)} parts, and a node has "
            f"one way to cut; serve them in deployments of their own"
        )
    settings: Object = {"version": "v1", "flags": {"migStrategy": "mixed" if not cut else "none"}}
    for way, parts in cut:
        key = "mps" if way == "mps" else "timeSlicing"
        shared = {"resources": [{"name": "nvidia.com/gpu", "replicas": parts}]}
        own = {"failRequestsGreaterThanOne": True} if key == "timeSlicing" else {}
        settings["sharing"] = {key: {"renameByDefault": True, **own, **shared}}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": CONFIG_MAP,
            "namespace": OPERATOR_NAMESPACE,
            "labels": {"app.kubernetes.io/instance": instance, "app.kubernetes.io/part-of": "sextant"},
        },
        "data": {"sextant": yaml_text(settings)},
    }


def _mig_profile(accelerator: str, needed_bytes: float, said: str) -> str:
    profiles = _MIG_PROFILES.get(accelerator, ())
    if not profiles:
        raise Unsupported(f"{said}, but no slices of it are known; known: {', '.join(_MIG_PROFILES)}")
    for gigabytes, profile in profiles:
        if gigabytes * 1e9 * 0.95 >= needed_bytes:
            return profile
    raise Unsupported(
        f"{said}, but a replica needs {needed_bytes / GIB:.0f} GiB, more than the largest slice"
    )
