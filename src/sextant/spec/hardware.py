"""What the planner knows of an accelerator, and of the host that it stands in.

Filled from `data/accelerators.toml` (`facts.py`), read by `planner/`. Rates are dense: web pages often show
twice as much, for sparse matrices. All in SI units: bytes, bytes/s, operations/s, watts, US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

AcceleratorClass = Literal["hopper", "blackwell", "ampere", "ada", "cdna", "ascend", "gaudi", "jetson", "cpu"]
"""What shares efficiency factors."""


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Operations per second by number format; 0 where the device has no such unit."""

    bf16: float = 0.0
    fp8: float = 0.0
    fp4: float = 0.0
    int8: float = 0.0


class HourPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per hour for one accelerator in a cloud; None: not known."""

    on_demand: float | None = None
    spot: float | None = None
    reserved: float | None = None


class Accelerator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One accelerator as the software sees it (one logical device)."""

    id: str
    aliases: tuple[str, ...] = ()
    vendor: str
    title: str
    kind: AcceleratorClass
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops_per_s: Rates
    watts: float
    """Board power at full load."""
    usd_per_h: HourPrices = HourPrices()
    price_usd: float | None = None
    """Price of one card; None: not known."""
    per_node: int
    """How many stand in one usual server."""
    link_bytes_per_s: float
    """One direction, one card to the others of its `link_domain` (NVLink, Infinity Fabric, HCCS, PCIe)."""
    link_domain: int = 0
    """How many cards that link joins; 0: those of one node."""
    network_bytes_per_s: float
    """One direction, one card's share of the network between nodes."""
    shares_host_memory: bool = False
    """Whether its memory is the host's too: the system needs a part of it."""
    sources: Mapping[str, str] = {}
    """Field to the id of its source; `*` for fields without an entry of their own."""

    @property
    def domain(self) -> int:
        """How many cards the fast link joins."""
        return self.link_domain or self.per_node


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The servers that the user has or wants, each; None: not said, and so not checked."""

    accelerators: int | None = None
    cpu_sockets: int | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None
    storage_bytes_per_s: float | None = None
    network_bytes_per_s: float | None = None
