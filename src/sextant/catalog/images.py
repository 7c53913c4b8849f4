"""Which image runs an engine on a vendor's accelerators, and which images of a bundle are not locked."""

from __future__ import annotations

from collections.abc import Iterable

from sextant.base.errors import Unsupported
from sextant.spec.rendering import Image, Order, ServedModel

WITHOUT_IMAGES = ("on-prem", "edge")
"""Modes whose engines are programs of the server, unless they are composed."""
USUAL_BACKEND = "vllm"
"""Of Triton, where the document names none."""
OWN = "sextant"
"""Name of the product's own image, which the user builds."""


def image_of(order: Order, served: ServedModel) -> Image:
    """The engine's image for that model and backend: the one made for its accelerator, else the vendor's.
    Raises Unsupported where nobody makes one."""
    kind, vendor = served.entry.engine.kind, served.vendor
    told = getattr(served.entry.engine, "backend", None) or ""
    backend = "" if told == USUAL_BACKEND else told
    accelerator = served.option.accelerator.id if served.option is not None else ""
    fitting = [
        image
        for image in order.images.known.values()
        if (image.engine, image.vendor, image.backend) == (kind, vendor, backend)
    ]
    for image in fitting:
        if accelerator and accelerator in image.accelerators:
            return image
    for image in fitting:
        if not image.accelerators:
            return image
    raise Unsupported(
        f"{served.entry.name}: there is no image of {kind} for accelerators of {vendor}"
        + (f" ({accelerator})" if accelerator else "")
    )


def skews(order: Order) -> tuple[str, ...]:
    """A sentence for each engine image of the order whose version is not the one that the engine's arguments
    were written for."""
    if order.mode in WITHOUT_IMAGES and order.deployment.spec.delivery.orchestration != "compose":
        return ()
    found = []
    for served in order.served:
        kind = served.entry.engine.kind
        if kind not in {image.engine for image in order.images.known.values()}:
            continue
        image = image_of(order, served)
        if image.skew:
            written_for = order.facts.engines[kind].version
            found.append(
                f"{served.entry.name}: arguments of {kind} were written for {written_for} and its image "
                f"holds {image.engine_version}: {image.skew}."
            )
    return tuple(dict.fromkeys(found))


def unpinned(order: Order, names: Iterable[str]) -> tuple[str, ...]:
    """Of the images so named those that the user's lock file has no digest for, as `repository:tag`."""
    known = order.images.known
    return tuple(sorted(known[name].tagged for name in names if not order.images.is_pinned(name)))
