"""Control as the pages call it: over HTTP, with the credential of whoever looks at a page, and nothing more.

`app` is control's own ASGI application, its credential check included; a call never leaves the process.
Neighbours: `told.py` (what its answers are read as), `visit.py` (whose credential it is).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from sextant.base.errors import Permanent, Retryable

ANSWER_BYTES_MAX = 32 * 1024 * 1024
"""A year's usage as CSV, told apart by everything, is a third of it."""
TIMEOUT_S = 20.0
HOST = b"127.0.0.1"
"""Not the portal's own host, at which control tells browsers nothing."""

AsgiApp = Callable[..., Awaitable[None]]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Refused(Permanent):
    """Control says no; `status` is its answer's."""

    def __init__(self, status: int, message: str, *, code: str, field: str | None = None) -> None:
        super().__init__(message, code=code, field=field)
        self.status = status


class SignedOut(Refused):
    """Nobody is signed in with this session, or not any more."""


class Busy(Retryable):
    """Control cannot answer now; `status` is 429 or 503."""

    def __init__(self, status: int, message: str, *, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.status = status


class Visitor(msgspec.Struct, frozen=True):
    """Whoever looks at a page: their session, the token their form brought, and where they call from."""

    session: str = ""
    csrf: str = ""
    peer: tuple[str, int] | None = None
    forwarded_for: bytes = b""
    cookies: tuple[tuple[str, str], ...] = ()
    """What control has put into this browser besides the session."""


class Answer(msgspec.Struct, frozen=True):
    """What control answered; header names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> str:
        """The first header of this name; empty where there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    def cookie(self, name: str) -> tuple[str, int]:
        """A cookie that it sets, and for how many seconds; empty where it sets none of this name."""
        for key, value in self.headers:
            if key == b"set-cookie":
                try:
                    found = SimpleCookie(value.decode("latin-1")).get(name)
                except CookieError:
                    continue
                if found is not None:
                    return found.value, int(found["max-age"] or 0)
        return "", 0

    def read(self, kind: type[T]) -> T:
        """The JSON as `kind`; what `kind` does not name is left out."""
        return msgspec.json.decode(self.body, type=kind)


class ControlApi:
    """Control's HTTP interface. `cookie` is the name that it gives a session's cookie."""

    def __init__(self, app: AsgiApp, cookie: str) -> None:
        self._app = app
        self.cookie = cookie

    async def ask(
        self, visitor: Visitor, call: str, body: object = None, *, query: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        """One call, as `GET /v1/me`, with `body` as JSON. Raises Refused, SignedOut, Busy."""
        answer = await self.exchange(visitor, call, body, query=query)
        if answer.status < 400:
            return answer
        raise _failure(answer)

    async def exchange(
        self, visitor: Visitor, call: str, body: object = None, *, query: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        """As `ask`, but any answer of control's is one. Raises Busy where there is none."""
        method, _, path = call.partition(" ")
        data = b"" if body is None else msgspec.json.encode(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": urlencode(query).encode(),
            "root_path": "",
            "headers": self._headers(visitor, data),
            "client": visitor.peer,
            "server": ("127.0.0.1", 80),
        }
        receiver = _Receiver(data)
        try:
            await asyncio.wait_for(self._app(scope, receiver.receive, receiver.send), TIMEOUT_S)
        except TimeoutError:
            said = f"{call}: no answer within {TIMEOUT_S:.0f} s"
            raise Busy(503, said, code="control_timeout", retry_after_s=5) from None
        except Exception:  # noqa: BLE001 - whatever control failed of has its own log line; the page says that it did
            _log.exception("control failed at %s", call)
            raise Busy(503, f"{call}: control failed", code="control_failed") from None
        return receiver.answer()

    def _headers(self, visitor: Visitor, data: bytes) -> list[tuple[bytes, bytes]]:
        headers = [(b"host", HOST), (b"accept", b"application/json")]
        if data:
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        cookies = [*visitor.cookies, *([(self.cookie, visitor.session)] if visitor.session else [])]
        if cookies:
            sent = "; ".join(f"{name}={value}" for name, value in cookies)
            headers.append((b"cookie", sent.encode("latin-1", "replace")))
        if visitor.csrf:
            headers.append((b"x-csrf-token", visitor.csrf.encode("latin-1", "replace")))
        if visitor.forwarded_for:
            headers.append((b"x-forwarded-for", visitor.forwarded_for))
        return headers


class _Receiver:
    """The other side of one ASGI call."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._told = False
        self._over = asyncio.Event()
        self._status = 0
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        self._body = bytearray()

    async def receive(self) -> MutableMapping[str, Any]:
        """The body, whole; after it nothing comes, and the caller stays."""
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": self._data, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Takes the answer. Raises Busy for one that is too long."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple((name.lower(), value) for name, value in message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if len(self._body) > ANSWER_BYTES_MAX:
                raise Busy(503, f"the answer has more than {ANSWER_BYTES_MAX} bytes", code="too_long")
            if not message.get("more_body", False):
                self._over.set()

    def answer(self) -> Answer:
        """Raises Busy for an answer that never came."""
        if not self._status:
            raise Busy(503, "control gave no answer", code="control_failed")
        return Answer(self._status, self._headers, bytes(self._body))


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""
    code: str = ""
    param: str | None = None


class _Told(msgspec.Struct, frozen=True):
    error: _Fault = _Fault()


def _failure(answer: Answer) -> Refused | Busy:
    try:
        fault = answer.read(_Told).error
    except msgspec.DecodeError:
        fault = _Fault(f"control answered {answer.status}", "control_failed")
    if answer.status == 429 or answer.status >= 500:
        after = answer.header(b"retry-after")
        wait_s = float(after) if after.isdigit() else None
        status = 429 if answer.status == 429 else 503
        return Busy(status, fault.message, code=fault.code, retry_after_s=wait_s)
    kind = SignedOut if answer.status == 401 and fault.code == "invalid_api_key" else Refused
    return kind(answer.status, fault.message, code=fault.code, field=fault.param)
