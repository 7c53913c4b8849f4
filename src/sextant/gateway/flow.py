"""The serving flow: identify, decode, parse, admit, wait for a place, route, relay, settle, last event.

Flow 1 (serve), the whole of it; every dialect takes the same way. What must hold, whatever fails when:
- a place at the gates and the engine's connection are given back, before the first token too;
- an admission ends exactly once: settled (durably, before the last event leaves), or refunded when no engine
  worked on it;
- another upstream is tried only while the client has got nothing and the engine has answered nothing good;
- an engine's failure is an error to the client, never a clean end.
Neighbours: `app.py` calls `serve`; `relay.py` is the inner loop; `failures.py` maps errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import msgspec

from sextant.base.errors import (
    BadRequest,
    LedgerUnavailable,
    RateLimited,
    Retryable,
    SextantError,
    Unauthenticated,
    UpstreamError,
    UpstreamUnavailable,
)
from sextant.gateway import failures, strictjson
from sextant.gateway.bodies import engine_body
from sextant.gateway.counting import Tally
from sextant.gateway.dialect import Call
from sextant.gateway.fallback import OnTheWay, stand_in
from sextant.gateway.fetching import Fetcher
from sextant.gateway.holds import kinds_of, most_input_tokens, most_output_tokens
from sextant.gateway.limit_headers import anthropic_headers, openai_headers
from sextant.gateway.media import Media, check
from sextant.gateway.privacy import Shield
from sextant.gateway.queue import GATE_HEADERS, Gates, Waiter
from sextant.gateway.relay import StreamRelay, whole_answer
from sextant.gateway.router import ModelRoute, RouteIndex, Target
from sextant.gateway.run import Run, Surface
from sextant.gateway.waiting import Waiting
from sextant.governance.door import Claim, Governor, Principal
from sextant.governance.limits.limiter import Headroom
from sextant.spec.policy import PrivacyPolicy
from sextant.spec.snapshot import GatewayLimits
from sextant.spec.usage import Usage
from sextant.transport.exchange import ClientGone, Header, Request, Responder, UpstreamPool, UpstreamResponse

_log = logging.getLogger(__name__)
ERROR_BODY_BYTES = 64 * 1024
"""The most that is read of an engine's error body."""
_NOTHING_USED = Usage()
_encode = msgspec.json.Encoder().encode
_NO_MORE: list[Header] = []


class Flow:
    """Shared by all requests of a worker."""

    def __init__(self, limits: GatewayLimits, governor: Governor, pool: UpstreamPool, shield: Shield) -> None:
        self.limits = limits
        self.shield = shield
        self.on_the_way = OnTheWay()
        self.governor = governor
        self.pool = pool
        self.gates = Gates(limits)
        self.fetcher = Fetcher(limits)
        self.waiting: Waiting[Run] = Waiting(limits.keepalive_after_s)
        self.index = RouteIndex.empty()

    async def serve(
        self, surface: Surface, request: Request, responder: Responder, request_id: str, headers: list[Header]
    ) -> None:
        """Answers one request in the dialect of `surface`; `headers` are those of every answer to it."""
        dialect = surface.make()
        dialect.request_id = request_id
        now_s = time.monotonic()
        run = Run(surface, request_id, dialect, responder, headers, now_s, now_s)
        self.waiting.add(run)
        try:
            principal = self.governor.identify(secret_of(request), request.peer)
            body = request.body
            fields = decode_body(request, self.limits.json_depth)
            run.route = route = self.index.of(principal.reach).find(fields.get("model"))
            gate = route.gate
            run.told_at = len(headers)
            headers += gate.told[gate.free]
            run.call = call = dialect.parse(fields, body, route.served)
            run.prompt_bytes = len(body)
            if principal.privacy is not None:
                route, call = self._shielded(run, principal, principal.privacy, fields, body)
                gate = route.gate
            if call.media is not None:
                check(call.media, route.served, self.limits)
                run.prompt_bytes -= call.media.body_bytes
            admission = await self.governor.admit(principal, _claim(run, call, route, request.peer))
            run.admission = admission
            hold = admission.hold
            if hold is not None:
                _tell(run, hold.requests, hold.tokens)
            if call.media is not None:
                await self._with_media(run, call, route, call.media)
                return
            if not gate.enter_now():
                route = await self._wait(run, route)
            try:
                await self._exchange(run, call, route)
            finally:
                gate.leave()
        except SextantError as error:
            if run.route is not None and run.route.served.fallback is not None:
                view = self.index.of(principal.reach)
                instead = stand_in(run, error, request=request, view=view, tenant_id=principal.tenant_id)
                if instead is not None:
                    await self._fall_back(run, principal, fields, request, instead)
                    return
            if run.route is None:
                if not isinstance(error, Unauthenticated):  # how busy we are is no stranger's business
                    headers += self.gates.told()
            elif isinstance(error, RateLimited):
                _tell(run, *error.headroom)
            await self._failed(run, error)
        except (asyncio.CancelledError, ClientGone) as error:
            self._left(run)
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception:  # noqa: BLE001 - the edge of one request: logged, and answered with 500
            await self._defect(run)
        finally:
            self.waiting.discard(run)
            surface.observer.finished(run)

    async def _fall_back(
        self,
        run: Run,
        principal: Principal,
        fields: dict[str, Any],
        request: Request,
        instead: ModelRoute,
    ) -> None:
        """The whole way once more, to the model that stands in; what the first one reserved is given back."""
        asked, policy = run.route, self.on_the_way.policy(run, principal.privacy)
        if run.admission is not None:
            self.governor.refund(run.admission)
            run.admission = None
        run.asked, run.tally, run.unmasking = False, None, None
        run.stood_in, run.first_token_s, run.last_token_s = True, 0.0, 0.0
        try:
            assert asked is not None
            del run.headers[run.told_at :]
            run.headers += instead.gate.told[instead.gate.free]
            run.headers.append((b"x-sextant-fallback", instead.served.id.encode("ascii", "replace")))
            run.surface.observer.fell_back(asked.served.id, instead.served.id)
            call, route = self._parsed_for(run, fields, request.body, instead), instead
            run.prompt_bytes = len(request.body)
            if policy is not None:
                route, call = self._shielded(run, principal, policy, fields, request.body)
            if call.media is not None:
                check(call.media, route.served, self.limits)
                run.prompt_bytes -= call.media.body_bytes
            run.admission = await self.governor.admit(principal, _claim(run, call, route, request.peer))
            await self._through_gate(run, call, route)
        except SextantError as error:
            await self._failed(run, error)
        except (asyncio.CancelledError, ClientGone) as error:
            self._left(run)
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception:  # noqa: BLE001 - as in `serve`
            await self._defect(run)

    async def _defect(self, run: Run) -> None:
        """In an `except` of the edge of one request: logs what was raised, and answers 500."""
        _log.exception("request %s failed on a defect of the gateway", run.request_id)
        await self._failed(run, SextantError(f"The gateway failed; its log has more on {run.request_id}."))

    def _parsed_for(self, run: Run, fields: dict[str, Any], body: bytes, instead: ModelRoute) -> Call:
        """The request as it goes to another model than the one it names."""
        assert run.call is not None
        run.route = instead
        run.dialect = run.surface.make()
        run.dialect.request_id = run.request_id
        call = run.dialect.parse(fields, body, instead.served)
        call.body, call.fields = None, {**call.fields, "model": instead.served.id}
        run.call = call
        return call

    def _shielded(
        self, run: Run, principal: Principal, policy: PrivacyPolicy, fields: dict[str, Any], body: bytes
    ) -> tuple[ModelRoute, Call]:
        """The route and the call as the privacy policy wants them. Raises what `Shield.apply` does."""
        assert run.route is not None and run.call is not None
        routes = self.index.of(principal.reach).by_name.values()
        call, instead = self.shield.apply(run, policy, run.call, routes)
        if instead is not None:
            call = self._parsed_for(run, fields, body, instead)
            run.headers.append((b"x-sextant-personal-data", b"routed"))
            if policy.everywhere:
                call, _ = self.shield.apply(run, policy, call, routes)
        if run.unmasking is not None and call.body is not None:  # a token may be longer than its value
            run.prompt_bytes = max(len(body), len(call.body))
        run.call = call
        return run.route, call

    async def _with_media(self, run: Run, call: Call, route: ModelRoute, media: Media) -> None:
        """The exchange of a request with images or sounds: those that may be fetched are, first."""
        try:
            if media.to_fetch:
                await self.fetcher.fetch(media)
                call.body = None
            if not route.gate.enter_now():
                route = await self._wait(run, route)
            try:
                run.surface.observer.sent(route.served.id, media)
                await self._exchange(run, call, route)
            finally:
                route.gate.leave()
        finally:
            self.fetcher.release(media)

    async def _through_gate(self, run: Run, call: Call, route: ModelRoute) -> None:
        """The exchange, once there is a place for it."""
        if call.media is not None:
            await self._with_media(run, call, route, call.media)
            return
        if not route.gate.enter_now():
            route = await self._wait(run, route)
        try:
            await self._exchange(run, call, route)
        finally:
            route.gate.leave()

    async def _wait(self, run: Run, route: ModelRoute) -> ModelRoute:
        """Waits for a place of the model, and returns its route as it is by then: an engine that was started
        anew has another address. Raises Overloaded, or UpstreamUnavailable at once when no engine is
        ready."""
        if not route.ready:
            raise _none_ready(route)
        principal = run.admission.principal if run.admission is not None else Principal("", "")
        await route.gate.enter(Waiter(principal.tenant_id, principal.weight))
        now = self.index.of(principal.reach).by_name.get(route.served.id)
        if now is not None and now.gate is route.gate and now.served.quirks == route.served.quirks:
            run.route = now
            return now
        return route

    async def _exchange(self, run: Run, call: Call, route: ModelRoute) -> None:
        """Asks an engine and relays its answer; the last event leaves when the usage is durable."""
        response = await self._reach(run, call, route)
        try:
            if call.stream:
                relay = StreamRelay(run, call, route, self.limits)
                await relay.run(response)
                usage = relay.tally.usage(run.prompt_bytes)
                await self._settle(run, usage)
                run.end(relay.finale(usage))
                return
            answer = await response.read(self.limits.upstream_answer_bytes)
            run.token_seen()
            body, usage = whole_answer(run, call, route.served.quirks, answer)
            await self._settle(run, usage)
            run.reply(200, _NO_MORE, body)
        finally:
            response.close()

    async def _settle(self, run: Run, usage: Usage) -> None:
        assert run.admission is not None
        run.settled = True
        if run.surface.metered:
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
            run.engine_started_s = time.monotonic()
            run.asked = True
            try:
                response = await self.pool.send(
                    target.base_url,
                    b"POST",
                    target.path(call.target),
                    target.stand_in_headers if run.stood_in else target.headers,
                    engine_body(call, target.upstream.upstream_model, route.served.quirks.running_usage),
                )
                if response.status == 200:
                    target.succeeded()
                    return response
                last = await _refusal(response)
                run.asked = False
            except UpstreamError as error:
                if isinstance(error, UpstreamUnavailable):
                    run.asked = False
                last = error
            if not isinstance(last, Retryable):
                raise last
            target.failed()

    async def _failed(self, run: Run, error: SextantError) -> None:
        """Ends the admission of a request that failed, refunded when no engine worked on it, else settled;
        then tells the client, in whatever form is still possible."""
        admission = run.admission
        if admission is not None and not run.settled:
            run.settled = True
            if run.asked and run.surface.metered:
                tally = run.tally
                used = tally.usage(run.prompt_bytes) if tally is not None and tally.chunks else _NOTHING_USED
                # when the row cannot be made durable now it stays queued; the caller hears of the first error
                with contextlib.suppress(LedgerUnavailable):
                    await self.governor.settle(admission, run.outcome("engine_error", used))
            elif _unserved(error):
                self.governor.unserved(admission, run.outcome("refused", _NOTHING_USED))
            else:
                self.governor.refund(admission)
        elif run.settled:
            run.result = "engine_error" if isinstance(error, UpstreamError) else "not_durable"
        run.surface.observer.failed(run, error)
        if not run.responder.started:
            body = run.dialect.failure(error)
            run.reply(failures.status_of(error), failures.extra_headers(error), body)
        elif run.streams:
            run.end(run.dialect.stream_error(error))
        else:
            run.end(run.dialect.failure(error))

    def _left(self, run: Run) -> None:
        """The client is gone: pays for what was counted when an engine worked on it, else for nothing."""
        admission = run.admission
        if admission is not None and not run.settled:
            run.settled = True
            if run.asked and run.surface.metered:
                tally = run.tally if run.tally is not None else Tally()
                outcome = run.outcome("client_closed", tally.usage(run.prompt_bytes))
                self.governor.settle_soon(admission, outcome)
            else:
                self.governor.refund(admission)
        run.result = "client_closed"


def secret_of(request: Request) -> bytes:
    """The API key: `Authorization: Bearer …`, or Anthropic's `x-api-key`. Raises Unauthenticated."""
    given = request.header(b"authorization")
    if given is not None:
        if given[:7] == b"Bearer " or given[:7].lower() == b"bearer ":
            return given[7:].strip()
        raise Unauthenticated("The Authorization header is not `Bearer <API key>`.")
    key = request.header(b"x-api-key")
    if key is None:
        raise Unauthenticated("No API key: send `Authorization: Bearer <API key>`.", code="missing_api_key")
    return key


def decode_body(request: Request, depth_limit: int) -> dict[str, Any]:
    """The body as a dict. Raises BadRequest; compressed bodies are refused (415)."""
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise BadRequest(
            f"Content-Encoding {encoding[:40].decode('latin-1')!r} is not accepted; send it uncompressed.",
            code="unsupported_media_type",
        )
    return strictjson.decode(request.body, depth_limit)


def _claim(run: Run, call: Call, route: ModelRoute, peer: str) -> Claim:
    """What governance is asked for: never less than what the request can use."""
    served, surface = route.served, run.surface
    kinds = kinds_of(surface.endpoint, call)
    context_tokens = served.context_tokens
    return Claim(
        run.request_id,
        served.id,
        surface.endpoint,
        most_input_tokens(call, run.prompt_bytes, context_tokens),
        most_output_tokens(call, kinds, context_tokens),
        peer,
        kinds,
        context_tokens * call.inputs * call.answers,
        surface.metered,
    )


def _tell(run: Run, requests: Headroom | None, tokens: Headroom | None) -> None:
    """Puts what is left of the caller's own limits into the headers; of requests in the place of what the
    gateway as a whole has left."""
    headers = run.headers
    if run.surface.anthropic:
        headers += anthropic_headers(requests, tokens)
    elif requests is not None:
        headers[run.told_at : run.told_at + GATE_HEADERS] = openai_headers(requests, tokens)
    elif tokens is not None:
        headers += openai_headers(None, tokens)


def _unserved(error: SextantError) -> bool:
    """Whether a request that no engine worked on failed because of us: not when its own tenant had filled the
    queue."""
    return isinstance(error, Retryable) and error.code not in ("queue_full", "queue_displaced")


async def _refusal(response: UpstreamResponse) -> SextantError:
    """What an answer other than 200 means; its connection is given back."""
    try:
        said = await response.read(ERROR_BODY_BYTES)
    except UpstreamError:
        said = b""
    finally:
        response.close()
    wait = next((value for name, value in response.headers if name == b"retry-after"), None)
    return failures.engine_failure(response.status, said, wait)


def _none_ready(route: ModelRoute) -> UpstreamUnavailable:
    reasons = sorted({target.reason for target in route.targets if target.reason})
    why = f": {'; '.join(reasons)[:300]}" if reasons else ""
    return UpstreamUnavailable(f"No engine is ready for {route.served.id!r}{why}.", retry_after_s=2)
