"""The list of models in Anthropic's shape: GET /anthropic/v1/models and …/{id}.

Flow 1 (serve), off the hot path; `catalogue.py` writes OpenAI's. Pure: state becomes a body. Every name that
is accepted is listed, in pages by cursor, as Anthropic publishes it (2026-11). What is not known of a model
(its line, its retirement) is null.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sextant.base.errors import BadRequest
from sextant.gateway.request_fields import query_values
from sextant.gateway.router import ModelRoute, View

_encode = msgspec.json.Encoder().encode
DEFAULT_PAGE = 20
LARGEST_PAGE = 1000


def model_object(route: ModelRoute, name: str) -> dict[str, Any]:
    """Anthropic's model object under `name`, which may be an alias."""
    served = route.served
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(served.created_s)),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": served.context_tokens,
        "max_tokens": served.context_tokens,
        "capabilities": None,
    }


def model_body(route: ModelRoute, name: str) -> bytes:
    return _encode(model_object(route, name))


def models_body(view: View, query: str) -> bytes:
    """One page of the list. Raises BadRequest naming the wrong parameter."""
    given = query_values(query)
    names = list(view.by_name)
    limit = _limit(given.get("limit", str(DEFAULT_PAGE)))
    after, before = given.get("after_id"), given.get("before_id")
    start, end = 0, len(names)
    if after is not None:
        start = _place(names, "after_id", after) + 1
    if before is not None:
        end = _place(names, "before_id", before)
    backwards = before is not None and after is None
    page = names[max(start, end - limit) : end] if backwards else names[start : min(end, start + limit)]
    more = len(page) < end - start
    return _encode(
        {
            "data": [model_object(view.by_name[name], name) for name in page],
            "has_more": more,
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
    )


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= LARGEST_PAGE):
        raise BadRequest(
            f"limit is {text[:20]!r}; it must be a whole number from 1 to {LARGEST_PAGE}.",
            field="limit",
            code="invalid_value",
        )
    return int(text)


def _place(names: list[str], parameter: str, name: str) -> int:
    if name not in names:
        raise BadRequest(
            f"{parameter} is {name[:100]!r}, which is no model of this list.",
            field=parameter,
            code="invalid_value",
        )
    return names.index(name)
