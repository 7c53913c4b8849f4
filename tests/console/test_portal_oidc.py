"""Signing in to the portal through a real OpenID Connect provider."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from control.oidc_provider import CLIENT_ID, CLIENT_SECRET, serving_provider
from portal_under_test import InProcess, Visitor, portal_in_process
from sextant.control.settings import GroupRole, OidcSettings, PortalSettings
from sextant.spec.control_sections import CALLBACK

BACK = f"http://testserver{CALLBACK}"


@contextlib.contextmanager
def portal_with_provider(folder: Path, **more: Any) -> Iterator[InProcess]:
    secret = folder / "client-secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    with serving_provider(BACK) as provider:
        provider.user["groups"] = ["acme-staff"]
        roles = (GroupRole("acme-staff", "member", "acme"),)
        oidc = OidcSettings(provider.issuer, CLIENT_ID, BACK, f"file:{secret}", roles=roles)
        with portal_in_process(folder, oidc=oidc, **more) as made:
            yield made


def sent_back(visitor: Visitor) -> str:
    """Begins at the button; where the provider then sends the browser."""
    assert "/portal/oidc/start" in visitor.get("/portal/sign-in").text
    start = visitor.get("/portal/oidc/start")
    assert start.status_code == 303, start.text
    return str(httpx2.get(start.headers["location"]).headers["location"])


@pytest.fixture(autouse=True)
def in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    # Authlib's provider speaks only TLS unless told; ours is on loopback.
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")


def test_the_provider_signs_in_and_the_portal_keeps_the_session(tmp_path: Path) -> None:
    with portal_with_provider(tmp_path) as portal:
        visitor = portal.visitor()
        target = sent_back(visitor)
        assert target.startswith(BACK)
        assert visitor.get(target).headers["location"] == "/portal/"
        assert visitor.get("/portal/t/acme/").status_code == 200
        assert "Change your password" not in visitor.get("/portal/account").text
        again = visitor.get(target)
        assert again.status_code == 401, "an answer of the provider's is good once"


def test_an_answer_begun_in_another_browser_signs_nobody_in(tmp_path: Path) -> None:
    own = PortalSettings(url="https://testserver")
    with portal_with_provider(tmp_path, portal=own) as portal:
        target = sent_back(portal.visitor())
        stranger = portal.visitor()
        refused = stranger.get(target)
        assert refused.status_code == 401
        assert "sign-in was not accepted" in refused.text
        assert "sextant-portal" not in stranger.client.cookies


def test_a_provider_that_sends_browsers_elsewhere_has_no_button(tmp_path: Path) -> None:
    own = PortalSettings(url="https://portal.example.com")
    with portal_with_provider(tmp_path, portal=own) as portal:
        assert "/portal/oidc/start" not in portal.visitor().get("/portal/sign-in").text


def test_without_a_provider_there_is_no_button(tmp_path: Path) -> None:
    with portal_in_process(tmp_path) as portal:
        assert "/portal/oidc/start" not in portal.visitor().get("/portal/sign-in").text
        assert portal.visitor().get("/portal/oidc/start").status_code == 404
