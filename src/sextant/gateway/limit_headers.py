"""What a caller is told of his limits in headers: OpenAI's names, and Anthropic's on its paths.

Flow 1 (serve), with every answer that governance limited, and with every 429. OpenAI writes a reset as a
duration (`6m0s`), Anthropic as a moment (RFC 3339). Neighbours: `flow.py`, `failures.py`; `queue.py` has the
headers of those who are limited by the gateway's places alone.
"""

from __future__ import annotations

import time

from sextant.governance.limits.limiter import Headroom
from sextant.transport.exchange import Header


def openai_headers(requests: Headroom | None, tokens: Headroom | None) -> list[Header]:
    """`x-ratelimit-*` of the limits that are known."""
    found: list[Header] = []
    if requests is not None:
        found += (
            (b"x-ratelimit-limit-requests", b"%d" % requests.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % requests.remaining),
            (b"x-ratelimit-reset-requests", duration(requests.reset_ms)),
        )
    if tokens is not None:
        found += (
            (b"x-ratelimit-limit-tokens", b"%d" % tokens.limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % tokens.remaining),
            (b"x-ratelimit-reset-tokens", duration(tokens.reset_ms)),
        )
    return found


def anthropic_headers(requests: Headroom | None, tokens: Headroom | None) -> list[Header]:
    """`anthropic-ratelimit-*` of the limits that are known."""
    found: list[Header] = []
    for kind, room in ((b"requests", requests), (b"tokens", tokens)):
        if room is not None:
            name = b"anthropic-ratelimit-" + kind
            found += (
                (name + b"-limit", b"%d" % room.limit),
                (name + b"-remaining", b"%d" % room.remaining),
                (name + b"-reset", _moment(time.time() + room.reset_ms / 1000)),
            )
    return found


def duration(ms: int) -> bytes:
    """As OpenAI writes it: `0s`, `20ms`, `1.5s`, `6m0s`, `1h0m30s`."""
    if 0 < ms < 1000:
        return b"%dms" % ms
    whole_s, rest_ms = divmod(ms, 1000)
    if ms < 60_000:
        return b"%ds" % whole_s if not rest_ms else f"{ms / 1000:g}s".encode()
    minutes, seconds = divmod(whole_s + (rest_ms > 0), 60)
    hours, minutes = divmod(minutes, 60)
    return (b"%dh" % hours if hours else b"") + b"%dm%ds" % (minutes, seconds)


def _moment(at_s: float) -> bytes:
    """Rounded up to the second: at that moment it is so."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(-(-at_s // 1))).encode("ascii")
