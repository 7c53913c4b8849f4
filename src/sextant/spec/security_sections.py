"""`spec.security` of the document: keys that live in a hardware security module (HSM), over PKCS#11.

`security/` opens the token and uses its keys; `render/hosts/` gives a server's units what the module needs.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sextant.spec.fields import (
    AbsolutePath,
    Argument,
    EnvironmentName,
    Group,
    Host,
    Name,
    SecretReference,
    Section,
    TokenLabel,
    items,
)
from sextant.spec.spiffe_id import TrustDomain, WorkloadApi


def _outside_the_token(value: str) -> str:
    if not value.startswith("sealed:"):
        return value
    raise PydanticCustomError(
        "pin_sealed",
        "the PIN is sealed with a key that only the PIN opens",
        {"expected": "`env:NAME` or `file:/path`", "write": "for example `file:/etc/sextant/hsm-pin`"},
    )


class Hsm(Section):
    """A token of an HSM and the keys in it. Keys are named by their labels; they never leave the token."""

    module: AbsolutePath = Field(
        description="The maker's PKCS#11 library on the machine that uses the keys.",
        examples=["/usr/lib/softhsm/libsofthsm2.so"],
    )
    token: TokenLabel = Field(
        description="The token's label.",
        examples=["sextant"],
    )
    serial: TokenLabel | None = Field(
        None, description="Its serial number, where several tokens have the same label."
    )
    pin: Annotated[SecretReference, AfterValidator(_outside_the_token)] = Field(
        description="The user's PIN, by reference: `file:/path`, or `env:NAME`.",
        examples=["file:/etc/sextant/hsm-pin"],
    )
    tls_key: TokenLabel | None = Field(
        None, description="Label of the front's TLS key; unset: the key is a file.", examples=["front"]
    )
    sealing_key: TokenLabel | None = Field(
        None,
        description="Label of the key that opens `sealed:/path` secrets; unset: there are none.",
        examples=["sealing"],
    )
    signing_key: TokenLabel | None = Field(
        None, description="Label of the Ed25519 key that signs releases for edge boxes; unset: none."
    )
    environment: Annotated[dict[EnvironmentName, Argument], Field(max_length=32)] = Field(
        {},
        description="Environment variables that the library reads; no secrets.",
        examples=[{"SOFTHSM2_CONF": "/etc/softhsm/softhsm2.conf"}],
    )
    devices: Annotated[tuple[AbsolutePath, ...], items(most=16)] = Field(
        (), description="Device files that the library opens, for HSMs inside or plugged into the server."
    )
    folders: Annotated[tuple[AbsolutePath, ...], items(most=16)] = Field(
        (), description="Folders that the library writes to."
    )
    hosts: Annotated[tuple[Host, ...], items(most=16)] = Field(
        (), description="Addresses of a network HSM, which the gateway's unit may then reach."
    )
    group: Group | None = Field(
        None, description="Group that may use the HSM, given to the units that do.", examples=["softhsm"]
    )

    @property
    def serves(self) -> bool:
        """Whether a server uses keys of it. Otherwise it signs releases, where they are made."""
        return self.tls_key is not None or self.sealing_key is not None


class Spiffe(Section):
    """Who the gateway is to its engines, and they to it: SPIFFE ids, shown in mutual TLS."""

    trust_domain: TrustDomain = Field(description="Name of the trust domain that issues our certificate.")
    workload_api: WorkloadApi = Field(
        "unix:///run/spire/sockets/spire-agent.sock",
        description="Socket of the SPIFFE Workload API that says who we are. In a rendered pod the CSI "
        "driver puts the agent's socket there.",
    )
    class_name: Name | None = Field(
        None,
        description="Class of the registrations in a rendered bundle, where SPIRE's controller manager heeds "
        "one class alone; unset: none.",
        examples=["spire-system-spire"],
    )


class Security(Section):
    """Where keys are kept."""

    hsm: Hsm | None = Field(
        None, description="A hardware security module that holds keys; unset: keys are files."
    )
    spiffe: Spiffe | None = Field(
        None,
        description="Mutual TLS with engines by SPIFFE ids; unset: engines are known by host names, or by "
        "the network alone.",
    )
