"""What the gateway counts of each request, with every child bound before the hot path needs it.

Flow 1 (serve), at its very end. Neighbours: `meters.py` (the children), `flow.py` (the only caller).
"""

from __future__ import annotations

import time
from typing import Literal

from sextant.base.errors import SextantError
from sextant.gateway.accesslog import AccessLog, Line
from sextant.gateway.media import Media
from sextant.gateway.meters import Buckets, Count, Meters
from sextant.gateway.run import Run

PROBES = frozenset(("health", "ready"))
MAX_ERROR_CODES = 64
"""Label values for error codes; engines bring their own, so they are bounded."""


class Series:
    """The children of one endpoint and model."""

    __slots__ = (
        "cached",
        "duration",
        "engine",
        "input",
        "meters",
        "names",
        "output",
        "per_token",
        "reasoning",
        "statuses",
        "ttft",
    )

    def __init__(self, meters: Meters, endpoint: str, model: str) -> None:
        self.meters = meters
        self.names = (endpoint, model)
        self.duration: dict[str, Buckets] = {}
        self.statuses: dict[int, Count] = {}
        self.ttft = meters.buckets("gen_ai_server_time_to_first_token_seconds", endpoint, model)
        self.per_token = meters.buckets("gen_ai_server_time_per_output_token_seconds", endpoint, model)
        self.engine = meters.buckets("inference_latency_seconds", model)
        tokens = "gen_ai_client_token_usage_tokens"
        self.input = meters.count(tokens, model, "input")
        self.output = meters.count(tokens, model, "output")
        self.cached = meters.count(tokens, model, "cached")
        self.reasoning = meters.count(tokens, model, "reasoning")

    def of_result(self, result: str) -> Buckets:
        found = self.meters.buckets("gen_ai_server_request_duration_seconds", *self.names, result)
        self.duration[result] = found
        return found

    def of_status(self, status: int) -> Count:
        found = self.meters.count("sextant_gateway_requests", self.names[0], str(status))
        self.statuses[status] = found
        return found


class Observer:
    """Bookkeeping of finished requests."""

    def __init__(self, meters: Meters, log: AccessLog | None = None) -> None:
        self._meters = meters
        self._log = log
        self._codes: set[str] = set()
        self.keepalives = meters.count("sextant_gateway_keepalives")

    def finished(self, run: Run) -> None:
        """One request has ended, however it did."""
        now_s = time.monotonic()
        route = run.route
        surface = run.surface
        if route is None:
            self._refused(run, now_s)
            return
        model = route.served.id
        series = surface.series.get(model)
        if series is None:
            series = surface.series[model] = Series(self._meters, surface.endpoint, model)
        result, status = run.result, run.status
        (series.duration.get(result) or series.of_result(result)).observe(now_s - run.started_s)
        if status:
            (series.statuses.get(status) or series.of_status(status)).value += 1
        if run.engine_started_s:
            series.engine.observe(now_s - run.engine_started_s)
        if result == "client_closed":
            self._meters.count("sextant_gateway_client_disconnects", surface.endpoint).value += 1
        usage = run.used
        if self._log is not None:
            self._log.add(_line(run, model, now_s))
        if usage is None:
            return
        series.input.value += usage.input_tokens
        series.output.value += usage.output_tokens
        series.cached.value += usage.cached_tokens
        series.reasoning.value += usage.reasoning_tokens
        if run.tally is not None and run.first_token_s:
            series.ttft.observe(run.first_token_s - run.started_s)
            if usage.output_tokens > 1:
                spent_s = run.last_token_s - run.first_token_s
                series.per_token.observe(spent_s / (usage.output_tokens - 1))

    def _refused(self, run: Run, now_s: float) -> None:
        """Ended before its model was known: it counts by status, and in no series of a model."""
        if run.status:
            self._meters.count("sextant_gateway_requests", run.surface.endpoint, str(run.status)).value += 1
        if run.result == "client_closed":
            self._meters.count("sextant_gateway_client_disconnects", run.surface.endpoint).value += 1
        if self._log is not None:
            self._log.add(_line(run, "", now_s))

    def sent(self, model: str, media: Media) -> None:
        """Images and sounds go to an engine of `model`."""
        sizes: tuple[tuple[Literal["image", "audio"], int], ...] = (
            ("image", media.image_bytes),
            ("audio", media.audio_bytes),
        )
        for kind, size_bytes in sizes:
            parts = media.count(kind)
            if parts:
                self._meters.count("sextant_gateway_media_parts", model, kind).value += parts
                self._meters.count("sextant_gateway_media_bytes", model, kind).value += size_bytes

    def fell_back(self, model: str, instead: str) -> None:
        """A request that `model` could not answer goes to `instead`."""
        self._meters.count("sextant_gateway_fallbacks", model, instead).value += 1

    def failed(self, run: Run, error: SextantError) -> None:
        """A request ends in `error`."""
        code = error.code
        if code not in self._codes:
            if len(self._codes) >= MAX_ERROR_CODES:
                code = "other"
            self._codes.add(code)
        self._meters.count("sextant_gateway_errors", run.surface.endpoint, code).value += 1

    def answered(self, endpoint: str, status: int, request_id: str) -> None:
        """An answer outside the flow (a list of models, a 404). Probes are not logged."""
        self._meters.count("sextant_gateway_requests", endpoint, str(status)).value += 1
        if self._log is not None and endpoint not in PROBES:
            outcome = "ok" if status < 400 else "refused"
            self._log.add(Line(time.time(), request_id, endpoint, status, outcome, 0.0))


def _line(run: Run, model: str, now_s: float) -> Line:
    """The access log's line of a finished run."""
    admission, usage = run.admission, run.used
    principal = None if admission is None else admission.principal
    return Line(
        time.time(),
        run.request_id,
        run.surface.endpoint,
        run.status,
        run.result,
        round((now_s - run.started_s) * 1000, 3),
        model,
        "" if principal is None else principal.tenant_id,
        "" if principal is None else principal.key_id,
        "" if admission is None else admission.claim.peer,
        round((run.first_token_s - run.started_s) * 1000, 3) if run.first_token_s else -1.0,
        0 if usage is None else usage.input_tokens,
        0 if usage is None else usage.output_tokens,
    )
