"""The server: listens, admits connections, and sweeps their deadlines with one timer.

`serve` is the door of flow 1; `connection.py` holds what happens on one connection.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.connection import Admitted, ServerConnection
from sextant.transport.emission import StatusLines
from sextant.transport.exchange import Handler

SWEEP_S = 0.25
"""How often deadlines are looked at; shorter when a limit is shorter than four of these."""
REFUSED_CONNECTIONS = 256
"""Connections over the limit that are told so; further ones are cut at once."""
BACKLOG = 2048
ACCEPT_TURNS = 8
"""Turns of the loop in which waiting connections are accepted and made; asyncio takes four, uvloop fewer."""


class Server:
    """A listening server. Made by `serve`."""

    def __init__(self, handler: Handler, limits: GatewayLimits, registry: Registry) -> None:
        self.handler = handler
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.closing = False
        self.held_bytes = 0
        """Request bodies in memory that did not come whole with their head; connections count them."""
        self.status_lines = StatusLines()
        self.now = self.loop.time()
        self._connections: set[ServerConnection] = set()
        self._listener: asyncio.Server | None = None
        self._open = registry["sextant_transport_connections"]
        self._rejected = registry["sextant_transport_rejected_requests"]
        self._sweep_s = sweep_interval_s(limits)
        self._empty = asyncio.Event()
        self._empty.set()
        self.status_lines.set_time(int(time.time()))
        self._timer = self.loop.call_later(self._sweep_s, self._sweep)

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets."""
        return tuple(self._listener.sockets) if self._listener is not None else ()

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def close(self, grace_s: float = 10.0) -> None:
        """Stops accepting, lets requests under way end for `grace_s`, then cuts what is left. Who stands in
        the kernel's queue by now is taken in first: closing the listener would reset these connections."""
        for _ in range(0 if self.closing else ACCEPT_TURNS):
            await asyncio.sleep(0)
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self._connections):
            connection.retire()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.cut()
            await self._empty.wait()
        self._timer.cancel()

    def listen(self, listener: asyncio.Server) -> None:
        """Takes over the listening sockets."""
        self._listener = listener

    # connections call these

    def admit(self, connection: ServerConnection) -> Admitted:
        """Takes note of a new connection, and says whether it may stay."""
        self._connections.add(connection)
        self._empty.clear()
        self._open.inc()
        over = len(self._connections) - self.limits.connections
        if over <= 0:
            return Admitted.YES
        return Admitted.REFUSED if over <= REFUSED_CONNECTIONS else Admitted.CUT

    def forget(self, connection: ServerConnection) -> None:
        """The connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._open.dec()
            if not self._connections:
                self._empty.set()

    def count_refusal(self, reason: str) -> None:
        """One more request or connection that no handler saw (or a client cut off for not reading)."""
        self._rejected.labels(reason).inc()

    def _sweep(self) -> None:
        self.now = now = self.loop.time()
        self.status_lines.set_time(int(time.time()))
        self._timer = self.loop.call_later(self._sweep_s, self._sweep)
        for connection in tuple(self._connections):
            connection.sweep(now)


def sweep_interval_s(limits: GatewayLimits) -> float:
    """SWEEP_S, or a quarter of the shortest deadline, at least 10 ms."""
    shortest = min(
        limits.head_timeout_s, limits.body_stall_timeout_s, limits.body_timeout_s, limits.idle_timeout_s,
        limits.write_stall_timeout_s, limits.upstream_first_byte_timeout_s, limits.upstream_idle_timeout_s,
    )  # fmt: skip
    return max(0.01, min(SWEEP_S, shortest / 4))


async def serve(
    handler: Handler,
    *,
    host: str,
    port: int,
    limits: GatewayLimits,
    registry: Registry,
    ssl_context: ssl.SSLContext | None = None,
    reuse_port: bool = False,
) -> Server:
    """Listens on `host`:`port` (0 for any free one). Raises OSError; Misconfigured for a weak TLS context."""
    if ssl_context is not None and ssl_context.minimum_version < ssl.TLSVersion.TLSv1_3:
        raise Misconfigured("the server's TLS context must have minimum_version TLSv1_3")
    server = Server(handler, limits, registry)
    tls: dict[str, Any] = {}
    if ssl_context is not None:
        tls = {
            "ssl": ssl_context,
            "ssl_handshake_timeout": limits.head_timeout_s,
            "ssl_shutdown_timeout": 2.0,
        }
    listener = await server.loop.create_server(
        lambda: ServerConnection(server), host, port, backlog=BACKLOG, reuse_port=reuse_port or None, **tls
    )
    server.listen(listener)
    return server
