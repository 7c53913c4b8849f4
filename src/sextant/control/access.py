"""Who is calling, and what they may touch: every route declares the permission that it needs.

The door (`door.py`) finds out who calls; `Needs` stands in each route's signature and hands it the tenants
for which the caller has the permission. What lies in another tenant does not exist for the caller (404), and
a permission that the caller has nowhere is 403 whatever the request names.
"""

from __future__ import annotations

import msgspec
from fastapi import Request

from sextant.base.errors import Forbidden, NotFound
from sextant.control.permissions import Noun, Verb, may
from sextant.store.accounts_people import EVERYWHERE, Grant, PersonRecord


class Caller(msgspec.Struct, frozen=True):
    """Who calls. `actor` stands in the audit trail; `csrf_token` only with a session's cookie."""

    actor: str
    name: str
    grants: tuple[Grant, ...]
    person: PersonRecord | None = None
    session: str = ""
    csrf_token: str = ""
    site_id: str = ""
    """Of a site that sends its usage: it has no roles, and may do nothing else."""

    @property
    def visible(self) -> frozenset[str] | None:
        """The tenants that the caller has any role in; None: all."""
        tenants = frozenset(grant.tenant_id for grant in self.grants)
        return None if EVERYWHERE in tenants else tenants


class Allowed(msgspec.Struct, frozen=True):
    """A caller with leave to go on, and for which tenants (None: all)."""

    caller: Caller
    tenants: frozenset[str] | None

    @property
    def actor(self) -> str:
        return self.caller.actor

    @property
    def everywhere(self) -> bool:
        """Whether the leave is for the whole deployment."""
        return self.tenants is None

    def require(self, tenant_id: str, missing: str, *, field: str = "id") -> None:
        """Raises NotFound with the words `missing` for a tenant that is not the caller's, Forbidden where the
        caller has only other roles."""
        if self.tenants is None or tenant_id in self.tenants:
            return
        visible = self.caller.visible
        if visible is None or tenant_id in visible:
            raise Forbidden(f"your role in tenant {tenant_id} does not allow this", field=field)
        raise NotFound(missing, field=field)


class Needs:
    """The permission of a route. `deployment`: the role must be one of the whole deployment. Without a noun
    any caller that is signed in may come."""

    def __init__(self, verb: Verb = "read", noun: Noun | None = None, *, deployment: bool = False) -> None:
        self.verb = verb
        self.noun = noun
        self.deployment = deployment

    def __call__(self, request: Request) -> Allowed:
        caller: Caller = request.state.caller
        if self.noun is None:
            return Allowed(caller, caller.visible)
        tenants = {grant.tenant_id for grant in caller.grants if may(grant.role, self.verb, self.noun)}
        if EVERYWHERE in tenants:
            return Allowed(caller, None)
        if self.deployment or not tenants:
            where = " for the whole deployment" if self.deployment else ""
            raise Forbidden(
                f"this needs a role that may {self.verb} a {self.noun}{where}; yours: {_roles(caller)}"
            )
        return Allowed(caller, frozenset(tenants))


class OfSite(Needs):
    """The permission of a site's own route: the caller is the site that the path names, nobody else."""

    def __call__(self, request: Request) -> Allowed:
        caller: Caller = request.state.caller
        if not caller.site_id:
            raise Forbidden("this is for sites; it needs a site's credential (sxsite-…)")
        if caller.site_id != request.path_params["site_id"]:
            raise Forbidden(f"this credential is that of the site {caller.site_id}")
        return Allowed(caller, frozenset())


def _roles(caller: Caller) -> str:
    named = [f"{grant.role} of {grant.tenant_id or 'the deployment'}" for grant in caller.grants]
    return ", ".join(named) or "none"
