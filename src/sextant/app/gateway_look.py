"""What gateways say of the route table that they use and of the replicas that their requests still need.

Read from each worker's own `/metrics`, by the supervisor, when it changes what is served. A gateway that
wants a certificate of its callers cannot be asked; then the engines are (`drained`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Mapping, Sequence

from sextant.app.engine_metrics import idle_check
from sextant.app.model_plan import EnginePlan
from sextant.app.pages import exchange
from sextant.app.plan import Plan
from sextant.spec.snapshot import GatewaySettings

LOOK_INTERVAL_S = 0.05
LOOK_INTERVAL_MAX_S = 1.0
LOOK_TIMEOUT_S = 2.0
BLIND_S = 2.0
"""A gateway that cannot be asked has taken a new table after this long, and an engine that has had nothing to
do for as long has nothing coming."""
_SAMPLE = re.compile(r"^sextant_gateway_(?:snapshot_version|upstream_requests)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class GatewayLook:
    """Asks the gateways of `plan`; `gateways` are their settings by name."""

    def __init__(self, plan: Plan, gateways: Mapping[str, GatewaySettings]) -> None:
        tls = plan.gateway.tls
        self._blind = tls is not None and tls.client_ca_file is not None and plan.workers == 1
        self._urls = {
            settings.worker: f"http://127.0.0.1:{settings.probe_port}" if settings.probe_port else plan.url
            for settings in gateways.values()
        }

    async def took(self, version: int, timeout_s: float) -> bool:
        """Whether every gateway uses the route table `version`, or a newer one, within `timeout_s`."""
        if self._blind:
            await asyncio.sleep(BLIND_S)
            return True
        deadline_s = time.monotonic() + timeout_s
        for worker in self._urls:
            while (await self._samples(worker)).get(("routes",), 0.0) < version:
                if time.monotonic() > deadline_s:
                    return False
                await asyncio.sleep(LOOK_INTERVAL_S)
        return True

    async def drained(self, engines: Sequence[EnginePlan], timeout_s: float) -> bool:
        """Whether no request needs one of `engines` any longer, within `timeout_s`."""
        began_s = now_s = time.monotonic()
        idle_since_s: float | None = None
        while now_s < began_s + timeout_s:
            if self._blind:
                idle_since_s = (idle_since_s or time.monotonic()) if await _idle(engines) else None
                if idle_since_s is not None and time.monotonic() - idle_since_s > BLIND_S:
                    return True
            elif not await self._needed({engine.upstream_id for engine in engines}):
                return True
            # a look costs the gateway some milliseconds of its loop: an answer of minutes is no hurry
            await asyncio.sleep(min(LOOK_INTERVAL_MAX_S, LOOK_INTERVAL_S + (now_s - began_s) / 20))
            now_s = time.monotonic()
        return False

    async def _needed(self, upstreams: Collection[str]) -> bool:
        for worker in self._urls:
            samples = await self._samples(worker)
            if not samples or any(key[-1] in upstreams and value > 0 for key, value in samples.items()):
                return True
        return False

    async def _samples(self, worker: str) -> dict[tuple[str, ...], float]:
        """(`routes`) to the version in use, and (model, upstream) to the requests that need it; empty when it
        does not answer."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                status, page = await exchange(f"{self._urls[worker]}/metrics")
        except (OSError, EOFError, ValueError):  # a TimeoutError is an OSError
            return {}
        found: dict[tuple[str, ...], float] = {}
        for labels, value in _SAMPLE.findall(page.decode("utf-8", "replace")) if status == 200 else ():
            named = dict(_LABEL.findall(labels))
            if named.pop("worker", worker) == worker:
                found[tuple(named.values())] = float(value)
        return found


async def _idle(engines: Sequence[EnginePlan]) -> bool:
    """Whether all of them say that they work on nothing; one that says nothing of it does not."""
    for engine in engines:
        idle = idle_check(engine.metrics)
        if idle is None or not await idle():
            return False
    return True
