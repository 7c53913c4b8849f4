"""How sure a prediction is: the band that holds the measurement 80 % of the time.

The calibration's second forest says how far off predictions of such a point usually are; the multiples of
that distance between which 80 % of held-out points lay make the band. For a model or hardware that no
point has, the distance is widened by as much as leaving one out of the calibration showed (`derived`).
Neighbours: `calibration.py` (the forests), `roofline.py` (what asks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sextant.planner.calibration import Forests, walk
from sextant.planner.phases import Point
from sextant.spec.calibration import Calibration, Target
from sextant.spec.planning import Basis

MOST = 30.0
"""Beyond this factor either way a band says no more than that the order of magnitude is not known."""
UNSEEN_CLASS = 2.0
"""For hardware of a class without any point: an estimate, wider than another system of a seen class."""


def basis(point: Point, calibration: Calibration) -> Basis:
    """`calibrated` where engine, model, precision and hardware class have points, else `derived`."""
    seen = calibration.seen
    known = (
        point.engine in seen.engines
        and _model_known(point, calibration)
        and point.accelerator.kind in seen.kinds
        and point.precision in seen.precisions
    )
    return "calibrated" if known else "derived"


def widening(point: Point, calibration: Calibration) -> float:
    """By how much the band's logarithm is widened for what no point covers; 1 where all is covered."""
    seen = calibration.seen
    factor = 1.0
    if not _model_known(point, calibration) or point.precision not in seen.precisions:
        factor = max(factor, calibration.derived_model)
    if point.accelerator.id not in seen.accelerators or point.engine not in seen.engines:
        factor = max(factor, calibration.derived_hardware)
    if point.accelerator.kind not in seen.kinds:
        factor *= UNSEEN_CLASS
    return factor


def _model_known(point: Point, calibration: Calibration) -> bool:
    """A model of which few points are known is known in their way only."""
    ways = calibration.seen.only.get(point.architecture.id)
    way = f"{point.engine}/{point.precision}/{point.accelerator.kind}/tp{point.layout.tp}"
    return point.architecture.id in calibration.seen.models if ways is None else way in ways


def factors(
    values: Sequence[float], forests: Forests, target: Target, factor: float = 1.0
) -> tuple[float, float]:
    """Low and high end of the band over the predicted value: low <= 1 <= high."""
    usual = math.exp(forests.spread_start + walk(forests.spread, values)) * factor
    low, high = math.exp(min(0.0, target.band_low * usual)), math.exp(max(0.0, target.band_high * usual))
    return max(low, 1 / MOST), min(high, MOST)
