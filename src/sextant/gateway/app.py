"""The gateway as a handler: the route table of paths, and what every answer has in common.

Flow 1 (serve), its entry above the transport. Paths exist bare and under /v1, as DeepSeek and OpenAI publish
them. Everything that calls an engine goes through `flow.py`; the rest is answered here. A path that does not
exist is 404, a wrong method 405, both in OpenAI's error shape, or Anthropic's on its paths.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Literal
from urllib.parse import unquote

from sextant.base.config import resolve_secret
from sextant.base.errors import MethodNotAllowed, NotFound, SextantError
from sextant.base.ids import IdSource
from sextant.gateway import anthropic, anthropic_models, catalogue, failures
from sextant.gateway.accesslog import AccessLog
from sextant.gateway.anthropic import CountTokensDialect, MessagesDialect
from sextant.gateway.chat import ChatDialect
from sextant.gateway.completions import CompletionsDialect
from sextant.gateway.cors import Cors
from sextant.gateway.dialect import Dialect
from sextant.gateway.embeddings import EmbeddingsDialect
from sextant.gateway.flow import Flow, secret_of
from sextant.gateway.meters import Meters
from sextant.gateway.observe import Observer
from sextant.gateway.privacy import Shield
from sextant.gateway.request_fields import query_values
from sextant.gateway.rerank import RerankDialect
from sextant.gateway.responses import ResponsesDialect
from sextant.gateway.router import RouteIndex
from sextant.gateway.run import JSON, Surface
from sextant.governance.door import Governor, Principal
from sextant.spec.snapshot import GatewaySettings, RouteTable
from sextant.telemetry.table import Registry
from sextant.transport.exchange import Header, Request, Responder, UpstreamPool

DIALECTS: tuple[tuple[Callable[[], Dialect], bool, tuple[str, ...]], ...] = (
    (ChatDialect, True, ("/chat/completions", "/v1/chat/completions", "/beta/chat/completions")),
    (CompletionsDialect, True, ("/completions", "/v1/completions", "/beta/completions")),
    (ResponsesDialect, True, ("/responses", "/v1/responses")),
    (MessagesDialect, True, ("/v1/messages", "/anthropic/v1/messages")),
    (CountTokensDialect, False, ("/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens")),
    (EmbeddingsDialect, True, ("/embeddings", "/v1/embeddings")),
    (RerankDialect, True, ("/rerank", "/v1/rerank", "/v2/rerank")),
)
"""What makes a request's dialect, whether it is metered, and where it is found (always POST)."""

_ANTHROPIC_PATHS = ("/anthropic/", "/v1/messages")
METRICS_TYPE: Header = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")

Answer = Callable[[Request, Responder, list[Header], Principal], Awaitable[None] | None]
Open = Callable[[Request, Responder, list[Header]], None]


class GatewayApp:
    """The handler. Made by `build_handler`; `swap_routes` gives it its models."""

    def __init__(
        self, settings: GatewaySettings, governor: Governor, pool: UpstreamPool, registry: Registry
    ) -> None:
        meters = Meters()
        registry.prometheus.register(meters)
        self._registry = registry
        self._governor = governor
        self._access_log = AccessLog(sys.stderr) if settings.access_log else None
        self._observer = Observer(meters, self._access_log)
        self._flow = Flow(settings.limits, governor, pool, Shield(meters))
        self._ids = IdSource("req_")
        self._cors = Cors(settings.cors_origins)
        self._surfaces = self._surface_paths()
        self._guarded = self._guarded_paths()
        self._open = self._open_paths()
        self.routes = RouteTable(version=0)
        """The route table in use."""
        self.nameless: Callable[[], str] = str
        """Why engines cannot be shown who asks, in words for anybody; empty while they can, or where none
        wants to know."""
        meters.gauge("sextant_gateway_requests_in_progress", lambda: self._flow.gates.outer.active)
        meters.gauge("sextant_gateway_queue_length", lambda: self._flow.gates.waiting)
        meters.gauge("sextant_gateway_tenants_waiting", lambda: self._flow.gates.tenants_waiting)
        meters.gauge("sextant_gateway_ready", lambda: float(self._ready()[0]))
        meters.labelled_gauge("sextant_engine_ready", self._engines_ready)
        meters.labelled_gauge(
            "sextant_gateway_snapshot_version", lambda: [(("routes",), float(self.routes.version))]
        )
        meters.labelled_gauge("sextant_gateway_upstream_requests", self._upstream_requests)
        meters.labelled_gauge("sextant_model_requests_in_progress", lambda: self._gates("active"))
        meters.labelled_gauge("sextant_model_queue_length", lambda: self._gates("waiting"))
        meters.labelled_gauge("sextant_model_places", lambda: self._gates("places"))

    def swap_routes(self, table: RouteTable) -> None:
        """Takes `table` from now on, whole. Requests under way end on the one before."""
        self._flow.index = RouteIndex(table, resolve_secret, self._flow.index, gates=self._flow.gates)
        self.routes = table

    @property
    def requests_in_progress(self) -> int:
        """Requests with an engine call under way."""
        return self._flow.gates.outer.active

    def close(self) -> None:
        """Stops the keep-alive clock and writes the rest of the access log."""
        self._flow.waiting.close()
        if self._access_log is not None:
            self._access_log.close()

    def __call__(self, request: Request, responder: Responder) -> Awaitable[None]:
        """Answers one request."""
        request_id = self._ids.next()
        headers: list[Header] = [(b"x-request-id", request_id.encode("ascii"))]
        if self._cors:
            headers += self._cors.headers(request.header(b"origin"))
        surface = self._surfaces.get(request.path)
        if surface is None or request.method != "POST":
            return self._off_the_hot_path(request, responder, headers)
        if surface.id_header is not None:
            headers.append((surface.id_header, headers[0][1]))
        return self._flow.serve(surface, request, responder, request_id, headers)

    def _surface_paths(self) -> dict[str, Surface]:
        paths: dict[str, Surface] = {}
        for make, metered, where in DIALECTS:
            paths |= dict.fromkeys(where, Surface(make, self._observer, metered=metered))
        return paths

    def _guarded_paths(self) -> dict[str, Answer]:
        """All of them answer GET and HEAD, to who has an API key."""
        return {
            "/models": self._models,
            "/v1/models": self._models,
            "/anthropic/v1/models": self._models,
            "/user/balance": self._balance,
            "/v1/user/balance": self._balance,
        }

    def _open_paths(self) -> dict[str, Open]:
        """All of them answer GET and HEAD, to everybody."""
        return {
            "/health": self._health,
            "/ready": self._readiness,
            "/metrics": self._metrics,
        }

    async def _off_the_hot_path(self, request: Request, responder: Responder, headers: list[Header]) -> None:
        """Everything that runs no model, and everything that does not exist."""
        origin = request.header(b"origin") if self._cors else None
        if request.method == "OPTIONS" and origin is not None:
            self._preflight(request, responder, headers[:1], origin)
            return
        anyone, answer = self._open.get(request.path), self._guarded.get(request.path)
        if answer is None and request.path.startswith(("/models/", "/v1/models/", "/anthropic/v1/models/")):
            answer = self._model
        known = answer is not None or anyone is not None
        try:
            if known and request.method in ("GET", "HEAD"):
                if anyone is not None:
                    anyone(request, responder, headers)
                elif answer is not None:
                    principal = self._governor.identify(secret_of(request), request.peer)
                    later = answer(request, responder, headers, principal)
                    if later is not None:
                        await later
                return
            if known or request.path in self._surfaces:
                allowed = "GET or HEAD" if known else "POST"
                raise MethodNotAllowed(f"{request.method} is not allowed on {request.path}; use {allowed}.")
            raise NotFound(f"There is nothing at {request.path[:200]}.", code="unknown_url")
        except SextantError as error:
            self._refuse(request, responder, error, headers)

    def _models(
        self, request: Request, responder: Responder, headers: list[Header], principal: Principal
    ) -> None:
        view = self._flow.index.of(principal.reach)
        if _is_anthropic(request):
            body = anthropic_models.models_body(view, request.query)
        else:
            body = catalogue.models_body(view)
        self._reply(responder, 200, [JSON, *headers], body, "models")

    def _model(
        self, request: Request, responder: Responder, headers: list[Header], principal: Principal
    ) -> None:
        name = unquote(request.path.partition("/models/")[2])
        shape = anthropic_models if _is_anthropic(request) else catalogue
        body = shape.model_body(self._flow.index.of(principal.reach).find(name), name)
        self._reply(responder, 200, [JSON, *headers], body, "models")

    async def _balance(
        self, request: Request, responder: Responder, headers: list[Header], principal: Principal
    ) -> None:
        body = catalogue.balance_body(*await self._governor.balance(principal))
        self._reply(responder, 200, [JSON, *headers], body, "balance")

    def _health(self, request: Request, responder: Responder, headers: list[Header]) -> None:
        self._reply(responder, 200, [JSON, *headers], b'{"status":"ok"}', "health")

    def _readiness(self, request: Request, responder: Responder, headers: list[Header]) -> None:
        ready, body = self._ready(query_values(request.query).get("model"))
        more = [] if ready else [(b"retry-after", b"1")]
        self._reply(responder, 200 if ready else 503, [JSON, *headers, *more], body, "ready")

    def _metrics(self, request: Request, responder: Responder, headers: list[Header]) -> None:
        responder.reply(200, [METRICS_TYPE, *headers], self._registry.exposition())

    def _ready(self, model: str | None = None) -> tuple[bool, bytes]:
        governance = catalogue.Governance(self._governor.ready, *self._governor.limits, self.nameless())
        return catalogue.readiness(self._flow.index, governance, model)

    def _gates(self, what: Literal["active", "waiting", "places"]) -> list[tuple[tuple[str, ...], float]]:
        """By model, those of its pools together."""
        found: dict[tuple[str, ...], float] = {}
        for route in self._flow.index.routes:
            name = (route.served.id,)
            found[name] = found.get(name, 0.0) + getattr(route.gate, what)
        return list(found.items())

    def _upstream_requests(self) -> list[tuple[tuple[str, ...], float]]:
        """By model and upstream. A request that waits counts too, whatever table is in use by now."""
        found: dict[tuple[str, ...], float] = {}
        for route in [run.route for run in self._flow.waiting if run.route is not None]:
            for target in route.targets:
                name = (route.served.id, target.upstream.id)
                found[name] = found.get(name, 0.0) + 1
        return list(found.items())

    def _engines_ready(self) -> list[tuple[tuple[str, ...], float]]:
        index = self._flow.index
        return [
            ((route.served.id, target.upstream.id), float(target.ready))
            for route in index.routes
            for target in route.targets
        ]

    def _preflight(
        self, request: Request, responder: Responder, headers: list[Header], origin: bytes
    ) -> None:
        """204 with what is allowed; a foreign origin gets 204 without it, and its browser refuses."""
        wanted = request.header(b"access-control-request-headers")
        self._reply(responder, 204, [*headers, *self._cors.preflight(origin, wanted)], b"", "preflight")

    def _refuse(
        self, request: Request, responder: Responder, error: SextantError, headers: list[Header]
    ) -> None:
        extra = failures.extra_headers(error)
        if isinstance(error, MethodNotAllowed):
            extra.append((b"allow", b"POST" if request.path in self._surfaces else b"GET, HEAD"))
        body = failures.openai_body(error)
        if _is_anthropic(request):
            request_id = next(value for name, value in headers if name == b"x-request-id")
            extra.append((anthropic.MessagesDialect.id_header, request_id))
            body = anthropic.failure(error, request_id.decode("ascii"))
        self._reply(responder, failures.status_of(error), [JSON, *headers, *extra], body, "other")

    def _reply(
        self, responder: Responder, status: int, headers: list[Header], body: bytes, endpoint: str
    ) -> None:
        request_id = next(value for name, value in headers if name == b"x-request-id")
        self._observer.answered(endpoint, status, request_id.decode("ascii"))
        responder.reply(status, headers, body)


def build_handler(
    settings: GatewaySettings, governor: Governor, pool: UpstreamPool, registry: Registry
) -> GatewayApp:
    """The gateway's handler; it serves no model until `swap_routes` is called."""
    return GatewayApp(settings, governor, pool, registry)


def _is_anthropic(request: Request) -> bool:
    """Whether to answer in Anthropic's shapes: on its paths, and to its clients where both APIs have one."""
    return request.path.startswith(_ANTHROPIC_PATHS) or (
        request.path.startswith("/v1/models") and request.header(b"anthropic-version") is not None
    )
