"""The door in front of the admin API: no path, not even an unknown one, answers without the credential.

The secret's SHA-256 is looked up, so how long a wrong one takes says nothing about a right one.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

_REFUSAL = json.dumps(
    {
        "error": {
            "message": "the admin API needs the admin credential (Authorization: Bearer sxadmin-…); it was "
            "printed at the first start, and the local one is in .sextant/secrets/admin",
            "code": "invalid_api_key",
            "param": None,
        }
    }
).encode()


class AdminDoor:
    """ASGI middleware. `verify` returns None for a secret that is nobody's."""

    def __init__(self, app: ASGIApp, verify: Callable[[str], object | None]) -> None:
        self._app = app
        self._verify = verify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._admitted(scope):
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(_REFUSAL)).encode()),
                (b"www-authenticate", b"Bearer"),
                (b"connection", b"close"),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _admitted(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, secret = given[0].decode("latin-1").partition(" ")
        return scheme.lower() == "bearer" and self._verify(secret.strip()) is not None
