"""One gateway worker: `python -m sextant.app.gateway_process --settings run/gateway.json`.

Joins the pieces of flow 1 (serve): transport, gateway, governance and the ledger client, on uvloop; polls the
two snapshots; on SIGTERM stops accepting, lets requests under way end within the grace, then leaves. A second
SIGTERM ends the grace.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from sextant.app.entry import DRAIN_GRACE_S, run_entry
from sextant.app.identity import IdentityWatch, said_to_anybody
from sextant.app.snapshots import POLL_INTERVAL_S, SnapshotFile
from sextant.app.tls import server_context
from sextant.base.errors import Misconfigured
from sextant.gateway.app import build_handler
from sextant.gateway.proxies import behind_proxies
from sextant.governance.governor import LocalGovernor
from sextant.governance.ledger_client import LedgerClient
from sextant.governance.shared.limiter import SharedLimiter
from sextant.security.spiffe import Peers
from sextant.spec.snapshot import GatewaySettings, PolicySnapshot, RouteTable
from sextant.spec.stores import SharedLimits
from sextant.telemetry.table import Registry
from sextant.telemetry.workers import WRITE_INTERVAL_S, WorkerRegistry
from sextant.transport.client import Pool
from sextant.transport.exchange import Handler, Request, Responder
from sextant.transport.server import Server, serve

PROBE_PATHS = ("/health", "/ready", "/metrics")
COLLECT_AFTER = (20_000, 20, 20)
"""Thresholds of the cycle collector. A request's objects go by reference count; the default of 700 would walk
the young ones hundreds of times a second to find nothing."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sextant.app.gateway_process")
    parser.add_argument("--settings", required=True, type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(argv)

    def body() -> None:
        settings = read_settings(given.settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_gateway(settings))

    return run_entry("gateway", body, log_level=given.log_level)


def read_settings(path: Path) -> GatewaySettings:
    """Raises Misconfigured."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=GatewaySettings)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"the gateway settings {path} cannot be read: {error}") from None


async def run_gateway(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises Misconfigured when it cannot start."""
    registry = _registry(settings)
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_stop_signals(lambda: hurry.set() if stop.is_set() else stop.set())
    policy_file = SnapshotFile(
        settings.policy_file, PolicySnapshot, lambda policy: governor.swap_policy(policy)
    )
    routes_file = SnapshotFile(settings.routes_file, RouteTable, lambda routes: app.swap_routes(routes))
    ledger = LedgerClient(settings.ledger_socket, registry)
    await ledger.start()
    limiter = None
    if settings.shared_limits is not None:
        limiter = SharedLimiter(_of_this_host(settings.shared_limits), registry)
        await limiter.start()
    peers = Peers()
    governor = LocalGovernor(policy_file.load(), ledger, registry, limiter=limiter)
    pool = Pool(settings.limits, registry, peers=peers)
    identity = _identity(settings, pool, peers, registry)
    app = build_handler(settings, governor, pool, registry)
    if identity is not None:
        app.nameless = functools.partial(said_to_anybody, peers)
    app.swap_routes(routes_file.load())
    try:
        server = await serve(
            behind_proxies(app, settings.trusted_proxies),
            host=settings.host,
            port=settings.port,
            limits=settings.limits,
            registry=registry,
            ssl_context=None if settings.tls is None else server_context(settings.tls),
            reuse_port=settings.reuse_port,
        )
        probes = await _serve_probes(app, settings, registry)
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from None
    gc.freeze()  # what start-up made lives as long as the process: no collection need look at it again
    gc.set_threshold(*COLLECT_AFTER)
    polled: list[SnapshotFile[Any] | IdentityWatch] = [policy_file, routes_file]
    if identity is not None:
        polled.append(identity)
    polling = asyncio.gather(_poll_snapshots(polled), _write_metrics(registry))
    try:
        await stop.wait()
        await _drain(server.close, hurry)
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
        if probes is not None:
            await probes.close(0.0)
        app.close()
        pool.close()
        await ledger.close()
        if limiter is not None:
            await limiter.close()


def _registry(settings: GatewaySettings) -> Registry:
    if not settings.worker:
        return Registry()
    return WorkerRegistry(Path(settings.routes_file).parent, settings.worker)


def _identity(
    settings: GatewaySettings, pool: Pool, peers: Peers, registry: Registry
) -> IdentityWatch | None:
    """The watch over who we are, once polled; None where no engine asks. What it reads is counted."""
    if not settings.identity_file:
        return None
    rotations = registry["sextant_identity_rotations"]
    counted = 0

    def changed() -> None:
        nonlocal counted
        pool.renew()
        identity = peers.identity
        rotations.inc(max(0, identity.rotations - counted))
        counted = identity.rotations
        left = registry["sextant_identity_expires_in_seconds"]
        left.set_function(lambda: peers.identity.expires_s - time.time())

    watch = IdentityWatch(settings.identity_file, peers, changed)
    watch.poll()
    return watch


def _of_this_host(shared: SharedLimits) -> SharedLimits:
    """Several hosts may have state directories of the same name."""
    return msgspec.structs.replace(shared, worker=f"{socket.gethostname()}:{shared.worker}")


async def _serve_probes(app: Handler, settings: GatewaySettings, registry: Registry) -> Server | None:
    """Where this worker alone can be asked how it is; None where it shares its port with nobody."""
    if not settings.probe_port:
        return None

    async def answer(request: Request, responder: Responder) -> None:
        if request.path in PROBE_PATHS:
            await app(request, responder)
        else:
            responder.reply(404, [(b"content-type", b"text/plain")], b"only probes are answered here\n")

    return await serve(
        answer,
        host="127.0.0.1",
        port=settings.probe_port,
        limits=settings.limits,
        registry=registry,
        reuse_port=True,
    )


async def _write_metrics(registry: Registry) -> None:
    """Shows the other workers what is counted here, now and then; a full disk is left to the next time."""
    while isinstance(registry, WorkerRegistry):
        with contextlib.suppress(OSError):
            registry.write()
        await asyncio.sleep(WRITE_INTERVAL_S)


async def _drain(close: Callable[[float], Coroutine[Any, Any, None]], hurry: asyncio.Event) -> None:
    """Closes with the grace; `hurry` ends the grace."""
    closing = asyncio.ensure_future(close(DRAIN_GRACE_S))
    hurrying = asyncio.ensure_future(hurry.wait())
    ends: set[asyncio.Future[Any]] = {closing, hurrying}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        await close(0.0)
    await closing
    hurrying.cancel()


async def _poll_snapshots(files: Sequence[SnapshotFile[Any] | IdentityWatch]) -> None:
    while True:
        await asyncio.sleep(POLL_INTERVAL_S)
        for file in files:
            file.poll()


def _on_stop_signals(callback: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)


if __name__ == "__main__":
    sys.exit(main())
