"""API keys and the projects that they belong to: listed, made, changed, rotated, revoked.

A secret is on one page, the answer to the form that made it, and nowhere else.
"""

from __future__ import annotations

import asyncio

import msgspec
from starlette.responses import Response

from sextant.base.errors import NotFound
from sextant.console.control_api import Busy, Refused
from sextant.console.forms import Form, Wrong
from sextant.console.shown import day_start_ms, today
from sextant.console.told import Key, Keys, Project, Projects, UsableModel, UsableModels, Usage, UsageLine
from sextant.console.visit import Here, Visit
from sextant.spec.policy import LimitRules

PAGE = 50
PROJECTS_MAX = 200
EXPIRY_DAYS = (30, 90, 180, 365)
OVERLAP_HOURS = (0, 1, 24, 72, 168)
ENDPOINTS = (
    "chat.completions",
    "completions",
    "embeddings",
    "messages",
    "messages.count_tokens",
    "rerank",
    "responses",
)
"""The gateway's endpoints by their names in the ledger, which control checks."""

_Problem = Refused | Busy | Wrong | None


async def keys_page(visit: Visit) -> Response:
    """All keys, with what each has used this month."""
    return await _list(visit, await visit.here())


async def new_page(visit: Visit) -> Response:
    """Asks what a new key is for."""
    here = await visit.here()
    here.require("write", "key")
    return await _new(visit, here, Form({}))


async def create(visit: Visit) -> Response:
    """Makes a key and shows its secret, once."""
    here, form = await visit.here(), await visit.form()
    try:
        body = {
            "tenant_id": here.tenant.id,
            "project_id": form.text("project_id"),
            "name": form.text("name") or "unnamed",
            "models": form.every("models"),
            "endpoints": form.every("endpoints"),
            "networks": form.lines("networks"),
            "limits": _limits(form, LimitRules()),
            "expires_in_days": form.whole("expires_in_days"),
        }
        made = (await visit.ask("POST /v1/keys", body, csrf=form.csrf)).read(Key)
    except (Refused, Busy, Wrong) as error:
        return await _new(visit, here, form, _mended(error))
    return visit.page("key_made", here=here, key=made, rotated=False)


async def key_page(visit: Visit) -> Response:
    """One key: what it may, what it used, and what can be done with it."""
    here = await visit.here()
    return await _one(visit, here, await _own_key(visit, here))


async def change(visit: Visit) -> Response:
    """Changes a key's name and limits."""
    here, form = await visit.here(), await visit.form()
    key = await _own_key(visit, here)
    try:
        body = {
            "name": form.text("name"),
            "models": form.every("models"),
            "endpoints": form.every("endpoints"),
            "networks": form.lines("networks"),
            "limits": _limits(form, key.limits),
        }
        await visit.ask(f"PATCH /v1/keys/{key.id}", body, csrf=form.csrf)
    except (Refused, Busy, Wrong) as error:
        return await _one(visit, here, key, _mended(error))
    return visit.go(here.url(f"keys/{key.id}"), said="key_changed")


async def rotate(visit: Visit) -> Response:
    """Gives a key a new secret, and shows it, once."""
    here, form = await visit.here(), await visit.form()
    key = await _own_key(visit, here)
    given = form.text("overlap_hours")
    hours = next((one for one in OVERLAP_HOURS if str(one) == given), 24)
    try:
        answer = await visit.ask(f"POST /v1/keys/{key.id}/rotate", {"overlap_hours": hours}, csrf=form.csrf)
    except (Refused, Busy) as error:
        return await _one(visit, here, key, _mended(error))
    return visit.page("key_made", here=here, key=answer.read(Key), rotated=True)


async def revoke_page(visit: Visit) -> Response:
    """Asks whether a key is really to end."""
    here = await visit.here()
    here.require("write", "key")
    key = await _own_key(visit, here)
    return visit.page("key_revoke", here=here, key=key)


async def revoke(visit: Visit) -> Response:
    """Ends a key; gateways refuse it within a second."""
    here, form = await visit.here(), await visit.form()
    key = await _own_key(visit, here)
    await visit.ask(f"DELETE /v1/keys/{key.id}", csrf=form.csrf)
    return visit.go(here.url("keys"), said="key_revoked")


async def create_project(visit: Visit) -> Response:
    """Makes a project."""
    here, form = await visit.here(), await visit.form()
    body = {"tenant_id": here.tenant.id, "name": form.text("name")}
    try:
        await visit.ask("POST /v1/projects", body, csrf=form.csrf)
    except (Refused, Busy) as error:
        return await _list(visit, here, _mended(error))
    return visit.go(here.url("keys"), said="project_made")


async def read_projects(visit: Visit, here: Here) -> tuple[Project, ...]:
    """The tenant's projects."""
    answer = await visit.ask("GET /v1/projects", tenant_id=here.tenant.id, limit=str(PROJECTS_MAX))
    return answer.read(Projects).projects


async def read_models(visit: Visit, here: Here) -> tuple[UsableModel, ...]:
    """The models that the tenant may use."""
    return (await visit.ask(f"GET /v1/tenants/{here.tenant.id}/models")).read(UsableModels).models


async def _list(visit: Visit, here: Here, problem: _Problem = None) -> Response:
    query = visit.request.query_params
    shown = {"tenant_id": here.tenant.id, "limit": str(PAGE), "cursor": query.get("cursor", "")[:100]}
    project_id, revoked = query.get("project", "")[:100], query.get("revoked", "") == "1"
    if project_id:
        shown["project_id"] = project_id
    if revoked:
        shown["with_revoked"] = "true"
    listed, projects, spent = await asyncio.gather(
        visit.ask("GET /v1/keys", **shown), read_projects(visit, here), _month_by_key(visit, here)
    )
    found = listed.read(Keys)
    return visit.page(
        "keys",
        200 if problem is None else _status(problem),
        here=here,
        keys=found.keys,
        following=found.next,
        projects={one.id: one for one in projects},
        project_id=project_id,
        revoked=revoked,
        spent=spent,
        problem=problem,
        said=visit.words.maybe(f"said.{query.get('said', '')}"),
    )


async def _new(visit: Visit, here: Here, form: Form, problem: _Problem = None) -> Response:
    projects, models = await asyncio.gather(read_projects(visit, here), read_models(visit, here))
    return visit.page(
        "key_new",
        200 if problem is None else _status(problem),
        here=here,
        form=form,
        projects=projects,
        models=models,
        endpoints=ENDPOINTS,
        expiries=EXPIRY_DAYS,
        problem=problem,
    )


async def _one(visit: Visit, here: Here, key: Key, problem: _Problem = None) -> Response:
    projects, models, spent = await asyncio.gather(
        read_projects(visit, here), read_models(visit, here), _month_by_key(visit, here, key.id)
    )
    return visit.page(
        "key",
        200 if problem is None else _status(problem),
        here=here,
        key=key,
        project=next((one for one in projects if one.id == key.project_id), None),
        models=models,
        endpoints=ENDPOINTS,
        overlaps=OVERLAP_HOURS,
        spent=spent.get(key.id, []),
        problem=problem,
        said=visit.words.maybe(f"said.{visit.request.query_params.get('said', '')}"),
    )


async def _own_key(visit: Visit, here: Here) -> Key:
    """The key that the address names. Raises NotFound for another tenant's, also one of the visitor's own."""
    key_id = visit.request.path_params["key_id"]
    found = (await visit.ask(f"GET /v1/keys/{key_id}")).read(Key)
    if found.tenant_id != here.tenant.id:
        raise NotFound("there is no such key")
    return found


async def _month_by_key(visit: Visit, here: Here, key_id: str = "") -> dict[str, list[UsageLine]]:
    """What each key has used since the month began, a line for each currency."""
    if not here.allows("read", "usage"):
        return {}
    first = today(visit.now_ms, here.tenant.time_zone).replace(day=1)
    query = {"tenant_id": here.tenant.id, "by": "key", "since_ms": str(day_start_ms(first))}
    answer = await visit.ask("GET /v1/usage", **query, **({"key_id": key_id} if key_id else {}))
    found: dict[str, list[UsageLine]] = {}
    for line in answer.read(Usage).totals:
        found.setdefault(line.key_id, []).append(line)
    return found


def _limits(form: Form, present: LimitRules) -> LimitRules:
    """The limits as the form gives them; what it does not show stays. Raises Wrong."""
    return msgspec.structs.replace(
        present,
        requests_per_s=form.number("requests_per_s"),
        tokens_per_min=form.whole("tokens_per_min"),
        concurrent_requests=form.whole("concurrent_requests"),
        tokens_per_day=form.whole("tokens_per_day"),
        spend_nano_per_month=form.amount("spend_per_month"),
    )


def _mended(error: Refused | Busy | Wrong) -> Refused | Busy | Wrong:
    """What a form can be sent again after; anything else is a page of its own. Raises that."""
    if isinstance(error, Refused) and (error.status in (401, 404) or error.code == "csrf"):
        raise error
    return error


def _status(problem: Refused | Busy | Wrong) -> int:
    return 400 if isinstance(problem, Wrong) else problem.status
