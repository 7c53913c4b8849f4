"""One connection to Redis: opened, checked, and three scripts called on it.

Flow 1 (serve), below `limiter.py`, which decides what is sent and when it is sent again. Whatever goes wrong
is one error here, `LinkLost`: the connection is closed, and what became of the last call is not known. As
every key lies in one slot, a Redis Cluster needs no more than to follow one redirection. No client library
retries anything behind our back: a call that is sent again is sent again by number of connection and request
id.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import redis.exceptions
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sextant.base.config import resolve_secret
from sextant.base.errors import Misconfigured
from sextant.spec.stores import SharedLimits

REDIS_MAJOR_MIN = 7
"""Scripts with flags came with Redis 7.0; Valkey has them from its first version."""
REDIRECTIONS_MAX = 3
_PORT = 6379
_FLAGS = {"admit": "#!lua", "settle": "#!lua flags=allow-oom", "begin": "#!lua flags=allow-oom"}
"""Without memory Redis refuses to admit, before the script has done anything; it may always release."""


class LinkLost(Exception):
    """The connection is unusable; the text says why, for an operator."""


class Scripts:
    """The scripts' texts by their SHA-1, as Redis knows them."""

    def __init__(self) -> None:
        folder = resources.files("sextant.governance.shared")
        state = folder.joinpath("state.lua").read_text()
        self.texts = {
            name: f"{flags}\n{state}\n{folder.joinpath(f'{name}.lua').read_text()}"
            for name, flags in _FLAGS.items()
        }
        self.digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self.texts.items()
        }


class Link:
    """An open connection. Made by `open_link`."""

    def __init__(self, connection: Connection, scripts: Scripts, timeout_s: float, key: str) -> None:
        self._connection = connection
        self._scripts = scripts
        self._timeout_s = timeout_s
        self._key = key
        self.run_id = ""
        """The server's own name for its present run."""

    async def call(self, calls: Sequence[tuple[str, str, int, bytes]]) -> list[Any]:
        """Runs scripts in order, in one round trip; each is (name, owner, generation, argument), each answer
        its raw bytes or an error of that script alone. Raises LinkLost."""
        commands = [
            ("EVALSHA", self._scripts.digests[name], "1", self._key, owner, str(generation), argument)
            for name, owner, generation, argument in calls
        ]
        answers = await self._exchange(commands)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            await self._load()
            answers = await self._exchange(commands)
        for answer in answers:
            if isinstance(answer, redis.exceptions.RedisError) and not _is_out_of_memory(answer):
                await self.close()
                raise LinkLost(_said(answer))
        return answers

    async def close(self) -> None:
        """Closes without waiting for anybody."""
        await self._connection.disconnect(nowait=True)

    async def check(self) -> None:
        """Looks at the server and hands it the scripts. Raises LinkLost."""
        info = _fields(await self._exchange([("INFO", "server"), ("INFO", "memory")]))
        self.run_id = info.get("run_id", "")
        version = info.get("redis_version", "0")
        if int(version.partition(".")[0] or 0) < REDIS_MAJOR_MIN:
            raise LinkLost(
                f"it is version {version}; Redis {REDIS_MAJOR_MIN}.0 or newer, or Valkey, is needed"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory", "0") != "0" and policy != "noeviction":
            raise LinkLost(
                f"it may drop limits when its memory is full (maxmemory-policy is {policy}); "
                f"set maxmemory-policy noeviction"
            )
        await self._load()

    async def _load(self) -> None:
        loads = [("SCRIPT", "LOAD", text) for text in self._scripts.texts.values()]
        for answer in await self._exchange(loads):
            if isinstance(answer, redis.exceptions.RedisError):
                raise LinkLost(_said(answer))

    async def _exchange(self, commands: Sequence[tuple[str | bytes, ...]]) -> list[Any]:
        """The answers to commands sent together, an error in the place of its answer. Raises LinkLost."""
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await self._read() for _ in commands]
        except TimeoutError:
            await self.close()
            raise LinkLost(f"no answer within {self._timeout_s:g} s") from None
        except (redis.exceptions.RedisError, OSError) as error:
            await self.close()
            raise LinkLost(_said(error)) from None

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response(disconnect_on_error=False)
        except redis.exceptions.ResponseError as error:
            return error


async def open_link(settings: SharedLimits, scripts: Scripts) -> Link:
    """A checked connection. Raises LinkLost; Misconfigured where Redis does not accept our credentials."""
    parts = urlsplit(settings.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or _PORT
    for _ in range(REDIRECTIONS_MAX):
        link = await _connect(settings, scripts, host, port)
        try:
            await link.check()
            moved = await _moved_to(link, settings)
            if moved is None:
                return link
            host, port = moved[0] or host, moved[1]
        except LinkLost:
            await link.close()
            raise
        await link.close()
    raise LinkLost("its cluster sends us round in circles")


async def _connect(settings: SharedLimits, scripts: Scripts, host: str, port: int) -> Link:
    parts = urlsplit(settings.url)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": int(parts.path.strip("/") or 0),
        "username": settings.username or None,
        "password": None if settings.password_ref is None else resolve_secret(settings.password_ref),
        "socket_timeout": None,
        "socket_connect_timeout": settings.timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "sextant",
        "driver_info": None,
        "protocol": 3,
    }
    if parts.scheme == "rediss":
        options |= {
            "ssl_ca_certs": settings.ca_file,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "ssl_check_hostname": True,
        }
    connection = SSLConnection(**options) if parts.scheme == "rediss" else Connection(**options)
    try:
        async with asyncio.timeout(settings.timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        await connection.disconnect(nowait=True)
        raise Misconfigured(
            f"Redis at {host}:{port} does not accept spec.limits.username and .password: {_said(error)}"
        ) from None
    except TimeoutError:
        await connection.disconnect(nowait=True)
        raise LinkLost(f"no connection to {host}:{port} within {settings.timeout_s:g} s") from None
    except (redis.exceptions.RedisError, OSError) as error:
        await connection.disconnect(nowait=True)
        raise LinkLost(_said(error)) from None
    return Link(connection, scripts, settings.timeout_s, key_prefix(settings))


async def _moved_to(link: Link, settings: SharedLimits) -> tuple[str, int] | None:
    """The node that has our slot, where this one of a cluster has not."""
    answer = (await link._exchange([("EXISTS", key_prefix(settings))]))[0]
    if isinstance(answer, redis.exceptions.MovedError):
        return str(answer.host), int(answer.port)
    if isinstance(answer, redis.exceptions.RedisError):
        raise LinkLost(_said(answer))
    return None


def key_prefix(settings: SharedLimits) -> str:
    """What every key of a deployment begins with; the braces keep them in one slot of a Redis Cluster."""
    return f"{{sextant:{settings.name}}}:"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, redis.exceptions.OutOfMemoryError)


def _fields(answers: list[Any]) -> dict[str, str]:
    """The fields of INFO's answers. Raises LinkLost where our user may not ask."""
    found: dict[str, str] = {}
    for answer in answers:
        if isinstance(answer, redis.exceptions.RedisError):
            raise LinkLost(_said(answer))
        text = answer.decode() if isinstance(answer, bytes) else str(answer)
        found |= dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return found


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
