"""`spec.control.oidc` and `spec.alerts` of the document: who may sign in besides local people, and how alerts
leave the house."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sextant.spec.fields import FilePath, Host, HttpUrl, Port, SecretReference, Section, items
from sextant.spec.roles import Role

CALLBACK = "/v1/oidc/callback"
_HERE = ("127.0.0.1", "[::1]", "localhost")


def _safe_url(value: str) -> str:
    """A URL of a provider or of ours, with TLS but on this machine."""
    parts = urlsplit(value)
    host = parts.netloc.rpartition(":")[0] if parts.port else parts.netloc
    if parts.scheme == "https" or host in _HERE:
        return value
    raise PydanticCustomError(
        "oidc_url",
        "has no TLS: who is on the way could sign in as anybody",
        {"expected": "an https:// URL", "write": f"`https://{parts.netloc}{parts.path}`"},
    )


def _redirect_url(value: str) -> str:
    if urlsplit(value).path == CALLBACK:
        return value
    raise PydanticCustomError(
        "oidc_redirect",
        "not the address that the provider sends people back to",
        {
            "expected": f"the admin API's public address with the path {CALLBACK}",
            "write": f"for example `https://admin.example.com{CALLBACK}`",
        },
    )


class OidcRole(Section):
    group: Annotated[str, Field(min_length=1, max_length=300)] = Field(
        description="A group as the provider names it.", examples=["platform-team"]
    )
    role: Role = Field(description="The role of its members.", examples=["operator"])
    tenant: Annotated[str, Field(max_length=64)] = Field(
        "", description="The tenant that the role is for; empty: the whole deployment."
    )


class Oidc(Section):
    """Sign-in of people through an OpenID Connect provider (authorization code with PKCE)."""

    issuer: Annotated[HttpUrl, AfterValidator(_safe_url)] = Field(
        description="The provider's issuer, exactly as its discovery document writes it, without a slash at "
        "the end.",
        examples=["https://id.example.com/realms/company"],
    )
    client_id: Annotated[str, Field(min_length=1, max_length=300)] = Field(
        description="Our id at the provider.", examples=["sextant"]
    )
    client_secret: SecretReference | None = Field(
        None, description="Our secret there, by reference; unset: a public client."
    )
    redirect_url: Annotated[HttpUrl, AfterValidator(_safe_url), AfterValidator(_redirect_url)] = Field(
        description=f"The admin API's public address with {CALLBACK}, as registered at the provider.",
        examples=[f"https://admin.example.com{CALLBACK}"],
    )
    scopes: Annotated[tuple[str, ...], items(least=1, most=20)] = Field(
        ("openid", "email", "profile"), description="What is asked for."
    )
    groups_claim: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        "groups", description="The claim that lists someone's groups."
    )
    roles: Annotated[tuple[OidcRole, ...], items(most=1000)] = Field(
        (), description="Which groups have which roles. Someone without one may sign in and do nothing."
    )


class Smtp(Section):
    """A mail server that takes messages for delivery."""

    host: Host = Field(description="Its address.", examples=["smtp.example.com"])
    port: Port = Field(587, description="Its port.")
    sender: Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^\s<>,]+@[^\s<>,]+$")] = Field(
        description="The address that mail comes from.", examples=["sextant@example.com"]
    )
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="`none` is for a server on this very machine."
    )
    user: Annotated[str, Field(max_length=254)] = Field("", description="Empty: no login.")
    password: SecretReference | None = Field(None, description="Its password, by reference.")
    ca_file: FilePath | None = Field(
        None, description="Certificate authorities to trust, PEM; unset: the system's."
    )


class Alerts(Section):
    """How alerts of budgets reach people."""

    smtp: Smtp | None = Field(None, description="The mail server; unset: no e-mails.")
    private_webhooks: bool = Field(
        False, description="Let webhooks go to addresses that are not public, and without TLS."
    )
