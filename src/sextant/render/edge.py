"""The mode `edge`: not rendered by this version."""

from __future__ import annotations

from sextant.base.errors import Unsupported
from sextant.spec.bundle import Bundle
from sextant.spec.rendering import Order


def bundle(order: Order) -> Bundle:
    """Raises Unsupported: this mode's bundle is not in this version."""
    raise Unsupported(f"{order.name}: bundles of the mode `edge` are not in this version")
