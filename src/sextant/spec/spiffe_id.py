"""SPIFFE ids and trust domains as the document writes them (SPIFFE-ID, sections 2 and 3).

Neighbours: `engine_sections.py` and `security_sections.py` hold the fields, `security/spiffe.py` checks
certificates.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sextant.base.ids import TRUST_DOMAIN_BYTES_MAX, trust_domain_of

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)


def _spiffe_id(value: str) -> str:
    if not trust_domain_of(value):
        raise PydanticCustomError(
            "spiffe_id",
            "not the SPIFFE id of a workload",
            {
                "expected": "spiffe://, a trust domain in lower case, and a path without `..`",
                "write": "for example `spiffe://example.org/ns/sextant/sa/engine`",
            },
        )
    return value


def _trust_domain(value: str) -> str:
    if _TRUST_DOMAIN.fullmatch(value) is None or len(value) > TRUST_DOMAIN_BYTES_MAX:
        raise PydanticCustomError(
            "trust_domain",
            "not a trust domain",
            {
                "expected": "lower-case letters, digits, dots, dashes and underscores, without `spiffe://`",
                "write": "for example `example.org`",
            },
        )
    return value


def _workload_api(value: str) -> str:
    if re.fullmatch(r"unix://(/[^\s?#@:/]+){2,}", value) is None or "/.." in value:
        raise PydanticCustomError(
            "workload_api",
            "not the address of a Workload API",
            {
                "expected": "a Unix socket of this machine with its whole path, in a folder of its own",
                "write": "for example `unix:///run/spire/agent-sockets/spire-agent.sock`",
            },
        )
    return value


SpiffeId = Annotated[
    str, AfterValidator(_spiffe_id), Field(examples=["spiffe://example.org/ns/sextant/sa/engine"])
]
TrustDomain = Annotated[str, AfterValidator(_trust_domain), Field(examples=["example.org"])]
WorkloadApi = Annotated[str, AfterValidator(_workload_api)]
