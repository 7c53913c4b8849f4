"""One small HTTP exchange with a process, bounded in bytes; the caller bounds the time.

For what the supervisor reads of engines and gateways. On asyncio's streams, so that the supervisor has no
thread; in HTTP/1.0, so that an answer is whole and its end is the connection's. Neighbour: `probe.py`, which
looks at the status alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from sextant.app.probe import Peer

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""vLLM's metrics are about 100 KB; a longer page than this is not read."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


async def exchange(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes | None = None,
    what: str = "the page",
    peer: Peer | None = None,
) -> tuple[int, bytes]:
    """Status and body of a GET, or of a POST of `body` as JSON. Certificates of our own processes, on this
    machine, are not verified; with `peer` it must be that one who answers.

    Raises OSError, EOFError, or ValueError, which calls the answer `what`.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{what} is at {url!r}, expected http://host:port/…")
    context = _context(parts.hostname) if parts.scheme == "https" else None
    if peer is not None:
        context = peer.context()
    port = parts.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context, limit=PAGE_BYTES_MAX)
    try:
        if peer is not None:
            peer.check(writer.get_extra_info("ssl_object"))
        writer.write(_head(parts.netloc, parts.path or "/", headers or {}, body) + (body or b""))
        found = re.match(rb"HTTP/1\.[01] (\d{3})[ \r\n]", await reader.readline())
        if found is None:
            raise ValueError("the answer is not HTTP")
        length = await _skip_head(reader, what)
        if length is not None and length > PAGE_BYTES_MAX:
            raise ValueError(f"{what} has {length:,} bytes, at most {PAGE_BYTES_MAX:,} are read")
        return int(found[1]), await _body(reader, length, what)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _context(host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if host in LOOPBACK:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _head(host: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    fields = {"Host": host, "Accept": "text/plain, application/json", **headers}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{'GET' if body is None else 'POST'} {target} HTTP/1.0\r\n{lines}\r\n".encode("latin-1")


async def _skip_head(reader: asyncio.StreamReader, what: str) -> int | None:
    """Reads to the end of the head; the content length it gives. Raises ValueError for a chunked answer."""
    length: int | None = None
    while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "content-length":
            length = int(value)
        elif name.lower() == "transfer-encoding":
            raise ValueError(f"{what} came {value.strip()}, although asked in HTTP/1.0")
    return length


async def _body(reader: asyncio.StreamReader, length: int | None, what: str) -> bytes:
    if length is not None:
        return await reader.readexactly(length)
    body = bytearray()
    while piece := await reader.read(64 * 1024):
        body += piece
        if len(body) > PAGE_BYTES_MAX:
            raise ValueError(f"{what} is longer than {PAGE_BYTES_MAX:,} bytes")
    return bytes(body)
