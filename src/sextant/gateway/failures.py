"""The one place where domain errors become HTTP: status, headers and OpenAI's error body; and engine answers
that are not 200 become domain errors.

Flow 1 (serve), every unhappy end. Statuses are DeepSeek's (400, 401, 402, 404, 422, 429, 500, 503) plus the
plain HTTP ones that DeepSeek leaves open (403, 405, 413, 415). Neighbours: `flow.py`, `app.py`, the dialects.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from sextant.base import errors
from sextant.transport.exchange import Header

_BY_TYPE: tuple[tuple[type[errors.SextantError], int, str], ...] = (
    (errors.BodyTooLarge, 413, "invalid_request_error"),
    (errors.Unprocessable, 422, "invalid_request_error"),
    (errors.BadRequest, 400, "invalid_request_error"),
    (errors.Unauthenticated, 401, "authentication_error"),
    (errors.InsufficientBalance, 402, "insufficient_balance_error"),
    (errors.Forbidden, 403, "permission_error"),
    (errors.NotFound, 404, "not_found_error"),
    (errors.MethodNotAllowed, 405, "invalid_request_error"),
    (errors.RateLimited, 429, "rate_limit_error"),
    (errors.Overloaded, 503, "overloaded_error"),
    (errors.DeadlineExceeded, 503, "overloaded_error"),
    (errors.UpstreamUnavailable, 503, "service_unavailable_error"),
    (errors.LedgerUnavailable, 503, "service_unavailable_error"),
    (errors.LimitsUnavailable, 503, "service_unavailable_error"),
    (errors.UpstreamError, 500, "server_error"),
    (errors.SextantError, 500, "server_error"),
)
_BY_CODE = {"unsupported_media_type": 415}
RETRY_AFTER_S = 1
"""Said with 429 and 503 when nothing better is known."""
LONGEST_CLIENT_WAIT_S = 60
"""The longest Retry-After that the `openai` and `anthropic` clients heed (2026-11)."""
_ENGINE_MESSAGE_CHARS = 2000
_encode = msgspec.json.Encoder().encode


def status_of(error: errors.SextantError) -> int:
    special = _BY_CODE.get(error.code)
    return special if special is not None else _entry(error)[0]


def type_of(error: errors.SextantError) -> str:
    """OpenAI's `error.type`."""
    return _entry(error)[1]


def _entry(error: errors.SextantError) -> tuple[int, str]:
    for kind, status, name in _BY_TYPE:
        if isinstance(error, kind):
            return status, name
    raise AssertionError("SextantError is the last row")


def openai_body(error: errors.SextantError) -> bytes:
    """`{"error": {message, type, param, code}}`."""
    return _encode(
        {
            "error": {
                "message": error.message,
                "type": type_of(error),
                "param": error.field,
                "code": error.code,
            }
        }
    )


def extra_headers(error: errors.SextantError) -> list[Header]:
    """Retry-After with 429 and 503, WWW-Authenticate with 401, Accept-Encoding with 415."""
    status = status_of(error)
    if status in (429, 503):
        return _retry_after(getattr(error, "retry_after_s", None))
    if status == 401:
        return [(b"www-authenticate", b"Bearer")]
    if status == 415:
        return [(b"accept-encoding", b"identity")]
    return []


def _retry_after(wait_s: float | None) -> list[Header]:
    """In seconds, rounded up, and in the milliseconds that the `openai` and `anthropic` clients read first. A
    wait that is longer than they would wait is no reason to try again before."""
    wait_s = RETRY_AFTER_S if wait_s is None else wait_s
    found: list[Header] = [(b"retry-after", b"%d" % max(1, math.ceil(wait_s)))]
    if wait_s > LONGEST_CLIENT_WAIT_S:
        found.append((b"x-should-retry", b"false"))
    else:
        found.append((b"retry-after-ms", b"%d" % max(1, math.ceil(wait_s * 1000))))
    return found


def bad_value(error: msgspec.ValidationError, fields: dict[str, Any]) -> errors.BadRequest:
    """A BadRequest naming the field that msgspec found wrong, with its value where that is no prompt text."""
    text, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    missing = text.removeprefix("Object missing required field `")
    if missing != text:
        name = missing.rstrip("`")
        field = f"{path}.{name}" if path else name
        return errors.BadRequest(f"{field} is missing.", field=field, code="missing_field")
    text = text[:1].lower() + text[1:]
    value = _value_at(fields, path)
    shown = f" (got {value!r})" if type(value) in (int, float, bool) else ""
    return errors.BadRequest(f"{path}: {text}{shown}.", field=path or None, code="invalid_value")


def _value_at(fields: Any, path: str) -> Any:
    """The value at a msgspec path such as `messages[0].role`; None where it cannot be followed."""
    for step in path.replace("[", ".[").split("."):
        try:
            fields = fields[int(step[1:-1])] if step.startswith("[") else fields[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return fields


def engine_failure(status: int, body: bytes, retry_after: bytes | None) -> errors.SextantError:
    """What an engine's answer other than 200 means to the caller. An engine that refuses our own key is our
    misconfiguration, never the caller's 401."""
    message, code = _engine_message(body)
    if status in (400, 413, 422, 501):
        said = message or f"The engine refused the request with status {status} and no reason."
        if status == 413:
            return errors.BodyTooLarge(said)
        if status != 400:
            return errors.Unprocessable(said, code=code or "unsupported")
        if "context" in (code or "") or "context size" in said or "context length" in said:
            return errors.BadRequest(said, field="messages", code="context_length_exceeded")
        return errors.BadRequest(said, code=code or "invalid_request")
    if status in (408, 429, 502, 503, 504):
        return errors.Overloaded(
            "The engine is overloaded or starting; try again shortly.",
            code="engine_overloaded",
            retry_after_s=_seconds(retry_after),
        )
    if status in (401, 403):
        return errors.UpstreamError(
            "The engine refused the gateway's own credential; the operator has to check its key.",
            code="engine_credential",
        )
    return errors.UpstreamError(f"The engine failed with status {status}.", code="engine_error")


def _engine_message(body: bytes) -> tuple[str | None, str | None]:
    """Message and code of an engine's error body, in the three shapes that engines use."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    if not isinstance(answer, dict):
        return None, None
    error = answer.get("error", answer)
    if isinstance(error, str):
        return error[:_ENGINE_MESSAGE_CHARS], None
    if not isinstance(error, dict):
        return None, None
    message = error.get("message", error.get("detail"))
    code = error.get("code")
    if not isinstance(code, str):
        code = error.get("type")
    return (
        message[:_ENGINE_MESSAGE_CHARS] if isinstance(message, str) else None,
        code if isinstance(code, str) and len(code) <= 64 else None,
    )


def _seconds(value: bytes | None) -> float | None:
    return float(value) if value is not None and value.isdigit() and len(value) < 6 else None
