"""How accelerators are asked for: Kubernetes resource, node label, device files, environment, by vendor."""

from __future__ import annotations

from sextant.base.errors import Unsupported
from sextant.spec.rendering import Device, Order, ServedModel


def device_of(order: Order, served: ServedModel) -> Device:
    """How the accelerators of that model's plan are asked for; for one without accelerators a device without
    a resource. Raises Unsupported where it is not known."""
    accelerator = served.option.accelerator if served.option is not None else None
    fitting = [device for device in order.facts.devices if device.vendor == served.vendor]
    for device in fitting:
        if accelerator is not None and {accelerator.id, accelerator.kind} & set(device.kinds):
            return device
    for device in fitting:
        if not device.kinds:
            return device
    raise Unsupported(f"{served.entry.name}: how accelerators of {served.vendor} are asked for is not known")
