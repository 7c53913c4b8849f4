"""The one error tree of Sextant.

    SextantError
    ├── Permanent                 asking again changes nothing until the caller changes something
    │   ├── BadDocument           the deployment document is wrong (file, line, field)
    │   ├── BadRequest            a request is malformed or has a wrong value (names the field)
    │   │   ├── BodyTooLarge
    │   │   └── Unprocessable     well-formed, but this model or engine cannot do it
    │   ├── Unauthenticated       no key, or a key nobody knows
    │   ├── Forbidden             a known key that may not do this
    │   ├── InsufficientBalance
    │   ├── NotFound              model, endpoint or record
    │   ├── MethodNotAllowed
    │   └── Misconfigured         this installation cannot do it as configured
    │       └── Unsupported       no deployment can: a mode, an engine or hardware that is not supported
    └── Retryable                 the same request may succeed later
        ├── RateLimited           too many requests or tokens for this key
        ├── Overloaded            a bounded queue is full
        ├── DeadlineExceeded
        ├── UpstreamError         the engine failed: refused, reset, truncated, garbage, 5xx
        │   └── UpstreamUnavailable   no engine is ready for this model
        ├── LedgerUnavailable     usage cannot be made durable now
        └── LimitsUnavailable     limits cannot be checked now

A message says what failed, the value, what was expected and what to do next; never a secret, a key or a
prompt. HTTP status and wire shape are mapped in `sextant.gateway.failures` alone.
"""

from __future__ import annotations

from typing import Any


class SextantError(Exception):
    """Base of all domain errors.

    `message` is for people. `field` names the offending input in the caller's own terms (`messages[2].role`).
    `code` is a short stable word for programs.
    """

    code = "internal_error"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code is not None:
            self.code = code


class Permanent(SextantError):
    """Asking again changes nothing until the caller changes something."""


class Retryable(SextantError):
    """The same request may succeed later; `retry_after_s` says when to try, if known."""

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, field=field, code=code)
        self.retry_after_s = retry_after_s


class BadDocument(Permanent):
    code = "bad_document"


class BadRequest(Permanent):
    code = "invalid_request"


class BodyTooLarge(BadRequest):
    code = "body_too_large"


class Unprocessable(BadRequest):
    code = "unsupported"


class Unauthenticated(Permanent):
    code = "invalid_api_key"


class Forbidden(Permanent):
    code = "forbidden"


class InsufficientBalance(Permanent):
    code = "insufficient_balance"


class NotFound(Permanent):
    code = "not_found"


class MethodNotAllowed(Permanent):
    code = "method_not_allowed"


class Misconfigured(Permanent):
    code = "misconfigured"


class Unsupported(Misconfigured):
    code = "not_supported"


class RateLimited(Retryable):
    """`headroom` is what is left of the limits of requests and of tokens, as governance counts it
    (`governance.limits.limiter.Headroom`), where they are known."""

    code = "rate_limit_exceeded"
    headroom: tuple[Any, Any] = (None, None)


class Overloaded(Retryable):
    code = "overloaded"


class DeadlineExceeded(Retryable):
    code = "deadline_exceeded"


class UpstreamError(Retryable):
    code = "engine_error"


class UpstreamUnavailable(UpstreamError):
    code = "engine_unavailable"


class LedgerUnavailable(Retryable):
    code = "ledger_unavailable"


class LimitsUnavailable(Retryable):
    code = "limits_unavailable"
