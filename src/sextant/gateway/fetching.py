"""Fetching an image for a request from a host that the operator allows, and from nowhere else.

Flow 1 (serve), between admission and the gate, only where `GatewayLimits.media_hosts` names hosts. A caller
chooses the URL, so this is a door through which he could make the gateway talk to its own network. It shuts
these ways: a name is looked up once and the connection goes to the very address that was checked; every
address of the name must be a public one; the certificate must be the name's; redirects are not followed; no
proxy, cookie or credential is used; size, time and the number of fetches are bounded. The answer is only ever
used as an image, and only if its bytes are one (`media.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable

import httptools

from sextant.base.errors import BadRequest, Overloaded
from sextant.gateway.media import HTTPS_PORT, Media, Part, check_image, split_url, too_large
from sextant.spec.snapshot import GatewayLimits
from sextant.transport.addresses import is_not_public

HEAD_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
LOOK_UPS = 16
"""Names that are looked up at a time, each in a thread of its own; the system's resolver cannot be cut
short."""

Address = tuple[str, int]
Look = Callable[[str], Awaitable[list[Address]]]


class Fetcher:
    """Fetches images, at most `media_fetches` requests at a time."""

    def __init__(
        self,
        limits: GatewayLimits,
        *,
        look_up: Look | None = None,
        forbidden: Callable[[str], bool] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """The three are for tests: how a name becomes addresses, which of them are forbidden, and whose
        certificates count."""
        self._limits = limits
        self._look_up = look_up or Resolver().addresses_of
        self._forbidden = forbidden or is_not_public
        self._tls = tls
        self.active = 0
        """Requests whose images are being fetched, or were fetched and are not answered yet."""

    async def fetch(self, media: Media) -> None:
        """Puts data URLs in place of those to be fetched. Raises BadRequest naming the part, or Overloaded.
        `release` has to follow."""
        limits = self._limits
        if self.active >= limits.media_fetches:
            raise Overloaded(
                f"{limits.media_fetches} requests with fetched images are under way; try again shortly.",
                code="media_fetches_full",
                retry_after_s=1,
            )
        self.active += 1
        media.holds_place = True
        part = media.to_fetch[0]
        try:
            async with asyncio.timeout(limits.media_fetch_timeout_s):
                for part in media.to_fetch:
                    await self._one(media, part)
        except TimeoutError:
            reason = f"did not come within {limits.media_fetch_timeout_s:g} s"
            raise _unavailable(part, reason) from None

    def release(self, media: Media) -> None:
        """The request has ended, however it did."""
        if media.holds_place:
            media.holds_place = False
            self.active -= 1

    async def _one(self, media: Media, part: Part) -> None:
        limits = self._limits
        most_bytes = min(limits.media_part_bytes, limits.media_bytes - media.image_bytes - media.audio_bytes)
        data = await self._get(part, most_bytes)
        media_type = check_image(part, data, limits)
        media.add(part, len(data), limits)
        part.holder["url"] = f"data:{media_type};base64,{base64.b64encode(data).decode()}"

    async def _get(self, part: Part, most_bytes: int) -> bytes:
        url = split_url(part)
        host = (url.hostname or "").removesuffix(".")
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        answer = Answer(part, most_bytes)
        try:
            reader, writer = await self._connect(part, host)
        except (OSError, UnicodeError, ssl.SSLError):
            raise _unavailable(part, f"cannot be had: no connection to {host!r}") from None
        try:
            writer.write(
                f"GET {target} HTTP/1.1\r\nhost: {host}\r\nuser-agent: sextant\r\naccept: image/*\r\n"
                "accept-encoding: identity\r\nconnection: close\r\n\r\n".encode("ascii")
            )
            await writer.drain()
            while not answer.whole:
                piece = await reader.read(READ_BYTES)
                if not piece:
                    answer.closed()
                    break
                answer.feed(piece)
        except OSError:
            raise _unavailable(part, f"cannot be had: {host!r} broke off") from None
        finally:
            writer.transport.abort()
        return bytes(answer.body)

    async def _connect(self, part: Part, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the first address that answers; all have been checked before."""
        found = await self._look_up(host)
        if not found or any(self._forbidden(address) for address, _ in found):
            raise BadRequest(
                f"`{part.field}`: {host!r} has no public address, so nothing is fetched from it.",
                field=part.field,
                code="url_not_allowed",
            )
        if self._tls is None:
            self._tls = ssl.create_default_context()
        failure: OSError = OSError()
        for address, port in found:
            try:
                return await asyncio.open_connection(address, port, ssl=self._tls, server_hostname=host)
            except OSError as error:
                failure = error
        raise failure


class Resolver:
    """The system's resolver. A look-up outlives the request that asked for it, so its place is kept until it
    has really ended: a name server that is silent holds `LOOK_UPS` threads and no more, and none of those
    that others use. Who finds no place waits within his own time."""

    def __init__(self, resolve: Callable[[str], list[Address]] | None = None) -> None:
        """`resolve` is for tests."""
        self._resolve = resolve or _resolved
        self._places = asyncio.Semaphore(LOOK_UPS)

    async def addresses_of(self, host: str) -> list[Address]:
        """Every address of a name. Raises OSError or UnicodeError."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[list[Address]] = loop.create_future()
        # a daemon: a look-up that hangs must not keep the gateway from ending
        thread = threading.Thread(target=self._run, args=(host, loop, ended), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._places.release()
            raise OSError(f"no thread can be started to look {host!r} up") from error
        return await ended

    def _run(self, host: str, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[list[Address]]) -> None:
        """In the thread."""
        found: list[Address] | Exception
        try:
            found = self._resolve(host)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: raised again where it was asked for
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed by now: nobody waits any more
            loop.call_soon_threadsafe(self._ended, ended, found)

    def _ended(self, ended: asyncio.Future[list[Address]], found: list[Address] | Exception) -> None:
        self._places.release()
        if ended.done():  # who asked has left
            return
        if isinstance(found, list):
            ended.set_result(found)
        else:
            ended.set_exception(found)


def _resolved(host: str) -> list[Address]:
    found = socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(entry[4][0]), HTTPS_PORT) for entry in found))


class Answer:
    """One HTTP answer, as httptools reads it; anything but a plain 200 is refused."""

    def __init__(self, part: Part, most_bytes: int) -> None:
        self._part = part
        self._most_bytes = most_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._framed = False
        self._refusal: BadRequest | None = None
        self._headed = False
        self.body = bytearray()
        self.whole = False

    def feed(self, data: bytes) -> None:
        """Raises BadRequest."""
        if not self._headed:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise self._refusal or _unavailable(self._part, "cannot be had: that is no HTTP answer") from None
        if self._refusal is not None:
            raise self._refusal
        if not self._headed and self._head_bytes > HEAD_BYTES:
            raise _unavailable(self._part, "cannot be had: the answer's head is too long")

    def closed(self) -> None:
        """The connection ended. Right only for a body without a length."""
        if not self._headed or self._framed:
            raise _unavailable(self._part, "was cut off on the way")
        self.whole = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        if name == b"content-length" and value.isdigit() and int(value) > self._most_bytes:
            self._refusal = too_large(self._part, self._most_bytes)
        if name == b"content-encoding" and value.lower() != b"identity":
            self._refusal = _unavailable(self._part, "cannot be had: its host sends it compressed")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._headed = True
        if 300 <= status < 400:
            self._refusal = _unavailable(
                self._part, "redirects, and redirects are not followed; send its own"
            )
        elif status != 200:
            self._refusal = _unavailable(self._part, f"cannot be had: its host answered {status}")

    def on_body(self, data: bytes) -> None:
        if len(self.body) + len(data) > self._most_bytes:
            self._refusal = too_large(self._part, self._most_bytes)
        elif self._refusal is None:
            self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


def _unavailable(part: Part, reason: str) -> BadRequest:
    return BadRequest(f"The image of `{part.field}` {reason}.", field=part.field, code="image_unavailable")
