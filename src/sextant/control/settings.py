"""What control is told, and what it is shown: its settings, and the supervisor's status file.

The supervisor (`sextant.app`) writes both; control and `sextant status` read the status.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import TlsFiles
from sextant.spec.stores import StoreSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class GroupRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Members of an identity provider's `group` have `role`, in one tenant or, with an empty `tenant_id`, in
    the whole deployment."""

    group: str
    role: str
    tenant_id: str = ""


class OidcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenID Connect provider; `client_secret_ref` is a secret reference, empty for a public client."""

    issuer: str
    client_id: str
    redirect_url: str
    client_secret_ref: str = ""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    groups_claim: str = "groups"
    roles: tuple[GroupRole, ...] = ()


class AlertSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ways that alerts take; `smtp_password_ref` is a secret reference, an empty `smtp_host` means no
    e-mails."""

    private_webhooks: bool = False
    smtp_host: str = ""
    smtp_port: int = 587
    smtp_sender: str = ""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str = ""
    smtp_password_ref: str = ""
    smtp_ca_file: str = ""


class AgreementSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The agreement that tenants accept; the fields mean what they mean in `spec.portal.agreement`."""

    file: str
    version: str
    required: bool = True


class PortalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The portal, and signing up; the fields mean what they mean in `spec.portal`, empty for unset."""

    url: str = ""
    api_url: str = ""
    support: str = ""
    sign_up: Literal["closed", "open"] = "closed"
    tier: str = "free"
    plan: str = ""
    credit_nano: int = 0
    time_zone: str = "UTC"
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    sign_ups_per_day: int = 200
    sign_ups_per_source_per_day: int = 10
    trusted_proxies: tuple[str, ...] = ()
    agreement: AgreementSettings | None = None

    @property
    def fenced_host(self) -> str:
        """The host name of the portal alone; empty where it has none, or shares this machine's loopback."""
        host = (urlsplit(self.url).hostname or "").lower()
        return "" if host in LOOPBACK else host


class ControlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor tells control, as a JSON file."""

    host: str
    port: int
    accounts_db: str
    ledger_db: str
    policy_file: str
    routes_file: str
    status_file: str
    ledger_socket: str = ""
    """Where the ledger process listens, for top-ups and balances."""
    store: StoreSettings = StoreSettings()
    """Where accounts and ledger are kept; with PostgreSQL the two files are not there."""
    sync_file: str = ""
    """Where `sextant follow` says how it stands."""
    engine_metrics_file: str = ""
    """Where the supervisor keeps the engines' own metrics, as Prometheus text."""
    forward_status_file: str = ""
    """Where the forwarder says how it stands; empty where there is none."""
    tls: TlsFiles | None = None
    oidc: OidcSettings | None = None
    alerts: AlertSettings = AlertSettings()
    portal: PortalSettings = PortalSettings()

    @property
    def secret_refs(self) -> tuple[str | None, ...]:
        """References to all secrets that control reads."""
        oidc = self.oidc.client_secret_ref if self.oidc else ""
        return self.store.password_ref, oidc or None, self.alerts.smtp_password_ref or None


class ProcessStatus(msgspec.Struct, frozen=True):
    """One process as the supervisor sees it. `state` is starting, ready, unwell, waiting (to be started
    again), stopped, or, for an endpoint that runs elsewhere, ready or unwell with pid 0."""

    name: str
    kind: str  # "ledger" | "identity" | "engine" | "gateway" | "control" | "forwarder"
    state: str
    pid: int
    restarts: int
    reason: str
    since_ms: int
    model: str = ""
    upstream: str = ""
    file: str = ""
    """The model's file or folder, where it is on this machine."""
    serves: bool = True
    """False for an engine that is being tried before it takes over, and for one whose last requests end."""


class Applied(msgspec.Struct, frozen=True):
    """The document that runs, when it came by `sextant apply`."""

    name: str
    """`metadata.name`."""
    since_ms: int
    revision: str = ""
    """The commit it came from; empty for a file."""
    origin: str = ""
    """The repository, without credentials, or the file."""
    path: str = ""
    """Where the document lies in the repository; empty for a file."""


class Status(msgspec.Struct, frozen=True):
    """The deployment as the supervisor sees it, rewritten at each change."""

    version: str
    pid: int
    started_ms: int
    url: str
    control_url: str
    processes: tuple[ProcessStatus, ...]
    applied: Applied | None = None
    """None while what runs is what `sextant up` was given."""

    @property
    def ready(self) -> bool:
        serving = [process.state for process in self.processes if process.serves]
        return bool(serving) and all(state == "ready" for state in serving)


class Sync(msgspec.Struct, frozen=True):
    """How a deployment stands to the repository that it follows; `sextant follow` rewrites it at each look.
    Commits are empty, and times 0, for never."""

    repository: str
    """Without credentials."""
    branch: str
    path: str
    newest: str = ""
    """The branch's newest commit, as far as is known."""
    reached_ms: int = 0
    """When the repository last answered."""
    applied: str = ""
    """The commit that was applied last."""
    applied_ms: int = 0
    trouble: str = ""
    """Why the newest commit is not applied; empty while it is."""
    failed: str = ""
    """A commit that is not tried again by itself."""
    failed_why: str = ""
    failures: int = 0
    """Looks that ended in trouble, since this repository is followed."""
    failed_in_a_row: int = 0


def read_sync(path: Path) -> Sync | None:
    """What `sextant follow` wrote; None where nothing is followed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sync)
    except (OSError, msgspec.DecodeError):
        return None


def read_status(path: Path) -> Status | None:
    """The status, or None where there is none or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (OSError, msgspec.DecodeError):
        return None


def read_control_settings(path: Path) -> ControlSettings:
    """Raises Misconfigured."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ControlSettings)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"the control settings {path} cannot be read: {error}") from None
