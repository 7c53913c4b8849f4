"""Health probes: one small HTTP GET or a connect, bounded in time and bytes.

The supervisor asks each process whether it answers. Written on asyncio's streams so that the supervisor has
no thread (its children's death signal is tied to the thread that forked them) and needs no HTTP library.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from sextant.spec.ledger_wire import LENGTH_BYTES, WIRE_VERSION, Hello, Welcome, frame

ANSWER_BYTES_MAX = 1024 * 1024
"""A longer answer counts as a failed probe."""

Probe = Callable[[], Awaitable[None]]
"""Returns when the process answers; raises ProbeFailed with the reason otherwise."""


class Peer(Protocol):
    """Somebody who is known by an id instead of a host name; see `identity.py`."""

    def context(self) -> ssl.SSLContext:
        """What to connect with. Raises OSError while there is nothing to show."""

    def check(self, connection: ssl.SSLObject) -> None:
        """Raises OSError when somebody else answered."""


class ProbeFailed(Exception):
    """The process did not answer as it should; the text says how.

    `alive` is true when it answered at all (a refusal, a reset): a process that is merely overloaded must not
    be killed for it.
    """

    def __init__(self, said: str, *, alive: bool = False) -> None:
        super().__init__(said)
        self.alive = alive


def http_probe(
    url: str,
    headers: Callable[[], Mapping[str, str]] = dict,
    *,
    timeout_s: float = 2.0,
    peer: Peer | None = None,
) -> Probe:
    """A probe that is content with a 200 from `url`. Certificates of our own processes are not verified; with
    `peer` it must be that one who answers."""
    parts = urlsplit(url)
    verify = parts.hostname not in ("127.0.0.1", "::1", "localhost")

    async def probe() -> None:
        try:
            async with asyncio.timeout(timeout_s):
                status = await _get_status(url, headers(), verify=verify, peer=peer)
        except TimeoutError:
            raise ProbeFailed(f"no answer within {timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            answered = isinstance(error, ConnectionResetError | ValueError)
            raise ProbeFailed(_reason(error), alive=answered) from None
        if status != 200:
            raise ProbeFailed(f"the health check was answered {status}{_hint(status)}", alive=True)

    return probe


def connect_probe(host: str, port: int, *, timeout_s: float = 2.0) -> Probe:
    """A probe that is content when a TCP connection is accepted."""

    async def probe() -> None:
        await _connected(asyncio.open_connection(host, port), timeout_s)

    return probe


def ledger_probe(path: Path, *, timeout_s: float = 2.0) -> Probe:
    """A probe that is content when the ledger behind the Unix socket greets. That the socket takes a
    connection says little: the kernel does so for a process that stands still."""

    async def probe() -> None:
        writer = None
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(frame(msgspec.msgpack.encode(Hello(WIRE_VERSION, "probe"))))
                length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                msgspec.msgpack.decode(await reader.readexactly(length), type=Welcome)
        except TimeoutError:
            raise ProbeFailed(f"no greeting within {timeout_s:g} s") from None
        except OSError as error:
            raise ProbeFailed(_reason(error)) from None
        except (EOFError, msgspec.DecodeError) as error:
            raise ProbeFailed(f"it does not greet: {error}", alive=True) from None
        finally:
            if writer is not None:
                writer.close()

    return probe


def fresh_file_probe(path: str | Path, silence_s: float) -> Probe:
    """A probe that is content while a file was written no longer ago than `silence_s`."""

    async def probe() -> None:
        try:
            written_s = os.stat(path).st_mtime  # noqa: PTH116 - a look at a local file, not waited for
        except OSError as error:
            raise ProbeFailed(f"it has written no {Path(path).name}: {error.strerror}") from None
        if time.time() - written_s > silence_s:
            raise ProbeFailed(f"it has written nothing for {silence_s:g} s")

    return probe


async def _connected(
    opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], timeout_s: float
) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await opening
    except TimeoutError:
        raise ProbeFailed(f"no connection within {timeout_s:g} s") from None
    except OSError as error:
        raise ProbeFailed(_reason(error)) from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _get_status(url: str, headers: Mapping[str, str], *, verify: bool, peer: Peer | None) -> int:
    parts = urlsplit(url)
    context: ssl.SSLContext | None = None
    if peer is not None:
        context = peer.context()
    elif parts.scheme == "https":
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    host = parts.hostname or ""
    reader, writer = await asyncio.open_connection(
        host, parts.port or (443 if context else 80), ssl=context, limit=ANSWER_BYTES_MAX
    )
    try:
        if peer is not None:
            peer.check(writer.get_extra_info("ssl_object"))
        fields = {"Host": parts.netloc, "Accept": "application/json", "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        target = parts.path or "/"
        writer.write(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        line = await reader.readline()
        found = re.match(rb"HTTP/1\.[01] (\d{3})(?: |\r|\n|$)", line)
        if found is None:
            raise ValueError(f"the answer is not HTTP: {line[:40]!r}")
        return int(found.group(1))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}" if getattr(error, "reason", None) else str(error.args[-1])
    return str(getattr(error, "strerror", None) or error)


def _hint(status: int) -> str:
    if status in (401, 403):
        return ": its API key is not accepted"
    if status == 404:
        return ": there is no such path; is the base URL the API's root?"
    return ""
