"""Which upstream serves a request: the route table as each principal sees it, weights, and passive failure
marks.

Flow 1 (serve), between the gate and the pool. The supervisor's verdict (`Upstream.ready`) decides who may be
asked; a failure seen here only moves an upstream behind the others for a while, so that one bad moment of a
single replica is no outage. Neighbours: `flow.py` asks, `app.py` swaps the table.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from sextant.base.errors import BadRequest, NotFound, SextantError
from sextant.gateway.queue import Gates, ModelGate
from sextant.governance.door import Reach
from sextant.spec.snapshot import GatewayLimits, RouteTable, ServedModel, Upstream
from sextant.transport.exchange import Header

_log = logging.getLogger(__name__)
FIRST_REST_S = 0.5
LONGEST_REST_S = 15.0
STANDS_IN: Header = (b"x-sextant-stands-in", b"1")
"""On a request that another gateway answers in our place: it is to ask nobody else in its own."""
DOUBLINGS = 5
"""By then the longest rest is reached."""
VIEWS_REMEMBERED = 4096
"""Different reaches whose view of a table is kept."""
NOT_READY = "it is not ready"
_SAID_TO_CALLERS = (
    ("it is starting again", "it ended and is started again"),
    ("it is starting", "it is starting"),
    ("it has not been asked yet", "it is starting"),
    ("exit status", "it ended and is started again"),
    ("killed by", "it ended and is started again"),
    ("cannot be started", "it cannot be started"),
    ("not ready within", "it did not become ready in time and is started again"),
    ("it hung", "it hung and is started again"),
    ("its work stands still", "it hung and is started again"),
    ("it leaks memory", "it took too much memory and is started again"),
    ("health check", "its health check fails"),
    ("the health check", "its health check fails"),
    ("no answer", "it does not answer"),
    ("no connection", "it does not answer"),
    ("nothing listens", "it does not answer"),
    ("no identity", "this gateway cannot show it who asks"),
    ("the peer is", "it is not who it should be"),
    ("it is stopped", "it is stopped"),
    ("stopped", "it is stopped"),
)
"""How the supervisor's reasons begin, and what a caller is told of them."""


def reason_for_callers(reason: str) -> str:
    """What kind of reason the supervisor has for an upstream's not being ready. The rest of it may be a line
    of the engine's log, with paths and secrets; it stays in the supervisor's status and its log."""
    if not reason:
        return ""
    return next((said for beginning, said in _SAID_TO_CALLERS if reason.startswith(beginning)), NOT_READY)


class Target:
    """One upstream, prepared: headers and request targets are made once, not per request."""

    __slots__ = (
        "_failures",
        "_paths",
        "_prefix",
        "_rest_until_s",
        "base_url",
        "headers",
        "ready",
        "reason",
        "stand_in_headers",
        "upstream",
        "weight",
    )

    def __init__(self, upstream: Upstream, api_key: str | None, problem: str | None) -> None:
        url = urlsplit(upstream.base_url)
        self.upstream = upstream
        self.base_url = f"{url.scheme}://{url.netloc}"
        if upstream.peer_id is not None:
            self.base_url += f"#{upstream.peer_id}"
        self._prefix = url.path.rstrip("/")
        self._paths: dict[str, bytes] = {}
        self.ready = upstream.ready and problem is None
        self.reason = problem or reason_for_callers(upstream.reason)
        """Why it is not ready, as anybody may read it."""
        self.weight = max(0, upstream.weight)
        self.headers: tuple[Header, ...] = ((b"content-type", b"application/json"),)
        if api_key is not None:
            self.headers += ((b"authorization", b"Bearer " + api_key.encode("ascii")),)
        self.stand_in_headers = (*self.headers, STANDS_IN)
        """Of a request that falls back to it."""
        self._failures = 0
        self._rest_until_s = 0.0

    def path(self, target: str) -> bytes:
        """The request target for a path under the API root."""
        found = self._paths.get(target)
        if found is None:
            found = self._paths[target] = (self._prefix + target).encode("ascii")
        return found

    def resting(self, now_s: float) -> bool:
        return self._failures > 0 and now_s < self._rest_until_s

    def failed(self) -> None:
        """Puts it behind the others: half a second, doubling to fifteen."""
        self._failures += 1
        rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(self._failures - 1, DOUBLINGS))
        self._rest_until_s = time.monotonic() + rest_s

    def succeeded(self) -> None:
        self._failures = 0

    def remember(self, former: Target) -> None:
        """Takes over the marks of the same upstream from the table before, unless it was restarted since."""
        if former.base_url == self.base_url:
            self._failures, self._rest_until_s = former._failures, former._rest_until_s


class ModelRoute:
    """A served model with its targets and its gate."""

    __slots__ = ("_only", "gate", "served", "targets")

    def __init__(self, served: ServedModel, targets: list[Target], gate: ModelGate) -> None:
        self.served = served
        self.targets = targets
        self.gate = gate
        self._only = targets[0] if len(targets) == 1 else None

    @property
    def ready(self) -> bool:
        return any(target.ready for target in self.targets)

    def pick(self, tried: tuple[Target, ...] = ()) -> Target | None:
        """A ready target that has not been tried: by weight among those that did not just fail, else the one
        of the failed; None when there is none left."""
        if self._only is not None:
            return self._only if self._only.ready and not tried else None
        candidates = [target for target in self.targets if target.ready and target not in tried]
        if not candidates:
            return None
        now_s = time.monotonic()
        fresh = [target for target in candidates if not target.resting(now_s)] or candidates
        weights = [target.weight for target in fresh]
        if not any(weights):
            return random.choice(fresh)
        return random.choices(fresh, weights)[0]


class View:
    """The routes that somebody may use, by name and alias."""

    __slots__ = ("_families", "by_name")

    def __init__(self, routes: Iterable[ModelRoute]) -> None:
        self.by_name: dict[str, ModelRoute] = {}
        self._families: list[tuple[str, ModelRoute]] = []
        for route in routes:
            for name in (route.served.id, *route.served.aliases):
                if name.endswith("*"):
                    self._families.append((name[:-1], route))
                else:
                    self.by_name.setdefault(name, route)

    def find(self, name: object) -> ModelRoute:
        """By name, or by an alias that ends in `*` and stands for all names that begin so.

        Raises BadRequest or NotFound.
        """
        if type(name) is str:
            route = self.by_name.get(name)
            if route is not None:
                return route
            for beginning, route in self._families:
                if name.startswith(beginning):
                    return route
        raise self._unknown(name)

    def _unknown(self, name: object) -> SextantError:
        if type(name) is not str:
            what = "is missing" if name is None else "is not a string"
            return BadRequest(
                f"model {what}; expected the id of a model.", field="model", code="invalid_value"
            )
        known = ", ".join(sorted(self.by_name)[:8]) or "none yet"
        return NotFound(
            f"The model {name[:100]!r} does not exist or you may not use it; known models: {known}.",
            field="model",
            code="model_not_found",
        )


class RouteIndex:
    """A RouteTable, as each principal may see it. Built whole, swapped whole."""

    __slots__ = ("_views", "routes", "version")

    def __init__(
        self,
        table: RouteTable,
        resolve: Callable[[str], str],
        former: RouteIndex | None = None,
        *,
        gates: Gates | None = None,
    ) -> None:
        """`resolve` turns a secret reference into the secret; an upstream whose reference fails is not
        ready. `gates` lives as long as the gateway; none: fresh ones of the default bounds."""
        self.version = table.version
        marks = {} if former is None else {t.upstream.id: t for r in former.routes for t in r.targets}
        own = (gates or Gates(GatewayLimits())).assign(table.models)
        self.routes: list[ModelRoute] = [
            ModelRoute(served, [_prepare(upstream, resolve, marks) for upstream in served.upstreams], gate)
            for served, gate in zip(table.models, own, strict=True)
        ]
        self._views: dict[Reach, View] = {}

    @classmethod
    def empty(cls) -> RouteIndex:
        """Before the first table has been read."""
        return cls(RouteTable(version=0), str)

    def of(self, reach: Reach) -> View:
        """What a principal of this reach may use."""
        view = self._views.get(reach)
        if view is None:
            if len(self._views) >= VIEWS_REMEMBERED:
                self._views.clear()
            view = self._views[reach] = View(_within(self.routes, reach))
        return view

    def named(self, name: str) -> list[ModelRoute]:
        """All routes of a model, whosever they are, by any of its names. Raises NotFound."""
        model_id = View(self.routes).find(name).served.id
        return [route for route in self.routes if route.served.id == model_id]


def _within(routes: Iterable[ModelRoute], reach: Reach) -> list[ModelRoute]:
    """The routes of `reach`, in order; of several with one id that of its pool, else the shared one."""
    found: dict[str, ModelRoute] = {}
    for route in routes:
        served = route.served
        if served.pool not in ("", reach.pool) or (
            reach.models is not None and served.id not in reach.models
        ):
            continue
        if served.tenants and not (reach.own_models and reach.tenant_id in served.tenants):
            continue
        if served.id not in found or served.pool:
            found[served.id] = route
    return list(found.values())


def _prepare(upstream: Upstream, resolve: Callable[[str], str], marks: dict[str, Target]) -> Target:
    secret, problem = None, None
    if upstream.api_key_ref is not None:
        try:
            secret = resolve(upstream.api_key_ref)
        except SextantError as error:
            _log.error("upstream %s is not ready, its key cannot be read: %s", upstream.id, error.message)
            problem = "its key cannot be read"
        if secret is not None and not secret.isascii():
            secret, problem = None, "its key has characters that no header can hold"
            _log.error("upstream %s is not ready: %s", upstream.id, problem)
    target = Target(upstream, secret, problem)
    if upstream.id in marks:
        target.remember(marks[upstream.id])
    return target
