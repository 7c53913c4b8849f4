"""Agreements in the admin API: the text that the operator's file holds, and who accepted it for which tenant.

Where `spec.portal.agreement.required` says so, a tenant's own people make no keys before one of its owners
has accepted the present version. Keys that there are go on, and those who run the deployment may make keys
for it: they are the agreement's other side.
Neighbours: `sextant.store.accounts_agreements`, `signup.py` (accepting while signing up), `keys.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Query, Response

from sextant.base.errors import BadRequest, Forbidden, Misconfigured, NotFound
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer, listing, more_than, paged
from sextant.control.office import Office
from sextant.control.openapi import Listing, Whole, tells
from sextant.control.settings import PortalSettings
from sextant.store.accounts import Accounts
from sextant.store.accounts_agreements import Acceptance, AgreementRecord
from sextant.store.accounts_database import Page

TEXT_BYTES_MAX = 256 * 1024


class AgreementShown(AgreementRecord, frozen=True, kw_only=True):
    """A version with its acceptances for the caller's tenants. `required`: for making keys now."""

    present: bool
    required: bool
    acceptances: list[Acceptance]


class AgreementText(msgspec.Struct, frozen=True):
    """The present version, for those who are not signed in."""

    version: str
    sha256: str
    required: bool
    text: str


class Accepting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant_id: str


ReadTenants = Annotated[Allowed, Depends(Needs("read", "tenant"))]
Anyone = Annotated[Allowed, Depends(Needs())]
Paging = Annotated[Page, Depends(paged)]
AcceptingBody = Annotated[Accepting, Depends(Body(Accepting))]


def add_agreements(app: FastAPI, office: Office) -> None:
    """Routes of agreements."""
    present = office.settings.portal.agreement

    @app.get("/v1/portal/agreement")
    @tells(AgreementText)
    def agreement_text() -> Response:
        """The text that a stranger reads before signing up."""
        if present is None:
            raise NotFound("there is no agreement: spec.portal.agreement is not set")
        found = office.accounts.agreement(present.version)
        return json_answer(AgreementText(found.version, found.sha256, present.required, found.text))

    @app.get("/v1/agreements")
    @tells(Whole("agreements", AgreementShown))
    def list_agreements(allowed: ReadTenants) -> Response:
        """All versions, the newest first, with acceptances of at most 1000 tenants each."""
        shown = []
        for one in office.accounts.list_agreements():
            is_present = present is not None and present.version == one.version
            accepted = office.accounts.list_acceptances(version=one.version, tenants=allowed.tenants)
            required = is_present and present is not None and present.required
            shown.append(
                AgreementShown(
                    **msgspec.structs.asdict(one),
                    present=is_present,
                    required=required,
                    acceptances=accepted,
                )
            )
        return json_answer({"agreements": shown})

    @app.get("/v1/agreements/{version}/acceptances")
    @tells(Listing("acceptances", Acceptance))
    def list_acceptances(
        version: str, allowed: ReadTenants, page: Paging, tenant_id: Annotated[str, Query()] = ""
    ) -> Response:
        """Who accepted a version for which tenant, by id."""
        office.accounts.agreement(version)
        found = office.accounts.list_acceptances(
            more_than(page), version=version, tenant_id=tenant_id, tenants=allowed.tenants
        )
        return listing("acceptances", found, page)

    @app.post("/v1/agreements/{version}/acceptances", status_code=201)
    @tells(Acceptance)
    def accept(version: str, allowed: Anyone, given: AcceptingBody) -> Response:
        """Accepts the present version for a tenant that one owns, as a person; a second time changes
        nothing."""
        allowed.require(given.tenant_id, f"there is no tenant {given.tenant_id}", field="tenant_id")
        person = allowed.caller.person
        owned = {one.tenant_id for one in allowed.caller.grants if one.role == "owner"}
        if person is None or given.tenant_id not in owned:
            raise Forbidden(
                f"an agreement is accepted by a person who owns the tenant {given.tenant_id} itself",
                field="tenant_id",
            )
        refuse_outdated(office, office.accounts.agreement(version).version)
        return json_answer(office.by(allowed).accept_agreement(version, given.tenant_id, person.id), 201)


def publish_agreement(portal: PortalSettings, accounts: Accounts) -> None:
    """Keeps the operator's text as what its version says. Raises Misconfigured."""
    if portal.agreement is None:
        return
    path = Path(portal.agreement.file)
    field = "spec.portal.agreement.file"
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        said = f"the agreement {path} cannot be read: {error.strerror}; put the text there"
        raise Misconfigured(said, field=field) from None
    except UnicodeDecodeError as error:
        said = f"the agreement {path} is not UTF-8 at byte {error.start}; save it as UTF-8"
        raise Misconfigured(said, field=field) from None
    if not text.strip() or len(data) > TEXT_BYTES_MAX:
        said = f"the agreement {path} has {len(data)} bytes; expected a text of at most {TEXT_BYTES_MAX}"
        raise Misconfigured(said, field=field)
    accounts.publish_agreement(portal.agreement.version, text)


def agreements_due(office: Office, tenants: set[str]) -> dict[str, str]:
    """Which version each of `tenants` has yet to accept before its people can make keys."""
    present = office.settings.portal.agreement
    if present is None or not present.required:
        return {}
    return dict.fromkeys(office.accounts.without_acceptance(present.version, tenants), present.version)


def refuse_without_agreement(office: Office, allowed: Allowed, tenant_id: str) -> None:
    """Raises Forbidden for a tenant's own people while its acceptance is due."""
    version = "" if allowed.everywhere else agreements_due(office, {tenant_id}).get(tenant_id, "")
    if version:
        raise Forbidden(
            f"the tenant {tenant_id} has not accepted the agreement {version}, without which no key is made; "
            f"one of its owners may accept it: POST /v1/agreements/{version}/acceptances",
            code="agreement_required",
            field="tenant_id",
        )


def refuse_outdated(office: Office, version: str) -> None:
    """Raises BadRequest for a version that is not the present one."""
    present = office.settings.portal.agreement
    if present is None or present.version != version:
        now = f"the present one is {present.version}" if present else "there is none at present"
        said = f"the agreement {version[:40]} is not the present one; {now}"
        raise BadRequest(said, field="version", code="agreement_outdated")
