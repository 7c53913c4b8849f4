"""How often a site may send usage here: a bucket of batches for each, in this process.

A site that catches up after days without a line is let through; a credential that was taken, or a box that
turns in circles, is not, and is told when to come again. Neighbours: `sites.py` (the route),
`sextant.app.forwarding` (who pauses then).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastapi import Request

from sextant.base.errors import RateLimited
from sextant.control.access import Allowed, OfSite

BATCHES_PER_S = 20.0
BATCHES_AT_ONCE = 100.0
"""The bucket's size: so many batches may come without a pause."""


class PacedSite(OfSite):
    """The permission of a site's own route, which is not given more often than the bound allows: before the
    body is read."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        """`now_s` is a clock that never goes back."""
        super().__init__()
        self._now_s = now_s
        self._left: dict[str, tuple[float, float]] = {}  # by site: batches left, and when that was
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Allowed:
        """Raises Forbidden, RateLimited."""
        allowed = super().__call__(request)
        self._take(allowed.caller.site_id)
        return allowed

    def _take(self, site_id: str) -> None:
        with self._lock:
            now_s = self._now_s()
            left, at_s = self._left.get(site_id, (BATCHES_AT_ONCE, now_s))
            left = min(BATCHES_AT_ONCE, left + (now_s - at_s) * BATCHES_PER_S)
            if left >= 1:
                self._left[site_id] = (left - 1, now_s)
                return
            self._left[site_id] = (left, now_s)
        raise RateLimited(
            f"the site {site_id} sends more than {BATCHES_PER_S:g} batches a second; its rows are safe where "
            f"they are, send them later",
            retry_after_s=(1 - left) / BATCHES_PER_S,
        )
