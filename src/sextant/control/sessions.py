"""Signing in and out, and what one sees of oneself."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Request, Response

from sextant.base.errors import BadRequest, Forbidden
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer
from sextant.control.door import cookie_name, csrf_token
from sextant.control.office import Office
from sextant.control.openapi import tells
from sextant.store.accounts_people import Grant, PersonRecord
from sextant.store.sign_in import SESSION_MS, SessionKind


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cookie`: for a browser, which then gets no token to keep."""

    email: str
    password: str
    cookie: bool = False


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    present: str
    new: str


class Ways(msgspec.Struct, frozen=True):
    """The ways to sign in."""

    password: bool
    oidc: bool


class SignedInAs(msgspec.Struct, frozen=True):
    """`token` and its time as a bearer, `csrf_token` with a cookie."""

    person: PersonRecord
    token: str | msgspec.UnsetType = msgspec.UNSET
    expires_in_ms: int | msgspec.UnsetType = msgspec.UNSET
    csrf_token: str | msgspec.UnsetType = msgspec.UNSET


class SessionShown(msgspec.Struct, frozen=True):
    """Who is signed in; `csrf_token` with a cookie."""

    actor: str
    name: str
    grants: tuple[Grant, ...]
    csrf_token: str | msgspec.UnsetType = msgspec.UNSET


class SignedOut(msgspec.Struct, frozen=True):
    signed_out: bool = True


class PasswordChanged(msgspec.Struct, frozen=True):
    changed: bool = True


SignedIn = Annotated[Allowed, Depends(Needs())]
SignInBody = Annotated[SignIn, Depends(Body(SignIn))]
PasswordBody = Annotated[NewPassword, Depends(Body(NewPassword))]


def add_sessions(app: FastAPI, office: Office) -> None:
    """Routes of signing in with a password, and of oneself."""

    @app.get("/v1/sign-in")
    @tells(Ways)
    def ways() -> Response:
        """The ways to sign in that this deployment offers."""
        return json_answer(Ways(password=True, oidc=office.settings.oidc is not None))

    @app.post("/v1/session", status_code=201)
    @tells(SignedInAs)
    def sign_in(request: Request, given: SignInBody) -> Response:
        """Signs in with an e-mail address and a password."""
        if given.cookie and request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise Forbidden(  # a form on any site could send it, and sign its visitors in as somebody else
                "signing in with a cookie needs Content-Type: application/json", code="csrf"
            )
        kind: SessionKind = "cookie" if given.cookie else "bearer"
        person, secret = office.accounts.sign_in(given.email, given.password, kind)
        if kind == "bearer":
            return json_answer(SignedInAs(person, secret, SESSION_MS), 201)
        answer = json_answer(SignedInAs(person, csrf_token=csrf_token(secret)), 201)
        set_session_cookie(answer, secret, secure=office.secure)
        return answer

    @app.get("/v1/session")
    @tells(SessionShown)
    def session(allowed: SignedIn) -> Response:
        """Who is signed in; with a cookie also the token that changes need in `X-CSRF-Token`."""
        caller = allowed.caller
        shown = caller.csrf_token or msgspec.UNSET
        return json_answer(SessionShown(caller.actor, caller.name, caller.grants, shown))

    @app.delete("/v1/session")
    @tells(SignedOut)
    def sign_out(allowed: SignedIn) -> Response:
        """Ends the session."""
        if not allowed.caller.session:
            raise BadRequest("a service token has no session; revoke it with DELETE /v1/service-tokens/ID")
        office.accounts.close_session(allowed.caller.session)
        answer = json_answer(SignedOut())
        answer.delete_cookie(cookie_name(office.secure), path="/", secure=office.secure, httponly=True)
        return answer

    @app.post("/v1/me/password")
    @tells(PasswordChanged)
    def change_password(allowed: SignedIn, given: PasswordBody) -> Response:
        """Changes one's own password, which ends all one's sessions."""
        person = allowed.caller.person
        if person is None or not person.has_password:
            raise Forbidden("only a person who signs in with a password has one to change")
        present = office.accounts.check_password(person.id, given.present)
        hashed = office.accounts.passwords.hash(given.new)
        office.by(allowed).change_own_password(person.id, present, hashed)
        return json_answer(PasswordChanged())


def set_session_cookie(answer: Response, secret: str, *, secure: bool) -> None:
    """Puts a session into the browser: out of scripts' reach, and not sent along by other sites' forms."""
    answer.set_cookie(
        cookie_name(secure),
        secret,
        max_age=SESSION_MS // 1000,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )
