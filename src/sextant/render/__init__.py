"""From an order to a bundle: one module per deployment mode. Second half of flow 2 (deploy). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sextant.base.errors import Unsupported
from sextant.render import container, edge, hybrid, on_prem, private_cloud, saas
from sextant.render.wishes import check_wishes
from sextant.spec.bundle import Bundle
from sextant.spec.rendering import Order

MODES: Mapping[str, Callable[[Order], Bundle]] = {
    "on-prem": on_prem.bundle,
    "private-cloud": private_cloud.bundle,
    "hybrid": hybrid.bundle,
    "edge": edge.bundle,
    "container": container.bundle,
    "saas": saas.bundle,
}


def render(order: Order) -> Bundle:
    """The bundle of the order's mode. The same order gives the same bytes.

    Raises Unsupported, with the reason, for what the mode cannot do."""
    made = MODES.get(order.mode)
    if made is None:
        raise Unsupported(f"spec.mode is `{order.mode}`; expected one of {', '.join(MODES)}")
    check_wishes(order)
    return made(order)
