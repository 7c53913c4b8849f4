"""The start of a deployment whose keys are in an HSM: the token is looked at, sealed secrets are opened.

`sextant up` calls `open_hsm` once, before anything needs a secret; then the token is closed again.
Neighbours: `token.py`, `keys.py`, `sealing.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sextant.base.config import hold_unsealed
from sextant.security import keys
from sextant.security.keys import KeyFacts, Use
from sextant.security.sealing import unseal
from sextant.security.token import OpenToken, opened, place_of
from sextant.spec.document import Spec
from sextant.spec.references import sealed_references
from sextant.spec.security_sections import Hsm


def open_hsm(spec: Spec) -> tuple[str, ...]:
    """Looks at the token and the keys that this server uses, and opens the document's sealed secrets for this
    process and those it starts; what should be said of it. Raises SextantError."""
    hsm = spec.security.hsm
    if hsm is None or not hsm.serves:
        return ()
    with opened(place_of(hsm)) as token:
        found = [keys.look_at(token, label, use) for use, label in used_here(hsm)]
        if hsm.sealing_key is not None:
            for reference in sealed_references(spec):
                hold_unsealed(reference, unseal(token, hsm.sealing_key, reference.removeprefix("sealed:")))
        return tuple(warnings_of(token, found))


def used_here(hsm: Hsm) -> list[tuple[Use, str]]:
    """The keys that a server uses; the one that signs releases is where they are made."""
    return [(use, label) for use, label in keys.named_keys(hsm).items() if use != "signing"]


def warnings_of(token: OpenToken, found: Iterable[KeyFacts]) -> list[str]:
    """What should be said of keys that are used all the same."""
    return [
        f"the key {one.label} in the token {token.facts.label} is extractable: the token would give it "
        f"away, so "
        f"it is no safer than a file; make another with `sextant hsm init`"
        for one in found
        if one.extractable
    ]
