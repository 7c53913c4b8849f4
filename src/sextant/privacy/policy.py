"""Whether a tenant's privacy policy can be carried out: asked when one is set, and again where it is used.

Neighbours: `sextant.spec.policy` (the noun), `sextant.gateway.privacy` (carries it out).
"""

from __future__ import annotations

from sextant.base.errors import BadRequest
from sextant.privacy.detector import Detector
from sextant.privacy.spans import BUILT_IN, OPT_IN
from sextant.spec.policy import PrivacyPolicy


def check_policy(policy: PrivacyPolicy) -> None:
    """Raises BadRequest naming the field for a type that nothing finds or a pattern that cannot be used,
    Misconfigured where it asks for Presidio and that is not installed."""
    for type_ in policy.opt_in:
        if type_ not in OPT_IN:
            raise BadRequest(
                f"there is nothing to opt in to called {type_!r}; expected {', '.join(OPT_IN)}",
                field="privacy.opt_in",
            )
    known = {*BUILT_IN, *policy.opt_in, *policy.patterns}
    for type_ in policy.actions:
        if type_ not in known and "PRESIDIO" not in policy.opt_in:  # which has many types of its own
            more = "; add it to opt_in" if type_ in OPT_IN else ""
            raise BadRequest(
                f"an action is given for {type_!r}, which nothing finds; "
                f"expected {', '.join(sorted(known))}{more}",
                field="privacy.actions",
            )
    Detector(policy.opt_in, policy.patterns)
