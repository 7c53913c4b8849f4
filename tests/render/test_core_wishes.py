"""A wish that a mode cannot fulfil is refused by the name of its field."""

from __future__ import annotations

import pytest
from tests.render.orders import DISTILLED, EMBEDDED, order

from sextant.base.errors import Unsupported
from sextant.render import render

STANDBY = {"continuity": {"standby": {"address": "10.0.0.10", "peer": "10.0.0.12"}}}


@pytest.mark.parametrize(
    ("mode", "field", "spec"),
    [
        ("on-prem", "spec.scaling.scale_to_zero", {"scaling": {"scale_to_zero": True}}),
        ("edge", "spec.scaling.scale_to_zero", {"scaling": {"scale_to_zero": True}}),
        ("on-prem", "spec.delivery.gpu_sharing", {"delivery": {"gpu_sharing": "mps"}}),
        ("on-prem", "spec.delivery.node_scaling", {"delivery": {"node_scaling": "karpenter"}}),
        ("edge", "spec.delivery.mesh", {"delivery": {"mesh": "istio"}}),
        ("on-prem", "spec.delivery.quotas", {"delivery": {"quotas": [{"name": "risk", "percent": 30}]}}),
        ("private-cloud", "spec.delivery.orchestration", {"delivery": {"orchestration": "compose"}}),
        ("private-cloud", "spec.continuity.standby", STANDBY),
        ("edge", "spec.continuity.standby", STANDBY),
        ("on-prem", "spec.portal.agreement", {"portal": {"agreement": {"file": "a.md", "version": "1"}}}),
    ],
)
def test_what_the_mode_cannot_do_is_refused(mode: str, field: str, spec: dict[str, object]) -> None:
    served = DISTILLED if mode == "private-cloud" else EMBEDDED
    with pytest.raises(Unsupported, match=field) as caught:
        render(order(mode, **served, **spec))
    assert f"the mode {mode} cannot do" in caught.value.message
