"""What `spec.centre` makes of a start: the forwarder, and models that may fall back. Pure but for the probe.

Neighbours: `plan.py` and `members.py`, which ask; `forwarder_process.py`, which is told.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from sextant.app.child import Program
from sextant.app.courier import Centre
from sextant.app.forwarder_process import SIGN_OF_LIFE_S, ForwarderSettings
from sextant.app.probe import fresh_file_probe
from sextant.app.state import StateDir
from sextant.app.stores import secret_variables
from sextant.spec.document import Deployment
from sextant.spec.snapshot import Fallback, ServedModel

FORWARD_STATUS = "forward-status.json"
"""In `run/`: how forwarding stands, for `sextant status` and the metrics."""
SILENCE_S = 30 * SIGN_OF_LIFE_S
"""A forwarder that has written nothing for so long hangs. A line that swallows packets makes one call of the
centre as long as name servers, and each of its addresses in turn (`courier.TIMEOUT_S`), are waited for."""


def forwarder_settings(document: Deployment, state: StateDir) -> ForwarderSettings | None:
    """What the forwarder is told; None where there is no centre."""
    centre = document.spec.centre
    if centre is None:
        return None
    return ForwarderSettings(
        ledger_db=str(state.ledger_db),
        centre=Centre(centre.url, centre.site, centre.ca_file or ""),
        credential_ref=centre.credential,
        cursor_file=str(state.root / "forward.json"),
        status_file=str(state.run / FORWARD_STATUS),
    )


def forwarder_program(settings: ForwarderSettings, state: StateDir, log_level: str) -> Program:
    """The process. Raises Misconfigured for an environment secret that is not set."""
    file = str(state.run / "forwarder.json")
    command = (sys.executable, "-m", "sextant.app.forwarder_process")
    return Program(
        name="forwarder",
        argv=(*command, "--settings", file, "--log-level", log_level),
        log_file=state.logs / "forwarder.log",
        probe=fresh_file_probe(settings.status_file, SILENCE_S),
        files={file: msgspec.json.encode(settings)},
        env=secret_variables([settings.credential_ref]),
    )


def with_fallbacks(document: Deployment, models: Sequence[ServedModel]) -> list[ServedModel]:
    """`models`, each with what the document says of falling back."""
    said = document.spec.overflow
    if said is None and document.spec.centre is not None:
        said = document.spec.centre.fallback
    if said is None or said.when == "never":
        return list(models)
    found = {
        one.name: Fallback(
            model=one.at_centre,
            when_full=said.when == "when_queue_full",
            masks=said.personal_data == "mask",
            stays=said.stays,
        )
        for one in said.models
    }
    return [
        msgspec.structs.replace(model, fallback=found[model.id]) if model.id in found else model
        for model in models
    ]
