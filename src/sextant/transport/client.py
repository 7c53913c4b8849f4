"""The pool of upstream connections: one per gateway worker, connections kept per origin, last used first.

Flow 1: the gateway calls `Pool.send` once per attempt. What happens on one connection is in `upstream.py`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import urllib.parse
from typing import Any, Protocol

from sextant.base.errors import Misconfigured, UpstreamError, UpstreamUnavailable
from sextant.spec.snapshot import GatewayLimits
from sextant.telemetry.table import Registry
from sextant.transport.emission import check_method, check_target, request_fields
from sextant.transport.exchange import Headers
from sextant.transport.responder import JOIN_BYTES
from sextant.transport.server import sweep_interval_s
from sextant.transport.upstream import Stale, UpstreamAnswer, UpstreamConnection

log = logging.getLogger(__name__)

IDLE_EXPIRY_S = 60.0
"""A pooled connection unused for so long is closed."""
HEAD_MEMO_ENTRIES = 64
"""Request heads kept ready per origin."""
ORIGINS = 1024
"""Base URLs remembered; routes name far fewer."""

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_BODYLESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))


class PeerTls(Protocol):
    """TLS to peers that are known by an id instead of a host name (`security.spiffe.Peers`)."""

    def context(self, peer_id: str) -> ssl.SSLContext:
        """What to connect with. Raises OSError while there is nothing to show."""

    def check(self, peer_id: str, connection: ssl.SSLObject) -> None:
        """Raises ssl.SSLCertVerificationError when somebody else answered."""


class Origin:
    """Scheme, host and port, with the idle connections to it, the one used last at the end."""

    __slots__ = ("_heads", "_host_line", "host", "idle", "peer_id", "port", "retired", "tls")

    def __init__(self, base_url: str) -> None:
        self.tls, self.host, self.port = _split(base_url)
        self.peer_id = urllib.parse.urlsplit(base_url).fragment
        """Who must answer; empty: whoever the host name's certificate is for."""
        if self.peer_id and not self.tls:
            raise Misconfigured(f"{base_url!r} has no TLS, so nobody can see who answers there")
        self.retired = False
        """Its connections are closed as soon as they are free: what they were made with is out of date."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        suffix = "" if self.port == (443 if self.tls else 80) else f":{self.port}"
        self._host_line = f"host: {name}{suffix}".encode("ascii")
        self._heads: dict[tuple[bytes, bytes, Headers], bytes] = {}
        self.idle: dict[UpstreamConnection, None] = {}

    def head(self, method: bytes, target: bytes, headers: Headers) -> bytes:
        """A request's head but for its length. Composed and checked once for headers that come as a tuple.

        Raises UnsafeHeader. Bounded by HEAD_MEMO_ENTRIES.
        """
        if type(headers) is not tuple:
            return self._compose(method, target, headers)
        key = (method, target, headers)
        head = self._heads.get(key)
        if head is None:
            head = self._compose(method, target, headers)
            if len(self._heads) >= HEAD_MEMO_ENTRIES:
                self._heads.clear()
            self._heads[key] = head
        return head

    def _compose(self, method: bytes, target: bytes, headers: Headers) -> bytes:
        check_method(method)
        check_target(target)
        return b"%b %b HTTP/1.1\r\n%b%b" % (method, target, self._host_line, request_fields(headers))


def _split(base_url: str) -> tuple[bool, str, int]:
    """Whether it is https, the host in ASCII, and the port. Raises Misconfigured."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
        if ":" not in host:
            host = host.encode("idna").decode("ascii")
    except ValueError:
        host, port, parts = "", None, urllib.parse.urlsplit("")
    if parts.scheme not in ("http", "https") or _HOST.fullmatch(host) is None or port == 0:
        raise Misconfigured(
            f"{base_url!r} is no engine address; expected http://host:port or https://host:port"
        )
    tls = parts.scheme == "https"
    return tls, host, port or (443 if tls else 80)


class Pool:
    """Implements `exchange.UpstreamPool`. `ssl_context` is for https origins; the default checks certificates
    against the system's authorities and takes TLS 1.2 or newer. `peers` is for those known by an id."""

    def __init__(
        self,
        limits: GatewayLimits,
        registry: Registry,
        *,
        ssl_context: ssl.SSLContext | None = None,
        peers: PeerTls | None = None,
    ) -> None:
        self.limits = limits
        self._ssl_context = ssl_context
        self._peers = peers
        self._origins: dict[str, Origin] = {}
        self._connections: set[UpstreamConnection] = set()
        self._idle_count = 0
        self._now = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sweep_s = sweep_interval_s(limits)
        self._closed = False
        connects = registry["sextant_transport_upstream_connects"]
        self._connected = connects.labels("ok")
        self._connect_failed = connects.labels("failed")
        self._retries = registry["sextant_transport_upstream_retries"]
        self._refused = registry["sextant_transport_upstream_peers_refused"]
        self._idle_gauge = registry["sextant_transport_upstream_idle_connections"]

    async def send(
        self, base_url: str, method: bytes, target: bytes, headers: Headers, body: bytes
    ) -> UpstreamAnswer:
        origin = self._origins.get(base_url) or self._origin(base_url)
        head = origin.head(method, target, headers)
        size = len(body)
        if not size and method in _BODYLESS:
            head += b"\r\n\r\n"
        elif size <= JOIN_BYTES:
            head = b"%b\r\ncontent-length: %d\r\n\r\n%b" % (head, size, body)
            body = b""
        else:
            head = b"%b\r\ncontent-length: %d\r\n\r\n" % (head, size)
        connection = self._take(origin)
        while True:
            if connection is None:
                connection = await self._connect(origin)
            answer, waiter = connection.begin(head, body, head_only=method == b"HEAD")
            try:
                await waiter
            except asyncio.CancelledError:
                connection.abort()
                raise
            if answer.status:
                return answer
            try:
                answer.raise_error()
            except Stale:  # only ever on a pooled connection, so this happens once
                self._retries.inc()
                connection = None

    def close(self) -> None:
        """Closes every connection; answers under way fail."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def renew(self) -> None:
        """Connections to peers known by an id are made anew from now on; those in use end with their
        request."""
        for base_url, origin in tuple(self._origins.items()):
            if origin.peer_id:
                origin.retired = True
                for connection in tuple(origin.idle):
                    connection.abort()
                del self._origins[base_url]

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        """Connections that wait for a request."""
        return self._idle_count

    def _take(self, origin: Origin) -> UpstreamConnection | None:
        idle = origin.idle
        while idle:
            connection, _ = idle.popitem()
            self._idle_count -= 1
            if connection.usable():
                return connection
            connection.abort()
        return None

    def _origin(self, base_url: str) -> Origin:
        origin = Origin(base_url)
        if len(self._origins) >= ORIGINS:  # engines that were replaced leave theirs behind
            used = {connection.origin for connection in self._connections}
            self._origins = {url: one for url, one in self._origins.items() if one in used}
        if len(self._origins) >= ORIGINS:
            raise UpstreamError(f"more than {ORIGINS} engine addresses")
        self._origins[base_url] = origin
        return origin

    async def _connect(self, origin: Origin) -> UpstreamConnection:
        if self._closed:
            raise UpstreamUnavailable("the pool is closed")
        loop = self._loop = asyncio.get_running_loop()
        if self._timer is None:
            self._now = loop.time()
            self._timer = loop.call_later(self._sweep_s, self._sweep)
        tls: dict[str, Any] = {}
        try:
            if origin.tls:
                tls = {
                    "ssl": self._context(origin),
                    "ssl_handshake_timeout": self.limits.upstream_connect_timeout_s,
                }
            async with asyncio.timeout(self.limits.upstream_connect_timeout_s):
                wire, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self, origin, loop), origin.host, origin.port, **tls
                )
            if origin.peer_id:
                self._check(origin.peer_id, wire)
        except (OSError, TimeoutError) as error:
            self._connect_failed.inc()
            if origin.peer_id and isinstance(error, ssl.SSLCertVerificationError):
                self._refused.inc()
            log.warning("cannot connect to %s:%d: %s", origin.host, origin.port, error or "timed out")
            raise UpstreamUnavailable("The engine takes no connection; try again shortly.") from error
        self._connected.inc()
        if self._closed:
            connection.abort()
            raise UpstreamUnavailable("the pool is closed")
        if not connection.usable():
            connection.abort()
            raise UpstreamError("the engine spoke before it was asked", code="engine_garbage")
        # not before: when a connect is cancelled, uvloop closes it without a word to the protocol
        self._connections.add(connection)
        return connection

    def _check(self, peer_id: str, wire: asyncio.Transport) -> None:
        """Before anything is written: whether it is `peer_id` that answers. Raises OSError."""
        assert self._peers is not None
        try:
            self._peers.check(peer_id, wire.get_extra_info("ssl_object"))
        except OSError:
            wire.abort()
            raise

    def _context(self, origin: Origin) -> ssl.SSLContext:
        """Raises OSError while there is nothing to show to the peer."""
        if origin.peer_id:
            if self._peers is None:
                raise ConnectionError(f"{origin.peer_id} cannot be known: this process has no identity")
            return self._peers.context(origin.peer_id)
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._ssl_context

    # connections call these

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone, or about to be."""
        self._connections.discard(connection)
        if connection in connection.origin.idle:
            del connection.origin.idle[connection]
            self._idle_count -= 1

    def release(self, connection: UpstreamConnection) -> None:
        """A connection is free for the next request."""
        full = self._idle_count >= self.limits.upstream_idle_connections
        if self._closed or connection.origin.retired or full:
            connection.abort()
            return
        connection.idle_since = self._now
        connection.origin.idle[connection] = None
        self._idle_count += 1

    def _sweep(self) -> None:
        assert self._loop is not None
        now = self._now = self._loop.time()
        self._timer = self._loop.call_later(self._sweep_s, self._sweep)
        self._idle_gauge.set(self._idle_count)
        for connection in tuple(self._connections):
            if connection.deadline and now >= connection.deadline:
                connection.expire()
        for origin in self._origins.values():
            for connection in tuple(origin.idle):
                if now - connection.idle_since < IDLE_EXPIRY_S:
                    break
                connection.abort()
