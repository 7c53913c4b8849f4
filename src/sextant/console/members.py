"""The people of a tenant: who has which role, who is invited, and who is not any more."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.responses import Response

from sextant.base.errors import NotFound
from sextant.console.control_api import Busy, Refused
from sextant.console.forms import Form
from sextant.console.told import Invitation, Invitations, People, Person
from sextant.console.visit import Here, Visit

SHOWN_MAX = 1000
"""As many as control tells at once."""
ROLES = ("owner", "operator", "billing", "auditor", "member")
INVITED_BY_OPERATORS = ("operator", "member")
"""Control refuses the others to whoever gives no roles."""


class Member(msgspec.Struct, frozen=True):
    """Somebody with a role in the tenant; `grants` are those of it that were given here."""

    person: Person
    roles: tuple[str, ...]
    grants: tuple[str, ...]
    by_provider: bool


async def members_page(visit: Visit) -> Response:
    """The page."""
    here = await visit.here()
    here.require("read", "invitation")
    return await _shown(visit, here, Form({}))


async def invite(visit: Visit) -> Response:
    """Invites an address; where no mail could be sent, shows the link to hand over, once."""
    here, form = await visit.here(), await visit.form()
    body = {"email": form.text("email"), "role": form.text("role"), "tenant_id": here.tenant.id}
    try:
        made = (await visit.ask("POST /v1/invitations", body, csrf=form.csrf)).read(Invitation)
    except (Refused, Busy) as error:
        return await _shown(visit, here, form, _mended(error))
    return visit.page("invited", here=here, invitation=made)


async def revoke_invitation(visit: Visit) -> Response:
    """Takes an invitation back. Raises NotFound for another tenant's."""
    here, form = await visit.here(), await visit.form()
    wanted = visit.request.path_params["invitation_id"]
    if wanted not in {one.id for one in await _invitations(visit, here)}:
        raise NotFound("there is no such invitation")
    await visit.ask(f"DELETE /v1/invitations/{wanted}", csrf=form.csrf)
    return visit.go(here.url("members"), said="invitation_revoked")


async def change_role(visit: Visit) -> Response:
    """Gives a member another role in place of those they have here."""
    here, form = await visit.here(), await visit.form()
    member, role = await _member(visit, here), form.text("role")
    try:
        await _give(visit, here, form, (member, role))
    except (Refused, Busy) as error:
        return await _shown(visit, here, Form({}), _mended(error))
    return visit.go(here.url("members"), said="role_changed")


async def remove_page(visit: Visit) -> Response:
    """Asks whether somebody is really to go."""
    here = await visit.here()
    here.require("write", "grant")
    member = await _member(visit, here)
    return visit.page("member_remove", here=here, member=member)


async def remove(visit: Visit) -> Response:
    """Takes all roles in this tenant back; the person and their roles elsewhere stay."""
    here, form = await visit.here(), await visit.form()
    member = await _member(visit, here)
    try:
        for grant_id in member.grants:
            await visit.ask(f"DELETE /v1/grants/{grant_id}", csrf=form.csrf)
    except (Refused, Busy) as error:
        return await _shown(visit, here, Form({}), _mended(error))
    return visit.go(here.url("members"), said="member_removed")


async def _give(visit: Visit, here: Here, form: Form, wanted: tuple[Member, str]) -> None:
    """The new role first: nobody is without one in between, and a refusal leaves things as they were."""
    member, role = wanted
    body = {"person_id": member.person.id, "role": role, "tenant_id": here.tenant.id}
    made = (await visit.ask("POST /v1/grants", body, csrf=form.csrf)).read(_Made)
    for grant_id in member.grants:
        if grant_id != made.id:
            await visit.ask(f"DELETE /v1/grants/{grant_id}", csrf=form.csrf)


class _Made(msgspec.Struct, frozen=True):
    id: str


async def _shown(visit: Visit, here: Here, form: Form, problem: Refused | Busy | None = None) -> Response:
    people, invitations = await asyncio.gather(_members(visit, here), _invitations(visit, here))
    return visit.page(
        "members",
        200 if problem is None else problem.status,
        here=here,
        form=form,
        members=people,
        invitations=[one for one in invitations if one.state == "open"],
        roles=ROLES if here.allows("write", "grant") else INVITED_BY_OPERATORS,
        problem=problem,
        said=visit.words.maybe(f"said.{visit.request.query_params.get('said', '')}"),
    )


async def _members(visit: Visit, here: Here) -> list[Member]:
    if not here.allows("read", "person"):
        return []
    listed = (await visit.ask("GET /v1/people", limit=str(SHOWN_MAX))).read(People)
    found = (_as_member(one, here.tenant.id) for one in listed.people)
    return sorted((one for one in found if one.roles), key=lambda one: one.person.email)


async def _member(visit: Visit, here: Here) -> Member:
    """The person that the address names. Raises NotFound for whoever has no role in this tenant."""
    person_id = visit.request.path_params["person_id"]
    found = _as_member((await visit.ask(f"GET /v1/people/{person_id}")).read(Person), here.tenant.id)
    if not found.roles:
        raise NotFound("there is no such member")
    return found


def _as_member(person: Person, tenant_id: str) -> Member:
    mine = [one for one in person.grants if one.tenant_id == tenant_id]
    given = tuple(one.id for one in mine if one.source == "local")
    return Member(person, tuple(one.role for one in mine), given, len(given) < len(mine))


async def _invitations(visit: Visit, here: Here) -> list[Invitation]:
    if not here.allows("read", "invitation"):
        return []
    listed = (await visit.ask("GET /v1/invitations", limit=str(SHOWN_MAX))).read(Invitations)
    return [one for one in listed.invitations if one.tenant_id == here.tenant.id]


def _mended(error: Refused | Busy) -> Refused | Busy:
    """What the page can say above itself. Raises what needs a page of its own."""
    if isinstance(error, Refused) and (error.status in (401, 404) or error.code == "csrf"):
        raise error
    return error
