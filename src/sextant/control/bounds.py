"""How much a tenant's own people may make: whoever may sign up is a stranger, and what they make is kept for
good and goes to every gateway with the policy. Those who run the deployment make as much as they like.

Neighbours: `keys.py`, `tenants.py` (projects), `sextant.store.accounts_invitations` and `budgets` (whose
bounds hold for everyone).
"""

from __future__ import annotations

from sextant.base.errors import BadRequest
from sextant.control.access import Allowed
from sextant.control.office import Office
from sextant.store.accounts_database import DAY_MS

KEYS_OF_TENANT_MAX = 1000
"""Keys that are not revoked, and those made within a day though they are."""
PROJECTS_OF_TENANT_MAX = 200


def refuse_more_keys(office: Office, allowed: Allowed, tenant_id: str) -> None:
    """Raises BadRequest where the tenant has as many keys as its own people may make."""
    if allowed.everywhere:
        return
    if office.accounts.count_keys(tenant_id, office.now_ms() - DAY_MS) >= KEYS_OF_TENANT_MAX:
        raise _too_many("keys", KEYS_OF_TENANT_MAX, "revoke")


def refuse_more_projects(office: Office, allowed: Allowed, tenant_id: str) -> None:
    """Raises BadRequest where the tenant has as many projects as its own people may make."""
    if allowed.everywhere:
        return
    if office.accounts.count_projects(tenant_id, office.now_ms() - DAY_MS) >= PROJECTS_OF_TENANT_MAX:
        raise _too_many("projects", PROJECTS_OF_TENANT_MAX, "delete")


def _too_many(what: str, most: int, end: str) -> BadRequest:
    return BadRequest(
        f"a tenant's people make at most {most} {what}, with those of the last day that have ended; "
        f"{end} some, or ask whoever runs the deployment to make more",
        field="tenant_id",
        code=f"too_many_{what}",
    )
