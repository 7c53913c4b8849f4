"""People, roles, service tokens and the audit trail in the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import BadRequest, Forbidden, NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer, listing, more_than, paged
from sextant.control.keys import Days
from sextant.control.office import Office
from sextant.control.openapi import Listing, tells
from sextant.store.accounts_database import DAY_MS, AuditEntry, Page
from sextant.store.accounts_people import (
    EVERYWHERE,
    Grant,
    Granted,
    NewPerson,
    PersonRecord,
    TokenRecord,
    seen_by,
)


class PersonToMake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Someone who may sign in. Without a password: by an identity provider that knows the address, or by an
    invitation. `role` is granted for `tenant_id`, or where that is empty for the whole deployment."""

    email: str
    name: str
    password: str = ""
    role: str = ""
    tenant_id: str = EVERYWHERE


class PersonChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be different of a person; None: as it is."""

    name: str | None = None
    enabled: bool | None = None
    password: str | None = None


class NewGrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A role for someone, in one tenant or, without one, in the whole deployment."""

    person_id: str
    role: str
    tenant_id: str = EVERYWHERE


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A credential for a program."""

    name: str
    role: str
    tenant_id: str = EVERYWHERE
    expires_in_days: Days | None = None


class PersonDeleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True


class TokenMade(TokenRecord, frozen=True, kw_only=True):
    """`token` is the credential, shown here and nowhere again."""

    token: str


ReadPeople = Annotated[Allowed, Depends(Needs("read", "person"))]
WritePeople = Annotated[Allowed, Depends(Needs("write", "person"))]
MakePeople = Annotated[Allowed, Depends(Needs("write", "person", deployment=True))]
ReadGrants = Annotated[Allowed, Depends(Needs("read", "grant"))]
WriteGrants = Annotated[Allowed, Depends(Needs("write", "grant"))]
ReadTokens = Annotated[Allowed, Depends(Needs("read", "token"))]
WriteTokens = Annotated[Allowed, Depends(Needs("write", "token"))]
ReadAudit = Annotated[Allowed, Depends(Needs("read", "audit"))]
Paging = Annotated[Page, Depends(paged)]
PersonBody = Annotated[PersonToMake, Depends(Body(PersonToMake))]
PersonChangeBody = Annotated[PersonChange, Depends(Body(PersonChange))]
GrantBody = Annotated[NewGrant, Depends(Body(NewGrant))]
TokenBody = Annotated[NewToken, Depends(Body(NewToken))]


def add_people(app: FastAPI, office: Office) -> None:
    """Routes of people."""

    @app.get("/v1/people")
    @tells(Listing("people", PersonRecord))
    def list_people(allowed: ReadPeople, page: Paging) -> Response:
        """People with their roles; of a tenant, those who have a role in it."""
        return listing("people", office.accounts.list_people(more_than(page), tenants=allowed.tenants), page)

    @app.post("/v1/people", status_code=201)
    @tells(PersonRecord)
    def create_person(allowed: MakePeople, new: PersonBody) -> Response:
        """Makes a person. For whoever runs the deployment: the answer tells whether an address is somebody's;
        a tenant's own people invite (`POST /v1/invitations`)."""
        hashed = office.accounts.passwords.hash(new.password) if new.password else ""
        made = office.by(allowed).create_person(
            NewPerson(new.email, new.name, hashed, new.role, new.tenant_id)
        )
        return json_answer(made, 201)

    @app.get("/v1/people/{person_id}")
    @tells(PersonRecord)
    def get_person(person_id: str, allowed: ReadPeople) -> Response:
        """One person."""
        return json_answer(_seen(office, allowed, person_id))

    @app.patch("/v1/people/{person_id}")
    @tells(PersonRecord)
    def change_person(person_id: str, allowed: WritePeople, wanted: PersonChangeBody) -> Response:
        """Changes what is given; who is switched off, or gets a new password, is signed out everywhere. A
        password is given by an owner of the deployment alone."""
        _seen(office, allowed, person_id)
        if wanted.password is not None and not allowed.everywhere:
            raise Forbidden(
                "a password is given by who runs the deployment; people set their own with an invitation, or "
                "at POST /v1/me/password",
                field="password",
            )
        hashed = "" if wanted.password is None else office.accounts.passwords.hash(wanted.password)
        changed = office.by(allowed).set_person(
            person_id, enabled=wanted.enabled, name=wanted.name, password_hash=hashed
        )
        return json_answer(seen_by(changed, allowed.tenants))

    @app.delete("/v1/people/{person_id}")
    @tells(PersonDeleted)
    def delete_person(person_id: str, allowed: WritePeople) -> Response:
        """Deletes a person and the roles that they had."""
        _seen(office, allowed, person_id)
        office.by(allowed).delete_person(person_id)
        return json_answer(PersonDeleted(person_id))


def add_grants(app: FastAPI, office: Office) -> None:
    """Routes of roles, service tokens and the audit trail."""

    @app.get("/v1/grants")
    @tells(Listing("grants", Grant))
    def list_grants(allowed: ReadGrants, page: Paging) -> Response:
        """Who has which role where."""
        return listing("grants", office.accounts.list_grants(more_than(page), tenants=allowed.tenants), page)

    @app.post("/v1/grants", status_code=201)
    @tells(Granted)
    def create_grant(allowed: WriteGrants, new: GrantBody) -> Response:
        """Gives someone a role; a second time changes nothing. `password_cleared` in the answer: the
        password came from somebody who may not manage people there; it and all sessions are gone."""
        _for_a_tenant(allowed, new.tenant_id, new.role)
        _seen(office, allowed, new.person_id)
        made = office.by(allowed).grant_role(new.person_id, new.role, tenant_id=new.tenant_id)
        return json_answer(made, 201)

    @app.delete("/v1/grants/{grant_id}")
    @tells(Grant)
    def revoke_grant(grant_id: str, allowed: WriteGrants) -> Response:
        """Takes a role back; the last owner stays."""
        return json_answer(office.by(allowed).revoke_grant(grant_id, tenants=allowed.tenants))

    @app.get("/v1/service-tokens")
    @tells(Listing("service_tokens", TokenRecord))
    def list_tokens(allowed: ReadTokens, page: Paging) -> Response:
        """Service tokens without their secrets."""
        found = office.accounts.list_service_tokens(more_than(page), tenants=allowed.tenants)
        return listing("service_tokens", found, page)

    @app.post("/v1/service-tokens", status_code=201)
    @tells(TokenMade)
    def create_token(allowed: WriteTokens, new: TokenBody) -> Response:
        """Makes a service token. `token` in the answer is shown here and nowhere again."""
        _for_a_tenant(allowed, new.tenant_id, new.role)
        expires_ms = 0
        if new.expires_in_days is not None:
            expires_ms = office.now_ms() + new.expires_in_days * DAY_MS
        record, secret = office.by(allowed).create_service_token(
            new.name, new.role, tenant_id=new.tenant_id, expires_ms=expires_ms
        )
        return json_answer(TokenMade(**msgspec.structs.asdict(record), token=secret), 201)

    @app.delete("/v1/service-tokens/{token_id}")
    @tells(TokenRecord)
    def revoke_token(token_id: str, allowed: WriteTokens) -> Response:
        """Revokes a service token at once; that of the last owner stays."""
        return json_answer(office.by(allowed).revoke_service_token(token_id, tenants=allowed.tenants))

    @app.get("/v1/audit")
    @tells(Listing("audit", AuditEntry))
    def list_audit(allowed: ReadAudit, page: Paging) -> Response:
        """Who changed what and when, newest first."""
        return listing("audit", office.accounts.list_audit(more_than(page), tenants=allowed.tenants), page)


def _for_a_tenant(allowed: Allowed, tenant_id: str, role: str) -> None:
    """Whoever owns but a tenant gives roles there alone. Raises NotFound, Forbidden, BadRequest."""
    if allowed.everywhere:
        return
    if not tenant_id or not role:
        raise BadRequest("name the tenant_id and the role", field="tenant_id")
    allowed.require(tenant_id, f"there is no tenant {tenant_id}", field="tenant_id")


def _seen(office: Office, allowed: Allowed, person_id: str) -> PersonRecord:
    """The person as the caller may see them. Raises NotFound."""
    found = seen_by(office.accounts.person(person_id), allowed.tenants)
    if not found.grants and not allowed.everywhere:
        raise NotFound(f"there is no person {person_id}", field="person_id")
    return found
