"""Invitations in the admin API: a role for an address, redeemed by whoever owns the address.

Neighbours: `sextant.store.accounts_invitations` (who may redeem what, and why), `people.py`.
"""

from __future__ import annotations

from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Annotated
from urllib.parse import urlencode, urlsplit

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import BadRequest, Forbidden
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer, listing, more_than, paged
from sextant.control.budgets import channels_of
from sextant.control.office import Office
from sextant.control.openapi import Listing, tells
from sextant.operations.alert_channels import Channels, Undelivered, send_email
from sextant.store.accounts_database import Page
from sextant.store.accounts_invitations import (
    DAYS_MAX,
    InvitationRecord,
    Invited,
    NewInvitation,
    Redeemed,
    Redeemer,
)
from sextant.store.accounts_people import EVERYWHERE

InvitationDays = Annotated[int, msgspec.Meta(ge=1, le=DAYS_MAX)]


class InvitationToMake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A role for whoever owns the address, in one tenant or, without one, in the whole deployment."""

    email: str
    role: str
    tenant_id: str = EVERYWHERE
    name: str = ""
    expires_in_days: InvitationDays = 7


class InvitationMade(InvitationRecord, frozen=True):
    """`token`: shown here and nowhere again; null where it went to the address alone. `sets_password`:
    whether a first password can be set with it. `warning`: what stands in the way of redeeming it."""

    token: str | None = None
    mailed: bool = False
    sets_password: bool = False
    warning: str = ""


class Redeeming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password that the address has here, or a first one."""

    token: str
    email: str
    password: str
    name: str = ""


class RedeemingSignedIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


ReadInvitations = Annotated[Allowed, Depends(Needs("read", "invitation"))]
WriteInvitations = Annotated[Allowed, Depends(Needs("write", "invitation"))]
SignedIn = Annotated[Allowed, Depends(Needs())]
Paging = Annotated[Page, Depends(paged)]
InvitationBody = Annotated[InvitationToMake, Depends(Body(InvitationToMake))]
RedeemingBody = Annotated[Redeeming, Depends(Body(Redeeming))]
RedeemingSignedInBody = Annotated[RedeemingSignedIn, Depends(Body(RedeemingSignedIn))]


def add_invitations(app: FastAPI, office: Office) -> None:
    """Routes of invitations."""

    @app.get("/v1/invitations")
    @tells(Listing("invitations", InvitationRecord))
    def list_invitations(allowed: ReadInvitations, page: Paging) -> Response:
        """Invitations of the past three months by id, without their tokens."""
        found = office.accounts.list_invitations(more_than(page), tenants=allowed.tenants)
        return listing("invitations", found, page)

    @app.post("/v1/invitations", status_code=201)
    @tells(InvitationMade)
    def invite(allowed: WriteInvitations, new: InvitationBody) -> Response:
        """Invites an address. The answer is the same whether or not the address is somebody's already."""
        if not allowed.everywhere:
            if not new.tenant_id:
                raise BadRequest("name the tenant_id", field="tenant_id")
            allowed.require(new.tenant_id, f"there is no tenant {new.tenant_id}", field="tenant_id")
        wanted = NewInvitation(new.email, new.role, new.tenant_id, new.name, new.expires_in_days)
        channels = channels_of(office.settings.alerts)
        made = office.by(allowed).invite(wanted, mailed=channels.smtp is not None)
        problem = _mailed(office, made, channels)
        told = InvitationMade(
            **msgspec.structs.asdict(made.record),
            token=made.secret if made.shown else None,
            mailed=not problem,
            sets_password=made.sets_password,
            warning=problem if made.sets_password else f"{problem}; {_MUST_SIGN_IN}",
        )
        return json_answer(told, 201)

    @app.delete("/v1/invitations/{invitation_id}")
    @tells(InvitationRecord)
    def revoke_invitation(invitation_id: str, allowed: WriteInvitations) -> Response:
        """Revokes an invitation at once; one that has ended stays as it is."""
        return json_answer(office.by(allowed).revoke_invitation(invitation_id, tenants=allowed.tenants))

    @app.post("/v1/invitations/redeem")
    @tells(Redeemed)
    def redeem(given: RedeemingBody) -> Response:
        """Redeems an invitation by setting a first password, or with the one that the address has here; then
        sign in. Whatever is wrong, the refusal has the same words."""
        redeemer = Redeemer(given.email, given.password, given.name)
        return json_answer(office.accounts.redeem_invitation(given.token, redeemer))

    @app.post("/v1/me/invitations")
    @tells(Redeemed)
    def redeem_signed_in(allowed: SignedIn, given: RedeemingSignedInBody) -> Response:
        """Redeems an invitation to one's own address: signed in by password, or through an identity provider
        that says that the address is verified."""
        person = allowed.caller.person
        if person is None:
            raise Forbidden("a service token has no address to be invited by; sign in as a person")
        return json_answer(office.accounts.redeem_signed_in(given.token, person.id))


_MUST_SIGN_IN = (
    "the invited must sign in, with a password or through an identity provider that vouches for the address, "
    "to redeem it; for somebody new here without one, ask who runs the deployment to invite them"
)


def _mailed(office: Office, made: Invited, channels: Channels) -> str:
    """Sends the token to the address; returns why it did not leave, empty when it did."""
    if channels.smtp is None:
        return "no mail server is configured (spec.alerts.smtp): hand the token over yourself"
    try:
        to = Address(addr_spec=made.record.email)
    except (ValueError, MessageError):
        return f"no e-mail can be sent to {made.record.email}; invite another address"
    try:
        send_email(_message(office, made, to), channels)
    except Undelivered as error:
        return f"the e-mail did not leave ({error.message}); invite again, which replaces this invitation"
    return ""


def _message(office: Office, made: Invited, to: Address) -> EmailMessage:
    """The same for somebody who is known here and for somebody who is not. No address of ours is taken from
    the request: whoever sends one could point the invited elsewhere."""
    record, oidc = made.record, office.settings.oidc
    where = ""
    if oidc is not None:
        origin = urlsplit(oidc.redirect_url)
        where = f" of {origin.scheme}://{origin.netloc}"
    place = f"the tenant {record.tenant_id}" if record.tenant_id else "the whole deployment"
    message = EmailMessage()
    message["Subject"] = "You are invited to a Sextant deployment"
    message["From"] = office.settings.alerts.smtp_sender
    message["To"] = to
    message.set_content(
        f"You are invited to be {record.role} of {place}.\n\n"
        f"Token, good once and for this address alone:\n\n    {made.secret}\n\n"
        f"{_page_for(office, made)}"
        f"Redeem it at the admin API{where}: POST /v1/invitations/redeem with the token, your address and a\n"
        "password (the one you have there, or a first one of 12 characters or more); or sign in and\n"
        "POST /v1/me/invitations with the token.\n\n"
        "If you did not expect this, do nothing: it ends by itself.\n"
    )
    return message


def _page_for(office: Office, made: Invited) -> str:
    """Where the portal has an address: its page, with the token where no server sees it."""
    if not office.settings.portal.url:
        return ""
    given = urlencode({"token": made.secret, "email": made.record.email})
    return f"Open {office.settings.portal.url}/portal/redeem#{given}\n\nOr without a browser:\n\n"
