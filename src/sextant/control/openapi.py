"""The description of the admin API: `/openapi.json`, with the shape of every body and every answer.

FastAPI describes paths and parameters; bodies and answers are msgspec Structs, which it does not know. Each
route says what it answers (`tells`), its body is that of its `Body` dependency, and both become schemas here.
Neighbours: `answers.py` (how bodies are read and answers written).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from sextant.control.answers import Body, Told

JSON = "application/json"
_REF = "#/components/schemas/{name}"
_TELLS = "__sextant_tells__"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Listing(msgspec.Struct, frozen=True):
    """A page of a list: entries of `kind` under `name`, and the cursor of the page after it."""

    name: str
    kind: Any


class Whole(msgspec.Struct, frozen=True):
    """All entries of `kind` under `name`."""

    name: str
    kind: Any


class Files(msgspec.Struct, frozen=True):
    """Something else than JSON, in one of these media types; `json` is what it is as JSON, if it can be."""

    media_types: tuple[str, ...]
    json: Any = None


class Redirect(msgspec.Struct, frozen=True):
    """No content: the browser is sent elsewhere, with this status."""

    status: int


def tells(kind: Any) -> Callable[[Endpoint], Endpoint]:
    """Says what a route answers: a type that msgspec describes, or one of this module's shapes."""

    def note(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _TELLS, kind)
        return endpoint

    return note


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What `/openapi.json` tells of `app`; made once, when it is first asked for. Raises LookupError for a
    route that does not say what it answers."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(_described(app))
        return made

    return openapi


def body_of(route: APIRoute) -> Any:
    """The type of a route's JSON body; None: it has none."""
    kinds = [one.call.kind for one in route.dependant.dependencies if isinstance(one.call, Body)]
    return kinds[0] if kinds else None


def _described(app: FastAPI) -> dict[str, Any]:
    told: dict[str, Any] = get_openapi(title=app.title, version=app.version, routes=app.routes)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    answers = [getattr(route.endpoint, _TELLS, None) for route in routes]
    silent = [route.path for route, kind in zip(routes, answers, strict=True) if kind is None]
    if silent:
        raise LookupError(f"{', '.join(silent)}: says not what it answers; give it @tells(...)")
    kinds = [Told, *filter(None, map(body_of, routes)), *filter(None, map(_json_kind, answers))]
    schemas, components = msgspec.json.schema_components(kinds, schema_hook=_anything, ref_template=_REF)
    known = dict(zip(map(id, kinds), schemas, strict=True))
    for route, kind in zip(routes, answers, strict=True):
        for method in route.methods or ():
            operation = told["paths"][route.path][method.lower()]
            body = body_of(route)
            if body is not None:
                content = {JSON: {"schema": known[id(body)]}}
                operation["requestBody"] = {"required": True, "content": content}
            status = kind.status if isinstance(kind, Redirect) else route.status_code or 200
            inner = known.get(id(_json_kind(kind)))
            operation["responses"] = {
                str(status): {"description": "What was asked for", "content": _content(kind, inner)},
                "default": {
                    "description": "What is wrong, and what to do",
                    "content": {JSON: {"schema": known[id(Told)]}},
                },
            }
    told["components"] = {
        "schemas": components,
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    }
    told["security"] = [{"bearer": []}]
    return told


def _anything(kind: type) -> dict[str, Any]:
    """Of `object`, which stands where a struct carries somebody else's JSON."""
    if kind is object:
        return {"description": "any JSON"}
    raise NotImplementedError


def _json_kind(kind: Any) -> Any:
    """The type that is to be described; None for what is no JSON."""
    if isinstance(kind, Files):
        return kind.json
    if isinstance(kind, Redirect):
        return None
    return kind.kind if isinstance(kind, Listing | Whole) else kind


def _content(kind: Any, inner: Any) -> dict[str, Any]:
    """An answer by media type. `inner` describes the type in it."""
    if isinstance(kind, Redirect):
        return {}
    if isinstance(kind, Files):
        files: dict[str, Any] = {media_type: {} for media_type in kind.media_types}
        return files if inner is None else {JSON: {"schema": inner}, **files}
    if not isinstance(kind, Listing | Whole):
        return {JSON: {"schema": inner}}
    fields: dict[str, Any] = {kind.name: {"type": "array", "items": inner}}
    if isinstance(kind, Listing):
        fields["next"] = {"type": ["string", "null"]}
    return {JSON: {"schema": {"type": "object", "properties": fields, "required": list(fields)}}}
