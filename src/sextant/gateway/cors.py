"""Cross-origin requests: off unless origins are configured.

Flow 1 (serve), at the very edge: `app.py` asks for the headers of an origin, and answers preflights. `*`
allows every origin; credentials in cookies are never allowed (the API knows none), so `*` is safe with
bearer keys.
"""

from __future__ import annotations

from sextant.transport.exchange import Header

MAX_AGE_S = 600
_EXPOSED = (
    b"x-request-id, retry-after, retry-after-ms, x-should-retry, x-ratelimit-limit-requests, "
    b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, anthropic-ratelimit-requests-limit, "
    b"anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, "
    b"anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, "
    b"anthropic-ratelimit-tokens-reset"
)


class Cors:
    """The configured origins."""

    __slots__ = ("_any", "_origins")

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode("ascii", "replace").lower() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def headers(self, origin: bytes | None) -> list[Header]:
        """For an answer to a request from `origin`; none for a foreign origin, or none at all."""
        if origin is None or not (self._any or origin.lower() in self._origins):
            return []
        return [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]

    def preflight(self, origin: bytes | None, wanted_headers: bytes | None) -> list[Header]:
        """For the answer to an OPTIONS request; empty when the origin is not allowed. The browser's wish
        list is granted as it stands (names only: the transport has checked that it holds no line break)."""
        allowed = self.headers(origin)
        if not allowed:
            return []
        return [
            *allowed,
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", wanted_headers or b"authorization, content-type, x-api-key"),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ]
