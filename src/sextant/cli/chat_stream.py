"""The HTTP side of `sextant chat`: one streamed chat completion at a time, over the standard library."""

from __future__ import annotations

import dataclasses
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from sextant.base.errors import SextantError, UpstreamError

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 120.0
"""The gateway sends a comment at least every ten seconds while a request waits."""
LINE_BYTES_MAX = 4 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Piece:
    """One event of an answer."""

    text: str = ""
    thought: str = ""
    finish: str = ""
    usage: dict[str, Any] | None = None


class ChatApi:
    """An OpenAI-compatible API at `url` (its root, ending in /v1). `ours` is a process of ours on this
    machine, found through the state directory: its certificate need not be one that this machine trusts."""

    def __init__(self, url: str, key: str, *, ours: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SextantError(f"{url} is no API root; expected for example http://127.0.0.1:8000/v1")
        self.url = url
        self._parts = parts
        self._tls = ssl.create_default_context()
        if ours:
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def models(self) -> list[str]:
        """The names of the models served."""
        connection, answer = self._request("GET", "/models", None)
        try:
            listed = json.loads(answer.read())
            return [str(model["id"]) for model in listed["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise SextantError(f"{self.url}/models gives no list of models ({error})") from None
        finally:
            connection.close()

    def first_model(self) -> str:
        """The first model served. Raises SextantError when there is none."""
        models = self.models()
        if not models:
            raise SextantError(f"{self.url} serves no model")
        return models[0]

    def stream(self, model: str, messages: list[dict[str, str]], *, thinking: bool | None) -> Iterator[Piece]:
        """The answer as it comes. Closing the iterator hangs up, which stops the engine's work too."""
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if thinking is not None:
            body["thinking"] = {"type": "enabled" if thinking else "disabled"}
        connection, answer = self._request("POST", "/chat/completions", body)
        try:
            yield from self._pieces(answer)
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamError(f"the answer was cut off: {error or type(error).__name__}") from None
        finally:
            connection.close()

    def _pieces(self, answer: http.client.HTTPResponse) -> Iterator[Piece]:
        ended = False
        while line := answer.readline(LINE_BYTES_MAX):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                ended = True
                break
            event = _decoded(data)
            if "error" in event:
                raise UpstreamError(_told(event))
            choice = (event.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            yield Piece(
                delta.get("content") or "",
                delta.get("reasoning_content") or "",
                choice.get("finish_reason") or "",
                event.get("usage"),
            )
        if not ended:
            raise UpstreamError("the answer was cut off before its end")

    def _request(
        self, method: str, path: str, body: Any
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        host = self._parts.hostname or ""
        connection: http.client.HTTPConnection
        if self._parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, self._parts.port, timeout=CONNECT_TIMEOUT_S, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(host, self._parts.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(SILENCE_TIMEOUT_S)
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, self._parts.path.rstrip("/") + path, payload, self._headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SextantError(f"{self.url} does not answer: {said}") from None
        except KeyboardInterrupt:
            connection.close()
            raise
        if answer.status != 200:
            try:
                raise SextantError(_told(_decoded(answer.read()), answer.status))
            finally:
                connection.close()
        return connection, answer


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise UpstreamError(f"the answer is not what a chat API sends: {data[:80]!r}")
    return event


def _told(event: dict[str, Any], status: int = 0) -> str:
    error = event.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or f"the API answered with status {status}")
