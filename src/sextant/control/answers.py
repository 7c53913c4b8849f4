"""How the admin API reads and answers: JSON bodies, pages of lists, and the one shape of errors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sextant.base.errors import (
    BadRequest,
    BodyTooLarge,
    Forbidden,
    NotFound,
    Permanent,
    RateLimited,
    Retryable,
    SextantError,
    Unauthenticated,
)
from sextant.store.accounts_database import Page

BODY_BYTES_MAX = 1024 * 1024
PAGE_MAX = 1000
_FIELD = re.compile(r"at `\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")

T = TypeVar("T")


class Fault(msgspec.Struct, frozen=True):
    """`code` is for programs, `message` for people, `param` the field that is meant."""

    message: str
    code: str
    param: str | None = None


class Told(msgspec.Struct, frozen=True):
    """Every error of the admin API."""

    error: Fault


class WrongBody(BadRequest):
    """A body that cannot be read as what the route takes: 422, as FastAPI says it."""


class Body(Generic[T]):
    """Reads a request's JSON as `kind`, a msgspec Struct that forbids unknown fields."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    async def read(self, request: Request) -> bytes:
        """The body as it came. Raises BodyTooLarge."""
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > BODY_BYTES_MAX:
                raise BodyTooLarge(f"the body has more than {BODY_BYTES_MAX} bytes")
        return bytes(data)

    async def __call__(self, request: Request) -> T:
        data = await self.read(request)
        try:
            return msgspec.json.decode(data, type=self.kind)
        except msgspec.ValidationError as error:
            said = str(error)
            raise WrongBody(_readable(said), field=_field_of(said)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise WrongBody(f"the body is no JSON: {error}") from None


def paged(
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX, description="At most so many entries.")] = PAGE_MAX,
    cursor: Annotated[str, Query(max_length=100, description="`next` of the answer before.")] = "",
) -> Page:
    """The part of a list that is asked for."""
    return Page(limit, cursor)


def more_than(page: Page) -> Page:
    """`page` and one entry more, which tells whether there is another page."""
    return Page(page.limit + 1, page.after)


def listing(name: str, found: Sequence[Any], page: Page) -> Response:
    """A page of a list, read with `more_than(page)`; `next` is the cursor of the page after it, if any."""
    shown = found[: page.limit]
    following = str(shown[-1].id) if len(found) > page.limit else None
    return json_answer({name: shown, "next": following})


def json_answer(value: object, status: int = 200) -> Response:
    """`value` (Structs included) as JSON, never cached."""
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def add_error_answers(app: FastAPI) -> None:
    """Gives all errors of the admin API the same shape."""

    @app.exception_handler(SextantError)
    async def domain_error(_request: Request, error: SextantError) -> Response:
        return error_answer(error)

    @app.exception_handler(RequestValidationError)
    async def wrong_input(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return error_answer(WrongBody(f"{field or 'body'}: {first['msg']}", field=field or None))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path}: {error.detail}"
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return _answer(error.status_code, code, said, None)


def error_answer(error: SextantError) -> Response:
    """`error` with its status; the one place of the admin API that knows both."""
    answer = _answer(_status(error), error.code, error.message, error.field)
    if isinstance(error, Retryable) and error.retry_after_s is not None:
        answer.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


_STATUS: tuple[tuple[type[SextantError], int], ...] = (
    (WrongBody, 422),
    (BodyTooLarge, 413),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (RateLimited, 429),
    (Permanent, 400),
)


def _status(error: SextantError) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 503)


def _answer(status: int, code: str, message: str, field: str | None) -> Response:
    return json_answer(Told(Fault(message, code, field)), status)


def _readable(said: str) -> str:
    """msgspec's message with the field before it: `amount_nano: expected `int` >= 1`."""
    words, _, where = said.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    return f"{path}: {words[:1].lower()}{words[1:]}" if path else words


def _field_of(said: str) -> str | None:
    """The field that msgspec's message is about."""
    where = _FIELD.search(said)
    inside = _UNKNOWN.search(said) or _MISSING.search(said)
    parts = [found.group(1) for found in (where, inside) if found is not None and found.group(1)]
    return ".".join(parts) or None
