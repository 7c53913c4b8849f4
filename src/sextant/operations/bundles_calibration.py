"""What a user's own calibration means for a bundle: which models are planned by it, and how that is said.

`sextant plan --calibrate` wrote the file, `spec.planning.calibration_file` names it; `bundles.py` reads it.
"""

from __future__ import annotations

from sextant.base.errors import Misconfigured
from sextant.spec.local_calibration import LocalCalibration
from sextant.spec.rendering import Order, ServedModel


def calibration_notes(order: Order, machine: LocalCalibration | None, name: str) -> tuple[str, ...]:
    """What the README says of the calibration in the file `name`. Raises Misconfigured where it was measured
    with a model that the document does not serve: then it is for another document."""
    if machine is None:
        return ()
    mine = [each for each in order.served if each.architecture and each.architecture.id == machine.model]
    if not mine:
        served = ", ".join(each.entry.name for each in order.served)
        raise Misconfigured(
            f"{name}: was measured with {machine.model}, and the document serves {served}; calibrate one of "
            f"them with `sextant plan --calibrate URL -o FILE`, or take its name out of spec.planning"
        )
    return tuple(_said(each, machine, name) for each in mine)


def _said(served: ServedModel, machine: LocalCalibration, name: str) -> str:
    option = served.option
    if option is not None and option.speed.tpot_ms.sources == (machine.measured,):
        return (
            f"`{served.entry.name}` is planned by {name}: {machine.measured}; it missed held-out points by a "
            f"factor of {machine.band:.2f} at most."
        )
    measured = f"{machine.model} in {machine.precision} on one {machine.accelerator}"
    planned = "with no engine that is planned"
    if option is not None:
        planned = f"on {option.count} x {option.accelerator.id}, {option.layout.replica} for one replica"
    return (
        f"{name} was measured with {measured}; `{served.entry.name}` is planned {planned}, by the published "
        f"points."
    )
