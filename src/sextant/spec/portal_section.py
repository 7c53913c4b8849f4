"""`spec.portal` of the document: where tenants' people find the portal, and whether strangers may sign up."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sextant.base.errors import BadRequest
from sextant.spec.fields import (
    FilePath,
    HttpUrl,
    MailDomain,
    Name,
    ProxyNetwork,
    Section,
    VersionName,
    items,
)
from sextant.spec.money import nano_of

_HERE = ("127.0.0.1", "[::1]", "localhost")


def _portal_url(value: str) -> str:
    """The portal's own address: of a host, with TLS but on this machine."""
    parts = urlsplit(value)
    host = parts.netloc.rpartition(":")[0] if parts.port else parts.netloc
    if not parts.path and (parts.scheme == "https" or host in _HERE):
        return value
    raise PydanticCustomError(
        "portal_url",
        "has a path" if parts.path else "has no TLS: passwords would be read on the way",
        {"expected": "https:// and a host, without a path", "write": f"`https://{parts.netloc}`"},
    )


def _support(value: str) -> str:
    if re.fullmatch(r"(https://[^\s<>\"'@]+|mailto:[^\s<>\"',?]+@[^\s<>\"',?]+)", value):
        return value
    raise PydanticCustomError(
        "support",
        "not an address that a page can link to",
        {"expected": "https:// or mailto:", "write": "for example `mailto:help@example.com`"},
    )


def _amount(value: str) -> str:
    try:
        nano = nano_of(value)
    except BadRequest:
        nano = -1
    if nano >= 0:
        return value
    raise PydanticCustomError(
        "amount",
        "no amount to give",
        {"expected": 'a decimal of 0 or more in quotes, such as "5.00"', "write": '`credit: "5.00"`'},
    )


class Agreement(Section):
    """A text that tenants accept, such as one on the use of data."""

    file: FilePath = Field(
        description="The text, Markdown in UTF-8, at most 256 KiB.", examples=["agreements/data-use.md"]
    )
    version: VersionName = Field(
        description="Name of this version. Another text needs another one, once somebody has accepted it.",
        examples=["2026-11"],
    )
    required: bool = Field(
        True, description="Whether a tenant's people must have accepted it before they can make keys."
    )


class Portal(Section):
    """The portal of tenants' people, and signing up. Pages are served on the admin API's address, under
    `/portal`."""

    url: Annotated[HttpUrl, AfterValidator(_portal_url)] | None = Field(
        None,
        description="Its public address, at which nothing else of the admin API answers; unset: it is only "
        "where the admin API is.",
        examples=["https://portal.example.com"],
    )
    api_url: HttpUrl | None = Field(
        None,
        description="The API root that it shows to callers; unset: a bundle's own, else none.",
        examples=["https://api.example.com/v1"],
    )
    support: Annotated[str, Field(max_length=300), AfterValidator(_support)] | None = Field(
        None, description="Where people ask for help.", examples=["mailto:help@example.com"]
    )
    sign_up: Literal["closed", "open"] = Field(
        "closed",
        description="`open`: whoever has an e-mail address may make a tenant; needs `url` and "
        "`spec.alerts.smtp`. `closed`: by invitation.",
    )
    tier: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        "free", description="Tier of a tenant that signs up."
    )
    plan: Annotated[str, Field(max_length=64)] = Field(
        "", description="Its price plan, prepaid; empty: nothing is charged."
    )
    credit: Annotated[str, AfterValidator(_amount)] = Field(
        "0", description="What it is given at the start, once, in the plan's currency; needs `plan`."
    )
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        "UTC", description="Whose days and months its usage is counted by."
    )
    allowed_domains: Annotated[tuple[MailDomain, ...], items(most=1000)] = Field(
        (), description="Mail domains that may sign up, and those below them; unset: all."
    )
    blocked_domains: Annotated[tuple[MailDomain, ...], items(most=10_000)] = Field(
        (), description="Mail domains that may not, as those of addresses to throw away."
    )
    sign_ups_per_day: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        200, description="Most sign-ups asked for within 24 hours, each of which is an e-mail."
    )
    sign_ups_per_source_per_day: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10, description="Of these from one address; of IPv6 from one /64 network."
    )
    trusted_proxies: Annotated[tuple[ProxyNetwork, ...], items(most=64)] = Field(
        (),
        description="Networks of proxies in front of the portal: from there, and only there, the caller's "
        "address is taken from `X-Forwarded-For`.",
    )
    gateway_class: Name = Field(
        "eg", description="GatewayClass of Envoy Gateway that a rendered cluster reaches it through."
    )
    agreement: Agreement | None = Field(None, description="What tenants accept; unset: nothing.")


def conflict_of_portal(portal: Portal, *, mails: bool) -> tuple[str, str, str, str] | None:
    """What of the section does not fit together: field, what is wrong, what was expected, what to write.
    `mails`: whether the document names a mail server."""
    if nano_of(portal.credit) and not portal.plan:
        said = f"{portal.credit} would be given to tenants that are charged nothing"
        return "spec.portal.credit", said, "a price plan beside it", "for example `plan: standard`"
    if portal.sign_up == "closed":
        return None
    if portal.url is None:
        said = "the e-mail to a stranger has no address of the portal to name"
        return "spec.portal.sign_up", said, "`url` beside it", "for example `url: https://portal.example.com`"
    if not mails:
        said = "a stranger's address is confirmed by e-mail, and no mail server is named"
        return (
            "spec.portal.sign_up",
            said,
            "spec.alerts.smtp",
            "`alerts: {smtp: {host: …, sender: …}}` in spec",
        )
    return None
