"""Signing up in the admin API: a stranger asks, an e-mail goes out, and its token makes a tenant.

Only where `spec.portal.sign_up` is `open`. Asking answers the same whether or not the address is known here;
what comes by e-mail differs. Credit goes through the ledger like any other, under a name that follows from
the tenant: posted at once where the ledger answers, else by `settle_credits` on any replica, and once.
Neighbours: `sextant.store.accounts_sign_ups`, `signup_mail.py`, `agreements.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from fastapi import Depends, FastAPI, Request, Response

from sextant.base.errors import (
    BadRequest,
    Forbidden,
    Misconfigured,
    Overloaded,
    RateLimited,
    Retryable,
    SextantError,
)
from sextant.control.agreements import refuse_outdated
from sextant.control.answers import Body, json_answer
from sextant.control.budgets import channels_of
from sextant.control.door import csrf_token
from sextant.control.office import Office
from sextant.control.openapi import tells
from sextant.control.sessions import SignedInAs, set_session_cookie
from sextant.control.settings import OidcSettings, PortalSettings
from sextant.control.signup_mail import LANGUAGES, sign_up_message
from sextant.operations.alert_channels import Undelivered, send_email
from sextant.spec.transfer import CREDIT, Transfer, prepaid_account
from sextant.store.accounts_people import checked_email
from sextant.store.accounts_sign_ups import (
    TOKEN_MS,
    Asked,
    Confirmed,
    Confirming,
    NewSignUp,
    OwedCredit,
    SignUpBounds,
    SignUpTerms,
)
from sextant.store.sign_in import SESSION_MS, SessionKind

MAILS_AT_ONCE = 4
"""Each holds a thread for as long as the mail server takes: the others are for those who are signed in."""
MAILS_WAITING_MAX = 4
"""Each of these holds a thread, too, for `MAIL_WAIT_S` at most; whoever comes then is told so at once."""
MAIL_WAIT_S = 2.0
SETTLE_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class PortalShown(msgspec.Struct, frozen=True):
    """What the portal's pages show to somebody who is not signed in. `oidc`: whether the identity provider
    sends browsers back to where the pages are."""

    sign_up: Literal["closed", "open"]
    password: bool
    oidc: bool
    agreement_version: str | None
    agreement_required: bool
    languages: tuple[str, ...]
    api_url: str
    support: str
    allowed_domains: tuple[str, ...]


class SignUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is what the tenant shall be called."""

    email: str
    name: str
    language: Literal["en", "zh"] = "en"


class SignUpAsked(msgspec.Struct, frozen=True):
    """How long the token is good that went to the address."""

    expires_in_s: int


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agreement`: the version that is accepted; `cookie`: for a browser, which gets no token to keep."""

    token: str
    password: str
    person_name: str = ""
    agreement: str = ""
    cookie: bool = False


class SignedUp(SignedInAs, frozen=True, kw_only=True):
    """Signed in as the tenant's first owner. `credit_pending`: the ledger was away; the credit follows."""

    tenant_id: str
    credit_nano: int
    currency: str
    credit_pending: bool


SignUpBody = Annotated[SignUp, Depends(Body(SignUp))]
ConfirmationBody = Annotated[Confirmation, Depends(Body(Confirmation))]


def add_sign_ups(app: FastAPI, office: Office) -> None:
    """Routes of signing up."""
    settings = office.settings.portal
    mails = MailRoom()

    @app.get("/v1/portal")
    @tells(PortalShown)
    def portal() -> Response:
        """What the portal offers."""
        return json_answer(_shown(office))

    @app.post("/v1/sign-ups", status_code=202)
    @tells(SignUpAsked)
    def sign_up(request: Request, given: SignUpBody) -> Response:
        """Asks for a tenant of one's own. The answer is the same whether or not the address is known."""
        _refuse_unopened(settings, request)
        email = checked_email(given.email)
        source = request.client.host if request.client is not None else ""
        new = NewSignUp(email, given.name, given.language, source)
        try:
            _refuse_domain(settings, email)
            asked = _asked(office, new)
        except RateLimited:
            office.sign_ups.add("limited")
            raise
        except Forbidden:
            office.sign_ups.add("domain")
            raise
        _mail(office, asked, given.language, mails)
        office.sign_ups.add("known" if asked.known else "mailed")
        return json_answer(SignUpAsked(TOKEN_MS // 1000), 202)

    @app.post("/v1/sign-ups/confirmations", status_code=201)
    @tells(SignedUp)
    def confirm(request: Request, given: ConfirmationBody) -> Response:
        """Makes the tenant with the token that came by e-mail, and signs its first owner in."""
        _refuse_unopened(settings, request)
        _refuse_unaccepted(office, given.agreement)
        confirming = Confirming(given.password, given.person_name, given.agreement)
        made = office.changed(lambda: _confirmed(office, given.token, confirming))
        office.sign_ups.add("confirmed")
        pending = not _credited(office, made)
        return _signed_in(office, made, cookie=given.cookie, pending=pending)


def _shown(office: Office) -> PortalShown:
    settings, agreement = office.settings.portal, office.settings.portal.agreement
    return PortalShown(
        sign_up=settings.sign_up,
        password=True,
        oidc=office.settings.oidc is not None and _comes_back(office.settings.oidc, settings),
        agreement_version=agreement.version if agreement else None,
        agreement_required=agreement is not None and agreement.required,
        languages=LANGUAGES,
        api_url=settings.api_url,
        support=settings.support,
        allowed_domains=settings.allowed_domains,
    )


def _comes_back(oidc: OidcSettings, portal: PortalSettings) -> bool:
    """Whether the provider sends browsers to the portal's name: the cookie that binds them is there alone."""
    return portal.fenced_host in ("", (urlsplit(oidc.redirect_url).hostname or "").lower())


def _refuse_unopened(settings: PortalSettings, request: Request) -> None:
    """Raises Forbidden."""
    if settings.sign_up != "open":
        said = "signing up is closed here; ask whoever runs the deployment for an invitation"
        raise Forbidden(said, code="sign_up_closed")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Forbidden(  # a form on any site could send it, from each of its visitors' addresses
            "signing up needs Content-Type: application/json", code="csrf"
        )


def _refuse_domain(settings: PortalSettings, email: str) -> None:
    """Raises Forbidden for an address of a domain that may not sign up."""
    domain = email.rpartition("@")[2].rstrip(".")
    parts = domain.split(".")
    within = {".".join(parts[number:]) for number in range(len(parts))}
    allowed = not settings.allowed_domains or within.intersection(settings.allowed_domains)
    if not allowed or within.intersection(settings.blocked_domains):
        raise Forbidden(
            f"addresses at {domain[:80]} cannot sign up here; use another, or ask for an invitation",
            field="email",
            code="domain_refused",
        )


def _refuse_unaccepted(office: Office, version: str) -> None:
    """Raises Forbidden where the agreement is not accepted and must be, BadRequest for an old version."""
    present = office.settings.portal.agreement
    if version:
        refuse_outdated(office, version)
    elif present is not None and present.required:
        raise Forbidden(
            f"the agreement {present.version} must be accepted: read it at GET /v1/portal/agreement and send "
            f"its version as `agreement`",
            field="agreement",
            code="agreement_required",
        )


def _terms(settings: PortalSettings) -> SignUpTerms:
    return SignUpTerms(settings.tier, settings.plan, settings.credit_nano, settings.time_zone)


def _asked(office: Office, new: NewSignUp) -> Asked:
    """Raises what `ask_sign_up` does, but Overloaded for terms that nobody could get."""
    settings = office.settings.portal
    bounds = SignUpBounds(settings.sign_ups_per_day, settings.sign_ups_per_source_per_day)
    try:
        return office.accounts.ask_sign_up(new, bounds, _terms(settings))
    except BadRequest as error:
        raise _as_ours(office, error) from error


def _confirmed(office: Office, token: str, given: Confirming) -> Confirmed:
    """Raises what `confirm_sign_up` does, but Overloaded for terms that nobody could get."""
    try:
        return office.accounts.confirm_sign_up(token, given, _terms(office.settings.portal))
    except BadRequest as error:
        raise _as_ours(office, error) from error
    except Forbidden:
        office.sign_ups.add("refused")
        raise


def _as_ours(office: Office, error: BadRequest) -> SextantError:
    """A stranger's mistake as it is; one of `spec.portal` as what may be mended later."""
    if error.field not in ("tier", "plan", "currency", "time_zone"):
        return error
    office.sign_ups.add("unusable")
    _log.error("nobody can sign up: spec.portal.%s: %s", error.field, error.message)
    said = "signing up does not work now; whoever runs the deployment is told by its log: try again later"
    return Overloaded(said, code="sign_up_unavailable", retry_after_s=600.0)


class MailRoom:
    """How many messages leave at once, and how many wait for it."""

    def __init__(self) -> None:
        self._leaving = threading.BoundedSemaphore(MAILS_AT_ONCE)
        self._waiting = threading.BoundedSemaphore(MAILS_WAITING_MAX)

    def enter(self) -> bool:
        """Whether one more may leave now; then `leave` afterwards. Waits for at most `MAIL_WAIT_S`."""
        if self._leaving.acquire(blocking=False):
            return True
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._leaving.acquire(timeout=MAIL_WAIT_S)
        finally:
            self._waiting.release()

    def leave(self) -> None:
        """Makes room for another."""
        self._leaving.release()


def _mail(office: Office, asked: Asked, language: str, room: MailRoom) -> None:
    """Sends the message. One that did not leave counts no longer, but for an address that the mail server
    does not want. Raises Overloaded (code `mail_unavailable`), BadRequest."""
    settings = office.settings
    message = sign_up_message(asked, language, url=settings.portal.url, sender=settings.alerts.smtp_sender)
    problem = "too many at once"
    if room.enter():
        try:
            send_email(message, channels_of(settings.alerts))
            return
        except Undelivered as error:
            if error.for_good:
                office.sign_ups.add("unmailed")
                said = "the mail server does not take messages for this address; check it, or use another"
                raise BadRequest(said, field="email") from None
            problem = error.message
        except Misconfigured as error:  # the mail server's password cannot be read
            problem = error.message
        finally:
            room.leave()
    office.sign_ups.add("unmailed")
    office.accounts.forget_sign_up(asked.id)
    _log.warning("a sign-up's e-mail did not leave: %s", problem)
    raise Overloaded("no e-mail can be sent now; try again", code="mail_unavailable", retry_after_s=60.0)


def _signed_in(office: Office, made: Confirmed, *, cookie: bool, pending: bool) -> Response:
    kind: SessionKind = "cookie" if cookie else "bearer"
    person, secret = office.accounts.open_session(made.person_id, kind, "sign-up")
    told = SignedUp(
        person=person,
        token=msgspec.UNSET if cookie else secret,
        expires_in_ms=msgspec.UNSET if cookie else SESSION_MS,
        csrf_token=csrf_token(secret) if cookie else msgspec.UNSET,
        tenant_id=made.tenant_id,
        credit_nano=made.credit_nano,
        currency=made.currency,
        credit_pending=pending,
    )
    answer = json_answer(told, 201)
    if cookie:
        set_session_cookie(answer, secret, secure=office.secure)
    return answer


def _credited(office: Office, made: Confirmed) -> bool:
    """Whether the tenant has its credit, if it gets any."""
    if not made.credit_nano:
        return True
    try:
        _post(office, OwedCredit(made.id, made.tenant_id, made.credit_nano, made.currency))
    except SextantError as error:
        _log.warning("the credit of tenant %s is not posted yet: %s", made.tenant_id, error)
        return False
    return True


def _post(office: Office, owed: OwedCredit) -> None:
    """Posts a credit, which counts once however often it is posted, and notes it. Raises LedgerUnavailable,
    BadRequest."""
    transfer = Transfer(
        id=f"credit-{owed.tenant_id}-sign-up",
        kind="credit",
        debit=CREDIT,
        credit=prepaid_account(owed.tenant_id),
        amount_nano=owed.credit_nano,
        currency=owed.currency,
        at_ms=office.now_ms(),
        note="sign-up",
    )
    office.books.post([transfer])
    office.accounts.note_credited(owed, transfer.id)


def settle_owed(office: Office, refused: frozenset[str] = frozenset()) -> frozenset[str]:
    """Posts the credits that are owed, but for those of the sign-ups `refused`. Returns these and all others
    that the books refuse, each of which is logged. Raises LedgerUnavailable."""
    found = set(refused)
    for owed in office.accounts.owed_credits(refused):
        try:
            _post(office, owed)
        except BadRequest as error:
            _log.error("the books refuse the credit of tenant %s: %s", owed.tenant_id, error.message)
            found.add(owed.id)
    return frozenset(found)


async def settle_credits(office: Office) -> None:
    """Posts what is owed, again and again, until cancelled; trouble is logged once. What the books refuse is
    tried again by the next start of control, after somebody has mended it."""
    trouble, refused = "", frozenset[str]()
    while True:
        try:
            refused = await asyncio.to_thread(settle_owed, office, refused)
            trouble = ""
        except (OSError, Retryable) as error:
            if str(error) != trouble:
                _log.warning("credits of sign-ups wait: %s", error)
            trouble = str(error)
        await asyncio.sleep(SETTLE_EVERY_S)
