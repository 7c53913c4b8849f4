"""Control's settings out of the document's `spec.control.oidc`, `spec.alerts` and `spec.portal`. Pure; for
`plan.py`."""

from __future__ import annotations

from sextant.control.settings import (
    AgreementSettings,
    AlertSettings,
    GroupRole,
    OidcSettings,
    PortalSettings,
)
from sextant.spec.control_sections import Alerts, Oidc
from sextant.spec.money import nano_of
from sextant.spec.portal_section import Portal


def oidc_settings(oidc: Oidc | None) -> OidcSettings | None:
    """The provider that people sign in through."""
    if oidc is None:
        return None
    return OidcSettings(
        issuer=oidc.issuer,
        client_id=oidc.client_id,
        redirect_url=oidc.redirect_url,
        client_secret_ref=oidc.client_secret or "",
        scopes=oidc.scopes,
        groups_claim=oidc.groups_claim,
        roles=tuple(GroupRole(one.group, one.role, one.tenant) for one in oidc.roles),
    )


def alert_settings(alerts: Alerts) -> AlertSettings:
    """The ways that alerts take."""
    smtp = alerts.smtp
    if smtp is None:
        return AlertSettings(private_webhooks=alerts.private_webhooks)
    return AlertSettings(
        private_webhooks=alerts.private_webhooks,
        smtp_host=smtp.host,
        smtp_port=smtp.port,
        smtp_sender=smtp.sender,
        smtp_security=smtp.security,
        smtp_user=smtp.user,
        smtp_password_ref=smtp.password or "",
        smtp_ca_file=smtp.ca_file or "",
    )


def portal_settings(portal: Portal) -> PortalSettings:
    """The portal, and signing up."""
    agreement = portal.agreement
    return PortalSettings(
        url=portal.url or "",
        api_url=portal.api_url or "",
        support=portal.support or "",
        sign_up=portal.sign_up,
        tier=portal.tier,
        plan=portal.plan,
        credit_nano=nano_of(portal.credit),
        time_zone=portal.time_zone,
        allowed_domains=portal.allowed_domains,
        blocked_domains=portal.blocked_domains,
        sign_ups_per_day=portal.sign_ups_per_day,
        sign_ups_per_source_per_day=portal.sign_ups_per_source_per_day,
        trusted_proxies=portal.trusted_proxies,
        agreement=None if agreement is None else AgreementSettings(**agreement.model_dump()),
    )
