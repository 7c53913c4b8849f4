"""What the operator types on a server once the bundle is there: verify, upgrade, roll back, uninstall."""

from __future__ import annotations

from sextant.render.hosts import places
from sextant.render.hosts.scripts import QUESTION
from sextant.spec.bundle import Step

VERIFY = (
    Step("Look whether everything runs", ("systemctl list-dependencies sextant.target",)),
    Step(
        "Ask a question",
        (f"sudo -u sextant {places.VENV}/bin/sextant chat --state {places.STATE} '{QUESTION}'",),
    ),
)
ROLLBACK = (
    Step(
        "Back to the release before",
        (f"sudo {places.BUNDLE}/rollback.sh",),
        "Where the newer one has migrated the databases, name a backup with `--restore`; what was written "
        "since is set aside, not merged.",
    ),
)
UNINSTALL = (
    Step("Remove it, keep its data and configuration", (f"sudo {places.BUNDLE}/uninstall.sh",)),
    Step("Remove it with its data", (f"sudo {places.BUNDLE}/uninstall.sh --purge",)),
)


def upgrade(command: str) -> tuple[Step, ...]:
    """How `command` upgrades."""
    return (
        Step(
            "Upgrade to a new bundle",
            (command,),
            "The release in use serves while the new one is put beside it. Then requests under way end, the "
            "new one starts, and must become ready and answer a question. If it does not, the old one "
            "is started again by itself, with the databases put back where the new one had migrated them.",
        ),
    )
