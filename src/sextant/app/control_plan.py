"""Control's settings out of the document's `spec.control.oidc` and `spec.alerts`. Pure; for `plan.py`."""

from __future__ import annotations

from sextant.control.settings import AlertSettings, GroupRole, OidcSettings
from sextant.spec.control_sections import Alerts, Oidc


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
