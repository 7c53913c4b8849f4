"""The serving flow: identify, decode, parse, admit, wait for a place, route, relay, settle, last event.

Flow 1 (serve), the whole of it; every dialect takes the same way. What must hold, whatever fails when:
- a place at the gate and the engine's connection are given back, before the first token too;
- an admission ends exactly once: settled (durably, before the last event leaves), or refunded when no engine
  worked on it;
- another upstream is tried only while the client has got nothing and the engine has answered nothing good;
- an engine's failure is an error to the client, never a clean end.
Neighbours: `app.py` calls `serve`; `relay.py` is the inner loop; `failures.py` maps errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sextant.base.errors import (
    BadRequest,
    LedgerUnavailable,
    Retryable,
    SextantError,
    Unauthenticated,
    UpstreamError,
    UpstreamUnavailable,
)
from sextant.base.ids import IdSource
from sextant.gateway import failures, strictjson
from sextant.gateway.bodies import engine_body
from sextant.gateway.dialect import Call, Dialect
from sextant.gateway.observe import Observer
from sextant.gateway.queue import Gate
from sextant.gateway.relay import StreamRelay, WholeRelay
from sextant.gateway.router import ModelRoute, RouteIndex, Target
from sextant.gateway.run import Run
from sextant.gateway.waiting import Waiting
from sextant.governance.door import Claim, Governor, Principal
from sextant.spec.snapshot import GatewayLimits
from sextant.spec.usage import Usage
from sextant.transport.exchange import ClientGone, Header, Request, Responder, UpstreamPool, UpstreamResponse

_log = logging.getLogger(__name__)
ERROR_BODY_BYTES = 64 * 1024
"""The most that is read of an engine's error body."""
_NOTHING_USED = Usage()


class Flow:
    """Shared by all requests of a worker."""

    def __init__(
        self, limits: GatewayLimits, governor: Governor, pool: UpstreamPool, observer: Observer
    ) -> None:
        self.limits = limits
        self.governor = governor
        self.pool = pool
        self.observer = observer
        self.gate = Gate(limits)
        self.waiting = Waiting(limits.keepalive_after_s)
        self.ids = IdSource("req_")
        self.index: RouteIndex | None = None

    async def serve(
        self,
        make: Callable[[], Dialect],
        request: Request,
        responder: Responder,
        base_headers: list[Header],
        *,
        metered: bool = True,
    ) -> None:
        """Answers one request in the dialect that `make` makes. `base_headers` has the request id first.
        What is not `metered` runs no model: it is admitted like the others and leaves no usage row."""
        request_id = base_headers[0][1].decode("ascii")
        dialect = make()
        dialect.request_id = request_id
        own_id_header: bytes | None = getattr(dialect, "id_header", None)
        if own_id_header is not None:
            base_headers.append((own_id_header, base_headers[0][1]))
        run = Run(request_id, dialect, responder, base_headers, self.observer.keepalives)
        run.metered = metered
        self.waiting.add(run)
        try:
            await self._serve(run, request)
        except SextantError as error:
            self._fail(run, error)
        except ClientGone:
            run.result = "client_closed"
        except asyncio.CancelledError:
            run.result = "client_closed"
            raise
        except Exception:  # noqa: BLE001 - the edge of one request: logged, and answered with 500
            _log.exception("request %s failed on a defect of the gateway", request_id)
            run.result = "internal_error"
            self._fail(run, SextantError("The gateway failed; the operator finds the request id in its log."))
        finally:
            self.waiting.discard(run)
            self.observer.finished(run)

    async def _serve(self, run: Run, request: Request) -> None:
        principal = self.governor.identify(secret_of(request))
        fields = decode_body(request, self.limits)
        route = self._find(fields)
        call = run.dialect.parse(fields, request.body, route.served)
        run.route, run.call, run.prompt_bytes = route, call, len(request.body)
        run.admission = await self.governor.admit(principal, self._claim(run, call, principal, request))
        try:
            if not self.gate.enter_now():
                await self.gate.enter()
            try:
                await self._exchange(run, call, route)
            finally:
                self.gate.leave()
        except BaseException as error:
            await self._close_admission(run, error)
            raise

    def _find(self, fields: dict[str, object]) -> ModelRoute:
        name = fields.get("model")
        if not isinstance(name, str):
            what = "is missing" if name is None else "is not a string"
            raise BadRequest(
                f"model {what}; expected the id of a model.", field="model", code="invalid_value"
            )
        if self.index is None:
            raise UpstreamUnavailable("No route table has been read yet.", retry_after_s=1)
        return self.index.find(name)

    def _claim(self, run: Run, call: Call, principal: Principal, request: Request) -> Claim:
        assert run.route is not None
        return Claim(
            run.request_id,
            run.route.served.id,
            run.dialect.endpoint,
            run.prompt_bytes,
            call.max_output_tokens,
            request.peer,
        )

    async def _exchange(self, run: Run, call: Call, route: ModelRoute) -> None:
        """Asks an engine and relays its answer; the last event leaves when the usage is durable."""
        response = await self._reach(run, call, route)
        try:
            if call.stream:
                relay = StreamRelay(run, self.limits)
                await relay.run(response)
                usage = run.tally.usage(run.prompt_bytes)
                await self._settle(run, usage)
                run.end(relay.finale(usage))
            else:
                body, usage = await WholeRelay(run, self.limits).answer(response)
                await self._settle(run, usage)
                run.reply(200, [], body)
        finally:
            response.close()

    async def _settle(self, run: Run, usage: Usage) -> None:
        assert run.admission is not None
        run.settled = True
        if run.metered:
            await self.governor.settle(run.admission, run.outcome("ok", usage))
        else:
            self.governor.refund(run.admission)
        run.result = "ok"

    async def _reach(self, run: Run, call: Call, route: ModelRoute) -> UpstreamResponse:
        """A response with status 200, from the first target that gives one. Raises what the last one said."""
        tried: tuple[Target, ...] = ()
        last: SextantError | None = None
        while True:
            target = route.pick(tried)
            if target is None:
                raise last or _none_ready(route)
            tried = (*tried, target)
            try:
                return await self._ask(run, call, target)
            except UpstreamError as error:
                target.failed()
                last = error
            except Retryable as error:
                target.failed()
                last = error

    async def _ask(self, run: Run, call: Call, target: Target) -> UpstreamResponse:
        """One target's answer. Raises UpstreamError or Retryable where another target may do better."""
        body = engine_body(call, target.upstream.upstream_model)
        run.engine_started_s = time.monotonic()
        run.asked = True
        try:
            response = await self.pool.send(
                target.base_url, b"POST", target.prefix + call.target.encode("ascii"), target.headers, body
            )
        except UpstreamUnavailable:
            run.asked = False
            raise
        if response.status == 200:
            target.succeeded()
            return response
        try:
            said = await response.read(ERROR_BODY_BYTES)
        except UpstreamError:
            said = b""
        finally:
            response.close()
        run.asked = False
        wait = next((value for name, value in response.headers if name == b"retry-after"), None)
        raise failures.engine_failure(response.status, said, wait)

    async def _close_admission(self, run: Run, error: BaseException) -> None:
        """Ends the admission of a request that failed: refunded when no engine worked on it, else settled."""
        admission = run.admission
        assert admission is not None
        if run.settled:
            return
        run.settled = True
        if not run.asked or not run.metered:
            self.governor.refund(admission)
        elif not isinstance(error, asyncio.CancelledError | ClientGone):
            run.result = "engine_error"
            used = run.tally.usage(run.prompt_bytes) if run.tally.chunks else _NOTHING_USED
            try:
                await self.governor.settle(admission, run.outcome("engine_error", used))
            except LedgerUnavailable:
                return  # the row stays queued in governance; the caller hears of the engine's error
        else:
            self.governor.settle_soon(admission, run.outcome("client_closed"))

    def _fail(self, run: Run, error: SextantError) -> None:
        """Tells the client, in whatever form is still possible."""
        self.observer.failed(run, error)
        if not run.responder.started:
            run.reply(failures.status_of(error), failures.extra_headers(error), run.dialect.failure(error))
        elif run.streams:
            run.end(run.dialect.stream_error(error))
        else:
            run.end(run.dialect.failure(error))


def secret_of(request: Request) -> bytes:
    """The API key: `Authorization: Bearer …`, or Anthropic's `x-api-key`. Raises Unauthenticated."""
    value = None
    for name, content in request.headers:
        if name == b"authorization":
            if content[:7].lower() == b"bearer ":
                return content[7:].strip()
            raise Unauthenticated("The Authorization header is not `Bearer <API key>`.")
        if name == b"x-api-key":
            value = content
    if value is None:
        raise Unauthenticated("No API key: send `Authorization: Bearer <API key>`.", code="missing_api_key")
    return value


def decode_body(request: Request, limits: GatewayLimits) -> dict[str, object]:
    """The body as a dict. Raises BadRequest; compressed bodies are refused (415)."""
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise BadRequest(
            f"Content-Encoding {encoding[:40].decode('latin-1')!r} is not accepted; send it uncompressed.",
            code="unsupported_media_type",
        )
    return strictjson.decode(request.body, limits.json_depth)


def _none_ready(route: ModelRoute) -> UpstreamUnavailable:
    reasons = sorted({target.reason for target in route.targets if target.reason})
    why = f": {'; '.join(reasons)[:300]}" if reasons else ""
    return UpstreamUnavailable(f"No engine is ready for {route.served.id!r}{why}.", retry_after_s=2)
