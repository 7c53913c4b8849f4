"""Who answers when the engine that was asked for cannot, as the document says, before an answer has begun.

Part of flow 1 (serve), where a request has failed. Neighbours: `flow.py`, which goes the second way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sextant.base.errors import SextantError, UpstreamError
from sextant.gateway.router import STANDS_IN
from sextant.spec.policy import PrivacyAction, PrivacyPolicy

if TYPE_CHECKING:
    from sextant.gateway.router import ModelRoute, View
    from sextant.gateway.run import Run
    from sextant.transport.exchange import Request

MASK_ALL = PrivacyPolicy(otherwise="mask")
"""On the way to a stand-in, for tenants without a policy of their own."""
POLICIES = 4096
"""Tenants' policies whose stricter twin is kept."""
FULL = ("queue_full", "queue_displaced", "queue_timeout")


def stand_in(
    run: Run, error: SextantError, *, request: Request, view: View, tenant_id: str
) -> ModelRoute | None:
    """The route that may answer instead of `run.route`, which failed with `error`; None: nobody may, since
    the document does not say so, the tenant stays here, the caller has got something already, it is a gateway
    that we stand in for, or the stand-in is not ready."""
    assert run.route is not None
    fallback = run.route.served.fallback
    if request.header(STANDS_IN[0]) is not None:  # else two that stand in for each other ask without end
        return None
    if fallback is None or tenant_id in fallback.stays or run.settled or run.wrote or run.responder.started:
        return None
    if not isinstance(error, UpstreamError) and not (fallback.when_full and error.code in FULL):
        return None
    other = view.by_name.get(fallback.model)
    return other if other is not None and other.ready else None


class OnTheWay:
    """Privacy policies of requests that leave for a stand-in; one for a gateway worker."""

    def __init__(self) -> None:
        self._stricter: dict[int, tuple[PrivacyPolicy, PrivacyPolicy]] = {}

    def policy(self, run: Run, own: PrivacyPolicy | None) -> PrivacyPolicy | None:
        """The tenant's `own`, None where it has none; where the document masks on the way, what that lets
        through is masked: it was written for models that run here."""
        assert run.route is not None
        fallback = run.route.served.fallback
        if fallback is None or not fallback.masks:
            return own
        if own is None:
            return MASK_ALL
        found = self._stricter.get(id(own))
        if found is None:  # the same object each time, since guards are found by identity
            if len(self._stricter) >= POLICIES:
                del self._stricter[next(iter(self._stricter))]
            found = self._stricter[id(own)] = (own, _masking(own))
        return found[1]


def _masking(own: PrivacyPolicy) -> PrivacyPolicy:
    """`own` with nothing let through. Low-confidence detectors stay as they are: off unless it says so."""

    def stricter(action: PrivacyAction) -> PrivacyAction:
        return "mask" if action == "allow" else action

    actions = {type_: stricter(action) for type_, action in own.actions.items()}
    return msgspec.structs.replace(own, otherwise=stricter(own.otherwise), actions=actions)
