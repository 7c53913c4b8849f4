"""Who answers when the engine that was asked for cannot, as the document says, before an answer has begun.

Part of flow 1 (serve), where a request has failed. Neighbours: `flow.py`, which goes the second way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sextant.base.errors import SextantError, UpstreamError
from sextant.spec.policy import PrivacyPolicy

if TYPE_CHECKING:
    from sextant.gateway.router import ModelRoute, View
    from sextant.gateway.run import Run

MASK_ALL = PrivacyPolicy(otherwise="mask")
"""On the way to a stand-in, for tenants without a policy of their own."""
FULL = ("queue_full", "queue_displaced", "queue_timeout")


def stand_in(run: Run, error: SextantError, view: View, tenant_id: str) -> ModelRoute | None:
    """The route that may answer instead of `run.route`, which failed with `error`; None: nobody may, since
    the document does not say so, the tenant stays here, the caller has got something already, or the stand-in
    is not ready."""
    assert run.route is not None
    fallback = run.route.served.fallback
    if fallback is None or tenant_id in fallback.stays or run.settled or run.wrote or run.responder.started:
        return None
    if not isinstance(error, UpstreamError) and not (fallback.when_full and error.code in FULL):
        return None
    other = view.by_name.get(fallback.model)
    return other if other is not None and other.ready else None


def policy_on_the_way(run: Run, own: PrivacyPolicy | None) -> PrivacyPolicy | None:
    """The privacy policy of a request that leaves `run.route` for its stand-in: the tenant's own, else as the
    document says."""
    assert run.route is not None
    fallback = run.route.served.fallback
    return MASK_ALL if own is None and fallback is not None and fallback.masks else own
