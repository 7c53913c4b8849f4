"""What a visitor chooses for themselves, kept in a cookie: the language and the light."""

from __future__ import annotations

from starlette.responses import Response

from sextant.base.errors import NotFound
from sextant.console.visit import KEEP_CHOICE_S, LANGUAGE, THEME, THEMES, Visit, own_path
from sextant.console.words import LANGUAGES

_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "language": (LANGUAGE, LANGUAGES),
    "theme": (THEME, THEMES),
}


async def choose(visit: Visit) -> Response:
    """Remembers a choice and goes back to the page. Raises NotFound for one that is not offered."""
    given = visit.request.path_params
    cookie, offered = _CHOICES.get(given["what"], ("", ()))
    if given["value"] not in offered:
        raise NotFound("there is no such choice")
    answer = visit.go(own_path(visit.request.query_params.get("back", "")))
    answer.set_cookie(
        cookie, given["value"], max_age=KEEP_CHOICE_S, path="/portal", secure=visit.secure, httponly=True,
        samesite="lax",
    )  # fmt: skip
    return answer
