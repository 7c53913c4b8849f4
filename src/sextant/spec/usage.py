"""What one request used: the noun that the gateway hands to governance and the ledger keeps."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one request. `input_tokens` includes `cached_tokens`; `output_tokens` includes
    `reasoning_tokens`. `estimated` is true when the engine reported none and the gateway counted itself;
    `reasoning_estimated` when only the share of reasoning in an exact total is the gateway's."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    reasoning_estimated: bool = False


UNBILLED = frozenset({"engine_error", "refused"})
"""Outcomes that cost nothing and count against no limit: the caller did not get what he asked for, and it was
not his doing."""


class UsageRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the gateway reports of one request; the ledger adds what it cost. Times are Unix milliseconds."""

    request_id: str
    tenant_id: str
    project_id: str
    """Empty for a key of no project."""
    key_id: str
    model: str
    endpoint: str
    outcome: str  # "ok" | "client_closed" | "engine_error" | "refused"
    started_ms: int
    duration_ms: int
    ttft_ms: int  # -1: no token was produced
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated: bool
