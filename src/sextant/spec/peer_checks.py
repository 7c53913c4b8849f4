"""What is wrong with SPIFFE ids in a document whose fields are right one by one. For `document.py`."""

from __future__ import annotations

from collections.abc import Iterable

from sextant.spec.engine_sections import Engine, RemoteEngine
from sextant.spec.security_sections import Security

Conflict = tuple[str, str, str, str]
"""Field, what is wrong, what was expected, what to write."""


def conflict_of_peers(security: Security, engines: Iterable[tuple[str, Engine]]) -> Conflict | None:
    """The first fault; `engines` with the place of each in the document."""
    for place, engine in engines:
        if not isinstance(engine, RemoteEngine) or engine.peer_id is None:
            continue
        if security.spiffe is None:
            return (
                f"{place}.peer_id",
                "names who must answer, and spec.security.spiffe does not say who asks",
                "both, or neither: the TLS is mutual",
                "`security: {spiffe: {trust_domain: example.org}}` in spec, or delete the line",
            )
        if not engine.base_url.startswith("https://"):
            return (
                f"{place}.peer_id",
                f"needs TLS, and {engine.base_url} has none",
                "a base_url with https://",
                "https://, or delete the line",
            )
    return None
