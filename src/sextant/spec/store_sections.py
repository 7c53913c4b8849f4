"""`spec.store` and `spec.limits` of the document: where state lives that processes share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sextant.spec.fields import FilePath, Name, SecretReference, Section
from sextant.spec.stores import SQLITE, StoreSettings

_HERE = ("127.0.0.1", "::1", "localhost")
_POSTGRESQL = "postgresql://"
_EXAMPLE = "postgresql://sextant@db.example.com/sextant?sslmode=verify-full"


def _refusal(kind: str, said: str, expected: str, write: str) -> PydanticCustomError:
    return PydanticCustomError(kind, said, {"expected": expected, "write": write})


def _no_secret(value: str) -> None:
    """Raises where a password stands in a URL."""
    user = value.partition("://")[2].partition("/")[0].rpartition("@")[0]
    query = value.partition("?")[2]
    if ":" in user or any("password" in name for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise _refusal(
            "secret_inlined",
            "the URL holds a password",
            "a URL without one",
            "take it out, and write `password: env:NAME` or `password: file:/path` beside it; change it on "
            "the server if this file was shared",
        )


def _store_url(value: str) -> str:
    if value == SQLITE:
        return value
    _no_secret(value)
    if re.match(r"postgres(ql\+\w+)?:", value):
        raise _refusal(
            "store_url",
            "not how a PostgreSQL URL is written here",
            "`postgresql://USER@HOST/DATABASE`",
            f"`{_EXAMPLE}`",
        )
    if not re.fullmatch(r"postgresql://[^/?#\s@]+@[^/?#\s@]+/[A-Za-z0-9_.-]+(\?[^#\s]*)?", value):
        raise _refusal(
            "store_url",
            "not a store that this version knows",
            f"`{SQLITE}`, files in the state directory, or `{_POSTGRESQL}USER@HOST/DATABASE`",
            f"leave spec.store out, or for example `{_EXAMPLE}`",
        )
    return value


def _limits_url(value: str) -> str:
    _no_secret(value)
    found = re.fullmatch(r"rediss?://([^/:?#\s@]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/\d{1,3})?/?", value)
    if found is None or int((found.group(2) or ":1")[1:]) not in range(1, 65536):
        user = "@" in value
        raise _refusal(
            "limits_url",
            "the URL holds a user name" if user else "not a Redis URL",
            "`redis://HOST:PORT`, or `rediss://` for TLS, with `/NUMBER` for another database than 0",
            "write it as `username:`" if user else "for example `redis://127.0.0.1:6379`",
        )
    return value.rstrip("/")


class Store(Section):
    url: Annotated[str, AfterValidator(_store_url)] = Field(
        SQLITE,
        description="Where accounts and the ledger live: `sqlite:` is files in the state directory; "
        "`postgresql://USER@HOST/DATABASE` a database that several hosts may share. Parameters are libpq's.",
        examples=[_EXAMPLE],
    )
    password: SecretReference | None = Field(
        None, description="Its password, by reference; unset: none is sent."
    )

    def struct(self) -> StoreSettings:
        return StoreSettings(self.url, self.password)

    @property
    def is_exposed(self) -> bool:
        """Whether what is kept there travels to another machine without a proof that it is the right one."""
        parts = urlsplit(self.url)
        hosts = [host.rpartition("@")[2].partition(":")[0] for host in parts.netloc.split(",")]
        safe = dict(parse_qsl(parts.query)).get("sslmode") in ("verify-full", "verify-ca")
        return self.url != SQLITE and not safe and any(host not in _HERE for host in hosts)


class SharedLimits(Section):
    """Limits that all gateway processes keep together, on this host and on others."""

    url: Annotated[str, AfterValidator(_limits_url)] = Field(
        description="Redis 7.0 or newer, or Valkey: `redis://HOST:PORT`; `rediss://` for TLS.",
        examples=["redis://127.0.0.1:6379"],
    )
    username: Annotated[str, Field(max_length=128, pattern=r"^[^\s\x00]*$")] = Field(
        "", description="Its user; empty: the default one."
    )
    password: SecretReference | None = Field(None, description="Its password, by reference.")
    ca_file: FilePath | None = Field(
        None, description="Certificate authorities for `rediss://`, PEM; unset: the system's."
    )
    fail: Literal["closed", "local"] = Field(
        "closed",
        description="While Redis is away: `closed` answers 503; `local` goes on with limits of each process "
        "alone, which together let more through (best effort).",
    )
    name: Name = Field(
        "sextant", description="Deployments with different names share a Redis without meeting."
    )
    timeout_s: Annotated[float, Field(ge=0.05, le=60)] = Field(
        1.0, description="Longest wait for Redis; then it counts as away."
    )
    lease_s: Annotated[float, Field(ge=0.5, le=300)] = Field(
        5.0,
        description="A gateway not heard of for so long is taken for dead, and what it held is free again.",
    )

    def values(self) -> dict[str, Any]:
        """For `spec.stores.SharedLimits`, but for the worker's name."""
        values = self.model_dump()
        values["password_ref"] = values.pop("password")
        return values

    @property
    def is_exposed(self) -> bool:
        """Whether limits and the password travel to another machine in clear text."""
        parts = urlsplit(self.url)
        return parts.scheme == "redis" and parts.hostname not in _HERE
