"""What a page's form brings: bounded, read as what each field is, wrong values named."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request

from sextant.base.errors import BadRequest, BodyTooLarge
from sextant.spec.money import nano_of

FORM_BYTES_MAX = 64 * 1024
FIELDS_MAX = 200
WHOLE_DIGITS_MAX = 16


class Wrong(BadRequest):
    """A field's value is not what it should be; `message` is a key of the catalogue."""


class Form:
    """The fields of a form that was sent."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    @property
    def csrf(self) -> str:
        """The token that shows whose page the form was on."""
        return self.text("csrf")

    def text(self, name: str) -> str:
        """A field without spaces around it; empty where it was not sent."""
        return self.secret(name).strip()

    def secret(self, name: str) -> str:
        """A field as it was typed: spaces belong to passwords."""
        return self._fields.get(name, [""])[-1]

    def every(self, name: str) -> tuple[str, ...]:
        """The values of a field that may be sent more than once."""
        return tuple(one.strip() for one in self._fields.get(name, []) if one.strip())

    def lines(self, name: str) -> tuple[str, ...]:
        """What stands in a field between spaces, commas and line ends."""
        return tuple(self.text(name).replace(",", " ").split())

    def whole(self, name: str) -> int | None:
        """A whole number above 0; None for an empty field. Raises Wrong."""
        given = self.text(name)
        if not given:
            return None
        digits = given.isascii() and given.isdigit() and len(given) <= WHOLE_DIGITS_MAX
        if not digits or int(given) == 0:
            raise Wrong("form.whole", field=name)
        return int(given)

    def number(self, name: str) -> float | None:
        """A number above 0; None for an empty field. Raises Wrong."""
        nano = self.amount(name)
        return None if nano is None else nano / 10**9

    def amount(self, name: str) -> int | None:
        """Billionths of a decimal above 0; None for an empty field. Raises Wrong."""
        given = self.text(name)
        if not given:
            return None
        try:
            nano = nano_of(given, name)
        except BadRequest:
            raise Wrong("form.amount", field=name) from None
        if nano <= 0:
            raise Wrong("form.amount", field=name)
        return nano

    def proves(self, token: str) -> bool:
        """Whether the form was on a page that was given `token`."""
        return bool(token) and hmac.compare_digest(self.csrf.encode(), token.encode())


async def read_form(request: Request) -> Form:
    """The form in the body. Raises BadRequest, BodyTooLarge."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadRequest(f"a form comes as application/x-www-form-urlencoded, not as {kind[:60]!r}")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > FORM_BYTES_MAX:
            raise BodyTooLarge(f"the form has more than {FORM_BYTES_MAX} bytes")
    try:
        given = parse_qs(
            data.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"
        )
    except (UnicodeDecodeError, ValueError):
        raise BadRequest("the form is not encoded as a form") from None
    return Form(given)
